//! Remote control (kombu/pidbox.py, celery/worker/control.py): `inspect`, `control` and Flower ask by
//! Pub/Sub; every worker that is meant answers on a list. One worker per service.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

/// A command.
#[derive(Debug, Deserialize)]
pub(crate) struct Command {
    pub(crate) method: String,
    #[serde(default)]
    pub(crate) arguments: Value,
    #[serde(default)]
    destination: Option<Vec<String>>,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    matcher: Option<String>,
    #[serde(default)]
    pub(crate) ticket: Option<String>,
    #[serde(default)]
    pub(crate) reply_to: Option<ReplyTo>,
    /// Unix time after which nobody waits for an answer.
    #[serde(skip)]
    expires: Option<f64>,
}

/// Where an answer goes.
#[derive(Debug, Deserialize)]
pub(crate) struct ReplyTo {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
}

impl ReplyTo {
    /// The list the asker waits at.
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.routing_key, self.exchange)
    }

    /// The set that says whether it still does, and its entry there.
    pub(crate) fn binding(&self) -> (String, String) {
        let entry = format!("{}\u{6}\u{16}\u{6}\u{16}{}", self.routing_key, self.key());
        (format!("_kombu.binding.{}", self.exchange), entry)
    }
}

#[derive(Deserialize)]
struct Envelope {
    body: String,
    #[serde(default)]
    headers: Value,
}

impl Command {
    /// Reads what was published.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(payload: &[u8]) -> Result<Command, String> {
        let envelope: Envelope = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
        let body = STANDARD.decode(envelope.body).map_err(|e| e.to_string())?;
        let mut command: Command = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        command.expires = envelope.headers.get("expires").and_then(Value::as_f64);
        Ok(command)
    }

    /// Whether a worker is meant.
    pub(crate) fn is_for(&self, node: &str) -> bool {
        if let Some(nodes) = &self.destination {
            return nodes.iter().any(|n| n == node);
        }
        match (&self.pattern, self.matcher.as_deref()) {
            (None, _) => true,
            (Some(pattern), None | Some("glob")) => glob(pattern, node),
            // Regular expressions are not worth a library here: whoever sends one hears of it.
            (Some(_), Some(_)) => false,
        }
    }

    /// Whether somebody may still wait for an answer; `now` in seconds.
    pub(crate) fn is_due(&self, now: f64) -> bool {
        // A command that wants no answer says 0.
        self.expires.is_none_or(|at| at <= 0.0 || now <= at)
    }

    /// A list of ids, which may come as one.
    pub(crate) fn ids(&self, name: &str) -> Vec<String> {
        match &self.arguments[name] {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => all
                .iter()
                .filter_map(|id| id.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// `*` and `?` as in fnmatch.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// What a worker is, for the commands that only read.
pub(crate) struct Worker<'a> {
    pub(crate) queue: &'a crate::config::Queue,
    pub(crate) active: Vec<Value>,
    pub(crate) totals: Value,
    pub(crate) revoked: Vec<String>,
    pub(crate) scheduled: Vec<Value>,
    pub(crate) clock: u64,
    pub(crate) uptime: u64,
    /// `host:port` of Redis and the database.
    pub(crate) broker: (&'a str, i64),
}

/// The answer to a command that only reads; `None` when there is no such command.
pub(crate) fn answer(command: &Command, worker: &Worker<'_>) -> Option<Value> {
    let names = || std::iter::once(&worker.queue.spec.name).chain(&worker.queue.spec.aliases);
    let concurrency = worker.queue.spec.concurrency;
    Some(match command.method.as_str() {
        "ping" => json!({"ok": "pong"}),
        "registered" | "dump_tasks" => json!(worker.queue.spec.tasks.keys().collect::<Vec<_>>()),
        "active" | "dump_active" => json!(worker.active),
        // Nothing is fetched before it can run.
        "reserved" | "dump_reserved" => json!([]),
        "scheduled" | "dump_schedule" => json!(worker.scheduled),
        "revoked" | "dump_revoked" => json!(worker.revoked),
        "query_task" => {
            let ids = command.ids("ids");
            let found = worker.active.iter().filter_map(|job| {
                let id = job["id"].as_str()?;
                ids.iter()
                    .any(|i| i == id)
                    .then(|| (id.to_owned(), json!(["active", job])))
            });
            Value::Object(found.collect())
        }
        "clock" => json!({ "clock": worker.clock }),
        "hello" => json!({"revoked": worker.revoked, "clock": worker.clock}),
        "report" => json!({"ok": format!("software -> innover:{}", env!("CARGO_PKG_VERSION"))}),
        "active_queues" => {
            let queues = names().map(|name| {
                json!({
                    "name": name,
                    "exchange": {
                        "name": name, "type": "direct", "arguments": null, "durable": true,
                        "passive": false, "auto_delete": false, "delivery_mode": null, "no_declare": false,
                    },
                    "routing_key": name,
                    "queue_arguments": null, "binding_arguments": null, "consumer_arguments": null,
                    "durable": true, "exclusive": false, "auto_delete": false, "no_ack": false,
                    "alias": null, "bindings": [], "no_declare": null, "expires": null,
                    "message_ttl": null, "max_length": null, "max_length_bytes": null, "max_priority": null,
                })
            });
            queues.collect()
        }
        "stats" => {
            let (hostname, port) = worker
                .broker
                .0
                .rsplit_once(':')
                .unwrap_or((worker.broker.0, ""));
            json!({
                "total": worker.totals,
                "pid": std::process::id(),
                "clock": worker.clock.to_string(),
                "uptime": worker.uptime,
                "pool": {
                    "implementation": "innover: components in one process",
                    "max-concurrency": concurrency,
                    "processes": [std::process::id()],
                    "max-tasks-per-child": "N/A",
                    "timeouts": [0, 0],
                },
                "broker": {
                    "hostname": hostname,
                    "port": port.parse::<u16>().ok(),
                    "transport": "redis",
                    "virtual_host": worker.broker.1.to_string(),
                    "userid": null,
                },
                "prefetch_count": concurrency,
                "rusage": {},
            })
        }
        "conf" | "dump_conf" => json!({
            "task_default_queue": worker.queue.spec.name,
            "worker_concurrency": concurrency,
            "worker_prefetch_multiplier": 1,
            "task_acks_late": true,
            "task_reject_on_worker_lost": true,
            "accept_content": ["json"],
            "result_expires": crate::limits::RESULT_EXPIRES.as_secs(),
            "visibility_timeout": crate::limits::LEASE.as_secs(),
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(body: Value) -> Command {
        let payload = super::super::events::envelope(&body, json!({"expires": 100.5}), Value::Null);
        Command::parse(payload.as_bytes()).expect("a command")
    }

    #[test]
    fn a_command_is_for_those_it_names() {
        let to = |more: Value| {
            let mut body = json!({"method": "ping", "arguments": {}, "destination": null});
            if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
                body.extend(more);
            }
            command(body)
        };
        assert!(to(json!({})).is_for("profile@h"));
        assert!(to(json!({"destination": ["profile@h"]})).is_for("profile@h"));
        assert!(!to(json!({"destination": ["wallet@h"]})).is_for("profile@h"));
        assert!(to(json!({"pattern": "pro*@?", "matcher": "glob"})).is_for("profile@h"));
        assert!(!to(json!({"pattern": "pro*@?x", "matcher": "glob"})).is_for("profile@h"));
        assert!(to(json!({})).is_due(100.0) && !to(json!({})).is_due(101.0));
    }

    #[test]
    fn an_answer_goes_where_the_asker_waits() {
        let command = command(
            json!({"method": "ping", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"}}),
        );
        let to = command.reply_to.expect("somewhere");
        assert_eq!(to.key(), "oid.reply.celery.pidbox");
        let (set, entry) = to.binding();
        assert_eq!(set, "_kombu.binding.reply.celery.pidbox");
        assert_eq!(entry, "oid\u{6}\u{16}\u{6}\u{16}oid.reply.celery.pidbox");
    }

    #[test]
    fn what_is_no_command_is_refused() {
        assert!(Command::parse(b"{}").is_err());
        assert!(Command::parse(b"\xff").is_err());
    }
}
