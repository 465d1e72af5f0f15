//! One connection to a server, and who has it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use innover_postgres::explain;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::pool::{Address, Slot};
use super::value::{self, Cell, Parameter};
use crate::bindings::imports::spin::postgres::postgres::{
    Column, DbError, DbValue, Error, ParameterValue, QueryError, RowSet,
};
use crate::limits;

/// A connection with the statements it has prepared.
pub(super) struct Session {
    client: Client,
    prepared: HashMap<String, Statement>,
    idle_since: Instant,
}

impl Session {
    pub(super) fn new(client: Client) -> Session {
        Session {
            client,
            prepared: HashMap::new(),
            idle_since: Instant::now(),
        }
    }

    /// Whether it can be lent again.
    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed() && self.idle_since.elapsed() < limits::POSTGRES_IDLE
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    async fn prepare(&mut self, statement: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.prepared.get(statement) {
            return Ok(known.clone());
        }
        let prepared = self.client.prepare(statement).await?;
        // Guests make texts up as they like; what they use often is soon back.
        if self.prepared.len() >= limits::STATEMENTS_CACHED {
            self.prepared.clear();
        }
        self.prepared.insert(statement.to_owned(), prepared.clone());
        Ok(prepared)
    }
}

/// Why a statement has no result.
pub(crate) enum Failed {
    Server(tokio_postgres::Error),
    /// Nothing was sent.
    Value(String),
    /// A value of a row that is none of the interface's.
    Unreadable(String),
    Late,
    TooLarge,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Failed {
        Failed::Server(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        let text = |text: String| Error::QueryFailed(QueryError::Text(text));
        match failed {
            Failed::Server(error) => problem(&error),
            Failed::Value(problem) | Failed::Unreadable(problem) => {
                Error::ValueConversionFailed(problem)
            }
            Failed::Late => text(format!(
                "the statement took longer than {} s; it may have taken effect",
                limits::POSTGRES_STATEMENT.as_secs()
            )),
            Failed::TooLarge => Error::Other(format!(
                "the result is larger than {} bytes: ask for fewer rows",
                limits::RESULT_BYTES_MAX
            )),
        }
    }
}

/// A driver's error as the interface has it.
fn problem(error: &tokio_postgres::Error) -> Error {
    let as_text = explain(error);
    let Some(db) = error.as_db_error() else {
        return Error::QueryFailed(QueryError::Text(as_text));
    };
    let (line, position) = (
        db.line().map(|n| n.to_string()),
        db.position().map(|p| match p {
            tokio_postgres::error::ErrorPosition::Original(at) => at.to_string(),
            tokio_postgres::error::ErrorPosition::Internal { position, query } => {
                format!("{position} of {query}")
            }
        }),
    );
    let extras = [
        ("column", db.column()),
        ("constraint", db.constraint()),
        ("routine", db.routine()),
        ("hint", db.hint()),
        ("table", db.table()),
        ("datatype", db.datatype()),
        ("schema", db.schema()),
        ("file", db.file()),
        ("line", line.as_deref()),
        ("position", position.as_deref()),
        ("where_", db.where_()),
    ];
    Error::QueryFailed(QueryError::DbError(DbError {
        as_text,
        severity: db.severity().to_owned(),
        code: db.code().code().to_owned(),
        message: db.message().to_owned(),
        detail: db.detail().map(str::to_owned),
        extras: extras
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect(),
    }))
}

/// The server no longer knows a prepared statement, or its tables have changed since: it did nothing.
fn is_outdated(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(&SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::FEATURE_NOT_SUPPORTED)
    )
}

/// What a statement leaves behind in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leaves {
    Nothing,
    /// Advisory locks.
    Locks,
    /// A transaction, settings, anything.
    Anything,
}

impl Leaves {
    fn behind(statement: &str) -> Leaves {
        const PLAIN: [&str; 7] = [
            "SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE",
        ];
        let text = statement.trim_start();
        let word = text
            .find(|c: char| !c.is_ascii_alphabetic())
            .map_or(text, |end| &text[..end]);
        let plain = PLAIN.iter().any(|known| known.eq_ignore_ascii_case(word));
        // Functions that change the session from within a query. What is `advisory_xact_lock` ends with
        // the statement.
        if !plain || text.contains("set_config") {
            Leaves::Anything
        } else if text.contains("advisory_lock") || text.contains("advisory_unlock") {
            Leaves::Locks
        } else {
            Leaves::Nothing
        }
    }
}

/// Whether it may have changed rows.
pub(crate) fn writes(statement: &str) -> bool {
    let text = statement.trim_start();
    !text
        .get(..6)
        .is_some_and(|word| word.eq_ignore_ascii_case("SELECT"))
}

/// A session that somebody has. Dropping it gives it back.
pub(crate) struct Lease {
    address: Arc<Address>,
    session: Option<Session>,
    slot: Option<Slot>,
    /// Something runs on it.
    busy: bool,
    /// What runs, or ran last, may change rows.
    writing: bool,
    /// What the statements so far have left behind.
    left: Leaves,
    /// Nobody else is to have it: it leads to a server that takes no writes any more.
    stale: bool,
}

impl Lease {
    pub(super) fn new(address: Arc<Address>, session: Session, slot: Slot) -> Lease {
        Lease {
            address,
            session: Some(session),
            slot: Some(slot),
            busy: false,
            writing: false,
            left: Leaves::Nothing,
            stale: false,
        }
    }

    /// Whether the next statement has to find the same session.
    pub(crate) fn is_pinned(&self) -> bool {
        self.left > Leaves::Nothing
    }

    /// Runs a statement and returns the rows it changed or gave.
    pub(crate) async fn execute(
        &mut self,
        statement: &str,
        parameters: Vec<ParameterValue>,
    ) -> Result<u64, Failed> {
        self.run(statement, parameters, Keep::Count)
            .await
            .map(|(_, affected)| affected)
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn query(
        &mut self,
        statement: &str,
        parameters: Vec<ParameterValue>,
    ) -> Result<RowSet, Failed> {
        self.run(statement, parameters, Keep::Rows)
            .await
            .map(|(rows, _)| rows)
    }

    async fn run(
        &mut self,
        statement: &str,
        parameters: Vec<ParameterValue>,
        keep: Keep,
    ) -> Result<(RowSet, u64), Failed> {
        let parameters: Vec<Parameter> = parameters.into_iter().map(Parameter).collect();
        let in_no_transaction = self.left < Leaves::Anything;
        self.left = self.left.max(Leaves::behind(statement));
        let Some(session) = &mut self.session else {
            return Err(Failed::Value("the connection is closed".to_owned()));
        };
        // Stays set when this future is dropped half way.
        self.busy = true;
        self.writing = writes(statement);
        let done = tokio::time::timeout(limits::POSTGRES_STATEMENT, async {
            match once(session, statement, &parameters, keep).await {
                Err(Failed::Server(error)) if is_outdated(&error) && in_no_transaction => {
                    session.prepared.remove(statement);
                    once(session, statement, &parameters, keep).await
                }
                done => done,
            }
        })
        .await;
        // The rest of one that was broken off is still being sent.
        let unread = matches!(done, Ok(Err(Failed::TooLarge | Failed::Unreadable(_))));
        self.busy = done.is_err() || unread;
        self.stale |= matches!(&done, Ok(Err(Failed::Server(error)))
            if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
        done.unwrap_or(Err(Failed::Late))
    }
}

#[derive(Clone, Copy)]
enum Keep {
    Count,
    Rows,
}

async fn once(
    session: &mut Session,
    statement: &str,
    parameters: &[Parameter],
    keep: Keep,
) -> Result<(RowSet, u64), Failed> {
    let prepared = session.prepare(statement).await?;
    let takes = prepared.params().len();
    if takes != parameters.len() {
        let given = parameters.len();
        return Err(Failed::Value(format!(
            "the statement takes {takes} parameters and was given {given}"
        )));
    }
    let stream = session.client.query_raw(&prepared, parameters).await?;
    let columns: Vec<Column> = prepared
        .columns()
        .iter()
        .map(|column| Column {
            name: column.name().to_owned(),
            data_type: value::data_type(column.type_()),
        })
        .collect();
    let mut stream = std::pin::pin!(stream);
    let (mut rows, mut count, mut bytes) = (Vec::new(), 0_u64, 0);
    while let Some(row) = stream.try_next().await? {
        count += 1;
        if let Keep::Rows = keep {
            let cells = (0..columns.len()).map(|i| row.try_get::<_, Cell>(i).map(|cell| cell.0));
            let row: Vec<DbValue> = cells
                .collect::<Result<_, _>>()
                .map_err(|error| Failed::Unreadable(explain(&error)))?;
            bytes += row.iter().map(value::size).sum::<usize>();
            if bytes > limits::RESULT_BYTES_MAX {
                return Err(Failed::TooLarge);
            }
            rows.push(row);
        }
    }
    let affected = stream.rows_affected().unwrap_or(count);
    Ok((RowSet { columns, rows }, affected))
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut session), Some(slot)) = (self.session.take(), self.slot.take()) else {
            return;
        };
        session.idle_since = Instant::now();
        if session.client.is_closed() || self.stale {
            return;
        }
        let address = Arc::clone(&self.address);
        // What runs holds locks until it ends; the slot is free when it has.
        if self.busy && self.writing {
            // It may be committed and wait for a standby: cancelled, the server would give up that wait
            // and show everybody rows that a failover takes back. Its own time limit ends it.
            spawn(async move {
                let ended = session.client.batch_execute("");
                let _ = tokio::time::timeout(limits::POSTGRES_STATEMENT, ended).await;
                drop((session, slot));
            });
        } else if self.busy {
            let cancel = session.client.cancel_token();
            spawn(async move {
                address.cancel(cancel).await;
                drop((session, slot));
            });
        } else if self.is_pinned() {
            let left = self.left;
            spawn(async move {
                let clean = async {
                    // Outside a transaction ROLLBACK is a warning. DISCARD ALL must be by itself.
                    session.client.batch_execute("ROLLBACK").await?;
                    let rest = match left {
                        Leaves::Locks => "SELECT pg_advisory_unlock_all()",
                        _ => {
                            // It forgets what was prepared, too.
                            session.prepared.clear();
                            "DISCARD ALL"
                        }
                    };
                    session.client.batch_execute(rest).await
                };
                let cleaned = tokio::time::timeout(CLEANING_MAX, clean).await;
                if matches!(cleaned, Ok(Ok(()))) {
                    slot.give_back(&address, session);
                }
            });
        } else {
            slot.give_back(&address, session);
        }
    }
}

/// A server that takes longer to roll back is given a new connection.
const CLEANING_MAX: Duration = Duration::from_secs(5);

/// Leases are dropped wherever a guest ends, also while the runtime itself does.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_statement_leaves_behind_is_known_by_its_text() {
        for (statement, expected) in [
            ("SELECT 1", Leaves::Nothing),
            ("  with a as (select 1) select * from a", Leaves::Nothing),
            ("INSERT INTO t VALUES (1)", Leaves::Nothing),
            ("BEGIN", Leaves::Anything),
            ("begin; select 1", Leaves::Anything),
            ("SET search_path = x", Leaves::Anything),
            ("SELECT set_config('a', 'b', false)", Leaves::Anything),
            ("SELECT pg_advisory_lock(1)", Leaves::Locks),
            ("SELECT pg_try_advisory_lock(1)", Leaves::Locks),
            ("SELECT pg_advisory_lock_shared(1)", Leaves::Locks),
            ("SELECT pg_advisory_unlock_all()", Leaves::Locks),
            (
                "SELECT pg_try_advisory_xact_lock_shared(1)",
                Leaves::Nothing,
            ),
            ("LISTEN x", Leaves::Anything),
            ("/* x */ BEGIN", Leaves::Anything),
            ("", Leaves::Anything),
        ] {
            assert_eq!(Leaves::behind(statement), expected, "{statement}");
        }
    }
}
