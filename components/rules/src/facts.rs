//! What rules may ask about: names and types, and the values of one request. Pure.

use serde_json::{Map, Value};

use crate::{
    engine,
    limits::{LIST_ITEMS_MAX, TEXT_BYTES_MAX},
    velocity::Velocity,
};

/// The type of a fact. There are no floats: money is minor units.
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

    /// Any value of this type.
    fn example(self) -> engine::Value {
        match self {
            Kind::Int => engine::Value::Integer(0),
            Kind::Text => engine::Value::Text(String::new()),
            Kind::Bool => engine::Value::Boolean(false),
            Kind::Texts => engine::Value::Texts(Vec::new()),
            Kind::Ints => engine::Value::Integers(Vec::new()),
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
    /// Whether this service adds it where the request does not bring it.
    pub added: bool,
    /// What it says.
    pub about: &'static str,
}

const fn fact(name: &'static str, kind: Kind, about: &'static str) -> Fact {
    Fact {
        name,
        kind,
        optional: false,
        added: false,
        about,
    }
}

const fn added(name: &'static str, about: &'static str) -> Fact {
    Fact {
        added: true,
        ..fact(name, Kind::Int, about)
    }
}

/// The facts of a payment, as payment sends them, and what its payer did before.
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
        added: false,
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
    added(
        "payer_count_1h",
        "payments the payer asked for in the last hour, before this one",
    ),
    added(
        "payer_count_24h",
        "payments the payer asked for in the last 24 hours, before this one",
    ),
    added(
        "payer_sum_eur_minor_1h",
        "their equivalents in euro cents; those without a rate are left out",
    ),
    added("payer_sum_eur_minor_24h", "the same for 24 hours"),
];

/// The facts of which `optional` is so, for the engine to check rules against.
pub fn declared(optional: bool) -> Vec<engine::Fact> {
    FACTS
        .iter()
        .filter(|fact| fact.optional == optional)
        .map(|fact| engine::Fact {
            name: fact.name.into(),
            value: fact.kind.example(),
        })
        .collect()
}

/// A value as it stands in explanations.
pub fn json(value: engine::Value) -> Value {
    match value {
        engine::Value::Integer(n) => n.into(),
        engine::Value::Text(text) => text.into(),
        engine::Value::Boolean(flag) => flag.into(),
        engine::Value::Texts(texts) => texts.into(),
        engine::Value::Integers(ints) => ints.into(),
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
pub struct Facts(Vec<engine::Fact>);

impl Facts {
    /// Reads an object of facts: every required one, none that is not declared, each of its type.
    /// Velocity facts it does not bring are taken from `velocity`.
    ///
    /// # Errors
    /// [`FactError`] for the first that does not fit.
    pub fn read(object: &Map<String, Value>, velocity: &Velocity) -> Result<Facts, FactError> {
        let error = |name: &str, fault: String| FactError {
            name: name.chars().take(64).collect(),
            fault,
        };
        let is_known = |name: &str| FACTS.iter().any(|fact| fact.name == name);
        if let Some(name) = object.keys().find(|name| !is_known(name)) {
            let known: Vec<_> = FACTS.iter().map(|fact| fact.name).collect();
            return Err(error(
                name,
                format!("there is no such fact; facts are {}", known.join(", ")),
            ));
        }
        let facts = FACTS.iter().map(|fact| match object.get(fact.name) {
            // JSON null is how a caller without an optional field says that it is absent.
            None | Some(Value::Null) if fact.optional => Ok(None),
            None => match velocity.get(fact.name) {
                Some(n) => Ok(Some(engine::Fact {
                    name: fact.name.into(),
                    value: engine::Value::Integer(n),
                })),
                None => Err(error(
                    fact.name,
                    format!("the fact `{}` is missing", fact.name),
                )),
            },
            Some(value) => match typed(value, fact.kind) {
                Some(value) => Ok(Some(engine::Fact {
                    name: fact.name.into(),
                    value,
                })),
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
        let present = facts.filter_map(Result::transpose);
        present.collect::<Result<_, _>>().map(Facts)
    }

    /// As they were read, to be kept.
    pub fn json(&self) -> Value {
        let named = self.0.iter();
        Value::Object(
            named
                .map(|fact| (fact.name.clone(), json(fact.value.clone())))
                .collect(),
        )
    }

    /// Those that are there, as the engine takes them.
    pub fn given(&self) -> &[engine::Fact] {
        &self.0
    }
}

fn typed(value: &Value, kind: Kind) -> Option<engine::Value> {
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
        Kind::Int => value.as_i64().map(engine::Value::Integer),
        Kind::Text => text(value).map(engine::Value::Text),
        Kind::Bool => value.as_bool().map(engine::Value::Boolean),
        Kind::Texts => items()?
            .iter()
            .map(text)
            .collect::<Option<_>>()
            .map(engine::Value::Texts),
        Kind::Ints => items()?
            .iter()
            .map(Value::as_i64)
            .collect::<Option<_>>()
            .map(engine::Value::Integers),
    }
}
