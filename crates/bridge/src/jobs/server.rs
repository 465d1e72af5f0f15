//! Jobs and schedules in a PostgreSQL database that several bridges share.
//!
//! The server's clock counts for everything that two bridges must agree on: leases, when a delayed job
//! is due, what was put first. What is leased is locked while it is chosen (`FOR UPDATE SKIP LOCKED`),
//! so that two bridges that ask at the same moment take different jobs.
//!
//! **What is durable when**: a commit survives a crash of every bridge. One of PostgreSQL, a failover or a
//! power cut it survives when it was asked to ([`Server::harden`], whose flush covers what was committed
//! before it, by any bridge); the server's last moments may be lost otherwise, from the end only. What
//! puts a job from an outbox puts it again; a fire time of that moment may be lost.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use futures::future::{join, join_all};
use innover_contract::Job;
use tokio_postgres::{Row, types::ToSql};

use super::{AHEAD, Depth, Leased, Outcome, Turn, Turned, connections::Connections, kept};
use crate::{
    clock::micros,
    config::Place,
    inspect::{DeadLetterRow, JobFilter, JobRow, LetterFilter, QueueRow},
    limits::{FINISHED_KEEP, FINISHED_ROWS_MAX, LEASE, SCHEDULE_GRACE},
    metrics::Metrics,
    store::{StoreError, events::NewDeadLetter},
};

/// Microseconds since the epoch by the server's clock, at this very moment.
macro_rules! now {
    () => {
        "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
    };
}

/// What a job row is read as.
macro_rules! job_columns {
    () => {
        "id, queue, task, state, priority, attempts, eta, enqueued_at, started_at, finished_at, result, error, envelope"
    };
}

const PUT: &str = concat!(
    "INSERT INTO jobs (id, seq, queue, task, envelope, priority, state, alone, eta, enqueued_at)
     SELECT p.id, n.at + p.place, p.queue, p.task, p.envelope, p.priority,
            CASE WHEN p.eta > n.at THEN 'delayed' ELSE 'queued' END, p.alone, p.eta, n.at
     FROM unnest(CAST($1 AS TEXT[]), CAST($2 AS TEXT[]), CAST($3 AS TEXT[]), CAST($4 AS TEXT[]),
                 CAST($5 AS BIGINT[]), CAST($6 AS BIGINT[]), CAST($7 AS BIGINT[]), CAST($8 AS BIGINT[]))
          AS p (id, queue, task, envelope, priority, alone, eta, place),
          (SELECT ", now!(), " AS at) AS n
     ON CONFLICT (id) DO NOTHING RETURNING queue"
);

const BURY: &str = concat!(
    "INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
     SELECT p.kind, p.target, p.id, p.name, p.key, p.envelope, p.error, p.attempts, ",
    now!(),
    "
     FROM unnest(CAST($1 AS TEXT[]), CAST($2 AS TEXT[]), CAST($3 AS TEXT[]), CAST($4 AS TEXT[]),
                 CAST($5 AS TEXT[]), CAST($6 AS TEXT[]), CAST($7 AS TEXT[]), CAST($8 AS BIGINT[]))
          AS p (kind, target, id, name, key, envelope, error, attempts)
     ON CONFLICT (kind, target, id) DO NOTHING RETURNING kind"
);

/// What became of jobs. One whose lease has passed to somebody else, or to a later try, is left to them,
/// except that a result is always taken: the effect is there. `wait` is until the next try.
const SETTLE: &str = concat!(
    "WITH settled AS (
       UPDATE jobs SET
         state = o.state, lease_owner = '',
         error = CASE WHEN o.returned = 1 THEN jobs.error ELSE o.error END,
         attempts = jobs.attempts - CASE WHEN o.returned = 1 THEN 1 ELSE 0 END,
         alone = CASE WHEN o.state = 'delayed' THEN o.alone ELSE jobs.alone END,
         eta = CASE WHEN o.state = 'delayed' THEN ", now!(), " + o.wait ELSE jobs.eta END,
         result = o.result,
         finished_at = CASE WHEN o.state IN ('done', 'revoked', 'failed', 'dead') THEN ", now!(), " END
       FROM unnest(CAST($2 AS TEXT[]), CAST($3 AS TEXT[]), CAST($4 AS BIGINT[]), CAST($5 AS BIGINT[]),
                   CAST($6 AS BIGINT[]), CAST($7 AS TEXT[]), CAST($8 AS TEXT[]), CAST($9 AS BIGINT[]))
            AS o (id, state, returned, alone, wait, result, error, attempt)
       WHERE jobs.id = o.id
         AND ((o.state = 'done' AND jobs.state <> 'done')
              OR (jobs.state = 'leased' AND jobs.lease_owner = $1 AND jobs.attempts = o.attempt))
       RETURNING jobs.id, jobs.queue, jobs.task, jobs.envelope, jobs.state, jobs.error, jobs.attempts, jobs.finished_at
     )
     INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
     SELECT 'job', queue, id, task, '', envelope, coalesce(error, ''), attempts, finished_at
     FROM settled WHERE state IN ('failed', 'dead')
     ON CONFLICT (kind, target, id) DO UPDATE
       SET error = excluded.error, attempts = excluded.attempts, dead_at = excluded.dead_at"
);

/// What was said of jobs that have a result after all. Not in [`SETTLE`]: CockroachDB takes one change of a
/// table per statement.
const FORGIVE: &str = "DELETE FROM dead_letters
     WHERE kind = 'job' AND target = $1 AND id IN (SELECT id FROM jobs WHERE id = ANY($2) AND state = 'done')";

/// Delayed jobs whose time has come.
const WAKE: &str = concat!(
    "UPDATE jobs SET state = 'queued' WHERE id IN (
       SELECT id FROM jobs WHERE state = 'delayed' AND queue = $1 AND eta <= ",
    now!(),
    "
       FOR UPDATE SKIP LOCKED)"
);

/// The next job by priority, then age, and with it as many of the same task as share a delivery. One
/// that is to travel alone does. Jobs that another bridge is about to take are passed over.
const TAKE: &str = concat!(
    "WITH head AS (
       SELECT task, alone FROM jobs WHERE state = 'queued' AND queue = $1
       ORDER BY priority, seq, id LIMIT 1 FOR UPDATE SKIP LOCKED
     ), batch AS (
       SELECT CASE WHEN h.alone = 1 THEN 1 ELSE coalesce(max(b.size), 1) END AS size
       FROM head AS h
       LEFT JOIN unnest(CAST($4 AS TEXT[]), CAST($5 AS BIGINT[])) AS b (task, size) ON b.task = h.task
       GROUP BY h.alone
     ), taken AS (
       SELECT id FROM jobs
       WHERE state = 'queued' AND queue = $1
         AND task = (SELECT task FROM head) AND alone = (SELECT alone FROM head)
       ORDER BY priority, seq, id LIMIT (SELECT size FROM batch) FOR UPDATE SKIP LOCKED
     )
     UPDATE jobs SET state = 'leased', lease_owner = $2, attempts = attempts + 1,
            lease_until = ", now!(), " + $3, started_at = ", now!(), "
     WHERE id IN (SELECT id FROM taken)
     RETURNING priority, seq, id, task, envelope, attempts, enqueued_at"
);

/// How long until the next delayed job is due.
const NEXT: &str = concat!(
    "SELECT min(eta) - ",
    now!(),
    " FROM jobs WHERE state = 'delayed' AND queue = $1"
);

const RENEW: &str = concat!(
    "UPDATE jobs SET lease_until = ",
    now!(),
    " + $3
     WHERE id = ANY($1) AND state = 'leased' AND lease_owner = $2"
);

const TAKE_BACK: &str = concat!(
    "UPDATE jobs SET state = 'queued', lease_owner = '', error = 'the worker died' WHERE id IN (
       SELECT id FROM jobs WHERE state = 'leased' AND lease_until < ",
    now!(),
    "
         AND NOT (lease_owner = $1 AND id = ANY($2))
       FOR UPDATE SKIP LOCKED)"
);

const TAKE_BACK_OWN: &str =
    "UPDATE jobs SET state = 'queued', lease_owner = '', error = 'the worker died'
     WHERE state = 'leased' AND split_part(lease_owner, '/', 1) = $1";

/// Of these queues those that have a job which is ready.
const LOOK: &str = concat!(
    "SELECT q.name FROM unnest(CAST($1 AS TEXT[])) AS q (name)
     WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND queue = q.name)
        OR EXISTS (SELECT 1 FROM jobs WHERE state = 'delayed' AND queue = q.name AND eta <= ",
    now!(),
    ")"
);

/// One select per state: each reads a partial index, never the finished jobs.
const DEPTHS: &str =
    "SELECT queue, state, count(*), min(enqueued_at) FROM jobs WHERE state = 'queued' GROUP BY queue, state
     UNION ALL
     SELECT queue, state, count(*), min(enqueued_at) FROM jobs WHERE state = 'delayed' GROUP BY queue, state
     UNION ALL
     SELECT queue, state, count(*), min(enqueued_at) FROM jobs WHERE state = 'leased' GROUP BY queue, state";

/// Reads the index of the primary key.
const LETTERS_KEPT: &str = "SELECT kind, count(*) FROM dead_letters GROUP BY kind";

const RETIRE_OLD: &str = concat!(
    "DELETE FROM jobs WHERE id IN (
       SELECT id FROM jobs WHERE state IN ('done', 'revoked') AND finished_at < ",
    now!(),
    " - $1
       ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
);

/// What finished before the oldest job that stays, the last of $1 + 1. That one is looked for without
/// FOR UPDATE, which would lock every row that OFFSET passes over, and so all that stay.
const RETIRE_MANY: &str = "DELETE FROM jobs WHERE id IN (
       SELECT id FROM jobs WHERE state IN ('done', 'revoked') AND finished_at < (
         SELECT finished_at FROM jobs WHERE state IN ('done', 'revoked')
         ORDER BY finished_at DESC LIMIT 1 OFFSET $1)
       ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const BEGIN_SCHEDULE: &str =
    "INSERT INTO schedules (id, last_fire) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";

const LAST_FIRE: &str = concat!(
    "SELECT last_fire, ",
    now!(),
    " FROM schedules WHERE id = $1"
);

/// Nobody fires before this moment what a bridge has dealt with whose clock was ahead, or the server's.
const RESET_SCHEDULE: &str = concat!(
    "UPDATE schedules SET last_fire = ",
    now!(),
    " WHERE id = $1 AND last_fire > ",
    now!(),
    " + $2"
);

/// Bridges that fire one schedule do so one after the other.
const HOLD_SCHEDULE: &str = "SELECT last_fire FROM schedules WHERE id = $1 FOR UPDATE";

/// Fire times that no bridge has dealt with, and none that is to come for the server. Their ids alone
/// would not do: a job that is done is deleted one day.
const FIRE: &str = concat!(
    "INSERT INTO jobs (id, seq, queue, task, envelope, priority, state, alone, eta, enqueued_at)
     SELECT p.id, n.at + p.place, $2, p.task, p.envelope, 0, 'queued', 0, 0, n.at
     FROM unnest(CAST($3 AS TEXT[]), CAST($4 AS TEXT[]), CAST($5 AS TEXT[]), CAST($6 AS BIGINT[]), CAST($7 AS BIGINT[]))
          AS p (id, task, envelope, fires_at, place),
          (SELECT ", now!(), " AS at) AS n
     WHERE p.fires_at > (SELECT last_fire FROM schedules WHERE id = $1) AND p.fires_at <= n.at + $8
     ON CONFLICT (id) DO NOTHING"
);

const FIRED: &str = concat!(
    "UPDATE schedules SET last_fire = $2 WHERE id = $1 AND last_fire < $2 AND $2 <= ",
    now!(),
    " + $3"
);

const BARRIER: &str = concat!(
    "INSERT INTO barriers (bridge, at) VALUES ($1, ",
    now!(),
    ")
     ON CONFLICT (bridge) DO UPDATE SET at = excluded.at"
);

/// Jobs of a bridge's file, as they are there.
const MOVE_JOBS: &str =
    "INSERT INTO jobs (id, seq, queue, task, envelope, priority, state, alone, eta, attempts, enqueued_at,
                       started_at, finished_at, result, error)
     SELECT p.id, p.enqueued_at + p.place, p.queue, p.task, p.envelope, p.priority, p.state, p.alone, p.eta,
            p.attempts, p.enqueued_at, p.started_at, p.finished_at, p.result, p.error
     FROM unnest(CAST($1 AS TEXT[]), CAST($2 AS TEXT[]), CAST($3 AS TEXT[]), CAST($4 AS TEXT[]),
                 CAST($5 AS BIGINT[]), CAST($6 AS TEXT[]), CAST($7 AS BIGINT[]), CAST($8 AS BIGINT[]),
                 CAST($9 AS BIGINT[]), CAST($10 AS BIGINT[]), CAST($11 AS BIGINT[]), CAST($12 AS BIGINT[]),
                 CAST($13 AS TEXT[]), CAST($14 AS TEXT[]), CAST($15 AS BIGINT[]))
          AS p (id, queue, task, envelope, priority, state, alone, eta, attempts, enqueued_at, started_at,
                finished_at, result, error, place)
     ON CONFLICT (id) DO NOTHING";

const MOVE_LETTERS: &str =
    "INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
     SELECT p.kind, p.target, p.id, p.name, p.key, p.envelope, p.error, p.attempts, p.dead_at
     FROM unnest(CAST($1 AS TEXT[]), CAST($2 AS TEXT[]), CAST($3 AS TEXT[]), CAST($4 AS TEXT[]),
                 CAST($5 AS TEXT[]), CAST($6 AS TEXT[]), CAST($7 AS TEXT[]), CAST($8 AS BIGINT[]), CAST($9 AS BIGINT[]))
          AS p (kind, target, id, name, key, envelope, error, attempts, dead_at)
     ON CONFLICT (kind, target, id) DO NOTHING";

const MOVE_SCHEDULE: &str = "INSERT INTO schedules (id, last_fire) VALUES ($1, $2)
     ON CONFLICT (id) DO UPDATE SET last_fire = excluded.last_fire WHERE schedules.last_fire < excluded.last_fire";

const JOB: &str = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = $1");

const LIST: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM jobs
     WHERE (CAST($1 AS TEXT) IS NULL OR queue = $1) AND (CAST($2 AS TEXT) IS NULL OR task = $2)
       AND (CAST($3 AS TEXT) IS NULL OR state = $3)
     ORDER BY seq DESC LIMIT $4"
);

const QUEUES: &str =
    "SELECT queue, state, count(*), min(enqueued_at) FROM jobs GROUP BY queue, state";

const LETTERS: &str =
    "SELECT kind, target, id, name, key, envelope, error, attempts, dead_at FROM dead_letters
     WHERE (CAST($1 AS TEXT) IS NULL OR kind = $1) AND (CAST($2 AS TEXT) IS NULL OR target = $2)
       AND (CAST($3 AS TEXT) IS NULL OR name = $3) AND (CAST($4 AS TEXT) IS NULL OR id = $4)
     ORDER BY dead_at DESC, id DESC LIMIT $5";

/// The dead letters of jobs that a filter means.
macro_rules! chosen {
    () => {
        "SELECT id FROM dead_letters
         WHERE kind = 'job' AND (CAST($1 AS TEXT) IS NULL OR target = $1)
           AND (CAST($2 AS TEXT) IS NULL OR name = $2) AND (CAST($3 AS TEXT) IS NULL OR id = $3)"
    };
}

/// In one statement, so that both halves see the same moment: of a job that dies meanwhile the letter is
/// not deleted alone. Letters whose job is gone stay until somebody discards them.
const REQUEUE: &str = concat!(
    "WITH chosen AS (", chosen!(), "),
     requeued AS (
       UPDATE jobs SET state = 'queued', attempts = 0, alone = 0, error = NULL, finished_at = NULL
       WHERE state IN ('failed', 'dead') AND id IN (SELECT id FROM chosen)
       RETURNING id
     ), gone AS (
       DELETE FROM dead_letters WHERE kind = 'job' AND (
         id IN (SELECT id FROM requeued)
         OR id IN (SELECT id FROM jobs WHERE state IN ('done', 'revoked') AND id IN (SELECT id FROM chosen)))
     )
     SELECT count(*) FROM requeued"
);

const DISCARD: &str = concat!(
    "WITH chosen AS (",
    chosen!(),
    "),
     discarded AS (
       DELETE FROM jobs WHERE state IN ('failed', 'dead') AND id IN (SELECT id FROM chosen)
     ), gone AS (
       DELETE FROM dead_letters WHERE kind = 'job' AND id IN (SELECT id FROM chosen)
       RETURNING id
     )
     SELECT count(*) FROM gone"
);

const FORGET_ROWS: &str = "DELETE FROM dead_letters WHERE kind = 'outbox' AND target = $1 AND ($2::text IS NULL OR id = $2)";

/// The database, as one bridge or the command line sees it.
pub(crate) struct Server {
    connections: Connections,
    durable: Connections,
    /// This bridge's row among the barriers.
    instance: String,
    /// Barriers that were asked for so far.
    asked: AtomicU64,
    /// How many of them are on disk; held while one is written.
    written: tokio::sync::Mutex<u64>,
}

/// What was put.
#[derive(Default)]
pub(crate) struct Put {
    /// How many are new, by queue.
    pub(crate) jobs: HashMap<String, u64>,
    /// Ids that were known already.
    pub(crate) known: u64,
    /// The kinds of letters that are new.
    pub(crate) letters: Vec<String>,
}

/// PostgreSQL's text has no NUL. Names never have one; what somebody sent from outside may.
fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

impl Server {
    /// Connects to nothing yet. `instance` names the bridge.
    pub(crate) fn new(
        place: &Place,
        instance: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Server, StoreError> {
        Ok(Server {
            connections: Connections::new(place, false, metrics.clone())?,
            durable: Connections::new(place, true, metrics)?,
            instance: instance.to_owned(),
            asked: AtomicU64::new(0),
            written: tokio::sync::Mutex::new(0),
        })
    }

    /// Runs one statement.
    async fn execute(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        let lent = self.connections.lend().await?;
        let statement = lent.prepared(sql).await?;
        lent.run(lent.execute(&statement, values)).await
    }

    async fn query(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let lent = self.connections.lend().await?;
        let statement = lent.prepared(sql).await?;
        lent.run(lent.query(&statement, values)).await
    }

    /// Puts jobs on queues and buries letters, all or nothing. What is known by its id stays as it is.
    pub(crate) async fn put(
        &self,
        jobs: &[(Arc<str>, Job)],
        letters: &[NewDeadLetter],
    ) -> Result<Put, StoreError> {
        let mut put = Put::default();
        let lent = self.connections.lend().await?;
        let (into_jobs, into_letters) = (lent.prepared(PUT).await?, lent.prepared(BURY).await?);
        let columns = JobColumns::new(jobs.iter().map(|(queue, job)| (&**queue, job)))?;
        let ids: Vec<String> = letters.iter().map(|l| text(&l.id)).collect();
        let kinds: Vec<&str> = letters.iter().map(|l| l.kind).collect();
        let targets: Vec<String> = letters.iter().map(|l| text(&l.target)).collect();
        let names: Vec<String> = letters.iter().map(|l| text(&l.name)).collect();
        let keys: Vec<String> = letters.iter().map(|l| text(&l.key)).collect();
        let envelopes: Vec<String> = letters.iter().map(|l| text(&l.envelope)).collect();
        let errors: Vec<String> = letters.iter().map(|l| text(&l.error)).collect();
        let attempts: Vec<i64> = letters.iter().map(|l| i64::from(l.attempts)).collect();
        let insert_jobs = async {
            match jobs.is_empty() {
                true => Ok(vec![]),
                false => {
                    let JobColumns {
                        ids,
                        queues,
                        tasks,
                        envelopes,
                        priorities,
                        alone,
                        etas,
                        places,
                    } = &columns;
                    lent.query(
                        &into_jobs,
                        &[
                            ids, queues, tasks, envelopes, priorities, alone, etas, places,
                        ],
                    )
                    .await
                }
            }
        };
        let insert_letters = async {
            match letters.is_empty() {
                true => Ok(vec![]),
                false => {
                    lent.query(
                        &into_letters,
                        &[
                            &kinds, &targets, &ids, &names, &keys, &envelopes, &errors, &attempts,
                        ],
                    )
                    .await
                }
            }
        };
        let work = async {
            // One statement is a transaction by itself.
            if letters.is_empty() {
                return Ok((insert_jobs.await?, vec![]));
            }
            let (begun, (new, (buried, ended))) = join(
                lent.batch_execute("BEGIN"),
                join(
                    insert_jobs,
                    join(insert_letters, lent.batch_execute("COMMIT")),
                ),
            )
            .await;
            begun?;
            let done = (new?, buried?);
            ended?;
            Ok(done)
        };
        let (new, buried) = lent.run(work).await?;
        for row in &new {
            *put.jobs.entry(row.try_get(0)?).or_default() += 1;
        }
        put.known = (jobs.len() - new.len()) as u64;
        for row in &buried {
            put.letters.push(row.try_get(0)?);
        }
        Ok(put)
    }

    /// When it returns, a power cut loses nothing that was committed before.
    pub(crate) async fn harden(&self) -> Result<(), StoreError> {
        let mine = self.asked.fetch_add(1, SeqCst) + 1;
        let mut written = self.written.lock().await;
        if *written >= mine {
            return Ok(());
        }
        // For everybody who waits by now.
        let covers = self.asked.load(SeqCst);
        let lent = self.durable.lend().await?;
        let statement = lent.prepared(BARRIER).await?;
        lent.run(lent.execute(&statement, &[&self.instance]))
            .await?;
        *written = covers;
        Ok(())
    }

    /// See [`super::Jobs::turn`]. Everything is sent at once and is one transaction.
    pub(super) async fn turn(&self, turn: &Turn) -> Result<Turned, StoreError> {
        let lent = self.connections.lend().await?;
        let (settle, wake) = (lent.prepared(SETTLE).await?, lent.prepared(WAKE).await?);
        let (take, next) = (lent.prepared(TAKE).await?, lent.prepared(NEXT).await?);
        let forgive = lent.prepared(FORGIVE).await?;
        let Turn {
            queue,
            settled,
            room,
            owner,
            now,
        } = turn;
        let outcomes = Outcomes::new(settled, *now);
        let name: &str = &queue.name;
        let lease = micros(LEASE);
        let (tasks, sizes): (Vec<&str>, Vec<i64>) = queue
            .spec
            .tasks
            .iter()
            .map(|(task, spec)| (task.as_str(), spec.batch.max(1) as i64))
            .unzip();
        let take_values: [&(dyn ToSql + Sync); 5] = [&name, owner, &lease, &tasks, &sizes];
        let settling = async {
            match settled.is_empty() {
                true => Ok(0),
                false => lent.execute(&settle, &outcomes.values(owner)).await,
            }
        };
        let done = outcomes.done();
        let forgiving = async {
            match done.is_empty() {
                true => Ok(0),
                false => lent.execute(&forgive, &[&name, &done]).await,
            }
        };
        let waking = async {
            match *room {
                0 => Ok(0),
                _ => lent.execute(&wake, &[&name]).await,
            }
        };
        let taking = join_all((0..*room).map(|_| lent.query(&take, &take_values)));
        let looking = async {
            match *room {
                0 => Ok(None),
                _ => lent.query_one(&next, &[&name]).await?.try_get(0),
            }
        };
        // The first poll of each sends its statement, in this order.
        let work = async {
            let (begun, (settled, (forgiven, (woken, (taken, (wait, ended)))))) = join(
                lent.batch_execute("BEGIN"),
                join(
                    settling,
                    join(
                        forgiving,
                        join(
                            waking,
                            join(taking, join(looking, lent.batch_execute("COMMIT"))),
                        ),
                    ),
                ),
            )
            .await;
            begun?;
            settled?;
            forgiven?;
            woken?;
            let taken: Vec<Vec<Row>> = taken.into_iter().collect::<Result<_, _>>()?;
            let wait: Option<i64> = wait?;
            ended?;
            Ok((taken, wait))
        };
        let (taken, wait) = lent.run(work).await?;
        let mut leased = Vec::new();
        for rows in taken.into_iter().filter(|rows| !rows.is_empty()) {
            leased.push(in_order(rows)?);
        }
        Ok(Turned {
            leased,
            next_eta: wait.map(|wait| now.saturating_add(wait)),
        })
    }

    pub(super) async fn renew(&self, ids: &[String], owner: &str) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(|id| text(id)).collect();
        let lease = micros(LEASE);
        self.execute(RENEW, &[&ids, &owner, &lease]).await.map(drop)
    }

    /// Leases that ran out, whoever had them, but of jobs that `owner` works on.
    pub(super) async fn take_back(
        &self,
        owner: &str,
        running: &[String],
    ) -> Result<usize, StoreError> {
        let running: Vec<String> = running.iter().map(|id| text(id)).collect();
        Ok(self.execute(TAKE_BACK, &[&owner, &running]).await? as usize)
    }

    /// The leases of this bridge's earlier lives: the claim on its file proves that they are dead.
    pub(crate) async fn take_back_own(&self) -> Result<(), StoreError> {
        self.execute(TAKE_BACK_OWN, &[&self.instance])
            .await
            .map(drop)
    }

    /// Which of these queues have a job that is ready.
    pub(crate) async fn look(&self, queues: &[&str]) -> Result<Vec<String>, StoreError> {
        let rows = self.query(LOOK, &[&queues]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    pub(super) async fn depths(&self) -> Result<Vec<Depth>, StoreError> {
        let rows = self.query(DEPTHS, &[]).await?;
        let depth = |row: &Row| {
            Ok((
                row.try_get(0)?,
                row.try_get(1)?,
                row.try_get(2)?,
                row.try_get(3)?,
            ))
        };
        rows.iter().map(depth).collect()
    }

    /// How many dead letters are kept, by kind.
    pub(super) async fn letters_kept(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = self.query(LETTERS_KEPT, &[]).await?;
        let kept = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(kept).collect()
    }

    pub(super) async fn retire(&self, limit: usize) -> Result<usize, StoreError> {
        let (limit, age) = (limit as i64, micros(FINISHED_KEEP));
        let old = self.execute(RETIRE_OLD, &[&age, &limit]).await?;
        let room = limit - old as i64;
        if room == 0 {
            return Ok(old as usize);
        }
        let many = self
            .execute(RETIRE_MANY, &[&(FINISHED_ROWS_MAX - 1), &room])
            .await?;
        Ok((old + many) as usize)
    }

    /// See [`super::Jobs::last_fire`].
    pub(super) async fn last_fire(
        &self,
        schedule: &str,
        now: i64,
    ) -> Result<(i64, i64), StoreError> {
        self.execute(BEGIN_SCHEDULE, &[&schedule, &now]).await?;
        let grace = micros(SCHEDULE_GRACE);
        if self.execute(RESET_SCHEDULE, &[&schedule, &grace]).await? > 0 {
            tracing::warn!(schedule, "{AHEAD}");
        }
        match self.query(LAST_FIRE, &[&schedule]).await?.first() {
            Some(row) => Ok((row.try_get(0)?, row.try_get(1)?)),
            None => Ok((now, now)),
        }
    }

    /// See [`super::Jobs::fire`]. One transaction, sent at once.
    pub(super) async fn fire(
        &self,
        schedule: &str,
        queue: &str,
        jobs: &[(i64, Job)],
        considered: i64,
    ) -> Result<u64, StoreError> {
        let lent = self.connections.lend().await?;
        let (hold, fire) = (
            lent.prepared(HOLD_SCHEDULE).await?,
            lent.prepared(FIRE).await?,
        );
        let fired = lent.prepared(FIRED).await?;
        let JobColumns {
            ids,
            tasks,
            envelopes,
            places,
            ..
        } = JobColumns::new(jobs.iter().map(|(_, job)| (queue, job)))?;
        let times: Vec<i64> = jobs.iter().map(|(at, _)| *at).collect();
        let grace = micros(SCHEDULE_GRACE);
        let work = async {
            let (begun, (held, (new, (noted, ended)))) = join(
                lent.batch_execute("BEGIN"),
                join(
                    lent.query(&hold, &[&schedule]),
                    join(
                        lent.execute(
                            &fire,
                            &[
                                &schedule, &queue, &ids, &tasks, &envelopes, &times, &places,
                                &grace,
                            ],
                        ),
                        join(
                            lent.execute(&fired, &[&schedule, &considered, &grace]),
                            lent.batch_execute("COMMIT"),
                        ),
                    ),
                ),
            )
            .await;
            begun?;
            let held = held?;
            let new = new?;
            noted?;
            ended?;
            Ok((held.is_empty(), new))
        };
        match lent.run(work).await? {
            // A failover to a server that did not have it yet.
            (true, _) => Err(StoreError::Postgres(format!(
                "the schedule {schedule} is not noted any more"
            ))),
            (false, new) => Ok(new),
        }
    }

    /// Takes over jobs of a bridge's file with everything that became of them, and whether each
    /// travels alone. Those that are known here stay as they are.
    pub(super) async fn take_over_jobs(&self, jobs: &[(JobRow, i64)]) -> Result<(), StoreError> {
        let texts = |of: fn(&JobRow) -> &str| -> Vec<String> {
            jobs.iter().map(|(job, _)| text(of(job))).collect()
        };
        let numbers =
            |of: fn(&JobRow) -> i64| -> Vec<i64> { jobs.iter().map(|(job, _)| of(job)).collect() };
        let times = |of: fn(&JobRow) -> Option<i64>| -> Vec<Option<i64>> {
            jobs.iter().map(|(job, _)| of(job)).collect()
        };
        let maybe = |of: fn(&JobRow) -> Option<&str>| -> Vec<Option<String>> {
            jobs.iter().map(|(job, _)| of(job).map(text)).collect()
        };
        let alone: Vec<i64> = jobs.iter().map(|(_, alone)| *alone).collect();
        let places: Vec<i64> = (0..jobs.len() as i64).collect();
        let values: [&(dyn ToSql + Sync); 15] = [
            &texts(|j| &j.id),
            &texts(|j| &j.queue),
            &texts(|j| &j.task),
            &texts(|j| &j.envelope),
            &numbers(|j| j.priority),
            &texts(|j| &j.state),
            &alone,
            &numbers(|j| j.eta),
            &numbers(|j| j.attempts),
            &numbers(|j| j.enqueued_at),
            &times(|j| j.started_at),
            &times(|j| j.finished_at),
            &maybe(|j| j.result.as_deref()),
            &maybe(|j| j.error.as_deref()),
            &places,
        ];
        self.execute(MOVE_JOBS, &values).await.map(drop)
    }

    /// The same for dead letters.
    pub(super) async fn take_over_letters(
        &self,
        letters: &[DeadLetterRow],
    ) -> Result<(), StoreError> {
        let texts = |of: fn(&DeadLetterRow) -> &str| -> Vec<String> {
            letters.iter().map(|letter| text(of(letter))).collect()
        };
        let numbers =
            |of: fn(&DeadLetterRow) -> i64| -> Vec<i64> { letters.iter().map(of).collect() };
        let values: [&(dyn ToSql + Sync); 9] = [
            &texts(|l| &l.kind),
            &texts(|l| &l.target),
            &texts(|l| &l.id),
            &texts(|l| &l.name),
            &texts(|l| &l.key),
            &texts(|l| &l.envelope),
            &texts(|l| &l.error),
            &numbers(|l| l.attempts),
            &numbers(|l| l.dead_at),
        ];
        self.execute(MOVE_LETTERS, &values).await.map(drop)
    }

    /// The same for how far a schedule is; what is further stays.
    pub(super) async fn take_over_schedule(
        &self,
        id: &str,
        last_fire: i64,
    ) -> Result<(), StoreError> {
        self.execute(MOVE_SCHEDULE, &[&id, &last_fire])
            .await
            .map(drop)
    }

    /// One job.
    pub(crate) async fn job(&self, id: &str) -> Result<Option<JobRow>, StoreError> {
        let rows = self.query(JOB, &[&text(id)]).await?;
        Ok(rows.first().map(job_row).transpose()?)
    }

    /// Up to `limit` jobs, newest first.
    pub(crate) async fn jobs(
        &self,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<Vec<JobRow>, StoreError> {
        let JobFilter { queue, task, state } = filter;
        let rows = self
            .query(LIST, &[queue, task, state, &(limit as i64)])
            .await?;
        rows.iter().map(|row| Ok(job_row(row)?)).collect()
    }

    /// Every queue that has jobs.
    pub(crate) async fn queues(&self) -> Result<Vec<QueueRow>, StoreError> {
        let mut queues: std::collections::BTreeMap<String, QueueRow> = Default::default();
        for row in self.query(QUEUES, &[]).await? {
            let (name, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let (count, oldest): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
            let queue = queues.entry(name.clone()).or_insert_with(|| QueueRow {
                queue: name,
                ..QueueRow::default()
            });
            match state.as_str() {
                "queued" => {
                    queue.queued = count;
                    queue.oldest_queued_at = Some(oldest);
                }
                "delayed" => queue.delayed = count,
                "leased" => queue.leased = count,
                "done" => queue.done = count,
                "failed" => queue.failed = count,
                "dead" => queue.dead = count,
                _ => {}
            }
        }
        Ok(queues.into_values().collect())
    }

    /// Up to `limit` dead letters, newest first.
    pub(crate) async fn dead_letters(
        &self,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let LetterFilter {
            kind,
            target,
            name,
            id,
        } = filter;
        let rows = self
            .query(LETTERS, &[kind, target, name, id, &(limit as i64)])
            .await?;
        let letter = |row: &Row| {
            Ok(DeadLetterRow {
                seq: 0,
                kind: row.try_get(0)?,
                target: row.try_get(1)?,
                id: row.try_get(2)?,
                name: row.try_get(3)?,
                key: row.try_get(4)?,
                envelope: row.try_get(5)?,
                error: row.try_get(6)?,
                attempts: row.try_get(7)?,
                dead_at: row.try_get(8)?,
            })
        };
        rows.iter().map(letter).collect()
    }

    /// Forgets the dead letters of rows of `service`'s outbox, all or the one with this id. Returns how
    /// many.
    pub(crate) async fn forget_rows(
        &self,
        service: &str,
        id: Option<&str>,
    ) -> Result<usize, StoreError> {
        let gone = self.execute(FORGET_ROWS, &[&service, &id]).await?;
        Ok(gone as usize)
    }

    /// Queues the jobs of dead letters again (`retry`), as if they were new, or deletes them; their
    /// letters go. Returns how many.
    pub(crate) async fn settle_dead(
        &self,
        filter: &LetterFilter,
        retry: bool,
    ) -> Result<usize, StoreError> {
        let sql = if retry { REQUEUE } else { DISCARD };
        let values: [&(dyn ToSql + Sync); 3] = [&filter.target, &filter.name, &filter.id];
        let settled = self.query(sql, &values).await?;
        let count: i64 = match settled.first() {
            Some(row) => row.try_get(0)?,
            None => 0,
        };
        Ok(count as usize)
    }
}

/// Jobs as arrays, one per column.
#[derive(Default)]
struct JobColumns {
    ids: Vec<String>,
    queues: Vec<String>,
    tasks: Vec<String>,
    envelopes: Vec<String>,
    priorities: Vec<i64>,
    alone: Vec<i64>,
    etas: Vec<i64>,
    places: Vec<i64>,
}

impl JobColumns {
    fn new<'a>(jobs: impl Iterator<Item = (&'a str, &'a Job)>) -> Result<JobColumns, StoreError> {
        let mut columns = JobColumns::default();
        for (place, (queue, job)) in jobs.enumerate() {
            let envelope = serde_json::to_string(job)
                .map_err(|e| StoreError::Postgres(format!("a job is no JSON: {e}")))?;
            columns.ids.push(text(&job.id));
            columns.queues.push(queue.to_owned());
            columns.tasks.push(text(&job.task));
            columns.envelopes.push(envelope);
            columns.priorities.push(i64::from(job.priority));
            // A limit of its own is no limit for others.
            columns.alone.push(i64::from(job.soft_limit_ms.is_some()));
            columns.etas.push(job.eta.unwrap_or(0));
            columns.places.push(place as i64);
        }
        Ok(columns)
    }
}

/// Outcomes as arrays, one per column of `SETTLE`.
#[derive(Default)]
struct Outcomes {
    ids: Vec<String>,
    states: Vec<&'static str>,
    returned: Vec<i64>,
    alone: Vec<i64>,
    waits: Vec<i64>,
    results: Vec<Option<String>>,
    errors: Vec<Option<String>>,
    attempts: Vec<i64>,
}

impl Outcomes {
    /// `now` is by the clock that the times of next tries are by. A job is named once, since a statement
    /// takes any one of several rows for it: of two tries that end together a result counts, or the later.
    fn new(settled: &[(Leased, Outcome)], now: i64) -> Outcomes {
        let mut columns = Outcomes::default();
        let counts = |(job, outcome): &(Leased, Outcome)| {
            (matches!(outcome, Outcome::Done { .. }), job.attempt)
        };
        let mut of_each: HashMap<&str, &(Leased, Outcome)> = HashMap::new();
        for one in settled {
            let kept = of_each.entry(&one.0.id).or_insert(one);
            if counts(one) > counts(kept) {
                *kept = one;
            }
        }
        for (job, outcome) in of_each.into_values() {
            let (mut is_alone, mut wait, mut result) = (false, 0, None);
            let (state, error) = match outcome {
                Outcome::Done { result: whole } => {
                    let (whole, note) = kept(whole);
                    result = whole.map(text);
                    ("done", note)
                }
                Outcome::Retry { eta, alone, error } => {
                    (is_alone, wait) = (*alone, (eta - now).max(0));
                    ("delayed", Some(text(error)))
                }
                Outcome::Returned => ("queued", None),
                Outcome::Expired => ("revoked", Some("expired".to_owned())),
                Outcome::GivenUp { dead, error, .. } => {
                    (if *dead { "dead" } else { "failed" }, Some(text(error)))
                }
            };
            columns.ids.push(text(&job.id));
            columns.states.push(state);
            let returned = matches!(outcome, Outcome::Returned);
            columns.returned.push(i64::from(returned));
            columns.alone.push(i64::from(is_alone));
            columns.waits.push(wait);
            columns.results.push(result);
            columns.errors.push(error);
            columns.attempts.push(i64::from(job.attempt));
        }
        columns
    }

    /// Those that have a result.
    fn done(&self) -> Vec<&str> {
        let ids = self.ids.iter().zip(&self.states);
        let done = ids.filter(|(_, state)| **state == "done");
        done.map(|(id, _)| id.as_str()).collect()
    }

    fn values<'a>(&'a self, owner: &'a String) -> [&'a (dyn ToSql + Sync); 9] {
        [
            owner,
            &self.ids,
            &self.states,
            &self.returned,
            &self.alone,
            &self.waits,
            &self.results,
            &self.errors,
            &self.attempts,
        ]
    }
}

/// RETURNING has no order of its own.
fn in_order(rows: Vec<Row>) -> Result<Vec<Leased>, tokio_postgres::Error> {
    let mut leased = Vec::new();
    for row in rows {
        let attempts: i64 = row.try_get(5)?;
        let job = Leased {
            id: row.try_get(2)?,
            task: row.try_get(3)?,
            envelope: row.try_get(4)?,
            attempt: u32::try_from(attempts).unwrap_or(u32::MAX),
            enqueued_at: row.try_get(6)?,
        };
        let place: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        leased.push((place, job));
    }
    leased.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.id.cmp(&y.id)));
    Ok(leased.into_iter().map(|(_, job)| job).collect())
}

fn job_row(row: &Row) -> Result<JobRow, tokio_postgres::Error> {
    Ok(JobRow {
        id: row.try_get(0)?,
        queue: row.try_get(1)?,
        task: row.try_get(2)?,
        state: row.try_get(3)?,
        priority: row.try_get(4)?,
        attempts: row.try_get(5)?,
        eta: row.try_get(6)?,
        enqueued_at: row.try_get(7)?,
        started_at: row.try_get(8)?,
        finished_at: row.try_get(9)?,
        result: row.try_get(10)?,
        error: row.try_get(11)?,
        envelope: row.try_get(12)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_tries_that_end_together_a_result_counts_or_the_later() {
        let try_of = |id: &str, attempt, outcome| {
            let leased = Leased {
                id: id.into(),
                task: "wallet.run".into(),
                envelope: "{}".into(),
                attempt,
                enqueued_at: 0,
            };
            (leased, outcome)
        };
        let done = || Outcome::Done { result: "7".into() };
        let refused = || Outcome::GivenUp {
            dead: false,
            error: String::new(),
            code: String::new(),
        };
        let outcomes = Outcomes::new(
            &[
                try_of("a", 1, done()),
                try_of("a", 2, refused()),
                try_of("b", 2, Outcome::Returned),
                try_of("b", 1, refused()),
                try_of("c", 1, refused()),
                try_of("c", 3, done()),
            ],
            0,
        );
        let mut kept: Vec<_> = (0..outcomes.ids.len())
            .map(|n| (&*outcomes.ids[n], outcomes.states[n], outcomes.attempts[n]))
            .collect();
        kept.sort();
        assert_eq!(
            kept,
            [("a", "done", 1), ("b", "queued", 2), ("c", "done", 3)]
        );
    }
}
