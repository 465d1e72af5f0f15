//! Expressions: CEL's syntax, read by the `cel` crate, checked and evaluated here. Pure.
//!
//! Why not the crate's own evaluation: CEL lets an error disappear behind `&&` and `||` (its
//! `overflow || true` is true), while a rule about money must fail when it cannot be computed, so
//! that a person looks at it. Types and presence are therefore checked when a rule is stored: what
//! is left to fail at evaluation is an overflow or a division by zero, and that fails the whole
//! evaluation. There are no loops, so a checked expression ends within its number of nodes.

use cel::{
    common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators},
    parser::Parser,
};

use crate::{
    facts::{FACTS, FactValue, Facts, Kind, position},
    limits::{LIST_ITEMS_MAX, TEXT_BYTES_MAX, WHEN_BYTES_MAX, WHEN_DEPTH_MAX},
};

/// Why an expression was refused when it was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(String);

/// Why an expression could not be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A whole number left 64 bits.
    #[error("a number is larger than 64 bits hold")]
    Overflow,
    /// `/ 0` or `% 0`.
    #[error("a division by zero")]
    DivisionByZero,
    /// A value was not of the type that was checked: a defect, reported instead of trusted.
    #[error("a value is not of its declared type")]
    Type,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Int(i64),
    Text(String),
    Bool(bool),
    List(Vec<Node>),
    Fact(usize),
    Has(usize),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// A checked condition: its names exist, its types fit, what may be absent is tested before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    root: Node,
    nodes: usize,
    named: Vec<usize>,
}

impl Condition {
    /// Reads and checks an expression that is true or false.
    ///
    /// # Errors
    /// [`ExprError`] in words for the rule's author.
    pub fn compile(source: &str) -> Result<Condition, ExprError> {
        if source.trim().is_empty() {
            return Err(ExprError("the expression is empty".into()));
        }
        if source.len() > WHEN_BYTES_MAX {
            return Err(ExprError(format!(
                "the expression is longer than {WHEN_BYTES_MAX} bytes"
            )));
        }
        let parsed = Parser::new()
            .max_recursion_depth(WHEN_DEPTH_MAX)
            .parse(source)
            .map_err(|e| {
                let first = e
                    .errors
                    .first()
                    .map(|e| format!("at {}:{}: {}", e.pos.0, e.pos.1, e.msg));
                ExprError(first.unwrap_or_else(|| "the expression cannot be read".into()))
            })?;
        let mut checker = Checker::default();
        let checked = checker.check(&parsed, Present::default())?;
        if checked.kind != Kind::Bool {
            return Err(ExprError(format!(
                "the expression is {}, a rule needs true or false",
                checked.kind.name()
            )));
        }
        checker.named.sort_unstable();
        checker.named.dedup();
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

    /// Positions of the facts it names, ascending.
    pub fn named(&self) -> &[usize] {
        &self.named
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// [`EvalError`]; nothing absorbs it.
    pub fn holds(&self, facts: &Facts) -> Result<bool, EvalError> {
        truth(&self.root, facts)
    }
}

/// Optional facts known to be there, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Present(u64);

impl Present {
    fn and(self, other: Present) -> Present {
        Present(self.0 | other.0)
    }
    fn either(self, other: Present) -> Present {
        Present(self.0 & other.0)
    }
    fn holds(self, fact: usize) -> bool {
        self.0 & (1 << fact) != 0
    }
}

struct Checked {
    node: Node,
    kind: Kind,
    /// Facts that are there when it is true, and when it is false.
    when_true: Present,
    when_false: Present,
}

#[derive(Default)]
struct Checker {
    nodes: usize,
    named: Vec<usize>,
}

impl Checker {
    fn check(&mut self, expr: &IdedExpr, present: Present) -> Result<Checked, ExprError> {
        self.nodes += 1;
        match &expr.expr {
            Expr::Literal(literal) => {
                let (node, kind) = constant(literal)?;
                Ok(value(node, kind))
            }
            Expr::Select(select) => {
                let fact = named(&select.operand, &select.field)?;
                self.named.push(fact);
                let declared = &FACTS[fact];
                if select.test {
                    let there = Present(1 << fact);
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
fn named(operand: &IdedExpr, field: &str) -> Result<usize, ExprError> {
    match &operand.expr {
        Expr::Ident(root) if root == "facts" => {
            position(field).ok_or_else(|| unknown(&format!("facts.{field}")))
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

fn truth(node: &Node, facts: &Facts) -> Result<bool, EvalError> {
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
