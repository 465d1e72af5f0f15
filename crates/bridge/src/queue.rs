//! Queues → components: one loop per queue. A turn writes what came back and leases what comes next
//! in one commit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use innover_contract::Job;
use innover_failpoint::{Step, hold};
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    backoff::{backoff, random},
    celery,
    clock::{Clock, micros, pausing},
    config::{Queue, TaskSpec},
    door::{Door, DoorError},
    handover::{Handed, Verdict, hand_over, verdict},
    jobs::{Jobs, Leased, Outcome, Running, Turn, Turned},
    limits::{
        DELIVERY_BYTES_MAX, JOB_JITTER, JOBS_BACKOFF_MAX, QUEUE_LOOK_EVERY,
        UNAVAILABLE_BACKOFF_MAX, UNAVAILABLE_BACKOFF_MIN,
    },
    metrics::Metrics,
    store::StoreError,
};

/// One queue's worker.
pub(crate) struct Worker {
    pub(crate) queue: Arc<Queue>,
    /// One per delivery at once, shared with the queue's lists in Redis.
    pub(crate) slots: Arc<Semaphore>,
    /// Where results of jobs that were pushed through Redis are looked for.
    pub(crate) celery: Option<Arc<celery::Shared>>,
    pub(crate) jobs: Jobs,
    pub(crate) door: Arc<dyn Door>,
    /// `<instance>/<life>`: whose leases these are.
    pub(crate) owner: String,
    /// What all workers of this process work on.
    pub(crate) running: Running,
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
        // No turn before this time: the last ones failed.
        let (mut rest_until, mut failures) = (0, 0_u32);
        let mut next_eta = None;
        loop {
            let closing = *self.shutdown.borrow();
            let now = self.clock.now();
            let held = pausing(now, held_until, UNAVAILABLE_BACKOFF_MAX * 2);
            let resting = pausing(now, rest_until, JOBS_BACKOFF_MAX * 2) && !closing;
            let room = match closing || held || resting {
                true => 0,
                // One delivery finds out whether the service is back.
                false if unavailable > 0 => usize::from(flights.is_empty()),
                false => self.queue.spec.concurrency.saturating_sub(flights.len()),
            };
            let mut slots = self.slots(room);
            let starved = room > 0 && slots.is_empty();
            let room = slots.len();
            if room > 0 || (!settled.is_empty() && !resting) {
                match self.turn(&settled, room, now).await {
                    Ok(turned) => {
                        self.running.turned(&settled, &turned.leased);
                        failures = 0;
                        next_eta = if room > 0 { turned.next_eta } else { next_eta };
                        for (_, outcome) in settled.drain(..) {
                            self.count(&outcome);
                        }
                        for batch in turned.leased {
                            let (batch, back) = self.admit(batch);
                            self.tell(&back).await;
                            settled.extend(back);
                            if !batch.is_empty() {
                                flights.push(self.fly(batch, slots.pop()));
                            }
                        }
                        if !settled.is_empty() {
                            continue;
                        }
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) if closing && flights.is_empty() => {
                        tracing::warn!(queue = &*self.queue.name, %error, "results were not written; these jobs are delivered again");
                        return;
                    }
                    Err(error) => {
                        if failures == 0 {
                            tracing::warn!(queue = &*self.queue.name, %error, "the queue cannot be written; trying again");
                        }
                        failures += 1;
                        let (min, max) = (UNAVAILABLE_BACKOFF_MIN, JOBS_BACKOFF_MAX);
                        let rest = backoff(failures, min, max, JOB_JITTER, random());
                        rest_until = self.clock.now() + micros(rest);
                    }
                }
            }
            drop(slots);
            let resting = pausing(self.clock.now(), rest_until, JOBS_BACKOFF_MAX * 2);
            if closing && flights.is_empty() {
                return;
            }
            let full = flights.len() >= self.queue.spec.concurrency;
            let wake = if resting {
                rest_until
            } else if held {
                held_until
            } else {
                let (next, now) = (next_eta.unwrap_or(i64::MAX), self.clock.now());
                // What is due already waits for room, and no clock brings that.
                match room == 0 && next <= now {
                    true => now + micros(UNAVAILABLE_BACKOFF_MIN),
                    false => next,
                }
            };
            let landed = tokio::select! {
                landed = flights.next(), if !flights.is_empty() => landed,
                () = self.bell.notified(), if !full && !held && !resting && !closing => None,
                // What the lists in Redis gave back.
                _ = self.slots.acquire(), if starved && !closing => None,
                () = self.clock.sleep_until(wake, QUEUE_LOOK_EVERY), if resting || (!full && !closing) => None,
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
    ) -> Result<Turned, StoreError> {
        let turn = Turn {
            queue: self.queue.clone(),
            settled: settled.to_vec(),
            room,
            owner: self.owner.clone(),
            now,
        };
        self.jobs.turn(turn).await
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
                Some(error) => {
                    let code = String::new();
                    back.push((
                        job,
                        Outcome::GivenUp {
                            dead: true,
                            error,
                            code,
                        },
                    ));
                }
                None if bytes > DELIVERY_BYTES_MAX && !batch.is_empty() => {
                    back.push((job, Outcome::Returned))
                }
                None => batch.push(job),
            }
        }
        (batch, back)
    }

    /// Whoever pushed a job through Redis learns there that it was given up before its delivery.
    async fn tell(&self, given_up: &[(Leased, Outcome)]) {
        let Some(celery) = &self.celery else { return };
        let pushed = |job: &Leased| {
            serde_json::from_str::<Job>(&job.envelope).is_ok_and(|job| job.result_backend)
        };
        let results = given_up.iter().filter(|(job, _)| pushed(job));
        celery.store_results(&self.queue, results).await;
    }

    fn slots(&self, room: usize) -> Vec<OwnedSemaphorePermit> {
        let slot = || self.slots.clone().try_acquire_owned().ok();
        std::iter::from_fn(slot).take(room).collect()
    }

    fn fly(
        &self,
        jobs: Vec<Leased>,
        slot: Option<OwnedSemaphorePermit>,
    ) -> BoxFuture<'static, Landed> {
        let task = jobs
            .first()
            .and_then(|j| self.queue.spec.tasks.get(&j.task))
            .cloned()
            .unwrap_or_default();
        let flight = Flight {
            queue: self.queue.clone(),
            celery: self.celery.clone(),
            jobs: self.jobs.clone(),
            door: self.door.clone(),
            owner: self.owner.clone(),
            clock: self.clock.clone(),
            task,
        };
        let landed = async move {
            let landed = flight.run(jobs).await;
            drop(slot);
            landed
        };
        landed.boxed()
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
                Outcome::Expired => {
                    let (queue, task) = (&*self.queue.name, &job.task);
                    tracing::warn!(queue, task, id = job.id, "a job expired before it ran");
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
            Outcome::Expired => "revoked",
            Outcome::Returned => return,
        };
        self.metrics.job(&self.queue.name, name);
    }
}

/// One delivery of jobs.
struct Flight {
    queue: Arc<Queue>,
    celery: Option<Arc<celery::Shared>>,
    jobs: Jobs,
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
                Ok(parsed) if parsed.expires.is_some_and(|at| at < self.clock.now()) => {
                    settled.push((job, Outcome::Expired));
                }
                Ok(parsed) => {
                    jobs.push(Job {
                        attempt: job.attempt,
                        ..parsed
                    });
                    known.push(job);
                }
                Err(error) => {
                    let error = format!("the envelope cannot be read: {error}");
                    let code = String::new();
                    settled.push((
                        job,
                        Outcome::GivenUp {
                            dead: false,
                            error,
                            code,
                        },
                    ));
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
        hold(Step::JobsUndelivered, &self.queue.service).await;
        let handed = self.deliver(&jobs).await;
        if handed.is_ok() {
            hold(Step::JobsUnsettled, &self.queue.service).await;
        }
        let unavailable = match &handed {
            Err(DoorError::Unavailable(problem)) => Some(problem.clone()),
            _ => None,
        };
        settled.extend(self.outcomes(known, handed));
        if let Some(celery) = &self.celery {
            let wanted = |id: &str| jobs.iter().any(|j| j.result_backend && j.id == id);
            let results = settled.iter().filter(|(job, _)| wanted(&job.id));
            celery.store_results(&self.queue, results).await;
        }
        Landed {
            settled,
            unavailable,
            took: started.elapsed(),
        }
    }

    /// Delivers and keeps the leases alive meanwhile.
    async fn deliver(&self, jobs: &[Job]) -> Handed {
        let ids: Vec<&str> = jobs.iter().map(|j| j.id.as_str()).collect();
        let traceparent = match jobs {
            [one] => one.traceparent.clone(),
            _ => None,
        };
        let body = serde_json::to_vec(&json!({ "jobs": jobs }))
            .map_err(|e| DoorError::Failed(format!("the jobs cannot be written as JSON: {e}")))?;
        let leases: Vec<String> = jobs.iter().map(|j| j.id.clone()).collect();
        let renew = || {
            let (jobs, queue, clock) = (self.jobs.clone(), self.queue.clone(), self.clock.clone());
            let (ids, owner) = (leases.clone(), self.owner.clone());
            async move {
                let renewed = jobs.renew(ids, owner, clock.now()).await;
                if let Err(error) = renewed {
                    tracing::warn!(queue = &*queue.name, %error, "a lease was not renewed");
                }
            }
            .boxed()
        };
        let deadline = self.task.deadline;
        hand_over(
            &*self.door,
            &self.queue,
            &ids,
            body.into(),
            traceparent,
            deadline,
            renew,
        )
        .await
    }

    fn outcomes(&self, jobs: Vec<Leased>, mut handed: Handed) -> Vec<(Leased, Outcome)> {
        let outcome =
            |job: &Leased| match verdict(&mut handed, &job.id, job.attempt, self.task.max_attempts)
            {
                Verdict::Done(result) => Outcome::Done {
                    result: result.get().to_owned(),
                },
                Verdict::Returned => Outcome::Returned,
                Verdict::GivenUp {
                    dead, error, code, ..
                } => Outcome::GivenUp { dead, error, code },
                Verdict::Again {
                    wait, alone, error, ..
                } => {
                    let eta = self.clock.now() + micros(wait);
                    Outcome::Retry { eta, alone, error }
                }
            };
        let outcomes: Vec<Outcome> = jobs.iter().map(outcome).collect();
        jobs.into_iter().zip(outcomes).collect()
    }
}
