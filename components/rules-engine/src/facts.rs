//! Facts: their types, those a rule may name, and those given to one evaluation.

use std::collections::BTreeMap;

use crate::{
    Error, Fact, Fault, Value,
    limits::{FACTS_MAX, LIST_ITEMS_MAX, TEXT_BYTES_MAX},
};

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

    fn of(value: &Value) -> Kind {
        match value {
            Value::Integer(_) => Kind::Int,
            Value::Text(_) => Kind::Text,
            Value::Boolean(_) => Kind::Bool,
            Value::Texts(_) => Kind::Texts,
            Value::Integers(_) => Kind::Ints,
        }
    }
}

/// A fact rules may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its type.
    pub kind: Kind,
    /// Whether it may be absent; then a rule tests it with `has()` before it uses it.
    pub optional: bool,
}

/// The facts rules may name, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known(BTreeMap<String, Declared>);

impl Known {
    /// Takes names and types; a fact that is in both is optional.
    pub fn new(required: &[Fact], optional: &[Fact]) -> Known {
        let declare = |fact: &Fact, optional: bool| {
            let kind = Kind::of(&fact.value);
            (fact.name.clone(), Declared { kind, optional })
        };
        Known(
            required
                .iter()
                .map(|fact| declare(fact, false))
                .chain(optional.iter().map(|fact| declare(fact, true)))
                .collect(),
        )
    }

    /// What is declared of `name`.
    pub fn get(&self, name: &str) -> Option<Declared> {
        self.0.get(name).copied()
    }

    /// All names, for messages.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

/// The facts of one evaluation, sorted by name.
#[derive(Clone, Debug)]
pub struct Given<'a>(Vec<&'a Fact>);

impl<'a> Given<'a> {
    /// Takes the facts when they keep the bounds and each name is there once.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] or, for a name that is there twice, [`Error::UnknownFact`]: which of
    /// the two is meant cannot be known.
    pub fn new(facts: &'a [Fact]) -> Result<Given<'a>, Error> {
        let fault = |message: String| Fault {
            rule: String::new(),
            message,
        };
        if facts.len() > FACTS_MAX {
            let message = format!("there are more than {FACTS_MAX} facts");
            return Err(Error::LimitExceeded(fault(message)));
        }
        if let Some(large) = facts.iter().find(|fact| !is_bounded(&fact.value)) {
            let message = format!(
                "the fact `{}` is longer than {TEXT_BYTES_MAX} bytes or {LIST_ITEMS_MAX} elements",
                large.name
            );
            return Err(Error::LimitExceeded(fault(message)));
        }
        let mut sorted: Vec<&Fact> = facts.iter().collect();
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let message = format!("the fact `{}` is given twice", twice[0].name);
            return Err(Error::UnknownFact(fault(message)));
        }
        Ok(Given(sorted))
    }

    /// The fact of this name.
    pub fn get(&self, name: &str) -> Option<&'a Fact> {
        let at = self.0.binary_search_by(|fact| fact.name.as_str().cmp(name));
        at.ok().map(|at| self.0[at])
    }
}

fn is_bounded(value: &Value) -> bool {
    let short = |text: &String| text.len() <= TEXT_BYTES_MAX;
    match value {
        Value::Integer(_) | Value::Boolean(_) => true,
        Value::Text(text) => short(text),
        Value::Texts(texts) => texts.len() <= LIST_ITEMS_MAX && texts.iter().all(short),
        Value::Integers(integers) => integers.len() <= LIST_ITEMS_MAX,
    }
}
