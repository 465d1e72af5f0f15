//! SQL of the embedded bus: the log, cursors, retries and dead letters.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, params};

/// One event of the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogEvent {
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) topic: String,
    /// The partition key; empty when the event has no order with others.
    pub(crate) key: String,
    /// The CloudEvent as JSON.
    pub(crate) envelope: String,
}

/// An event before it has its place in the log.
pub(crate) struct NewEvent {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) envelope: String,
}

/// A row of `retries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetryRow {
    pub(crate) seq: i64,
    pub(crate) key: String,
    pub(crate) attempts: u32,
    pub(crate) next_at: i64,
    pub(crate) alone: bool,
    pub(crate) error: String,
}

/// What a delivery changes for its subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The event waits, for its next try or behind another of its key.
    Wait(RetryRow),
    /// It is acknowledged and waits no longer.
    Settled { seq: i64 },
    /// It is given up.
    Dead {
        seq: i64,
        attempts: u32,
        error: String,
    },
}

/// A dead letter that is not an event of the log.
pub(crate) struct NewDeadLetter {
    pub(crate) kind: &'static str,
    pub(crate) target: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) envelope: String,
    pub(crate) error: String,
    pub(crate) attempts: u32,
}

/// Appends; `None` when the id is in the log already.
pub(crate) fn append(c: &Connection, event: NewEvent, now: i64) -> Result<Option<Arc<LogEvent>>> {
    let NewEvent {
        id,
        topic,
        key,
        envelope,
    } = event;
    let inserted = c
        .prepare_cached(
            "INSERT INTO event_log (id, topic, key, envelope, appended_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id, topic, key, envelope, now])?;
    Ok((inserted == 1).then(|| {
        Arc::new(LogEvent {
            seq: c.last_insert_rowid(),
            id,
            topic,
            key,
            envelope,
        })
    }))
}

/// The seq of the newest event there ever was.
pub(crate) fn head(c: &Connection) -> Result<i64> {
    let head = c
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'event_log'")?
        .query_row([], |r| r.get(0))
        .optional()?;
    Ok(head.unwrap_or(0))
}

/// Events with `after < seq <= up_to` of the topics (a JSON array of text), oldest first.
pub(crate) fn scan(
    c: &Connection,
    topics: &str,
    after: i64,
    up_to: i64,
    limit: usize,
) -> Result<Vec<Arc<LogEvent>>> {
    c.prepare_cached(
        "SELECT seq, id, topic, key, envelope FROM event_log
         WHERE seq > ?1 AND seq <= ?2 AND topic IN (SELECT value FROM json_each(?3))
         ORDER BY seq LIMIT ?4",
    )?
    .query_map(params![after, up_to, topics, limit as i64], log_event)?
    .collect()
}

/// Events by seq (a JSON array of numbers), oldest first.
pub(crate) fn by_seq(c: &Connection, seqs: &str) -> Result<Vec<Arc<LogEvent>>> {
    c.prepare_cached(
        "SELECT seq, id, topic, key, envelope FROM event_log
         WHERE seq IN (SELECT value FROM json_each(?1)) ORDER BY seq",
    )?
    .query_map([seqs], log_event)?
    .collect()
}

fn log_event(r: &rusqlite::Row<'_>) -> Result<Arc<LogEvent>> {
    Ok(Arc::new(LogEvent {
        seq: r.get(0)?,
        id: r.get(1)?,
        topic: r.get(2)?,
        key: r.get(3)?,
        envelope: r.get(4)?,
    }))
}

/// The cursor of a subscriber and what waits for it. A new subscriber starts with the oldest event
/// kept: what was published before its first start is for it too.
pub(crate) fn load(c: &Connection, subscriber: &str) -> Result<(i64, Vec<RetryRow>)> {
    let cursor = c
        .query_row(
            "SELECT seq FROM cursors WHERE subscriber = ?1",
            [subscriber],
            |r| r.get(0),
        )
        .optional()?
        .unwrap_or(0);
    let rows = c
        .prepare(
            "SELECT seq, key, attempts, next_at, alone, error FROM retries
             WHERE subscriber = ?1 ORDER BY seq",
        )?
        .query_map([subscriber], |r| {
            Ok(RetryRow {
                seq: r.get(0)?,
                key: r.get(1)?,
                attempts: r.get(2)?,
                next_at: r.get(3)?,
                alone: r.get::<_, i64>(4)? != 0,
                error: r.get(5)?,
            })
        })?
        .collect::<Result<_>>()?;
    Ok((cursor, rows))
}

/// Whether the log holds something of the topics (a JSON array of text) that the subscriber has not
/// settled.
pub(crate) fn owes(c: &Connection, subscriber: &str, topics: &str) -> Result<bool> {
    c.query_row(
        "SELECT EXISTS (SELECT 1 FROM retries WHERE subscriber = ?1)
             OR EXISTS (SELECT 1 FROM event_log
                 WHERE seq > coalesce((SELECT seq FROM cursors WHERE subscriber = ?1), 0)
                   AND topic IN (SELECT value FROM json_each(?2)))",
        params![subscriber, topics],
        |r| r.get(0),
    )
}

/// Writes what a delivery changed, and the cursor when it moved.
pub(crate) fn settle(
    c: &Connection,
    subscriber: &str,
    cursor: Option<i64>,
    changes: &[Change],
    now: i64,
) -> Result<()> {
    for change in changes {
        match change {
            Change::Wait(RetryRow {
                seq,
                key,
                attempts,
                next_at,
                alone,
                error,
            }) => {
                c.prepare_cached(
                    "INSERT OR REPLACE INTO retries (subscriber, seq, key, attempts, next_at, alone, error)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![subscriber, seq, key, attempts, next_at, i64::from(*alone), error])?;
            }
            Change::Settled { seq } => forget(c, subscriber, *seq)?,
            Change::Dead {
                seq,
                attempts,
                error,
            } => {
                c.prepare_cached(
                    "INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
                     SELECT 'event', ?1, id, topic, key, envelope, ?2, ?3, ?4 FROM event_log WHERE seq = ?5
                     ON CONFLICT (kind, target, id) DO NOTHING",
                )?
                .execute(params![subscriber, error, attempts, now, seq])?;
                forget(c, subscriber, *seq)?;
            }
        }
    }
    if let Some(seq) = cursor {
        c.prepare_cached("INSERT OR REPLACE INTO cursors (subscriber, seq) VALUES (?1, ?2)")?
            .execute(params![subscriber, seq])?;
    }
    Ok(())
}

fn forget(c: &Connection, subscriber: &str, seq: i64) -> Result<()> {
    c.prepare_cached("DELETE FROM retries WHERE subscriber = ?1 AND seq = ?2")?
        .execute(params![subscriber, seq])
        .map(drop)
}

/// Keeps what cannot be delivered; a second report of the same item changes nothing.
pub(crate) fn bury(c: &Connection, letter: &NewDeadLetter, now: i64) -> Result<bool> {
    let NewDeadLetter {
        kind,
        target,
        id,
        name,
        key,
        envelope,
        error,
        attempts,
    } = letter;
    let inserted = c
        .prepare_cached(
            "INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (kind, target, id) DO NOTHING",
        )?
        .execute(params![kind, target, id, name, key, envelope, error, attempts, now])?;
    Ok(inserted == 1)
}

/// How many dead letters are kept, by kind.
pub(crate) fn dead_letters(c: &Connection) -> Result<Vec<(String, i64)>> {
    c.prepare_cached("SELECT kind, count(*) FROM dead_letters GROUP BY kind")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect()
}

/// Deletes up to `limit` events published before `before` that every current subscriber (a JSON
/// array of names) has passed and none still waits for. Returns how many.
pub(crate) fn retire(
    c: &Connection,
    subscribers: &str,
    before: i64,
    limit: usize,
) -> Result<usize> {
    // Subscribers that left the manifest are not asked: their cursor would hold the log for good.
    // Only the oldest `limit` rows are looked at, so a round costs the same however long the log is.
    c.prepare_cached(
        "DELETE FROM event_log WHERE seq IN (
             SELECT e.seq FROM (SELECT seq, appended_at FROM event_log ORDER BY seq LIMIT ?3) e
             WHERE e.appended_at < ?1
               AND e.seq <= (SELECT coalesce(min(coalesce(
                       (SELECT k.seq FROM cursors k WHERE k.subscriber = s.value), 0)), e.seq)
                   FROM json_each(?2) s)
               AND NOT EXISTS (SELECT 1 FROM json_each(?2) s JOIN retries r ON r.subscriber = s.value
                   WHERE r.seq = e.seq))",
    )?
    .execute(params![before, subscribers, limit as i64])
}
