//! `POST /_tasks`: jobs of the service's queue. A service declares each of its tasks beside the
//! function that runs it ([`Task`]); three of them every service has (`samples.rs`).

mod api;
mod arguments;
mod samples;
mod task;

use std::collections::BTreeMap;

use innover_contract::{Code, Job, JobAnswer, JobAnswers, job::JobBatch, limits::JOB_BATCH_MAX};
use serde_json::Value as Json;

use self::task::Run;
pub use self::task::{Answering, PureHandler, Running, Task, TaskHandler, Tasks};
pub(crate) use self::{api::document, samples::SAMPLES};
pub use crate::inbox::Handled;
use crate::{
    Answer, Cx, Db, Failure, Result, call, ids,
    inbox::{self, Locking, Outcome},
};

/// Jobs and events of one service share the table `inbox`; their ids are both UUIDs.
const PREFIX: &str = "task:";

impl inbox::Item for Job {
    /// What changed nothing changes nothing again.
    const MARKED_ALWAYS: bool = false;

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
    let soft = SoftLimit::of(&batch.jobs);
    // What changes nothing needs no database and leaves no mark.
    let mut outcomes = BTreeMap::new();
    let mut writing = Vec::new();
    for job in &batch.jobs {
        match find(cx, tasks, &job.task).map(|task| (task, task.run)) {
            None => drop(outcomes.insert(job.id.clone(), Outcome::failed(&unknown(cx, job)))),
            Some((_, Run::Writing(_))) => writing.push(job.clone()),
            Some((task, Run::Pure(run))) => {
                let done = match task.bind(job) {
                    Ok(_) => soft.within(run(cx, job)).await,
                    Err(failure) => Err(failure),
                };
                let outcome = match done {
                    Ok(result) => Outcome::done(result),
                    Err(failure) => Outcome::failed(&failure),
                };
                outcomes.insert(job.id.clone(), outcome);
            }
        }
    }
    if !writing.is_empty() {
        let handle = async |db: &Db, group: &[Job]| handle(cx, tasks, db, group, soft).await;
        outcomes.extend(inbox::deliver(cx, PREFIX, &writing, &handle, Locking::AtCommit).await?);
    }
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

/// Runs jobs of one task that writes; those whose arguments do not fit are refused before it.
async fn handle(cx: &Cx, tasks: Tasks, db: &Db, group: &[Job], soft: SoftLimit) -> Result<Handled> {
    let name = group.first().map_or("", |job| job.task.as_str());
    let task = find(cx, tasks, name).map(|task| (task, task.run));
    let Some((task, Run::Writing(run))) = task else {
        return Err(Code::UnknownTask.into());
    };
    let misfit = |job: &Job| Some((job.id.clone(), task.bind(job).err()?));
    let refused: BTreeMap<String, Failure> = group.iter().filter_map(misfit).collect();
    if refused.is_empty() {
        return soft.within(run(cx, db, group)).await;
    }
    let rest: Vec<Job> = group
        .iter()
        .filter(|job| !refused.contains_key(&job.id))
        .cloned()
        .collect();
    let mut handled = match rest.is_empty() {
        true => Handled::default(),
        false => soft.within(run(cx, db, &rest)).await?,
    };
    handled.refused.extend(refused);
    Ok(handled)
}

/// A task by its full name; the samples are every service's.
fn find(cx: &Cx, tasks: Tasks, name: &str) -> Option<&'static Task> {
    let own = tasks.iter().find(|task| task.name == name);
    own.or_else(|| {
        let bare = name.strip_prefix(cx.service())?.strip_prefix('.')?;
        SAMPLES.iter().find(|task| task.name == bare)
    })
}

fn unknown(cx: &Cx, job: &Job) -> Failure {
    Failure::new(
        Code::UnknownTask,
        format!("`{}` has no task `{}`", cx.service(), job.task),
    )
}

/// Until when a delivery may run. Only a delivery of one job has a limit: the deliverer leaves jobs
/// that do by themselves, since nobody could tell whose time is over.
#[derive(Clone, Copy)]
struct SoftLimit(Option<(u64, i64)>);

impl SoftLimit {
    fn of(jobs: &[Job]) -> SoftLimit {
        SoftLimit(match jobs {
            [job] => job.soft_limit_ms.map(|ms| {
                let us = i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
                (ms, ids::now_us().saturating_add(us))
            }),
            _ => None,
        })
    }

    /// Drops `work` when the time is over. A handler commits nothing itself, so nothing of it
    /// stays; a transaction one of its connections may have open is rolled back by the drop.
    async fn within<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some((limit_ms, until)) = self.0 else {
            return work.await;
        };
        let left_ms = u64::try_from((until - ids::now_us()) / 1_000).unwrap_or_default();
        match call::within(left_ms, work).await {
            Some(done) => done,
            None => Err(Failure::new(
                Code::SoftTimeLimit,
                format!("it did not end within {limit_ms} ms"),
            )),
        }
    }
}
