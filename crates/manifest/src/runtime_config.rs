//! `runtime-config.toml`: where an application's databases, stores and variables really are. The
//! subset of Spin's file that this host runs; anything else in it is an error.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::names;
use crate::problem::ManifestError;
use crate::reader::{Node, Source, Table};

/// A parsed `runtime-config.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeConfig {
    /// `state_dir`: where what has no path of its own is kept.
    pub state_dir: Option<PathBuf>,
    /// `[sqlite_database.<label>]`
    pub sqlite_databases: BTreeMap<String, SqliteDatabase>,
    /// `[key_value_store.<label>]`
    pub key_value_stores: BTreeMap<String, KeyValueStore>,
    /// `[[variables_provider]]`; the first one that has a value wins.
    pub variables_providers: Vec<VariablesProvider>,
}

/// `[sqlite_database.<label>]` with `type = "spin"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SqliteDatabase {
    /// The file; a relative path starts at the folder of the file this was read from. Without one
    /// the database is in memory.
    pub path: Option<PathBuf>,
}

/// `[key_value_store.<label>]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyValueStore {
    /// `type = "spin"`: a SQLite file, or memory without a path.
    Spin {
        /// The file; a relative path starts at the folder of the file this was read from.
        path: Option<PathBuf>,
    },
    /// `type = "redis"`
    Redis {
        /// `redis://host:port/db`
        url: String,
    },
}

/// `[[variables_provider]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VariablesProvider {
    /// `type = "static"`
    Static {
        /// Values by the application's variable names.
        values: BTreeMap<String, String>,
    },
    /// `type = "env"`: `<PREFIX>_<NAME>` of the environment, then of the file.
    Env {
        /// `SPIN_VARIABLE` when not set.
        prefix: Option<String>,
        /// A `.env` file.
        dotenv_path: Option<PathBuf>,
    },
}

impl RuntimeConfig {
    /// Parses the text of a `runtime-config.toml`. The error lists everything that is wrong.
    pub fn parse(toml: &str) -> Result<Self, ManifestError> {
        let source = Source::new(toml);
        let table = source.parse();
        let config = table
            .as_ref()
            .map(|table| read(Table::root(&source, table)));
        drop(table);
        source.finish(config)
    }
}

fn read(mut root: Table<'_>) -> RuntimeConfig {
    let config = RuntimeConfig {
        state_dir: root.string("state_dir").map(PathBuf::from),
        sqlite_databases: labelled(&mut root, "sqlite_database", read_sqlite),
        key_value_stores: labelled(&mut root, "key_value_store", read_key_value),
        variables_providers: root
            .get("variables_provider")
            .map(|node| node.tables())
            .unwrap_or_default()
            .into_iter()
            .filter_map(read_provider)
            .collect(),
    };
    root.finish();
    config
}

/// A table of tables by label.
fn labelled<'a, T>(
    root: &mut Table<'a>,
    key: &'static str,
    read: fn(Table<'a>) -> Option<T>,
) -> BTreeMap<String, T> {
    let table = root.get(key).and_then(|node| node.table());
    let entries = table.map(|table| table.entries()).unwrap_or_default();
    let read_entry = |(label, node): (String, Node<'a>)| {
        if let Err(reason) = names::label(&label) {
            node.place.report(reason);
        }
        Some((label, read(node.table()?)?))
    };
    entries.into_iter().filter_map(read_entry).collect()
}

fn read_sqlite(mut table: Table<'_>) -> Option<SqliteDatabase> {
    kind(&mut table, &["spin"])?;
    let path = table.string("path").map(PathBuf::from);
    table.finish();
    Some(SqliteDatabase { path })
}

fn read_key_value(mut table: Table<'_>) -> Option<KeyValueStore> {
    let store = match kind(&mut table, &["spin", "redis"])?.as_str() {
        "redis" => {
            let url = table.required("url", "url = \"redis://localhost:6379\"");
            url.and_then(|node| node.string())
                .map(|url| KeyValueStore::Redis { url })
        }
        _ => Some(KeyValueStore::Spin {
            path: table.string("path").map(PathBuf::from),
        }),
    };
    table.finish();
    store
}

fn read_provider(mut table: Table<'_>) -> Option<VariablesProvider> {
    let provider = match kind(&mut table, &["static", "env"])?.as_str() {
        "static" => VariablesProvider::Static {
            values: table.string_map("values"),
        },
        _ => VariablesProvider::Env {
            prefix: table.string("prefix"),
            dotenv_path: table.string("dotenv_path").map(PathBuf::from),
        },
    };
    table.finish();
    Some(provider)
}

/// `type`, which must be one of `known`. Of another type nothing else is read, so that its keys
/// are not reported as unknown on top.
fn kind(table: &mut Table<'_>, known: &[&str]) -> Option<String> {
    let example = format!("type = \"{}\"", known[0]);
    let node = table.required("type", &example)?;
    let kind = node.string()?;
    if known.contains(&kind.as_str()) {
        return Some(kind);
    }
    let known = known.join("` or `");
    node.place
        .report(format!("`{kind}` is not supported; use `{known}`"));
    None
}
