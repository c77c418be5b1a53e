//! For this machine only. The demo hands a session token of any user to whoever asks, so whoever asks must sit at the machine.
//!
//! Three ways lead past a listener on loopback. A page of another site may be given a name that leads here (DNS rebinding): its
//! requests carry that name in `Host`. A proxy or a tunnel may show the port to the world: it says so in a header. And any page may
//! post here without reading the answer: its `Origin` is not ours, and it cannot say that it sends JSON.

use actix_web::{
    Error, HttpRequest, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY},
    },
    middleware::Next,
};
use url::Url;

use super::DemoError;
use crate::http::{
    body,
    site::{host, is_asked_by, is_loopback, is_passed_on},
};

/// Nothing but what this program serves, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Lets requests from this machine pass, and gives every answer the headers of a page that trusts nobody.
pub(super) async fn local_only(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let mut response = match check(request.request()) {
        Ok(()) => next.call(request).await?.map_into_boxed_body(),
        Err(refusal) => request.into_response(refusal.error_response()),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

fn check(request: &HttpRequest) -> Result<(), DemoError> {
    let headers = request.headers();
    if is_passed_on(headers) {
        return Err(DemoError::Forwarded);
    }
    let site = site(headers).ok_or(DemoError::NotLocal)?;
    // Whoever listens on all addresses has asked for the service to be reached, not for its demo.
    if request.peer_addr().is_none_or(|peer| !peer.ip().to_canonical().is_loopback()) {
        return Err(DemoError::NotLocal);
    }
    if request.method() == Method::POST {
        if !is_asked_by(headers, &[site]) {
            return Err(DemoError::OtherOrigin);
        }
        body::require_json(request)?;
    }
    Ok(())
}

/// Where the browser believes to be, if that is this machine.
fn site(headers: &HeaderMap) -> Option<Url> {
    Url::parse(&format!("http://{}", host(headers)?)).ok().filter(is_loopback)
}

/// This site under the name that buyers are sent back to, where the browser has another name for it. What a page keeps in a browser
/// is kept for one name: the page after paying would not know who has paid.
pub(super) fn own_name(headers: &HeaderMap, app: &Url) -> Option<Url> {
    let mut site = site(headers)?;
    let is_same = app.scheme() == "http" && site.port_or_known_default() == app.port_or_known_default();
    if !is_same || !is_loopback(app) || site.host() == app.host() {
        return None;
    }
    site.set_host(app.host_str()).ok()?;
    Some(site)
}
