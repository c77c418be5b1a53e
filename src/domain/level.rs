//! Access levels by name: `FREE`, `TRIAL`, `PRO`, and whatever else the catalogue sells.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::id::InvalidId;

/// The name of an access level, for example `PRO`. Upper case letters, digits and `_`, 40 bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Level(Arc<str>);

static FREE: LazyLock<Level> = LazyLock::new(|| Level("FREE".into()));

impl Level {
    /// The level of everybody who has no live grant. Never for sale.
    #[must_use]
    pub fn free() -> Self {
        FREE.clone()
    }

    /// Whether this is [`Level::free`].
    #[must_use]
    pub fn is_free(&self) -> bool {
        &*self.0 == "FREE"
    }

    /// Reads a level's name, exactly: `pro` is not `PRO`.
    ///
    /// # Errors
    /// [`InvalidId`] if the name cannot be a level's.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = text.bytes();
        let starts_with_letter = bytes.next().is_some_and(|b| b.is_ascii_uppercase());
        if starts_with_letter
            && text.len() <= 40
            && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId { expected: "a level such as PRO: capital letters, digits and _, at most 40" })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        assert!(Level::parse("FREE").unwrap().is_free());
        assert_eq!(Level::parse("TEAM_2").unwrap().as_str(), "TEAM_2");
        for wrong in ["", "pro", "Pro", "2PRO", "_PRO", "PRO ", "PRO'--", &"A".repeat(41)] {
            assert!(Level::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
