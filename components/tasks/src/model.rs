//! What a pushed message must be. Pure, but for the id a message without one is given.

use innover_kit::{Code, Failure, Job, Result, ids};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A message larger than this is no job but a payload in the wrong place.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Ids and names as Celery makes them are far shorter.
const NAME_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    task: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    id: Option<String>,
}

/// A job and the queue it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// The job; its id is the message's or a new one.
    pub job: Job,
    /// `<service>-tasks`, by the prefix of the task's name: a trigger does not learn its channel.
    pub queue: String,
    /// Whether the message named its id.
    pub named: bool,
}

/// Reads a message.
///
/// # Errors
/// A sentence that says what the message must be.
pub fn parse(message: &[u8]) -> Result<Pushed> {
    let wrong = |what: String| Failure::new(Code::InvalidRequest, what);
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(wrong(format!(
            "{} bytes; a message has {MESSAGE_BYTES_MAX} at most",
            message.len()
        )));
    }
    let message: Message = serde_json::from_slice(message).map_err(|e| {
        wrong(format!(
            "not {{\"task\": \"<service>.<name>\", \"args\": [], \"kwargs\": {{}}, \"id\": \"…\"}}: {e}"
        ))
    })?;
    let service = match message.task.split_once('.') {
        Some((service, name)) if is_name(service) && is_name(name) => service.to_owned(),
        _ => {
            let what = "the full task name is needed, e.g. `payment.confirm`: a trigger does not learn its channel";
            return Err(wrong(what.into()));
        }
    };
    if message
        .id
        .as_ref()
        .is_some_and(|id| id.is_empty() || id.len() > NAME_BYTES_MAX)
    {
        return Err(wrong(format!("an id has 1 to {NAME_BYTES_MAX} bytes")));
    }
    let named = message.id.is_some();
    let mut job = Job::new(
        message.id.unwrap_or_else(ids::new_uuid),
        message.task,
        message.args,
    );
    job.kwargs = message.kwargs;
    // Whoever pushed it reads its result with `AsyncResult`.
    job.result_backend = true;
    Ok(Pushed {
        job,
        queue: format!("{service}-tasks"),
        named,
    })
}

fn is_name(part: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&part.len())
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_to_the_queue_of_its_service() {
        let pushed = parse(br#"{"task": "profile.add", "args": [1, 2]}"#).expect("a job");
        assert_eq!(
            (pushed.queue.as_str(), pushed.named),
            ("profile-tasks", false)
        );
        assert_eq!(pushed.job.args, [1, 2]);
        let pushed =
            parse(br#"{"task": "payment.confirm", "args": ["pay_1"], "id": "a"}"#).expect("a job");
        assert_eq!((pushed.job.id.as_str(), pushed.named), ("a", true));
    }

    #[test]
    fn what_is_no_job_is_refused_with_what_it_should_be() {
        for bad in [
            "",
            "add",
            "{}",
            r#"{"task": "add"}"#,
            r#"{"task": ".add"}"#,
            r#"{"task": "profile.add", "args": 1}"#,
            r#"{"task": "profile.add", "id": ""}"#,
            r#"{"task": "profile.add", "queue": "x"}"#,
            r#"{"task": "profile.add x"}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
