//! Every bound of the engine, each with its reason. Expressions have no loops, so their size bounds
//! their run time: a set is evaluated in at most [`NODES_MAX`] steps.

/// Longest text of a rule set: the largest one within the other bounds, and its compiled form.
pub const RULE_SET_BYTES_MAX: usize = 2 << 20;

/// Longest expression. The longest we have seen in such systems is a few hundred bytes.
pub const WHEN_BYTES_MAX: usize = 2_000;

/// Nesting of an expression while it is read: the parser recurses, and a component's stack is 1 MiB.
pub const WHEN_DEPTH_MAX: u16 = 32;

/// Operators, points and brackets of an expression: what parser, checker and evaluation recurse by.
/// A test compiles the worst ones on half of a component's stack. A fact is named with a point, so
/// an expression names fewer than 128.
pub const WHEN_OPERATORS_MAX: usize = 120;

/// Rules of one set: an operator reads them all.
pub const RULES_MAX: usize = 200;

/// Nodes of all expressions of a set together: about 0.2 ms of evaluation at worst.
pub const NODES_MAX: usize = 10_000;

/// Facts of one evaluation.
pub const FACTS_MAX: usize = 200;

/// Elements of a list, in an expression or as a fact.
pub const LIST_ITEMS_MAX: usize = 200;

/// Bytes of a text, in an expression or as a fact: searching in one is linear in it.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Characters of the parser's complaint that are passed on; some quote the whole expression.
pub const MESSAGE_CHARS_MAX: usize = 200;

/// Rule sets kept parsed: the active one, one that is tried beside it, and their predecessors.
pub const PARSED_MAX: usize = 4;
