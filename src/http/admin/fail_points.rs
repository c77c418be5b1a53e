//! Arms fail points in a running server that was built for tests (`crate::fail_point`).

use actix_web::{HttpRequest, HttpResponse, web::Data};

use super::{
    super::{ApiError, Shared},
    admit, private,
};
use crate::fail_point;

/// Where.
pub(super) const PATH: &str = "/api/admin/fail-points";

/// How often each armed point was passed.
pub(super) async fn hits(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    Ok(private(&fail_point::hits()))
}

/// Disarms all points and arms those that the body names.
pub(super) async fn arm(state: Data<Shared>, request: HttpRequest, text: String) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    fail_point::disarm();
    fail_point::arm(&text).map_err(|why| {
        tracing::error!(why, "no fail point was armed");
        ApiError::InvalidRequest("It is point=action[*hits][@about], with ; between")
    })?;
    Ok(private(&fail_point::hits()))
}
