//! `runtime-config.toml`: what it means, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use innover_manifest::runtime_config::{
    KeyValueStore, RuntimeConfig, SqliteDatabase, VariablesProvider,
};

#[test]
fn each_kind_of_entry_is_read() {
    let config = RuntimeConfig::parse(
        r#"
        state_dir = "state"
        [sqlite_database.wallet]
        type = "spin"
        path = "db/wallet.db"
        [sqlite_database.scratch]
        type = "spin"
        [key_value_store.default]
        type = "spin"
        path = "kv.db"
        [key_value_store.sessions]
        type = "redis"
        url = "redis://127.0.0.1:6379"
        [[variables_provider]]
        type = "static"
        values = { issuer = "me" }
        [[variables_provider]]
        type = "env"
        prefix = "INNOVER"
        dotenv_path = ".env"
        [[variables_provider]]
        type = "env"
        "#,
    )
    .unwrap();
    assert_eq!(config.state_dir, Some(PathBuf::from("state")));
    assert_eq!(
        config.sqlite_databases,
        [
            ("scratch".to_owned(), SqliteDatabase { path: None }),
            (
                "wallet".to_owned(),
                SqliteDatabase {
                    path: Some("db/wallet.db".into())
                }
            ),
        ]
        .into()
    );
    assert_eq!(
        config.key_value_stores,
        [
            (
                "default".to_owned(),
                KeyValueStore::Spin {
                    path: Some("kv.db".into())
                }
            ),
            (
                "sessions".to_owned(),
                KeyValueStore::Redis {
                    url: "redis://127.0.0.1:6379".into()
                }
            ),
        ]
        .into()
    );
    assert_eq!(
        config.variables_providers,
        [
            VariablesProvider::Static {
                values: [("issuer".to_owned(), "me".to_owned())].into()
            },
            VariablesProvider::Env {
                prefix: Some("INNOVER".into()),
                dotenv_path: Some(".env".into())
            },
            VariablesProvider::Env {
                prefix: None,
                dotenv_path: None
            },
        ]
    );
}

#[test]
fn an_empty_file_configures_nothing() {
    assert_eq!(RuntimeConfig::parse(""), Ok(RuntimeConfig::default()));
}

#[test]
fn everything_wrong_is_listed_with_its_line() {
    let error = RuntimeConfig::parse(
        r#"
[sqlite_database.default]
type = "libsql"
url = "https://example.test"
[sqlite_database.wallet]
type = "spin"
pth = "wallet.db"
[sqlite_database."b@d"]
path = "x.db"
[key_value_store.a]
type = "redis"
[[variables_provider]]
type = "vault"
[outbound_http]
max_connections = 1
"#,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"line 3: sqlite_database.default.type: `libsql` is not supported; use `spin`
line 7: sqlite_database.wallet: unknown key `pth`, did you mean `path`?
line 8: sqlite_database."b@d": `type` is missing; write for example `type = "spin"`
line 8: sqlite_database."b@d": use kebab-case or snake_case, for example `default`
line 10: key_value_store.a: `url` is missing; write for example `url = "redis://localhost:6379"`
line 13: variables_provider[0].type: `vault` is not supported; use `static` or `env`
line 14: unknown key `outbound_http`"#
    );
}
