//! PostgreSQL: through Spin in a component, through its driver in native tests. Each call is one
//! statement and one round trip; there are no transactions, so a component that ends in the middle of
//! anything leaves nothing open.

#[cfg(not(target_family = "wasm"))]
pub(super) use native::Session;
#[cfg(target_family = "wasm")]
pub(super) use wasm::Session;

use crate::{
    call,
    db::{DbError, Param},
    sql::Statement,
};

/// Whoever waits for longer goes on without: the one who has the lock may be cut off, and only the
/// guards count.
const LOCK_MAX_MS: u64 = 1_000;

impl Session {
    /// Queues for these advisory locks, in their order.
    pub async fn lock(&self, locks: Vec<i64>) -> Result<(), DbError> {
        let lock = self.query(Statement {
            text: "SELECT 1::BIGINT FROM (SELECT pg_advisory_lock(k) FROM unnest($1::BIGINT[]) AS k) l"
                .into(),
            params: vec![Param::Ints(locks.into_iter().map(Some).collect())],
        });
        match call::within(LOCK_MAX_MS, lock).await {
            None | Some(Ok(_)) => Ok(()),
            // undefined_function: a server that has no such locks.
            Some(Err(DbError::Statement(text))) if text.starts_with("42883") => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Whether somebody has one of these locks, as far as the server tells. Those who ask do not see
    /// each other.
    pub async fn is_locked(&self, locks: &[i64]) -> bool {
        let look = self.query(Statement {
            text: "SELECT count(*) FROM unnest($1::BIGINT[]) AS k
                   WHERE NOT pg_try_advisory_xact_lock_shared(k)"
                .into(),
            params: vec![Param::Ints(locks.iter().copied().map(Some).collect())],
        });
        let rows = look.await.unwrap_or_default();
        rows.first().is_some_and(|row| row.int(0).unwrap_or(0) > 0)
    }

    /// Lets the next ones in.
    pub async fn unlock(&self) {
        let unlock = self.query(Statement {
            text: "SELECT 1::BIGINT FROM (SELECT pg_advisory_unlock_all()) l".into(),
            params: Vec::new(),
        });
        // Should it fail, the end of the session does it.
        let _ = unlock.await;
    }
}

/// The server's text. The detail of a violated constraint is a row's content, which is nothing for logs
/// and callers.
fn text(code: &str, message: String, detail: Option<&str>) -> String {
    match detail {
        Some(detail) if !code.starts_with("23") => format!("{message} ({detail})"),
        _ => message,
    }
}

/// What became of a statement, by its SQLSTATE. `key` is of a key that is taken.
fn refused(code: &str, text: String, key: Option<&str>) -> DbError {
    match code {
        // serialization_failure, deadlock_detected.
        "40001" | "40P01" => DbError::GivenUp(text),
        // unique_violation.
        "23505" => DbError::Overtaken {
            text,
            key: key.map(str::to_owned),
        },
        // check_violation.
        "23514" => DbError::Overtaken { text, key: None },
        // character_not_in_repertoire: bodies are checked before, addresses and queries are not.
        "22021" => DbError::Text(text),
        // lock_not_available, query_canceled (its time limit).
        "55P03" | "57014" => DbError::Busy(text),
        // Insufficient resources (too many connections, disk full, out of memory).
        code if code.starts_with("53") => DbError::Busy(text),
        // read_only_sql_transaction: the server is no longer the one that takes writes.
        // statement_completion_unknown is CockroachDB's: it may have happened.
        "25006" | "40003" => DbError::Unreachable(text),
        // Connection exceptions; the server stops or starts.
        code if code.starts_with("08") || code.starts_with("57P") => DbError::Unreachable(text),
        code => DbError::Statement(format!("{code} {text}")),
    }
}

#[cfg(target_family = "wasm")]
mod wasm {
    use send_wrapper::SendWrapper;
    use spin_sdk::pg::wit::postgres::{
        Connection, ConnectionBuilder, DbValue, Error, ParameterValue, QueryError,
    };

    use super::{refused, text};
    use crate::{
        db::{DbError, Param, Row, Value},
        sql::Statement,
    };

    pub struct Session(SendWrapper<Connection>);

    impl Session {
        /// `authority` is the certificate of the server's authority in PEM, empty for the public ones.
        pub async fn open(url: &str, authority: &str) -> Result<Session, DbError> {
            let (url, authority) = (url.to_owned(), authority.to_owned());
            let opened = SendWrapper::new(async move {
                if authority.is_empty() {
                    return Connection::open_async(url).await;
                }
                let builder = ConnectionBuilder::new(&url);
                builder.set_ca_root(&authority)?;
                builder.build_async().await
            });
            Ok(Session(SendWrapper::new(opened.await.map_err(error)?)))
        }

        pub async fn query(&self, statement: Statement) -> Result<Vec<Row>, DbError> {
            SendWrapper::new(async {
                let (_, rows, done) = self
                    .0
                    .query_async(statement.text.to_string(), values(statement.params))
                    .await
                    .map_err(error)?;
                let rows = rows.collect().await;
                done.await.map_err(error)?;
                let row = |row: Vec<DbValue>| Row(row.into_iter().map(value).collect());
                Ok(rows.into_iter().map(row).collect())
            })
            .await
        }

        pub async fn execute(&self, statement: Statement) -> Result<u64, DbError> {
            SendWrapper::new(async {
                self.0
                    .execute_async(statement.text.to_string(), values(statement.params))
                    .await
                    .map_err(error)
            })
            .await
        }
    }

    /// Not a copy: a batch of thousands of rows is megabytes of text.
    fn values(params: Vec<Param>) -> Vec<ParameterValue> {
        params
            .into_iter()
            .map(|param| match param {
                Param::Int(n) => ParameterValue::Int64(n),
                Param::Text(text) => ParameterValue::Str(text),
                Param::Ints(values) => ParameterValue::ArrayInt64(values),
                Param::Texts(values) => ParameterValue::ArrayStr(values),
            })
            .collect()
    }

    fn value(value: DbValue) -> Value {
        match value {
            DbValue::Int64(n) => Value::Int(n),
            DbValue::Int32(n) => Value::Int(n.into()),
            DbValue::Int16(n) => Value::Int(n.into()),
            // SQLite has no booleans: what a comparison gives is a number there.
            DbValue::Boolean(b) => Value::Int(b.into()),
            DbValue::Str(text) => Value::Text(text),
            DbValue::DbNull => Value::Null,
            // What a SUM of BIGINTs is.
            DbValue::Decimal(text) => match text.parse() {
                Ok(n) => Value::Int(n),
                Err(_) => Value::Text(text),
            },
            // Columns are BIGINT or TEXT only; anything else is reported by the typed getters.
            other => Value::Text(format!("{other:?}")),
        }
    }

    fn error(error: Error) -> DbError {
        match error {
            Error::ConnectionFailed(text) => DbError::Unreachable(text),
            Error::QueryFailed(QueryError::DbError(db)) => {
                let extra = |wanted: &str| {
                    let (_, value) = db.extras.iter().find(|(name, _)| name == wanted)?;
                    Some(value.as_str())
                };
                refused(
                    &db.code,
                    text(&db.code, db.message, db.detail.as_deref()),
                    extra("table").or_else(|| extra("constraint")),
                )
            }
            // No answer of the server's: it was late, or the connection broke.
            Error::QueryFailed(QueryError::Text(text)) => DbError::Unreachable(text),
            Error::BadParameter(text) | Error::ValueConversionFailed(text) | Error::Other(text) => {
                DbError::Statement(text)
            }
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::{io, sync::LazyLock};

    use tokio::runtime::{Builder, Runtime};
    use tokio_postgres::{
        Client, NoTls,
        types::{ToSql, Type},
    };

    use super::{refused, text};
    use crate::{
        db::{DbError, Param, Row, Value},
        sql::Statement,
    };

    /// Connections need a runtime for as long as they live; tests end theirs.
    static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
    });

    pub struct Session(Client);

    impl Session {
        pub async fn open(url: &str, _authority: &str) -> Result<Session, DbError> {
            let unreachable = |e: &dyn std::fmt::Display| DbError::Unreachable(e.to_string());
            let runtime = RUNTIME.as_ref().map_err(|e| unreachable(e))?;
            let url = url.to_owned();
            let client = runtime.spawn(async move {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
                tokio::spawn(connection);
                Ok::<_, tokio_postgres::Error>(client)
            });
            let client = client.await.map_err(|e| unreachable(&e))?.map_err(error)?;
            Ok(Session(client))
        }

        pub async fn query(&self, statement: Statement) -> Result<Vec<Row>, DbError> {
            let params = refs(&statement.params);
            let rows = self.0.query(&*statement.text, &params).await;
            rows.map_err(error)?.iter().map(row).collect()
        }

        pub async fn execute(&self, statement: Statement) -> Result<u64, DbError> {
            let params = refs(&statement.params);
            self.0
                .execute(&*statement.text, &params)
                .await
                .map_err(error)
        }
    }

    fn refs(params: &[Param]) -> Vec<&(dyn ToSql + Sync)> {
        fn one(param: &Param) -> &(dyn ToSql + Sync) {
            match param {
                Param::Int(n) => n,
                Param::Text(text) => text,
                Param::Ints(values) => values,
                Param::Texts(values) => values,
            }
        }
        params.iter().map(one).collect()
    }

    fn row(row: &tokio_postgres::Row) -> Result<Row, DbError> {
        let value = |i: usize| -> Result<Value, tokio_postgres::Error> {
            Ok(match *row.columns()[i].type_() {
                Type::INT8 => row.try_get::<_, Option<i64>>(i)?.into(),
                Type::INT4 => row.try_get::<_, Option<i32>>(i)?.map(i64::from).into(),
                Type::BOOL => row.try_get::<_, Option<bool>>(i)?.map(i64::from).into(),
                _ => row.try_get::<_, Option<String>>(i)?.into(),
            })
        };
        let values = (0..row.len()).map(|i| value(i).map_err(error));
        values.collect::<Result<_, _>>().map(Row)
    }

    fn error(error: tokio_postgres::Error) -> DbError {
        match error.as_db_error() {
            Some(db) => refused(
                db.code().code(),
                text(db.code().code(), db.message().to_owned(), db.detail()),
                db.table().or(db.constraint()),
            ),
            None => DbError::Unreachable(format!("{error:?}")),
        }
    }
}
