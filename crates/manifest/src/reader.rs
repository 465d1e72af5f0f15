//! A walk over TOML that reports every problem with its line instead of stopping at the first, and
//! that knows at the end which keys nobody asked for.
//!
//! serde would stop at the first problem and, for untagged forms such as `source`, say only that
//! no variant fits. Here each value is asked for what it must be, a wrong one is noted and read as
//! `None`, and the walk goes on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::names;
use crate::problem::{ManifestError, Problem};

/// The file being read and what was found wrong with it so far.
pub(crate) struct Source<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
        }
    }

    /// The file as TOML, or why it is none.
    pub(crate) fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(table),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.report(at, String::new(), format!("not TOML: {}", error.message()));
                None
            }
        }
    }

    fn report(&self, at: usize, path: String, text: String) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.problems
            .borrow_mut()
            .push(Problem { line, path, text });
    }

    /// `value` if nothing was wrong, else all that was.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ManifestError> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ManifestError { problems }),
        }
    }
}

/// A place in the file, kept for problems that are only seen later.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    source: &'a Source<'a>,
    at: usize,
    path: String,
}

impl<'a> Place<'a> {
    pub(crate) fn report(&self, text: impl Into<String>) {
        self.source.report(self.at, self.path.clone(), text.into());
    }

    fn below(&self, at: usize, path: &str) -> Self {
        Self {
            source: self.source,
            at,
            path: format!("{}{path}", self.path),
        }
    }
}

/// One value of the file.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub(crate) place: Place<'a>,
    value: &'a DeValue<'a>,
}

impl<'a> Node<'a> {
    /// Notes that the value is not what it must be.
    fn expected(&self, what: &str) {
        self.place
            .report(format!("must be {what}, not {}", kind(self.value)));
    }

    pub(crate) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(crate) fn is_bool(&self) -> bool {
        self.value.is_bool()
    }

    pub(crate) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    pub(crate) fn string(&self) -> Option<String> {
        let text = self.value.as_str();
        if text.is_none() {
            self.expected("a string");
        }
        text.map(str::to_owned)
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.expected("true or false");
        }
        value
    }

    /// A whole number within `range`.
    pub(crate) fn number(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let Some(integer) = self.value.as_integer() else {
            self.expected("a whole number");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            self.place.report(format!(
                "must be from {low} to {high}, not {}",
                integer.as_str()
            ));
        }
        number
    }

    /// A whole number within `range`, whose end must fit `u32`.
    pub(crate) fn number_u32(&self, range: &RangeInclusive<u64>) -> Option<u32> {
        self.number(range)
            .and_then(|number| u32::try_from(number).ok())
    }

    /// A string that `rule` accepts.
    pub(crate) fn named(&self, rule: fn(&str) -> Result<(), String>) -> Option<String> {
        let text = self.string()?;
        match rule(&text) {
            Ok(()) => Some(text),
            Err(reason) => {
                self.place.report(format!("`{text}`: {reason}"));
                None
            }
        }
    }

    /// The entries of an array; a wrong value is an empty one.
    pub(crate) fn items(&self) -> Vec<Node<'a>> {
        let Some(array) = self.value.as_array() else {
            self.expected("an array");
            return Vec::new();
        };
        array
            .iter()
            .enumerate()
            .map(|(index, item)| Node {
                place: self.place.below(item.span().start, &format!("[{index}]")),
                value: item.get_ref(),
            })
            .collect()
    }

    /// The tables of an array, written `[[path]]`.
    pub(crate) fn tables(&self) -> Vec<Table<'a>> {
        if self.is_table() {
            let path = self.place.path.split('[').next().unwrap_or_default();
            self.place
                .report(format!("may be there several times: write `[[{path}]]`"));
            return Vec::new();
        }
        self.items().iter().filter_map(Node::table).collect()
    }

    /// The strings of an array.
    pub(crate) fn strings(&self) -> Vec<String> {
        self.items().iter().filter_map(Node::string).collect()
    }

    /// The strings of an array that `rule` accepts; repeats are problems.
    pub(crate) fn names(&self, rule: fn(&str) -> Result<(), String>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for item in self.items() {
            let Some(name) = item.named(rule) else {
                continue;
            };
            if names.contains(&name) {
                item.place
                    .report(format!("`{name}` is there twice; remove one"));
            } else {
                names.push(name);
            }
        }
        names
    }

    pub(crate) fn table(&self) -> Option<Table<'a>> {
        let Some(table) = self.value.as_table() else {
            self.expected("a table");
            return None;
        };
        Some(Table {
            place: self.place.clone(),
            table,
            asked: Vec::new(),
        })
    }

    /// The value as JSON; dates become strings.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        use serde_json::Value;
        let json = match self.value {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Datetime(time) => Value::from(time.to_string()),
            DeValue::Integer(integer) => {
                match i64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Value::from(number),
                    Err(_) => {
                        self.place.report("is too large; write it as a string");
                        return None;
                    }
                }
            }
            DeValue::Float(float) => match float.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => Value::from(number),
                _ => {
                    self.place
                        .report("JSON has no such number; write it as a string");
                    return None;
                }
            },
            DeValue::Array(_) => self
                .items()
                .iter()
                .map(Node::json)
                .collect::<Option<Vec<_>>>()
                .map(Value::Array)?,
            DeValue::Table(_) => Value::Object(
                self.table()?
                    .entries()
                    .into_iter()
                    .map(|(key, node)| node.json().map(|value| (key, value)))
                    .collect::<Option<_>>()?,
            ),
        };
        Some(json)
    }
}

/// One table of the file. [`finish`](Table::finish) reports the keys that were not asked for.
pub(crate) struct Table<'a> {
    pub(crate) place: Place<'a>,
    table: &'a DeTable<'a>,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(crate) fn root(source: &'a Source<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            place: Place {
                source,
                at: 0,
                path: String::new(),
            },
            table: table.get_ref(),
            asked: Vec::new(),
        }
    }

    /// The value of `key`, if it is there.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<Node<'a>> {
        self.asked.push(key);
        self.table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(name, value)| self.node(name, value))
    }

    /// The value of `key`, which must be there; `example` is what to write.
    pub(crate) fn required(&mut self, key: &'static str, example: &str) -> Option<Node<'a>> {
        let node = self.get(key);
        if node.is_none() {
            self.place
                .report(format!("`{key}` is missing; write for example `{example}`"));
        }
        node
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Option<String> {
        self.get(key)?.string()
    }

    pub(crate) fn strings(&mut self, key: &'static str) -> Vec<String> {
        self.get(key).map(|node| node.strings()).unwrap_or_default()
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> bool {
        self.get(key)
            .and_then(|node| node.boolean())
            .unwrap_or_default()
    }

    /// All keys and values, for tables whose keys the manifest's author chooses.
    pub(crate) fn entries(&self) -> Vec<(String, Node<'a>)> {
        self.table
            .iter()
            .map(|(name, value)| (name.get_ref().to_string(), self.node(name, value)))
            .collect()
    }

    /// A table of strings by names of the author's choice.
    pub(crate) fn string_map(&mut self, key: &'static str) -> BTreeMap<String, String> {
        self.get(key)
            .and_then(|node| node.table())
            .into_iter()
            .flat_map(|table| table.entries())
            .filter_map(|(key, node)| Some((key, node.string()?)))
            .collect()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.keys().any(|name| name.get_ref() == key)
    }

    /// Reports each key that was not asked for.
    pub(crate) fn finish(self) {
        for (name, _) in self.table.iter() {
            let key: &str = name.get_ref();
            if !self.asked.contains(&key) {
                let hint = names::did_you_mean(key, self.asked.iter().copied());
                Place {
                    at: name.span().start,
                    ..self.place.clone()
                }
                .report(format!("unknown key `{key}`{hint}"));
            }
        }
    }

    fn node(
        &self,
        name: &Spanned<std::borrow::Cow<'a, str>>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Node<'a> {
        let key: &str = name.get_ref();
        let is_bare = key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let dot = if self.place.path.is_empty() { "" } else { "." };
        let path = if is_bare {
            format!("{dot}{key}")
        } else {
            format!("{dot}\"{key}\"")
        };
        Node {
            // The key's own line: the span of a table's value starts at its first key.
            place: self.place.below(name.span().start, &path),
            value: value.get_ref(),
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
