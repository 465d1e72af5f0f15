//! One guest's connection: statements run on the calling thread, since with a page cache they take
//! microseconds and a commit waits for no disk; waiting for the lock is done by the task.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use innover_failpoint::{Step, hold};
use rusqlite::ErrorCode;
use rusqlite::hooks::Wal;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::disk::{Disk, Seen};
use super::{Database, LockError, WriteGuard, policy};
use crate::bindings::imports::spin::sqlite::sqlite::{Error, RowResult, Value};
use crate::limits;

/// A SQLite connection with the policy in place, as the pool keeps it.
pub(super) struct Session {
    sqlite: rusqlite::Connection,
    /// See [`policy::apply`].
    personal: Arc<AtomicBool>,
    /// Set when SQLite is about to commit.
    committed: Arc<AtomicBool>,
    /// Pages in the log after the last commit.
    log_pages: Arc<AtomicU32>,
    /// When the running statement must end, in milliseconds since [`START`].
    ends_ms: Arc<AtomicU64>,
}

static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Session {
    pub(super) fn new(
        mut sqlite: rusqlite::Connection,
        disk: &Arc<Disk>,
    ) -> rusqlite::Result<Self> {
        let personal = policy::apply(&mut sqlite)?;
        let ends_ms = Arc::new(AtomicU64::new(u64::MAX));
        let ends = Arc::clone(&ends_ms);
        let committed = Arc::new(AtomicBool::new(false));
        let (flag, disk) = (Arc::clone(&committed), Arc::clone(disk));
        sqlite.commit_hook(Some(move || {
            flag.store(true, Ordering::Relaxed);
            disk.begin();
            // true would turn the commit into a rollback.
            false
        }))?;
        let log_pages = Arc::new(AtomicU32::new(0));
        let pages = Arc::clone(&log_pages);
        // Takes the place of SQLite's own checkpoints.
        sqlite.wal_hook(Some(move |_: &mut Wal, in_log: c_int| {
            pages.store(u32::try_from(in_log).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        sqlite.progress_handler(
            limits::STATEMENT_CHECK_OPS,
            Some(move || now_ms() > ends.load(Ordering::Relaxed)),
        )?;
        Ok(Self {
            sqlite,
            personal,
            committed,
            log_pages,
            ends_ms,
        })
    }
}

/// What a statement returned.
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<RowResult>,
}

/// A connection held by one guest resource.
pub(crate) struct Connection {
    database: Arc<Database>,
    /// The guest instance it belongs to.
    instance: u64,
    seen: Arc<Seen>,
    state: Mutex<State>,
}

struct State {
    /// `None` only while `drop` runs.
    session: Option<Session>,
    /// Held from the first writing statement until SQLite is in autocommit mode again.
    lock: Option<WriteGuard>,
}

/// How one try to run a statement ended.
enum Attempt {
    Done(Result<Rows, Error>),
    /// The statement writes and the lock is not held.
    NeedsLock,
    /// Another process has the file.
    Busy,
}

impl Connection {
    pub(crate) fn open(
        database: &Arc<Database>,
        instance: u64,
        seen: &Arc<Seen>,
    ) -> Result<Self, Error> {
        let session = database.take().map_err(|error| io(&error))?;
        Ok(Self {
            database: Arc::clone(database),
            instance,
            seen: Arc::clone(seen),
            state: Mutex::new(State {
                session: Some(session),
                lock: None,
            }),
        })
    }

    /// Runs one statement. `blocks_instance`: the guest called a synchronous function, so nothing
    /// else of its instance runs until this returns.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        statement: &str,
        parameters: &[Value],
        blocks_instance: bool,
    ) -> Result<Rows, Error> {
        let commits = statement.eq_ignore_ascii_case("COMMIT");
        if commits {
            hold(Step::CommitUnwritten, &self.database.label).await;
        }
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        let mut lock = None;
        loop {
            match self.attempt(statement, parameters, &mut lock) {
                Attempt::Done(result) => {
                    self.seen.note(&self.database.disk);
                    if commits && result.is_ok() {
                        hold(Step::CommitUnanswered, &self.database.label).await;
                    }
                    return result;
                }
                Attempt::NeedsLock => {
                    self.seen.on_disk_beside(&self.database.disk).await;
                    let taken = self.database.lock(self.instance, blocks_instance).await;
                    lock = Some(taken.map_err(|error| Error::Io(error.to_string()))?);
                }
                Attempt::Busy if started.elapsed() > limits::DATABASE_LOCK_WAIT => {
                    self.state().release_if_done(&self.database);
                    return Err(Error::Io(LockError::Timeout.to_string()));
                }
                Attempt::Busy => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
            }
        }
    }

    fn attempt(
        &self,
        statement: &str,
        parameters: &[Value],
        lock: &mut Option<WriteGuard>,
    ) -> Attempt {
        let mut state = self.state();
        let State {
            session: Some(session),
            lock: held,
        } = &mut *state
        else {
            return Attempt::Done(Err(Error::InvalidConnection));
        };
        let mut prepared = match session.sqlite.prepare_cached(statement) {
            Ok(prepared) => prepared,
            Err(error) if is_busy(&error) => return Attempt::Busy,
            Err(error) => return Attempt::Done(Err(io(&error))),
        };
        let writes = !prepared.readonly();
        if writes && held.is_none() {
            match lock.take() {
                Some(guard) => *held = Some(guard),
                None => return Attempt::NeedsLock,
            }
        }
        session
            .ends_ms
            .store(now_ms() + duration_ms(limits::STATEMENT), Ordering::Relaxed);
        let result = run(&mut prepared, parameters);
        session.ends_ms.store(u64::MAX, Ordering::Relaxed);
        drop(prepared);
        if let Err(RunError::Sqlite(error)) = &result
            && is_busy(error)
        {
            return Attempt::Busy;
        }
        state.release_if_done(&self.database);
        Attempt::Done(result.map_err(|error| match error {
            RunError::Sqlite(error) => io(&error),
            RunError::Text(text) => Error::Io(text),
        }))
    }

    pub(crate) fn last_insert_rowid(&self) -> i64 {
        self.state()
            .session
            .as_ref()
            .map_or(0, |session| session.sqlite.last_insert_rowid())
    }

    pub(crate) fn changes(&self) -> u64 {
        self.state()
            .session
            .as_ref()
            .map_or(0, |session| session.sqlite.changes())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the write lock back when no transaction is open any more.
    fn release_if_done(&mut self, database: &Arc<Database>) {
        let Some(session) = &self.session else { return };
        if !session.sqlite.is_autocommit() {
            return;
        }
        let guard = self.lock.take();
        if session.committed.swap(false, Ordering::Relaxed) {
            database.committed(session.log_pages.load(Ordering::Relaxed));
        }
        drop(guard);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = state.session.take() else {
            return;
        };
        let clean =
            session.sqlite.is_autocommit() || session.sqlite.execute_batch("ROLLBACK").is_ok();
        // A commit that was begun, and failed.
        if session.committed.swap(false, Ordering::Relaxed) {
            self.database
                .committed(session.log_pages.load(Ordering::Relaxed));
        }
        // A connection that cannot be cleaned is closed, which rolls back as well.
        if clean && !session.personal.load(Ordering::Relaxed) {
            self.database.give_back(session);
        } else {
            drop(session);
        }
        state.lock = None;
    }
}

enum RunError {
    Sqlite(rusqlite::Error),
    Text(String),
}

impl From<rusqlite::Error> for RunError {
    fn from(error: rusqlite::Error) -> Self {
        RunError::Sqlite(error)
    }
}

fn run(
    statement: &mut rusqlite::CachedStatement<'_>,
    parameters: &[Value],
) -> Result<Rows, RunError> {
    let expected = statement.parameter_count();
    if expected != parameters.len() {
        return Err(rusqlite::Error::InvalidParameterCount(parameters.len(), expected).into());
    }
    for (index, parameter) in parameters.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, Bound(parameter))?;
    }
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let width = columns.len();
    let mut rows = Vec::new();
    let mut bytes = 0;
    let mut cursor = statement.raw_query();
    while let Some(row) = cursor.next()? {
        let mut values = Vec::with_capacity(width);
        for index in 0..width {
            let value = owned(row.get_ref(index)?);
            bytes += size_of::<Value>() + heap_bytes(&value);
            values.push(value);
        }
        if bytes > limits::RESULT_BYTES_MAX {
            return Err(RunError::Text(format!(
                "result is larger than {} MiB: read it in pages",
                limits::RESULT_BYTES_MAX >> 20
            )));
        }
        rows.push(RowResult { values });
    }
    Ok(Rows { columns, rows })
}

/// A parameter, bound without a copy.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Real(n) => ValueRef::Real(*n),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
            Value::Null => ValueRef::Null,
        }))
    }
}

fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => Value::Integer(n),
        ValueRef::Real(n) => Value::Real(n),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

fn heap_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        Value::Integer(_) | Value::Real(_) | Value::Null => 0,
    }
}

/// Whether waiting may help. A snapshot that is too old to write from stays so.
fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| {
        matches!(e.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            && e.extended_code != rusqlite::ffi::SQLITE_BUSY_SNAPSHOT
    })
}

fn io(error: &rusqlite::Error) -> Error {
    match error.sqlite_error().map(|e| e.code) {
        Some(ErrorCode::DiskFull) => Error::DatabaseFull,
        Some(ErrorCode::OperationInterrupted) => Error::Io(format!(
            "statement took longer than {} s",
            limits::STATEMENT.as_secs()
        )),
        _ => Error::Io(error.to_string()),
    }
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
