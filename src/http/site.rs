//! Under which name a listener is asked, and by whose pages. A page of another site may be given a name that leads here (DNS
//! rebinding), and any page may post here without reading the answer.

use actix_web::http::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use url::Url;

pub(crate) use crate::config::is_loopback;

/// The one name that a listener is asked by.
pub(crate) fn host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(HOST);
    let host = hosts.next()?.to_str().ok()?;
    let is_good = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:[]-_".contains(&byte));
    (hosts.next().is_none() && is_good).then_some(host)
}

/// Whether a proxy passed the request on.
pub(crate) fn is_passed_on(headers: &HeaderMap) -> bool {
    let of_a_proxy = |name: &str| matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-");
    headers.keys().any(|name| of_a_proxy(name.as_str()))
}

/// Whether no page asks, or one of these sites.
pub(crate) fn is_asked_by(headers: &HeaderMap, own: &[Url]) -> bool {
    let is_own = |origin: &HeaderValue| {
        origin.to_str().ok().and_then(|origin| Url::parse(origin).ok()).is_some_and(|origin| own.contains(&origin))
    };
    headers.get_all(ORIGIN).all(is_own)
}
