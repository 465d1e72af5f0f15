//! One SQL text, two dialects. A store writes the subset SQLite and Postgres share, with `$1…$n`
//! and `rows($1: id TEXT, amount BIGINT)` for a set of rows given as one parameter, so that the text
//! never depends on how many there are.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, OnceLock},
};

/// The SQLite form: `?n` for `$n` (SQLite reads `$2` as a *named* parameter and binds it wrongly),
/// and `json_each` for `rows(…)`. Compiled once per text and instance.
pub fn sqlite(sql: &'static str) -> &'static str {
    // Texts are few and 'static, so what is compiled is kept for good, by address.
    static COMPILED: OnceLock<Mutex<HashMap<(usize, usize), &'static str>>> = OnceLock::new();
    let Ok(mut compiled) = COMPILED.get_or_init(Mutex::default).lock() else {
        return Box::leak(compile_sqlite(sql).into_owned().into_boxed_str());
    };
    // Two texts share an address only when one is a prefix of the other, hence the length.
    compiled
        .entry((sql.as_ptr() as usize, sql.len()))
        .or_insert_with(|| match compile_sqlite(sql) {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => Box::leak(text.into_boxed_str()),
        })
}

fn compile_sqlite(sql: &'static str) -> Cow<'static, str> {
    if !sql.contains('$') {
        return Cow::Borrowed(sql);
    }
    let mut out = String::with_capacity(sql.len() + 64);
    let mut rest = sql;
    while let Some(at) = rest.find(['$', '\'', 'r']) {
        out.push_str(&rest[..at]);
        let found = &rest[at..];
        rest = if let Some(literal) = found.strip_prefix('\'') {
            let end = literal.find('\'').map_or(literal.len(), |e| e + 1);
            out.push('\'');
            out.push_str(&literal[..end]);
            &literal[end..]
        } else if let Some(after) = found.strip_prefix('$') {
            out.push('?');
            after
        } else if let Some((set, after)) = row_set(found).filter(|_| starts_word(sql, rest, at)) {
            set.write_sqlite(&mut out);
            after
        } else {
            out.push('r');
            &found[1..]
        };
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether the byte before `rest[at]` does not belong to a word, so that `arrows(` is no row set.
fn starts_word(sql: &str, rest: &str, at: usize) -> bool {
    let position = sql.len() - rest.len() + at;
    position == 0 || !sql.as_bytes()[position - 1].is_ascii_alphanumeric()
}

struct RowSet<'a> {
    parameter: &'a str,
    columns: Vec<&'a str>,
}

/// `rows($1: id TEXT, amount BIGINT)` at the start of `text`, and what follows it.
fn row_set(text: &str) -> Option<(RowSet<'_>, &str)> {
    let inner = text.strip_prefix("rows($")?;
    let end = inner.find(')')?;
    let (parameter, columns) = inner[..end].split_once(':')?;
    let columns = columns
        .split(',')
        .filter_map(|c| c.split_whitespace().next())
        .collect::<Vec<_>>();
    Some((
        RowSet {
            parameter: parameter.trim(),
            columns,
        },
        &inner[end + 1..],
    ))
}

impl RowSet<'_> {
    fn write_sqlite(&self, out: &mut String) {
        use std::fmt::Write;
        out.push_str("(SELECT ");
        for (i, column) in self.columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // A set of one column is an array of scalars: no inner array to take apart.
            let _ = match self.columns.len() {
                1 => write!(out, "{comma}value AS {column}"),
                _ => write!(out, "{comma}json_extract(value, '$[{i}]') AS {column}"),
            };
        }
        let _ = write!(out, " FROM json_each(?{}))", self.parameter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_and_literals_left_alone() {
        assert_eq!(
            sqlite("SELECT a FROM t WHERE b = $1 AND c = '$2' AND arrows(d) = $12"),
            "SELECT a FROM t WHERE b = ?1 AND c = '$2' AND arrows(d) = ?12"
        );
    }

    #[test]
    fn a_row_set_becomes_json_each() {
        assert_eq!(
            sqlite("SELECT * FROM rows($1: id TEXT) r"),
            "SELECT * FROM (SELECT value AS id FROM json_each(?1)) r"
        );
        assert_eq!(
            sqlite("INSERT INTO t (a, b) SELECT a, b FROM rows($2: a TEXT, b BIGINT) r"),
            "INSERT INTO t (a, b) SELECT a, b FROM (SELECT json_extract(value, '$[0]') AS a, \
             json_extract(value, '$[1]') AS b FROM json_each(?2)) r"
        );
    }
}
