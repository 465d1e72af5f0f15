//! `innover jobs`: the queues, read from the bridge's file, running or not.

use std::path::Path;

use anyhow::{Context, Result};
use innover_bridge::inspect::{self, JobFilter};
use serde_json::{Value, json};

use crate::{
    events::exists,
    print::{self, cut, time},
};

pub fn list(store: &Path, filter: &JobFilter, limit: usize) -> Result<()> {
    exists(store)?;
    let rows: Vec<_> = inspect::jobs(store, filter, limit)?
        .into_iter()
        .map(|j| {
            let took = match (j.started_at, j.finished_at) {
                (Some(start), Some(end)) => format!("{} ms", (end - start) / 1000),
                _ => String::new(),
            };
            let last = j.error.or(j.result).unwrap_or_default();
            [
                time(j.enqueued_at),
                j.queue,
                j.task,
                j.id,
                j.state,
                j.attempts.to_string(),
                took,
                cut(&last, 60),
            ]
        })
        .collect();
    if rows.is_empty() {
        print::line("no such jobs");
        return Ok(());
    }
    print::table(
        [
            "enqueued",
            "queue",
            "task",
            "id",
            "state",
            "tries",
            "took",
            "result or error",
        ],
        &rows,
    );
    Ok(())
}

pub fn show(store: &Path, id: &str) -> Result<()> {
    exists(store)?;
    let job = inspect::job(store, id)?
        .with_context(|| format!("there is no job {id}; `innover jobs list` shows the newest"))?;
    let parsed = |text: &Option<String>| -> Value {
        text.as_ref().map_or(Value::Null, |t| {
            serde_json::from_str(t).unwrap_or_else(|_| t.clone().into())
        })
    };
    let shown = json!({
        "id": job.id,
        "queue": job.queue,
        "task": job.task,
        "state": job.state,
        "priority": job.priority,
        "attempts": job.attempts,
        "enqueued_at": time(job.enqueued_at),
        "eta": (job.eta > 0).then(|| time(job.eta)),
        "started_at": job.started_at.map(time),
        "finished_at": job.finished_at.map(time),
        "result": parsed(&job.result),
        "error": job.error,
        "envelope": parsed(&Some(job.envelope)),
    });
    print::line(serde_json::to_string_pretty(&shown).context("cannot print the job")?);
    Ok(())
}

pub fn queues(store: &Path) -> Result<()> {
    exists(store)?;
    let rows: Vec<_> = inspect::queues(store)?
        .into_iter()
        .map(|q| {
            let counts =
                [q.queued, q.delayed, q.leased, q.done, q.failed, q.dead].map(|n| n.to_string());
            let [queued, delayed, leased, done, failed, dead] = counts;
            let oldest = q.oldest_queued_at.map(time).unwrap_or_default();
            [q.queue, queued, delayed, leased, done, failed, dead, oldest]
        })
        .collect();
    print::table(
        [
            "queue",
            "queued",
            "delayed",
            "running",
            "done",
            "failed",
            "dead",
            "oldest queued",
        ],
        &rows,
    );
    Ok(())
}
