//! Reads the parser's tree: names, types, and which optional facts are there at each place.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{Arithmetic, Comparison, ExprError, Node, Search};
use crate::{
    facts::{FACTS, FactId, Kind},
    limits::{LIST_ITEMS_MAX, TEXT_BYTES_MAX},
};

/// Optional facts known to be there, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present(u64);

impl Present {
    fn and(self, other: Present) -> Present {
        Present(self.0 | other.0)
    }
    fn either(self, other: Present) -> Present {
        Present(self.0 & other.0)
    }
    fn holds(self, fact: FactId) -> bool {
        self.0 & fact.bit() != 0
    }
}

pub(super) struct Checked {
    pub(super) node: Node,
    pub(super) kind: Kind,
    /// Facts that are there when it is true, and when it is false.
    when_true: Present,
    when_false: Present,
}

#[derive(Default)]
pub(super) struct Checker {
    pub(super) nodes: usize,
    pub(super) named: Vec<FactId>,
}

impl Checker {
    pub(super) fn check(
        &mut self,
        expr: &IdedExpr,
        present: Present,
    ) -> Result<Checked, ExprError> {
        self.nodes += 1;
        match &expr.expr {
            Expr::Literal(literal) => {
                let (node, kind) = constant(literal)?;
                Ok(value(node, kind))
            }
            Expr::Select(select) => {
                let fact = named(&select.operand, &select.field)?;
                self.named.push(fact);
                let declared = fact.fact();
                if select.test {
                    let there = Present(fact.bit());
                    return Ok(Checked {
                        node: Node::Has(fact),
                        kind: Kind::Bool,
                        when_true: there,
                        when_false: Present::default(),
                    });
                }
                if declared.optional && !present.holds(fact) {
                    let name = declared.name;
                    return Err(ExprError(format!(
                        "`facts.{name}` may be absent: test it first, `has(facts.{name}) && …`"
                    )));
                }
                Ok(value(Node::Fact(fact), declared.kind))
            }
            Expr::Ident(name) => Err(unknown(name)),
            Expr::List(list) => {
                if list.elements.len() > LIST_ITEMS_MAX {
                    return Err(ExprError(format!(
                        "a list has at most {LIST_ITEMS_MAX} elements"
                    )));
                }
                let items: Vec<Checked> = list
                    .elements
                    .iter()
                    .map(|e| self.check(e, present))
                    .collect::<Result<_, _>>()?;
                let kind = match items.first().map(|item| item.kind) {
                    Some(Kind::Int) => Kind::Ints,
                    Some(Kind::Text) => Kind::Texts,
                    _ => return Err(ExprError("a list holds strings or whole numbers".into())),
                };
                if items.iter().any(|item| item.kind != items[0].kind) {
                    return Err(ExprError("the elements of a list are of one type".into()));
                }
                Ok(value(
                    Node::List(items.into_iter().map(|item| item.node).collect()),
                    kind,
                ))
            }
            Expr::Call(call) => self.call(call, present),
            Expr::Comprehension(_) => Err(ExprError(
                "all, exists, map and filter are not available: rules have no loops".into(),
            )),
            Expr::Map(_) | Expr::Struct(_) => {
                Err(ExprError("maps and messages are not available".into()))
            }
            Expr::Unspecified => Err(ExprError("the expression cannot be read".into())),
        }
    }

    fn call(&mut self, call: &CallExpr, present: Present) -> Result<Checked, ExprError> {
        let name = call.func_name.as_str();
        match (name, &call.target, call.args.as_slice()) {
            (operators::LOGICAL_AND, None, [left, right]) => {
                let left = self.of(left, present, Kind::Bool, "&&")?;
                let right = self.of(right, present.and(left.when_true), Kind::Bool, "&&")?;
                Ok(Checked {
                    when_true: left.when_true.and(right.when_true),
                    when_false: left.when_false.either(right.when_false),
                    node: Node::And(Box::new([left.node, right.node])),
                    kind: Kind::Bool,
                })
            }
            (operators::LOGICAL_OR, None, [left, right]) => {
                let left = self.of(left, present, Kind::Bool, "||")?;
                let right = self.of(right, present.and(left.when_false), Kind::Bool, "||")?;
                Ok(Checked {
                    when_true: left.when_true.either(right.when_true),
                    when_false: left.when_false.and(right.when_false),
                    node: Node::Or(Box::new([left.node, right.node])),
                    kind: Kind::Bool,
                })
            }
            (operators::LOGICAL_NOT, None, [operand]) => {
                let operand = self.of(operand, present, Kind::Bool, "!")?;
                Ok(Checked {
                    when_true: operand.when_false,
                    when_false: operand.when_true,
                    node: Node::Not(Box::new(operand.node)),
                    kind: Kind::Bool,
                })
            }
            (operators::CONDITIONAL, None, [test, yes, no]) => {
                let test = self.of(test, present, Kind::Bool, "? :")?;
                let yes = self.check(yes, present.and(test.when_true))?;
                let no = self.of(no, present.and(test.when_false), yes.kind, "? :")?;
                Ok(value(
                    Node::If(Box::new([test.node, yes.node, no.node])),
                    yes.kind,
                ))
            }
            (operators::NEGATE, None, [operand]) => {
                let operand = self.of(operand, present, Kind::Int, "-")?;
                Ok(value(Node::Negate(Box::new(operand.node)), Kind::Int))
            }
            (operators::IN, None, [item, list]) => {
                let item = self.check(item, present)?;
                let kind = match item.kind {
                    Kind::Int => Kind::Ints,
                    Kind::Text => Kind::Texts,
                    other => {
                        return Err(ExprError(format!(
                            "`in` looks for a string or an int, not for {}",
                            other.name()
                        )));
                    }
                };
                let list = self.of(list, present, kind, "in")?;
                Ok(value(
                    Node::In(Box::new([item.node, list.node])),
                    Kind::Bool,
                ))
            }
            ("size", None, [of]) => self.size(of, present),
            ("size", Some(of), []) => self.size(of, present),
            (_, Some(text), [part]) => {
                let search = search(name).ok_or_else(|| unavailable(name))?;
                let text = self.of(text, present, Kind::Text, name)?;
                let part = self.of(part, present, Kind::Text, name)?;
                Ok(value(
                    Node::Search(search, Box::new([text.node, part.node])),
                    Kind::Bool,
                ))
            }
            (_, None, [left, right]) => self.binary(name, left, right, present),
            _ => Err(unavailable(name)),
        }
    }

    fn size(&mut self, of: &IdedExpr, present: Present) -> Result<Checked, ExprError> {
        let of = self.check(of, present)?;
        if matches!(of.kind, Kind::Int | Kind::Bool) {
            return Err(ExprError(format!(
                "size() is of a string or a list, not of {}",
                of.kind.name()
            )));
        }
        Ok(value(Node::Size(Box::new(of.node)), Kind::Int))
    }

    fn binary(
        &mut self,
        name: &str,
        left: &IdedExpr,
        right: &IdedExpr,
        present: Present,
    ) -> Result<Checked, ExprError> {
        let symbol = name.trim_matches('_');
        if let Some(arithmetic) = arithmetic(name) {
            let left = self.of(left, present, Kind::Int, symbol)?;
            let right = self.of(right, present, Kind::Int, symbol)?;
            return Ok(value(
                Node::Compute(arithmetic, Box::new([left.node, right.node])),
                Kind::Int,
            ));
        }
        let comparison = comparison(name).ok_or_else(|| unavailable(name))?;
        let left = self.check(left, present)?;
        let ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        if matches!(left.kind, Kind::Texts | Kind::Ints) || (ordered && left.kind == Kind::Bool) {
            return Err(ExprError(format!(
                "`{symbol}` does not compare {}",
                left.kind.name()
            )));
        }
        let right = self.of(right, present, left.kind, symbol)?;
        Ok(value(
            Node::Compare(comparison, Box::new([left.node, right.node])),
            Kind::Bool,
        ))
    }

    fn of(
        &mut self,
        expr: &IdedExpr,
        present: Present,
        kind: Kind,
        what: &str,
    ) -> Result<Checked, ExprError> {
        let checked = self.check(expr, present)?;
        if checked.kind == kind {
            return Ok(checked);
        }
        Err(ExprError(format!(
            "`{what}` needs {} here, not {}",
            kind.name(),
            checked.kind.name()
        )))
    }
}

/// A checked node that says nothing about which facts are there.
fn value(node: Node, kind: Kind) -> Checked {
    Checked {
        node,
        kind,
        when_true: Present::default(),
        when_false: Present::default(),
    }
}

/// An author's text in a message, cut.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn unavailable(name: &str) -> ExprError {
    ExprError(format!(
        "`{}` is not available here",
        cut(name.trim_matches('_'))
    ))
}

fn unknown(name: &str) -> ExprError {
    let known: Vec<_> = FACTS.iter().map(|fact| fact.name).collect();
    ExprError(format!(
        "`{}` is unknown; rules name `facts.` and one of {}",
        cut(name),
        known.join(", ")
    ))
}

/// The fact that `operand.field` names; only `facts.<name>` names one.
fn named(operand: &IdedExpr, field: &str) -> Result<FactId, ExprError> {
    match &operand.expr {
        Expr::Ident(root) if root == "facts" => {
            FactId::named(field).ok_or_else(|| unknown(&format!("facts.{field}")))
        }
        Expr::Ident(root) => Err(unknown(&format!("{root}.{field}"))),
        _ => Err(unknown(field)),
    }
}

fn constant(literal: &LiteralValue) -> Result<(Node, Kind), ExprError> {
    match literal {
        LiteralValue::Int(n) => Ok((Node::Int(*n.inner()), Kind::Int)),
        LiteralValue::Boolean(flag) => Ok((Node::Bool(*flag.inner()), Kind::Bool)),
        LiteralValue::String(text) if text.inner().len() <= TEXT_BYTES_MAX => {
            Ok((Node::Text(text.inner().to_owned()), Kind::Text))
        }
        LiteralValue::String(_) => Err(ExprError(format!(
            "a string has at most {TEXT_BYTES_MAX} bytes"
        ))),
        LiteralValue::Double(_) => Err(ExprError(
            "there are no floats: write amounts in minor units".into(),
        )),
        LiteralValue::UInt(_) | LiteralValue::Bytes(_) | LiteralValue::Null => Err(ExprError(
            "literals are whole numbers, strings, true and false".into(),
        )),
    }
}

fn search(name: &str) -> Option<Search> {
    Some(match name {
        "contains" => Search::Contains,
        "startsWith" => Search::StartsWith,
        "endsWith" => Search::EndsWith,
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<Arithmetic> {
    Some(match name {
        operators::ADD => Arithmetic::Add,
        operators::SUBSTRACT => Arithmetic::Subtract,
        operators::MULTIPLY => Arithmetic::Multiply,
        operators::DIVIDE => Arithmetic::Divide,
        operators::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        operators::EQUALS => Comparison::Equal,
        operators::NOT_EQUALS => Comparison::NotEqual,
        operators::LESS => Comparison::Less,
        operators::LESS_EQUALS => Comparison::LessOrEqual,
        operators::GREATER => Comparison::Greater,
        operators::GREATER_EQUALS => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
