//! Reads settings one by one and remembers all that is wrong with them, so that one start tells everything.

use std::{cell::RefCell, fmt};

use secrecy::SecretString;

use super::setting::{Setting, WhenUnset};

/// One thing that is wrong with the settings. Never holds the value: it may be a secret, or a secret put in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct ConfigError {
    /// The variable or the file.
    pub name: String,
    /// What was expected instead, with an example.
    pub problem: String,
}

/// Everything that is wrong with the settings; displayed one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are wrong:")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Where the values come from, and what was found wrong with them so far.
pub(super) struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    found: RefCell<Found>,
}

/// What reading brought to light besides the values.
#[derive(Default)]
pub(super) struct Found {
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, found: RefCell::default() }
    }

    pub(super) fn finish(self) -> Found {
        self.found.into_inner()
    }

    /// The value without white space around it; blank is the same as absent.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// A setting that may be absent: `Some(None)` then, `None` if it is wrong.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    pub(super) fn optional<T>(&self, setting: &Setting, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
        let Some(text) = self.text(setting.name) else { return Some(None) };
        // A control character or U+FFFD (bytes that were no UTF-8) is never meant, and would travel into logs and headers.
        let clean = !text.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
        let value = if clean { parse(&text) } else { None };
        if value.is_none() {
            self.wrong(setting, "");
        }
        value.map(Some)
    }

    /// A setting that has a default in the table; `None` if it is wrong.
    pub(super) fn value<T>(&self, setting: &Setting, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        match (self.optional(setting, &parse)?, setting.default) {
            (Some(value), _) => Some(value),
            (None, WhenUnset::Value(default)) => parse(default),
            (None, _) => None,
        }
    }

    /// Whether somebody has set it, rightly or wrongly.
    pub(super) fn is_set(&self, setting: &Setting) -> bool {
        self.text(setting.name).is_some()
    }

    /// A secret of some length that is neither the table's example nor made of anything but visible ASCII.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    pub(super) fn token(&self, setting: &Setting, least: usize) -> Option<Option<SecretString>> {
        self.optional(setting, |text| {
            let good =
                text.len() >= least && text != setting.example && text.bytes().all(|byte| byte.is_ascii_graphic());
            good.then(|| text.into())
        })
    }

    /// Notes that a setting is wrong, or missing; `hint` helps further.
    pub(super) fn wrong(&self, setting: &Setting, hint: &str) {
        let Setting { expected, example, .. } = setting;
        self.error(setting.name, format!("expected {expected}, for example {example}{hint}"));
    }

    /// Notes anything else that stops the start.
    pub(super) fn error(&self, name: &str, problem: String) {
        self.found.borrow_mut().errors.push(ConfigError { name: name.to_owned(), problem });
    }

    /// Notes what is allowed, but hardly meant.
    pub(super) fn warn(&self, warning: impl Into<String>) {
        self.found.borrow_mut().warnings.push(warning.into());
    }
}
