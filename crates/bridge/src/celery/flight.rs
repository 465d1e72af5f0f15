//! One delivery: what is handed over, and what its answers mean for each message.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use redis::{RedisError, Value};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::{
    Shared,
    canvas::{self, Effects, Join, Parts, Sender},
    connection::passes,
    keys::{Keys, group_key},
    message::Message,
    outcome::{Exception, State, Stored},
    registry::Running,
    settlement::{Action, Origin, Settlement, claim, renew},
};
use crate::{
    backoff::{backoff, random},
    clock::micros,
    config::{Queue, TaskSpec},
    door::DoorError,
    handover::{Handed, Verdict, hand_over, verdict},
    limits::{CHORD_CLAIM, JOB_JITTER, REDIS_BACKOFF_MAX, REDIS_BACKOFF_MIN, TIME_LIMIT_MAX},
};

/// Jobs of one delivery.
pub(crate) struct Group {
    pub(crate) task: String,
    pub(crate) spec: TaskSpec,
    pub(crate) bytes: usize,
    pub(crate) jobs: Vec<Delivered>,
}

/// A message that is delivered.
pub(crate) struct Delivered {
    pub(crate) origin: Origin,
    /// Its delivery's number by Redis, 1 the first.
    pub(crate) delivery: u32,
    /// The task's canonical name.
    pub(crate) task: String,
    pub(crate) message: Message,
    /// What it takes in a delivery.
    pub(crate) bytes: usize,
}

impl Delivered {
    pub(crate) fn id(&self) -> &str {
        &self.message.headers.id
    }

    /// A job that failed before, or has limits of its own, is delivered by itself.
    pub(crate) fn travels_with_others(&self) -> bool {
        let (hard, soft) = self.message.headers.timelimit;
        self.delivery == 1 && hard.is_none() && soft.is_none()
    }
}

/// A job as a service takes it: [`innover_contract::Job`] with arguments as they came.
#[derive(Serialize)]
struct Outward<'a> {
    id: &'a str,
    task: &'a str,
    args: &'a RawValue,
    kwargs: &'a RawValue,
    attempt: u32,
    priority: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_limit_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<&'a str>,
}

/// A delivery that came back.
pub(crate) struct Landed {
    pub(crate) settled: Vec<Settlement>,
    /// Why the service could not be reached.
    pub(crate) unavailable: Option<String>,
}

/// One delivery.
pub(crate) struct Flight {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) task: String,
    pub(crate) spec: TaskSpec,
}

impl Flight {
    pub(crate) async fn run(self, jobs: Vec<Delivered>) -> Landed {
        let started = Instant::now();
        let stop = Arc::new(Notify::new());
        let _running = self.shared.registry.enter(
            &self.queue.name,
            jobs.iter()
                .map(|job| Running::new(&job.message, &self.task, job.origin.attempt, &stop)),
        );
        self.shared
            .events
            .started(&self.queue, jobs.iter().map(Delivered::id));
        let alone = jobs.len() == 1;
        let delivery = self.deliver(&jobs);
        let mut terminated = false;
        let mut handed = tokio::select! {
            handed = delivery => handed,
            () = stop.notified(), if alone => { terminated = true; Ok(HashMap::new()) }
        };
        let took = started.elapsed();
        let unavailable = match &handed {
            Err(DoorError::Unavailable(problem)) => Some(problem.clone()),
            _ => None,
        };
        let mut settled = Vec::with_capacity(jobs.len());
        let timed_out = matches!(handed, Err(DoorError::Timeout(_)));
        for job in jobs {
            // A limit the client set ends the job; the task's own deadline is a failure like others.
            let tries = match timed_out && job.message.headers.timelimit.0.is_some() {
                true => job.origin.attempt,
                false => self.spec.max_attempts,
            };
            let verdict = match terminated {
                true => None,
                false => Some(verdict(&mut handed, job.id(), job.origin.attempt, tries)),
            };
            settled.extend(self.settle(job, verdict, took).await);
        }
        if unavailable.is_none() {
            self.shared.metrics.job_took(&self.task, took);
        }
        Landed {
            settled,
            unavailable,
        }
    }

    async fn deliver(&self, jobs: &[Delivered]) -> Handed {
        let ids: Vec<&str> = jobs.iter().map(Delivered::id).collect();
        let outward: Vec<Outward<'_>> = jobs
            .iter()
            .map(|job| Outward {
                id: job.id(),
                task: &self.task,
                args: &job.message.args,
                kwargs: &job.message.kwargs,
                attempt: job.origin.attempt,
                priority: job.message.priority,
                soft_limit_ms: job
                    .message
                    .headers
                    .timelimit
                    .1
                    .map(|s| (s * 1e3).max(0.0) as u64),
                traceparent: job.message.headers.traceparent.as_deref(),
                correlationid: job.message.correlation_id.as_deref(),
            })
            .collect();
        let body = serde_json::to_vec(&json_jobs(&outward))
            .map_err(|e| DoorError::Failed(format!("the jobs cannot be written as JSON: {e}")))?;
        let traceparent = match jobs {
            [one] => one.message.headers.traceparent.clone(),
            _ => None,
        };
        let leases: Vec<String> = jobs.iter().map(|job| job.origin.lease.clone()).collect();
        let renewing = || {
            let (shared, queue, leases) = (self.shared.clone(), self.queue.clone(), leases.clone());
            async move {
                let mut commands = redis::pipe();
                renew(&shared.redis, &Keys::new(&queue), &mut commands, &leases);
                if let Err(error) = shared.redis.query::<Value>(&commands).await {
                    tracing::warn!(queue = &*queue.name, %error, "leases were not renewed");
                }
            }
            .boxed()
        };
        let limit = jobs.first().and_then(|job| job.message.headers.timelimit.0);
        let deadline = match limit.map(Duration::try_from_secs_f64) {
            Some(Ok(limit)) => limit.min(TIME_LIMIT_MAX),
            _ => self.spec.deadline,
        };
        let (door, queue) = (&*self.shared.door, &*self.queue);
        hand_over(
            door,
            queue,
            &ids,
            body.into(),
            traceparent,
            deadline,
            renewing,
        )
        .await
    }

    /// `None` as a verdict is a job that was terminated; `None` as an answer one whose end cannot be
    /// written: it comes back when its lease ends.
    async fn settle(
        &self,
        job: Delivered,
        verdict: Option<Verdict>,
        took: Duration,
    ) -> Option<Settlement> {
        let (shared, message) = (&self.shared, &job.message);
        let now = shared.clock.now();
        let (queue, id) = (&*self.queue.name, job.id());
        let sender = shared.sender(&self.queue, message);
        let mut settlement = Settlement::new(job.origin.clone(), Action::Done, Effects::default());
        match verdict {
            None => {
                shared.metrics.job(queue, "revoked");
                let exception = Exception::revoked("terminated");
                shared
                    .events
                    .ended(&self.queue, id, State::Revoked, &exception);
                settlement.effects = canvas::failed(message, State::Revoked, &exception, &sender);
            }
            Some(Verdict::Done(result)) => {
                shared.metrics.job(queue, "done");
                shared.registry.done(queue, &self.task);
                shared.events.succeeded(&self.queue, id, &result, took);
                settlement.effects = canvas::succeeded(message, &result, &sender);
            }
            Some(Verdict::Returned) => {
                settlement.action = Action::Wait {
                    at: now,
                    deliveries: job.delivery - 1,
                };
            }
            Some(Verdict::Again {
                wait, error, code, ..
            }) => {
                shared.metrics.job(queue, "retried");
                tracing::warn!(
                    queue,
                    task = self.task,
                    id,
                    attempt = job.origin.attempt,
                    error,
                    "a job failed and will be tried again"
                );
                let exception = Exception::of_problem(&code, &error);
                shared
                    .events
                    .ended(&self.queue, id, State::Retry, &exception);
                let at = now + micros(wait);
                settlement.action = Action::Wait {
                    at,
                    deliveries: job.delivery,
                };
                if message.headers.ignore_result != Some(true) {
                    settlement.effects.results.push(Stored {
                        id: id.to_owned(),
                        state: State::Retry,
                        result: exception.raw(),
                        traceback: Some(exception.traceback(&self.task, id)),
                        children: Vec::new(),
                        group: message.headers.group.clone(),
                        parent: message.headers.parent_id.clone(),
                    });
                }
            }
            Some(Verdict::GivenUp {
                dead,
                error,
                code,
                timed_out,
            }) => {
                shared
                    .metrics
                    .job(queue, if dead { "dead" } else { "failed" });
                tracing::error!(
                    queue,
                    task = self.task,
                    id,
                    attempt = job.origin.attempt,
                    error,
                    "a job is a dead letter"
                );
                let exception = match timed_out {
                    true => Exception::time_limit(
                        message
                            .headers
                            .timelimit
                            .0
                            .unwrap_or(self.spec.deadline.as_secs_f64()),
                    ),
                    false => Exception::of_problem(&code, &error),
                };
                shared
                    .events
                    .ended(&self.queue, id, State::Failure, &exception);
                settlement.effects = canvas::failed(message, State::Failure, &exception, &sender);
                settlement.action = Action::Dead { error, at: now };
            }
        }
        let joined = join(shared, &self.queue, &mut settlement, &sender).await;
        joined.then_some(settlement)
    }
}

/// Hands in parts of chords; bodies that are due then are among the effects. `false` when Redis does
/// not take them now: the settlement is not to be written then.
pub(crate) async fn join(
    shared: &Shared,
    queue: &Queue,
    settlement: &mut Settlement,
    sender: &Sender<'_>,
) -> bool {
    while let Some(join) = settlement.effects.joins.pop() {
        let mut failures = 0;
        let parts = loop {
            let error = match hand_in(shared, &join).await {
                Ok(parts) => break parts,
                Err(error) => error,
            };
            shared.redis.note(&error);
            let queue = &*queue.name;
            // What Redis refuses it will refuse again: a client has put something else there.
            if !passes(&error) {
                tracing::error!(queue, group = join.group, %error, "a chord's part cannot be handed in; its body fails");
                let broken = canvas::broken(&join, &error.to_string(), sender);
                settlement.effects.extend(broken);
                break None;
            }
            failures += 1;
            if failures > JOIN_TRIES {
                tracing::warn!(queue, group = join.group, %error, "a chord's part was not handed in; its job comes back when its lease ends");
                return false;
            }
            let (min, max) = (REDIS_BACKOFF_MIN, REDIS_BACKOFF_MAX);
            tokio::time::sleep(backoff(failures, min, max, JOB_JITTER, random())).await;
        };
        if let Some(parts) = parts {
            settlement
                .effects
                .extend(canvas::joined(&join, &parts, sender));
            settlement
                .finished
                .push((group_key(&join.group), claim(&join)));
        }
    }
    true
}

/// Tries to hand in a part: some five seconds, well within a lease.
const JOIN_TRIES: u32 = 8;

/// The chord's parts when this was the last one.
async fn hand_in(shared: &Shared, join: &Join) -> Result<Option<Parts>, RedisError> {
    let redis = &shared.redis;
    let score = join
        .index
        .map_or("+inf".to_owned(), |index| index.to_string());
    let mut commands = redis::pipe();
    redis
        .scripts
        .join
        .call(&mut commands, &[group_key(&join.group)]);
    commands
        .arg(redis.backend)
        .arg(format!("{}:{score}", join.task_id))
        .arg(join.member())
        .arg(&score)
        .arg(claim(join))
        .arg(CHORD_CLAIM.as_secs());
    let (answer,): (Vec<Vec<u8>>,) = redis.query(&commands).await?;
    let text = |part: Vec<u8>| String::from_utf8_lossy(&part).into_owned();
    let mut answer = answer.into_iter().map(text);
    if answer.next().as_deref() != Some("ready") {
        return Ok(None);
    }
    let structure = answer.next().filter(|text| !text.is_empty());
    Ok(Some(Parts {
        members: answer.collect(),
        structure,
    }))
}

fn json_jobs<'a>(jobs: &'a [Outward<'a>]) -> impl Serialize + 'a {
    #[derive(Serialize)]
    struct Batch<'a> {
        jobs: &'a [Outward<'a>],
    }
    Batch { jobs }
}
