//! A task on a queue as Celery writes it: protocol 2 (celery/app/amqp.py, `as_task_v2`) in kombu's
//! envelope for Redis (kombu/transport/virtual/base.py).

use std::io::Read;

use base64::{Engine, engine::general_purpose::STANDARD};
use innover_contract::{job::ID_BYTES_MAX, limits::BODY_BYTES_MAX, time::parse_rfc3339};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::signature::{Raw, Signature, raw};

/// A message that was read.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) headers: Headers,
    pub(crate) priority: u8,
    pub(crate) correlation_id: Option<String>,
    pub(crate) redelivered: bool,
    /// The list it was sent to, without the priority's suffix.
    pub(crate) routing_key: String,
    /// A JSON array.
    pub(crate) args: Raw,
    /// A JSON object.
    pub(crate) kwargs: Raw,
    pub(crate) embed: Embed,
}

/// What every task has: whatever else is wrong, its client can be told.
#[derive(Deserialize)]
struct Identity {
    task: String,
    id: String,
}

/// The task's own headers; times in microseconds.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Headers {
    pub(crate) task: String,
    pub(crate) id: String,
    #[serde(default, deserialize_with = "time")]
    pub(crate) eta: Option<i64>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) expires: Option<i64>,
    #[serde(default)]
    pub(crate) group: Option<String>,
    #[serde(default)]
    pub(crate) group_index: Option<i64>,
    #[serde(default, deserialize_with = "lenient")]
    pub(crate) retries: u32,
    /// Seconds, hard and soft.
    #[serde(default, deserialize_with = "limits")]
    pub(crate) timelimit: (Option<f64>, Option<f64>),
    #[serde(default)]
    pub(crate) root_id: Option<String>,
    #[serde(default)]
    pub(crate) parent_id: Option<String>,
    #[serde(default)]
    pub(crate) argsrepr: Option<String>,
    #[serde(default)]
    pub(crate) kwargsrepr: Option<String>,
    #[serde(default)]
    pub(crate) ignore_result: Option<bool>,
    #[serde(default)]
    pub(crate) compression: Option<String>,
    /// OpenTelemetry's instrumentation of Celery puts it here.
    #[serde(default)]
    pub(crate) traceparent: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(crate) redelivered: bool,
}

/// What happens after the task.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Embed {
    #[serde(default)]
    pub(crate) callbacks: Option<Vec<Signature>>,
    #[serde(default)]
    pub(crate) errbacks: Option<Vec<Signature>>,
    /// The next task is the last one.
    #[serde(default)]
    pub(crate) chain: Option<Vec<Signature>>,
    #[serde(default)]
    pub(crate) chord: Option<Signature>,
}

/// Why a message was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Task id and name, when so much could be read: the client is told.
    pub(crate) known: Option<(String, String)>,
    /// The exception's class in Celery, e.g. `ContentDisallowed`.
    pub(crate) exception: &'static str,
    pub(crate) why: String,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    body: Value,
    #[serde(default, rename = "content-encoding")]
    content_encoding: Option<String>,
    #[serde(default, rename = "content-type")]
    content_type: Option<String>,
    headers: Raw,
    #[serde(default)]
    properties: Properties,
}

#[derive(Default, Deserialize)]
struct Properties {
    #[serde(default)]
    correlation_id: Option<String>,
    #[serde(default)]
    delivery_info: DeliveryInfo,
    #[serde(default, deserialize_with = "lenient")]
    priority: i64,
    #[serde(default)]
    body_encoding: Option<String>,
}

#[derive(Default, Deserialize)]
struct DeliveryInfo {
    #[serde(default)]
    routing_key: Option<String>,
    #[serde(default)]
    redelivered: Option<bool>,
}

/// As in Celery, 0 is no limit.
fn limits<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(Option<f64>, Option<f64>), D::Error> {
    let (hard, soft): (Option<f64>, Option<f64>) = lenient(deserializer)?;
    let some = |seconds: &f64| *seconds > 0.0;
    Ok((hard.filter(some), soft.filter(some)))
}

/// The last moment a time can name.
pub(crate) const TIME_MAX: i64 = 253_402_207_200_000_000;

/// A time as Celery writes it: ISO 8601, without an offset UTC; or as kombu tags one. A job must not
/// run early because its time cannot be read.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        tagged => match tagged.get("__value__") {
            Some(Value::String(text)) => text.clone(),
            _ => return Err(serde::de::Error::custom("a time is text as in ISO 8601")),
        },
    };
    let unreadable = |e| serde::de::Error::custom(format!("`{text}` is no time: {e}"));
    let whole = match text.get(10..) {
        None | Some("") => format!("{text}T00:00:00Z"),
        Some(rest) if rest.ends_with('Z') || rest.contains(['+', '-']) => text.clone(),
        Some(_) => format!("{text}Z"),
    };
    parse_rfc3339(&whole).map(Some).map_err(unreadable)
}

/// A field that does not decide what is done must not stop it: `null` or another type is the default.
fn lenient<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

impl Message {
    /// Reads what lies on a list.
    ///
    /// # Errors
    /// [`Unreadable`], with the task's id when that could be read.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Message, Unreadable> {
        let lost = |why: String| Unreadable {
            known: None,
            exception: "DecodeError",
            why,
        };
        let envelope: Envelope = serde_json::from_slice(bytes)
            .map_err(|e| lost(format!("not an envelope of kombu: {e}")))?;
        let headers: Identity = serde_json::from_str(envelope.headers.get()).map_err(|e| {
            lost(format!(
                "not a task of protocol 2, whose headers name `task` and `id`: {e}"
            ))
        })?;
        let unreadable = |exception, why: String| Unreadable {
            known: Some((headers.id.clone(), headers.task.clone())),
            exception,
            why,
        };
        if headers.id.is_empty() || headers.id.len() > ID_BYTES_MAX {
            return Err(lost(format!("a task's id has 1 to {ID_BYTES_MAX} bytes")));
        }
        let headers: Headers = serde_json::from_str(envelope.headers.get())
            .map_err(|e| unreadable("DecodeError", format!("its headers: {e}")))?;
        let kind = envelope
            .content_type
            .as_deref()
            .unwrap_or("application/json");
        if kind != "application/json" {
            let why = format!("bodies are application/json, not {kind} (accept_content)");
            return Err(unreadable("ContentDisallowed", why));
        }
        let encoding = envelope.content_encoding.as_deref().unwrap_or("utf-8");
        if !encoding.eq_ignore_ascii_case("utf-8") && !encoding.eq_ignore_ascii_case("us-ascii") {
            return Err(unreadable(
                "ContentDisallowed",
                format!("bodies are UTF-8, not {encoding}"),
            ));
        }
        let Value::String(body) = envelope.body else {
            return Err(unreadable("DecodeError", "the body is no text".into()));
        };
        let mut body = match envelope.properties.body_encoding.as_deref() {
            Some("base64") => STANDARD
                .decode(&body)
                .map_err(|e| unreadable("DecodeError", format!("the body is no base64: {e}")))?,
            None => body.into_bytes(),
            Some(other) => {
                let why = format!("a body is base64 or plain, not `{other}`");
                return Err(unreadable("DecodeError", why));
            }
        };
        if let Some(compression) = &headers.compression {
            body = decompress(compression, &body).map_err(|why| unreadable("DecodeError", why))?;
        }
        if body.len() > BODY_BYTES_MAX {
            let why = format!(
                "a body of {} bytes; a job has {BODY_BYTES_MAX} at most",
                body.len()
            );
            return Err(unreadable("ContentDisallowed", why));
        }
        if nesting(&body) > NESTING_MAX {
            let why = format!("a body nested deeper than {NESTING_MAX} levels");
            return Err(unreadable("DecodeError", why));
        }
        let (args, kwargs, embed): (Raw, Raw, Embed) =
            serde_json::from_slice(&body).map_err(|e| {
                unreadable(
                    "DecodeError",
                    format!("a body is [args, kwargs, embed]: {e}"),
                )
            })?;
        if !args.get().starts_with('[') || !kwargs.get().starts_with('{') {
            let why = "args are a list and kwargs an object";
            return Err(unreadable("TypeError", why.into()));
        }
        let properties = envelope.properties;
        Ok(Message {
            priority: u8::try_from(properties.priority.clamp(0, 9)).unwrap_or(0),
            correlation_id: properties.correlation_id,
            redelivered: headers.redelivered || properties.delivery_info.redelivered == Some(true),
            routing_key: properties.delivery_info.routing_key.unwrap_or_default(),
            args,
            kwargs,
            embed,
            headers,
        })
    }

    /// The root of the tree of tasks this one belongs to.
    pub(crate) fn root(&self) -> &str {
        self.headers.root_id.as_deref().unwrap_or(&self.headers.id)
    }
}

/// Levels of lists and objects in a body: deeper ones only occur in attacks on recursive parsers. A
/// chord in a chain takes eight.
const NESTING_MAX: usize = 100;

/// How deep lists and objects lie in each other in JSON text.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// kombu calls a zlib stream `application/x-gzip` (kombu/compression.py).
fn decompress(kind: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    let zlib = matches!(kind, "application/x-gzip" | "gzip" | "zlib");
    if !zlib {
        return Err(format!("compression is application/x-gzip, not {kind}"));
    }
    let mut plain = Vec::new();
    // One byte more than fits shows that there is more.
    let limit = BODY_BYTES_MAX as u64 + 1;
    flate2::read::ZlibDecoder::new(body)
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|e| format!("the body is no zlib stream: {e}"))?;
    Ok(plain)
}

/// A task that is to be sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) queue: String,
    pub(crate) task: String,
    pub(crate) id: String,
    pub(crate) args: Vec<Raw>,
    pub(crate) kwargs: std::collections::BTreeMap<String, Raw>,
    pub(crate) embed: Embed,
    pub(crate) priority: u8,
    pub(crate) eta: Option<String>,
    pub(crate) expires: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) group_index: Option<i64>,
    pub(crate) root_id: Option<String>,
    pub(crate) parent_id: Option<String>,
    pub(crate) time_limit: Option<f64>,
    pub(crate) soft_time_limit: Option<f64>,
    pub(crate) ignore_result: Option<bool>,
    pub(crate) reply_to: String,
    pub(crate) traceparent: Option<String>,
    /// Names of headers that stamp a task, and their values.
    pub(crate) stamps: std::collections::BTreeMap<String, Raw>,
}

impl Outgoing {
    /// The envelope.
    pub(crate) fn encode(&self) -> String {
        let body = raw(
            serde_json::to_string(&(&self.args, &self.kwargs, &self.embed)).unwrap_or_default(),
        );
        let stamped: Option<Vec<&String>> =
            (!self.stamps.is_empty()).then(|| self.stamps.keys().collect());
        let mut headers = json!({
            "lang": "py",
            "task": self.task,
            "id": self.id,
            "shadow": null,
            "eta": self.eta,
            "expires": self.expires,
            "group": self.group,
            "group_index": self.group_index,
            "retries": 0,
            "timelimit": [self.time_limit, self.soft_time_limit],
            "root_id": self.root_id.as_deref().unwrap_or(&self.id),
            "parent_id": self.parent_id,
            // For people only; Celery's is Python's repr, ours is JSON.
            "argsrepr": cut(serde_json::to_string(&self.args).unwrap_or_default()),
            "kwargsrepr": cut(serde_json::to_string(&self.kwargs).unwrap_or_default()),
            "origin": "innover",
            "ignore_result": self.ignore_result.unwrap_or(false),
            "replaced_task_nesting": 0,
            "stamped_headers": stamped,
            "stamps": self.stamps,
        });
        if let (Some(traceparent), Some(headers)) = (&self.traceparent, headers.as_object_mut()) {
            headers.insert("traceparent".into(), traceparent.clone().into());
        }
        json!({
            "body": STANDARD.encode(body.get()),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "correlation_id": self.id,
                "reply_to": self.reply_to,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": self.queue},
                "priority": self.priority,
                "body_encoding": "base64",
                "delivery_tag": uuid::Uuid::now_v7().to_string(),
            },
        })
        .to_string()
    }

    /// The list it is pushed to.
    pub(crate) fn key(&self) -> String {
        list_key(&self.queue, step(self.priority))
    }
}

/// Celery cuts its reprs at 1,024 characters (`argsrepr_maxsize`).
fn cut(text: String) -> String {
    match text.char_indices().nth(1_024) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The steps priorities are rounded down to, served in this order (`priority_steps`).
pub(crate) const STEPS: [u8; 4] = [0, 3, 6, 9];

fn step(priority: u8) -> u8 {
    STEPS
        .into_iter()
        .rev()
        .find(|s| *s <= priority)
        .unwrap_or(0)
}

/// The Redis list of a queue's step.
pub(crate) fn list_key(queue: &str, step: u8) -> String {
    match step {
        0 => queue.to_owned(),
        step => format!("{queue}\u{6}\u{16}{step}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As celery 5.7.0 sent it, from reference captures of the wire.
    const SAMPLE: &str = r#"{"body": "W1sxMCwgMjBdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "profile.add", "id": "5f1b6c1e-6a3c-4a52-9b7d-0d3c3a4d9e11", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "5f1b6c1e-6a3c-4a52-9b7d-0d3c3a4d9e11", "parent_id": null, "argsrepr": "[10, 20]", "kwargsrepr": "{}", "origin": "gen26586@vm", "ignore_result": null, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}, "properties": {"correlation_id": "5f1b6c1e-6a3c-4a52-9b7d-0d3c3a4d9e11", "reply_to": "19d8caa0-55fa-35d5-ad1e-dfcbf12a4b5e", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "profile-tasks"}, "priority": 0, "body_encoding": "base64", "delivery_tag": "0eb74b80-c2ef-45ed-88cb-54e97e2166d1"}}"#;

    #[test]
    fn a_message_of_celery_is_read() {
        let message = Message::parse(SAMPLE.as_bytes()).expect("a message");
        assert_eq!(message.headers.task, "profile.add");
        assert_eq!(
            (message.args.get(), message.kwargs.get()),
            ("[10, 20]", "{}")
        );
        assert_eq!(message.routing_key, "profile-tasks");
        assert!(message.embed.chain.is_none() && message.headers.ignore_result.is_none());
    }

    #[test]
    fn what_is_sent_is_read_again() {
        let outgoing = Outgoing {
            queue: "wallet-tasks".into(),
            task: "wallet.add".into(),
            id: "a".into(),
            args: vec![raw("12345678901234567890123".into()), raw("\"é\"".into())],
            priority: 5,
            time_limit: Some(10.0),
            ..Outgoing::default()
        };
        assert_eq!(outgoing.key(), "wallet-tasks\u{6}\u{16}3");
        let message = Message::parse(outgoing.encode().as_bytes()).expect("a message");
        assert_eq!(message.args.get(), "[12345678901234567890123,\"é\"]");
        assert_eq!(message.headers.timelimit, (Some(10.0), None));
        assert_eq!(message.root(), "a");
    }

    #[test]
    fn what_cannot_be_read_says_why_and_whose_it_was() {
        let with = |from: &str, to: &str| Message::parse(SAMPLE.replace(from, to).as_bytes());
        for (from, to, exception, known) in [
            (
                "application/json",
                "application/x-python-serialize",
                "ContentDisallowed",
                true,
            ),
            ("W1sx", "!!!!", "DecodeError", true),
            ("\"id\": \"5f1b", "\"ident\": \"5f1b", "DecodeError", false),
            (
                "\"task\": \"profile.add\"",
                "\"task\": 7",
                "DecodeError",
                false,
            ),
            ("\"properties\"", "\"properties", "DecodeError", false),
        ] {
            let error = with(from, to).expect_err(to);
            assert_eq!(
                (error.exception, error.known.is_some()),
                (exception, known),
                "{to}"
            );
        }
        // A retries header of another type decides nothing.
        assert!(with("\"retries\": 0", "\"retries\": \"many\"").is_ok());
    }

    #[test]
    fn times_are_read_or_the_client_is_told() {
        let with = |eta: &str| {
            Message::parse(
                SAMPLE
                    .replace("\"eta\": null", &format!("\"eta\": {eta}"))
                    .as_bytes(),
            )
        };
        let noon = Some(1_793_361_600_000_000);
        for (eta, expected) in [
            ("null", None),
            (r#""2026-10-30T12:00:00+00:00""#, noon),
            (r#""2026-10-30T14:00:00+02:00""#, noon),
            (r#""2026-10-30T12:00:00""#, noon),
            (
                r#"{"__type__": "datetime", "__value__": "2026-10-30T12:00:00Z"}"#,
                noon,
            ),
            (r#""2026-10-30""#, Some(1_793_318_400_000_000)),
        ] {
            assert_eq!(with(eta).expect(eta).headers.eta, expected, "{eta}");
        }
        for eta in [r#""soon""#, "1.5", r#""20000-01-01T00:00:00Z""#] {
            let error = with(eta).expect_err(eta);
            assert!(error.known.is_some(), "{error:?}");
        }
    }

    #[test]
    fn a_bottomless_body_is_refused() {
        assert_eq!(nesting(br#"[["[[", {"a\"]": [1]}], 2]"#), 4);
        let deep = format!("[[{}{}],{{}},{{}}]", "[".repeat(200), "]".repeat(200));
        let body = STANDARD.encode(deep);
        let start = SAMPLE.find("W1sx").expect("a body");
        let end = start + SAMPLE[start..].find('"').expect("its end");
        let deep = format!("{}{body}{}", &SAMPLE[..start], &SAMPLE[end..]);
        let error = Message::parse(deep.as_bytes()).expect_err("refused");
        assert!(error.why.contains("nested deeper"), "{error:?}");
    }

    #[test]
    fn a_compressed_body_is_bounded() {
        use std::io::Write;
        let mut zeros = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zeros.write_all(&vec![b' '; 64 << 20]).expect("written");
        let bomb = zeros.finish().expect("compressed");
        let plain = decompress("application/x-gzip", &bomb).expect("a stream");
        assert_eq!(plain.len(), BODY_BYTES_MAX + 1);
        assert!(decompress("application/x-lzma", &bomb).is_err());
    }
}
