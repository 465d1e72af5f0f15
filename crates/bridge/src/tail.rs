//! The newest events in memory, and who waits for which topic. Subscribers that are up to date are
//! woken by the commit itself and never read the file.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    limits::{TAIL_BYTES_MAX, TAIL_EVENTS_MAX},
    store::events::LogEvent,
};

/// The tail of the log.
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    /// Topic → its subscribers.
    waiting: HashMap<String, Vec<Arc<Notify>>>,
}

struct Inner {
    events: VecDeque<Arc<LogEvent>>,
    bytes: usize,
    /// Every event after this one is in `events`.
    floor: i64,
    /// The newest event.
    head: i64,
}

/// What a subscriber finds after its cursor.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Its events, oldest first, and the seq up to which there are no others of its topics.
    Events(Vec<Arc<LogEvent>>, i64),
    /// It is too far behind: read the file, which holds everything up to this seq.
    Behind(i64),
}

impl Tail {
    pub(crate) fn new(head: i64, waiting: HashMap<String, Vec<Arc<Notify>>>) -> Tail {
        let inner = Inner {
            events: VecDeque::new(),
            bytes: 0,
            floor: head,
            head,
        };
        Tail {
            inner: Mutex::new(inner),
            waiting,
        }
    }

    /// Nothing here can panic half way through a change, so a poisoned lock is still whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in events that were just committed, in order, and wakes their subscribers.
    pub(crate) fn append(&self, events: &[Arc<LogEvent>]) {
        let mut inner = self.lock();
        for event in events {
            inner.head = event.seq;
            inner.bytes += event.envelope.len();
            inner.events.push_back(event.clone());
        }
        while inner.events.len() > TAIL_EVENTS_MAX || inner.bytes > TAIL_BYTES_MAX {
            let Some(oldest) = inner.events.pop_front() else {
                break;
            };
            inner.bytes -= oldest.envelope.len();
            inner.floor = oldest.seq;
        }
        drop(inner);
        let topics: HashSet<&str> = events.iter().map(|e| e.topic.as_str()).collect();
        for waiting in topics
            .iter()
            .filter_map(|topic| self.waiting.get(*topic))
            .flatten()
        {
            waiting.notify_one();
        }
    }

    /// Up to `limit` events after `after` of the topics.
    pub(crate) fn read(&self, topics: &HashSet<String>, after: i64, limit: usize) -> Found {
        let inner = self.lock();
        if after < inner.floor {
            return Found::Behind(inner.floor);
        }
        let start = inner.events.partition_point(|e| e.seq <= after);
        let mut found = Vec::new();
        for event in inner.events.range(start..) {
            if topics.contains(&event.topic) {
                if found.len() == limit {
                    return Found::Events(found, event.seq - 1);
                }
                found.push(event.clone());
            }
        }
        Found::Events(found, inner.head.max(after))
    }

    /// The newest event's seq.
    pub(crate) fn head(&self) -> i64 {
        self.lock().head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: i64, topic: &str) -> Arc<LogEvent> {
        Arc::new(LogEvent {
            seq,
            id: seq.to_string(),
            topic: topic.into(),
            key: String::new(),
            envelope: "{}".into(),
        })
    }

    fn seqs(found: Found) -> (Vec<i64>, i64) {
        match found {
            Found::Events(events, up_to) => (events.iter().map(|e| e.seq).collect(), up_to),
            Found::Behind(floor) => panic!("behind {floor}"),
        }
    }

    #[test]
    fn a_reader_gets_its_topics_in_order_and_learns_how_far_it_has_read() {
        let tail = Tail::new(10, HashMap::new());
        tail.append(&[
            event(11, "a"),
            event(12, "b"),
            event(13, "a"),
            event(15, "b"),
            event(16, "a"),
        ]);
        let a = HashSet::from(["a".to_owned()]);
        assert_eq!(seqs(tail.read(&a, 10, 10)), (vec![11, 13, 16], 16));
        assert_eq!(
            seqs(tail.read(&a, 10, 2)),
            (vec![11, 13], 15),
            "stops before the third"
        );
        assert_eq!(seqs(tail.read(&a, 16, 2)), (vec![], 16));
        assert_eq!(tail.read(&a, 9, 2), Found::Behind(10));
    }

    #[test]
    fn the_tail_is_bounded_and_says_who_fell_behind() {
        let tail = Tail::new(0, HashMap::new());
        let many: Vec<_> = (1..=TAIL_EVENTS_MAX as i64 + 5)
            .map(|seq| event(seq, "a"))
            .collect();
        tail.append(&many);
        let a = HashSet::from(["a".to_owned()]);
        assert_eq!(tail.read(&a, 4, 1), Found::Behind(5));
        assert_eq!(seqs(tail.read(&a, 5, 1)), (vec![6], 6));
    }
}
