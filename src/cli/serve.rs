//! `tollgate serve`: everything.

use super::Failure;
use crate::config::Config;

pub(super) fn run() -> Result<(), Failure> {
    let config = Config::from_env()?;
    actix_rt::System::new().block_on(async { crate::app::serve(config).await })?;
    Ok(())
}
