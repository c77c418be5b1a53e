//! `tollgate openapi`: the HTTP interface, for client generators and for people.

use anyhow::Context;
use utoipa::openapi::OpenApi;

use super::{Failure, print};

pub(super) fn run() -> Result<(), Failure> {
    let text = document().to_pretty_json().context("the document cannot be written as JSON")?;
    Ok(print(text)?)
}

/// STAND-IN: gives way to `crate::http::openapi::document` when the http room is here.
fn document() -> OpenApi {
    utoipa::openapi::OpenApiBuilder::new()
        .info(utoipa::openapi::InfoBuilder::new().title("Tollgate").version(env!("CARGO_PKG_VERSION")).build())
        .build()
}
