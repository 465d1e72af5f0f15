//! A message of a topic as the event it carries: pure.

use std::{borrow::Cow, collections::BTreeMap};

use innover_contract::time::rfc3339;
use serde::Serialize;
use serde_json::value::RawValue;

use super::signature;
use crate::limits::ENVELOPE_BYTES_MAX;

/// The header under which a replayed event that was put on a topic by hand keeps its id.
pub(crate) const ID_HEADER: &str = "ce_id";

/// The source of an event no service of ours vouches for.
const EXTERNAL: &str = "external";
/// What the sources of our services begin with.
const OURS: &str = "/innover/";

/// What is read from a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since the epoch, where the topic keeps them.
    pub(crate) timestamp_ms: Option<i64>,
}

/// The event in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) id: String,
    pub(crate) key: String,
    /// The CloudEvent as JSON; `None` when it is the message's value as it stands.
    pub(crate) envelope: Option<String>,
}

/// The attributes of an event that was put on a topic by hand; `data` is appended as it was written.
#[derive(Serialize)]
struct External<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    time: String,
    datacontenttype: &'a str,
    dataschema: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    partitionkey: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotencykey: Option<Cow<'a, str>>,
}

type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

impl Message {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        found.next().map(|(_, v)| String::from_utf8_lossy(v))
    }

    /// Bytes it takes up in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        headers + length(&self.key) + length(&self.value)
    }

    /// Reads the event. A CloudEvent stays what it is. A plain object becomes the `data` of one whose
    /// id is its place on the topic, and whose source says that no service of ours vouches for it.
    ///
    /// With a signing key a CloudEvent without a signature is nobody's of ours either, and its id
    /// says so too; one whose signature does not hold is none.
    ///
    /// # Errors
    /// Why it is no event; that does not change, so it is a dead letter.
    pub(crate) fn event(&self, kind: &str, signing_key: Option<&str>) -> Result<Decoded, String> {
        let value = self.value.as_deref().ok_or("the message has no value")?;
        let text = std::str::from_utf8(value).map_err(|e| format!("the value is no JSON: {e}"))?;
        let members: Members<'_> =
            serde_json::from_str(text).map_err(|e| format!("the value is no JSON object: {e}"))?;
        let decoded = match members.contains_key("specversion") {
            true => {
                let signed = match (signing_key, self.header(signature::HEADER)) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(key), Some(header)) if signature::holds(key, kind, value, &header) => true,
                    // Perhaps one bridge has another key: as a dead letter it can be replayed.
                    _ => return Err("the signature does not hold: it is forged, or bridges have different signing keys".to_owned()),
                };
                self.cloud_event(&members, signed)?
            }
            false => self.external(kind, text),
        };
        let bytes = decoded.envelope.as_ref().map_or(text.len(), String::len);
        if bytes > ENVELOPE_BYTES_MAX {
            return Err(format!(
                "{bytes} bytes, and a delivery carries at most {ENVELOPE_BYTES_MAX}"
            ));
        }
        Ok(decoded)
    }

    fn cloud_event(&self, members: &Members<'_>, signed: bool) -> Result<Decoded, String> {
        let text = |name: &str| {
            members
                .get(name)
                .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
                .filter(|text| !text.is_empty())
        };
        for needed in ["id", "source", "type"] {
            if text(needed).is_none() {
                return Err(format!("a CloudEvent without `{needed}`"));
            }
        }
        let key = match &self.key {
            Some(key) => String::from_utf8_lossy(key).into_owned(),
            None => text("partitionkey")
                .or_else(|| text("subject"))
                .unwrap_or_default(),
        };
        let mut id = text("id").unwrap_or_default();
        if !signed {
            // Under one of our ids it would pass for an event of ours that was delivered before.
            id = format!("{EXTERNAL}-{id}");
        }
        let forged = !signed && text("source").is_some_and(|source| source.starts_with(OURS));
        // CloudEvents leaves these two to the sender, a service does not.
        let whole = members.contains_key("time") && members.contains_key("data");
        let envelope = match whole && signed {
            true => None,
            false => {
                let raw =
                    |text: &str| serde_json::value::to_raw_value(text).map_err(|e| e.to_string());
                let (time, id, external) = (raw(&self.time())?, raw(&id)?, raw(EXTERNAL)?);
                let mut members = members.clone();
                members.entry("time".into()).or_insert(&time);
                members.entry("data".into()).or_insert(RawValue::NULL);
                members.insert("id".into(), &id);
                if forged {
                    members.insert("source".into(), &external);
                }
                Some(serde_json::to_string(&members).map_err(|e| e.to_string())?)
            }
        };
        Ok(Decoded { id, key, envelope })
    }

    fn external(&self, kind: &str, text: &str) -> Decoded {
        let id = match self.header(ID_HEADER) {
            // Only the name of a place: another one could be that of an event of ours.
            Some(id) if id.starts_with(&format!("{}-", self.topic)) => id.into_owned(),
            _ => format!("{}-{}-{}", self.topic, self.partition, self.offset),
        };
        let key = self
            .key
            .as_deref()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .unwrap_or_default();
        let attributes = External {
            specversion: "1.0",
            id: &id,
            source: EXTERNAL,
            kind,
            subject: &key,
            time: self.time(),
            datacontenttype: "application/json",
            dataschema: format!("/schemas/{kind}/v1.json"),
            partitionkey: &key,
            traceparent: self.header("traceparent"),
            correlationid: self.header("correlation_id"),
            idempotencykey: self.header("idempotency_key"),
        };
        // A struct of strings cannot fail to become JSON.
        let mut envelope = serde_json::to_string(&attributes).unwrap_or_default();
        envelope.pop();
        envelope.push_str(r#","data":"#);
        envelope.push_str(text.trim());
        envelope.push('}');
        Decoded {
            id,
            key,
            envelope: Some(envelope),
        }
    }

    fn time(&self) -> String {
        rfc3339(self.timestamp_ms.unwrap_or(0).saturating_mul(1_000))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn message(value: &str) -> Message {
        Message {
            topic: "payment.initiated".into(),
            partition: 3,
            offset: 42,
            key: Some(b"pay_1".to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: vec![("correlation_id".into(), b"req-1".to_vec())],
            timestamp_ms: Some(1_793_361_600_000),
        }
    }

    #[test]
    fn a_cloudevent_stays_as_it_is_and_its_order_is_the_messages_key() {
        let text = r#"{"specversion":"1.0","id":"e1","source":"/innover/payment","type":"payment.initiated","time":"2026-10-30T12:00:00Z","partitionkey":"other","data":{"n":12345678901234567890}}"#;
        let mut message = message(text);
        let decoded = message.event("payment.initiated", None).expect("an event");
        assert_eq!(
            (decoded.id.as_str(), decoded.key.as_str(), decoded.envelope),
            ("e1", "pay_1", None)
        );
        message.key = None;
        assert_eq!(
            message
                .event("payment.initiated", None)
                .expect("an event")
                .key,
            "other"
        );
    }

    #[test]
    fn an_event_claims_a_service_of_ours_only_with_a_signature() {
        let text = r#"{"specversion":"1.0","id":"e1","source":"/innover/ledger","type":"t","time":"2026-10-30T12:00:00Z","data":{"n":12345678901234567890}}"#;
        let mut message = message(text);
        let source = |message: &Message| {
            let decoded = message.event("t", Some("key")).expect("an event");
            let envelope = decoded.envelope.unwrap_or_else(|| text.to_owned());
            assert!(envelope.contains("12345678901234567890"), "{envelope}");
            let event: Value = serde_json::from_str(&envelope).expect("JSON");
            assert_eq!(event["id"], json!(decoded.id));
            (
                event["source"].as_str().expect("text").to_owned(),
                decoded.id,
            )
        };
        let external = ("external".to_owned(), "external-e1".to_owned());
        assert_eq!(source(&message), external);
        let signature = signature::sign("wrong", "t", text.as_bytes()).expect("signed");
        message
            .headers
            .push((signature::HEADER.into(), signature.into_bytes()));
        let refused = message.event("t", Some("key")).expect_err("a dead letter");
        assert!(refused.contains("signature"), "{refused}");
        let signature = signature::sign("key", "t", text.as_bytes()).expect("signed");
        message.headers.pop();
        message
            .headers
            .push((signature::HEADER.into(), signature.into_bytes()));
        assert_eq!(
            source(&message),
            ("/innover/ledger".to_owned(), "e1".to_owned())
        );
    }

    #[test]
    fn a_plain_object_becomes_an_external_event_named_by_its_place() {
        let decoded = message(r#" {"amount": 12345678901234567890} "#)
            .event("payment.initiated", None)
            .expect("an event");
        let envelope = decoded.envelope.expect("made here");
        assert!(
            envelope.contains("12345678901234567890"),
            "the payload is not rewritten"
        );
        let mut event: Value = serde_json::from_str(&envelope).expect("JSON");
        event["data"] = json!({});
        assert_eq!(
            event,
            json!({
                "specversion": "1.0", "id": "payment.initiated-3-42", "source": "external",
                "type": "payment.initiated", "subject": "pay_1", "partitionkey": "pay_1",
                "time": "2026-10-30T12:00:00.000000Z", "datacontenttype": "application/json",
                "dataschema": "/schemas/payment.initiated/v1.json", "correlationid": "req-1", "data": {},
            })
        );
    }

    #[test]
    fn a_replayed_plain_object_keeps_its_id() {
        let mut replayed = message("{}");
        replayed
            .headers
            .push((ID_HEADER.into(), b"payment.initiated-0-7".to_vec()));
        assert_eq!(
            replayed
                .event("payment.initiated", None)
                .expect("an event")
                .id,
            "payment.initiated-0-7"
        );
    }

    #[test]
    fn a_plain_object_cannot_take_the_id_of_an_event_of_ours() {
        let mut message = message("{}");
        message.headers.push((ID_HEADER.into(), b"e1".to_vec()));
        assert_eq!(
            message
                .event("payment.initiated", None)
                .expect("an event")
                .id,
            "payment.initiated-3-42"
        );
    }

    #[test]
    fn a_cloudevent_of_somebody_else_gets_what_a_service_needs() {
        let decoded =
            message(r#"{"specversion":"1.0","id":"e1","source":"shop","type":"x","subject":"s"}"#)
                .event("x", None)
                .expect("an event");
        let event: Value = serde_json::from_str(&decoded.envelope.expect("made")).expect("JSON");
        assert_eq!(event["time"], json!("2026-10-30T12:00:00.000000Z"));
        assert_eq!(event["data"], Value::Null);
        assert_eq!(event["source"], json!("shop"));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_reason() {
        let mut nothing = message("");
        nothing.value = None;
        let mut binary = message("");
        binary.value = Some(vec![0xff, 0xfe]);
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(ENVELOPE_BYTES_MAX));
        for (message, reason) in [
            (nothing, "no value"),
            (binary, "no JSON"),
            (message("hello"), "no JSON object"),
            (message("[1]"), "no JSON object"),
            (message("{} {}"), "no JSON object"),
            (
                message(r#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#),
                "without `id`",
            ),
            (
                message(r#"{"specversion":"1.0","id":"e","type":"t"}"#),
                "without `source`",
            ),
            (message(&large), "at most"),
        ] {
            let refused = message.event("x", None).expect_err("no event");
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
