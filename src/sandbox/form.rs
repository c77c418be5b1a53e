//! Stripe's form encoding: `a[b][0][c]=1` is `{"a": {"b": [{"c": "1"}]}}`.

use serde_json::{Map, Value};

/// Deepest nesting that is read; Stripe's parameters have six levels at most. Whoever walks through decoded values may recurse.
const DEPTH_MAX: usize = 10;

/// Why a form cannot be nested.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Form values are UTF-8.
    #[error("the parameters are not text")]
    NotText,
    /// Brackets that do not match, or too many of them.
    #[error("malformed parameter name: {0}")]
    Malformed(String),
    /// Given twice, or both as a value and as an object.
    #[error("conflicting parameter: {0}")]
    Conflicting(String),
}

/// Decodes a body or a query; every leaf is a string. `a[]=1&a[]=2` appends.
///
/// # Errors
/// [`FormError`] says which parameter does not fit with the others.
pub fn decode(form: &[u8]) -> Result<Value, FormError> {
    std::str::from_utf8(form).map_err(|_| FormError::NotText)?;
    let mut root = Map::new();
    for (name, value) in url::form_urlencoded::parse(form) {
        let path = path(&name).ok_or_else(|| FormError::Malformed(name.to_string()))?;
        insert(&mut root, &path, value.into_owned()).ok_or_else(|| FormError::Conflicting(name.to_string()))?;
    }
    Ok(with_arrays(Value::Object(root)))
}

/// `a[b][0]` is `a`, `b`, `0`. Only the last part may be empty: it stands for the next index.
fn path(name: &str) -> Option<Vec<&str>> {
    let Some((first, rest)) = name.split_once('[') else {
        return (!name.is_empty()).then(|| vec![name]);
    };
    let inner = rest.strip_suffix(']')?;
    let path: Vec<&str> = std::iter::once(first).chain(inner.split("][")).collect();
    let (last, before) = path.split_last()?;
    let well_formed = before.iter().all(|part| !part.is_empty() && !part.contains(['[', ']']));
    (well_formed && !last.contains(['[', ']']) && path.len() <= DEPTH_MAX).then_some(path)
}

/// `None` where a value is already there, or something that is not an object is in the way.
fn insert(object: &mut Map<String, Value>, path: &[&str], value: String) -> Option<()> {
    let (first, rest) = path.split_first()?;
    let name = if first.is_empty() { object.len().to_string() } else { (*first).to_owned() };
    if rest.is_empty() {
        return match object.insert(name, Value::String(value)) {
            None => Some(()),
            Some(_) => None,
        };
    }
    let child = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    insert(child.as_object_mut()?, rest, value)
}

/// Objects whose names are exactly 0, 1, 2 ... are arrays.
fn with_arrays(value: Value) -> Value {
    let Value::Object(object) = value else {
        return value;
    };
    let mut object: Map<String, Value> = object.into_iter().map(|(name, value)| (name, with_arrays(value))).collect();
    let is_array = !object.is_empty() && (0..object.len()).all(|index| object.contains_key(&index.to_string()));
    if is_array {
        let items = (0..object.len()).filter_map(|index| object.remove(&index.to_string()));
        return Value::Array(items.collect());
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::decode;

    #[test]
    fn brackets_nest_and_indices_make_arrays() {
        let body = b"mode=payment&line_items[1][price]=b&line_items%5B0%5D%5Bprice%5D=a&metadata[user+id]=u%201";
        let expected = json!({
            "mode": "payment",
            "line_items": [{"price": "a"}, {"price": "b"}],
            "metadata": {"user id": "u 1"},
        });
        assert_eq!(decode(body).unwrap(), expected);
        assert_eq!(decode(b"").unwrap(), json!({}));
        assert_eq!(decode(b"expand[]=a&expand[]=b").unwrap(), json!({"expand": ["a", "b"]}));
    }

    #[test]
    fn what_cannot_be_nested_is_refused() {
        for body in ["a=1&a=2", "a=1&a[b]=2", "a[b]=1&a=2", "a[=1", "a[][b]=1", "[]=1", "a]b[=1", "=1"] {
            assert!(decode(body.as_bytes()).is_err(), "{body}");
        }
        let deep = format!("a{}=1", "[b]".repeat(20_000));
        assert!(decode(deep.as_bytes()).is_err(), "a tower of brackets fills no stack");
    }
}
