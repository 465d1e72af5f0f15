//! Any sequence of answers, landings in any order, crashes at any time: each event is acknowledged
//! once or a dead letter, and never before an earlier one of its key that is neither.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The batch lands and its events are answered with these statuses, over and over.
    Answer(Vec<u16>),
    /// The batch fails as a whole.
    Whole(u16),
    /// The suspect lands so.
    Alone(u16),
    AloneWhole(u16),
    /// The process ends and starts again.
    Crash,
    /// Time passes.
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let status = || prop_oneof![4 => Just(200_u16), 2 => Just(409), 1 => Just(500), 1 => Just(422)];
    let whole = || prop_oneof![3 => Just(500_u16), 1 => Just(504), 1 => Just(400)];
    prop_oneof![
        6 => prop::collection::vec(status(), 1..6).prop_map(Step::Answer),
        2 => whole().prop_map(Step::Whole),
        3 => status().prop_map(Step::Alone),
        1 => whole().prop_map(Step::AloneWhole),
        1 => Just(Step::Crash),
        3 => (0..100_000_000_i64).prop_map(Step::Wait),
    ]
}

/// A log, what the store would hold, and the lanes.
struct World {
    log: Vec<Arc<LogEvent>>,
    cursor: i64,
    rows: BTreeMap<i64, RetryRow>,
    acknowledged: Vec<i64>,
    dead: BTreeMap<i64, u32>,
    subscription: Subscription,
    main: Option<Batch>,
    alone: Option<Batch>,
    now: i64,
}

impl World {
    fn new(keys: &[u8]) -> World {
        let log = keys.iter().zip(1..).map(|(key, seq)| {
            let key = if *key == 0 {
                String::new()
            } else {
                format!("k{key}")
            };
            Arc::new(LogEvent {
                seq,
                id: seq.to_string(),
                topic: "t".into(),
                key,
                envelope: "{}".into(),
            })
        });
        World {
            log: log.collect(),
            cursor: 0,
            rows: BTreeMap::new(),
            acknowledged: Vec::new(),
            dead: BTreeMap::new(),
            subscription: Subscription::new(0, Vec::new()),
            main: None,
            alone: None,
            now: 0,
        }
    }

    fn event(&self, seq: i64) -> Arc<LogEvent> {
        self.log[usize::try_from(seq).unwrap() - 1].clone()
    }

    /// What the delivery loop does before it waits.
    fn depart(&mut self) {
        if self.main.is_none() {
            let due: Vec<_> = self
                .subscription
                .due(self.now, 4)
                .into_iter()
                .map(|s| self.event(s))
                .collect();
            let new: Vec<_> = self
                .log
                .iter()
                .filter(|e| e.seq > self.subscription.scanned())
                .take(4 - due.len())
                .cloned()
                .collect();
            let to = new.last().map(|e| e.seq);
            if !due.is_empty() || !new.is_empty() {
                let batch = self.subscription.batch(due, new, to, self.now);
                match batch.events.is_empty() {
                    true => {
                        let settled = self.subscription.settle(batch, &[], self.now, 0.5);
                        self.write(settled);
                    }
                    false => self.main = Some(batch),
                }
            }
        }
        if self.alone.is_none()
            && let Some(seq) = self.subscription.suspect(self.now)
        {
            let event = self.event(seq);
            self.alone = Some(self.subscription.send_alone(event));
        }
        let both = |b: &Option<Batch>| {
            b.iter()
                .flat_map(|b| &b.events)
                .map(|e| e.key.clone())
                .collect::<HashSet<_>>()
        };
        let shared: Vec<_> = both(&self.main)
            .intersection(&both(&self.alone))
            .filter(|k| !k.is_empty())
            .cloned()
            .collect();
        assert_eq!(shared, Vec::<String>::new(), "a key is on one lane only");
    }

    fn land(&mut self, lane: bool, statuses: &[u16]) {
        let Some(batch) = (if lane {
            self.main.take()
        } else {
            self.alone.take()
        }) else {
            return;
        };
        let verdicts: Vec<_> = (0..batch.events.len())
            .map(|n| Verdict {
                status: statuses[n % statuses.len()],
                error: "as told".into(),
            })
            .collect();
        let settled = self.subscription.settle(batch, &verdicts, self.now, 0.5);
        self.write(settled);
    }

    fn fail(&mut self, lane: bool, status: u16) {
        let Some(batch) = (if lane {
            self.main.take()
        } else {
            self.alone.take()
        }) else {
            return;
        };
        let verdict = Verdict {
            status,
            error: "all of it".into(),
        };
        match self
            .subscription
            .failed_whole(batch, verdict, self.now, 0.5)
        {
            AfterFailure::Again(batch, _) => self.main = Some(batch),
            AfterFailure::Settled(settled) => self.write(settled),
        }
    }

    /// One commit.
    fn write(&mut self, settled: Settled) {
        for change in settled.changes {
            match change {
                Change::Wait(row) => drop(self.rows.insert(row.seq, row)),
                Change::Settled { seq } => drop(self.rows.remove(&seq)),
                Change::Dead { seq, attempts, .. } => {
                    self.rows.remove(&seq);
                    assert!(
                        self.dead.insert(seq, attempts).is_none(),
                        "{seq} died twice"
                    );
                    assert!(
                        !self.acknowledged.contains(&seq),
                        "{seq} died after it was acknowledged"
                    );
                }
            }
        }
        if let Some(cursor) = settled.cursor {
            assert!(cursor >= self.cursor, "the cursor went back");
            self.cursor = cursor;
        }
        for seq in settled.acknowledged {
            assert!(
                !self.acknowledged.contains(&seq),
                "{seq} was acknowledged twice"
            );
            assert!(
                !self.dead.contains_key(&seq),
                "{seq} was acknowledged after it died"
            );
            let key = self.event(seq).key.clone();
            for earlier in self
                .log
                .iter()
                .filter(|e| e.seq < seq && !key.is_empty() && e.key == key)
            {
                assert!(
                    self.acknowledged.contains(&earlier.seq)
                        || self.dead.contains_key(&earlier.seq),
                    "{seq} was acknowledged before {}",
                    earlier.seq
                );
            }
            self.acknowledged.push(seq);
        }
    }

    fn crash(&mut self) {
        (self.main, self.alone) = (None, None);
        self.subscription = Subscription::new(self.cursor, self.rows.values().cloned().collect());
    }

    fn finished(&self) -> bool {
        self.acknowledged.len() + self.dead.len() == self.log.len()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_acknowledged_or_dead_once_and_in_order_per_key(
        keys in prop::collection::vec(0_u8..4, 1..24),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(&keys);
        for step in steps {
            world.depart();
            match step {
                Step::Answer(statuses) => world.land(true, &statuses),
                Step::Whole(status) => world.fail(true, status),
                Step::Alone(status) => world.land(false, &[status]),
                Step::AloneWhole(status) => world.fail(false, status),
                Step::Crash => world.crash(),
                Step::Wait(micros) => world.now += micros,
            }
        }
        // From here everything succeeds, and it must come to an end.
        for _ in 0..1_000 {
            if world.finished() {
                break;
            }
            world.depart();
            world.land(true, &[200]);
            world.land(false, &[200]);
            world.now += 300_000_000;
        }
        prop_assert!(world.finished(), "{} acknowledged, {} dead", world.acknowledged.len(), world.dead.len());
        prop_assert!(world.rows.is_empty() && world.subscription.waiting() == 0);
        prop_assert_eq!(world.cursor, world.log.len() as i64);
        prop_assert!(world.dead.values().all(|tries| *tries <= EVENT_TRIES_MAX));
    }

    #[test]
    fn an_event_dies_after_exactly_25_tries(key in 0_u8..2) {
        let mut world = World::new(&[key]);
        let mut tries = 0;
        while !world.finished() {
            world.depart();
            if world.main.is_some() {
                tries += 1;
            }
            world.land(true, &[409]);
            world.now += 400_000_000;
        }
        prop_assert_eq!((tries, world.dead.get(&1).copied()), (25, Some(25)));
    }
}

#[test]
fn what_is_forgotten_neither_waits_nor_holds_up_its_key() {
    let event = |seq: i64, key: &str| {
        Arc::new(LogEvent {
            seq,
            id: seq.to_string(),
            topic: "t".into(),
            key: key.into(),
            envelope: "{}".into(),
        })
    };
    let refused = |status| Verdict {
        status,
        error: String::new(),
    };
    let mut subscription = Subscription::new(0, Vec::new());
    let batch = subscription.batch(
        Vec::new(),
        vec![event(1, "a"), event(2, "a"), event(3, "b")],
        Some(3),
        0,
    );
    let all = [refused(503), refused(503), refused(503)];
    subscription.settle(batch, &all, 0, 0.5);
    assert_eq!(subscription.waiting(), 3);
    subscription.forget(&HashSet::from([1, 2]));
    assert_eq!(subscription.waiting(), 1);
    let later = i64::MAX / 2;
    assert_eq!(subscription.due(later, 10), [3]);
    let batch = subscription.batch(Vec::new(), vec![event(4, "a")], Some(4), later);
    assert_eq!(batch.events.len(), 1, "nothing of its key waits any more");
    // A suspect under way that is forgotten leaves its lane free.
    let alone = subscription.failed_whole(batch, refused(500), 0, 0.5);
    assert!(matches!(alone, AfterFailure::Settled(_)));
    assert_eq!(subscription.suspect(later), Some(4));
    let _ = subscription.send_alone(event(4, "a"));
    assert_eq!(subscription.suspect(later), None);
    subscription.forget(&HashSet::from([4]));
    assert_eq!(subscription.next_due(true), None);
    assert_eq!(subscription.waiting(), 1);
}
