//! Jobs: the envelope of a task on a queue and the answers to a delivery.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A task id is a UUID unless its sender chose its own.
pub const ID_BYTES_MAX: usize = 256;

/// A job as it waits in a queue and as `POST /_tasks` carries it.
///
/// ```json
/// {"id":"0192…","task":"payment.confirm","args":["pay_0192…"],"kwargs":{},"attempt":1,
///  "priority":0,"eta":null,"traceparent":"00-…-01","correlationid":"0192…"}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The task id; a job runs once per id.
    pub id: String,
    /// The full task name, e.g. `payment.confirm`.
    pub task: String,
    /// Positional arguments.
    #[serde(default)]
    pub args: Vec<Value>,
    /// Named arguments.
    #[serde(default)]
    pub kwargs: serde_json::Map<String, Value>,
    /// 1 on the first delivery; set by the queue.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// 0 is first, 9 last, as in Celery over Redis.
    #[serde(default)]
    pub priority: u8,
    /// Not before this time, microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<i64>,
    /// Not after this time, microseconds since the epoch: a job that is late is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Milliseconds after which the task is told to stop, before the queue's deadline ends it
    /// (Celery's `soft_time_limit`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_limit_ms: Option<u64>,
    /// Its sender looks for the result where Celery clients do, in Redis.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub result_backend: bool,
    /// W3C trace context of what enqueued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The request id of what enqueued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// The subject of the token it was asked with over HTTP; nobody's when a program put it on the
    /// queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Job {
    /// A job with positional arguments.
    pub fn new(id: impl Into<String>, task: impl Into<String>, args: Vec<Value>) -> Job {
        Job {
            id: id.into(),
            task: task.into(),
            args,
            kwargs: serde_json::Map::new(),
            attempt: 0,
            priority: 0,
            eta: None,
            expires: None,
            soft_limit_ms: None,
            result_backend: false,
            traceparent: None,
            correlationid: None,
            asked_by: None,
        }
    }

    /// The service that owns the task: the part of the name before the first dot.
    pub fn service(&self) -> Option<&str> {
        self.task.split_once('.').map(|(service, _)| service)
    }
}

/// The body of `POST /_tasks`: jobs of one task, whose effects may share a commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobBatch {
    /// At least one, all of the same task.
    pub jobs: Vec<Job>,
}

/// What a service says of one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobAnswer {
    /// The job's id.
    pub id: String,
    /// As for events: 2xx done, 400/404/410/422 failed for good, everything else is retried.
    pub status: u16,
    /// What the task returned.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// The problem's code and detail when it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The problem's code alone, e.g. `insufficient_funds`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
}

/// The answer to `POST /_tasks`, one entry per job in the order of the batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobAnswers {
    /// One per job.
    pub results: Vec<JobAnswer>,
}
