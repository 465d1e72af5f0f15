//! Topics → a component: one task per subscriber, with the rules of `subscription` and the two lanes
//! of `delivery`. What waits is kept in memory, and the committed offset stays below it.

use std::{
    collections::HashSet,
    sync::{Arc, mpsc::SyncSender},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    Bus,
    letters::Letter,
    member::{Member, Notice},
    message::Message,
    producer::Refused,
    window::{Place, Window},
};
use crate::{
    backoff::{backoff, random},
    clock::{Clock, micros},
    delivery::{Flights, Landed, Lane, Reach, Slot, Whole, fly},
    door::Door,
    limits::{
        DELIVERY_BYTES_MAX, EVENT_JITTER, IDLE_CURSOR_EVERY, KAFKA_CLOSE_WAIT, KAFKA_LEAVE_WAIT,
        UNAVAILABLE_BACKOFF_MAX, UNAVAILABLE_BACKOFF_MIN,
    },
    metrics::Metrics,
    store::events::{Change, LogEvent},
    subscription::{AfterFailure, Batch, Settled, Subscription},
};

/// One subscriber's deliverer.
pub(crate) struct Subscriber {
    pub(crate) service: Arc<str>,
    pub(crate) kinds: Vec<String>,
    pub(crate) batch: usize,
    pub(crate) bus: Arc<Bus>,
    pub(crate) door: Arc<dyn Door>,
    /// Its own relay: what it was given usually makes it write to its outbox.
    pub(crate) relay: Option<Arc<Notify>>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Dead letters on their way; each ends with its event's number.
type Burials = FuturesUnordered<BoxFuture<'static, i64>>;

/// Everything a subscriber knows about its events.
struct Work {
    window: Window,
    subscription: Subscription,
    main: Slot,
    alone: Slot,
    /// Numbers of events in a delivery or on their way to the dead letters.
    under_way: HashSet<i64>,
    flights: Flights,
    burials: Burials,
    /// Whoever waits for leaving partitions.
    leaving: Vec<SyncSender<()>>,
}

impl Subscriber {
    /// Runs until shutdown; deliveries under way are finished, and what is settled is committed.
    pub(crate) async fn run(mut self) {
        let mut ready = self.bus.ready();
        tokio::select! {
            _ = ready.wait_for(|ready| *ready) => {}
            _ = self.shutdown.wait_for(|stop| *stop) => return,
        }
        let Some((member, mut inbox)) = self.join().await else {
            return;
        };
        let mut work = Work {
            window: Window::default(),
            subscription: Subscription::new(0, Vec::new()),
            main: Slot::Idle,
            alone: Slot::Idle,
            under_way: HashSet::new(),
            flights: Flights::new(),
            burials: Burials::new(),
            leaving: Vec::new(),
        };
        let mut reach = Reach::new(self.service.clone(), self.metrics.clone());
        let mut end = None;
        loop {
            let closing = *self.shutdown.borrow();
            let now = self.clock.now();
            // First of all: of a partition that is leaving nothing more is sent.
            self.hand_on(&mut work, &member);
            if closing {
                let end = *end.get_or_insert_with(|| now + micros(KAFKA_CLOSE_WAIT));
                let buried = work.burials.is_empty() || now >= end;
                if work.flights.is_empty() && buried {
                    break;
                }
            } else {
                self.take_off(&mut work, now);
            }
            self.metrics.kafka_held(
                &self.service,
                work.window.len(),
                work.subscription.waiting(),
            );

            let wake = work.wake_at(now).min(end.unwrap_or(i64::MAX));
            tokio::select! {
                Some(landed) = work.flights.next() => {
                    self.land(&mut work, &member, &mut reach, landed);
                }
                Some(seq) = work.burials.next() => {
                    work.under_way.remove(&seq);
                    work.settle(&member, seq);
                }
                notice = inbox.recv() => {
                    // The thread ends only after this task, or with it.
                    let Some(notice) = notice else { break };
                    self.note(&mut work, &member, notice);
                    while let Ok(notice) = inbox.try_recv() {
                        self.note(&mut work, &member, notice);
                    }
                }
                () = self.clock.sleep_until(wake, IDLE_CURSOR_EVERY) => {}
                _ = self.shutdown.changed(), if !closing => {}
            }
        }
        self.hand_on(&mut work, &member);
        // Whoever still waits in a rebalance need not wait any longer.
        drop(work);
        member.stop(KAFKA_LEAVE_WAIT).await;
    }

    /// Becomes a member of the service's group.
    async fn join(&mut self) -> Option<(Member, mpsc::UnboundedReceiver<Notice>)> {
        loop {
            let started = Member::start(
                self.bus.config.clone(),
                self.service.clone(),
                self.kinds.clone(),
                self.metrics.clone(),
            );
            match started {
                Ok(started) => return Some(started),
                Err(error) => {
                    tracing::warn!(subscriber = &*self.service, %error, "no thread for a consumer of Kafka; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(UNAVAILABLE_BACKOFF_MAX) => {}
                _ = self.shutdown.wait_for(|stop| *stop) => return None,
            }
        }
    }

    /// Sends what may be sent now.
    fn take_off(&self, work: &mut Work, now: i64) {
        work.main = match std::mem::take(&mut work.main) {
            Slot::Held(batch, at) if at <= now => self.send(work, Lane::Batch, batch),
            Slot::Idle => loop {
                match work.next_batch(self.batch, now) {
                    // All of it waits behind others of its key.
                    Some(batch) if batch.events.is_empty() => {
                        work.subscription.settle(batch, &[], now, 0.0);
                    }
                    Some(batch) => break self.send(work, Lane::Batch, batch),
                    None => break Slot::Idle,
                }
            },
            other => other,
        };
        work.alone = match std::mem::take(&mut work.alone) {
            Slot::Held(batch, at) if at <= now => self.send(work, Lane::Alone, batch),
            Slot::Idle => match work.next_suspect(now) {
                Some(batch) => self.send(work, Lane::Alone, batch),
                None => Slot::Idle,
            },
            other => other,
        };
    }

    fn send(&self, work: &mut Work, lane: Lane, batch: Batch) -> Slot {
        work.under_way.extend(batch.events.iter().map(|e| e.seq));
        fly(&work.flights, lane, batch, &self.door, &self.service)
    }

    /// Settles what came back.
    fn land(&self, work: &mut Work, member: &Member, reach: &mut Reach, landed: Landed) {
        let Landed {
            lane,
            mut batch,
            answer,
            took,
        } = landed;
        let now = self.clock.now();
        let ours: Vec<bool> = batch
            .events
            .iter()
            .map(|e| work.window.get(e.seq).is_some())
            .collect();
        for event in &batch.events {
            work.under_way.remove(&event.seq);
        }
        // What another member has by now is its to settle.
        let mut keep = ours.iter();
        batch
            .events
            .retain(|_| keep.next().is_some_and(|ours| *ours));
        let slot = match answer {
            Err(Whole::Unavailable(problem)) => {
                let wait = reach.unreachable(&problem);
                match batch.events.is_empty() {
                    true => Slot::Idle,
                    false => Slot::Held(batch, now + micros(wait)),
                }
            }
            Ok(verdicts) => {
                reach.reached();
                self.metrics.delivery(&self.service, took);
                let mut keep = ours.iter();
                let mut verdicts = verdicts;
                verdicts.retain(|_| keep.next().is_some_and(|ours| *ours));
                let settled = work.subscription.settle(batch, &verdicts, now, random());
                self.settled(work, member, settled);
                Slot::Idle
            }
            Err(Whole::Failed(_)) if batch.events.is_empty() => {
                reach.reached();
                Slot::Idle
            }
            Err(Whole::Failed(verdict)) => {
                reach.reached();
                tracing::warn!(
                    subscriber = &*self.service,
                    events = batch.events.len(),
                    status = verdict.status,
                    error = verdict.error,
                    "a delivery failed as a whole"
                );
                match work
                    .subscription
                    .failed_whole(batch, verdict, now, random())
                {
                    AfterFailure::Again(batch, wait) => Slot::Held(batch, now + micros(wait)),
                    AfterFailure::Settled(settled) => {
                        self.settled(work, member, settled);
                        Slot::Idle
                    }
                }
            }
        };
        match lane {
            Lane::Batch => work.main = slot,
            Lane::Alone => work.alone = slot,
        }
    }

    fn settled(&self, work: &mut Work, member: &Member, settled: Settled) {
        if let Some(relay) = &self.relay {
            relay.notify_one();
        }
        let count = settled.acknowledged.len() as u64;
        for seq in settled.acknowledged {
            work.settle(member, seq);
        }
        for change in settled.changes {
            // What waits is in the subscription, and what is acknowledged is settled above.
            if let Change::Dead {
                seq,
                attempts,
                error,
            } = change
            {
                self.bury(work, seq, attempts, error);
            }
        }
        self.metrics.events(&self.service, "delivered", count);
        self.metrics
            .events(&self.service, "retried", settled.retried);
    }

    /// Sends an event to the dead letters. It is settled once the letter is written.
    fn bury(&self, work: &mut Work, seq: i64, attempts: u32, error: String) {
        let Some(held) = work.window.get(seq) else {
            return;
        };
        let mut message = held.message.clone();
        let (mut id, mut traceparent) = (String::new(), None);
        if let Some(event) = &held.event {
            id.clone_from(&event.id);
            traceparent = serde_json::from_str::<Traced>(&event.envelope)
                .ok()
                .and_then(|t| t.traceparent);
            message
                .value
                .get_or_insert_with(|| event.envelope.clone().into_bytes());
        }
        tracing::error!(
            subscriber = &*self.service,
            topic = message.topic,
            partition = message.partition,
            offset = message.offset,
            id,
            attempts,
            error,
            "an event is a dead letter"
        );
        let mut letter = Letter {
            message,
            cut: false,
            id,
            traceparent,
            error,
            attempts,
        };
        let (service, metrics) = (self.service.clone(), self.metrics.clone());
        let (bus, topic) = (
            self.bus.clone(),
            self.bus.config.dead_letters(&self.service),
        );
        work.under_way.insert(seq);
        work.burials.push(
            async move {
                let mut failures = 0;
                while let Err(refused) = bus.producer.put(letter.outgoing(&topic)).await {
                    let error = match refused {
                        // The topic it was on takes larger messages than this one.
                        Refused::Itself(_) if letter.cut() => continue,
                        Refused::Itself(error) | Refused::Now(error) => error,
                    };
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(
                            subscriber = &*service,
                            topic,
                            error,
                            "a dead letter cannot be written; the offset waits for it"
                        );
                    }
                    let (min, max) = (UNAVAILABLE_BACKOFF_MIN, UNAVAILABLE_BACKOFF_MAX);
                    tokio::time::sleep(backoff(failures, min, max, EVENT_JITTER, random())).await;
                }
                metrics.events(&service, "dead", 1);
                seq
            }
            .boxed(),
        );
    }

    /// Takes in what the member's thread says.
    fn note(&self, work: &mut Work, member: &Member, notice: Notice) {
        match notice {
            Notice::Assigned(places) => {
                for (place, epoch) in places {
                    work.window.assign(place, epoch);
                }
            }
            Notice::Read(place, message, bytes) => self.read(work, member, place, *message, bytes),
            Notice::Leaving(places, answer) => {
                work.window.leave(&places);
                work.leaving.push(answer);
            }
            Notice::Gone(places) => {
                let gone = work.window.forget(&places);
                work.forget(member, gone);
            }
        }
    }

    fn read(&self, work: &mut Work, member: &Member, place: Place, message: Message, bytes: usize) {
        self.metrics.kafka_read(&self.service, 1);
        let kind = self.bus.config.kind(&message.topic).to_owned();
        let signing_key = self.bus.config.signing_key.as_deref();
        let mut refused = None;
        let taken = work.window.take(place, message, bytes, |seq, message| {
            match message.event(&kind, signing_key) {
                Ok(decoded) => {
                    let envelope = match decoded.envelope {
                        Some(envelope) => envelope,
                        // It was read as text a moment ago.
                        None => String::from_utf8(message.value.take().unwrap_or_default())
                            .unwrap_or_default(),
                    };
                    Some(LogEvent {
                        seq,
                        id: decoded.id,
                        topic: kind.clone(),
                        key: decoded.key,
                        envelope,
                    })
                }
                Err(error) => {
                    refused = Some(error);
                    None
                }
            }
        });
        match (taken, refused) {
            (None, _) => member.load.take_off(bytes),
            (Some(seq), Some(error)) => self.bury(work, seq, 0, error),
            (Some(_), None) => {}
        }
    }

    /// Tells the member's thread how far its partitions are settled, and answers whoever waits for
    /// partitions to leave.
    fn hand_on(&self, work: &mut Work, member: &Member) {
        if !work.leaving.is_empty() {
            let gone = work.window.drop_leaving(&work.under_way);
            work.forget(member, gone);
        }
        for (place, epoch, offset) in work.window.settled() {
            member.offsets.settled(&place, epoch, offset);
        }
        if !work.leaving.is_empty() && !work.window.leaves_something() {
            for answer in work.leaving.drain(..) {
                // The thread may have stopped waiting.
                let _ = answer.try_send(());
            }
        }
    }
}

impl Work {
    /// The next batch; `None` when there is nothing to deliver.
    fn next_batch(&mut self, limit: usize, now: i64) -> Option<Batch> {
        let due = self.subscription.due(now, limit);
        let due: Vec<Arc<LogEvent>> = due
            .into_iter()
            .filter_map(|seq| self.window.get(seq)?.event.clone())
            .collect();
        let mut fill = Fill::default();
        let whole = due.iter().take_while(|e| fill.takes(e)).count();
        let full = whole < due.len();
        let due: Vec<_> = due.into_iter().take(whole).collect();
        let room = limit - due.len().min(limit);
        if full || room == 0 || !self.subscription.takes_more() {
            return (!due.is_empty()).then(|| self.subscription.batch(due, Vec::new(), None, now));
        }
        let new = self.window.after(self.subscription.scanned(), room);
        let whole = new.iter().take_while(|e| fill.takes(e)).count();
        let new: Vec<_> = new.into_iter().take(whole).collect();
        if due.is_empty() && new.is_empty() {
            return None;
        }
        let to = new.last().map(|event| event.seq);
        Some(self.subscription.batch(due, new, to, now))
    }

    fn next_suspect(&mut self, now: i64) -> Option<Batch> {
        let seq = self.subscription.suspect(now)?;
        let event = self.window.get(seq)?.event.clone()?;
        Some(self.subscription.send_alone(event))
    }

    fn wake_at(&self, now: i64) -> i64 {
        let soon = now + micros(UNAVAILABLE_BACKOFF_MIN);
        let lane = |slot: &Slot, alone| match slot {
            Slot::Held(_, at) => Some(*at),
            Slot::Idle => self
                .subscription
                .next_due(alone)
                .map(|at| if at <= now { soon } else { at }),
            Slot::Flying => None,
        };
        let lanes = [lane(&self.main, false), lane(&self.alone, true)];
        lanes.into_iter().flatten().min().unwrap_or(i64::MAX)
    }

    fn settle(&mut self, member: &Member, seq: i64) {
        if let Some(bytes) = self.window.settle(seq) {
            member.load.take_off(bytes);
        }
    }

    /// These events are another member's now.
    fn forget(&mut self, member: &Member, gone: Vec<(i64, usize)>) {
        if gone.is_empty() {
            return;
        }
        for (_, bytes) in &gone {
            member.load.take_off(*bytes);
        }
        let gone: HashSet<i64> = gone.into_iter().map(|(seq, _)| seq).collect();
        self.subscription.forget(&gone);
        for slot in [&mut self.main, &mut self.alone] {
            if let Slot::Held(batch, _) = slot {
                batch.events.retain(|e| !gone.contains(&e.seq));
                if batch.events.is_empty() {
                    *slot = Slot::Idle;
                }
            }
        }
    }
}

/// What fits into one delivery: so many bytes, and each id once. A topic may hold an event twice, and
/// the answers to a batch are told apart by id.
#[derive(Default)]
struct Fill {
    bytes: usize,
    ids: HashSet<String>,
}

impl Fill {
    fn takes(&mut self, event: &LogEvent) -> bool {
        self.bytes += event.envelope.len() + 1;
        // The first always goes: nothing larger than a delivery is read as an event.
        let fits = self.bytes <= DELIVERY_BYTES_MAX || self.ids.is_empty();
        fits && self.ids.insert(event.id.clone())
    }
}

#[derive(Deserialize)]
struct Traced {
    traceparent: Option<String>,
}
