//! Jobs and schedules in the bridge's own file. Its SQL; every change runs on the store's writer.

use innover_contract::Job;
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{AHEAD, Depth, Leased, Outcome, Turn, Turned, kept};
use crate::{
    clock::micros,
    inspect::LetterFilter,
    limits::{FINISHED_KEEP, FINISHED_ROWS_MAX, LEASE, SCHEDULE_GRACE},
    store::micros_before,
};

/// A lease's terms.
struct Terms<'a> {
    owner: &'a str,
    now: i64,
    until: i64,
}

/// Writes outcomes and leases what is next.
pub(super) fn turn(c: &Connection, turn: &Turn) -> Result<Turned> {
    let Turn {
        queue,
        settled,
        room,
        owner,
        now,
    } = turn;
    for (job, outcome) in settled {
        settle(c, job, &queue.name, outcome, owner, *now)?;
    }
    let terms = Terms {
        owner,
        now: *now,
        until: now + micros(LEASE),
    };
    let batch = |task: &str| queue.spec.tasks.get(task).map_or(1, |t| t.batch);
    let mut leased = Vec::new();
    while leased.len() < *room {
        let jobs = lease(c, &queue.name, &terms, batch)?;
        if jobs.is_empty() {
            break;
        }
        leased.push(jobs);
    }
    let next_eta = match room {
        0 => None,
        _ => next_eta(c, &queue.name)?,
    };
    Ok(Turned { leased, next_eta })
}

/// Puts a job on a queue; `false` when its id is known already.
pub(crate) fn enqueue(c: &Connection, queue: &str, job: &Job, now: i64) -> Result<bool> {
    let envelope = serde_json::to_string(job)
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    let eta = job.eta.unwrap_or(0);
    let state = if eta > now { "delayed" } else { "queued" };
    let inserted = c
        .prepare_cached(
            "INSERT INTO jobs (id, queue, task, envelope, priority, state, eta, enqueued_at, alone)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            job.id,
            queue,
            job.task,
            envelope,
            job.priority,
            state,
            eta,
            now,
            // A limit of its own is no limit for others.
            i64::from(job.soft_limit_ms.is_some())
        ])?;
    Ok(inserted == 1)
}

/// Leases the next job by priority, then age, and with it up to `batch(task)` of the same task.
/// Empty when nothing is ready. Delayed jobs whose time has come are made ready first.
fn lease(
    c: &Connection,
    queue: &str,
    terms: &Terms<'_>,
    batch: impl Fn(&str) -> usize,
) -> Result<Vec<Leased>> {
    c.prepare_cached(
        "UPDATE jobs SET state = 'queued' WHERE state = 'delayed' AND queue = ?1 AND eta <= ?2",
    )?
    .execute(params![queue, terms.now])?;
    let head: Option<(String, bool)> = c
        .prepare_cached(
            "SELECT task, alone FROM jobs WHERE state = 'queued' AND queue = ?1
             ORDER BY priority, seq LIMIT 1",
        )?
        .query_row([queue], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? != 0)))
        .optional()?;
    let Some((task, alone)) = head else {
        return Ok(Vec::new());
    };
    let limit = if alone { 1 } else { batch(&task).max(1) };
    let mut leased: Vec<(i64, i64, Leased)> = c
        .prepare_cached(
            "UPDATE jobs SET state = 'leased', lease_owner = ?3, lease_until = ?4,
                    attempts = attempts + 1, started_at = ?5
             WHERE seq IN (SELECT seq FROM jobs
                           WHERE state = 'queued' AND queue = ?1 AND task = ?2 AND alone = ?6
                           ORDER BY priority, seq LIMIT ?7)
             RETURNING priority, seq, id, task, envelope, attempts, enqueued_at",
        )?
        .query_map(
            params![
                queue,
                task,
                terms.owner,
                terms.until,
                terms.now,
                i64::from(alone),
                limit as i64
            ],
            |r| {
                let leased = Leased {
                    id: r.get(2)?,
                    task: r.get(3)?,
                    envelope: r.get(4)?,
                    attempt: r.get(5)?,
                    enqueued_at: r.get(6)?,
                };
                Ok((r.get(0)?, r.get(1)?, leased))
            },
        )?
        .collect::<Result<_>>()?;
    // RETURNING has no order of its own.
    leased.sort_by_key(|(priority, seq, _)| (*priority, *seq));
    Ok(leased.into_iter().map(|(_, _, job)| job).collect())
}

/// When the next delayed job of a queue is ready.
fn next_eta(c: &Connection, queue: &str) -> Result<Option<i64>> {
    c.prepare_cached("SELECT min(eta) FROM jobs WHERE state = 'delayed' AND queue = ?1")?
        .query_row([queue], |r| r.get(0))
}

/// Extends the lease of jobs that still run here.
pub(super) fn renew(c: &Connection, ids: &[String], owner: &str, now: i64) -> Result<()> {
    let until = now + micros(LEASE);
    let mut statement = c.prepare_cached(
        "UPDATE jobs SET lease_until = ?1 WHERE id = ?2 AND state = 'leased' AND lease_owner = ?3",
    )?;
    ids.iter()
        .try_for_each(|id| statement.execute(params![until, id, owner]).map(drop))
}

/// Writes what became of a job. A job whose lease has passed to somebody else, or to a later try, is left
/// to them, except that a result is always taken: the effect is there, whatever is said of it among the
/// dead letters.
fn settle(
    c: &Connection,
    job: &Leased,
    queue: &str,
    outcome: &Outcome,
    owner: &str,
    now: i64,
) -> Result<()> {
    match outcome {
        Outcome::Done { result } => {
            let (result, note) = kept(result);
            c.prepare_cached(
                "UPDATE jobs SET state = 'done', finished_at = ?2, result = ?3, error = ?4, lease_owner = ''
                 WHERE id = ?1 AND state <> 'done'",
            )?
            .execute(params![job.id, now, result, note])?;
            c.prepare_cached(
                "DELETE FROM dead_letters WHERE kind = 'job' AND target = ?2 AND id = ?1",
            )?
            .execute(params![job.id, queue])?;
        }
        Outcome::Retry { eta, alone, error } => {
            c.prepare_cached(
                "UPDATE jobs SET state = 'delayed', eta = ?3, alone = ?4, error = ?5, lease_owner = ''
                 WHERE id = ?1 AND state = 'leased' AND lease_owner = ?2 AND attempts = ?6",
            )?
            .execute(params![
                job.id,
                owner,
                eta,
                i64::from(*alone),
                error,
                job.attempt
            ])?;
        }
        Outcome::Returned => {
            c.prepare_cached(
                "UPDATE jobs SET state = 'queued', attempts = attempts - 1, lease_owner = ''
                 WHERE id = ?1 AND state = 'leased' AND lease_owner = ?2 AND attempts = ?3",
            )?
            .execute(params![job.id, owner, job.attempt])?;
        }
        Outcome::Expired => {
            c.prepare_cached(
                "UPDATE jobs SET state = 'revoked', finished_at = ?3, error = 'expired', lease_owner = ''
                 WHERE id = ?1 AND state = 'leased' AND lease_owner = ?2 AND attempts = ?4",
            )?
            .execute(params![job.id, owner, now, job.attempt])?;
        }
        Outcome::GivenUp { dead, error, .. } => {
            let state = if *dead { "dead" } else { "failed" };
            let changed = c
                .prepare_cached(
                    "UPDATE jobs SET state = ?3, finished_at = ?4, error = ?5, lease_owner = ''
                     WHERE id = ?1 AND state = 'leased' AND lease_owner = ?2 AND attempts = ?6",
                )?
                .execute(params![job.id, owner, state, now, error, job.attempt])?;
            if changed == 1 {
                bury(c, &job.id, queue, error, now)?;
            }
        }
    }
    Ok(())
}

fn bury(c: &Connection, id: &str, queue: &str, error: &str, now: i64) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
         SELECT 'job', ?2, id, task, '', envelope, ?3, attempts, ?4 FROM jobs WHERE id = ?1
         ON CONFLICT (kind, target, id) DO UPDATE SET error = ?3, attempts = excluded.attempts, dead_at = ?4",
    )?
    .execute(params![id, queue, error, now])
    .map(drop)
}

/// Queues the jobs of dead letters again (`retry`), as if they were new, or deletes them; their
/// letters go. A letter whose job is unknown here (a row that could not be queued) is only deleted.
pub(crate) fn settle_dead(c: &Connection, filter: &LetterFilter, retry: bool) -> Result<usize> {
    let chosen = "SELECT id FROM dead_letters
         WHERE kind = 'job' AND (?1 IS NULL OR target = ?1) AND (?2 IS NULL OR name = ?2)
           AND (?3 IS NULL OR id = ?3)";
    let values = params![filter.target, filter.name, filter.id];
    let jobs = format!("state IN ('failed', 'dead') AND id IN ({chosen})");
    let kept = match retry {
        true => c.execute(
            &format!(
                "UPDATE jobs SET state = 'queued', attempts = 0, alone = 0, error = NULL, finished_at = NULL
                 WHERE {jobs}"
            ),
            values,
        )?,
        false => c.execute(&format!("DELETE FROM jobs WHERE {jobs}"), values)?,
    };
    let known = match retry {
        // Others stay until somebody discards them.
        true => "AND id IN (SELECT id FROM jobs)",
        false => "",
    };
    let letters = c.execute(
        &format!("DELETE FROM dead_letters WHERE kind = 'job' AND id IN ({chosen}) {known}"),
        values,
    )?;
    Ok(if retry { kept } else { letters })
}

/// Takes back leases that ran out, but of jobs that `owner` works on. Returns how many.
pub(super) fn take_back(
    c: &Connection,
    owner: &str,
    running: &[String],
    now: i64,
) -> Result<usize> {
    let running = serde_json::json!(running).to_string();
    c.prepare_cached(
        "UPDATE jobs SET state = 'queued', lease_owner = '', error = 'the worker died'
         WHERE state = 'leased' AND lease_until < ?1
           AND NOT (lease_owner = ?2 AND id IN (SELECT value FROM json_each(?3)))",
    )?
    .execute(params![now, owner, running])
}

/// Takes back every lease, at the start: the claim on the file proves that whoever had them is dead.
/// Returns how many.
pub(crate) fn take_back_all(c: &Connection) -> Result<usize> {
    c.execute(
        "UPDATE jobs SET state = 'queued', lease_owner = '', error = 'the worker died'
         WHERE state = 'leased'",
        [],
    )
}

/// Deletes up to `limit` finished jobs that are too old or too many.
/// Refused and dead ones are kept with their dead letter. Returns how many.
pub(super) fn retire(c: &Connection, now: i64, limit: usize) -> Result<usize> {
    let (before, keep) = (micros_before(now, FINISHED_KEEP), FINISHED_ROWS_MAX);
    let mut deleted = c
        .prepare_cached(
            "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs
                 WHERE state IN ('done', 'revoked') AND finished_at < ?1
                 ORDER BY finished_at LIMIT ?2)",
        )?
        .execute(params![before, limit as i64])?;
    if deleted < limit {
        deleted += c
            .prepare_cached(
                "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs
                     WHERE state IN ('done', 'revoked')
                     ORDER BY finished_at DESC LIMIT ?1 OFFSET ?2)",
            )?
            .execute(params![(limit - deleted) as i64, keep])?;
    }
    Ok(deleted)
}

/// Unfinished jobs by queue and state, with the time the oldest was enqueued.
pub(super) fn depths(c: &Connection) -> Result<Vec<Depth>> {
    c.prepare_cached(
        // One select per state: each reads a partial index, never the finished jobs.
        "SELECT queue, state, count(*), min(enqueued_at) FROM jobs WHERE state = 'queued' GROUP BY queue
         UNION ALL
         SELECT queue, state, count(*), min(enqueued_at) FROM jobs WHERE state = 'delayed' GROUP BY queue
         UNION ALL
         SELECT queue, state, count(*), min(enqueued_at) FROM jobs WHERE state = 'leased' GROUP BY 1",
    )?
    .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
    .collect()
}

/// The time up to which a schedule's fire times are dealt with; a new one begins `now`.
pub(super) fn last_fire(c: &Connection, schedule: &str, now: i64) -> Result<i64> {
    c.prepare_cached(
        "INSERT INTO schedules (id, last_fire) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![schedule, now])?;
    let to_come = now + micros(SCHEDULE_GRACE);
    let reset = "UPDATE schedules SET last_fire = ?2 WHERE id = ?1 AND last_fire > ?3";
    if c.execute(reset, params![schedule, now, to_come])? > 0 {
        tracing::warn!(schedule, "{AHEAD}");
    }
    c.prepare_cached("SELECT last_fire FROM schedules WHERE id = ?1")?
        .query_row([schedule], |r| r.get(0))
}

/// Enqueues the jobs of fire times and notes that times up to `considered` are dealt with. Returns
/// how many are new.
pub(super) fn fire(
    c: &Connection,
    schedule: &str,
    queue: &str,
    jobs: &[(i64, Job)],
    considered: i64,
    now: i64,
) -> Result<u64> {
    let mut fired = 0;
    for (_, job) in jobs {
        fired += u64::from(enqueue(c, queue, job, now)?);
    }
    c.prepare_cached("UPDATE schedules SET last_fire = ?2 WHERE id = ?1")?
        .execute(params![schedule, considered])?;
    Ok(fired)
}
