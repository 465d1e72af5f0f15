//! Every bound of this service, each with its reason. Expressions have no loops, so their size
//! bounds their run time: a set is evaluated in at most [`NODES_MAX`] steps.

/// Longest expression. The longest we have seen in such systems is a few hundred bytes.
pub const WHEN_BYTES_MAX: usize = 2_000;

/// Nesting of an expression while it is read: the parser recurses, and a component's stack is 1 MiB.
pub const WHEN_DEPTH_MAX: u16 = 32;

/// Operators, points and brackets of an expression: what parser, checker and evaluation recurse by.
/// A test compiles the worst ones on half of a component's stack.
pub const WHEN_OPERATORS_MAX: usize = 120;

/// Rules of one set: an operator reads them all.
pub const RULES_MAX: usize = 200;

/// Nodes of all expressions of a set together: about 0.2 ms of evaluation at worst.
pub const NODES_MAX: usize = 10_000;

/// Elements of a list, in an expression or as a fact.
pub const LIST_ITEMS_MAX: usize = 200;

/// Bytes of a text, in an expression or as a fact: searching in one is linear in it.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Bytes of a rule's id or of a reason code.
pub const NAME_BYTES_MAX: usize = 64;

/// Reason codes of one rule.
pub const REASONS_MAX: usize = 10;

/// Bytes of a description.
pub const DESCRIPTION_BYTES_MAX: usize = 500;

/// Largest weight; the weights of a full set still fit an `i64`.
pub const WEIGHT_MAX: i64 = 1_000;

/// Characters of the parser's complaint that are passed on; some quote the whole expression.
pub const MESSAGE_CHARS_MAX: usize = 200;
