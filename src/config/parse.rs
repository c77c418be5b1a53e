//! Small parsers shared by the settings and the catalogue. Each takes a text and knows nothing of where it came from.

use std::{net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use ipnet::IpNet;
use url::{Host, Url};

/// A whole number and a unit: `500ms`, `2s`, `10m`, `12h`, `3d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let count: u64 = digits.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(count)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    count.checked_mul(seconds).map(Duration::from_secs)
}

/// A duration within bounds.
pub(super) fn duration_in(bounds: RangeInclusive<Duration>) -> impl Fn(&str) -> Option<Duration> {
    move |text| duration(text).filter(|duration| bounds.contains(duration))
}

/// A number within bounds.
pub(super) fn number_in<T: FromStr + PartialOrd>(bounds: RangeInclusive<T>) -> impl Fn(&str) -> Option<T> {
    move |text| text.parse().ok().filter(|number| bounds.contains(number))
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// A URL that a browser could open, without user name and password (they would end up in logs).
pub(super) fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// A site as browsers name it in `Origin`: scheme, host and port, and nothing else.
pub(super) fn web_origin(text: &str) -> Option<String> {
    let url = web_url(text)?;
    let origin = url.origin().ascii_serialization();
    // A `*` would be a host's name like any other, and never match.
    (!text.contains('*') && url.path() == "/" && text.trim_end_matches('/').eq_ignore_ascii_case(&origin))
        .then_some(origin)
}

/// A network, or the one address in it.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
}

/// Several values with commas between them; one that is wrong spoils all.
pub(super) fn list<T>(parse: impl Fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Vec<T>> {
    move |text| text.split(',').map(|part| parse(part.trim())).collect()
}

/// Whether a URL leads to this machine only.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `prefix` and then at least `least` letters, digits or `_`: the shape of Stripe's keys and ids.
pub(super) fn has_stripe_shape(text: &str, prefix: &str, least: usize) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() >= least && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// The name nearest to a misspelt one, if any is near: at most a third of the letters wrong.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = names.map(|name| (edits(wrong, name), name)).min()?;
    (distance * 3 <= wrong.len()).then_some(name)
}

/// Levenshtein's distance: letters to insert, delete or replace.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.bytes().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let cost = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            (diagonal, left, *cell) = (*cell, cost, cost);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("2s", 2_000), ("10m", 600_000), ("3d", 259_200_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in [
            "",
            "5",
            "s",
            "ms",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1S",
            "1s ",
            "1w",
            "99999999999999999999s",
            "9999999999999999999d",
            "١s",
            "é",
        ] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(duration_in(Duration::from_secs(1)..=Duration::from_secs(2))("3s"), None);
    }

    #[test]
    fn urls() {
        assert!(web_url("https://app.example.com/base").is_some());
        for wrong in [
            "app.example.com",
            "ftp://a.b",
            "https://",
            "https://u:p@a.b",
            "https://u@a.b",
            "https://a.b/?x=1",
            "https://a.b/#x",
            "javascript:alert(1)",
        ] {
            assert_eq!(web_url(wrong), None, "{wrong}");
        }
        for (url, expected) in [
            ("http://localhost:1", true),
            ("http://127.8.0.1", true),
            ("http://[::1]/", true),
            ("http://localhost.evil.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn origins() {
        for (text, origin) in [
            ("https://app.example.com", "https://app.example.com"),
            ("https://App.example.com/", "https://app.example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
        ] {
            assert_eq!(web_origin(text).as_deref(), Some(origin));
        }
        for wrong in ["*", "null", "https://*.example.com", "https://a.b/path", "app.example.com", "https://u@a.b"] {
            assert_eq!(web_origin(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks() {
        let networks = list(network)("10.0.0.0/8, 2001:db8::1").unwrap();
        assert!(networks[0].contains(&"10.1.2.3".parse::<IpAddr>().unwrap()));
        assert!(!networks[1].contains(&"2001:db8::2".parse::<IpAddr>().unwrap()));
        for wrong in ["", "proxy", "10.0.0.0/33", "10.0.0.1,", "10.0.0.0/8;10.0.0.1"] {
            assert_eq!(list(network)(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn near_names() {
        let names = ["TOLLGATE_BIND", "TOLLGATE_ADMIN_BIND", "TOLLGATE_LOG"];
        assert_eq!(nearest("TOLLGATE_BNID", names.into_iter()), Some("TOLLGATE_BIND"));
        assert_eq!(nearest("TOLLGATE_LOGS", names.into_iter()), Some("TOLLGATE_LOG"));
        assert_eq!(nearest("XYZ", names.into_iter()), None);
        assert_eq!((edits("", "abc"), edits("kitten", "sitting"), edits("abc", "abc")), (3, 3, 0));
    }
}
