//! Reads the parser's tree: names, types, and which optional facts are there at each place.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{Arithmetic, Comparison, ExprError, Named, Node, Search};
use crate::{
    facts::{Kind, Known},
    limits::{LIST_ITEMS_MAX, TEXT_BYTES_MAX},
};

/// Optional facts known to be there, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present(u128);

impl Present {
    fn only(fact: Named) -> Present {
        Present(1 << fact)
    }
    fn and(self, other: Present) -> Present {
        Present(self.0 | other.0)
    }
    fn either(self, other: Present) -> Present {
        Present(self.0 & other.0)
    }
    fn holds(self, fact: Named) -> bool {
        self.0 & Present::only(fact).0 != 0
    }
}

pub(super) struct Checked {
    pub(super) node: Node,
    /// `None` when it is only known at evaluation.
    pub(super) kind: Option<Kind>,
    /// Facts that are there when it is true, and when it is false.
    when_true: Present,
    when_false: Present,
}

pub(super) struct Checker<'a> {
    known: Option<&'a Known>,
    pub(super) nodes: usize,
    pub(super) named: Vec<String>,
}

impl<'a> Checker<'a> {
    /// Without `known` facts, every name is taken and of any type.
    pub(super) fn new(known: Option<&'a Known>) -> Self {
        Checker {
            known,
            nodes: 0,
            named: Vec::new(),
        }
    }

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
                let (fact, name) = (self.named(&select.operand, &select.field)?, &select.field);
                if select.test {
                    return Ok(Checked {
                        node: Node::Has(fact),
                        kind: Some(Kind::Bool),
                        when_true: Present::only(fact),
                        when_false: Present::default(),
                    });
                }
                let declared = self.known.and_then(|known| known.get(name));
                if declared.is_some_and(|fact| fact.optional) && !present.holds(fact) {
                    return Err(ExprError(format!(
                        "`facts.{name}` may be absent: test it first, `has(facts.{name}) && …`"
                    )));
                }
                Ok(value(Node::Fact(fact), declared.map(|fact| fact.kind)))
            }
            Expr::Ident(name) => Err(self.unknown(name)),
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
                let kinds = items.iter().filter_map(|item| item.kind);
                let kind = match kinds.clone().next() {
                    Some(Kind::Int) => Some(Kind::Ints),
                    Some(Kind::Text) => Some(Kind::Texts),
                    None if !items.is_empty() => None,
                    _ => return Err(ExprError("a list holds strings or whole numbers".into())),
                };
                if kinds
                    .clone()
                    .any(|other| Some(other) != kinds.clone().next())
                {
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
                    kind: Some(Kind::Bool),
                })
            }
            (operators::LOGICAL_OR, None, [left, right]) => {
                let left = self.of(left, present, Kind::Bool, "||")?;
                let right = self.of(right, present.and(left.when_false), Kind::Bool, "||")?;
                Ok(Checked {
                    when_true: left.when_true.either(right.when_true),
                    when_false: left.when_false.and(right.when_false),
                    node: Node::Or(Box::new([left.node, right.node])),
                    kind: Some(Kind::Bool),
                })
            }
            (operators::LOGICAL_NOT, None, [operand]) => {
                let operand = self.of(operand, present, Kind::Bool, "!")?;
                Ok(Checked {
                    when_true: operand.when_false,
                    when_false: operand.when_true,
                    node: Node::Not(Box::new(operand.node)),
                    kind: Some(Kind::Bool),
                })
            }
            (operators::CONDITIONAL, None, [test, yes, no]) => {
                let test = self.of(test, present, Kind::Bool, "? :")?;
                let yes = self.check(yes, present.and(test.when_true))?;
                let no = self.like(no, present.and(test.when_false), yes.kind, "? :")?;
                Ok(value(
                    Node::If(Box::new([test.node, yes.node, no.node])),
                    yes.kind.or(no.kind),
                ))
            }
            (operators::NEGATE, None, [operand]) => {
                let operand = self.of(operand, present, Kind::Int, "-")?;
                Ok(value(Node::Negate(Box::new(operand.node)), Kind::Int))
            }
            (operators::IN, None, [item, list]) => {
                let item = self.check(item, present)?;
                let kind = match item.kind {
                    Some(Kind::Int) => Some(Kind::Ints),
                    Some(Kind::Text) => Some(Kind::Texts),
                    None => None,
                    Some(other) => {
                        return Err(ExprError(format!(
                            "`in` looks for a string or an int, not for {}",
                            other.name()
                        )));
                    }
                };
                let list = self.like(list, present, kind, "in")?;
                if let Some(kind) = list.kind.filter(|kind| !is_list(*kind)) {
                    return Err(ExprError(format!(
                        "`in` looks into a list, not into {}",
                        kind.name()
                    )));
                }
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
        if let Some(kind) = of.kind.filter(|k| matches!(k, Kind::Int | Kind::Bool)) {
            return Err(ExprError(format!(
                "size() is of a string or a list, not of {}",
                kind.name()
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
        let comparable = |side: &Checked| match side.kind {
            Some(kind) if is_list(kind) || (ordered && kind == Kind::Bool) => Err(ExprError(
                format!("`{symbol}` does not compare {}", kind.name()),
            )),
            _ => Ok(()),
        };
        comparable(&left)?;
        let right = self.like(right, present, left.kind, symbol)?;
        comparable(&right)?;
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
        self.like(expr, present, Some(kind), what)
    }

    /// Checks an expression that must have a kind, as far as both are known.
    fn like(
        &mut self,
        expr: &IdedExpr,
        present: Present,
        kind: Option<Kind>,
        what: &str,
    ) -> Result<Checked, ExprError> {
        let checked = self.check(expr, present)?;
        match (kind, checked.kind) {
            (Some(kind), Some(other)) if kind != other => Err(ExprError(format!(
                "`{what}` needs {} here, not {}",
                kind.name(),
                other.name()
            ))),
            _ => Ok(checked),
        }
    }

    /// The fact that `operand.field` names; only `facts.<name>` names one.
    fn named(&mut self, operand: &IdedExpr, field: &str) -> Result<Named, ExprError> {
        match &operand.expr {
            Expr::Ident(root) if root == "facts" => {}
            Expr::Ident(root) => return Err(self.unknown(&format!("{root}.{field}"))),
            _ => return Err(self.unknown(field)),
        }
        if self.known.is_some_and(|known| known.get(field).is_none()) {
            return Err(self.unknown(&format!("facts.{field}")));
        }
        let at = self.named.iter().position(|name| name == field);
        let at = at.unwrap_or_else(|| {
            self.named.push(field.to_owned());
            self.named.len() - 1
        });
        // A bit of `Present` for each; the number of points in an expression is bounded below that.
        match Named::try_from(at) {
            Ok(at) if u32::from(at) < u128::BITS => Ok(at),
            _ => Err(ExprError("the expression names too many facts".into())),
        }
    }

    fn unknown(&self, name: &str) -> ExprError {
        let known = self.known.map_or(String::new(), |known| {
            format!(" and one of {}", known.names())
        });
        ExprError(format!(
            "`{}` is unknown; rules name `facts.`{known}",
            cut(name)
        ))
    }
}

fn is_list(kind: Kind) -> bool {
    matches!(kind, Kind::Texts | Kind::Ints)
}

/// A checked node that says nothing about which facts are there.
fn value(node: Node, kind: impl Into<Option<Kind>>) -> Checked {
    Checked {
        node,
        kind: kind.into(),
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
