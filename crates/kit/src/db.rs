//! The service's own database. `database_url` decides which: `sqlite:<label>` today.
//!
//! A [`Db`] is one connection, exclusive to one request and kept between requests of the instance.
//! Reads go through [`Db::query`]; [`crate::Batch`] is the only way to write.

use std::sync::Mutex;

use innover_contract::Code;

use crate::{Failure, Result, config, sql};

/// A parameter or a column: BIGINT or TEXT, or a set of rows as one parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// BIGINT.
    Int(i64),
    /// TEXT.
    Text(String),
    /// NULL.
    Null,
    /// The parameter of `rows($n: …)`: one inner vector per row, in the order of its columns.
    Rows(Vec<Vec<Value>>),
}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Int(n)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}
impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(text.clone())
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}
impl From<Vec<Vec<Value>>> for Value {
    fn from(rows: Vec<Vec<Value>>) -> Value {
        Value::Rows(rows)
    }
}

/// `params![a, b]`: a vector of [`Value`]s.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::db::Value::from($value)),*] };
}

/// A set of one column for `rows($n: …)`.
pub fn column<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Rows(values.into_iter().map(|v| vec![v.into()]).collect())
}

/// One row of a result, read by position.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(Vec<Value>);

impl Row {
    /// The BIGINT in column `i`.
    ///
    /// # Errors
    /// When the column is not a BIGINT, which is a defect of the query.
    pub fn int(&self, i: usize) -> Result<i64, DbError> {
        match self.0.get(i) {
            Some(Value::Int(n)) => Ok(*n),
            other => Err(DbError::Shape(format!(
                "column {i} is not a BIGINT: {other:?}"
            ))),
        }
    }

    /// The TEXT in column `i`.
    ///
    /// # Errors
    /// When the column is not TEXT, which is a defect of the query.
    pub fn text(&self, i: usize) -> Result<&str, DbError> {
        match self.0.get(i) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(DbError::Shape(format!("column {i} is not TEXT: {other:?}"))),
        }
    }

    /// The BIGINT or NULL in column `i`.
    ///
    /// # Errors
    /// As [`Row::int`].
    pub fn opt_int(&self, i: usize) -> Result<Option<i64>, DbError> {
        match self.0.get(i) {
            Some(Value::Null) => Ok(None),
            _ => self.int(i).map(Some),
        }
    }

    /// The TEXT or NULL in column `i`.
    ///
    /// # Errors
    /// As [`Row::text`].
    pub fn opt_text(&self, i: usize) -> Result<Option<&str>, DbError> {
        match self.0.get(i) {
            Some(Value::Null) => Ok(None),
            _ => self.text(i).map(Some),
        }
    }
}

/// Why a statement failed. The text may hold SQL and stays in the log.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Another writer holds the database: try again.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// A constraint, a syntax error, a full disk.
    #[error("the database refused a statement: {0}")]
    Statement(String),
    /// A result was not what the query's author expected.
    #[error("unexpected result: {0}")]
    Shape(String),
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Failure {
        let line =
            serde_json::json!({"level": "error", "msg": "database", "error": error.to_string()});
        println!("{line}");
        match error {
            DbError::Busy(_) => Failure::new(
                Code::Unavailable,
                "the database is busy; try again with the same key",
            ),
            _ => Failure::new(
                Code::Internal,
                "the database refused; the log has the reason",
            ),
        }
    }
}

/// A connection, exclusive to this request until it is dropped.
pub struct Db {
    session: Option<session::Session>,
    transaction: Transaction,
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// BEGIN was sent and has not answered: a connection dropped there is closed, never kept.
    Beginning,
    /// Between BEGIN and COMMIT.
    Open,
}

static IDLE: Mutex<Vec<session::Session>> = Mutex::new(Vec::new());

impl Db {
    /// Takes an idle connection or opens one.
    ///
    /// # Errors
    /// 503 when `database_url` is missing or not of a kind this version speaks, or the database
    /// cannot be opened.
    pub async fn open() -> Result<Db> {
        let idle = IDLE.lock().ok().and_then(|mut idle| idle.pop());
        let session = match idle {
            Some(session) => session,
            None => {
                let url = config::get("database_url").await?;
                let label = url.strip_prefix("sqlite:").ok_or_else(|| {
                    let scheme = url.split(':').next().unwrap_or_default();
                    Failure::new(
                        Code::NotReady,
                        format!("database_url starts with `{scheme}:`; this version speaks `sqlite:<label>`"),
                    )
                })?;
                session::Session::open(label).await?
            }
        };
        Ok(Db {
            session: Some(session),
            transaction: Transaction::None,
        })
    }

    /// A connection to a database file of a native test.
    ///
    /// # Errors
    /// When the file cannot be opened.
    #[cfg(not(target_family = "wasm"))]
    pub fn open_file(path: &std::path::Path) -> Result<Db, DbError> {
        Ok(Db {
            session: Some(session::Session::open_file(path)?),
            transaction: Transaction::None,
        })
    }

    /// Runs a query. `sql` uses `$1…$n` and `rows($n: …)`.
    ///
    /// # Errors
    /// [`DbError`], which becomes 503 when the database is busy and 500 otherwise.
    pub async fn query(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
        self.session()?.query(sql::sqlite(sql), params)
    }

    fn session(&self) -> Result<&session::Session, DbError> {
        self.session
            .as_ref()
            .ok_or_else(|| DbError::Shape("the connection is closed".into()))
    }

    /// Makes this request the database's only writer until its batch has ended or the connection
    /// is dropped: what is read from now on does not change before the commit. Writers of one hot
    /// row then queue for the database, which they do at their commit anyway, instead of losing to
    /// each other and starting over.
    ///
    /// Between this and the commit a request reads and decides and does nothing else: everybody
    /// waits for it, so it calls nobody and awaits nothing but its own queries. The batch's guards
    /// stay: a database that does not serialize writers (Postgres) has nothing to lock here, and
    /// there they are what counts.
    ///
    /// # Errors
    /// [`DbError::Busy`] when others held it for too long.
    pub async fn lock(&mut self) -> Result<(), DbError> {
        self.begin().await
    }

    /// Whether [`Db::lock`] or a batch has begun a transaction.
    pub(crate) fn is_locked(&self) -> bool {
        self.transaction == Transaction::Open
    }

    pub(crate) async fn begin(&mut self) -> Result<(), DbError> {
        self.transaction = Transaction::Beginning;
        self.session()?.begin().await?;
        self.transaction = Transaction::Open;
        Ok(())
    }

    /// Rows affected by a modifying statement.
    pub(crate) fn modify(&self, sql: &'static str, params: Vec<Value>) -> Result<u64, DbError> {
        self.session()?.modify(sql::sqlite(sql), params)
    }

    pub(crate) fn end(&mut self, statement: &'static str) -> Result<(), DbError> {
        self.session()?.query(statement, Vec::new())?;
        self.transaction = Transaction::None;
        Ok(())
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.is_locked() {
            // Locked, and then there was nothing to write. What fails here is closed below.
            let _ = self.end("ROLLBACK");
        }
        // Natively each test has a database of its own, so nothing is kept.
        if cfg!(target_family = "wasm")
            && self.transaction == Transaction::None
            && let (Some(session), Ok(mut idle)) = (self.session.take(), IDLE.lock())
        {
            idle.push(session);
        }
    }
}

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
mod session {
    //! Spin's SQLite. Statements go through the interface's synchronous `execute`: one call of the
    //! host and no stream, about a fifth of the cost. What may wait for another writer is asynchronous
    //! (BEGIN IMMEDIATE, the PRAGMAs of a new connection): that writer may be a request of this very
    //! instance, which a synchronous wait would keep from ever finishing.

    use send_wrapper::SendWrapper;
    use spin_sdk::sqlite::wit::sqlite::{Connection, Error, Value as Sql};

    use super::{DbError, Row, Value, rows_json};

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
mod session {
    //! The same SQL on SQLite itself, for native tests of stores and batches.

    use std::{
        sync::{Mutex, MutexGuard, PoisonError},
        time::{Duration, Instant},
    };

    use rusqlite::{Connection, types::ToSqlOutput, types::ValueRef};

    use super::{DbError, Row, Value, rows_json};

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
