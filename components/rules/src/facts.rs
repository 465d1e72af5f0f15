//! What rules may ask about: names and types, and the values of one request. Pure.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::limits::{LIST_ITEMS_MAX, TEXT_BYTES_MAX};

/// The type of a fact or of an expression. There are no floats: money is minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A 64-bit whole number.
    Int,
    /// Text.
    Text,
    /// True or false.
    Bool,
    /// A list of texts.
    Texts,
    /// A list of whole numbers.
    Ints,
}

impl Kind {
    /// As messages say it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Int => "int",
            Kind::Text => "string",
            Kind::Bool => "bool",
            Kind::Texts => "list of strings",
            Kind::Ints => "list of ints",
        }
    }
}

/// A fact rules may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name behind `facts.`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be absent; then a rule tests it with `has()` before it uses it.
    pub optional: bool,
    /// What it says.
    pub about: &'static str,
}

const fn fact(name: &'static str, kind: Kind, about: &'static str) -> Fact {
    Fact {
        name,
        kind,
        optional: false,
        about,
    }
}

/// The facts of a payment, as payment sends them.
pub const FACTS: &[Fact] = &[
    fact(
        "amount_minor",
        Kind::Int,
        "minor units of the source currency",
    ),
    fact(
        "amount_major",
        Kind::Int,
        "whole units of the source currency",
    ),
    fact(
        "currency",
        Kind::Text,
        "ISO 4217 code of the source currency",
    ),
    fact(
        "target_currency",
        Kind::Text,
        "ISO 4217 code of the payee's wallet",
    ),
    fact(
        "cross_currency",
        Kind::Bool,
        "whether the currencies differ",
    ),
    Fact {
        name: "amount_eur_minor",
        kind: Kind::Int,
        optional: true,
        about: "the equivalent in euro cents, rounded up; absent when there is no rate",
    },
    fact(
        "payer_owner",
        Kind::Text,
        "subject that owns the payer's wallet",
    ),
    fact(
        "payee_owner",
        Kind::Text,
        "subject that owns the payee's wallet",
    ),
    fact(
        "same_owner",
        Kind::Bool,
        "whether one subject owns both wallets",
    ),
];

/// Names one of [`FACTS`]. Stored by name, so that the list may grow and change its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FactId(usize);

impl FactId {
    /// The fact with this name.
    pub fn named(name: &str) -> Option<FactId> {
        FACTS.iter().position(|fact| fact.name == name).map(FactId)
    }

    /// What is declared of it.
    pub fn fact(self) -> &'static Fact {
        // Only `named` makes one, from a position in the list.
        &FACTS[self.0]
    }

    /// A bit of its own; the list has fewer than 64 facts, which a test holds.
    pub fn bit(self) -> u64 {
        1 << self.0
    }
}

impl Serialize for FactId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.fact().name)
    }
}

impl<'de> Deserialize<'de> for FactId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FactId, D::Error> {
        let name = String::deserialize(deserializer)?;
        FactId::named(&name).ok_or_else(|| de::Error::custom(format!("no fact `{name}`")))
    }
}

/// A value of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// [`Kind::Int`].
    Int(i64),
    /// [`Kind::Text`].
    Text(String),
    /// [`Kind::Bool`].
    Bool(bool),
    /// [`Kind::Texts`].
    Texts(Vec<String>),
    /// [`Kind::Ints`].
    Ints(Vec<i64>),
}

impl FactValue {
    /// As it stands in explanations.
    pub fn json(&self) -> Value {
        match self {
            FactValue::Int(n) => (*n).into(),
            FactValue::Text(text) => text.as_str().into(),
            FactValue::Bool(flag) => (*flag).into(),
            FactValue::Texts(texts) => texts.clone().into(),
            FactValue::Ints(ints) => ints.clone().into(),
        }
    }
}

/// Why facts were refused: the fact's name and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct FactError {
    /// The fact.
    pub name: String,
    /// What is wrong.
    pub fault: String,
}

/// The facts of one request, each of its declared type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts(Vec<Option<FactValue>>);

impl Facts {
    /// Reads an object of facts: every required one, none that is not declared, each of its type.
    ///
    /// # Errors
    /// [`FactError`] for the first that does not fit.
    pub fn read(object: &Map<String, Value>) -> Result<Facts, FactError> {
        let error = |name: &str, fault: String| FactError {
            name: name.chars().take(64).collect(),
            fault,
        };
        if let Some(name) = object.keys().find(|name| FactId::named(name).is_none()) {
            let known: Vec<_> = FACTS.iter().map(|fact| fact.name).collect();
            return Err(error(
                name,
                format!("there is no such fact; facts are {}", known.join(", ")),
            ));
        }
        let values = FACTS.iter().map(|fact| match object.get(fact.name) {
            // JSON null is how a caller without an optional field says that it is absent.
            None | Some(Value::Null) if fact.optional => Ok(None),
            None => Err(error(
                fact.name,
                format!("the fact `{}` is missing", fact.name),
            )),
            Some(value) => match typed(value, fact.kind) {
                Some(value) => Ok(Some(value)),
                None => Err(error(
                    fact.name,
                    format!(
                        "the fact `{}` is one {} within the limits, not this",
                        fact.name,
                        fact.kind.name()
                    ),
                )),
            },
        });
        values.collect::<Result<_, _>>().map(Facts)
    }

    /// The value of a fact, `None` when it is absent.
    pub fn get(&self, id: FactId) -> Option<&FactValue> {
        self.0.get(id.0)?.as_ref()
    }
}

fn typed(value: &Value, kind: Kind) -> Option<FactValue> {
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| text.len() <= TEXT_BYTES_MAX)
            .map(str::to_owned)
    };
    let items = || {
        value
            .as_array()
            .filter(|items| items.len() <= LIST_ITEMS_MAX)
    };
    match kind {
        Kind::Int => value.as_i64().map(FactValue::Int),
        Kind::Text => text(value).map(FactValue::Text),
        Kind::Bool => value.as_bool().map(FactValue::Bool),
        Kind::Texts => items()?
            .iter()
            .map(text)
            .collect::<Option<_>>()
            .map(FactValue::Texts),
        Kind::Ints => items()?
            .iter()
            .map(Value::as_i64)
            .collect::<Option<_>>()
            .map(FactValue::Ints),
    }
}
