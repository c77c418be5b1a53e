//! `tollgate openapi`: the HTTP interface, for client generators and for people.

use super::{Failure, print};

pub(super) fn run() -> Result<(), Failure> {
    Ok(print(crate::http::document())?)
}
