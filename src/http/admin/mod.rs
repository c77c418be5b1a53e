//! For operators, on a listener of their own.

use actix_web::{HttpRequest, HttpResponse, web::Data};

use super::{ApiError, Shared, caller};

/// All metrics, in Prometheus' text format.
pub(super) async fn metrics(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    caller::operator(&state, &request)?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body((state.render_metrics)()))
}
