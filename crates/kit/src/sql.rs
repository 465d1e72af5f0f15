//! One SQL text, two dialects. A store writes the subset SQLite and PostgreSQL share, with `$1…$n`
//! and `rows($1: id TEXT, amount BIGINT)` for a set of rows given as one parameter, so that the text
//! never depends on how many there are.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Arc, Mutex, OnceLock},
};

use crate::{
    Expect, Value,
    db::{DbError, Param},
};

/// The SQLite form: `?n` for `$n` (SQLite reads `$2` as a *named* parameter and binds it wrongly),
/// and `json_each` for `rows(…)`. Compiled once per text and instance.
pub fn sqlite(sql: &'static str) -> &'static str {
    // Texts are few and 'static, so what is compiled is kept for good, by address.
    static COMPILED: OnceLock<Mutex<HashMap<(usize, usize), &'static str>>> = OnceLock::new();
    let compile = || match sql.contains('$') {
        true => Box::leak(sqlite_form(&parse(sql)).into_boxed_str()),
        false => sql,
    };
    let Ok(mut compiled) = COMPILED.get_or_init(Mutex::default).lock() else {
        return compile();
    };
    // Two texts share an address only when one is a prefix of the other, hence the length.
    compiled
        .entry((sql.as_ptr() as usize, sql.len()))
        .or_insert_with(compile)
}

/// A statement as it is sent to PostgreSQL.
pub struct Statement {
    /// With every parameter's type written beside it: what a server infers from the context is not
    /// always what is sent (it takes the 1 of `$1 + 1` for an INTEGER).
    pub text: Arc<str>,
    /// What stands for its `$1…$n`.
    pub params: Vec<Param>,
}

/// One query or modifying statement, its parameters, and for a step of a batch how many rows it must
/// affect.
pub type Part<'a> = (&'static str, &'a [Value], Option<Expect>);

/// The PostgreSQL form of one query.
pub fn postgres(sql: &'static str, params: &[Value]) -> Result<Statement, DbError> {
    compiled(&[(sql, params, None)], |texts, _| texts.concat())
}

/// The PostgreSQL form of a batch: one statement, so that all of it happens or nothing does and no
/// transaction is ever open between two messages. Each step is a part of its WITH; none sees what
/// another one does. When a count is off it fails on a cast whose text names the step (see
/// [`failed_step`]); the text depends on the count, or it would fail when it is planned.
///
/// A step that must affect a number of rows does without its `ON CONFLICT … DO NOTHING`: a key that
/// is taken fails the batch either way (see [`step_of_key`]), and a third of an INSERT's time is the
/// server's precaution for going on after one.
pub fn postgres_batch(steps: &[Part<'_>]) -> Result<Statement, DbError> {
    let mut statement = compiled(steps, |texts, params| {
        let (mut text, mut counts) = (String::from("WITH "), String::from(" SELECT "));
        let mut expected = params;
        for (i, (part, (.., expect))) in texts.iter().zip(steps).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let count = format!("(SELECT count(*) FROM s{i})");
            let part = match expect {
                Some(Expect::Rows(_)) => strict(part),
                _ => part,
            };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}s{i} AS ({part} RETURNING 1)");
            let _ = match expect {
                Some(Expect::Rows(_)) => {
                    expected += 1;
                    write!(
                        counts,
                        "{comma}CAST(CASE WHEN {count} = ${expected}::BIGINT THEN '1' \
                         ELSE '{MARK}{i}:' || CAST({count} AS TEXT) || ';' END AS BIGINT)"
                    )
                }
                _ => write!(counts, "{comma}{count}"),
            };
        }
        text + &counts
    })?;
    let expected = steps.iter().filter_map(|(.., expect)| match expect {
        Some(Expect::Rows(expected)) => Some(Param::Int(expected.cast_signed())),
        _ => None,
    });
    statement.params.extend(expected);
    Ok(statement)
}

const MARK: &str = "innover:";

/// Which step's count was off, and what it was, by the server's message.
pub fn failed_step(message: &str) -> Option<(usize, u64)> {
    let (_, found) = message.split_once(MARK)?;
    let (step, count) = found.split_once(';')?.0.split_once(':')?;
    Some((step.parse().ok()?, count.parse().ok()?))
}

/// Without the clause that passes over keys that are taken.
fn strict(part: &str) -> &str {
    match part.rfind("ON CONFLICT") {
        Some(at) if part.trim_end().ends_with("DO NOTHING") => part[..at].trim_end(),
        _ => part,
    }
}

/// The step that has met a taken key, named by its table or by itself (then it begins with the
/// table's name).
pub fn step_of_key(steps: &[Part<'_>], key: &str) -> Option<usize> {
    let of_table = |table: &str| {
        let rest = key.strip_prefix(table)?;
        (rest.is_empty() || rest.starts_with('_')).then_some(table.len())
    };
    let matching = steps.iter().enumerate().filter_map(|(i, (sql, ..))| {
        // Else it fails as any constraint does.
        if strict(sql) == *sql {
            return None;
        }
        let table = sql
            .trim_start()
            .strip_prefix("INSERT INTO ")?
            .split([' ', '(', '\n'])
            .next()?;
        Some((of_table(table)?, i))
    });
    // Of `case` and `case_events` the longer one.
    matching.max().map(|(_, i)| i)
}

/// What is kept of a compilation.
#[derive(Clone)]
struct Kept {
    text: Arc<str>,
    /// For each parameter that is a set of rows, its columns' types.
    sets: Arc<[Vec<Type>]>,
}

#[derive(Clone, Copy)]
enum Type {
    BigInt,
    Text,
}

/// Compiles each part, its parameters numbered on from those of the part before, and keeps what
/// `join` makes of them (it is told how many parameters there are) for the next time.
fn compiled(
    parts: &[Part<'_>],
    join: impl FnOnce(&[String], usize) -> String,
) -> Result<Statement, DbError> {
    /// Texts, times the kinds of values they are given. More are a mistake, and start over.
    const KEPT_MAX: usize = 2_048;
    static COMPILED: OnceLock<Mutex<HashMap<Vec<usize>, Kept>>> = OnceLock::new();
    let key: Vec<usize> = parts.iter().flat_map(key).collect();
    let lock = || COMPILED.get_or_init(Mutex::default).lock().ok();
    let known = lock().and_then(|compiled| compiled.get(&key).cloned());
    let kept = known.unwrap_or_else(|| {
        let (mut texts, mut sets, mut before) = (Vec::new(), Vec::new(), 0);
        for (sql, values, _) in parts {
            let pieces = parse(sql);
            let own: Vec<Vec<Type>> = (1..=values.len()).map(|n| columns(&pieces, n)).collect();
            let numbers: Vec<usize> = values
                .iter()
                .zip(&own)
                .map(|(value, columns)| {
                    let first = before + 1;
                    before += match value {
                        Value::Int(_) | Value::Text(_) => 1,
                        Value::Null => 0,
                        Value::Rows(_) => columns.len(),
                    };
                    first
                })
                .collect();
            texts.push(postgres_form(&pieces, values, &numbers));
            sets.extend(own);
        }
        let kept = Kept {
            text: join(&texts, before).into(),
            sets: sets.into(),
        };
        if let Some(mut compiled) = lock() {
            if compiled.len() >= KEPT_MAX {
                compiled.clear();
            }
            compiled.insert(key, kept.clone());
        }
        kept
    });
    let values = parts.iter().flat_map(|(_, values, _)| values.iter());
    let mut params = Vec::new();
    for (value, columns) in values.zip(kept.sets.iter()) {
        match value {
            Value::Int(n) => params.push(Param::Int(*n)),
            Value::Text(text) => params.push(Param::Text(text.clone())),
            Value::Null => {}
            Value::Rows(rows) => arrays(rows, columns, &mut params)?,
        }
    }
    Ok(Statement {
        text: kept.text,
        params,
    })
}

/// What the compiled text depends on: the text, what kinds of values it gets, whether rows are
/// counted.
fn key((sql, values, expect): &Part<'_>) -> impl Iterator<Item = usize> {
    let counted = usize::from(matches!(expect, Some(Expect::Rows(_))));
    let kinds = values.iter().map(|value| match value {
        Value::Int(_) => 2,
        Value::Text(_) => 3,
        Value::Null => 4,
        Value::Rows(_) => 5,
    });
    [sql.as_ptr() as usize, sql.len(), counted]
        .into_iter()
        .chain(kinds)
}

/// The types of the columns of the set that is parameter `n`: those of the longest list it is read
/// with.
fn columns(pieces: &[Piece<'_>], n: usize) -> Vec<Type> {
    let sets = pieces.iter().filter_map(|piece| match piece {
        Piece::Rows(set) if set.parameter == n => Some(&set.columns),
        _ => None,
    });
    let longest = sets.max_by_key(|columns| columns.len());
    let types = longest.into_iter().flatten().map(|(_, of)| match *of {
        of if of.eq_ignore_ascii_case("BIGINT") => Type::BigInt,
        _ => Type::Text,
    });
    types.collect()
}

/// One array per column. The rows are put in the order of their first column: statements that update
/// the same rows then take them one after the other, and none waits for what the other one holds.
fn arrays(rows: &[Vec<Value>], columns: &[Type], params: &mut Vec<Param>) -> Result<(), DbError> {
    let mut rows: Vec<&Vec<Value>> = rows.iter().collect();
    rows.sort_by(|a, b| match (a.first(), b.first()) {
        (Some(Value::Text(a)), Some(Value::Text(b))) => a.cmp(b),
        (Some(Value::Int(a)), Some(Value::Int(b))) => a.cmp(b),
        _ => std::cmp::Ordering::Equal,
    });
    for (i, of) in columns.iter().enumerate() {
        let misfit = |found: Option<&Value>| {
            DbError::Shape(format!("column {i} of a set of rows is given {found:?}"))
        };
        let cells = rows.iter().map(|row| row.get(i));
        params.push(match of {
            Type::BigInt => {
                let cells = cells.map(|cell| match cell {
                    Some(Value::Int(n)) => Ok(Some(*n)),
                    Some(Value::Null) => Ok(None),
                    other => Err(misfit(other)),
                });
                Param::Ints(cells.collect::<Result<_, _>>()?)
            }
            Type::Text => {
                let cells = cells.map(|cell| match cell {
                    Some(Value::Text(text)) => Ok(Some(text.clone())),
                    Some(Value::Null) => Ok(None),
                    other => Err(misfit(other)),
                });
                Param::Texts(cells.collect::<Result<_, _>>()?)
            }
        });
    }
    Ok(())
}

/// A part of a text.
enum Piece<'a> {
    Plain(&'a str),
    Param(usize),
    Rows(RowSet<'a>),
}

/// `rows($1: id TEXT, amount BIGINT) r`.
struct RowSet<'a> {
    parameter: usize,
    /// Names and types.
    columns: Vec<(&'a str, &'a str)>,
    /// What it is called; `None` when nobody needs to.
    alias: Option<&'a str>,
}

fn parse(sql: &str) -> Vec<Piece<'_>> {
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    let bytes = sql.as_bytes();
    while at < bytes.len() {
        let starts_word = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        let (piece, length) = match bytes[at] {
            b'\'' => {
                let end = sql[at + 1..].find('\'').map_or(sql.len(), |e| at + e + 2);
                at = end;
                continue;
            }
            b'$' => match number(&sql[at + 1..]) {
                Some((n, digits)) => (Piece::Param(n), digits + 1),
                None => {
                    at += 1;
                    continue;
                }
            },
            b'r' if starts_word => match row_set(&sql[at..]) {
                Some((set, length)) => (Piece::Rows(set), length),
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        pieces.push(Piece::Plain(&sql[from..at]));
        pieces.push(piece);
        at += length;
        from = at;
    }
    pieces.push(Piece::Plain(&sql[from..]));
    pieces
}

/// The number `text` starts with, and its length.
fn number(text: &str) -> Option<(usize, usize)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, digits))
}

/// The set of rows `text` starts with, and its length.
fn row_set(text: &str) -> Option<(RowSet<'_>, usize)> {
    const KEYWORDS: [&str; 12] = [
        "WHERE", "ON", "JOIN", "LEFT", "CROSS", "INNER", "ORDER", "GROUP", "LIMIT", "UNION", "SET",
        "EXCEPT",
    ];
    let inner = text.strip_prefix("rows($")?;
    let (parameter, digits) = number(inner)?;
    let list = inner[digits..].trim_start().strip_prefix(':')?;
    let end = list.find(')')?;
    let columns = list[..end].split(',').map(|column| {
        let mut words = column.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    let mut set = RowSet {
        parameter,
        columns: columns.collect::<Option<_>>()?,
        alias: None,
    };
    let mut length = text.len() - list.len() + end + 1;
    let after = text[length..].trim_start();
    let word_end = after
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(after.len());
    let word = &after[..word_end];
    if !word.is_empty() && !KEYWORDS.iter().any(|k| k.eq_ignore_ascii_case(word)) {
        set.alias = Some(word);
        length = text.len() - after.len() + word_end;
    }
    Some((set, length))
}

// Writing to a String cannot fail, here and below.
fn sqlite_form(pieces: &[Piece<'_>]) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Plain(text) => out.push_str(text),
            Piece::Param(n) => {
                let _ = write!(out, "?{n}");
            }
            Piece::Rows(set) => {
                out.push_str("(SELECT ");
                for (i, (column, _)) in set.columns.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    // A set of one column is an array of scalars: no inner array to take apart.
                    let _ = match set.columns.len() {
                        1 => write!(out, "{comma}value AS {column}"),
                        _ => write!(out, "{comma}json_extract(value, '$[{i}]') AS {column}"),
                    };
                }
                let _ = write!(out, " FROM json_each(?{}))", set.parameter);
                if let Some(alias) = set.alias {
                    let _ = write!(out, " {alias}");
                }
            }
        }
    }
    out
}

/// `numbers` are the parameters' first numbers in the whole statement.
fn postgres_form(pieces: &[Piece<'_>], values: &[Value], numbers: &[usize]) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Plain(text) => out.push_str(text),
            Piece::Param(n) => {
                let number = numbers.get(n.wrapping_sub(1)).copied().unwrap_or(0);
                let _ = match values.get(n.wrapping_sub(1)) {
                    Some(Value::Int(_)) => write!(out, "${number}::BIGINT"),
                    Some(Value::Text(_)) => write!(out, "${number}::TEXT"),
                    // A literal takes the type its place asks for; a parameter of no type does not.
                    Some(Value::Null) => write!(out, "NULL"),
                    _ => write!(out, "${n}"),
                };
            }
            Piece::Rows(set) => {
                let first = numbers.get(set.parameter.wrapping_sub(1)).copied();
                let list = |item: &dyn Fn(usize, &(&str, &str)) -> String| {
                    let items = set.columns.iter().enumerate().map(|(i, c)| item(i, c));
                    items.collect::<Vec<_>>().join(", ")
                };
                let arrays = list(&|i, (_, of)| format!("${}::{of}[]", first.unwrap_or(0) + i));
                let names = list(&|_, (name, _)| (*name).to_owned());
                let alias = set.alias.unwrap_or("rows");
                let _ = write!(out, "UNNEST({arrays}) AS {alias}({names})");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use crate::params;

    #[test]
    fn parameters_are_numbered_and_literals_left_alone() {
        assert_eq!(
            sqlite("SELECT a FROM t WHERE b = $1 AND c = '$2' AND arrows(d) = $12"),
            "SELECT a FROM t WHERE b = ?1 AND c = '$2' AND arrows(d) = ?12"
        );
    }

    fn values() -> Vec<Value> {
        vec![
            Value::Int(1),
            Value::Rows(vec![
                vec!["a".into(), 1.into()],
                vec!["b".into(), Value::Null],
            ]),
            Value::Null,
            "x".into(),
        ]
    }

    #[test]
    fn for_postgres_each_parameter_carries_its_type_and_a_set_is_one_array_per_column() {
        let sql = "SELECT '$9', $4, $3 FROM rows($2: id TEXT, n BIGINT) r WHERE r.n = $1 + 1 \
                   AND EXISTS (SELECT 1 FROM rows($2: id TEXT) WHERE id = $4)";
        let statement = postgres(sql, &values()).unwrap();
        assert_eq!(
            &*statement.text,
            "SELECT '$9', $4::TEXT, NULL FROM UNNEST($2::TEXT[], $3::BIGINT[]) AS r(id, n) WHERE \
             r.n = $1::BIGINT + 1 AND EXISTS (SELECT 1 FROM UNNEST($2::TEXT[]) AS rows(id) WHERE id = $4::TEXT)"
        );
        assert_eq!(
            statement.params,
            [
                Param::Int(1),
                Param::Texts(vec![Some("a".into()), Some("b".into())]),
                Param::Ints(vec![Some(1), None]),
                Param::Text("x".into()),
            ]
        );
        let mut others = values();
        others[2] = Value::Int(7);
        assert!(
            postgres(sql, &others)
                .unwrap()
                .text
                .contains("$4::BIGINT FROM"),
            "kept by the kinds of values too"
        );
    }

    #[test]
    fn a_batch_is_one_statement_that_names_the_step_whose_count_is_off() {
        let a = params![1, "x"];
        let b = params!["y"];
        let steps: [Part<'_>; 2] = [
            (
                "UPDATE a SET n = $1 WHERE id = $2",
                &a,
                Some(Expect::Rows(1)),
            ),
            ("DELETE FROM b WHERE id = $1", &b, Some(Expect::Any)),
        ];
        let statement = postgres_batch(&steps).unwrap();
        assert_eq!(
            &*statement.text,
            "WITH s0 AS (UPDATE a SET n = $1::BIGINT WHERE id = $2::TEXT RETURNING 1), \
             s1 AS (DELETE FROM b WHERE id = $3::TEXT RETURNING 1) \
             SELECT CAST(CASE WHEN (SELECT count(*) FROM s0) = $4::BIGINT THEN '1' \
             ELSE 'innover:0:' || CAST((SELECT count(*) FROM s0) AS TEXT) || ';' END AS BIGINT), \
             (SELECT count(*) FROM s1)"
        );
        assert_eq!(statement.params[3], Param::Int(1));
        assert_eq!(
            failed_step(r#"invalid input syntax for type bigint: "innover:12:3;""#),
            Some((12, 3))
        );
        assert_eq!(failed_step("division by zero"), None);
    }

    #[test]
    fn a_counted_insert_goes_without_its_conflict_clause_and_a_taken_key_names_its_step() {
        let insert = "INSERT INTO case_events (id) VALUES ($1)\n ON CONFLICT (id) DO NOTHING";
        let other = "INSERT INTO case (id) VALUES ($1) ON CONFLICT DO NOTHING";
        let upsert = "INSERT INTO case (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = 1";
        let a = params!["a"];
        let counted = Some(Expect::Rows(1));
        let steps: [Part<'_>; 2] = [(other, &a, counted), (insert, &a, counted)];
        let text = postgres_batch(&steps).unwrap().text;
        assert!(!text.contains("CONFLICT"), "{text}");
        assert_eq!(step_of_key(&steps, "case"), Some(0));
        assert_eq!(step_of_key(&steps, "case_pkey"), Some(0));
        assert_eq!(step_of_key(&steps, "case_events"), Some(1));
        assert_eq!(step_of_key(&steps, "case_events_pkey"), Some(1));
        assert_eq!(step_of_key(&steps, "cases_pkey"), None);
        for (sql, expect) in [(insert, Some(Expect::Any)), (upsert, counted)] {
            let text = postgres_batch(&[(sql, &a, expect)]).unwrap().text;
            assert!(text.contains("ON CONFLICT (id) DO "), "{text}");
        }
        assert_eq!(step_of_key(&[(upsert, &a, counted)], "case_pkey"), None);
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
