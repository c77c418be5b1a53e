//! What a list is asked for: filters, a page's length, and the place where the next page begins.

use chrono::{DateTime, Utc};
use url::form_urlencoded;

use crate::{
    domain::{event::ParkReason, id::UserId},
    http::ApiError,
    operators::{InboxFilter, InboxPlace, Standing},
};

pub(super) const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// Longest type or reason that is looked for, in bytes.
const WORD_LEN_MAX: usize = 100;

/// Reads filter and limit. What is misspelt is refused: whoever asks for less must not get everything.
pub(super) fn read(query: &str) -> Result<(InboxFilter, u32), ApiError> {
    let (mut filter, mut limit) = (InboxFilter::default(), None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "outcome" => set(
                &mut filter.standing,
                Standing::from_word(&value),
                "outcome must be applied, superseded, ignored or parked, once",
            ),
            "type" => set(&mut filter.kind, word(&value), "type must be the type of an event, once"),
            "user" => set(&mut filter.user, UserId::parse(&value).ok(), "user must be a UUID, once"),
            "reason" => set(&mut filter.reason, word(&value), "reason must be the word of a reason, once"),
            "since" => {
                set(&mut filter.since, moment(&value), "since must be a moment such as 2026-01-31T10:00:00Z, once")
            }
            "limit" => set(&mut limit, self::limit(&value), "limit must be a number from 1 to 200, once"),
            "cursor" => {
                set(&mut filter.after, read_cursor(&value), "cursor must be one that a page gave as next, once")
            }
            _ => Err("The query may hold outcome, type, user, reason, since, limit and cursor"),
        }
        .map_err(ApiError::InvalidRequest)?;
    }
    // Only parked events have such a reason, and they are found without looking through all others.
    let is_of_parked = |word: &String| ParkReason::ALL.iter().any(|reason| reason.as_str() == word);
    if filter.standing.is_none() && filter.reason.as_ref().is_some_and(is_of_parked) {
        filter.standing = Some(Standing::Parked);
    }
    Ok((filter, limit.unwrap_or(LIMIT_DEFAULT)))
}

fn set<T>(place: &mut Option<T>, value: Option<T>, otherwise: &'static str) -> Result<(), &'static str> {
    if place.is_some() || value.is_none() {
        return Err(otherwise);
    }
    *place = value;
    Ok(())
}

/// A type or a reason, if it can be one.
pub(super) fn word(text: &str) -> Option<String> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
    ((1..=WORD_LEN_MAX).contains(&text.len()) && text.bytes().all(is_good)).then(|| text.to_owned())
}

/// How long a page may be.
pub(super) fn limit(text: &str) -> Option<u32> {
    text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc())
}

/// The place behind an event. Opaque to callers.
pub(super) fn cursor(place: &InboxPlace) -> String {
    format!("{}-{}", place.received_at.timestamp_micros(), place.id)
}

/// The reverse of [`cursor`].
pub(super) fn read_cursor(text: &str) -> Option<InboxPlace> {
    let (micros, id) = text.split_once('-')?;
    let received_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    (!id.contains('\0')).then(|| InboxPlace { received_at, id: id.to_owned() })
}

/// Behind which the next page begins, if this one is full.
pub(super) fn last_of_full<T>(page: &[T], limit: u32) -> Option<&T> {
    page.last().filter(|_| u32::try_from(page.len()).is_ok_and(|length| length >= limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(read(""), Ok((InboxFilter::default(), 50)));
        let user = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
        let (filter, limit) = read(&format!(
            "outcome=parked&type=checkout.session.completed&user={user}&reason=unknown_level\
             &since=2026-01-31T11%3A00%3A00%2B01%3A00&limit=200&cursor=1769853600000001-evt_1"
        ))
        .unwrap();
        assert_eq!(
            (filter.standing, filter.kind.as_deref()),
            (Some(Standing::Parked), Some("checkout.session.completed"))
        );
        assert_eq!((filter.user, filter.reason.as_deref()), (UserId::parse(user).ok(), Some("unknown_level")));
        assert_eq!(filter.since, moment("2026-01-31T10:00:00Z"));
        assert_eq!(filter.after.as_ref().map(cursor).as_deref(), Some("1769853600000001-evt_1"));
        assert_eq!(limit, 200);
        assert_eq!(read("reason=unknown_level").unwrap().0.standing, Some(Standing::Parked));
        assert_eq!(read("reason=unhandled_type").unwrap().0.standing, None);
        for wrong in [
            "outcome=lost",
            "outcome=",
            "type=",
            "type=a%20b",
            "user=robin",
            "reason=a'b",
            "since=yesterday",
            "limit=0",
            "limit=201",
            "limit=-1",
            "cursor=evt_1",
            "cursor=1",
            "cursor=x-evt_1",
            "cursor=9223372036854775807-evt_1",
            "cursor=1-%00",
            "Outcome=parked",
            "page=2",
            "limit=1&limit=1",
            "outcome=parked&outcome=parked",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
