//! A queue's lists in Redis → its service. A turn settles what came back and fetches what comes next
//! in one round trip; each is one script, so neither a message nor its outcome is ever half done.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::{ErrorKind, FromRedisValue, RedisError, Value};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Shared,
    canvas::{self, Effects},
    connection::passes,
    flight::{self, Delivered, Flight, Group, Landed},
    keys::Keys,
    message::{Message, Unreadable},
    outcome::{Exception, State, Stored},
    settlement::{Action, Origin, Settled, Settlement, renew, settle},
};
use crate::{
    backoff::{backoff, random},
    clock::{micros, pausing},
    config::{Queue, TaskSpec},
    limits::{
        DELIVERY_BYTES_MAX, JOB_JITTER, LEASE, LEASE_RENEW, QUEUE_LOOK_EVERY, REDIS_BACKOFF_MAX,
        REDIS_BACKOFF_MIN, UNAVAILABLE_BACKOFF_MAX, UNAVAILABLE_BACKOFF_MIN,
    },
};

/// A message this bridge has leased.
struct Leased {
    lease: String,
    /// Its delivery's number by Redis, 1 the first.
    delivery: u32,
    bytes: Vec<u8>,
}

type Flights = FuturesUnordered<BoxFuture<'static, Landed>>;

/// An echo comes within the moment it takes Redis to answer; a short job is done by then.
const ECHO: Duration = Duration::from_millis(1);
/// Messages that cannot be judged now are fetched again after this time.
const LATER: Duration = Duration::from_secs(1);

/// The leases of deliveries under way.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashSet<String>>>);

impl UnderWay {
    fn leases(&self) -> MutexGuard<'_, HashSet<String>> {
        // A panic leaves no change half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They are under way until what is returned is dropped.
    fn hold(&self, leases: Vec<String>) -> Held {
        self.leases().extend(leases.iter().cloned());
        Held(self.clone(), leases)
    }
}

struct Held(UnderWay, Vec<String>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.leases().retain(|lease| !self.1.contains(lease));
    }
}

/// One queue's worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    /// One per delivery at once, shared with the embedded queue of the same name.
    pub(crate) slots: Arc<Semaphore>,
    /// Rung when a list has changed or a connection is new.
    pub(crate) bell: Arc<Notify>,
    pub(crate) relay: Option<Arc<Notify>>,
    pub(crate) under_way: UnderWay,
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
        // When Redis last answered.
        let mut heard = echo_until;
        // No turn before this time: Redis refused the last one.
        let (mut refused_until, mut refusing) = (echo_until, false);
        loop {
            let closing = *self.shutdown.borrow();
            let now = self.shared.clock.now();
            let echo = settled.is_empty()
                && !flights.is_empty()
                && tokio::time::Instant::now() < echo_until;
            let held = pausing(now, held_until, UNAVAILABLE_BACKOFF_MAX * 2);
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
            let has_room = !slots.is_empty();
            let refused = refused_until > tokio::time::Instant::now();
            let up = self.shared.redis.is_up() && !refused;
            if up && (!settled.is_empty() || !slots.is_empty()) {
                // It may have been away for longer than a lease, and what is under way must not be fetched
                // beside itself.
                let stale = heard.elapsed() > LEASE_RENEW;
                let Turn { settling, fetching } = self
                    .turn(&keys, &settled, slots.len(), stale, &mut number)
                    .await;
                let mut refusal = None;
                match settling {
                    Ok(()) => {
                        // Nobody rings for what was put off.
                        let put_off = settled.drain(..).filter_map(|s| s.action.due());
                        next_due = put_off.chain(next_due).min();
                    }
                    Err(error) => {
                        if !passes(&error) {
                            self.settle_alone(&keys, &mut settled).await;
                        }
                        refusal = Some(error);
                    }
                }
                match fetching {
                    None => {}
                    Some(Err(error)) => refusal = Some(error),
                    Some(Ok(fetched)) => {
                        // What comes after the last one rings.
                        maybe_more = fetched.unfilled == 0;
                        if !maybe_more && !fetched.leased.is_empty() {
                            echo_until = tokio::time::Instant::now() + ECHO;
                        }
                        next_due = fetched.next_due;
                        let known = fetched.revoked_version == self.shared.revoked.version()
                            || self.shared.load_revoked().await;
                        if known {
                            let (groups, back) = self.admit(fetched.leased);
                            for refused in back {
                                match refused.settlement.effects.joins.is_empty() {
                                    true => settled.push(refused.settlement),
                                    false => flights.push(self.join(refused)),
                                }
                            }
                            for group in groups {
                                match slots.pop() {
                                    Some(slot) => flights.push(self.fly(group, slot)),
                                    // It did not fit into the delivery its lease was for.
                                    None => settled.extend(self.put_back(group)),
                                }
                            }
                        } else {
                            let later = |leased: Leased| {
                                let deliveries = leased.delivery - 1;
                                let at = self.shared.clock.now() + micros(LATER);
                                let origin = Origin {
                                    lease: leased.lease,
                                    ..Origin::default()
                                };
                                let action = Action::Wait { at, deliveries };
                                Settlement::new(origin, action, Effects::default())
                            };
                            settled.extend(fetched.leased.into_iter().map(later));
                        }
                    }
                }
                match refusal {
                    None => failures = 0,
                    Some(error) => {
                        failures += 1;
                        tracing::warn!(queue = &*self.queue.name, %error, "Redis refuses; what is done is written when it answers");
                        self.shared
                            .metrics
                            .reachable("Redis", Some(&error.to_string()));
                        let (min, max) = (REDIS_BACKOFF_MIN, REDIS_BACKOFF_MAX);
                        let wait = backoff(failures, min, max, JOB_JITTER, random());
                        refused_until = tokio::time::Instant::now() + wait;
                        refusing = true;
                        maybe_more = true;
                    }
                }
                if failures == 0 {
                    heard = tokio::time::Instant::now();
                    if std::mem::take(&mut refusing) {
                        self.shared.metrics.reachable("Redis", None);
                    }
                    if !settled.is_empty() {
                        continue;
                    }
                }
            }
            drop(slots);
            // Without Redis nothing can be written any more; the leases end by themselves.
            if closing && flights.is_empty() && (settled.is_empty() || !up || failures > 3) {
                return;
            }
            let full = flights.len() >= self.queue.spec.concurrency;
            let wake = if held {
                held_until
            } else {
                let (next, now) = (next_due.unwrap_or(i64::MAX), self.shared.clock.now());
                // What is due already waits for room, and no clock brings that.
                match !has_room && next <= now {
                    true => now + micros(UNAVAILABLE_BACKOFF_MIN),
                    false => next,
                }
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
                () = tokio::time::sleep_until(refused_until), if refused_until > tokio::time::Instant::now() => None,
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

    /// Settles and fetches in one round trip; what is not asked for is fine, or `None`. Before a fetch the
    /// leases of what is under way are renewed, if they may be `stale`.
    async fn turn(
        &self,
        keys: &Keys,
        settled: &[Settlement],
        room: usize,
        stale: bool,
        number: &mut u64,
    ) -> Turn {
        let redis = &self.shared.redis;
        let mut commands = match settled {
            [] => redis::pipe(),
            settled => settle(redis, keys, settled, self.shared.clock.now()),
        };
        let mut renewed = false;
        if room > 0 && stale {
            let leases: Vec<String> = self.under_way.leases().iter().cloned().collect();
            renewed = !leases.is_empty();
            if renewed {
                renew(redis, keys, &mut commands, &leases);
            }
        }
        if room > 0 {
            redis.scripts.fetch.call(&mut commands, &keys.fetch());
            commands
                .arg(LEASE.as_millis() as u64)
                .arg(room)
                .arg(&self.shared.lease_prefix)
                .arg(*number)
                .arg(self.shared.clock.now() / 1_000);
            // Used up before it is asked: an answer that is lost must not give its ids to others.
            let batch = self.queue.spec.tasks.values().map(|task| task.batch).max();
            *number += (room * batch.unwrap_or(1).max(1)) as u64;
            for (name, batch) in self.batches() {
                commands.arg(name).arg(batch);
            }
        }
        // One may be refused and the other not.
        commands.ignore_errors();
        let answers = redis
            .query::<Vec<Result<Value, RedisError>>>(&commands)
            .await;
        let mut answers = match answers {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                let fetching = (room > 0).then(|| Err(error.clone()));
                return Turn {
                    settling: Err(error),
                    fetching,
                };
            }
        };
        let missing = || Err(RedisError::from((ErrorKind::Parse, "an answer is missing")));
        let settling = match settled {
            [] => Ok(()),
            _ => answers
                .next()
                .unwrap_or_else(missing)
                .and_then(|answer| self.report(answer, settled.len())),
        };
        if renewed {
            // Refused, it is as if it had not been tried: the fetch says how Redis is.
            answers.next();
        }
        // What was sent to our own lists makes no noise on this connection.
        let sent: HashSet<&str> = settled
            .iter()
            .flat_map(|s| s.effects.messages.iter().map(|m| m.queue.as_str()))
            .collect();
        sent.into_iter()
            .for_each(|queue| self.shared.ring(Some(queue)));
        let fetching = (room > 0).then(|| {
            answers
                .next()
                .unwrap_or_else(missing)
                .and_then(Fetched::read)
        });
        let refused = fetching.as_ref().and_then(|fetched| fetched.as_ref().err());
        settling
            .as_ref()
            .err()
            .into_iter()
            .chain(refused)
            .for_each(|error| redis.note(error));
        Turn { settling, fetching }
    }

    /// Says what the settling of so many jobs met.
    fn report(&self, answer: Value, sent: usize) -> Result<(), RedisError> {
        let Settled {
            held,
            deleted,
            lost,
        } = Settled::read(answer)?;
        let queue = &*self.queue.name;
        if held < sent {
            tracing::info!(
                queue,
                others = sent - held,
                "leases ran out before their jobs were settled; whoever has them now settles them"
            );
        }
        if deleted > 0 {
            tracing::error!(
                queue,
                deleted,
                "there are too many dead letters; the oldest were deleted"
            );
        }
        for list in lost {
            tracing::error!(
                queue,
                list,
                "a task could not be sent: its queue's key is no list"
            );
        }
        Ok(())
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
    fn admit(&self, leased: Vec<Leased>) -> (Vec<Group>, Vec<Refused>) {
        let (mut groups, mut back): (Vec<Group>, Vec<Refused>) = (Vec::new(), Vec::new());
        let now = self.shared.clock.now();
        for leased in leased {
            let job = match self.read(leased, now) {
                Ok(job) => job,
                Err(refused) => {
                    back.push(*refused);
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
                    spec: self.spec(&job.task),
                    bytes: job.bytes,
                    jobs: vec![job],
                }),
            }
        }
        (groups, back)
    }

    /// Reads a message; `Err` is what is written for one that is not delivered.
    fn read(&self, leased: Leased, now: i64) -> Result<Delivered, Box<Refused>> {
        let Leased {
            lease,
            delivery,
            bytes,
        } = leased;
        let shared = &self.shared;
        let message = match Message::parse(&bytes) {
            Ok(message) => message,
            Err(unreadable) => {
                let settlement = self.unreadable(lease, delivery, bytes, unreadable, now);
                return Err(Box::new(Refused {
                    settlement,
                    message: None,
                }));
            }
        };
        shared.events.received(&self.queue, &message);
        let headers = &message.headers;
        let origin = Origin {
            lease,
            id: headers.id.clone(),
            task: headers.task.clone(),
            attempt: headers.retries.saturating_add(delivery),
            bytes,
        };
        let refused = |origin: Origin, message: Message, refusal: Refusal| {
            Err(Box::new(self.refused(origin, message, refusal, now)))
        };
        if headers.expires.is_some_and(|at| at < now) {
            return refused(origin, message, Refusal::Revoked("expired"));
        }
        if shared.revoked.contains(&headers.id) {
            return refused(origin, message, Refusal::Revoked("revoked"));
        }
        let task = match shared.routes.resolve(Some(&self.queue.name), &headers.task) {
            Ok(route) => route.task,
            Err(error) => {
                let exception = Exception::not_registered(&headers.task);
                return refused(origin, message, Refusal::Failed(exception, error));
            }
        };
        if let Some(at) = headers.eta.filter(|at| *at > now) {
            let action = Action::Wait {
                at,
                deliveries: delivery - 1,
            };
            let settlement = Settlement::new(origin, action, Effects::default());
            return Err(Box::new(Refused {
                settlement,
                message: None,
            }));
        }
        let spec = self.spec(&task);
        // Deliveries that ended with the worker's death count too: a job that kills the process must
        // not do so for ever.
        if origin.attempt > spec.max_attempts {
            let error = format!("{} tries ended without an answer", origin.attempt - 1);
            let exception = Exception::of_problem("worker_lost", &error);
            return refused(origin, message, Refusal::Failed(exception, error));
        }
        let bytes = message.args.get().len() + message.kwargs.get().len() + 256;
        Ok(Delivered {
            origin,
            delivery,
            task,
            message,
            bytes,
        })
    }

    fn spec(&self, task: &str) -> TaskSpec {
        self.queue.spec.tasks.get(task).cloned().unwrap_or_default()
    }

    fn refused(&self, origin: Origin, message: Message, refusal: Refusal, now: i64) -> Refused {
        let queue = &*self.queue.name;
        let sender = self.shared.sender(&self.queue, &message);
        let (state, exception, action) = match refusal {
            Refusal::Revoked(why) => {
                self.shared.metrics.job(queue, "revoked");
                (State::Revoked, Exception::revoked(why), Action::Done)
            }
            Refusal::Failed(exception, error) => {
                self.shared.metrics.job(queue, "failed");
                let Origin { task, id, .. } = &origin;
                tracing::warn!(queue, task, id, error, "a job is refused");
                (State::Failure, exception, Action::Dead { error, at: now })
            }
        };
        self.shared
            .events
            .ended(&self.queue, &origin.id, state, &exception);
        let effects = canvas::failed(&message, state, &exception, &sender);
        Refused {
            settlement: Settlement::new(origin, action, effects),
            message: Some(message),
        }
    }

    fn unreadable(
        &self,
        lease: String,
        delivery: u32,
        bytes: Vec<u8>,
        unreadable: Unreadable,
        now: i64,
    ) -> Settlement {
        let Unreadable {
            known,
            exception,
            why,
        } = unreadable;
        let mut effects = Effects::default();
        if let Some((id, task)) = &known {
            let exception = Exception::unreadable(exception, &why);
            effects.results.push(Stored {
                traceback: Some(exception.traceback(task, id)),
                ..Stored::new(id, State::Failure, exception.raw())
            });
        }
        let (id, task) = known.unwrap_or_else(|| (lease.clone(), String::new()));
        let queue = &*self.queue.name;
        tracing::warn!(
            queue,
            id,
            task,
            error = why,
            "a message cannot be read; it is a dead letter"
        );
        self.shared.metrics.job(queue, "failed");
        let origin = Origin {
            lease,
            id,
            task,
            attempt: delivery,
            bytes,
        };
        Settlement::new(
            origin,
            Action::Dead {
                error: why,
                at: now,
            },
            effects,
        )
    }

    /// Parts of chords that a refused message leaves undone are handed in.
    fn join(&self, mut refused: Refused) -> BoxFuture<'static, Landed> {
        let (shared, queue) = (self.shared.clone(), self.queue.clone());
        async move {
            let joined = match &refused.message {
                Some(message) => {
                    let sender = shared.sender(&queue, message);
                    flight::join(&shared, &queue, &mut refused.settlement, &sender).await
                }
                None => true,
            };
            Landed {
                settled: joined.then_some(refused.settlement).into_iter().collect(),
                unavailable: None,
            }
        }
        .boxed()
    }

    /// Redis refuses the lot, maybe for one of them: each by itself. One that is refused alone becomes
    /// a dead letter, since its client has made keys of its own of another type.
    async fn settle_alone(&self, keys: &Keys, settled: &mut Vec<Settlement>) {
        while let Some(mut settlement) = settled.pop() {
            let write = async |settlement: &Settlement| {
                let now = self.shared.clock.now();
                let one = std::slice::from_ref(settlement);
                self.shared
                    .redis
                    .query::<Value>(&settle(&self.shared.redis, keys, one, now))
                    .await
            };
            let Err(error) = write(&settlement).await else {
                continue;
            };
            if passes(&error) {
                settled.push(settlement);
                return;
            }
            let Origin { id, task, .. } = &settlement.origin;
            let queue = &*self.queue.name;
            tracing::error!(queue, task, id, %error, "what became of a job cannot be written; it is a dead letter");
            settlement.action = Action::Dead {
                error: format!("its end could not be written: {error}"),
                at: self.shared.clock.now(),
            };
            (settlement.effects, settlement.finished) = Default::default();
            if let Err(error) = write(&settlement).await {
                tracing::error!(queue, id = settlement.origin.id, %error, "nor as a dead letter; it comes back when its lease ends");
            }
        }
    }

    /// As if it had not been fetched.
    fn put_back(&self, group: Group) -> impl Iterator<Item = Settlement> {
        let at = self.shared.clock.now();
        group.jobs.into_iter().map(move |job| {
            let deliveries = job.delivery - 1;
            Settlement::new(
                job.origin,
                Action::Wait { at, deliveries },
                Effects::default(),
            )
        })
    }

    fn fly(&self, group: Group, slot: OwnedSemaphorePermit) -> BoxFuture<'static, Landed> {
        let flight = Flight {
            shared: self.shared.clone(),
            queue: self.queue.clone(),
            task: group.task,
            spec: group.spec,
        };
        let task = flight.task.clone();
        let leases = group.jobs.iter().map(|job| job.origin.lease.clone());
        let held = self.under_way.hold(leases.collect());
        async move {
            // One delivery must not end the queue's worker. Its leases run out, and the tries count.
            let landed = AssertUnwindSafe(flight.run(group.jobs))
                .catch_unwind()
                .await;
            drop((slot, held));
            landed.unwrap_or_else(|_| {
                tracing::error!(
                    task,
                    "a delivery panicked; its jobs come back when their leases end"
                );
                Landed {
                    settled: Vec::new(),
                    unavailable: None,
                }
            })
        }
        .boxed()
    }
}

/// A message that is not delivered.
struct Refused {
    settlement: Settlement,
    /// It, where parts of chords are to be handed in for it.
    message: Option<Message>,
}

/// Why it is not.
enum Refusal {
    /// `revoked` or `expired`.
    Revoked(&'static str),
    /// What the client is told, and the dead letter's reason.
    Failed(Exception, String),
}

/// What came of a turn.
struct Turn {
    settling: Result<(), RedisError>,
    fetching: Option<Result<Fetched, RedisError>>,
}

/// The answer to a fetch.
struct Fetched {
    next_due: Option<i64>,
    revoked_version: String,
    /// Deliveries that were wanted and not there.
    unfilled: usize,
    leased: Vec<Leased>,
}

impl Fetched {
    fn read(value: Value) -> Result<Fetched, RedisError> {
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
        Ok(Fetched {
            next_due: (due >= 0.0).then_some((due * 1e3) as i64),
            revoked_version,
            unfilled,
            leased,
        })
    }
}
