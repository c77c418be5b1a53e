//! What Stripe remembers of an idempotency key.

use std::collections::HashMap;

use serde_json::Value;

use super::answers::Answer;

/// The first answer under a key and the parameters it was given for.
pub(super) struct Stored {
    pub(super) params: Value,
    pub(super) answer: Answer,
}

pub(super) enum Lookup {
    /// The key is not known, or there is none.
    New,
    /// The same request again: the same answer, marked as a replay.
    Replay(Answer),
    /// The key belongs to another request.
    OtherParams,
}

#[derive(Default)]
pub(super) struct Store(HashMap<String, Stored>);

impl Store {
    /// Compares decoded parameters, because clients may send metadata in any order.
    pub(super) fn look_up(&self, key: Option<&str>, params: &Value) -> Lookup {
        match key.and_then(|key| self.0.get(key)) {
            None => Lookup::New,
            Some(stored) if stored.params == *params => {
                Lookup::Replay(Answer { replayed: true, ..stored.answer.clone() })
            }
            Some(_) => Lookup::OtherParams,
        }
    }

    pub(super) fn keep(&mut self, key: &str, stored: Stored) {
        self.0.insert(key.to_owned(), stored);
    }
}
