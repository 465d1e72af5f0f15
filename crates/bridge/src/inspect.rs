//! Looks into the file of a bridge, running or not, and into the database of jobs that bridges share.
//! For `innover events` and `innover jobs`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use innover_contract::Job;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use crate::{
    EnqueueError, Enqueued,
    clock::Clock,
    config::{Place, Routes, ServiceSpec},
    jobs::{file, server::Server},
    metrics::Metrics,
    store::{StoreError, readers::open_read_only},
};

/// What the command line is among the bridges of a database.
const COMMAND_LINE: &str = "command line";

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventRow {
    /// Its place in the log.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// Its type.
    pub topic: String,
    /// Its partition key.
    pub key: String,
    /// When it was published, microseconds since the epoch.
    pub appended_at: i64,
    /// The CloudEvent as JSON.
    pub envelope: String,
}

/// Which events; an empty field asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only this type.
    pub topic: Option<String>,
    /// Only this key.
    pub key: Option<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobRow {
    /// Its id.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// Its task.
    pub task: String,
    /// `queued`, `delayed`, `leased` (running), `done`, `failed` or `dead`.
    pub state: String,
    /// 0 is first.
    pub priority: i64,
    /// Deliveries so far.
    pub attempts: i64,
    /// Not before this time; 0 when it was never delayed. Microseconds since the epoch.
    pub eta: i64,
    /// When it was enqueued.
    pub enqueued_at: i64,
    /// When its last delivery started.
    pub started_at: Option<i64>,
    /// When it was done or given up.
    pub finished_at: Option<i64>,
    /// Its result, as JSON.
    pub result: Option<String>,
    /// The last error.
    pub error: Option<String>,
    /// The job as JSON.
    pub envelope: String,
}

/// Which jobs; an empty field asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only this queue.
    pub queue: Option<String>,
    /// Only this task.
    pub task: Option<String>,
    /// Only this state.
    pub state: Option<String>,
}

/// How many jobs of a queue are in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueRow {
    /// The queue.
    pub queue: String,
    /// Ready.
    pub queued: i64,
    /// Waiting for their time or their next try.
    pub delayed: i64,
    /// Running.
    pub leased: i64,
    /// Done and still kept.
    pub done: i64,
    /// Refused for good.
    pub failed: i64,
    /// Given up after their last try.
    pub dead: i64,
    /// When the oldest ready job was enqueued; microseconds since the epoch.
    pub oldest_queued_at: Option<i64>,
}

/// Something that could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterRow {
    /// Its number.
    pub seq: i64,
    /// `event`, `job` or `outbox` (a row that could not be read).
    pub kind: String,
    /// The subscriber, the queue, or the service whose outbox it was in.
    pub target: String,
    /// The event's or job's id.
    pub id: String,
    /// The topic or task.
    pub name: String,
    /// The event's key.
    pub key: String,
    /// The event or job as JSON; of an unreadable row its payload as it is.
    pub envelope: String,
    /// Why.
    pub error: String,
    /// Deliveries.
    pub attempts: i64,
    /// When it was given up, microseconds since the epoch.
    pub dead_at: i64,
}

/// Which dead letters; an empty field asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    /// `event`, `job` or `outbox`.
    pub kind: Option<&'static str>,
    /// The subscriber or queue.
    pub target: Option<String>,
    /// The topic or task.
    pub name: Option<String>,
    /// One event's or job's id.
    pub id: Option<String>,
}

impl LetterFilter {
    /// Whether a letter of this id and name is meant.
    pub(crate) fn matches(&self, id: &str, name: &str) -> bool {
        self.id.as_ref().is_none_or(|i| i == id) && self.name.as_ref().is_none_or(|n| n == name)
    }
}

/// A subscriber's place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriberRow {
    /// The service.
    pub subscriber: String,
    /// It has passed every event up to here.
    pub cursor: i64,
    /// The newest event.
    pub head: i64,
    /// Events that wait for their next try or behind one.
    pub retrying: i64,
}

/// Up to `limit` events after seq `after`, oldest first.
///
/// # Errors
/// What SQLite says.
pub fn events(
    store: &Path,
    after: i64,
    limit: usize,
    filter: &EventFilter,
) -> Result<Vec<EventRow>, StoreError> {
    Ok(read_events(&open_read_only(store)?, after, limit, filter)?)
}

/// The seq of the newest event; 0 when there never was one.
///
/// # Errors
/// What SQLite says.
pub fn head(store: &Path) -> Result<i64, StoreError> {
    Ok(crate::store::events::head(&open_read_only(store)?)?)
}

/// Follows the log: each call returns what is new since the last.
pub struct EventTail {
    connection: Connection,
    after: i64,
    filter: EventFilter,
}

/// Starts following after seq `after`.
///
/// # Errors
/// What SQLite says.
pub fn tail(store: &Path, after: i64, filter: EventFilter) -> Result<EventTail, StoreError> {
    Ok(EventTail {
        connection: open_read_only(store)?,
        after,
        filter,
    })
}

impl EventTail {
    /// Up to `limit` new events, oldest first; empty when there are none at the moment.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(&mut self, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        let rows = read_events(&self.connection, self.after, limit, &self.filter)?;
        self.after = rows.last().map_or(self.after, |r| r.seq);
        Ok(rows)
    }
}

fn read_events(
    connection: &Connection,
    after: i64,
    limit: usize,
    filter: &EventFilter,
) -> Result<Vec<EventRow>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT seq, id, topic, key, appended_at, envelope FROM event_log
             WHERE seq > ?1 AND (?2 IS NULL OR topic = ?2) AND (?3 IS NULL OR key = ?3)
             ORDER BY seq LIMIT ?4",
        )?
        .query_map(
            params![after, filter.topic, filter.key, limit as i64],
            |r| {
                Ok(EventRow {
                    seq: r.get(0)?,
                    id: r.get(1)?,
                    topic: r.get(2)?,
                    key: r.get(3)?,
                    appended_at: r.get(4)?,
                    envelope: r.get(5)?,
                })
            },
        )?
        .collect()
}

pub(crate) const JOB_COLUMNS: &str = "id, queue, task, state, priority, attempts, eta, enqueued_at, started_at, \
                           finished_at, result, error, envelope";

pub(crate) fn job_row(r: &Row<'_>) -> Result<JobRow, rusqlite::Error> {
    Ok(JobRow {
        id: r.get(0)?,
        queue: r.get(1)?,
        task: r.get(2)?,
        state: r.get(3)?,
        priority: r.get(4)?,
        attempts: r.get(5)?,
        eta: r.get(6)?,
        enqueued_at: r.get(7)?,
        started_at: r.get(8)?,
        finished_at: r.get(9)?,
        result: r.get(10)?,
        error: r.get(11)?,
        envelope: r.get(12)?,
    })
}

/// Up to `limit` jobs, newest first.
///
/// # Errors
/// What SQLite says.
pub fn jobs(store: &Path, filter: &JobFilter, limit: usize) -> Result<Vec<JobRow>, StoreError> {
    let sql = format!(
        "SELECT {JOB_COLUMNS} FROM jobs
         WHERE (?1 IS NULL OR queue = ?1) AND (?2 IS NULL OR task = ?2) AND (?3 IS NULL OR state = ?3)
         ORDER BY seq DESC LIMIT ?4"
    );
    let connection = open_read_only(store)?;
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(
        params![filter.queue, filter.task, filter.state, limit as i64],
        job_row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One job.
///
/// # Errors
/// What SQLite says.
pub fn job(store: &Path, id: &str) -> Result<Option<JobRow>, StoreError> {
    Ok(job_in(&open_read_only(store)?, id)?)
}

pub(crate) fn job_in(connection: &Connection, id: &str) -> Result<Option<JobRow>, rusqlite::Error> {
    let sql = format!("SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?1");
    connection
        .prepare_cached(&sql)?
        .query_row([id], job_row)
        .optional()
}

/// Every queue that has jobs.
///
/// # Errors
/// What SQLite says.
pub fn queues(store: &Path) -> Result<Vec<QueueRow>, StoreError> {
    let connection = open_read_only(store)?;
    let mut statement = connection.prepare(
        "SELECT queue, sum(state = 'queued'), sum(state = 'delayed'), sum(state = 'leased'), sum(state = 'done'),
                sum(state = 'failed'), sum(state = 'dead'), min(CASE WHEN state = 'queued' THEN enqueued_at END)
         FROM jobs GROUP BY queue ORDER BY queue",
    )?;
    let rows = statement.query_map([], |r| {
        Ok(QueueRow {
            queue: r.get(0)?,
            queued: r.get(1)?,
            delayed: r.get(2)?,
            leased: r.get(3)?,
            done: r.get(4)?,
            failed: r.get(5)?,
            dead: r.get(6)?,
            oldest_queued_at: r.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Up to `limit` dead letters, newest first.
///
/// # Errors
/// What SQLite says.
pub fn dead_letters(
    store: &Path,
    filter: &LetterFilter,
    limit: usize,
) -> Result<Vec<DeadLetterRow>, StoreError> {
    Ok(letters_in(&open_read_only(store)?, filter, limit)?)
}

pub(crate) fn letters_in(
    connection: &Connection,
    filter: &LetterFilter,
    limit: usize,
) -> Result<Vec<DeadLetterRow>, rusqlite::Error> {
    let mut statement = connection.prepare(
        "SELECT seq, kind, target, id, name, key, envelope, error, attempts, dead_at FROM dead_letters
         WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR target = ?2) AND (?3 IS NULL OR name = ?3)
           AND (?4 IS NULL OR id = ?4)
         ORDER BY seq DESC LIMIT ?5",
    )?;
    let LetterFilter {
        kind,
        target,
        name,
        id,
    } = filter;
    let rows = statement.query_map(params![kind, target, name, id, limit as i64], |r| {
        Ok(DeadLetterRow {
            seq: r.get(0)?,
            kind: r.get(1)?,
            target: r.get(2)?,
            id: r.get(3)?,
            name: r.get(4)?,
            key: r.get(5)?,
            envelope: r.get(6)?,
            error: r.get(7)?,
            attempts: r.get(8)?,
            dead_at: r.get(9)?,
        })
    })?;
    rows.collect()
}

/// Forgets a service's dead letters of events (`kind` is `event`) or of its outbox' rows (`outbox`), all
/// or the one with this id. Returns how many.
///
/// # Errors
/// What SQLite says.
pub fn forget_letters(
    store: &Path,
    kind: &str,
    target: &str,
    id: Option<&str>,
) -> Result<usize, StoreError> {
    let connection = crate::store::open(store)?;
    let sql =
        "DELETE FROM dead_letters WHERE kind = ?1 AND target = ?2 AND (?3 IS NULL OR id = ?3)";
    Ok(connection.execute(sql, params![kind, target, id])?)
}

/// Puts the dead letters of jobs back on their queues (`retry`) or deletes them, with the jobs. A
/// running bridge looks for changes every 200 ms. Returns how many.
///
/// # Errors
/// What SQLite says.
pub fn settle_jobs(store: &Path, filter: &LetterFilter, retry: bool) -> Result<usize, StoreError> {
    let mut connection = crate::store::open(store)?;
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(StoreError::from)?;
    let settled = file::settle_dead(&transaction, filter, retry)?;
    transaction.commit()?;
    Ok(settled)
}

/// Where jobs are: what `innover jobs` works on.
pub enum JobStore {
    /// A bridge's file.
    File(PathBuf),
    /// The database that bridges share.
    Shared(SharedJobs),
}

/// The database that bridges share, from outside of them.
pub struct SharedJobs(Box<Server>);

impl JobStore {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(place: Place) -> Result<JobStore, StoreError> {
        match place {
            Place::File(path) => Ok(JobStore::File(path)),
            place @ Place::Server { .. } => {
                let metrics = Arc::new(Metrics::new(Clock::System));
                let server = Server::new(&place, COMMAND_LINE, metrics)?;
                Ok(JobStore::Shared(SharedJobs(Box::new(server))))
            }
        }
    }

    /// Puts a job on `queue`, or on the queue of its task's prefix. A bridge finds it within half a
    /// second. When it returns the job survives a power cut.
    ///
    /// # Errors
    /// [`EnqueueError`]: an unknown queue or task, or the store refused.
    pub async fn enqueue(
        &self,
        services: &[ServiceSpec],
        queue: Option<&str>,
        mut job: Job,
    ) -> Result<Enqueued, EnqueueError> {
        let SharedJobs(server) = match self {
            JobStore::File(path) => return crate::enqueue(path, services, queue, job),
            JobStore::Shared(shared) => shared,
        };
        let routes = Routes::new(services).map_err(|e| EnqueueError::Unknown(e.to_string()))?;
        let queue = routes
            .route(queue, &mut job)
            .map_err(EnqueueError::Unknown)?;
        let put = server.put(&[(queue, job)], &[]).await?;
        server.harden().await?;
        Ok(match put.known {
            0 => Enqueued::New,
            _ => Enqueued::Known,
        })
    }

    /// Up to `limit` jobs, newest first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn jobs(&self, filter: &JobFilter, limit: usize) -> Result<Vec<JobRow>, StoreError> {
        match self {
            JobStore::File(path) => jobs(path, filter, limit),
            JobStore::Shared(SharedJobs(server)) => server.jobs(filter, limit).await,
        }
    }

    /// One job.
    ///
    /// # Errors
    /// What the store says.
    pub async fn job(&self, id: &str) -> Result<Option<JobRow>, StoreError> {
        match self {
            JobStore::File(path) => job(path, id),
            JobStore::Shared(SharedJobs(server)) => server.job(id).await,
        }
    }

    /// Every queue that has jobs.
    ///
    /// # Errors
    /// What the store says.
    pub async fn queues(&self) -> Result<Vec<QueueRow>, StoreError> {
        match self {
            JobStore::File(path) => queues(path),
            JobStore::Shared(SharedJobs(server)) => server.queues().await,
        }
    }

    /// Up to `limit` dead letters, newest first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn dead_letters(
        &self,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        match self {
            JobStore::File(path) => dead_letters(path, filter, limit),
            JobStore::Shared(SharedJobs(server)) => server.dead_letters(filter, limit).await,
        }
    }

    /// Forgets the dead letters of rows of `service`'s outbox, all or the one with this id. Returns how
    /// many.
    ///
    /// # Errors
    /// What the store says.
    pub async fn forget_rows(&self, service: &str, id: Option<&str>) -> Result<usize, StoreError> {
        match self {
            JobStore::File(path) => forget_letters(path, "outbox", service, id),
            JobStore::Shared(SharedJobs(server)) => server.forget_rows(service, id).await,
        }
    }

    /// Puts the dead letters of jobs back on their queues (`retry`) or deletes them, with the jobs.
    /// Returns how many.
    ///
    /// # Errors
    /// What the store says.
    pub async fn settle(&self, filter: &LetterFilter, retry: bool) -> Result<usize, StoreError> {
        match self {
            JobStore::File(path) => settle_jobs(path, filter, retry),
            JobStore::Shared(SharedJobs(server)) => server.settle_dead(filter, retry).await,
        }
    }
}

/// Every subscriber there is or was.
///
/// # Errors
/// What SQLite says.
pub fn subscribers(store: &Path) -> Result<Vec<SubscriberRow>, StoreError> {
    let connection = open_read_only(store)?;
    let head = crate::store::events::head(&connection)?;
    let mut statement = connection.prepare(
        "SELECT c.subscriber, c.seq, (SELECT count(*) FROM retries r WHERE r.subscriber = c.subscriber)
         FROM cursors c ORDER BY c.subscriber",
    )?;
    let rows = statement.query_map([], |r| {
        Ok(SubscriberRow {
            subscriber: r.get(0)?,
            cursor: r.get(1)?,
            head,
            retrying: r.get(2)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
