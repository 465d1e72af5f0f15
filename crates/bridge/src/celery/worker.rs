//! A queue's lists in Redis → its service. A turn settles what came back and fetches what comes next
//! in one round trip; each is one script, so neither a message nor its outcome is ever half done.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::{FromRedisValue, Pipeline, RedisError, Value};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Shared,
    canvas::{self, Effects, Join, Parts, Sender},
    connection::Redis,
    message::{Message, STEPS, Unreadable, list_key},
    outcome::{Exception, State, Stored},
    registry::Running,
};
use crate::{
    backoff::{backoff, random},
    clock::micros,
    config::{Queue, TaskSpec},
    door::DoorError,
    handover::{Handed, Verdict, hand_over, verdict},
    limits::{
        CHORD_CLAIM, DELIVERY_BYTES_MAX, JOB_JITTER, LEASE, QUEUE_LOOK_EVERY, REDIS_BACKOFF_MAX,
        REDIS_BACKOFF_MIN, REDIS_DEAD_MAX, RESULT_EXPIRES, UNAVAILABLE_BACKOFF_MAX,
        UNAVAILABLE_BACKOFF_MIN,
    },
};

/// The keys of one queue. Nothing of ours is under a name of Celery's: Python workers sweep those.
pub(crate) struct Keys {
    /// leased, delayed, messages, tries, dead, deaths.
    own: [String; 6],
    /// Celery's lists by priority, then by alias.
    pub(crate) lists: Vec<String>,
}

/// An echo comes within the moment it takes Redis to answer; a short job is done by then.
const ECHO: Duration = Duration::from_millis(1);

/// Bumped when an id is revoked.
pub(crate) const REVOKED_VERSION: &str = "innover:revoked:version";
/// Revoked id → when it is forgotten, in ms.
pub(crate) const REVOKED: &str = "innover:revoked";

impl Keys {
    pub(crate) fn new(queue: &Queue) -> Keys {
        let own = ["leased", "delayed", "messages", "tries", "dead", "deaths"];
        let names = || std::iter::once(&queue.spec.name).chain(&queue.spec.aliases);
        let lists = STEPS
            .iter()
            .flat_map(|step| names().map(|name| list_key(name, *step)));
        Keys {
            own: own.map(|what| format!("innover:{}:{what}", queue.name)),
            lists: lists.collect(),
        }
    }

    pub(crate) fn leased(&self) -> &String {
        &self.own[0]
    }
    pub(crate) fn delayed(&self) -> &String {
        &self.own[1]
    }
    pub(crate) fn messages(&self) -> &String {
        &self.own[2]
    }
    pub(crate) fn dead(&self) -> &String {
        &self.own[4]
    }
    pub(crate) fn deaths(&self) -> &String {
        &self.own[5]
    }

    fn fetch(&self) -> Vec<String> {
        let revoked = REVOKED_VERSION.to_owned();
        self.own[..4]
            .iter()
            .cloned()
            .chain([revoked])
            .chain(self.lists.iter().cloned())
            .collect()
    }
}

/// A message this bridge has leased.
struct Leased {
    lease: String,
    /// Its delivery's number by Redis, 1 the first.
    delivery: u32,
    bytes: Vec<u8>,
}

/// What is written for a message in one step.
struct Settlement {
    lease: String,
    action: Action,
    effects: Effects,
    /// Chords whose body is among the effects: group key and claim.
    finished: Vec<(String, String)>,
}

enum Action {
    /// There is no lease: only the results are stored.
    Store,
    Done,
    /// Due at a time in microseconds, after so many deliveries.
    Wait {
        at: i64,
        deliveries: u32,
    },
    /// The letter and its time in microseconds.
    Dead {
        letter: String,
        at: i64,
    },
}

/// A delivery that came back.
struct Landed {
    settled: Vec<Settlement>,
    unavailable: Option<String>,
}

type Flights = FuturesUnordered<BoxFuture<'static, Landed>>;

/// One queue's worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    /// One per delivery at once, shared with the embedded queue of the same name.
    pub(crate) slots: Arc<Semaphore>,
    /// Rung when a list has changed or a connection is new.
    pub(crate) bell: Arc<Notify>,
    pub(crate) relay: Option<Arc<Notify>>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Worker {
    /// Runs until shutdown; deliveries under way are finished and their results written.
    pub(crate) async fn run(mut self) {
        let keys = Keys::new(&self.queue);
        let mut flights = Flights::new();
        let mut settled: Vec<Settlement> = Vec::new();
        let (mut unavailable, mut failures) = (0_u32, 0_u32);
        let mut held_until = 0;
        // Lease ids are numbered so that a delivery of one life is never taken for another's.
        let mut number = 0_u64;
        let mut maybe_more = true;
        let mut next_due: Option<i64> = None;
        // What a fetch takes rings the bell too: Redis does not see that it was us. News within this
        // time waits for the delivery to land, whose turn fetches anyway.
        let mut echo_until = tokio::time::Instant::now();
        loop {
            let closing = *self.shutdown.borrow();
            let now = self.shared.clock.now();
            let echo = settled.is_empty()
                && !flights.is_empty()
                && tokio::time::Instant::now() < echo_until;
            let held = now < held_until;
            let due = next_due.is_some_and(|at| at <= now);
            let wanted = match closing || held || echo || !(maybe_more || due) {
                true => 0,
                // One delivery finds out whether the service is back.
                false if unavailable > 0 => usize::from(flights.is_empty()),
                false => self.queue.spec.concurrency.saturating_sub(flights.len()),
            };
            let mut slots: Vec<OwnedSemaphorePermit> =
                std::iter::from_fn(|| self.slots.clone().try_acquire_owned().ok())
                    .take(wanted)
                    .collect();
            let starved = wanted > 0 && slots.is_empty();
            let up = self.shared.redis.is_up();
            if up && (!settled.is_empty() || !slots.is_empty()) {
                match self.turn(&keys, &settled, slots.len(), &mut number).await {
                    Ok(turn) => {
                        failures = 0;
                        settled.clear();
                        if let Some(turn) = turn {
                            // What comes after the last one rings.
                            maybe_more = turn.unfilled == 0;
                            if !maybe_more && !turn.leased.is_empty() {
                                echo_until = tokio::time::Instant::now() + ECHO;
                            }
                            next_due = turn.next_due;
                            if turn.revoked_version != self.shared.revoked.version() {
                                self.shared.load_revoked().await;
                            }
                            let (groups, back) = self.admit(turn.leased);
                            settled.extend(back);
                            for group in groups {
                                flights.push(self.fly(group, slots.pop()));
                            }
                            if !settled.is_empty() {
                                continue;
                            }
                        }
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(queue = &*self.queue.name, %error, "Redis refuses; what is done is written when it answers");
                        let wait = backoff(
                            failures,
                            REDIS_BACKOFF_MIN,
                            REDIS_BACKOFF_MAX,
                            JOB_JITTER,
                            random(),
                        );
                        tokio::time::sleep(wait).await;
                        maybe_more = true;
                        if closing && failures > 3 {
                            return;
                        }
                        continue;
                    }
                }
            }
            drop(slots);
            // Without Redis nothing can be written any more; the leases end by themselves.
            if closing && flights.is_empty() && (settled.is_empty() || !up) {
                return;
            }
            let full = flights.len() >= self.queue.spec.concurrency;
            let wake = if held {
                held_until
            } else {
                next_due.unwrap_or(i64::MAX)
            };
            let mut next = tokio::select! {
                landed = flights.next(), if !flights.is_empty() => landed,
                () = self.bell.notified() => { maybe_more = true; None }
                // What the embedded queue gave back.
                _ = self.slots.acquire(), if starved && up && !closing => None,
                () = self.shared.clock.sleep_until(wake, QUEUE_LOOK_EVERY), if !full && !closing => {
                    maybe_more = true;
                    None
                }
                () = tokio::time::sleep_until(echo_until), if echo && maybe_more => None,
                _ = self.shutdown.changed(), if !closing => None,
            };
            while let Some(landed) = next {
                match &landed.unavailable {
                    None => unavailable = 0,
                    Some(problem) => {
                        unavailable += 1;
                        let (min, max) = (UNAVAILABLE_BACKOFF_MIN, UNAVAILABLE_BACKOFF_MAX);
                        let wait = backoff(unavailable, min, max, JOB_JITTER, random());
                        held_until = self.shared.clock.now() + micros(wait);
                        tracing::warn!(
                            queue = &*self.queue.name,
                            problem,
                            "the service cannot be reached; its jobs wait"
                        );
                    }
                }
                let who = format!("{} (jobs)", self.queue.service);
                self.shared
                    .metrics
                    .reachable(&who, landed.unavailable.as_deref());
                if let Some(relay) = &self.relay {
                    relay.notify_one();
                }
                settled.extend(landed.settled);
                next = flights.next().now_or_never().flatten();
            }
        }
    }

    /// Settles and fetches in one round trip; `None` when nothing was to be fetched.
    async fn turn(
        &self,
        keys: &Keys,
        settled: &[Settlement],
        room: usize,
        number: &mut u64,
    ) -> Result<Option<Turn>, RedisError> {
        let redis = &self.shared.redis;
        let mut commands = match settled {
            [] => redis::pipe(),
            settled => settle(redis, keys, settled, self.shared.clock.now()),
        };
        if room > 0 {
            redis.scripts.fetch.call(&mut commands, &keys.fetch());
            commands
                .arg(LEASE.as_millis() as u64)
                .arg(room)
                .arg(&self.shared.lease_prefix)
                .arg(*number);
            for (name, batch) in self.batches() {
                commands.arg(name).arg(batch);
            }
        }
        let mut answers: Vec<Value> = redis.query(&commands).await?;
        let fetched = if room > 0 { answers.pop() } else { None };
        for answer in answers {
            let held = usize::from_redis_value(answer)?;
            if held < settled.len() {
                tracing::info!(
                    queue = &*self.queue.name,
                    lost = settled.len() - held,
                    "leases ran out before their jobs were settled; whoever has them now settles them"
                );
            }
        }
        // What was sent to our own lists makes no noise on this connection.
        let sent: HashSet<&str> = settled
            .iter()
            .flat_map(|s| s.effects.messages.iter().map(|m| m.queue.as_str()))
            .collect();
        sent.into_iter()
            .for_each(|queue| self.shared.ring(Some(queue)));
        let Some(fetched) = fetched else {
            return Ok(None);
        };
        let turn = Turn::read(fetched)?;
        *number += turn.leased.len() as u64;
        Ok(Some(turn))
    }

    /// Names a task may go by and how many of it one delivery takes, where that is more than one.
    fn batches(&self) -> impl Iterator<Item = (String, usize)> {
        let many = self
            .queue
            .spec
            .tasks
            .iter()
            .filter(|(_, task)| task.batch > 1);
        many.flat_map(|(name, task)| {
            let bare = name.rsplit('.').next().unwrap_or(name);
            [name.clone(), bare.to_owned(), format!("tasks.{bare}")].map(|n| (n, task.batch))
        })
    }

    /// Sorts what was fetched into deliveries and what is settled without one.
    fn admit(&self, leased: Vec<Leased>) -> (Vec<Group>, Vec<Settlement>) {
        let (mut groups, mut back): (Vec<Group>, Vec<Settlement>) = (Vec::new(), Vec::new());
        let now = self.shared.clock.now();
        for leased in leased {
            let job = match self.read(leased, now) {
                Ok(job) => job,
                Err(settlement) => {
                    back.push(*settlement);
                    continue;
                }
            };
            let fits = groups.last().is_some_and(|group| {
                group.task == job.task
                    && group.jobs.len() < group.spec.batch
                    && group.bytes + job.bytes <= DELIVERY_BYTES_MAX
                    && job.travels_with_others()
                    && group.jobs.iter().all(|j| j.travels_with_others())
                    // A service answers by id.
                    && group.jobs.iter().all(|j| j.id() != job.id())
            });
            match groups.last_mut() {
                Some(group) if fits => {
                    group.bytes += job.bytes;
                    group.jobs.push(job);
                }
                _ => groups.push(Group {
                    task: job.task.clone(),
                    spec: self
                        .queue
                        .spec
                        .tasks
                        .get(&job.task)
                        .cloned()
                        .unwrap_or_default(),
                    bytes: job.bytes,
                    jobs: vec![job],
                }),
            }
        }
        (groups, back)
    }

    /// Reads a message; `Err` is what is written for one that is not delivered.
    fn read(&self, leased: Leased, now: i64) -> Result<Delivered, Box<Settlement>> {
        let Leased {
            lease,
            delivery,
            bytes,
        } = leased;
        let shared = &self.shared;
        let message = match Message::parse(&bytes) {
            Ok(message) => message,
            Err(unreadable) => {
                return Err(Box::new(
                    self.unreadable(lease, delivery, &bytes, unreadable, now),
                ));
            }
        };
        let name = &message.headers.task;
        let route = shared.routes.resolve(Some(&self.queue.name), name);
        let attempt = message.headers.retries.saturating_add(delivery);
        shared.events.received(&self.queue, &message);
        let refuse = |state, exception: Exception, dead: Option<String>| {
            let effects = canvas::failed(&message, state, &exception, &self.sender(&message));
            shared
                .events
                .ended(&self.queue, &message.headers.id, state, &exception);
            let action = match dead {
                Some(error) => self.bury(&message.headers.id, name, attempt, &error, &bytes, now),
                None => Action::Done,
            };
            Err(Box::new(Settlement {
                lease: lease.clone(),
                action,
                effects,
                finished: Vec::new(),
            }))
        };
        let time = |text: &Option<String>| -> Option<i64> { text.as_deref().and_then(when) };
        if time(&message.headers.expires).is_some_and(|at| at < now) {
            shared.metrics.job(&self.queue.name, "revoked");
            return refuse(State::Revoked, Exception::revoked("expired"), None);
        }
        if shared.revoked.contains(&message.headers.id) {
            shared.metrics.job(&self.queue.name, "revoked");
            return refuse(State::Revoked, Exception::revoked("revoked"), None);
        }
        let task = match route {
            Ok(route) => route.task,
            Err(error) => {
                shared.metrics.job(&self.queue.name, "failed");
                tracing::warn!(
                    queue = &*self.queue.name,
                    task = name,
                    id = message.headers.id,
                    error,
                    "a job is refused"
                );
                return refuse(State::Failure, Exception::not_registered(name), Some(error));
            }
        };
        if let Some(at) = time(&message.headers.eta).filter(|at| *at > now) {
            let action = Action::Wait {
                at,
                deliveries: delivery - 1,
            };
            let effects = Effects::default();
            return Err(Box::new(Settlement {
                lease,
                action,
                effects,
                finished: Vec::new(),
            }));
        }
        let spec = self
            .queue
            .spec
            .tasks
            .get(&task)
            .cloned()
            .unwrap_or_default();
        // Deliveries that ended with the worker's death count too: a job that kills the process must
        // not do so for ever.
        if attempt > spec.max_attempts {
            let error = format!("{} tries ended without an answer", attempt - 1);
            shared.metrics.job(&self.queue.name, "dead");
            return refuse(
                State::Failure,
                Exception::of_problem("worker_lost", &error),
                Some(error),
            );
        }
        let bytes_len = message.args.get().len() + message.kwargs.get().len() + 256;
        Ok(Delivered {
            lease,
            delivery,
            attempt,
            task,
            message,
            raw: bytes,
            bytes: bytes_len,
        })
    }

    fn unreadable(
        &self,
        lease: String,
        delivery: u32,
        bytes: &[u8],
        unreadable: Unreadable,
        now: i64,
    ) -> Settlement {
        let Unreadable {
            known,
            exception,
            why,
        } = unreadable;
        let (id, task) = known
            .clone()
            .unwrap_or_else(|| (lease.clone(), String::new()));
        tracing::warn!(
            queue = &*self.queue.name,
            id,
            task,
            error = why,
            "a message cannot be read; it is a dead letter"
        );
        self.shared.metrics.job(&self.queue.name, "failed");
        let mut effects = Effects::default();
        if known.is_some() {
            let exception = Exception::unreadable(exception, &why);
            effects.results.push(Stored {
                id: id.clone(),
                state: State::Failure,
                result: exception.raw(),
                traceback: Some(exception.traceback(&task, &id)),
                children: Vec::new(),
                group: None,
                parent: None,
            });
        }
        let action = self.bury(&id, &task, delivery, &why, bytes, now);
        Settlement {
            lease,
            action,
            effects,
            finished: Vec::new(),
        }
    }

    fn bury(
        &self,
        id: &str,
        task: &str,
        attempts: u32,
        error: &str,
        bytes: &[u8],
        now: i64,
    ) -> Action {
        let letter = super::dead::Letter {
            id: id.to_owned(),
            task: task.to_owned(),
            error: error.to_owned(),
            attempts,
            dead_at: now,
            message: String::from_utf8_lossy(bytes).into_owned(),
        };
        Action::Dead {
            letter: letter.json(),
            at: now,
        }
    }

    fn sender<'a>(&'a self, message: &'a Message) -> Sender<'a> {
        self.shared.sender(&self.queue, message)
    }

    fn fly(&self, group: Group, slot: Option<OwnedSemaphorePermit>) -> BoxFuture<'static, Landed> {
        let flight = Flight {
            shared: self.shared.clone(),
            queue: self.queue.clone(),
            task: group.task,
            spec: group.spec,
        };
        async move {
            let landed = flight.run(group.jobs).await;
            drop(slot);
            landed
        }
        .boxed()
    }
}

/// A time as Celery writes it: ISO 8601; without an offset it is UTC.
pub(crate) fn when(text: &str) -> Option<i64> {
    let with_offset = match text.ends_with('Z') || text.get(10..)?.contains(['+', '-']) {
        true => text.to_owned(),
        false => format!("{text}Z"),
    };
    innover_contract::time::parse_rfc3339(&with_offset).ok()
}

/// The answer to a fetch.
struct Turn {
    next_due: Option<i64>,
    revoked_version: String,
    /// Deliveries that were wanted and not there.
    unfilled: usize,
    leased: Vec<Leased>,
}

impl Turn {
    fn read(value: Value) -> Result<Turn, RedisError> {
        let mut items = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || items.next().unwrap_or(Value::Nil);
        let due = f64::from_redis_value(next())?;
        let revoked_version = String::from_redis_value(next())?;
        let unfilled = usize::from_redis_value(next())?;
        let mut leased = Vec::new();
        while let Some(lease) = items.next() {
            let mut next = || items.next().unwrap_or(Value::Nil);
            leased.push(Leased {
                lease: String::from_redis_value(lease)?,
                delivery: u32::from_redis_value(next())?,
                bytes: Vec::<u8>::from_redis_value(next())?,
            });
        }
        Ok(Turn {
            next_due: (due >= 0.0).then_some((due * 1e3) as i64),
            revoked_version,
            unfilled,
            leased,
        })
    }
}

/// Jobs of one delivery.
struct Group {
    task: String,
    spec: TaskSpec,
    bytes: usize,
    jobs: Vec<Delivered>,
}

/// A message that is delivered.
struct Delivered {
    lease: String,
    delivery: u32,
    /// With the retries the message has behind it.
    attempt: u32,
    /// The task's canonical name.
    task: String,
    message: Message,
    raw: Vec<u8>,
    bytes: usize,
}

impl Delivered {
    fn id(&self) -> &str {
        &self.message.headers.id
    }

    /// A job that failed before, or has limits of its own, is delivered by itself.
    fn travels_with_others(&self) -> bool {
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

/// One delivery.
struct Flight {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    task: String,
    spec: TaskSpec,
}

impl Flight {
    async fn run(self, jobs: Vec<Delivered>) -> Landed {
        let started = Instant::now();
        let stop = Arc::new(Notify::new());
        let _running = self.shared.registry.enter(
            &self.queue.name,
            jobs.iter()
                .map(|job| Running::new(&job.message, &self.task, job.attempt, &stop)),
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
                true => job.attempt,
                false => self.spec.max_attempts,
            };
            let verdict = match terminated {
                true => None,
                false => Some(verdict(&mut handed, job.id(), job.attempt, tries)),
            };
            settled.push(self.settle(job, verdict, took).await);
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
                attempt: job.attempt,
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
        let leases: Vec<String> = jobs.iter().map(|job| job.lease.clone()).collect();
        let renew = || {
            let (shared, queue, leases) = (self.shared.clone(), self.queue.clone(), leases.clone());
            async move {
                let mut commands = redis::pipe();
                let keys = [Keys::new(&queue).leased().clone()];
                shared.redis.scripts.renew.call(&mut commands, &keys);
                commands.arg(LEASE.as_millis() as u64).arg(&leases);
                if let Err(error) = shared.redis.query::<Value>(&commands).await {
                    tracing::warn!(queue = &*queue.name, %error, "leases were not renewed");
                }
            }
            .boxed()
        };
        let deadline = match jobs.first().and_then(|job| job.message.headers.timelimit.0) {
            Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(self.spec.deadline),
            None => self.spec.deadline,
        };
        let (door, queue) = (&*self.shared.door, &*self.queue);
        hand_over(door, queue, &ids, body.into(), traceparent, deadline, renew).await
    }

    /// `None` is a job that was terminated.
    async fn settle(&self, job: Delivered, verdict: Option<Verdict>, took: Duration) -> Settlement {
        let (shared, message) = (&self.shared, &job.message);
        let now = shared.clock.now();
        let (queue, id) = (&*self.queue.name, job.id());
        let sender = shared.sender(&self.queue, message);
        let mut settlement = Settlement {
            lease: job.lease.clone(),
            action: Action::Done,
            effects: Effects::default(),
            finished: Vec::new(),
        };
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
                    attempt = job.attempt,
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
                    attempt = job.attempt,
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
                let letter = super::dead::Letter {
                    id: id.to_owned(),
                    task: self.task.clone(),
                    error,
                    attempts: job.attempt,
                    dead_at: now,
                    message: String::from_utf8_lossy(&job.raw).into_owned(),
                };
                settlement.action = Action::Dead {
                    letter: letter.json(),
                    at: now,
                };
            }
        }
        self.join(&mut settlement, &sender).await;
        settlement
    }

    /// Hands in parts of chords; bodies that are due then are among the effects.
    async fn join(&self, settlement: &mut Settlement, sender: &Sender<'_>) {
        while let Some(join) = settlement.effects.joins.pop() {
            let mut failures = 0;
            let parts = loop {
                match self.hand_in(&join).await {
                    Ok(parts) => break parts,
                    // The lease runs out should this last, and the job is delivered again.
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(queue = &*self.queue.name, group = join.group, %error, "a chord's part was not handed in; trying again");
                        let wait = backoff(
                            failures,
                            REDIS_BACKOFF_MIN,
                            REDIS_BACKOFF_MAX,
                            JOB_JITTER,
                            random(),
                        );
                        tokio::time::sleep(wait).await;
                    }
                }
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
    }

    /// The chord's parts when this was the last one.
    async fn hand_in(&self, join: &Join) -> Result<Option<Parts>, RedisError> {
        let redis = &self.shared.redis;
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
        let (answer,): (Vec<String>,) = redis.query(&commands).await?;
        let mut answer = answer.into_iter();
        if answer.next().as_deref() != Some("ready") {
            return Ok(None);
        }
        let structure = answer.next().filter(|text| !text.is_empty());
        Ok(Some(Parts {
            members: answer.collect(),
            structure,
        }))
    }
}

fn json_jobs<'a>(jobs: &'a [Outward<'a>]) -> impl Serialize + 'a {
    #[derive(Serialize)]
    struct Batch<'a> {
        jobs: &'a [Outward<'a>],
    }
    Batch { jobs }
}

/// The commands that store results without a lease.
pub(crate) fn store(redis: &Redis, queue: &Queue, results: Vec<Stored>, now: i64) -> Pipeline {
    let settlement = Settlement {
        lease: String::new(),
        action: Action::Store,
        effects: Effects {
            results,
            ..Effects::default()
        },
        finished: Vec::new(),
    };
    settle(
        redis,
        &Keys::new(queue),
        std::slice::from_ref(&settlement),
        now,
    )
}

fn settle(redis: &Redis, keys: &Keys, settled: &[Settlement], now: i64) -> Pipeline {
    let mut commands = redis::pipe();
    redis.scripts.settle.call(&mut commands, &keys.own);
    commands
        .arg(redis.broker)
        .arg(redis.backend)
        .arg(REDIS_DEAD_MAX);
    for settlement in settled {
        settlement.write(&mut commands, now);
    }
    commands
}

fn group_key(group: &str) -> String {
    format!("celery-taskset-meta-{group}")
}

/// The same for every delivery of the part, so that it is claimed again after a crash.
fn claim(join: &Join) -> String {
    format!("innover:{}", join.task_id)
}

impl Settlement {
    /// The arguments of `settle.lua`.
    fn write(&self, commands: &mut Pipeline, now: i64) {
        commands.arg(&self.lease);
        match &self.action {
            Action::Store => commands.arg(&["store", "", ""]),
            Action::Done => commands.arg(&["done", "", ""]),
            Action::Wait { at, deliveries } => {
                commands.arg("wait").arg(at / 1_000).arg(*deliveries)
            }
            Action::Dead { letter, at } => commands.arg("dead").arg(letter).arg(at / 1_000),
        };
        commands.arg(self.effects.messages.len());
        for message in &self.effects.messages {
            commands.arg(message.key()).arg(message.encode());
        }
        commands.arg(self.effects.sizes.len());
        for (group, size) in &self.effects.sizes {
            commands.arg(group_key(group)).arg(*size);
        }
        commands.arg(self.effects.results.len());
        for stored in &self.effects.results {
            commands
                .arg(format!("celery-task-meta-{}", stored.id))
                .arg(stored.json(now))
                .arg(RESULT_EXPIRES.as_secs());
        }
        commands.arg(self.finished.len());
        for (group, claim) in &self.finished {
            commands.arg(group).arg(claim);
        }
    }
}
