//! Time that is told instead of passing: a test clock of some customers', and the shift of everybody else's.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::new_id;
use crate::sandbox::DAY;

/// How long Stripe keeps a test clock, in seconds.
const KEPT: i64 = 30 * DAY;

/// A test clock, for the customers that were made with it. Times are Unix seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Clock {
    pub(in crate::sandbox) id: String,
    /// In real time.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) name: Option<String>,
    pub(in crate::sandbox) frozen_time: i64,
    /// Where it is going; `None` once it is there.
    pub(in crate::sandbox) goal: Option<i64>,
}

/// How far ahead of the real time the sandbox is, for everybody without a clock of his own. There is one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Shift {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) seconds: i64,
    /// Where the sandbox's time is going, in Unix seconds; `None` once it is there.
    pub(in crate::sandbox) goal: Option<i64>,
}

impl Shift {
    pub(in crate::sandbox) const ID: &'static str = "sandbox";
}

impl Default for Shift {
    fn default() -> Self {
        Self { id: Self::ID.to_owned(), seconds: 0, goal: None }
    }
}

impl Clock {
    pub(in crate::sandbox) fn new(created: i64, frozen_time: i64) -> Self {
        Self { id: new_id("clock_1", 24), created, name: None, frozen_time, goal: None }
    }

    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        let details = match self.goal {
            Some(goal) => json!({ "advancing": { "target_frozen_time": goal } }),
            None => json!({}),
        };
        json!({
            "id": self.id,
            "object": "test_helpers.test_clock",
            "created": self.created,
            "deletes_after": self.created.saturating_add(KEPT),
            "frozen_time": self.frozen_time,
            "livemode": false,
            "name": self.name,
            "status": if self.goal.is_some() { "advancing" } else { "ready" },
            "status_details": details,
        })
    }
}
