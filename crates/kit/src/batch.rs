//! The one way to write: named steps that all take effect or none does.
//!
//! **A step sees the rows as they were before the batch**, never what an earlier step wrote, and no
//! two steps modify one table: on Postgres the batch is one statement whose parts run in no defined
//! order, on SQLite the steps run one after the other inside BEGIN IMMEDIATE … COMMIT. A debug
//! build and every native test runs the SQLite form in shuffled order, so a step that leans on
//! another fails there.

use std::sync::Arc;

use innover_contract::{Code, Job, event::OUTBOX_TASK_PREFIX, event::OutboxHeaders};
use serde_json::Value as Json;

use crate::{
    Cause, Db, Failure, Result, Value, call,
    db::{DbError, column},
    follow::{Follow, Underway},
    ids, params,
    sql::{self, Part},
};

/// How many rows a step must affect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this many, else the whole batch fails.
    Rows(u64),
    /// Any number.
    Any,
}

struct Step {
    name: &'static str,
    sql: &'static str,
    params: Vec<Value>,
    expect: Expect,
}

/// An event for the outbox.
#[derive(Clone, Debug)]
pub struct Emit {
    /// The event's type, e.g. `payment.initiated`.
    pub kind: &'static str,
    /// The aggregate's id; events of one key stay in order.
    pub key: String,
    /// The aggregate's version after the change, the order per key.
    pub key_version: i64,
    /// The payload.
    pub data: Json,
    /// What caused it.
    pub cause: Cause,
}

/// Steps that commit together.
#[derive(Default)]
pub struct Batch {
    steps: Vec<Step>,
    outbox: Vec<Vec<Value>>,
    inbox: Vec<Vec<Value>>,
    answers: Vec<Vec<Value>>,
    follow: Option<Follow>,
}

/// Why a batch left nothing behind.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A step affected another number of rows: its guard (a version, a limit, a unique key) did not
    /// hold.
    #[error("step `{step}` affected {got} rows, {expected} were expected")]
    Expectation {
        /// The step's name.
        step: &'static str,
        /// Rows it should have affected.
        expected: u64,
        /// Rows it affected; one less than expected where the server stops at the first key that is
        /// taken (PostgreSQL).
        got: u64,
    },
    /// A batch that this one was built on has not happened.
    #[error("a batch that this one was built on has not happened")]
    Before,
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl BatchError {
    /// The step whose expectation did not hold.
    pub fn step(&self) -> Option<&'static str> {
        match self {
            BatchError::Expectation { step, .. } => Some(step),
            BatchError::Before | BatchError::Db(_) => None,
        }
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Failure {
        match error {
            // A guard nobody turned into an answer of its own: someone was faster.
            BatchError::Expectation { .. } | BatchError::Before => Failure::new(
                Code::Conflict,
                "someone else changed this at the same time; read it again and retry",
            ),
            BatchError::Db(error) => error.into(),
        }
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds a step. `name` is what an error says, `sql` one modifying statement in the subset both
    /// dialects speak.
    pub fn step(
        &mut self,
        name: &'static str,
        sql: &'static str,
        params: Vec<Value>,
        expect: Expect,
    ) -> &mut Batch {
        self.steps.push(Step {
            name,
            sql,
            params,
            expect,
        });
        self
    }

    /// Adds an event to the outbox.
    pub fn emit(&mut self, event: Emit) -> &mut Batch {
        let Emit {
            kind,
            key,
            key_version,
            data,
            cause,
        } = event;
        self.outbox_row(
            kind.into(),
            kind.into(),
            key,
            key_version,
            data.to_string(),
            cause,
        )
    }

    /// Enqueues a job on `queue`, in the same commit as the change.
    pub fn enqueue(&mut self, queue: &str, mut job: Job, cause: Cause) -> &mut Batch {
        job.traceparent = job.traceparent.or_else(|| cause.traceparent.clone());
        job.correlationid = job.correlationid.or_else(|| cause.correlation_id.clone());
        let kind = format!("{OUTBOX_TASK_PREFIX}{}", job.task);
        let payload = serde_json::to_string(&job).unwrap_or_default();
        self.outbox_row(queue.into(), kind, job.id, 0, payload, cause)
    }

    fn outbox_row(
        &mut self,
        topic: String,
        kind: String,
        key: String,
        version: i64,
        payload: String,
        cause: Cause,
    ) -> &mut Batch {
        let headers = OutboxHeaders {
            traceparent: cause.traceparent,
            correlationid: cause.correlation_id,
            idempotencykey: cause.idempotency_key,
            authid: cause.actor,
        };
        let headers = serde_json::to_string(&headers).unwrap_or_default();
        self.outbox.push(params![
            ids::new_uuid(),
            topic,
            key,
            version,
            kind,
            payload,
            headers,
            ids::now_us()
        ]);
        self
    }

    /// Marks an event or a job as handled, with what the job returned.
    pub(crate) fn handled(&mut self, id: &str, result: Option<String>) {
        self.inbox.push(params![id, ids::now_us(), result]);
    }

    /// Keeps an answer under its key: `id, fields, status, response, created_at`.
    pub(crate) fn answered(&mut self, row: Vec<Value>) {
        self.answers.push(row);
    }

    /// Commits only after these have, and not when one of them does not: what it writes, or that it
    /// writes nothing, was decided on what they write.
    pub fn after(&mut self, before: impl IntoIterator<Item = Arc<Underway>>) -> &mut Batch {
        let follow = self.follow.get_or_insert_default();
        follow.before.extend(before);
        self
    }

    /// Its own commit, for those who go on from what it writes.
    pub fn underway(&mut self) -> Arc<Underway> {
        Arc::clone(&self.follow.get_or_insert_default().own)
    }

    /// Whether nothing would be written, and nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.follow.is_none()
            && self.steps.is_empty()
            && self.outbox.is_empty()
            && self.inbox.is_empty()
            && self.answers.is_empty()
    }

    /// Takes over the steps and events of `other`. No table may be modified by both.
    pub fn append(&mut self, other: Batch) {
        self.steps.extend(other.steps);
        self.outbox.extend(other.outbox);
        self.inbox.extend(other.inbox);
        self.answers.extend(other.answers);
        // Others go on from one of the two at most: those of the other one start over.
        self.follow = self.follow.take().or(other.follow);
    }

    /// Commits all steps or none. A lock taken by [`Db::lock`] ends with it either way.
    ///
    /// # Errors
    /// [`BatchError`] names the step whose expectation did not hold; the database is as before.
    pub async fn commit(mut self, db: &mut Db) -> Result<(), BatchError> {
        let follow = self.follow.take();
        let ready = match &follow {
            Some(follow) => follow.ready().await,
            None => true,
        };
        let done = match ready {
            true => self.write(db).await,
            false => match db.is_locked() {
                true => {
                    db.rollback();
                    Err(BatchError::Before)
                }
                false => Err(BatchError::Before),
            },
        };
        // Before the locks go, which takes its time: those who follow need none.
        if let Some(follow) = follow {
            follow.end(done.is_ok());
        }
        if matches!(
            done,
            Err(BatchError::Expectation { .. }
                | BatchError::Before
                | BatchError::Db(DbError::Overtaken { .. }))
        ) {
            db.note_lost_race();
        }
        db.unlock().await;
        done
    }

    async fn write(mut self, db: &mut Db) -> Result<(), BatchError> {
        self.finish();
        if self.steps.is_empty() {
            if db.is_locked() {
                db.end("ROLLBACK")?;
            }
            return Ok(());
        }
        if let Some(done) = self.all_at_once(db).await {
            return done;
        }
        if !db.is_locked() {
            db.begin().await?;
        }
        let done = self.run(db);
        match done.and_then(|()| db.end("COMMIT").map_err(BatchError::from)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // Not every failing statement rolls back by itself.
                db.rollback();
                Err(error)
            }
        }
    }

    /// On PostgreSQL: one statement. One that the server gave up for others' sake has left nothing
    /// behind and is tried again.
    async fn all_at_once(&self, db: &Db) -> Option<Result<(), BatchError>> {
        let steps: Vec<Part<'_>> = self
            .steps
            .iter()
            .map(|step| (step.sql, &step.params[..], Some(step.expect)))
            .collect();
        for attempt in 1.. {
            let error = match db.all_at_once(&steps).await? {
                Ok(()) => return Some(Ok(())),
                Err(error) => error,
            };
            match &error {
                DbError::GivenUp(_) if attempt < GIVEN_UP_ATTEMPTS => {
                    call::sleep_ms(call::jitter_ms(attempt * 2)).await;
                    continue;
                }
                DbError::Statement(text) => {
                    if let Some((i, got)) = sql::failed_step(text) {
                        return Some(Err(self.failed(i, |_| got).unwrap_or(error.into())));
                    }
                }
                DbError::Overtaken { key: Some(key), .. } => {
                    if let Some(i) = sql::step_of_key(&steps, key) {
                        let got = |expected: u64| expected.saturating_sub(1);
                        return Some(Err(self.failed(i, got).unwrap_or(error.into())));
                    }
                }
                _ => {}
            }
            return Some(Err(error.into()));
        }
        None
    }

    /// Step `i` affected another number of rows than it must.
    fn failed(&self, i: usize, got: impl Fn(u64) -> u64) -> Option<BatchError> {
        let step = self.steps.get(i)?;
        let Expect::Rows(expected) = step.expect else {
            return None;
        };
        Some(BatchError::Expectation {
            step: step.name,
            expected,
            got: got(expected),
        })
    }

    fn run(self, db: &Db) -> Result<(), BatchError> {
        for Step {
            name,
            sql,
            params,
            expect,
        } in self.steps
        {
            let got = db.modify(sql, params)?;
            match expect {
                Expect::Rows(expected) if expected != got => {
                    return Err(BatchError::Expectation {
                        step: name,
                        expected,
                        got,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Turns collected answers, outbox and inbox rows into one step each, and puts the steps that most often
    /// fail first, so that a lost race costs little.
    fn finish(&mut self) {
        let answers = std::mem::take(&mut self.answers);
        if !answers.is_empty() {
            let count = answers.len() as u64;
            self.step(
                crate::idempotency::STEP,
                "INSERT INTO idempotency (id, fields, status, response, created_at)
                 SELECT r.id, r.fields, r.status, r.response, r.created_at
                 FROM rows($1: id TEXT, fields TEXT, status BIGINT, response TEXT,
                           created_at BIGINT) r WHERE true
                 ON CONFLICT (id) DO NOTHING",
                vec![Value::Rows(answers)],
                Expect::Rows(count),
            );
        }
        let inbox = std::mem::take(&mut self.inbox);
        if !inbox.is_empty() {
            let count = inbox.len() as u64;
            self.step(
                crate::inbox::STEP,
                "INSERT INTO inbox (id, handled_at, result)
                 SELECT r.id, r.handled_at, r.result
                 FROM rows($1: id TEXT, handled_at BIGINT, result TEXT) r WHERE true
                 ON CONFLICT (id) DO NOTHING",
                vec![Value::Rows(inbox)],
                Expect::Rows(count),
            );
        }
        let outbox = std::mem::take(&mut self.outbox);
        if !outbox.is_empty() {
            let count = outbox.len() as u64;
            self.step(
                "outbox",
                "INSERT INTO outbox (id, topic, key, key_version, type, payload, headers, created_at)
                 SELECT r.id, r.topic, r.key, r.key_version, r.type, r.payload, r.headers, r.created_at
                 FROM rows($1: id TEXT, topic TEXT, key TEXT, key_version BIGINT, type TEXT,
                           payload TEXT, headers TEXT, created_at BIGINT) r WHERE true",
                vec![Value::Rows(outbox)],
                Expect::Rows(count),
            );
        }
        self.steps.sort_by_key(|step| {
            !matches!(step.name, crate::idempotency::STEP | crate::inbox::STEP)
        });
        #[cfg(not(target_family = "wasm"))]
        self.shuffle();
    }

    /// Steps must not depend on their order, so native tests run them in a different one each time.
    #[cfg(not(target_family = "wasm"))]
    fn shuffle(&mut self) {
        use std::hash::{BuildHasher, RandomState};
        let random = RandomState::new();
        self.steps
            .sort_by_cached_key(|step| random.hash_one(step.name));
    }
}

/// How often a statement that met a deadlock is sent.
const GIVEN_UP_ATTEMPTS: u64 = 6;

/// How often a lost race is tried before the caller is told 409.
pub const CONFLICT_ATTEMPTS: u32 = 16;
/// Longest pause between two tries. Short ones lose to the same rivals again: pauses grow until so
/// many writers of one row no longer meet.
const CONFLICT_PAUSE_MS: u64 = 128;

/// Repeats `attempt` from its read while a version guard does not hold, a bounded number of times.
///
/// # Errors
/// The last attempt's failure; 409 `conflict` when it was still a lost race.
pub async fn with_retries<T, F>(mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt().await {
            Err(failure) if failure.code() == Code::Conflict && tries < CONFLICT_ATTEMPTS => {
                // The first rival is usually through by now.
                if tries > 1 {
                    let bound = (1 << tries).min(CONFLICT_PAUSE_MS);
                    call::sleep_ms(call::jitter_ms(bound)).await;
                }
            }
            done => return done,
        }
    }
}

/// The ids among `ids` that exist in the result of `sql`, a query `SELECT id … WHERE id IN
/// (SELECT id FROM rows($1: id TEXT))`.
///
/// # Errors
/// [`DbError`].
pub(crate) async fn existing(
    db: &Db,
    sql: &'static str,
    ids: impl IntoIterator<Item = String>,
) -> Result<Vec<crate::Row>, DbError> {
    db.query(sql, vec![column(ids)]).await
}
