//! Evaluates checked nodes: each at most once, left to right, errors never absorbed.

use super::{Arithmetic, Comparison, EvalError, Node, Search};
use crate::facts::{FactValue, Facts};

/// A value on its way through an expression; texts are borrowed, so nothing is allocated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Bool(bool),
}

fn scalar<'a>(node: &'a Node, facts: &'a Facts) -> Result<Value<'a>, EvalError> {
    Ok(match node {
        Node::Int(n) => Value::Int(*n),
        Node::Text(text) => Value::Text(text),
        Node::Bool(flag) => Value::Bool(*flag),
        Node::Fact(fact) => match facts.get(*fact) {
            Some(FactValue::Int(n)) => Value::Int(*n),
            Some(FactValue::Text(text)) => Value::Text(text),
            Some(FactValue::Bool(flag)) => Value::Bool(*flag),
            _ => return Err(EvalError::Type),
        },
        Node::Has(fact) => Value::Bool(facts.get(*fact).is_some()),
        Node::Not(operand) => Value::Bool(!truth(operand, facts)?),
        Node::Negate(operand) => Value::Int(
            int(operand, facts)?
                .checked_neg()
                .ok_or(EvalError::Overflow)?,
        ),
        Node::And(sides) => Value::Bool(truth(&sides[0], facts)? && truth(&sides[1], facts)?),
        Node::Or(sides) => Value::Bool(truth(&sides[0], facts)? || truth(&sides[1], facts)?),
        Node::If(parts) => {
            return scalar(
                if truth(&parts[0], facts)? {
                    &parts[1]
                } else {
                    &parts[2]
                },
                facts,
            );
        }
        Node::Compare(comparison, sides) => Value::Bool(compare(
            *comparison,
            scalar(&sides[0], facts)?,
            scalar(&sides[1], facts)?,
        )?),
        Node::Compute(arithmetic, sides) => Value::Int(compute(
            *arithmetic,
            int(&sides[0], facts)?,
            int(&sides[1], facts)?,
        )?),
        Node::In(sides) => Value::Bool(contains(&sides[1], scalar(&sides[0], facts)?, facts)?),
        Node::Search(search, sides) => {
            let (text, part) = (text(&sides[0], facts)?, text(&sides[1], facts)?);
            Value::Bool(match search {
                Search::Contains => text.contains(part),
                Search::StartsWith => text.starts_with(part),
                Search::EndsWith => text.ends_with(part),
            })
        }
        Node::Size(of) => Value::Int(size(of, facts)?),
        Node::List(_) => return Err(EvalError::Type),
    })
}

pub(super) fn truth(node: &Node, facts: &Facts) -> Result<bool, EvalError> {
    match scalar(node, facts)? {
        Value::Bool(flag) => Ok(flag),
        _ => Err(EvalError::Type),
    }
}

fn int(node: &Node, facts: &Facts) -> Result<i64, EvalError> {
    match scalar(node, facts)? {
        Value::Int(n) => Ok(n),
        _ => Err(EvalError::Type),
    }
}

fn text<'a>(node: &'a Node, facts: &'a Facts) -> Result<&'a str, EvalError> {
    match scalar(node, facts)? {
        Value::Text(text) => Ok(text),
        _ => Err(EvalError::Type),
    }
}

fn compare(comparison: Comparison, left: Value, right: Value) -> Result<bool, EvalError> {
    let order = match (left, right) {
        (Value::Int(left), Value::Int(right)) => left.cmp(&right),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(&right),
        _ => return Err(EvalError::Type),
    };
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

fn contains(list: &Node, item: Value, facts: &Facts) -> Result<bool, EvalError> {
    match list {
        Node::List(items) => {
            for candidate in items {
                if scalar(candidate, facts)? == item {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Node::If(parts) => contains(
            if truth(&parts[0], facts)? {
                &parts[1]
            } else {
                &parts[2]
            },
            item,
            facts,
        ),
        Node::Fact(fact) => match (facts.get(*fact), item) {
            (Some(FactValue::Ints(ints)), Value::Int(n)) => Ok(ints.contains(&n)),
            (Some(FactValue::Texts(texts)), Value::Text(text)) => {
                Ok(texts.iter().any(|t| t == text))
            }
            _ => Err(EvalError::Type),
        },
        _ => Err(EvalError::Type),
    }
}

/// Elements of a list, or Unicode code points of a text, as CEL counts them.
fn size(of: &Node, facts: &Facts) -> Result<i64, EvalError> {
    let count = match of {
        Node::List(items) => items.len(),
        Node::If(parts) => {
            return size(
                if truth(&parts[0], facts)? {
                    &parts[1]
                } else {
                    &parts[2]
                },
                facts,
            );
        }
        Node::Fact(fact) => match facts.get(*fact) {
            Some(FactValue::Ints(ints)) => ints.len(),
            Some(FactValue::Texts(texts)) => texts.len(),
            Some(FactValue::Text(text)) => text.chars().count(),
            _ => return Err(EvalError::Type),
        },
        other => text(other, facts)?.chars().count(),
    };
    i64::try_from(count).map_err(|_| EvalError::Overflow)
}
