//! The outbox of a SQLite database, read in rowid order, which is commit order (SQLite has one
//! writer).
//!
//! Until they are deleted, rows that were read are told apart by the highest rowid seen. Rowids of an
//! ordinary table start again when it is emptied, so the mark is given up with every delete, and rows
//! are deleted by rowid and id: should somebody else have emptied the table in between, a reused rowid
//! names a row that nobody has published. The delete is `synchronous=NORMAL`: a power cut that undoes
//! it has rows published again.

use std::path::{Path, PathBuf};

use innover_contract::event::OUTBOX_TASK_PREFIX;
use rusqlite::{Connection, OpenFlags, Params, config::DbConfig, params, types::Value};

use super::Row;
use crate::{
    limits::{BUSY_TIMEOUT, RELAY_ROWS_MAX},
    store::StoreError,
};

const LIMIT: i64 = RELAY_ROWS_MAX as i64;

const READ: &str =
    "SELECT rowid, CAST(id AS TEXT), CAST(topic AS TEXT), CAST(coalesce(key, '') AS TEXT),
            CAST(type AS TEXT), CAST(payload AS TEXT), CAST(coalesce(headers, '') AS TEXT),
            coalesce(created_at, 0),
            id
     FROM outbox WHERE rowid > ?1 ORDER BY rowid LIMIT ?2";

/// Not by LIKE, which takes capitals for small letters.
const READ_JOBS: &str =
    "SELECT rowid, CAST(id AS TEXT), CAST(topic AS TEXT), CAST(coalesce(key, '') AS TEXT),
            CAST(type AS TEXT), CAST(payload AS TEXT), CAST(coalesce(headers, '') AS TEXT),
            coalesce(created_at, 0),
            id
     FROM outbox WHERE substr(CAST(type AS TEXT), 1, length(?1)) = ?1 ORDER BY rowid LIMIT ?2";

pub(crate) struct File {
    /// Away only while a thread works with it, or after an error.
    connection: Option<Connection>,
    /// Rows up to here were read; 0 when none of the rows there are.
    read_to: i64,
    /// Their rowids, and their ids as they are stored, whatever those are: what a delete compares.
    undeleted: Vec<(i64, Value)>,
}

impl File {
    pub(super) async fn open(path: PathBuf) -> Result<File, StoreError> {
        Ok(File {
            connection: Some(blocking(move || open(&path)).await?),
            read_to: 0,
            undeleted: Vec::new(),
        })
    }

    pub(super) async fn read(&mut self) -> Result<Vec<Row>, StoreError> {
        let after = self.read_to;
        let rows = self
            .with(move |connection| Ok(read(connection, READ, params![after, LIMIT])?))
            .await?;
        if let Some((last, ..)) = rows.last() {
            self.read_to = *last;
        }
        Ok(self.keep_for_deletion(rows))
    }

    pub(super) async fn read_jobs(&mut self) -> Result<Vec<Row>, StoreError> {
        let rows = self
            .with(|connection| {
                let which = params![OUTBOX_TASK_PREFIX, LIMIT];
                Ok(read(connection, READ_JOBS, which)?)
            })
            .await?;
        Ok(self.keep_for_deletion(rows))
    }

    fn keep_for_deletion(&mut self, rows: Vec<(i64, Value, Row)>) -> Vec<Row> {
        let (stored, rows): (Vec<_>, Vec<Row>) = rows
            .into_iter()
            .map(|(rowid, id, row)| ((rowid, id), row))
            .unzip();
        self.undeleted.extend(stored);
        rows
    }

    pub(super) fn undeleted(&self) -> usize {
        self.undeleted.len()
    }

    pub(super) async fn delete(&mut self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.undeleted);
        self.with(move |connection| {
            // A transaction that is not committed is rolled back when the connection is dropped.
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let mut delete =
                connection.prepare_cached("DELETE FROM outbox WHERE rowid = ?1 AND id IS ?2")?;
            for (rowid, id) in rows {
                delete.execute(params![rowid, id])?;
            }
            connection.execute_batch("COMMIT")?;
            Ok(())
        })
        .await?;
        self.read_to = 0;
        Ok(())
    }

    /// Works with the connection on a thread of its own. It is not put back after an error.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.take().ok_or(StoreError::Closed)?;
        let (connection, done) = blocking(move || {
            let done = work(&connection)?;
            Ok((connection, done))
        })
        .await?;
        self.connection = Some(connection);
        Ok(done)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Closed)?
}

/// Opens a service's database; it is the service's, so it is never created here.
fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The service's host copies the log into the database.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // Else every other value of `LIMIT ?` has the query planned again.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

fn read(
    connection: &Connection,
    query: &str,
    which: impl Params,
) -> Result<Vec<(i64, Value, Row)>, rusqlite::Error> {
    connection
        .prepare_cached(query)?
        .query_map(which, |r| {
            // Text that is not UTF-8 must not stop the rows behind it: it is read with replacement
            // characters and then fails as JSON, which parks the row.
            let text = |i| {
                Ok::<_, rusqlite::Error>(
                    String::from_utf8_lossy(r.get_ref(i)?.as_bytes_or_null()?.unwrap_or(b""))
                        .into_owned(),
                )
            };
            let rowid: i64 = r.get(0)?;
            let row = Row {
                id: text(1)?,
                topic: text(2)?,
                key: text(3)?,
                kind: text(4)?,
                payload: text(5)?,
                headers: text(6)?,
                created_at: r.get_ref(7)?.as_i64_or_null()?.unwrap_or(0),
                place: rowid.to_string(),
            };
            Ok((rowid, r.get(8)?, row))
        })?
        .collect()
}
