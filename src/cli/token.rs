//! `tollgate token`: a session token, to try the interface by hand and from load generators.

use std::{path::Path, time::Duration};

use chrono::Utc;

use super::{Failure, print};
use crate::{auth, config, config::SessionKeyConfig, domain::id::UserId};

/// The longest life of a token: a day too long is a key lying about.
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Arguments of `token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose session: a UUID
    #[arg(long, value_name = "UUID", value_parser = UserId::parse)]
    user: UserId,
    /// How long the session lasts
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    ttl: Duration,
}

/// Prints the token and nothing else.
pub(super) fn run(args: &Args, data: Option<&Path>) -> Result<(), Failure> {
    let SessionKeyConfig { jwt_secret, issuer } = SessionKeyConfig::from_env(data)?;
    let token = auth::issue(&jwt_secret, issuer.as_deref(), args.user, args.ttl, Utc::now().timestamp())?;
    Ok(print(token)?)
}

fn ttl(text: &str) -> Result<Duration, &'static str> {
    config::duration(text)
        .filter(|ttl| (Duration::from_secs(1)..=TTL_MAX).contains(ttl))
        .ok_or("expected a duration from 1s to 365d, for example 90s, 15m, 1h or 7d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(ttl("15m"), Ok(Duration::from_secs(900)));
        for wrong in ["", "0s", "999ms", "366d", "-1h", "1 h", "forever"] {
            assert!(ttl(wrong).is_err(), "{wrong}");
        }
    }
}
