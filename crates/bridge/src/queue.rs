//! Queues → components: one loop per queue. A turn writes what came back and leases what comes next
//! in one commit.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use innover_contract::{
    Job, JobAnswers,
    event::{Disposition, disposition},
    job::JobBatch,
};
use tokio::sync::{Notify, watch};

use crate::{
    backoff::{backoff, random},
    clock::{Clock, micros},
    config::{Queue, TaskSpec},
    door::{Delivery, Door, DoorError, TASKS_PATH, not_taken},
    limits::{
        DELIVERY_BYTES_MAX, JOB_BACKOFF_MAX, JOB_BACKOFF_MIN, JOB_JITTER, LEASE, LEASE_RENEW,
        QUEUE_LOOK_EVERY, UNAVAILABLE_BACKOFF_MAX, UNAVAILABLE_BACKOFF_MIN,
    },
    metrics::Metrics,
    store::{
        Durability, Store, StoreError,
        jobs::{self, Leased, Outcome, Terms},
    },
    subscription::cut,
};

/// One queue's worker.
pub(crate) struct Worker {
    pub(crate) queue: Arc<Queue>,
    pub(crate) store: Store,
    pub(crate) door: Arc<dyn Door>,
    /// `<instance>/<life>`: whose leases these are.
    pub(crate) owner: String,
    /// Rung when a job is enqueued or a lease was taken back.
    pub(crate) bell: Arc<Notify>,
    /// The service's relay: a job usually writes to its outbox.
    pub(crate) relay: Option<Arc<Notify>>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// A delivery that came back.
struct Landed {
    settled: Vec<(Leased, Outcome)>,
    /// Why the service could not be reached.
    unavailable: Option<String>,
    took: Duration,
}

type Flights = FuturesUnordered<BoxFuture<'static, Landed>>;

impl Worker {
    /// Runs until shutdown; deliveries under way are finished and their results written.
    pub(crate) async fn run(mut self) {
        let mut flights = Flights::new();
        let mut settled: Vec<(Leased, Outcome)> = Vec::new();
        let mut unavailable = 0_u32;
        // No new lease before this time: the service cannot be reached.
        let mut held_until = 0;
        let mut next_eta = None;
        loop {
            let closing = *self.shutdown.borrow();
            let now = self.clock.now();
            let held = now < held_until;
            let room = match closing || held {
                true => 0,
                // One delivery finds out whether the service is back.
                false if unavailable > 0 => usize::from(flights.is_empty()),
                false => self.queue.spec.concurrency.saturating_sub(flights.len()),
            };
            if room > 0 || !settled.is_empty() {
                match self.turn(&settled, room, now).await {
                    Ok((leased, eta)) => {
                        next_eta = if room > 0 { eta } else { next_eta };
                        for (_, outcome) in settled.drain(..) {
                            self.count(&outcome);
                        }
                        for batch in leased {
                            let (batch, back) = self.admit(batch);
                            settled.extend(back);
                            if !batch.is_empty() {
                                flights.push(self.fly(batch));
                            }
                        }
                        if !settled.is_empty() {
                            continue;
                        }
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(queue = &*self.queue.name, %error, "the queue cannot be written; trying again");
                        tokio::time::sleep(UNAVAILABLE_BACKOFF_MIN).await;
                        continue;
                    }
                }
            }
            if closing && flights.is_empty() {
                return;
            }
            let full = flights.len() >= self.queue.spec.concurrency;
            let wake = if held {
                held_until
            } else {
                next_eta.unwrap_or(i64::MAX)
            };
            let landed = tokio::select! {
                landed = flights.next(), if !flights.is_empty() => landed,
                () = self.bell.notified(), if !full && !held && !closing => None,
                () = self.clock.sleep_until(wake, QUEUE_LOOK_EVERY), if !full && !closing => None,
                _ = self.shutdown.changed(), if !closing => None,
            };
            let mut next = landed;
            while let Some(landed) = next {
                match self.land(landed, &mut settled) {
                    None => unavailable = 0,
                    Some(_) => {
                        unavailable += 1;
                        let (min, max) = (UNAVAILABLE_BACKOFF_MIN, UNAVAILABLE_BACKOFF_MAX);
                        let wait = backoff(unavailable, min, max, JOB_JITTER, random());
                        held_until = self.clock.now() + micros(wait);
                    }
                }
                next = flights.next().now_or_never().flatten();
            }
        }
    }

    /// Writes outcomes and leases up to `room` batches; also says when the next delayed job is due.
    async fn turn(
        &self,
        settled: &[(Leased, Outcome)],
        room: usize,
        now: i64,
    ) -> Result<(Vec<Vec<Leased>>, Option<i64>), StoreError> {
        let (queue, settled) = (self.queue.clone(), settled.to_vec());
        let terms = Terms {
            owner: self.owner.clone(),
            now,
            until: now + micros(LEASE),
        };
        self.store
            .write(Durability::Normal, move |c| {
                for (job, outcome) in &settled {
                    jobs::settle(c, job, &queue.name, outcome, &terms.owner, now)?;
                }
                let batch = |task: &str| queue.spec.tasks.get(task).map_or(1, |t| t.batch);
                let mut leased = Vec::new();
                while leased.len() < room {
                    let jobs = jobs::lease(c, &queue.name, &terms, batch)?;
                    if jobs.is_empty() {
                        break;
                    }
                    leased.push(jobs);
                }
                let next_eta = if room > 0 {
                    jobs::next_eta(c, &queue.name)?
                } else {
                    None
                };
                Ok((leased, next_eta))
            })
            .await
    }

    /// Splits what was leased into what is delivered and what is settled without a delivery.
    fn admit(&self, leased: Vec<Leased>) -> (Vec<Leased>, Vec<(Leased, Outcome)>) {
        let (mut batch, mut back, mut bytes) = (Vec::new(), Vec::new(), 0);
        for job in leased {
            // Tries that ended with the worker's death count too: a job that kills the process must
            // not do so for ever.
            let verdict = match self.queue.spec.tasks.get(&job.task) {
                None => Some(format!(
                    "the queue `{}` has no task `{}` any more",
                    self.queue.name, job.task
                )),
                Some(task) if job.attempt > task.max_attempts => {
                    Some(format!("{} tries ended without an answer", job.attempt - 1))
                }
                Some(_) => None,
            };
            bytes += job.envelope.len() + 32;
            match verdict {
                Some(error) => back.push((job, Outcome::GivenUp { dead: true, error })),
                None if bytes > DELIVERY_BYTES_MAX && !batch.is_empty() => {
                    back.push((job, Outcome::Returned))
                }
                None => batch.push(job),
            }
        }
        (batch, back)
    }

    fn fly(&self, jobs: Vec<Leased>) -> BoxFuture<'static, Landed> {
        let task = jobs
            .first()
            .and_then(|j| self.queue.spec.tasks.get(&j.task))
            .cloned()
            .unwrap_or_default();
        let flight = Flight {
            queue: self.queue.clone(),
            store: self.store.clone(),
            door: self.door.clone(),
            owner: self.owner.clone(),
            clock: self.clock.clone(),
            task,
        };
        flight.run(jobs).boxed()
    }

    /// Takes in a landed delivery; returns why the service was not reached.
    fn land(&self, landed: Landed, settled: &mut Vec<(Leased, Outcome)>) -> Option<String> {
        let Landed {
            settled: outcomes,
            unavailable,
            took,
        } = landed;
        let who = format!("{} (jobs)", self.queue.service);
        self.metrics.reachable(&who, unavailable.as_deref());
        match &unavailable {
            Some(problem) => tracing::warn!(
                queue = &*self.queue.name,
                problem,
                "the service cannot be reached; its jobs wait"
            ),
            None => {
                if let Some((job, _)) = outcomes.first() {
                    self.metrics.job_took(&job.task, took);
                }
                if let Some(relay) = &self.relay {
                    relay.notify_one();
                }
            }
        }
        for (job, outcome) in &outcomes {
            match outcome {
                Outcome::Retry { error, .. } => {
                    tracing::warn!(
                        queue = &*self.queue.name,
                        task = job.task,
                        id = job.id,
                        attempt = job.attempt,
                        error,
                        "a job failed and will be tried again"
                    );
                }
                Outcome::GivenUp { error, .. } => {
                    tracing::error!(
                        queue = &*self.queue.name,
                        task = job.task,
                        id = job.id,
                        attempt = job.attempt,
                        error,
                        "a job is a dead letter"
                    );
                }
                Outcome::Done { .. } => {
                    let waited_us = self.clock.now() - job.enqueued_at;
                    tracing::debug!(
                        queue = &*self.queue.name,
                        task = job.task,
                        id = job.id,
                        waited_us,
                        "a job is done"
                    );
                }
                Outcome::Returned => {}
            }
        }
        settled.extend(outcomes);
        unavailable
    }

    fn count(&self, outcome: &Outcome) {
        let name = match outcome {
            Outcome::Done { .. } => "done",
            Outcome::Retry { .. } => "retried",
            Outcome::GivenUp { dead: true, .. } => "dead",
            Outcome::GivenUp { dead: false, .. } => "failed",
            Outcome::Returned => return,
        };
        self.metrics.job(&self.queue.name, name);
    }
}

/// One delivery of jobs.
struct Flight {
    queue: Arc<Queue>,
    store: Store,
    door: Arc<dyn Door>,
    owner: String,
    clock: Clock,
    task: TaskSpec,
}

impl Flight {
    async fn run(self, leased: Vec<Leased>) -> Landed {
        let started = Instant::now();
        // An envelope that cannot be read was written by another program; it is no reason to stop.
        let (mut jobs, mut known, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for job in leased {
            match serde_json::from_str::<Job>(&job.envelope) {
                Ok(parsed) => {
                    jobs.push(Job {
                        attempt: job.attempt,
                        ..parsed
                    });
                    known.push(job);
                }
                Err(error) => {
                    let error = format!("the envelope cannot be read: {error}");
                    settled.push((job, Outcome::GivenUp { dead: false, error }));
                }
            }
        }
        if jobs.is_empty() {
            return Landed {
                settled,
                unavailable: None,
                took: started.elapsed(),
            };
        }
        let answer = self.deliver(jobs).await;
        let unavailable = match &answer {
            Err(DoorError::Unavailable(problem)) => Some(problem.clone()),
            _ => None,
        };
        settled.extend(self.outcomes(known, answer));
        Landed {
            settled,
            unavailable,
            took: started.elapsed(),
        }
    }

    /// Delivers and keeps the leases alive meanwhile.
    async fn deliver(&self, jobs: Vec<Job>) -> Result<JobAnswers, DoorError> {
        let ids: Vec<String> = jobs.iter().map(|j| j.id.clone()).collect();
        let traceparent = match &jobs[..] {
            [one] => one.traceparent.clone(),
            _ => None,
        };
        let body = serde_json::to_vec(&JobBatch { jobs })
            .map_err(|e| DoorError::Failed(format!("the jobs cannot be written as JSON: {e}")))?;
        let answer = self.door.deliver(Delivery {
            service: &self.queue.service,
            path: TASKS_PATH,
            content_type: "application/json",
            body: body.into(),
            traceparent,
            deadline: self.task.deadline,
        });
        let deadline = tokio::time::sleep(self.task.deadline);
        tokio::pin!(answer, deadline);
        let mut renew =
            tokio::time::interval_at(tokio::time::Instant::now() + LEASE_RENEW, LEASE_RENEW);
        let (status, body) = loop {
            tokio::select! {
                answer = &mut answer => break answer?,
                () = &mut deadline => return Err(DoorError::Timeout(self.task.deadline)),
                _ = renew.tick() => {
                    let (ids, owner) = (ids.clone(), self.owner.clone());
                    let until = self.clock.now() + micros(LEASE);
                    let renewed = self.store.write(Durability::Normal, move |c| jobs::renew(c, &ids, &owner, until));
                    if let Err(error) = renewed.await {
                        tracing::warn!(queue = &*self.queue.name, %error, "a lease was not renewed");
                    }
                }
            }
        };
        let text = || {
            format!(
                "the whole delivery was answered {status}: {}",
                cut(String::from_utf8_lossy(&body).trim())
            )
        };
        match status {
            200 => serde_json::from_slice(&body)
                .map_err(|e| DoorError::Failed(format!("the answer is no list of results: {e}"))),
            status if not_taken(status) => Err(DoorError::Unavailable(text())),
            // One job: the status is about it. Of several it says nothing of any.
            _ if ids.len() == 1 => Ok(JobAnswers {
                results: vec![innover_contract::JobAnswer {
                    id: ids[0].clone(),
                    status,
                    result: serde_json::Value::Null,
                    error: text(),
                    code: String::new(),
                }],
            }),
            _ => Err(DoorError::Failed(text())),
        }
    }

    fn outcomes(
        &self,
        jobs: Vec<Leased>,
        answer: Result<JobAnswers, DoorError>,
    ) -> Vec<(Leased, Outcome)> {
        let whole = match &answer {
            Ok(_) => None,
            Err(DoorError::Unavailable(_)) => {
                return jobs
                    .into_iter()
                    .map(|job| (job, Outcome::Returned))
                    .collect();
            }
            Err(error) => Some(error.to_string()),
        };
        // Jobs that failed together travel alone from now on: one of them may be the cause.
        let alone = whole.is_some();
        let mut by_id: HashMap<String, _> = answer
            .map(|a| a.results.into_iter().map(|r| (r.id.clone(), r)).collect())
            .unwrap_or_default();
        jobs.into_iter()
            .map(|job| {
                let (status, error) = match by_id.remove(&job.id) {
                    Some(answer) if disposition(answer.status) == Disposition::Acknowledge => {
                        return (
                            job,
                            Outcome::Done {
                                result: answer.result.to_string(),
                            },
                        );
                    }
                    Some(answer) => (answer.status, answer.error),
                    None => (
                        502,
                        whole
                            .clone()
                            .unwrap_or_else(|| "the answer leaves this job out".into()),
                    ),
                };
                let error = format!("{status} {}", cut(&error));
                let outcome = if disposition(status) == Disposition::Park {
                    Outcome::GivenUp { dead: false, error }
                } else if job.attempt >= self.task.max_attempts {
                    Outcome::GivenUp { dead: true, error }
                } else {
                    let wait = backoff(
                        job.attempt,
                        JOB_BACKOFF_MIN,
                        JOB_BACKOFF_MAX,
                        JOB_JITTER,
                        random(),
                    );
                    Outcome::Retry {
                        eta: self.clock.now() + micros(wait),
                        alone,
                        error,
                    }
                };
                (job, outcome)
            })
            .collect()
    }
}
