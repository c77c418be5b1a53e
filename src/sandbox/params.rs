//! Parameters of a request, taken out one by one: what is left over at the end is unknown.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::{objects::Metadata, refusal::Refusal};

/// Stripe's limits of metadata.
const METADATA_KEYS_MAX: usize = 50;
const METADATA_KEY_LEN_MAX: usize = 40;
const METADATA_VALUE_LEN_MAX: usize = 500;
/// Longest text of any parameter, in characters: Stripe's usual limit.
const TEXT_LEN_MAX: usize = 5000;

/// An object of decoded parameters.
#[derive(Debug)]
pub(super) struct Params {
    /// Where this object stands: empty, or for example `line_items[0]`.
    place: String,
    values: Map<String, Value>,
}

impl Params {
    /// The parameters of a whole request.
    pub(super) fn new(values: Map<String, Value>) -> Self {
        Self { place: String::new(), values }
    }

    /// How a caller writes the name of a parameter in here.
    pub(super) fn name(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}[{key}]", self.place) }
    }

    /// `None` if it is not there; empty is there, and unsets in an update.
    pub(super) fn given(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() <= TEXT_LEN_MAX => Ok(Some(text)),
            Some(Value::String(_)) => Err(self.invalid("parameter_invalid_string_too_long", key, "is too long")),
            Some(_) => Err(self.invalid("parameter_invalid_string", key, "must be a text")),
        }
    }

    /// What is there.
    pub(super) fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    /// Whether it is there as one value.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_string)
    }

    /// A text that says something.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        Ok(self.given(key)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn required(&mut self, key: &str) -> Result<String, Refusal> {
        self.text(key)?.ok_or_else(|| Refusal::missing(self.name(key)))
    }

    pub(super) fn integer(&mut self, key: &str) -> Result<Option<i64>, Refusal> {
        self.parsed(key, "parameter_invalid_integer", "must be a whole number")
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>, Refusal> {
        self.parsed(key, "parameter_invalid_boolean", "must be true or false")
    }

    fn parsed<T: FromStr>(&mut self, key: &str, code: &'static str, must: &'static str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.invalid(code, key, must))
    }

    /// One of some words; the refusal lists them.
    pub(super) fn word(&mut self, key: &str, words: &[&'static str]) -> Result<Option<&'static str>, Refusal> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let found = words.iter().find(|word| **word == text).copied();
        found.map(Some).ok_or_else(|| {
            let message = format!("Invalid {}: must be one of {}", self.name(key), words.join(", "));
            Refusal::invalid("parameter_invalid_enum", self.name(key), message)
        })
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Self>, Refusal> {
        let place = self.name(key);
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self { place, values })),
            Some(_) => Err(self.invalid("parameter_invalid_hash", key, "must be an object")),
        }
    }

    pub(super) fn objects(&mut self, key: &str) -> Result<Vec<Self>, Refusal> {
        let place = self.name(key);
        let of_item = |(index, item)| match item {
            Value::Object(values) => Some(Self { place: format!("{place}[{index}]"), values }),
            _ => None,
        };
        match self.values.remove(key) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.into_iter().enumerate().map(of_item).collect::<Option<Vec<_>>>(),
            Some(_) => None,
        }
        .ok_or_else(|| self.invalid("parameter_invalid_array", key, "must be a list of objects"))
    }

    /// A list of texts; one text alone is a list of one.
    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Refusal> {
        let of_item = |item| match item {
            Value::String(text) => Some(text),
            _ => None,
        };
        match self.values.remove(key) {
            None => return Ok(None),
            Some(Value::String(text)) => Some(vec![text]),
            Some(Value::Array(items)) => items.into_iter().map(of_item).collect(),
            Some(_) => None,
        }
        .map(Some)
        .ok_or_else(|| self.invalid("parameter_invalid_array", key, "must be a list of texts"))
    }

    /// Changes `metadata` as told: an empty value takes its key out, an empty whole takes out all.
    pub(super) fn update_metadata(&mut self, metadata: &mut Metadata) -> Result<(), Refusal> {
        let place_of_all = self.name("metadata");
        let told: Map<String, Value> = match self.values.remove("metadata") {
            None => return Ok(()),
            Some(Value::Object(told)) => told,
            // The keys 0, 1, 2 look like a list's.
            Some(Value::Array(told)) => (0_usize..).map(|key| key.to_string()).zip(told).collect(),
            Some(Value::String(text)) if text.is_empty() => {
                metadata.clear();
                return Ok(());
            }
            Some(_) => return Err(self.invalid("parameter_invalid_hash", "metadata", "must be an object")),
        };
        for (key, value) in told {
            let place = format!("{place_of_all}[{key}]");
            let wrong = |message: &str| Err(Refusal::invalid("parameter_invalid_hash", place.clone(), message));
            match value {
                Value::String(text) if text.is_empty() => {
                    metadata.remove(&key);
                }
                Value::String(text)
                    if text.chars().count() <= METADATA_VALUE_LEN_MAX
                        && key.chars().count() <= METADATA_KEY_LEN_MAX =>
                {
                    metadata.insert(key, text);
                }
                Value::String(_) => return wrong("Metadata keys have up to 40 characters, values up to 500."),
                _ => return wrong("Metadata values are texts."),
            }
        }
        if metadata.len() > METADATA_KEYS_MAX {
            return Err(Refusal::invalid("parameter_invalid_hash", place_of_all, "Metadata has up to 50 keys."));
        }
        Ok(())
    }

    /// Changes `field` if it is told: an empty text unsets it.
    pub(super) fn update(&mut self, key: &str, field: &mut Option<String>) -> Result<(), Refusal> {
        if let Some(told) = self.given(key)? {
            *field = Some(told).filter(|text| !text.is_empty());
        }
        Ok(())
    }

    /// Which of `known` fields are to be shown as whole objects.
    pub(super) fn expand(&mut self, known: &[&str]) -> Result<Vec<String>, Refusal> {
        let expand = self.texts("expand")?.unwrap_or_default();
        match expand.iter().find(|field| !known.contains(&field.as_str())) {
            None => Ok(expand),
            Some(field) => {
                let message = format!("The sandbox cannot expand {field} here.");
                Err(Refusal::invalid("parameter_invalid", "expand", message))
            }
        }
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Refusal> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(key) => Err(Refusal::unknown(self.name(key))),
        }
    }

    fn invalid(&self, code: &'static str, key: &str, must: &str) -> Refusal {
        let name = self.name(key);
        let message = format!("Invalid {name}: it {must}");
        Refusal::invalid(code, name, message)
    }
}
