//! Evaluates nodes: each at most once, left to right, errors never absorbed.

use std::cmp::Ordering;

use super::{Arithmetic, Comparison, EvalError, Named, Node, Search, Values};
use crate::Value;

/// A value on its way through an expression; texts are borrowed, so nothing is allocated.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Int(i64),
    Text(&'a str),
    Bool(bool),
}

impl Scalar<'_> {
    fn compare(self, other: Scalar) -> Result<Ordering, EvalError> {
        match (self, other) {
            (Scalar::Int(a), Scalar::Int(b)) => Ok(a.cmp(&b)),
            (Scalar::Text(a), Scalar::Text(b)) => Ok(a.cmp(b)),
            (Scalar::Bool(a), Scalar::Bool(b)) => Ok(a.cmp(&b)),
            _ => Err(EvalError::Type),
        }
    }
}

/// The facts one condition names, and what was given for them.
pub(super) struct Facts<'a> {
    pub(super) named: &'a [String],
    pub(super) values: &'a Values<'a>,
}

impl<'a> Facts<'a> {
    pub(super) fn truth(&self, node: &'a Node) -> Result<bool, EvalError> {
        match self.scalar(node)? {
            Scalar::Bool(flag) => Ok(flag),
            _ => Err(EvalError::Type),
        }
    }

    fn int(&self, node: &'a Node) -> Result<i64, EvalError> {
        match self.scalar(node)? {
            Scalar::Int(n) => Ok(n),
            _ => Err(EvalError::Type),
        }
    }

    fn text(&self, node: &'a Node) -> Result<&'a str, EvalError> {
        match self.scalar(node)? {
            Scalar::Text(text) => Ok(text),
            _ => Err(EvalError::Type),
        }
    }

    fn given(&self, fact: Named) -> Option<&'a Value> {
        let value = self.values.get(usize::from(fact))?;
        value.map(|fact| &fact.value)
    }

    fn fact(&self, fact: Named) -> Result<&'a Value, EvalError> {
        self.given(fact).ok_or_else(|| {
            let name = self.named.get(usize::from(fact));
            EvalError::Absent(name.cloned().unwrap_or_default())
        })
    }

    /// The branch a `? :` takes.
    fn branch(&self, parts: &'a [Node; 3]) -> Result<&'a Node, EvalError> {
        Ok(if self.truth(&parts[0])? {
            &parts[1]
        } else {
            &parts[2]
        })
    }

    fn scalar(&self, node: &'a Node) -> Result<Scalar<'a>, EvalError> {
        Ok(match node {
            Node::Int(n) => Scalar::Int(*n),
            Node::Text(text) => Scalar::Text(text),
            Node::Bool(flag) => Scalar::Bool(*flag),
            Node::Fact(fact) => match self.fact(*fact)? {
                Value::Integer(n) => Scalar::Int(*n),
                Value::Text(text) => Scalar::Text(text),
                Value::Boolean(flag) => Scalar::Bool(*flag),
                Value::Integers(_) | Value::Texts(_) => return Err(EvalError::Type),
            },
            Node::Has(fact) => Scalar::Bool(self.given(*fact).is_some()),
            Node::Not(operand) => Scalar::Bool(!self.truth(operand)?),
            Node::Negate(operand) => {
                let negated = self.int(operand)?.checked_neg();
                Scalar::Int(negated.ok_or(EvalError::Overflow)?)
            }
            Node::And(sides) => Scalar::Bool(self.truth(&sides[0])? && self.truth(&sides[1])?),
            Node::Or(sides) => Scalar::Bool(self.truth(&sides[0])? || self.truth(&sides[1])?),
            Node::If(parts) => return self.scalar(self.branch(parts)?),
            Node::Compare(comparison, sides) => Scalar::Bool(compare(
                *comparison,
                self.scalar(&sides[0])?,
                self.scalar(&sides[1])?,
            )?),
            Node::Compute(arithmetic, sides) => Scalar::Int(compute(
                *arithmetic,
                self.int(&sides[0])?,
                self.int(&sides[1])?,
            )?),
            Node::In(sides) => {
                let item = self.scalar(&sides[0])?;
                Scalar::Bool(self.contains(&sides[1], item)?)
            }
            Node::Search(search, sides) => {
                let (text, part) = (self.text(&sides[0])?, self.text(&sides[1])?);
                Scalar::Bool(match search {
                    Search::Contains => text.contains(part),
                    Search::StartsWith => text.starts_with(part),
                    Search::EndsWith => text.ends_with(part),
                })
            }
            Node::Size(of) => Scalar::Int(self.size(of)?),
            Node::List(_) => return Err(EvalError::Type),
        })
    }

    fn contains(&self, list: &'a Node, item: Scalar) -> Result<bool, EvalError> {
        match list {
            Node::List(items) => {
                for candidate in items {
                    if self.scalar(candidate)?.compare(item)?.is_eq() {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::If(parts) => self.contains(self.branch(parts)?, item),
            Node::Fact(fact) => match (self.fact(*fact)?, item) {
                (Value::Integers(integers), Scalar::Int(n)) => Ok(integers.contains(&n)),
                (Value::Texts(texts), Scalar::Text(text)) => Ok(texts.iter().any(|t| t == text)),
                _ => Err(EvalError::Type),
            },
            _ => Err(EvalError::Type),
        }
    }

    /// Elements of a list, or Unicode code points of a text, as CEL counts them.
    fn size(&self, of: &'a Node) -> Result<i64, EvalError> {
        let count = match of {
            Node::List(items) => items.len(),
            Node::If(parts) => return self.size(self.branch(parts)?),
            Node::Fact(fact) => match self.fact(*fact)? {
                Value::Integers(integers) => integers.len(),
                Value::Texts(texts) => texts.len(),
                Value::Text(text) => text.chars().count(),
                Value::Integer(_) | Value::Boolean(_) => return Err(EvalError::Type),
            },
            other => self.text(other)?.chars().count(),
        };
        i64::try_from(count).map_err(|_| EvalError::Overflow)
    }
}

fn compare(comparison: Comparison, left: Scalar, right: Scalar) -> Result<bool, EvalError> {
    let order = left.compare(right)?;
    Ok(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

fn compute(arithmetic: Arithmetic, left: i64, right: i64) -> Result<i64, EvalError> {
    let result = match arithmetic {
        Arithmetic::Add => left.checked_add(right),
        Arithmetic::Subtract => left.checked_sub(right),
        Arithmetic::Multiply => left.checked_mul(right),
        Arithmetic::Divide | Arithmetic::Remainder if right == 0 => {
            return Err(EvalError::DivisionByZero);
        }
        Arithmetic::Divide => left.checked_div(right),
        Arithmetic::Remainder => left.checked_rem(right),
    };
    result.ok_or(EvalError::Overflow)
}
