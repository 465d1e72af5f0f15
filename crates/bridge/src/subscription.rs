//! Which events a subscriber gets next and what an answer means: pure, so that its rules are tested
//! with any sequence of answers.
//!
//! Order per key. While an event of a key waits for its next try, later events of that key wait
//! behind it; other keys flow. A batch may hold several events of one key, in order; when one of
//! them is to be retried, the later ones count as not acknowledged whatever was answered for them
//! and come again after it. The component does its part by answering the later ones 409 without an
//! effect; its inbox covers the case that it did not.
//!
//! Whole batches. An answer that covers all events (a trap, a timeout, 5xx) says nothing about any of
//! them. The batch is sent again as it is; after `UNIT_TRIES_MAX` its events become suspects, which
//! travel one by one on a lane of their own while other keys go on in batches.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use innover_contract::event::{Disposition, disposition};

use crate::{
    backoff::backoff,
    clock::micros,
    limits::{
        ERROR_BYTES_MAX, EVENT_BACKOFF_MAX, EVENT_BACKOFF_MIN, EVENT_JITTER, EVENT_TRIES_MAX,
        RETRY_ROWS_MAX, UNIT_TRIES_MAX,
    },
    store::events::{Change, LogEvent, RetryRow},
};

/// What keeps events in order: their key, or nothing at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Order {
    Key(String),
    Free(i64),
}

impl Order {
    fn of(key: &str, seq: i64) -> Order {
        if key.is_empty() {
            Order::Free(seq)
        } else {
            Order::Key(key.to_owned())
        }
    }
}

/// Events that travel together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Oldest first.
    pub(crate) events: Vec<Arc<LogEvent>>,
    /// The cursor once this batch is settled; `None` when it has only events from the retries.
    pub(crate) scanned_to: Option<i64>,
    /// Deliveries that failed as a whole.
    pub(crate) tries: u32,
    /// New events that wait behind others of their key; written when the batch is settled, because
    /// the cursor passes them then.
    queued: Vec<Change>,
}

/// The answer to one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: u16,
    pub(crate) error: String,
}

/// What to write after a delivery, and what to count.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) changes: Vec<Change>,
    pub(crate) cursor: Option<i64>,
    /// Seqs that are acknowledged.
    pub(crate) acknowledged: Vec<i64>,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
}

/// What follows a delivery that failed as a whole.
#[derive(Debug)]
pub(crate) enum AfterFailure {
    /// Send the same batch again after this long.
    Again(Batch, Duration),
    /// Its events are on their own now.
    Settled(Settled),
}

/// One subscriber's place in the log.
#[derive(Debug)]
pub(crate) struct Subscription {
    scanned: i64,
    waiting: BTreeMap<Order, VecDeque<RetryRow>>,
    rows: usize,
    /// The suspect that is under way.
    alone: Option<i64>,
}

impl Subscription {
    /// Continues from what the store holds; `rows` are ordered by seq.
    pub(crate) fn new(cursor: i64, rows: Vec<RetryRow>) -> Subscription {
        let mut subscription = Subscription {
            scanned: cursor,
            waiting: BTreeMap::new(),
            rows: 0,
            alone: None,
        };
        rows.into_iter().for_each(|row| subscription.push(row));
        subscription
    }

    fn push(&mut self, row: RetryRow) {
        self.rows += 1;
        self.waiting
            .entry(Order::of(&row.key, row.seq))
            .or_default()
            .push_back(row);
    }

    /// Where to read on in the log.
    pub(crate) fn scanned(&self) -> i64 {
        self.scanned
    }

    /// Events that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.rows
    }

    /// Whether new events may be read; see `RETRY_ROWS_MAX`.
    pub(crate) fn takes_more(&self) -> bool {
        self.rows < RETRY_ROWS_MAX
    }

    /// Seqs of waiting events that may be delivered together now, oldest first.
    pub(crate) fn due(&self, now: i64, limit: usize) -> Vec<i64> {
        let mut due = Vec::new();
        for rows in self.waiting.values() {
            let Some(head) = rows.front() else { continue };
            if head.alone || head.next_at > now {
                continue;
            }
            due.push(head.seq);
            // Behind a head that was never tried the others were held by an event that is gone now;
            // behind one that failed before they wait until it is through.
            if head.attempts == 0 {
                due.extend(
                    rows.iter()
                        .skip(1)
                        .take_while(|r| r.attempts == 0 && !r.alone)
                        .map(|r| r.seq),
                );
            }
        }
        due.sort_unstable();
        due.truncate(limit);
        due
    }

    /// The suspect that may be delivered by itself now.
    pub(crate) fn suspect(&self, now: i64) -> Option<i64> {
        if self.alone.is_some() {
            return None;
        }
        let heads = self.waiting.values().filter_map(|rows| rows.front());
        heads
            .filter(|r| r.alone && r.next_at <= now)
            .min_by_key(|r| (r.next_at, r.seq))
            .map(|r| r.seq)
    }

    /// Takes a suspect on its lane.
    pub(crate) fn send_alone(&mut self, event: Arc<LogEvent>) -> Batch {
        self.alone = Some(event.seq);
        Batch {
            events: vec![event],
            ..Batch::default()
        }
    }

    /// When the next waiting event of a lane is due; `None` when none waits.
    pub(crate) fn next_due(&self, alone: bool) -> Option<i64> {
        let heads = self.waiting.values().filter_map(|rows| rows.front());
        heads
            .filter(|r| r.alone == alone && Some(r.seq) != self.alone)
            .map(|r| r.next_at)
            .min()
    }

    /// Puts due events (from the retries) and new ones (read up to `scanned_to`) into one batch. It
    /// may come out without events when all new ones have to wait; it is to be settled all the same.
    pub(crate) fn batch(
        &mut self,
        due: Vec<Arc<LogEvent>>,
        new: Vec<Arc<LogEvent>>,
        scanned_to: Option<i64>,
        now: i64,
    ) -> Batch {
        let mut batch = Batch {
            events: due,
            scanned_to,
            ..Batch::default()
        };
        for event in new {
            if self.waiting.contains_key(&Order::of(&event.key, event.seq)) {
                let row = RetryRow {
                    seq: event.seq,
                    key: event.key.clone(),
                    attempts: 0,
                    next_at: now,
                    alone: false,
                    error: String::new(),
                };
                batch.queued.push(Change::Wait(row.clone()));
                self.push(row);
            } else {
                batch.events.push(event);
            }
        }
        if let Some(seq) = scanned_to {
            self.scanned = seq;
        }
        batch
    }

    /// Settles a batch that was answered per event. `verdicts` is parallel to its events.
    pub(crate) fn settle(
        &mut self,
        batch: Batch,
        verdicts: &[Verdict],
        now: i64,
        random: f64,
    ) -> Settled {
        self.settle_as(batch, verdicts, now, random, false)
    }

    fn settle_as(
        &mut self,
        batch: Batch,
        verdicts: &[Verdict],
        now: i64,
        random: f64,
        alone: bool,
    ) -> Settled {
        let mut settled = Settled {
            changes: batch.queued,
            cursor: batch.scanned_to,
            ..Settled::default()
        };
        let mut held: HashSet<Order> = HashSet::new();
        for (event, verdict) in batch.events.iter().zip(verdicts) {
            let order = Order::of(&event.key, event.seq);
            let known = self.row(&order, event.seq).map(|row| row.attempts);
            if held.contains(&order) {
                if known.is_none() {
                    self.wait(&order, event, 0, now, false, "", &mut settled);
                }
                continue;
            }
            let tries = known.unwrap_or(0) + 1;
            match disposition(verdict.status) {
                Disposition::Acknowledge => {
                    settled.acknowledged.push(event.seq);
                    if known.is_some() {
                        self.remove(&order, event.seq);
                        settled.changes.push(Change::Settled { seq: event.seq });
                    }
                }
                Disposition::Retry if tries < EVENT_TRIES_MAX => {
                    let wait = backoff(
                        tries,
                        EVENT_BACKOFF_MIN,
                        EVENT_BACKOFF_MAX,
                        EVENT_JITTER,
                        random,
                    );
                    self.wait(
                        &order,
                        event,
                        tries,
                        now + micros(wait),
                        alone,
                        &verdict.error,
                        &mut settled,
                    );
                    settled.retried += 1;
                    held.insert(order);
                }
                Disposition::Park | Disposition::Retry => {
                    self.remove(&order, event.seq);
                    let error = format!("{} {}", verdict.status, cut(&verdict.error));
                    settled.changes.push(Change::Dead {
                        seq: event.seq,
                        attempts: tries,
                        error,
                    });
                    settled.dead += 1;
                }
            }
        }
        if batch.events.len() == 1 && self.alone == Some(batch.events[0].seq) {
            self.alone = None;
        }
        settled
    }

    /// Decides what follows when a batch failed as a whole with `status` (504 for a timeout, 502 for
    /// a cut connection or an unreadable answer).
    pub(crate) fn failed_whole(
        &mut self,
        mut batch: Batch,
        verdict: Verdict,
        now: i64,
        random: f64,
    ) -> AfterFailure {
        batch.tries += 1;
        if batch.events.len() == 1 {
            return AfterFailure::Settled(self.settle_as(batch, &[verdict], now, random, true));
        }
        // Refused as it is: sending the same again would be refused again.
        let hopeless = disposition(verdict.status) == Disposition::Park || verdict.status == 413;
        if batch.tries < UNIT_TRIES_MAX && !hopeless {
            let wait = backoff(
                batch.tries,
                EVENT_BACKOFF_MIN,
                EVENT_BACKOFF_MAX,
                EVENT_JITTER,
                random,
            );
            return AfterFailure::Again(batch, wait);
        }
        let mut settled = Settled {
            changes: batch.queued,
            cursor: batch.scanned_to,
            ..Settled::default()
        };
        for event in &batch.events {
            let order = Order::of(&event.key, event.seq);
            let before = self.row(&order, event.seq).map_or(0, |row| row.attempts);
            // Each gets at least one try by itself before it may be a dead letter.
            let tries = (before + batch.tries).min(EVENT_TRIES_MAX - 1);
            self.wait(
                &order,
                event,
                tries,
                now,
                true,
                &verdict.error,
                &mut settled,
            );
            settled.retried += 1;
        }
        AfterFailure::Settled(settled)
    }

    fn row(&mut self, order: &Order, seq: i64) -> Option<&mut RetryRow> {
        self.waiting
            .get_mut(order)?
            .iter_mut()
            .find(|r| r.seq == seq)
    }

    #[expect(clippy::too_many_arguments, reason = "one row's columns")]
    fn wait(
        &mut self,
        order: &Order,
        event: &LogEvent,
        attempts: u32,
        next_at: i64,
        alone: bool,
        error: &str,
        settled: &mut Settled,
    ) {
        let row = RetryRow {
            seq: event.seq,
            key: event.key.clone(),
            attempts,
            next_at,
            alone,
            error: cut(error).into(),
        };
        settled.changes.push(Change::Wait(row.clone()));
        match self.row(order, event.seq) {
            Some(known) => *known = row,
            None => self.push(row),
        }
    }

    fn remove(&mut self, order: &Order, seq: i64) {
        let Some(rows) = self.waiting.get_mut(order) else {
            return;
        };
        let before = rows.len();
        rows.retain(|r| r.seq != seq);
        self.rows -= before - rows.len();
        if rows.is_empty() {
            self.waiting.remove(order);
        }
    }

    /// Forgets events that another member of the group delivers now.
    pub(crate) fn forget(&mut self, gone: &HashSet<i64>) {
        for rows in self.waiting.values_mut() {
            rows.retain(|row| !gone.contains(&row.seq));
        }
        self.waiting.retain(|_, rows| !rows.is_empty());
        self.rows = self.waiting.values().map(VecDeque::len).sum();
        self.alone = self.alone.filter(|seq| !gone.contains(seq));
    }

    /// Forgets a waiting event whose text is gone from the log.
    pub(crate) fn lose(&mut self, seq: i64) {
        let order = self
            .waiting
            .iter()
            .find(|(_, rows)| rows.iter().any(|r| r.seq == seq))
            .map(|(o, _)| o.clone());
        if let Some(order) = order {
            self.remove(&order, seq);
        }
    }
}

/// An error text as it is stored.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
