//! `tollgate openapi`: the HTTP interface, for client generators and for people.

use super::{Failure, print};
use crate::http;

/// Arguments of `openapi`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the admin listener answers, instead of the public one
    #[arg(long)]
    admin: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    Ok(print(if args.admin { http::admin_document() } else { http::document() })?)
}
