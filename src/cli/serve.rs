//! `tollgate serve`: everything.

use std::path::Path;

use super::Failure;
use crate::config::Config;

pub(super) fn run(data: Option<&Path>) -> Result<(), Failure> {
    let config = Config::from_env(data)?;
    actix_rt::System::new().block_on(async { crate::app::serve(config).await })?;
    Ok(())
}
