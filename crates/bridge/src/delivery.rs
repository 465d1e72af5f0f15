//! Bus → components: one loop per subscriber, with at most two deliveries under way: a batch, and a
//! suspect by itself (see `subscription`).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use innover_contract::event::{CLOUDEVENTS_BATCH, Disposition, EventAnswers, disposition};
use innover_failpoint::{Step, hold};
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::{
    backoff::{backoff, random},
    clock::{Clock, micros},
    door::{Delivery, Door, DoorError, EVENTS_PATH, not_taken},
    inspect::DeadLetterRow,
    limits::{
        DELIVERY_BYTES_MAX, EVENT_DEADLINE, EVENT_JITTER, IDLE_CURSOR_EVERY, SCAN_ROWS_MAX,
        UNAVAILABLE_BACKOFF_MAX, UNAVAILABLE_BACKOFF_MIN,
    },
    metrics::Metrics,
    store::{
        Durability, Store, StoreError,
        events::{self, LogEvent},
    },
    subscription::{AfterFailure, Batch, Settled, Subscription, Verdict, cut},
    tail::{Found, Tail},
};

/// One subscriber's deliverer.
pub(crate) struct Subscriber {
    pub(crate) service: Arc<str>,
    pub(crate) topics: HashSet<String>,
    pub(crate) batch: usize,
    pub(crate) store: Store,
    pub(crate) tail: Arc<Tail>,
    pub(crate) door: Arc<dyn Door>,
    /// Rung when an event of its topics is committed.
    pub(crate) bell: Arc<Notify>,
    /// Its own relay: what it was given usually makes it write to its outbox.
    pub(crate) relay: Option<Arc<Notify>>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Which of a subscriber's two deliveries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Batch,
    Alone,
}

/// What a lane does.
#[derive(Default)]
pub(crate) enum Slot {
    #[default]
    Idle,
    Flying,
    /// To be sent again at this time.
    Held(Batch, i64),
}

/// A delivery that came back.
pub(crate) struct Landed {
    pub(crate) lane: Lane,
    pub(crate) batch: Batch,
    pub(crate) answer: Result<Vec<Verdict>, Whole>,
    pub(crate) took: Duration,
}

/// A delivery without an answer per event.
pub(crate) enum Whole {
    /// No handler ran.
    Unavailable(String),
    /// The status that counts for all of them, and why.
    Failed(Verdict),
}

pub(crate) type Flights = FuturesUnordered<BoxFuture<'static, Landed>>;

impl Subscriber {
    /// Runs until shutdown; deliveries under way are finished and settled.
    pub(crate) async fn run(mut self) {
        let Some((cursor, rows)) = self.load().await else {
            return;
        };
        let mut subscription = Subscription::new(cursor, rows);
        let topics = serde_json::json!(self.topics).to_string();
        let mut flights = Flights::new();
        let (mut main, mut alone) = (Slot::Idle, Slot::Idle);
        let mut reach = Reach::new(self.service.clone(), self.metrics.clone());
        let (mut saved, mut saved_at) = (cursor, self.clock.now());
        loop {
            let closing = *self.shutdown.borrow();
            let now = self.clock.now();
            if !closing {
                main = match std::mem::take(&mut main) {
                    Slot::Held(batch, at) if at <= now => {
                        fly(&flights, Lane::Batch, batch, &self.door, &self.service)
                    }
                    Slot::Idle => match self.next_batch(&mut subscription, &topics, now).await {
                        Ok(Some(batch)) if batch.events.is_empty() => {
                            let settled = subscription.settle(batch, &[], now, 0.0);
                            self.save(&settled, now).await;
                            saved = settled.cursor.unwrap_or(saved);
                            continue;
                        }
                        Ok(Some(batch)) => {
                            fly(&flights, Lane::Batch, batch, &self.door, &self.service)
                        }
                        Ok(None) => Slot::Idle,
                        Err(error) => {
                            tracing::warn!(subscriber = &*self.service, %error, "events cannot be read; trying again");
                            tokio::time::sleep(UNAVAILABLE_BACKOFF_MIN).await;
                            continue;
                        }
                    },
                    other => other,
                };
                alone = match std::mem::take(&mut alone) {
                    Slot::Held(batch, at) if at <= now => {
                        fly(&flights, Lane::Alone, batch, &self.door, &self.service)
                    }
                    Slot::Idle => match self.next_suspect(&mut subscription, now).await {
                        Some(batch) => fly(&flights, Lane::Alone, batch, &self.door, &self.service),
                        None => Slot::Idle,
                    },
                    other => other,
                };
            } else if flights.is_empty() {
                if subscription.scanned() > saved && !matches!(main, Slot::Held(..)) {
                    self.save(
                        &Settled {
                            cursor: Some(subscription.scanned()),
                            ..Settled::default()
                        },
                        now,
                    )
                    .await;
                }
                return;
            }
            // Nothing but other subscribers' events has passed for a while: note it, so that a
            // restart does not read them again and retention can go on.
            let idle = matches!(main, Slot::Idle);
            if idle && subscription.scanned() > saved && now - saved_at >= micros(IDLE_CURSOR_EVERY)
            {
                self.save(
                    &Settled {
                        cursor: Some(subscription.scanned()),
                        ..Settled::default()
                    },
                    now,
                )
                .await;
                (saved, saved_at) = (subscription.scanned(), now);
            }
            self.metrics.lag(
                &self.service,
                self.tail.head() - subscription.scanned(),
                subscription.waiting(),
            );

            let wake = self.wake_at(&subscription, &main, &alone, now);
            let landed = tokio::select! {
                landed = flights.next(), if !flights.is_empty() => landed,
                () = self.bell.notified(), if idle && !closing => None,
                () = self.clock.sleep_until(wake, IDLE_CURSOR_EVERY), if !closing => None,
                _ = self.shutdown.changed(), if !closing => None,
            };
            let Some(landed) = landed else { continue };
            let lane = landed.lane;
            let (slot, cursor) = self.land(&mut subscription, landed, &mut reach).await;
            if let Some(cursor) = cursor {
                (saved, saved_at) = (cursor, self.clock.now());
            }
            match lane {
                Lane::Batch => main = slot,
                Lane::Alone => alone = slot,
            }
        }
    }

    async fn load(&mut self) -> Option<(i64, Vec<events::RetryRow>)> {
        loop {
            let service = self.service.clone();
            match self.store.read(move |c| events::load(c, &service)).await {
                Ok(loaded) => return Some(loaded),
                Err(StoreError::Closed) => return None,
                Err(error) => {
                    tracing::warn!(subscriber = &*self.service, %error, "the cursor cannot be read; trying again");
                    tokio::time::sleep(UNAVAILABLE_BACKOFF_MAX).await;
                }
            }
        }
    }

    fn wake_at(&self, subscription: &Subscription, main: &Slot, alone: &Slot, now: i64) -> i64 {
        // An event that is due already and was not sent could not be read: a moment later, then.
        let soon = now + micros(UNAVAILABLE_BACKOFF_MIN);
        let lane = |slot: &Slot, alone| match slot {
            Slot::Held(_, at) => Some(*at),
            Slot::Idle => subscription
                .next_due(alone)
                .map(|at| if at <= now { soon } else { at }),
            Slot::Flying => None,
        };
        [lane(main, false), lane(alone, true)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(i64::MAX)
    }

    /// The next batch; `None` when there is nothing to deliver.
    async fn next_batch(
        &self,
        subscription: &mut Subscription,
        topics: &str,
        now: i64,
    ) -> Result<Option<Batch>, StoreError> {
        let seqs = subscription.due(now, self.batch);
        let mut due = self.events_by_seq(subscription, seqs).await?;
        let mut bytes = 0;
        let mut fits = |event: &Arc<LogEvent>| {
            bytes += event.envelope.len() + 1;
            bytes <= DELIVERY_BYTES_MAX
        };
        // The first always goes: the relay let nothing larger than a delivery pass.
        let whole = due
            .iter()
            .take_while(|e| fits(e))
            .count()
            .max(usize::from(!due.is_empty()));
        let full = whole < due.len();
        due.truncate(whole);
        let room = self.batch - due.len().min(self.batch);
        if full || room == 0 || !subscription.takes_more() {
            return Ok((!due.is_empty()).then(|| subscription.batch(due, Vec::new(), None, now)));
        }
        let (mut new, mut to) = self.scan(subscription.scanned(), topics, room).await?;
        let whole = new.iter().take_while(|e| fits(e)).count();
        let whole = if due.is_empty() { whole.max(1) } else { whole };
        if whole < new.len() {
            to = new[whole].seq - 1;
            new.truncate(whole);
        }
        if due.is_empty() && new.is_empty() {
            // Only other subscribers' events: passed in memory, written down now and then.
            subscription.batch(due, new, Some(to), now);
            return Ok(None);
        }
        Ok(Some(subscription.batch(due, new, Some(to), now)))
    }

    /// Reads on from `after`: the events found, and how far there are no others.
    async fn scan(
        &self,
        mut after: i64,
        topics: &str,
        room: usize,
    ) -> Result<(Vec<Arc<LogEvent>>, i64), StoreError> {
        loop {
            let floor = match self.tail.read(&self.topics, after, room) {
                Found::Events(events, to) => return Ok((events, to)),
                Found::Behind(floor) => floor,
            };
            let up_to = floor.min(after + SCAN_ROWS_MAX);
            let topics = topics.to_owned();
            let found = self
                .store
                .read(move |c| events::scan(c, &topics, after, up_to, room))
                .await?;
            if let Some(last) = found.last() {
                let to = if found.len() == room { last.seq } else { up_to };
                return Ok((found, to));
            }
            after = up_to;
        }
    }

    async fn next_suspect(&self, subscription: &mut Subscription, now: i64) -> Option<Batch> {
        let seq = subscription.suspect(now)?;
        match self.events_by_seq(subscription, vec![seq]).await {
            Ok(mut events) => Some(subscription.send_alone(events.pop()?)),
            Err(error) => {
                tracing::warn!(subscriber = &*self.service, %error, "an event cannot be read; trying again");
                None
            }
        }
    }

    async fn events_by_seq(
        &self,
        subscription: &mut Subscription,
        seqs: Vec<i64>,
    ) -> Result<Vec<Arc<LogEvent>>, StoreError> {
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let list = serde_json::json!(seqs).to_string();
        let found = self.store.read(move |c| events::by_seq(c, &list)).await?;
        if found.len() < seqs.len() {
            // Retention keeps what somebody waits for, so this is a damaged or edited file.
            let there: HashSet<i64> = found.iter().map(|e| e.seq).collect();
            for seq in seqs.into_iter().filter(|seq| !there.contains(seq)) {
                tracing::error!(
                    subscriber = &*self.service,
                    seq,
                    "an event that waits for delivery is not in the log any more"
                );
                subscription.lose(seq);
            }
        }
        Ok(found)
    }

    /// Settles what came back; returns what its lane does next and the cursor when it moved.
    async fn land(
        &self,
        subscription: &mut Subscription,
        landed: Landed,
        reach: &mut Reach,
    ) -> (Slot, Option<i64>) {
        let Landed {
            batch,
            answer,
            took,
            ..
        } = landed;
        let now = self.clock.now();
        let settled = match answer {
            Ok(verdicts) => {
                reach.reached();
                self.metrics.delivery(&self.service, took);
                subscription.settle(batch, &verdicts, now, random())
            }
            Err(Whole::Unavailable(problem)) => {
                let wait = reach.unreachable(&problem);
                return (Slot::Held(batch, now + micros(wait)), None);
            }
            Err(Whole::Failed(verdict)) => {
                reach.reached();
                let (events, error) = (batch.events.len(), verdict.error.clone());
                tracing::warn!(
                    subscriber = &*self.service,
                    events,
                    status = verdict.status,
                    error,
                    "a delivery failed as a whole"
                );
                match subscription.failed_whole(batch, verdict, now, random()) {
                    AfterFailure::Again(batch, wait) => {
                        return (Slot::Held(batch, now + micros(wait)), None);
                    }
                    AfterFailure::Settled(settled) => settled,
                }
            }
        };
        if let Some(relay) = &self.relay {
            relay.notify_one();
        }
        self.save(&settled, now).await;
        self.metrics.events(
            &self.service,
            "delivered",
            settled.acknowledged.len() as u64,
        );
        self.metrics
            .events(&self.service, "retried", settled.retried);
        self.metrics.events(&self.service, "dead", settled.dead);
        (Slot::Idle, settled.cursor)
    }

    /// Writes a settlement, as often as it takes: memory is ahead of the file until it succeeds, and
    /// after a crash the file's older state only means that events are delivered again.
    async fn save(&self, settled: &Settled, now: i64) {
        let mut failures = 0;
        loop {
            let (service, cursor, changes) = (
                self.service.clone(),
                settled.cursor,
                settled.changes.clone(),
            );
            let saved = self.store.write(Durability::Normal, move |c| {
                events::settle(c, &service, cursor, &changes, now)
            });
            match saved.await {
                Ok(()) | Err(StoreError::Closed) => return,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(subscriber = &*self.service, %error, "the cursor cannot be written; trying again");
                    if *self.shutdown.borrow() && failures > 3 {
                        return;
                    }
                    let (min, max) = (UNAVAILABLE_BACKOFF_MIN, UNAVAILABLE_BACKOFF_MAX);
                    tokio::time::sleep(backoff(failures, min, max, EVENT_JITTER, random())).await;
                }
            }
        }
    }
}

/// Sends a batch on its way.
pub(crate) fn fly(
    flights: &Flights,
    lane: Lane,
    batch: Batch,
    door: &Arc<dyn Door>,
    service: &Arc<str>,
) -> Slot {
    let (service, door) = (service.clone(), door.clone());
    flights.push(
        async move {
            hold(Step::EventsUndelivered, &service).await;
            let started = Instant::now();
            let answer = deliver(&*door, &service, &batch.events).await;
            if answer.is_ok() {
                hold(Step::EventsUnsettled, &service).await;
            }
            Landed {
                lane,
                batch,
                answer,
                took: started.elapsed(),
            }
        }
        .boxed(),
    );
    Slot::Flying
}

/// Whether a subscriber can be reached, said once when it changes.
pub(crate) struct Reach {
    service: Arc<str>,
    who: String,
    metrics: Arc<Metrics>,
    failures: u32,
}

impl Reach {
    pub(crate) fn new(service: Arc<str>, metrics: Arc<Metrics>) -> Reach {
        Reach {
            who: format!("{service} (events)"),
            service,
            metrics,
            failures: 0,
        }
    }

    /// It answered.
    pub(crate) fn reached(&mut self) {
        if self.failures > 0 {
            tracing::info!(
                subscriber = &*self.service,
                "the subscriber can be reached again"
            );
            self.failures = 0;
            self.metrics.reachable(&self.who, None);
        }
    }

    /// It did not; returns how long to wait.
    pub(crate) fn unreachable(&mut self, problem: &str) -> Duration {
        if self.failures == 0 {
            tracing::warn!(
                subscriber = &*self.service,
                problem,
                "the subscriber cannot be reached; its events wait"
            );
        }
        self.failures += 1;
        self.metrics.reachable(&self.who, Some(problem));
        let (min, max) = (UNAVAILABLE_BACKOFF_MIN, UNAVAILABLE_BACKOFF_MAX);
        backoff(self.failures, min, max, EVENT_JITTER, random())
    }
}

#[derive(Deserialize)]
struct Traced {
    traceparent: Option<String>,
}

/// Sends events and reads the answer for each of them.
async fn deliver(
    door: &dyn Door,
    service: &str,
    events: &[Arc<LogEvent>],
) -> Result<Vec<Verdict>, Whole> {
    let mut body =
        String::with_capacity(events.iter().map(|e| e.envelope.len() + 1).sum::<usize>() + 1);
    for event in events {
        body.push(if body.is_empty() { '[' } else { ',' });
        body.push_str(&event.envelope);
    }
    body.push(']');
    // A batch belongs to many traces; each event carries its own.
    let traceparent = match events {
        [one] => serde_json::from_str::<Traced>(&one.envelope)
            .ok()
            .and_then(|t| t.traceparent),
        _ => None,
    };
    let answer = door.deliver(Delivery {
        service,
        path: EVENTS_PATH,
        content_type: CLOUDEVENTS_BATCH,
        body: body.into(),
        traceparent,
        deadline: EVENT_DEADLINE,
    });
    let (status, body) = timed(EVENT_DEADLINE, answer).await?;
    if status != 200 {
        return Err(whole(status, &body));
    }
    let answers: EventAnswers = serde_json::from_slice(&body).map_err(|e| {
        Whole::Failed(Verdict {
            status: 502,
            error: format!("the answer is no list of results: {e}"),
        })
    })?;
    let mut by_id: HashMap<String, Verdict> = answers
        .results
        .into_iter()
        .map(|a| {
            (
                a.id,
                Verdict {
                    status: a.status,
                    error: a.error,
                },
            )
        })
        .collect();
    let missing = || Verdict {
        status: 502,
        error: "the answer leaves this event out".into(),
    };
    let verdicts: Vec<Verdict> = events
        .iter()
        .map(|e| by_id.remove(&e.id).unwrap_or_else(missing))
        .collect();
    Ok(verdicts)
}

/// Delivers a dead letter's event again, by itself.
///
/// # Errors
/// Why it was not taken.
pub async fn redeliver(door: &dyn Door, letter: &DeadLetterRow) -> Result<(), String> {
    let event = LogEvent {
        seq: letter.seq,
        id: letter.id.clone(),
        topic: letter.name.clone(),
        key: letter.key.clone(),
        envelope: letter.envelope.clone(),
    };
    let verdict = match deliver(door, &letter.target, &[Arc::new(event)]).await {
        Ok(verdicts) => verdicts.into_iter().next(),
        Err(Whole::Failed(verdict)) => Some(verdict),
        Err(Whole::Unavailable(problem)) => return Err(problem),
    };
    match verdict {
        Some(Verdict { status, .. }) if disposition(status) == Disposition::Acknowledge => Ok(()),
        Some(Verdict { status, error }) => Err(format!("{status} {error}")),
        None => Err("no answer".into()),
    }
}

/// Holds the door to its deadline.
async fn timed(
    deadline: Duration,
    answer: BoxFuture<'_, Result<(u16, Bytes), DoorError>>,
) -> Result<(u16, Bytes), Whole> {
    let answer = tokio::time::timeout(deadline, answer).await;
    answer
        .unwrap_or(Err(DoorError::Timeout(deadline)))
        .map_err(|error| match error {
            DoorError::Unavailable(problem) => Whole::Unavailable(problem),
            DoorError::Failed(error) => Whole::Failed(Verdict { status: 502, error }),
            DoorError::Timeout(_) => Whole::Failed(Verdict {
                status: 504,
                error: error.to_string(),
            }),
        })
}

/// What a status that covers the whole delivery means.
fn whole(status: u16, body: &[u8]) -> Whole {
    let text = String::from_utf8_lossy(body);
    let error = format!(
        "the whole delivery was answered {status}: {}",
        cut(text.trim())
    );
    match not_taken(status) {
        true => Whole::Unavailable(error),
        false => Whole::Failed(Verdict { status, error }),
    }
}
