//! Messages that will not be tried again, as Redis keeps them.

use serde::{Deserialize, Serialize};

use super::settlement::Origin;

/// A dead letter. The message is kept as it was, so that it can be queued again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// The task's id; of a message that cannot be read, its lease's.
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    /// Microseconds.
    pub(crate) dead_at: i64,
    /// What is not UTF-8 is replaced.
    pub(crate) message: String,
}

impl Letter {
    pub(crate) fn new(origin: &Origin, error: &str, dead_at: i64) -> Letter {
        Letter {
            id: origin.id.clone(),
            task: origin.task.clone(),
            error: error.to_owned(),
            attempts: origin.attempt,
            dead_at,
            message: String::from_utf8_lossy(&origin.bytes).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
