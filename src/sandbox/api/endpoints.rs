//! `/v1/webhook_endpoints`: where events go. The service's own endpoint is among them once its address is known.

use serde_json::{Value, json};

use super::{Call, list::Page};
use crate::sandbox::{
    objects::{API_VERSION, Endpoint},
    params::Params,
    refusal::Refusal,
    state::State,
};

/// Stripe's.
const ENDPOINTS_MAX: usize = 16;
const NOUN: &str = "webhook endpoint";

pub(super) fn create(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let url = address(params.required("url")?)?;
    let mut endpoint = Endpoint::registered(call.now, url.clone());
    endpoint.enabled_events = types(params)?.ok_or_else(|| Refusal::missing("enabled_events"))?;
    if params.text("api_version")?.is_some_and(|version| version != API_VERSION) {
        let message = format!("The sandbox has one API version: {API_VERSION}");
        return Err(Refusal::invalid("parameter_invalid", "api_version", message));
    }
    take(&mut endpoint, params)?;
    if state.endpoints.len() >= ENDPOINTS_MAX {
        return Err(Refusal::invalid_request("There are 16 webhook endpoints already: delete one first."));
    }
    let mut shown = endpoint.shown(&url);
    if let (Some(fields), Some(target)) = (shown.as_object_mut(), &endpoint.target) {
        // This once.
        fields.insert("secret".to_owned(), target.secret.as_str().into());
    }
    state.put(endpoint);
    Ok(shown)
}

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    params.finish()?;
    let known = |endpoint: &Endpoint| state.url(endpoint).is_some();
    let shown = |endpoint: &Endpoint| endpoint.shown(state.url(endpoint).unwrap_or_default());
    page.of(&state.endpoints, "/v1/webhook_endpoints", NOUN, known, shown)
}

pub(super) fn retrieve(state: &State, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    let (endpoint, url) = find(state, id)?;
    Ok(endpoint.shown(&url))
}

pub(super) fn update(state: &mut State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let (mut endpoint, mut url) = find(state, id)?;
    let told = params.text("url")?.map(address).transpose()?;
    if let Some(types) = types(params)? {
        endpoint.enabled_events = types;
    }
    if let Some(disabled) = params.boolean("disabled")? {
        endpoint.enabled = !disabled;
    }
    take(&mut endpoint, params)?;
    match (told, &mut endpoint.target) {
        (None, _) => {}
        (Some(told), Some(target)) => {
            target.url.clone_from(&told);
            url = told;
        }
        (Some(_), None) => return Err(own("moved")),
    }
    state.put(endpoint.clone());
    Ok(endpoint.shown(&url))
}

pub(super) fn delete(state: &mut State, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    let (endpoint, _) = find(state, id)?;
    if endpoint.target.is_none() {
        return Err(own("deleted"));
    }
    state.remove::<Endpoint>(id);
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}

fn find(state: &State, id: &str) -> Result<(Endpoint, String), Refusal> {
    let endpoint = state.endpoints.get(id);
    let found = endpoint.and_then(|endpoint| Some((endpoint.clone(), state.url(endpoint)?.to_owned())));
    found.ok_or_else(|| Refusal::no_such(NOUN, id, "id"))
}

fn own(done: &str) -> Refusal {
    Refusal::invalid_request(format!("This endpoint is the service's own: it cannot be {done}; it can be disabled."))
}

fn take(endpoint: &mut Endpoint, params: &mut Params) -> Result<(), Refusal> {
    params.update("description", &mut endpoint.description)?;
    params.update_metadata(&mut endpoint.metadata)?;
    params.expand(&[])?;
    params.finish()
}

fn address(text: String) -> Result<String, Refusal> {
    let usable = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if usable { Ok(text) } else { Err(Refusal::invalid("url_invalid", "url", "Invalid URL: http:// or https://")) }
}

/// Types of events, or `*` alone among them.
fn types(params: &mut Params) -> Result<Option<Vec<String>>, Refusal> {
    let Some(types) = params.texts("enabled_events")? else { return Ok(None) };
    let is_type = |kind: &String| {
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
        };
        kind == "*" || (kind.contains('.') && kind.split('.').all(word))
    };
    if !types.is_empty() && types.iter().all(is_type) {
        return Ok(Some(types));
    }
    let message = "Invalid enabled_events: types such as checkout.session.completed, or *";
    Err(Refusal::invalid("parameter_invalid_enum", "enabled_events", message))
}
