//! Stripe's form encoding: `a[b][0][c]=1` is `{"a": {"b": [{"c": "1"}]}}`.

use serde_json::{Map, Value};

/// Decodes a body; every leaf is a string. The error says which parameter does not fit with the others.
pub(super) fn decode(body: &[u8]) -> Result<Value, String> {
    std::str::from_utf8(body).map_err(|_| "the body is not text".to_owned())?;
    let mut root = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        let path = path(&name).ok_or_else(|| format!("malformed parameter name: {name}"))?;
        insert(&mut root, &path, value.into_owned()).ok_or_else(|| format!("conflicting parameter: {name}"))?;
    }
    Ok(with_arrays(Value::Object(root)))
}

/// `a[b][0]` is `a`, `b`, `0`.
fn path(name: &str) -> Option<Vec<&str>> {
    let Some((first, rest)) = name.split_once('[') else {
        return (!name.is_empty()).then(|| vec![name]);
    };
    let inner = rest.strip_suffix(']')?;
    let path: Vec<&str> = std::iter::once(first).chain(inner.split("][")).collect();
    let well_formed = |part: &&str| !part.is_empty() && !part.contains(['[', ']']);
    path.iter().all(well_formed).then_some(path)
}

/// `None` where a value is already there, or something that is not an object is in the way.
fn insert(object: &mut Map<String, Value>, path: &[&str], value: String) -> Option<()> {
    let (first, rest) = path.split_first()?;
    if rest.is_empty() {
        return match object.insert((*first).to_owned(), Value::String(value)) {
            None => Some(()),
            Some(_) => None,
        };
    }
    let child = object.entry(*first).or_insert_with(|| Value::Object(Map::new()));
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
    }

    #[test]
    fn what_cannot_be_nested_is_refused() {
        for body in ["a=1&a=2", "a=1&a[b]=2", "a[b]=1&a=2", "a[=1", "a[]=1", "a]b[=1", "=1"] {
            assert!(decode(body.as_bytes()).is_err(), "{body}");
        }
    }
}
