//! A job's arguments bound to its task's parameters, as Python binds a call: by position, then by
//! name. What does not fit fails the job for good, in the words a Celery user knows.

use innover_contract::{Code, Job};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::{Handled, Task};
use crate::{Failure, Result};

/// Arguments that do not fit: 422.
pub(super) fn misfit(what: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArguments, what)
}

/// A parameter as it is declared.
enum Parameter {
    Required(&'static str),
    Optional(&'static str),
    /// `*args`
    Positions,
    /// `**kwargs`
    Names,
}

impl Parameter {
    fn read(text: &'static str) -> Parameter {
        if text.starts_with("**") {
            Parameter::Names
        } else if text.starts_with('*') {
            Parameter::Positions
        } else {
            match text.strip_suffix('?') {
                Some(name) => Parameter::Optional(name),
                None => Parameter::Required(text),
            }
        }
    }

    fn name(&self) -> Option<&'static str> {
        match self {
            Parameter::Required(name) | Parameter::Optional(name) => Some(name),
            _ => None,
        }
    }
}

impl Task {
    /// The job's arguments as the task's parameters, in their order; `None` is one that was left
    /// out. What goes to `*args` and `**kwargs` is not among them.
    ///
    /// # Errors
    /// 422 `invalid_arguments`.
    pub fn bind<'j>(&self, job: &'j Job) -> Result<Vec<(&'static str, Option<&'j Json>)>> {
        let all: Vec<Parameter> = self.parameters.iter().map(|p| Parameter::read(p)).collect();
        let takes_all_names = all.iter().any(|p| matches!(p, Parameter::Names));
        let takes_all_positions = all.iter().any(|p| matches!(p, Parameter::Positions));
        let mut bound: Vec<(&'static str, Option<&Json>)> = all
            .iter()
            .filter_map(Parameter::name)
            .zip(job.args.iter().map(Some).chain(std::iter::repeat(None)))
            .collect();
        for (name, value) in &job.kwargs {
            match bound.iter_mut().find(|(known, _)| known == name) {
                Some((_, Some(_))) => {
                    let what = format!("got multiple values for argument '{name}'");
                    return Err(of(job, what));
                }
                Some((_, place)) => *place = Some(value),
                None if takes_all_names => {}
                None => {
                    let what = format!("got an unexpected keyword argument '{name}'");
                    return Err(of(job, what));
                }
            }
        }
        if job.args.len() > bound.len() && !takes_all_positions {
            return Err(of(job, too_many(&all, bound.len(), job.args.len())));
        }
        let missing: Vec<&str> = all
            .iter()
            .filter_map(|p| match p {
                Parameter::Required(name) => Some(*name),
                _ => None,
            })
            .filter(|name| bound.contains(&(*name, None)))
            .collect();
        match missing.is_empty() {
            true => Ok(bound),
            false => Err(of(job, lacks(&missing))),
        }
    }

    /// The job's arguments as `T`, a struct with a field per parameter: values that kombu tagged
    /// (decimal, datetime, date, time, uuid, bytes) as their plain text. An optional parameter is
    /// an `Option` or has a default.
    ///
    /// # Errors
    /// 422 `invalid_arguments`, which fails the job for good.
    pub fn arguments<T: DeserializeOwned>(&self, job: &Job) -> Result<T> {
        let given: Map<String, Json> = self
            .bind(job)?
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), untagged(value?))))
            .collect();
        serde_path_to_error::deserialize(Json::Object(given)).map_err(|e| {
            let path = e.path().to_string();
            of(job, format!("argument '{path}': {}", e.into_inner()))
        })
    }

    /// The jobs and the arguments of each; those whose arguments do not fit are refused.
    pub fn each<'j, T: DeserializeOwned>(
        &self,
        jobs: &'j [Job],
        handled: &mut Handled,
    ) -> Vec<(&'j Job, T)> {
        let mut good = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.arguments(job) {
                Ok(arguments) => good.push((job, arguments)),
                Err(failure) => drop(handled.refused.insert(job.id.clone(), failure)),
            }
        }
        good
    }
}

fn of(job: &Job, what: String) -> Failure {
    misfit(format!("{}() {what}", job.task))
}

fn too_many(all: &[Parameter], takes: usize, given: usize) -> String {
    let required = all
        .iter()
        .filter(|p| matches!(p, Parameter::Required(_)))
        .count();
    let (range, plural) = match required == takes {
        true => (takes.to_string(), if takes == 1 { "" } else { "s" }),
        false => (format!("from {required} to {takes}"), "s"),
    };
    let were = if given == 1 { "was" } else { "were" };
    format!("takes {range} positional argument{plural} but {given} {were} given")
}

fn lacks(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let (plural, list) = match &quoted[..] {
        [one] => ("", one.clone()),
        [one, other] => ("s", format!("{one} and {other}")),
        [first @ .., last] => ("s", format!("{}, and {last}", first.join(", "))),
        [] => ("s", String::new()),
    };
    format!("missing {} required argument{plural}: {list}", names.len())
}

/// The type and the value of `{"__type__": …, "__value__": …}`, kombu's way to say in JSON what
/// JSON has no type for.
pub(super) fn tagged(value: &Json) -> Option<(&str, &Json)> {
    let object = value.as_object().filter(|object| object.len() == 2)?;
    Some((object.get("__type__")?.as_str()?, object.get("__value__")?))
}

/// The value without kombu's tags, at any depth; a type kombu does not have stays as it is.
fn untagged(value: &Json) -> Json {
    match (tagged(value), value) {
        (Some(("uuid", uuid)), _) => {
            let hex = uuid["hex"].as_str().or(uuid.as_str()).unwrap_or_default();
            Uuid::parse_str(hex).map_or_else(|_| hex.into(), |id| id.to_string().into())
        }
        (Some(("decimal" | "datetime" | "date" | "time" | "bytes" | "base64", plain)), _) => {
            plain.clone()
        }
        (_, Json::Array(all)) => all.iter().map(untagged).collect(),
        (_, Json::Object(all)) => all
            .iter()
            .map(|(name, value)| (name.clone(), untagged(value)))
            .collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::{Cx, Db, jobs::Running};

    fn none<'a>(_: &'a Cx, _: &'a Db, _: &'a [Job]) -> Running<'a> {
        Box::pin(async { Ok(Handled::default()) })
    }

    fn job(args: Json, kwargs: Json) -> Job {
        let mut job = Job::new("1", "x.f", args.as_array().unwrap().clone());
        job.kwargs = kwargs.as_object().unwrap().clone();
        job
    }

    #[test]
    fn arguments_are_bound_as_python_binds_them() {
        const NONE: Task = Task::new("x.f", &[], none);
        const ONE: Task = Task::new("x.f", &["a"], none);
        const TWO: Task = Task::new("x.f", &["a", "b"], none);
        const THREE: Task = Task::new("x.f", &["a", "b", "c"], none);
        const SOME: Task = Task::new("x.f", &["a", "b?"], none);
        const ANY: Task = Task::new("x.f", &["*args", "**kwargs"], none);
        for (task, args, kwargs, want) in [
            (NONE, json!([]), json!({}), "[]"),
            (
                NONE,
                json!([1]),
                json!({}),
                "x.f() takes 0 positional arguments but 1 was given",
            ),
            (
                ONE,
                json!([]),
                json!({}),
                "x.f() missing 1 required argument: 'a'",
            ),
            (
                ONE,
                json!([1, 2]),
                json!({}),
                "x.f() takes 1 positional argument but 2 were given",
            ),
            (TWO, json!([1, 2]), json!({}), "[1,2]"),
            (TWO, json!([1]), json!({"b": 2}), "[1,2]"),
            (TWO, json!([]), json!({"b": 2, "a": 1}), "[1,2]"),
            (
                TWO,
                json!([]),
                json!({}),
                "x.f() missing 2 required arguments: 'a' and 'b'",
            ),
            (
                THREE,
                json!([]),
                json!({}),
                "x.f() missing 3 required arguments: 'a', 'b', and 'c'",
            ),
            (
                TWO,
                json!([1, 2, 3]),
                json!({}),
                "x.f() takes 2 positional arguments but 3 were given",
            ),
            (
                TWO,
                json!([1]),
                json!({"x": 1}),
                "x.f() got an unexpected keyword argument 'x'",
            ),
            (
                TWO,
                json!([1]),
                json!({"a": 1}),
                "x.f() got multiple values for argument 'a'",
            ),
            (SOME, json!([1]), json!({}), "[1,null]"),
            (
                SOME,
                json!([1, 2, 3]),
                json!({}),
                "x.f() takes from 1 to 2 positional arguments but 3 were given",
            ),
            (ANY, json!([1, 2]), json!({"x": 3}), "[]"),
        ] {
            let job = job(args.clone(), kwargs.clone());
            let got = match task.bind(&job) {
                Ok(bound) => json!(bound.iter().map(|(_, v)| v).collect::<Vec<_>>()).to_string(),
                Err(failure) => {
                    assert_eq!(
                        (failure.code(), failure.status()),
                        (Code::InvalidArguments, 422)
                    );
                    failure.0.detail
                }
            };
            assert_eq!(got, want, "{args} {kwargs}");
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Given {
        id: String,
        #[serde(default)]
        amounts: Vec<String>,
        day: Option<String>,
    }

    #[test]
    fn typed_arguments_come_without_tags_and_a_wrong_type_is_named() {
        const TASK: Task = Task::new("x.f", &["id", "amounts?", "day?"], none);
        let tag = |kind: &str, value: Json| json!({"__type__": kind, "__value__": value});
        let given = job(
            json!([tag(
                "uuid",
                json!({"hex": "0192f3c2a0f47b1e8d5c6f7a8b9c0d1e"})
            )]),
            json!({"amounts": [tag("decimal", json!("1.50"))], "day": tag("date", json!("2026-10-30"))}),
        );
        let want = Given {
            id: "0192f3c2-a0f4-7b1e-8d5c-6f7a8b9c0d1e".into(),
            amounts: vec!["1.50".into()],
            day: Some("2026-10-30".into()),
        };
        assert_eq!(TASK.arguments::<Given>(&given).unwrap(), want);
        let wrong = TASK
            .arguments::<Given>(&job(json!([7]), json!({})))
            .unwrap_err();
        assert_eq!(
            wrong.0.detail,
            "x.f() argument 'id': invalid type: integer `7`, expected a string"
        );
    }
}
