//! Pages, styles and scripts. They are part of the program; a browser asks each time whether they are still the same.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION},
    web::{Bytes, Data},
};
use sha2::{Digest, Sha256};

use super::{DemoError, Shared, guard};
use crate::http::ApiError;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file as it was when the program was built.
pub(super) struct File {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
    /// Changes with the content.
    tag: String,
}

impl File {
    fn new(name: &'static str, media_type: &'static str, content: &'static str) -> Self {
        let hash = Sha256::digest(content);
        Self { name, media_type, content, tag: format!("\"{}\"", hex::encode(hash)) }
    }

    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let known = request.headers().get_all(IF_NONE_MATCH).filter_map(|tags| tags.to_str().ok());
        let is_known = known.flat_map(|tags| tags.split(',')).any(|tag| tag.trim() == self.tag);
        let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response.insert_header((CACHE_CONTROL, "no-cache")).insert_header((ETAG, self.tag.as_str()));
        if is_known {
            return response.finish();
        }
        response.insert_header((CONTENT_TYPE, self.media_type)).body(Bytes::from_static(self.content.as_bytes()))
    }
}

macro_rules! file {
    ($name:literal, $media_type:expr) => {
        File::new($name, $media_type, include_str!(concat!("page/", $name)))
    };
}

static HOME: LazyLock<File> = LazyLock::new(|| file!("home.html", HTML));
static SUCCESS: LazyLock<File> = LazyLock::new(|| file!("success.html", HTML));
static CANCEL: LazyLock<File> = LazyLock::new(|| file!("cancel.html", HTML));

pub(super) static ASSETS: LazyLock<[File; 13]> = LazyLock::new(|| {
    [
        file!("icon.svg", SVG),
        file!("demo.css", CSS),
        file!("api.js", SCRIPT),
        file!("dom.js", SCRIPT),
        file!("user.js", SCRIPT),
        file!("icons.js", SCRIPT),
        file!("words.js", SCRIPT),
        file!("feed.js", SCRIPT),
        file!("live.js", SCRIPT),
        file!("strip.js", SCRIPT),
        file!("home.js", SCRIPT),
        file!("life.js", SCRIPT),
        file!("success.js", SCRIPT),
    ]
});

/// The page itself.
pub(super) async fn home(demo: Data<Shared>, request: HttpRequest) -> HttpResponse {
    match guard::own_name(request.headers(), &demo.parts.app) {
        Some(site) => HttpResponse::TemporaryRedirect().insert_header((LOCATION, site.as_str())).finish(),
        None => HOME.answer(&request),
    }
}

/// Where a buyer comes back to who has paid.
pub(super) async fn success(request: HttpRequest) -> HttpResponse {
    SUCCESS.answer(&request)
}

/// Where a buyer comes back to who has not.
pub(super) async fn cancel(request: HttpRequest) -> HttpResponse {
    CANCEL.answer(&request)
}

/// What the pages are made of.
pub(super) async fn asset(request: HttpRequest) -> Result<HttpResponse, DemoError> {
    let name = request.match_info().get("file");
    let file = ASSETS.iter().find(|file| Some(file.name) == name).ok_or(ApiError::NotFound)?;
    Ok(file.answer(&request))
}
