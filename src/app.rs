//! STAND-IN for the composition root, which is written elsewhere.

use crate::config::Config;

/// Answers requests until told to stop.
///
/// # Errors
/// Always, until it is written.
#[expect(clippy::unused_async, reason = "a stand-in")]
pub async fn serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("serving is not written yet")
}
