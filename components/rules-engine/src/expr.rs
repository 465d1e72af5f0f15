//! Expressions: CEL's syntax, read by the `cel` crate, checked and evaluated here.
//!
//! Why not the crate's own evaluation: CEL lets an error disappear behind `&&` and `||` (its
//! `overflow || true` is true), while a rule about money must fail when it cannot be computed, so
//! that a person looks at it. Types and presence are therefore checked when a rule is stored, against
//! the facts that evaluation will bring: what is left to fail then is an overflow or a division by
//! zero, and that fails the whole evaluation. Every operator looks at the types it meets all the
//! same, because an expression may also be evaluated without having been checked. There are no loops, so a checked expression ends within its number of nodes.

use cel::parser::{ParseErrors, Parser};
use serde::{Deserialize, Serialize};

use crate::{
    Fact,
    facts::{Kind, Known},
    limits::{MESSAGE_CHARS_MAX, WHEN_BYTES_MAX, WHEN_DEPTH_MAX, WHEN_OPERATORS_MAX},
};

mod check;
mod eval;

use check::{Checker, Present};

/// Why an expression was refused when it was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(String);

/// Why an expression could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A whole number left 64 bits.
    #[error("a number is larger than 64 bits hold")]
    Overflow,
    /// `/ 0` or `% 0`.
    #[error("a division by zero")]
    DivisionByZero,
    /// An operator met a value it is not defined for.
    #[error("a value is not of the type its place needs")]
    Type,
    /// A fact that was not given, and not tested with `has()` before.
    #[error("the fact `{0}` is not given")]
    Absent(String),
}

/// A fact by its place in [`Condition::named`]. There are fewer than 128 (see `WHEN_OPERATORS_MAX`).
type Named = u8;

/// What was given for each fact a condition names.
type Values<'a> = [Option<&'a Fact>];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Node {
    Int(i64),
    Text(String),
    Bool(bool),
    List(Vec<Node>),
    Fact(Named),
    Has(Named),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Compare(Comparison, Box<[Node; 2]>),
    Compute(Arithmetic, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Search(Search, Box<[Node; 2]>),
    Size(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// A condition that was read, and checked when the facts it may name were known: then its names
/// exist, its types fit, and what may be absent is tested before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    root: Node,
    nodes: usize,
    named: Vec<String>,
}

impl Condition {
    /// Reads an expression that is true or false, and checks it when the facts it may name are known.
    ///
    /// # Errors
    /// [`ExprError`] in words for the rule's author.
    pub fn compile(source: &str, known: Option<&Known>) -> Result<Condition, ExprError> {
        if source.trim().is_empty() {
            return Err(ExprError("the expression is empty".into()));
        }
        if source.len() > WHEN_BYTES_MAX {
            return Err(ExprError(format!(
                "the expression is longer than {WHEN_BYTES_MAX} bytes"
            )));
        }
        if operators(source) > WHEN_OPERATORS_MAX {
            return Err(ExprError(format!(
                "the expression has more than {WHEN_OPERATORS_MAX} operators, points and brackets"
            )));
        }
        let parsed = Parser::new()
            .max_recursion_depth(WHEN_DEPTH_MAX)
            .parse(source)
            .map_err(|e| unreadable(&e))?;
        let mut checker = Checker::new(known);
        let checked = checker.check(&parsed, Present::default())?;
        if let Some(kind) = checked.kind.filter(|kind| *kind != Kind::Bool) {
            return Err(ExprError(format!(
                "the expression is {}, a rule needs true or false",
                kind.name()
            )));
        }
        Ok(Condition {
            root: checked.node,
            nodes: checker.nodes,
            named: checker.named,
        })
    }

    /// The steps one evaluation takes at most.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The facts it names, each once.
    pub fn named(&self) -> &[String] {
        &self.named
    }

    /// The facts it names that are not among its `values`.
    pub fn absent(&self, values: &Values<'_>) -> Vec<String> {
        let named = self.named.iter().zip(values);
        named
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether it holds with these `values` of the facts in [`Condition::named`].
    ///
    /// # Errors
    /// [`EvalError`]; nothing absorbs it.
    pub fn holds(&self, values: &Values<'_>) -> Result<bool, EvalError> {
        let facts = eval::Facts {
            named: &self.named,
            values,
        };
        facts.truth(&self.root)
    }
}

/// The parser's first complaint, in words for the rule's author.
fn unreadable(errors: &ParseErrors) -> ExprError {
    let Some(first) = errors.errors.first() else {
        return ExprError("the expression cannot be read".into());
    };
    if first.msg.contains("Recursion limit") {
        return ExprError(format!(
            "the expression is nested deeper than {WHEN_DEPTH_MAX}"
        ));
    }
    let said: String = first.msg.chars().take(MESSAGE_CHARS_MAX).collect();
    match first.pos {
        (line, column) if line > 0 => ExprError(format!("at {line}:{column}: {said}")),
        _ => ExprError(said),
    }
}

/// What an expression can nest by: each level of the parser's and of our recursion costs one of
/// these. Those inside strings count as well, which is simpler than to read strings twice.
fn operators(source: &str) -> usize {
    let symbols = source
        .bytes()
        .filter(|b| b"+-*/%<>=!?.([{".contains(b))
        .count();
    let words = source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    symbols + words.filter(|word| *word == "in").count()
}
