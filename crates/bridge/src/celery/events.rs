//! What monitors hear: heartbeats always, events of tasks once somebody has asked for them
//! (`enable_events`, as Flower does). Celery's fanout exchange `celeryev` is Pub/Sub on Redis.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use innover_contract::time::rfc3339;
use serde_json::{Value, json, value::RawValue};

use super::{
    message::Message,
    outcome::{Exception, State},
};
use crate::{clock::Clock, config::Queue};

/// Events kept for the next message; more are dropped, as Celery's are when nobody reads.
const WAITING_MAX: usize = 10_000;

/// Events on their way.
pub(crate) struct Events {
    /// `celery@…` without the service: `<service>@<host>`.
    host: String,
    enabled: AtomicBool,
    /// Lamport's clock (kombu/clocks.py): monitors order by it.
    clock: AtomicU64,
    waiting: Mutex<Vec<Value>>,
}

impl Events {
    pub(crate) fn new(host: String) -> Events {
        Events {
            host,
            enabled: AtomicBool::new(false),
            clock: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
    }

    /// The name of a service's worker.
    pub(crate) fn node(&self, service: &str) -> String {
        format!("{service}@{}", self.host)
    }

    pub(crate) fn enable(&self, on: bool) -> bool {
        self.enabled.swap(on, Relaxed)
    }

    /// The clock, one further.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed) + 1
    }

    fn event(&self, kind: &str, node: &str, fields: Value) -> Value {
        let now = Clock::System.now() as f64 / 1e6;
        let mut event = json!({
            "hostname": node,
            "utcoffset": 0,
            "pid": std::process::id(),
            "clock": self.tick(),
            "timestamp": now,
            "type": kind,
        });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        event
    }

    fn task(&self, kind: &str, queue: &Queue, fields: impl FnOnce() -> Value) {
        if !self.enabled.load(Relaxed) {
            return;
        }
        let event = self.event(kind, &self.node(&queue.service), fields());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX {
            waiting.push(event);
        }
    }

    pub(crate) fn received(&self, queue: &Queue, message: &Message) {
        let headers = &message.headers;
        self.task("task-received", queue, || {
            json!({
                "uuid": headers.id,
                "name": headers.task,
                "args": headers.argsrepr.as_deref().unwrap_or(message.args.get()),
                "kwargs": headers.kwargsrepr.as_deref().unwrap_or(message.kwargs.get()),
                "root_id": message.root(),
                "parent_id": headers.parent_id,
                "retries": headers.retries,
                "eta": headers.eta.map(rfc3339),
                "expires": headers.expires.map(rfc3339),
            })
        });
    }

    pub(crate) fn started<'a>(&self, queue: &Queue, ids: impl Iterator<Item = &'a str>) {
        for id in ids {
            self.task("task-started", queue, || json!({ "uuid": id }));
        }
    }

    pub(crate) fn succeeded(&self, queue: &Queue, id: &str, result: &RawValue, took: Duration) {
        self.task(
            "task-succeeded",
            queue,
            || json!({ "uuid": id, "result": result.get(), "runtime": took.as_secs_f64() }),
        );
    }

    /// It did not succeed.
    pub(crate) fn ended(&self, queue: &Queue, id: &str, state: State, exception: &Exception) {
        let kind = match state {
            State::Revoked => "task-revoked",
            State::Retry => "task-retried",
            State::Success | State::Failure => "task-failed",
        };
        self.task(kind, queue, || match state {
            State::Revoked => json!({
                "uuid": id,
                "terminated": exception.arguments == ["terminated"],
                "signum": null,
                "expired": exception.arguments == ["expired"],
            }),
            _ => json!({
                "uuid": id,
                "exception": exception.repr(),
                "traceback": exception.traceback("", id),
            }),
        });
    }

    /// A worker's own event: `worker-online`, `worker-heartbeat`, `worker-offline`.
    pub(crate) fn worker(&self, kind: &str, service: &str, active: usize, processed: u64) -> Value {
        let fields = json!({
            "freq": crate::limits::HEARTBEAT_EVERY.as_secs_f64(),
            "sw_ident": "innover",
            "sw_ver": env!("CARGO_PKG_VERSION"),
            "sw_sys": "Linux",
            "active": active,
            "processed": processed,
            "loadavg": load_average(),
        });
        self.event(kind, &self.node(service), fields)
    }

    /// Takes the events of tasks that wait.
    pub(crate) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load_average() -> Vec<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut numbers: Vec<f64> = text
        .split(' ')
        .take(3)
        .filter_map(|n| n.parse().ok())
        .collect();
    numbers.resize(3, 0.0);
    numbers
}

/// Adds the publication of events of one kind to a pipeline.
pub(crate) fn publish(commands: &mut redis::Pipeline, broker: i64, key: &str, body: &Value) {
    let host = body
        .get("hostname")
        .or_else(|| body.get(0)?.get("hostname"));
    let headers = json!({ "hostname": host });
    let message = envelope(
        body,
        headers,
        json!({"exchange": "celeryev", "routing_key": key}),
    );
    commands
        .cmd("PUBLISH")
        .arg(format!("/{broker}.celeryev/{key}"))
        .arg(message)
        .ignore();
}

/// kombu's envelope of events and replies.
pub(crate) fn envelope(body: &Value, headers: Value, delivery_info: Value) -> String {
    json!({
        "body": STANDARD.encode(body.to_string()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "delivery_mode": 1,
            "delivery_info": delivery_info,
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": uuid::Uuid::now_v7().to_string(),
        },
    })
    .to_string()
}
