//! What a client reads of a task: the entry under `celery-task-meta-<id>` (celery/backends/base.py,
//! `_get_result_meta`), and which exception a failure becomes.

use innover_contract::{Code, time::rfc3339};
use serde_json::{Value, json};

use super::signature::{Raw, to_raw};

/// A task's state in the result backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Success,
    Failure,
    Retry,
    Revoked,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Success => "SUCCESS",
            State::Failure => "FAILURE",
            State::Retry => "RETRY",
            State::Revoked => "REVOKED",
        }
    }

    /// The states that are final and no success (`PROPAGATE_STATES`).
    pub(crate) fn propagates(text: &str) -> bool {
        matches!(text, "FAILURE" | "REVOKED")
    }
}

/// An entry of the result backend.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) state: State,
    pub(crate) result: Raw,
    pub(crate) traceback: Option<String>,
    /// Tasks it sent, as result tuples.
    pub(crate) children: Vec<Value>,
    pub(crate) group: Option<String>,
    pub(crate) parent: Option<String>,
}

impl Stored {
    /// Of a task that stands alone.
    pub(crate) fn new(id: &str, state: State, result: Raw) -> Stored {
        Stored {
            id: id.to_owned(),
            state,
            result,
            traceback: None,
            children: Vec::new(),
            group: None,
            parent: None,
        }
    }

    /// The entry's text. `status` comes first: the completion script looks for it there.
    pub(crate) fn json(&self, now: i64) -> String {
        let text = |value: &Value| value.to_string();
        let done = match self.state {
            State::Retry => Value::Null,
            // Python's `isoformat` writes the offset, not Z.
            _ => rfc3339(now).replace('Z', "+00:00").into(),
        };
        let mut json = format!(
            r#"{{"status": "{}", "result": {}, "traceback": {}, "children": {}, "date_done": {}, "#,
            self.state.as_str(),
            self.result.get(),
            text(&json!(self.traceback)),
            text(&json!(self.children)),
            text(&done),
        );
        for (name, value) in [("group_id", &self.group), ("parent_id", &self.parent)] {
            if let Some(value) = value {
                json.push_str(&format!(r#""{name}": {}, "#, json!(value)));
            }
        }
        json.push_str(&format!(r#""task_id": {}}}"#, json!(self.id)));
        json
    }
}

/// An exception as the result backend keeps it: a class the client looks up, or makes when its
/// module is not one it has imported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exception {
    pub(crate) class: String,
    pub(crate) module: &'static str,
    pub(crate) arguments: Vec<Value>,
}

const CELERY: &str = "celery.exceptions";
/// Where Celery takes its time limits from.
const BILLIARD: &str = "billiard.exceptions";
/// A module no client has: it makes a class of the problem's name.
const OURS: &str = "innover";

impl Exception {
    fn new(
        module: &'static str,
        class: impl Into<String>,
        argument: impl Into<Value>,
    ) -> Exception {
        Exception {
            class: class.into(),
            module,
            arguments: vec![argument.into()],
        }
    }

    /// `reason` is `revoked`, `expired` or `terminated`.
    pub(crate) fn revoked(reason: &str) -> Exception {
        Exception::new(CELERY, "TaskRevokedError", reason)
    }

    pub(crate) fn not_registered(task: &str) -> Exception {
        Exception::new(CELERY, "NotRegistered", task)
    }

    pub(crate) fn time_limit(seconds: f64) -> Exception {
        Exception::new(BILLIARD, "TimeLimitExceeded", seconds)
    }

    pub(crate) fn chord(dependency: &str, raised: &Value) -> Exception {
        let class = raised["exc_type"].as_str().unwrap_or("Exception");
        let arguments: Vec<String> = match &raised["exc_message"] {
            Value::Array(all) => all.iter().map(repr).collect(),
            one => vec![repr(one)],
        };
        let text = format!(
            "Dependency {dependency} raised {class}({})",
            arguments.join(", ")
        );
        Exception::new(CELERY, "ChordError", text)
    }

    /// A body that could not be read. `class` is one of kombu's.
    pub(crate) fn unreadable(class: &'static str, why: &str) -> Exception {
        let module = match class {
            "TypeError" => "builtins",
            _ => "kombu.exceptions",
        };
        Exception::new(module, class, why)
    }

    /// What a service said: its problem's code and text.
    pub(crate) fn of_problem(code: &str, error: &str) -> Exception {
        if code == Code::InvalidArguments.as_str() {
            return Exception::new("builtins", "TypeError", error);
        }
        if code == Code::SoftTimeLimit.as_str() {
            return Exception::new(BILLIARD, "SoftTimeLimitExceeded", error);
        }
        let mut class = String::new();
        for word in code.split('_') {
            let mut letters = word.chars();
            class.extend(letters.next().map(|c| c.to_ascii_uppercase()));
            class.push_str(letters.as_str());
        }
        if class.is_empty() {
            class.push_str("TaskFailed");
        }
        Exception::new(OURS, class, error)
    }

    /// The result of a task that raised it.
    pub(crate) fn raw(&self) -> Raw {
        to_raw(&json!({
            "exc_type": self.class,
            "exc_message": self.arguments,
            "exc_module": self.module,
        }))
    }

    /// As Python prints it: `ValueError('bad', 42)`.
    pub(crate) fn repr(&self) -> String {
        let arguments: Vec<String> = self.arguments.iter().map(repr).collect();
        format!("{}({})", self.class, arguments.join(", "))
    }

    /// What stands in place of Python's traceback: where it happened is in the service's log, under
    /// the job's id.
    pub(crate) fn traceback(&self, task: &str, id: &str) -> String {
        let arguments: Vec<String> = self.arguments.iter().map(plain).collect();
        format!(
            "Traceback (most recent call last):\n  innover task {task}[{id}]\n{}.{}: {}\n",
            self.module,
            self.class,
            arguments.join(", ")
        )
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn repr(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::signature::raw;

    #[test]
    fn an_entry_is_what_celery_writes() {
        let stored = Stored {
            id: "a".into(),
            state: State::Success,
            result: raw("1.10".into()),
            traceback: None,
            children: vec![],
            group: None,
            parent: Some("p".into()),
        };
        assert_eq!(
            stored.json(1_793_372_400_000_001),
            r#"{"status": "SUCCESS", "result": 1.10, "traceback": null, "children": [], "date_done": "2026-10-30T15:00:00.000001+00:00", "parent_id": "p", "task_id": "a"}"#
        );
    }

    #[test]
    fn a_problem_becomes_an_exception_of_its_name() {
        for (code, class, module) in [
            ("payment_not_found", "PaymentNotFound", "innover"),
            ("invalid_arguments", "TypeError", "builtins"),
            (
                "soft_time_limit",
                "SoftTimeLimitExceeded",
                "billiard.exceptions",
            ),
            ("", "TaskFailed", "innover"),
        ] {
            let exception = Exception::of_problem(code, "no");
            assert_eq!(
                (exception.class.as_str(), exception.module),
                (class, module)
            );
        }
        assert_eq!(Exception::of_problem("a_b", "it's").repr(), "AB('it\\'s')");
    }
}
