//! `POST /_tasks`: jobs of the service's queue, and the sample tasks every service has.

use std::{future::Future, pin::Pin};

use innover_contract::{Code, Job, JobAnswer, JobAnswers, job::JobBatch, limits::JOB_BATCH_MAX};
use serde_json::Value as Json;

pub use crate::inbox::Handled;
use crate::{Answer, Cx, Db, Failure, Result, inbox, inbox::Locking};

/// A future a task returns.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<Handled>> + 'a>>;

/// Runs jobs of one task, several at once. As an event handler it reads, decides and returns one
/// batch, and results by job id; it never commits.
pub type TaskHandler = for<'a> fn(&'a Cx, &'a Db, &'a [Job]) -> Running<'a>;

/// Full task names and their handlers.
pub type Tasks = &'static [(&'static str, TaskHandler)];

/// Jobs and events of one service share the table `inbox`; their ids are both UUIDs.
const PREFIX: &str = "task:";

impl inbox::Item for Job {
    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        &self.id
    }
    fn kind(&self) -> &str {
        &self.task
    }
}

pub(crate) async fn receive(cx: &Cx, tasks: Tasks, body: &[u8]) -> Result<Answer> {
    let batch: JobBatch = serde_json::from_slice(body)
        .map_err(|e| Failure::new(Code::MalformedJson, format!("not a batch of jobs: {e}")))?;
    if batch.jobs.len() > JOB_BATCH_MAX {
        return Err(Failure::new(
            Code::InvalidRequest,
            format!(
                "{} jobs in one delivery, {JOB_BATCH_MAX} at most",
                batch.jobs.len()
            ),
        ));
    }
    let handle = async |db: &Db, group: &[Job]| {
        let name = group.first().map_or("", |job| job.task.as_str());
        if let Some((_, task)) = tasks.iter().find(|(task, _)| *task == name) {
            return task(cx, db, group).await;
        }
        match name
            .strip_prefix(cx.service())
            .and_then(|n| n.strip_prefix('.'))
        {
            Some("add" | "echo" | "slow") => samples(group).await,
            _ => Err(Failure::new(
                Code::UnknownTask,
                format!("`{}` has no task `{name}`", cx.service()),
            )),
        }
    };
    let mut outcomes = inbox::deliver(cx, PREFIX, &batch.jobs, &handle, Locking::AtCommit).await?;
    let results = batch
        .jobs
        .into_iter()
        .map(|job| match outcomes.remove(&job.id) {
            Some(o) => JobAnswer {
                id: job.id,
                status: o.status,
                result: o.result,
                error: o.error,
                code: o.code,
            },
            None => JobAnswer {
                id: job.id,
                status: 500,
                result: Json::Null,
                error: "no outcome".into(),
                code: String::new(),
            },
        })
        .collect();
    Answer::json(200, &JobAnswers { results })
}

/// `add(a, b)`, `echo(…)`, `slow(seconds)`: what a Celery user tries first.
async fn samples(group: &[Job]) -> Result<Handled> {
    let mut handled = Handled::default();
    for job in group {
        let name = job.task.rsplit('.').next().unwrap_or_default();
        let result = match name {
            "add" => add(&job.args),
            "slow" => slow(&job.args).await,
            _ => Ok(job.args.first().cloned().unwrap_or(Json::Null)),
        };
        match result {
            Ok(value) => drop(handled.results.insert(job.id.clone(), value)),
            Err(failure) => drop(handled.refused.insert(job.id.clone(), failure)),
        }
    }
    Ok(handled)
}

fn bad_arguments(what: &str) -> Failure {
    let mut failure = Failure::new(Code::InvalidRequest, what);
    failure.0.status = 422;
    failure
}

fn add(args: &[Json]) -> Result<Json> {
    let numbers: Option<Vec<i64>> = args.iter().map(Json::as_i64).collect();
    match numbers.as_deref() {
        Some([a, b]) => a
            .checked_add(*b)
            .map(Json::from)
            .ok_or_else(|| bad_arguments("the sum does not fit 64 bits")),
        _ => Err(bad_arguments("add takes two whole numbers")),
    }
}

async fn slow(args: &[Json]) -> Result<Json> {
    match args {
        [seconds] if seconds.as_u64().is_some_and(|s| s <= 300) => {
            let seconds = seconds.as_u64().unwrap_or_default();
            crate::call::sleep_ms(seconds * 1_000).await;
            Ok(format!("slept {seconds} s").into())
        }
        _ => Err(bad_arguments("slow takes whole seconds, 0 to 300")),
    }
}

/// An argument of a job by position.
///
/// # Errors
/// 422, which fails the job for good.
pub fn argument<T: serde::de::DeserializeOwned>(
    job: &Job,
    position: usize,
    name: &str,
) -> Result<T> {
    let value = job
        .args
        .get(position)
        .or_else(|| job.kwargs.get(name))
        .cloned();
    let value = value.ok_or_else(|| bad_arguments(&format!("`{}` needs `{name}`", job.task)))?;
    serde_json::from_value(value)
        .map_err(|e| bad_arguments(&format!("`{name}` of `{}` does not fit: {e}", job.task)))
}
