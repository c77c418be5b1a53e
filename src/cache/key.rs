//! Keys and values in Redis: the contract with applications that read it directly, and with our own replicas.
//!
//! | key | value | time to live |
//! |---|---|---|
//! | `entitlements:<userId>` | the level, plain: `PRO` | an hour, or until the level ends; less 0–10 % |
//! | `{entitlements:<userId>}:meta` | hash: level, expires_at, version, epoch, fresh_until, quantity | a day: it outlives the level, so that a delayed older write cannot win |
//! | `webhook:event:<eventId>` | the ledger's epoch | a day; set only after the ledger committed |
//!
//! On the channel `entitlements:changed` replicas tell each other, user, version and epoch, that a version is there which was not: a hint for
//! those whose users watch.
//!
//! The braces put both keys of a user into one slot of a Redis Cluster.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::{
    entitlement::Entitlement,
    id::{EventId, UserId},
    level::Level,
};

/// How long a level is good without being read from the ledger again.
pub const LEVEL_TTL: TimeDelta = TimeDelta::hours(1);
/// How long meta and marks are kept.
pub const META_TTL: TimeDelta = TimeDelta::days(1);

/// The level of a user, for others to read.
#[must_use]
pub fn level(user: UserId) -> String {
    format!("entitlements:{user}")
}

/// What Tollgate itself reads.
#[must_use]
pub fn meta(user: UserId) -> String {
    format!("{{entitlements:{user}}}:meta")
}

/// The mark of an event that has had its effect.
#[must_use]
pub fn mark(event: &EventId) -> String {
    format!("webhook:event:{event}")
}

/// The channel on which replicas tell each other that a user has changed; `publish.lua` names it too.
pub const CHANGED: &str = "entitlements:changed";

/// A replica's proof that Redis still has what was written; nobody's (nil) is what the breaker's probe writes. Event ids begin with
/// `evt_`, so that none can be this.
#[must_use]
pub fn canary(instance: Uuid) -> String {
    format!("webhook:event:canary:{instance}")
}

/// Until when a level may be served from the cache: its life there, or its end if that is nearer, less a tenth at most,
/// so that values written together do not expire together: `jitter`, from 0 to 1000, says how much of the tenth. `None` if it is over already.
#[must_use]
pub fn fresh_until(
    entitlement: &Entitlement,
    life: TimeDelta,
    now: DateTime<Utc>,
    jitter: u16,
) -> Option<DateTime<Utc>> {
    let life = entitlement.expires_at.map_or(life, |end| life.min(end - now));
    let millis = life.num_milliseconds();
    if millis <= 0 {
        return None;
    }
    let less = (millis / 10).saturating_mul(i64::from(jitter.min(1000))) / 1000;
    now.checked_add_signed(TimeDelta::milliseconds((millis - less).max(1)))
}

/// The fields of the meta hash, in the order in which they are read.
pub const META_FIELDS: [&str; 6] = ["level", "expires_at", "version", "epoch", "fresh_until", "quantity"];

/// A quantity with the version it is of: a replica of the version before writes the other fields and leaves this one.
#[must_use]
pub fn quantity(entitlement: &Entitlement) -> String {
    format!("{}@{}", entitlement.quantity, entitlement.version)
}

/// Reads the meta hash. Strict: whatever is not exactly what we write is a miss. Without a quantity it is 1: what a replica of the version
/// before writes for somebody new.
#[must_use]
pub fn read_meta(fields: &[Option<String>], epoch: &str, now: DateTime<Utc>) -> Option<Entitlement> {
    let [Some(level), Some(expires_at), Some(version), Some(written_epoch), Some(fresh_until), quantity] = fields
    else {
        return None;
    };
    if written_epoch != epoch {
        return None;
    }
    let fresh_until = DateTime::from_timestamp_millis(fresh_until.parse().ok()?)?;
    let expires_at = match expires_at.as_str() {
        "" => None,
        // Microseconds, as the ledger keeps it.
        micros => Some(DateTime::from_timestamp_micros(micros.parse().ok()?)?),
    };
    let quantity = match quantity.as_deref().map(|quantity| quantity.split_once('@')) {
        None => 1,
        Some(Some((quantity, of))) if of == version => quantity.parse().ok()?,
        Some(_) => return None,
    };
    let version = version.parse().ok()?;
    let entitlement = Entitlement { level: Level::parse(level).ok()?, expires_at, quantity, version };
    (now < fresh_until && !entitlement.is_over(now)).then_some(entitlement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn pro(expires_at: Option<&str>) -> Entitlement {
        Entitlement { level: Level::parse("PRO").unwrap(), expires_at: expires_at.map(at), quantity: 1, version: 3 }
    }

    #[test]
    fn keys_are_those_of_the_contract() {
        let user = UserId::parse("7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71").unwrap();
        assert_eq!(level(user), "entitlements:7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71");
        assert_eq!(meta(user), "{entitlements:7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71}:meta");
        assert_eq!(mark(&EventId::parse("evt_1").unwrap()), "webhook:event:evt_1");
    }

    #[test]
    fn a_level_is_never_fresh_beyond_its_end_and_at_most_an_hour() {
        let now = at("2026-11-23T12:00:00Z");
        assert_eq!(fresh_until(&pro(None), LEVEL_TTL, now, 0), Some(at("2026-11-23T13:00:00Z")));
        assert_eq!(fresh_until(&pro(None), LEVEL_TTL, now, 1000), Some(at("2026-11-23T12:54:00Z")));
        assert_eq!(
            fresh_until(&pro(Some("2026-11-23T12:10:00Z")), LEVEL_TTL, now, 500),
            Some(at("2026-11-23T12:09:30Z"))
        );
        assert_eq!(fresh_until(&pro(Some("2026-11-23T12:00:00Z")), LEVEL_TTL, now, 0), None);
    }

    #[test]
    fn only_what_we_write_is_read() {
        let now = at("2026-11-23T12:00:00Z");
        let good = || -> [Option<String>; 6] {
            [
                Some("PRO".into()),
                Some(String::new()),
                Some("3".into()),
                Some("e1".into()),
                Some((now.timestamp_millis() + 1000).to_string()),
                Some("1@3".into()),
            ]
        };
        assert_eq!(read_meta(&good(), "e1", now), Some(pro(None)));
        assert_eq!(read_meta(&good(), "e2", now), None, "another ledger's");
        let bad = [(0, "pro"), (1, "soon"), (2, "-1"), (2, "9e9"), (4, ""), (4, "99999999999999999999")];
        for (place, bad) in bad.into_iter().chain(["5", "", "-1@3", "x@3", "5@2"].map(|bad| (5, bad))) {
            let mut fields = good();
            fields[place] = Some(bad.into());
            assert_eq!(read_meta(&fields, "e1", now), None, "{bad:?} at {place}");
        }
        for place in 0..5 {
            let mut fields = good();
            fields[place] = None;
            assert_eq!(read_meta(&fields, "e1", now), None);
        }
        let mut many = good();
        many[5] = Some(quantity(&Entitlement { quantity: 5, ..pro(None) }));
        assert_eq!(read_meta(&many, "e1", now), Some(Entitlement { quantity: 5, ..pro(None) }));
        many[5] = None;
        assert_eq!(read_meta(&many, "e1", now), Some(pro(None)), "by a replica of the version before");
        let mut stale = good();
        stale[4] = Some(now.timestamp_millis().to_string());
        assert_eq!(read_meta(&stale, "e1", now), None);
        let mut over = good();
        over[1] = Some(now.timestamp_micros().to_string());
        assert_eq!(read_meta(&over, "e1", now), None, "an expired level is never served");
        assert_eq!(read_meta(&[], "e1", now), None);
    }
}
