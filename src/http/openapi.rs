//! The contract for programs (`/openapi.json`) and for people (`/docs`), taken from the handlers themselves.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_SECURITY_POLICY, ContentType, LOCATION},
    web::Bytes,
};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Description,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{ApiError, admin, checkout, entitlements, error, health, plans, stream, webhook};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tollgate",
        description = "Stripe payments in, entitlements out. Every response has `X-Request-Id`; every error is \
                       `{\"error\", \"code\"}`.",
    ),
    paths(
        checkout::start,
        checkout::session,
        checkout::portal,
        entitlements::own,
        entitlements::of_user,
        stream::own,
        plans::all,
        webhook::receive,
        health::live,
        health::ready,
    ),
    components(schemas(error::ErrorBody)),
    modifiers(&Tokens),
    tags(
        (name = "plans", description = "What is for sale"),
        (name = "checkout", description = "Buying a level"),
        (name = "entitlements", description = "What a user may do"),
        (name = "webhooks", description = "For Stripe"),
        (name = "health", description = "For whoever keeps the service running"),
    ),
)]
struct Contract;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, openapi: &mut Description) {
        let components = openapi.components.get_or_insert_default();
        for (name, what) in [("session", "A user's session token"), ("service", "An application server's token")] {
            let mut scheme = Http::new(HttpAuthScheme::Bearer);
            scheme.description = Some(what.to_owned());
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

/// The operators' token.
pub(super) struct AdminToken;

impl Modify for AdminToken {
    fn modify(&self, openapi: &mut Description) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("`TOLLGATE_ADMIN_TOKEN`".to_owned());
        openapi.components.get_or_insert_default().add_security_scheme("admin", SecurityScheme::Http(scheme));
    }
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().into());

static VIEWER: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> =
    LazyLock::new(|| Arc::new(utoipa_swagger_ui::Config::new(["/openapi.json"])));

/// The contract as OpenAPI 3.1, in JSON.
#[must_use]
pub fn document() -> String {
    as_text(&Contract::openapi())
}

/// What the operators' listener answers, in the same form. The public contract leaves it out: nobody who reads that can reach it.
#[must_use]
pub fn admin_document() -> String {
    as_text(&admin::Contract::openapi())
}

fn as_text(description: &Description) -> String {
    description.to_pretty_json().unwrap_or_else(|error| {
        tracing::error!(error = %error, "contract could not be written");
        String::new()
    })
}

/// The contract for programs.
pub(super) async fn json() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(DOCUMENT.clone())
}

/// The operators' contract for programs.
pub(super) async fn admin_json() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(admin_document())
}

/// The pages' addresses are relative to a directory.
pub(super) async fn docs() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "/docs/")).finish()
}

/// The contract for people: pages that are part of this program, and load nothing from elsewhere.
pub(super) async fn docs_file(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let name = request.match_info().get("file").unwrap_or_default();
    let file = utoipa_swagger_ui::serve(name, Arc::clone(&VIEWER)).map_err(|_| ApiError::Internal)?;
    let file = file.ok_or(ApiError::NotFound)?;
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(HttpResponse::Ok()
        .content_type(file.content_type)
        .insert_header((CONTENT_SECURITY_POLICY, "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"))
        .body(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract() {
        let document: serde_json::Value = serde_json::from_str(&document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut operations = vec![];
        for (path, methods) in document["paths"].as_object().unwrap() {
            operations.extend(methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
        }
        operations.sort();
        assert_eq!(
            operations,
            [
                "get /api/checkout/session/{id}",
                "get /api/entitlements",
                "get /api/entitlements/stream",
                "get /api/entitlements/{userId}",
                "get /api/plans",
                "get /health/live",
                "get /health/ready",
                "post /api/billing/portal",
                "post /api/checkout/session",
                "post /api/webhooks/stripe",
            ]
        );
        let schema = |name: &str| &document["components"]["schemas"][name];
        assert_eq!(schema("CheckoutRequest")["additionalProperties"], false);
        assert_eq!(schema("ErrorBody")["required"], serde_json::json!(["error", "code"]));
        assert_eq!(schema("EntitlementAnswer")["required"].as_array().unwrap().len(), 7);
        assert_eq!(schema("PlanAnswer")["required"].as_array().unwrap().len(), 10);
    }
}
