//! SQLite: Spin's in a component, the library itself in native tests.

#[cfg(not(target_family = "wasm"))]
pub(super) use native::Session;
#[cfg(target_family = "wasm")]
pub(super) use wasm::Session;

use super::Value;

/// A set of rows as the JSON text `json_each` reads.
fn rows_json(rows: &[Vec<Value>]) -> String {
    fn write(out: &mut String, value: &Value) {
        match value {
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Null => out.push_str("null"),
            Value::Text(text) => {
                out.push_str(&serde_json::to_string(text).unwrap_or_default());
            }
            Value::Rows(rows) => out.push_str(&rows_json(rows)),
        }
    }
    let mut out = String::from("[");
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if let [only] = &row[..] {
            write(&mut out, only);
            continue;
        }
        out.push('[');
        for (j, value) in row.iter().enumerate() {
            if j > 0 {
                out.push(',');
            }
            write(&mut out, value);
        }
        out.push(']');
    }
    out.push(']');
    out
}

#[cfg(target_family = "wasm")]
mod wasm {
    //! Spin's SQLite. Statements go through the interface's synchronous `execute`: one call of the
    //! host and no stream, about a fifth of the cost. What may wait for another writer is asynchronous
    //! (BEGIN IMMEDIATE, the PRAGMAs of a new connection): that writer may be a request of this very
    //! instance, which a synchronous wait would keep from ever finishing.

    use send_wrapper::SendWrapper;
    use spin_sdk::sqlite::wit::sqlite::{Connection, Error, Value as Sql};

    use super::rows_json;
    use crate::db::{DbError, Row, Value};

    pub struct Session(SendWrapper<Connection>);

    /// Whether a statement has rows to take: each look costs a call of the host.
    enum Rows {
        None,
        Some,
    }

    impl Session {
        pub async fn open(label: &str) -> Result<Session, DbError> {
            let label = label.to_owned();
            let connection =
                SendWrapper::new(async move { Connection::open_async(label).await }).await;
            let session = Session(SendWrapper::new(connection.map_err(error)?));
            // Our host sets these itself and they cost nothing there; stock Spin does not.
            for pragma in [
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                "PRAGMA busy_timeout = 5000",
                "PRAGMA foreign_keys = ON",
            ] {
                session.run(pragma, Rows::Some).await?;
            }
            Ok(session)
        }

        /// Runs a statement that may have to wait for another writer. While it waits the other
        /// requests of the instance go on, and one of them may be that writer.
        async fn run(&self, statement: &str, expected: Rows) -> Result<(), DbError> {
            let statement = statement.to_owned();
            SendWrapper::new(async {
                let (_, mut rows, done) = self
                    .0
                    .execute_async(statement, Vec::new())
                    .await
                    .map_err(error)?;
                // Spin fails a statement whose rows nobody takes.
                if let Rows::Some = expected {
                    while rows.next().await.is_some() {}
                }
                drop(rows);
                done.await.map_err(error)
            })
            .await
        }

        pub fn query(&self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
            let params: Vec<Sql> = params.into_iter().map(to_sql).collect();
            let result = self.0.execute(sql, &params).map_err(error)?;
            Ok(result
                .rows
                .into_iter()
                .map(|row| Row(row.values.into_iter().map(from_sql).collect()))
                .collect())
        }

        pub fn modify(&self, sql: &str, params: Vec<Value>) -> Result<u64, DbError> {
            self.query(sql, params)?;
            Ok(self.0.changes())
        }

        pub async fn begin(&self) -> Result<(), DbError> {
            self.run("BEGIN IMMEDIATE", Rows::None).await
        }
    }

    fn to_sql(value: Value) -> Sql {
        match value {
            Value::Int(n) => Sql::Integer(n),
            Value::Text(text) => Sql::Text(text),
            Value::Null => Sql::Null,
            Value::Rows(rows) => Sql::Text(rows_json(&rows)),
        }
    }

    fn from_sql(value: Sql) -> Value {
        match value {
            Sql::Integer(n) => Value::Int(n),
            Sql::Text(text) => Value::Text(text),
            Sql::Null => Value::Null,
            // Columns are BIGINT or TEXT only; anything else is reported by the typed getters.
            Sql::Real(n) => Value::Text(n.to_string()),
            Sql::Blob(bytes) => Value::Text(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    fn error(error: Error) -> DbError {
        let text = error.to_string();
        if text.contains("locked") || text.contains("busy") {
            DbError::Busy(text)
        } else {
            DbError::Statement(text)
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod native {
    //! The same SQL on SQLite itself, for native tests of stores and batches.

    use std::{
        sync::{Mutex, MutexGuard, PoisonError},
        time::{Duration, Instant},
    };

    use rusqlite::{Connection, types::ToSqlOutput, types::ValueRef};

    use super::rows_json;
    use crate::db::{DbError, Row, Value};

    /// How long a connection waits for another writer: SQLite polls, so of many threads some wait
    /// long. (Our host queues them instead.)
    const BUSY_MAX: Duration = Duration::from_secs(30);

    /// Behind a lock only so that `&Db` may cross an await; nobody else holds it.
    pub struct Session(Mutex<Connection>);

    impl Session {
        pub async fn open(label: &str) -> Result<Session, DbError> {
            Session::open_file(std::path::Path::new(label))
        }

        pub fn open_file(path: &std::path::Path) -> Result<Session, DbError> {
            let connection = Connection::open(path).map_err(error)?;
            connection.busy_timeout(BUSY_MAX).map_err(error)?;
            let give_up_at = Instant::now() + BUSY_MAX;
            // SQLite's own patience does not cover the switch to WAL: of two connections that
            // switch a new database at the same moment one is told at once that it is locked.
            loop {
                let switched = connection
                    .execute_batch(
                        "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;
                         -- A test's database does not outlive its process.
                         PRAGMA synchronous = OFF;",
                    )
                    .map_err(error);
                match switched {
                    Err(DbError::Busy(_)) if Instant::now() < give_up_at => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    done => break done?,
                }
            }
            Ok(Session(Mutex::new(connection)))
        }

        fn lock(&self) -> MutexGuard<'_, Connection> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn query(&self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
            let connection = self.lock();
            let mut statement = connection.prepare_cached(sql).map_err(error)?;
            let columns = statement.column_count();
            let mut rows = statement
                .query(rusqlite::params_from_iter(params))
                .map_err(error)?;
            let mut out = Vec::new();
            while let Some(row) = rows.next().map_err(error)? {
                let values = (0..columns)
                    .map(|i| match row.get_ref(i).map_err(error)? {
                        ValueRef::Null => Ok(Value::Null),
                        ValueRef::Integer(n) => Ok(Value::Int(n)),
                        ValueRef::Text(text) => {
                            Ok(Value::Text(String::from_utf8_lossy(text).into_owned()))
                        }
                        other => Err(DbError::Shape(format!(
                            "column {i} is {:?}",
                            other.data_type()
                        ))),
                    })
                    .collect::<Result<_, _>>()?;
                out.push(Row(values));
            }
            Ok(out)
        }

        pub fn modify(&self, sql: &str, params: Vec<Value>) -> Result<u64, DbError> {
            self.query(sql, params)?;
            Ok(self.lock().changes())
        }

        pub async fn begin(&self) -> Result<(), DbError> {
            self.query("BEGIN IMMEDIATE", Vec::new()).map(drop)
        }
    }

    impl rusqlite::ToSql for Value {
        fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
            Ok(match self {
                Value::Int(n) => ToSqlOutput::from(*n),
                Value::Text(text) => ToSqlOutput::from(text.as_str()),
                Value::Null => ToSqlOutput::from(rusqlite::types::Null),
                Value::Rows(rows) => ToSqlOutput::from(rows_json(rows)),
            })
        }
    }

    fn error(error: rusqlite::Error) -> DbError {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                DbError::Busy(error.to_string())
            }
            _ => DbError::Statement(error.to_string()),
        }
    }
}
