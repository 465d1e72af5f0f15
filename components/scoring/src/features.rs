//! The features of one request as the model takes them: typed, nothing it does not know, everything it
//! needs. Pure.

use serde_json::{Map, Value};

use crate::{
    limits::{FEATURES_MAX, LIST_ITEMS_MAX, TEXT_BYTES_MAX},
    scorer,
};

/// Why features were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// No model takes such a value.
    #[error("{fault}")]
    Malformed {
        /// The feature, empty for all of them.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// This model does not take them.
    #[error("{fault}")]
    NotTaken {
        /// The feature.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// The model asks for a type that the interface does not have.
    #[error("the scorer says that `{name}` is of the type `{kind}`, which does not exist")]
    Scorer {
        /// The feature.
        name: String,
        /// Its type.
        kind: String,
    },
}

/// The type of a feature. There are no floats: money is minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Boolean,
    Text,
    Integers,
    Texts,
}

impl Kind {
    fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "integer" => Kind::Integer,
            "boolean" => Kind::Boolean,
            "text" => Kind::Text,
            "integers" => Kind::Integers,
            "texts" => Kind::Texts,
            _ => return None,
        })
    }

    fn read(self, value: &Value) -> Option<scorer::Value> {
        let list = || value.as_array();
        Some(match self {
            Kind::Integer => scorer::Value::Integer(value.as_i64()?),
            Kind::Boolean => scorer::Value::Boolean(value.as_bool()?),
            Kind::Text => scorer::Value::Text(value.as_str()?.to_owned()),
            Kind::Integers => {
                scorer::Value::Integers(list()?.iter().map(Value::as_i64).collect::<Option<_>>()?)
            }
            Kind::Texts => {
                let texts = list()?.iter().map(|text| text.as_str().map(str::to_owned));
                scorer::Value::Texts(texts.collect::<Option<_>>()?)
            }
        })
    }
}

/// Whether a value could be some model's feature.
fn is_well_formed(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(n) => n.as_i64().is_some(),
        Value::String(text) => text.len() <= TEXT_BYTES_MAX,
        Value::Array(items) => {
            items.len() <= LIST_ITEMS_MAX
                && (items.iter().all(|item| item.as_i64().is_some())
                    || items
                        .iter()
                        .all(|item| item.as_str().is_some_and(|t| t.len() <= TEXT_BYTES_MAX)))
        }
        Value::Object(_) => false,
    }
}

/// Reads the features that the model `taken` by what it says it takes; null means absent.
///
/// # Errors
/// [`FeatureError`] for the first that does not fit.
pub fn read(
    object: &Map<String, Value>,
    taken: &[scorer::Feature],
) -> Result<Vec<scorer::Fact>, FeatureError> {
    let short = |name: &str| name.chars().take(64).collect::<String>();
    if object.len() > FEATURES_MAX {
        return Err(FeatureError::Malformed {
            name: String::new(),
            fault: format!("{} features, {FEATURES_MAX} at most", object.len()),
        });
    }
    if let Some((name, _)) = object.iter().find(|(_, value)| !is_well_formed(value)) {
        return Err(FeatureError::Malformed {
            name: short(name),
            fault: format!(
                "a feature is a whole number of 64 bits (money in minor units), a boolean, a text of \
                 at most {TEXT_BYTES_MAX} bytes, or a list of at most {LIST_ITEMS_MAX} texts or whole \
                 numbers"
            ),
        });
    }
    let mut facts = Vec::new();
    for feature in taken {
        let Some(kind) = Kind::parse(&feature.kind) else {
            return Err(FeatureError::Scorer {
                name: short(&feature.name),
                kind: short(&feature.kind),
            });
        };
        let not_taken = |fault: String| FeatureError::NotTaken {
            name: short(&feature.name),
            fault,
        };
        match object.get(&feature.name) {
            None | Some(Value::Null) if !feature.required => {}
            None | Some(Value::Null) => {
                return Err(not_taken(format!(
                    "the model needs the feature `{}`",
                    short(&feature.name)
                )));
            }
            Some(value) => facts.push(scorer::Fact {
                name: feature.name.clone(),
                value: kind.read(value).ok_or_else(|| {
                    not_taken(format!(
                        "the model takes `{}` as {}",
                        short(&feature.name),
                        feature.kind
                    ))
                })?,
            }),
        }
    }
    Ok(facts)
}

/// The features a model was given, as they are kept.
pub fn json(facts: &[scorer::Fact]) -> Value {
    let value = |value: &scorer::Value| match value {
        scorer::Value::Integer(n) => Value::from(*n),
        scorer::Value::Boolean(flag) => Value::from(*flag),
        scorer::Value::Text(text) => Value::from(text.as_str()),
        scorer::Value::Integers(ints) => Value::from(ints.as_slice()),
        scorer::Value::Texts(texts) => Value::from(texts.as_slice()),
    };
    let named = facts
        .iter()
        .map(|fact| (fact.name.clone(), value(&fact.value)));
    Value::Object(named.collect())
}
