//! Events: CloudEvents 1.0 in JSON, one or a batch, and the answers to a delivery.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The media type of a batch (CloudEvents JSON format §4).
pub const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch+json";

/// A CloudEvent.
///
/// ```json
/// {"specversion":"1.0","id":"0192f…","source":"/innover/payment","type":"payment.initiated",
///  "subject":"pay_0192f…","time":"2026-10-30T12:00:00Z","datacontenttype":"application/json",
///  "dataschema":"/schemas/payment.initiated/v1.json","partitionkey":"pay_0192f…",
///  "traceparent":"00-…-01","correlationid":"0192…","data":{}}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// UUIDv7, the same on every delivery.
    pub id: String,
    /// `/innover/<service>`, set by the relay from the database the event was read from, so a
    /// service cannot speak as another; `external` for events put on a topic by hand.
    pub source: String,
    /// The event's type, which is also its topic, e.g. `payment.initiated`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The aggregate's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// RFC 3339.
    pub time: String,
    /// Always `application/json`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub datacontenttype: String,
    /// The JSON Schema of `data`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dataschema: String,
    /// Events of one key are delivered in order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub partitionkey: String,
    /// W3C trace context of the request that caused the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The request id of that request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// The caller's Idempotency-Key, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotencykey: Option<String>,
    /// On whose request it happened: the subject of the caller's token (CloudEvents' auth context
    /// extension). Absent when nobody asked, as for what a schedule starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authid: Option<String>,
    /// The payload.
    pub data: Value,
}

impl Event {
    /// The emitting service, `None` for an event from outside.
    pub fn service(&self) -> Option<&str> {
        self.source.strip_prefix("/innover/")
    }
}

/// What a subscriber says of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventAnswer {
    /// The event's id.
    pub id: String,
    /// 2xx acknowledges; 400, 404, 410 and 422 park it in the dead letters at once; everything
    /// else is retried.
    pub status: u16,
    /// The problem's code and detail when it was not acknowledged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The answer to `POST /_events`, one entry per event in the order of the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventAnswers {
    /// One per event.
    pub results: Vec<EventAnswer>,
}

/// What the deliverer does with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The effect is there.
    Acknowledge,
    /// Trying again cannot help: park it at once.
    Park,
    /// Try again with backoff.
    Retry,
}

/// The rule of events-and-jobs.md, one place for events and jobs.
pub fn disposition(status: u16) -> Disposition {
    match status {
        200..=299 => Disposition::Acknowledge,
        400 | 404 | 410 | 422 => Disposition::Park,
        _ => Disposition::Retry,
    }
}

/// One row of a service's outbox, as `kit` writes it and the relay reads it.
///
/// `outbox(id, topic, key, key_version, type, payload, headers, created_at)`: for an event `topic`
/// and `type` are the event's type; for a job `topic` is the queue (`payment-tasks`), `type` is
/// `task:<name>` and `payload` is a [`crate::Job`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutboxHeaders {
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// The caller's Idempotency-Key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotencykey: Option<String>,
    /// The subject on whose request it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authid: Option<String>,
}

/// The prefix of an outbox row's `type` that marks a job.
pub const OUTBOX_TASK_PREFIX: &str = "task:";

/// The columns of every service's outbox. `seq` is not declared: SQLite's implicit `rowid` is the
/// commit order there, (`key`, `key_version`) is the order per key everywhere.
pub const OUTBOX_COLUMNS: &str = "id, topic, key, key_version, type, payload, headers, created_at";
