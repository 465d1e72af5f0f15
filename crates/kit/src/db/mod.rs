//! The service's own database. `database_url` decides which: `sqlite:<label>` or `postgres://…`
//! (PostgreSQL 15 or newer, CockroachDB 24); SQL is written once, see `sql`.
//!
//! A [`Db`] is one connection, exclusive to one request and kept between requests of the instance.
//! Reads go through [`Db::query`]; [`crate::Batch`] is the only way to write.

mod postgres;
mod sqlite;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use innover_contract::Code;

use crate::{Failure, Result, config, ids, sql};

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

/// A parameter as PostgreSQL gets it.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// BIGINT.
    Int(i64),
    /// TEXT.
    Text(String),
    /// BIGINT[], one column of a set of rows.
    Ints(Vec<Option<i64>>),
    /// TEXT[], one column of a set of rows.
    Texts(Vec<Option<String>>),
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
    /// It cannot be reached, or the connection was lost: what was sent may have happened.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// PostgreSQL gave up this statement so that others could go on; nothing of it happened.
    #[error("the database gave up a statement in favour of others: {0}")]
    GivenUp(String),
    /// A constraint does not hold that held by what was read: a key is taken, or two reads were of
    /// different moments. Nothing of the statement happened.
    #[error("someone was faster: {text}")]
    Overtaken {
        /// What the server says.
        text: String,
        /// The table whose key is taken, or the key's name, which begins with it, where the server
        /// does not tell the table (CockroachDB).
        key: Option<String>,
    },
    /// A text that cannot be stored or compared: it holds U+0000.
    #[error("a text cannot be stored: {0}")]
    Text(String),
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
            DbError::Busy(_) | DbError::GivenUp(_) => Failure::new(
                Code::Unavailable,
                "the database is busy; try again with the same key",
            ),
            DbError::Text(_) => Failure::new(
                Code::InvalidRequest,
                "a text holds the character U+0000; leave it out",
            ),
            DbError::Unreachable(_) => Failure::new(
                Code::Unavailable,
                "the database cannot be reached; try again with the same key",
            ),
            DbError::Overtaken { .. } => Failure::new(
                Code::Conflict,
                "someone else changed this at the same time; read it again and retry",
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
    session: Option<Session>,
    transaction: Transaction,
    claims: Mutex<Claims>,
}

/// What [`Db::claim`] was told, by the numbers of advisory locks.
#[derive(Default)]
struct Claims {
    named: Vec<i64>,
    /// While some of them are locked.
    locked: Option<Held>,
}

/// How many of this instance hold locks.
static HOLDING: AtomicUsize = AtomicUsize::new(0);

/// Counts one that does.
struct Held;

impl Held {
    fn new() -> Held {
        HOLDING.fetch_add(1, Relaxed);
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HOLDING.fetch_sub(1, Relaxed);
    }
}

enum Session {
    Sqlite(sqlite::Session),
    Postgres(postgres::Session),
}

impl Session {
    /// A new one to the database that `database_url` names.
    async fn of_config() -> Result<Session> {
        let url = config::get("database_url").await?;
        if let Some(label) = url.strip_prefix("sqlite:") {
            Ok(Session::Sqlite(sqlite::Session::open(label).await?))
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let authority = config::get("database_ca").await.unwrap_or_default();
            let server = postgres::Session::open(&url, &authority).await?;
            Ok(Session::Postgres(server))
        } else {
            let scheme = url.split(':').next().unwrap_or_default();
            Err(Failure::new(
                Code::NotReady,
                format!(
                    "database_url starts with `{scheme}:`; it has to be `sqlite:<label>` or `postgres://…`"
                ),
            ))
        }
    }
}

/// Rows that races were lost for, and until when their writers queue; microseconds since the epoch.
static LOST: Mutex<BTreeMap<i64, i64>> = Mutex::new(BTreeMap::new());
/// How long after the last lost race.
const LOST_US: i64 = 1_000_000;
/// More than this many names share locks: a server has room for some ten thousand in all, and a batch
/// may name thousands of rows.
const LOCKS_MAX: u64 = 256;

/// From now on the writers of these queue.
fn note_lost(locks: &[i64]) {
    let until = ids::now_us() + LOST_US;
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    lost.extend(locks.iter().map(|lock| (*lock, until)));
}

/// The lock of a row's name.
fn lock_of(name: &str) -> i64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % LOCKS_MAX) as i64
}

/// Where a connection stands. One to PostgreSQL never is in a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// BEGIN was sent and has not answered: a connection dropped there is closed, never kept.
    Beginning,
    /// Between BEGIN and COMMIT.
    Open,
}

static IDLE: Mutex<Vec<Session>> = Mutex::new(Vec::new());

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
            None => Session::of_config().await?,
        };
        Ok(Db {
            session: Some(session),
            transaction: Transaction::None,
            claims: Mutex::default(),
        })
    }

    /// A connection to a database file of a native test.
    ///
    /// # Errors
    /// When the file cannot be opened.
    #[cfg(not(target_family = "wasm"))]
    pub fn open_file(path: &std::path::Path) -> Result<Db, DbError> {
        Ok(Db {
            session: Some(Session::Sqlite(sqlite::Session::open_file(path)?)),
            transaction: Transaction::None,
            claims: Mutex::default(),
        })
    }

    /// A connection to a PostgreSQL database of a native test.
    ///
    /// # Errors
    /// When it cannot be reached.
    #[cfg(not(target_family = "wasm"))]
    pub async fn open_postgres(url: &str) -> Result<Db, DbError> {
        Ok(Db {
            session: Some(Session::Postgres(postgres::Session::open(url, "").await?)),
            transaction: Transaction::None,
            claims: Mutex::default(),
        })
    }

    /// Runs a query. `sql` uses `$1…$n` and `rows($n: …)`.
    ///
    /// # Errors
    /// [`DbError`], which becomes 503 when the database is busy or away and 500 otherwise.
    pub async fn query(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Row>, DbError> {
        match self.session()? {
            Session::Sqlite(file) => file.query(sql::sqlite(sql), params),
            Session::Postgres(server) => server.query(sql::postgres(sql, &params)?).await,
        }
    }

    /// Runs steps as one statement; `None` when this is no PostgreSQL.
    pub(crate) async fn all_at_once(&self, steps: &[sql::Part<'_>]) -> Option<Result<(), DbError>> {
        match self.session() {
            Ok(Session::Postgres(server)) => {
                let statement = match sql::postgres_batch(steps) {
                    Ok(statement) => statement,
                    Err(error) => return Some(Err(error)),
                };
                Some(server.execute(statement).await.map(drop))
            }
            _ => None,
        }
    }

    fn session(&self) -> Result<&Session, DbError> {
        self.session
            .as_ref()
            .ok_or_else(|| DbError::Unreachable("the connection was lost".into()))
    }

    /// SQLite's connection.
    fn file(&self) -> Result<&sqlite::Session, DbError> {
        match self.session()? {
            Session::Sqlite(file) => Ok(file),
            Session::Postgres(_) => Err(DbError::Shape(
                "PostgreSQL has no transactions of several statements here".into(),
            )),
        }
    }

    /// Makes this request the database's only writer until its batch has ended or the connection
    /// is dropped: what is read from now on does not change before the commit. Writers of one hot
    /// row then queue for the database, which they do at their commit anyway, instead of losing to
    /// each other and starting over.
    ///
    /// Between this and the commit a request reads and decides and does nothing else: everybody
    /// waits for it, so it calls nobody and awaits nothing but its own queries. The batch's guards
    /// stay.
    ///
    /// PostgreSQL lets writers run side by side, so there this does nothing; see [`Db::claim`].
    ///
    /// # Errors
    /// [`DbError::Busy`] when others held it for too long.
    pub async fn lock(&mut self) -> Result<(), DbError> {
        match self.session()? {
            Session::Sqlite(_) => self.begin().await,
            Session::Postgres(_) => Ok(()),
        }
    }

    /// Names the rows this request has read and is about to change, each with whether others change
    /// it at this moment. `true`: it has waited for others, and what it has read is to be read again.
    ///
    /// On PostgreSQL the guards of a batch say who has lost a race, and the loser starts over. Where
    /// races are many that is slower than a queue, so writers of rows that others are at, or that a
    /// race was lost for within the last second, queue by advisory locks until their batch has ended.
    /// The locks only save them from losing: the guards are what counts, and a server without such
    /// locks does without. Whoever has waited for a second goes on without. A request claims once: a
    /// second time could meet others in a circle.
    ///
    /// # Errors
    /// The database.
    pub async fn claim<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a str, bool)>,
    ) -> Result<bool, DbError> {
        let Session::Postgres(server) = self.session()? else {
            return Ok(false);
        };
        let locks = {
            let mut claims = self.claims();
            if claims.locked.is_some() {
                return Ok(false);
            }
            let now = ids::now_us();
            let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
            lost.retain(|_, until| *until > now);
            let mut locks = Vec::new();
            claims.named.clear();
            for (name, in_demand) in rows {
                let lock = lock_of(name);
                claims.named.push(lock);
                if in_demand || lost.contains_key(&lock) {
                    locks.push(lock);
                }
            }
            // Everybody in one order, so that two never wait for each other.
            locks.sort_unstable();
            locks.dedup();
            claims.locked = (!locks.is_empty()).then(Held::new);
            locks
        };
        if !locks.is_empty() {
            server.lock(locks).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether the database is a server that others write to at the same moment.
    pub fn is_server(&self) -> bool {
        matches!(self.session, Some(Session::Postgres(_)))
    }

    /// Names rows that are about to be changed and were not claimed, so that a race that is lost for
    /// them has the next ones queue.
    pub fn name<'a>(&self, rows: impl IntoIterator<Item = &'a str>) {
        self.claims().named.extend(rows.into_iter().map(lock_of));
    }

    /// Whether a race for one of these rows was lost within the last second.
    pub fn has_lost<'a>(&self, rows: impl IntoIterator<Item = &'a str>) -> bool {
        let now = ids::now_us();
        let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        !lost.is_empty()
            && rows
                .into_iter()
                .any(|name| lost.get(&lock_of(name)).is_some_and(|until| *until > now))
    }

    /// Whether another instance has claimed one of these rows at this moment, as far as can be told:
    /// not while this one has claimed any. Then whoever asks queues for the next second as well, and
    /// those others get their turn.
    pub async fn is_sought<'a>(&self, rows: impl IntoIterator<Item = &'a str>) -> bool {
        let Ok(Session::Postgres(server)) = self.session() else {
            return false;
        };
        if HOLDING.load(Relaxed) > 0 {
            return false;
        }
        let mut locks: Vec<i64> = rows.into_iter().map(lock_of).collect();
        locks.sort_unstable();
        locks.dedup();
        // Some of its own may have been taken meanwhile.
        let sought = server.is_locked(&locks).await && HOLDING.load(Relaxed) == 0;
        if sought {
            note_lost(&locks);
        }
        sought
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batch has lost a race for one of the rows that were claimed.
    pub(crate) fn note_lost_race(&self) {
        note_lost(&self.claims().named);
    }

    /// Lets the next writers in, if this one has locked something.
    pub(crate) async fn unlock(&mut self) {
        let Claims { locked, .. } = std::mem::take(&mut *self.claims());
        if locked.is_none() {
            return;
        }
        // The session may have been given up by whoever shares connections between statements; a new
        // one is cheap, and this one takes with it what might be left of the locks.
        if let Some(Session::Postgres(server)) = self.session.take() {
            server.unlock().await;
        }
        self.session = Session::of_config().await.ok();
    }

    /// Whether [`Db::lock`] or a batch has begun a transaction.
    pub(crate) fn is_locked(&self) -> bool {
        self.transaction == Transaction::Open
    }

    pub(crate) async fn begin(&mut self) -> Result<(), DbError> {
        self.transaction = Transaction::Beginning;
        self.file()?.begin().await?;
        self.transaction = Transaction::Open;
        Ok(())
    }

    /// Rows affected by a modifying statement.
    pub(crate) fn modify(&self, sql: &'static str, params: Vec<Value>) -> Result<u64, DbError> {
        self.file()?.modify(sql::sqlite(sql), params)
    }

    pub(crate) fn end(&mut self, statement: &'static str) -> Result<(), DbError> {
        self.file()?.query(statement, Vec::new())?;
        self.transaction = Transaction::None;
        Ok(())
    }

    /// Undoes the transaction. SQLite has done so by itself where the disk is full or failed, and then says
    /// that there is none. What follows on such a connection would commit step by step, so it is given
    /// up: whoever has this gets errors from now on, and the connection is closed.
    pub(crate) fn rollback(&mut self) {
        if self.end("ROLLBACK").is_err() {
            self.session = None;
            self.transaction = Transaction::None;
        }
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
            // Else it goes, and the lock with it.
            && self.claims().locked.is_none()
            && let (Some(session), Ok(mut idle)) = (self.session.take(), IDLE.lock())
        {
            idle.push(session);
        }
    }
}
