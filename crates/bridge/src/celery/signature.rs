//! Celery's signatures: tasks that are to be sent later, as `link`, `chain` and `chord` carry them
//! (celery/canvas.py). Arguments stay the text they came as, so no number is rounded on the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// A JSON value as its text.
pub(crate) type Raw = Box<RawValue>;

/// A JSON value from its parts; the caller knows that `text` is JSON.
pub(crate) fn raw(text: String) -> Raw {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Any value as JSON text.
pub(crate) fn to_raw(value: &impl Serialize) -> Raw {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// `null` is as good as an absent field to Celery.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A task with some of its arguments and the options it will be sent with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Signature {
    pub(crate) task: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) args: Vec<Raw>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) kwargs: BTreeMap<String, Raw>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) options: BTreeMap<String, Raw>,
    #[serde(default)]
    pub(crate) subtask_type: Option<String>,
    /// Takes no result of the task before it.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) immutable: bool,
}

/// What a signature stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Task,
    Chain,
    Group,
    Chord,
}

impl Signature {
    pub(crate) fn kind(&self) -> Kind {
        match self.subtask_type.as_deref().unwrap_or(&self.task) {
            "chain" | "celery.chain" => Kind::Chain,
            "group" | "celery.group" => Kind::Group,
            "chord" | "celery.chord" => Kind::Chord,
            _ => Kind::Task,
        }
    }

    /// An option, when it is there, is not null and has the type asked for.
    pub(crate) fn option<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        let raw = self.options.get(name)?;
        serde_json::from_str::<Option<T>>(raw.get()).ok().flatten()
    }

    pub(crate) fn set(&mut self, name: &str, value: &impl Serialize) {
        self.options.insert(name.to_owned(), to_raw(value));
    }

    /// `options.task_id`.
    pub(crate) fn id(&self) -> Option<String> {
        self.option("task_id")
    }

    /// Its id; a signature that has none is given one.
    pub(crate) fn ensure_id(&mut self) -> String {
        self.id().unwrap_or_else(|| {
            let id = uuid::Uuid::now_v7().to_string();
            self.set("task_id", &id);
            id
        })
    }

    /// Signatures in `kwargs`: `tasks` of a chain or group. A group may stand where a list could.
    pub(crate) fn members(&self, name: &str) -> Vec<Signature> {
        let Some(raw) = self.kwargs.get(name) else {
            return Vec::new();
        };
        if let Ok(list) = serde_json::from_str::<Vec<Signature>>(raw.get()) {
            return list;
        }
        serde_json::from_str::<Signature>(raw.get())
            .map(|group| group.members("tasks"))
            .unwrap_or_default()
    }

    /// One signature in `kwargs`.
    pub(crate) fn member(&self, name: &str) -> Option<Signature> {
        let raw = self.kwargs.get(name)?;
        serde_json::from_str::<Option<Signature>>(raw.get())
            .ok()
            .flatten()
    }

    /// Signatures in an option that holds one or several: `link`, `link_error`, `chain`.
    pub(crate) fn listed(&self, name: &str) -> Vec<Signature> {
        if let Some(list) = self.option::<Vec<Signature>>(name) {
            return list;
        }
        self.option::<Signature>(name).into_iter().collect()
    }

    /// Adds to an option that holds several.
    pub(crate) fn add_listed(&mut self, name: &str, more: &[Signature]) {
        if !more.is_empty() {
            let mut all = self.listed(name);
            all.extend_from_slice(more);
            self.set(name, &all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_unknown_options_stay_as_they_came() {
        let text = r#"{"task":"a.b","args":[1.10,123456789012345678901234567890],"kwargs":{},"options":{"task_id":"x","own":{"k":1}},"subtask_type":null,"immutable":true}"#;
        let signature: Signature = serde_json::from_str(text).expect("a signature");
        assert_eq!(
            serde_json::to_string(&signature).expect("JSON"),
            text.replace("\"own\":{\"k\":1}", "").replace(
                "{\"task_id\":\"x\",}",
                "{\"own\":{\"k\":1},\"task_id\":\"x\"}"
            )
        );
        assert_eq!(
            (signature.kind(), signature.id().as_deref()),
            (Kind::Task, Some("x"))
        );
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let signature: Signature =
            serde_json::from_str(r#"{"task":"celery.group","args":null,"kwargs":{"tasks":[{"task":"a.b"}]},"options":null,"immutable":null}"#)
                .expect("a signature");
        assert_eq!(signature.kind(), Kind::Group);
        assert_eq!(signature.members("tasks").len(), 1);
    }
}
