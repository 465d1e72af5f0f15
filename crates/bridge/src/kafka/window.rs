//! What a group member has read and not settled, and how far each partition is settled: pure.
//!
//! Every event gets a number of its own when it is read, in the order of reading, which is what
//! `subscription` works with. Events of one partition get rising numbers, so the order of the
//! numbers is the order of the partition.
//!
//! Invariant: [`Window::settled_to`] never passes an offset that is read and not settled.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::message::Message;
use crate::store::events::LogEvent;

/// A partition of a topic.
pub(crate) type Place = (Arc<str>, i32);

/// An event that is read and not settled.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) place: Place,
    /// Without its value when that is the event's envelope.
    pub(crate) message: Message,
    /// `None` when the message carries no event: it is on its way to the dead letters.
    pub(crate) event: Option<Arc<LogEvent>>,
    /// What it counts for in the limit.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Partition {
    /// Which of its assignments to this member it is.
    epoch: u64,
    /// The offset after the last one read.
    next: Option<i64>,
    /// Offsets that are read and not settled.
    open: BTreeSet<i64>,
    /// It is on its way to another member: nothing more of it is delivered.
    leaving: bool,
}

/// A member's events and partitions.
#[derive(Debug, Default)]
pub(crate) struct Window {
    last: i64,
    held: BTreeMap<i64, Held>,
    partitions: HashMap<Place, Partition>,
    changed: HashSet<Place>,
}

impl Window {
    /// A partition is this member's from now on.
    pub(crate) fn assign(&mut self, place: Place, epoch: u64) {
        self.partitions.insert(
            place,
            Partition {
                epoch,
                next: None,
                open: BTreeSet::new(),
                leaving: false,
            },
        );
    }

    /// Takes a message in and returns its number; `make` turns it into an event of that number. `None`
    /// when its partition is not, or not for long, this member's.
    pub(crate) fn take(
        &mut self,
        place: Place,
        mut message: Message,
        bytes: usize,
        make: impl FnOnce(i64, &mut Message) -> Option<LogEvent>,
    ) -> Option<i64> {
        let partition = self.partitions.get_mut(&place).filter(|p| !p.leaving)?;
        partition.next = Some(message.offset + 1);
        partition.open.insert(message.offset);
        self.last += 1;
        let event = make(self.last, &mut message).map(Arc::new);
        self.held.insert(
            self.last,
            Held {
                place,
                message,
                event,
                bytes,
            },
        );
        Some(self.last)
    }

    /// Up to `limit` events after number `after`.
    pub(crate) fn after(&self, after: i64, limit: usize) -> Vec<Arc<LogEvent>> {
        let held = self.held.range(after + 1..);
        let events = held.filter_map(|(_, held)| held.event.clone());
        events.take(limit).collect()
    }

    pub(crate) fn get(&self, seq: i64) -> Option<&Held> {
        self.held.get(&seq)
    }

    /// Events that are read and not settled.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// The event's effect is there, or it is among the dead letters. Returns what it counted for.
    pub(crate) fn settle(&mut self, seq: i64) -> Option<usize> {
        let held = self.held.remove(&seq)?;
        if let Some(partition) = self.partitions.get_mut(&held.place) {
            partition.open.remove(&held.message.offset);
            self.changed.insert(held.place);
        }
        Some(held.bytes)
    }

    /// These partitions are about to be somebody else's.
    pub(crate) fn leave(&mut self, places: &[Place]) {
        for place in places {
            if let Some(partition) = self.partitions.get_mut(place) {
                partition.leaving = true;
            }
        }
    }

    /// Drops the events of leaving partitions that are not under way; their offsets stay open, so
    /// that the next owner reads them. Returns (number, bytes) of each.
    pub(crate) fn drop_leaving(&mut self, under_way: &HashSet<i64>) -> Vec<(i64, usize)> {
        let partitions = &self.partitions;
        let gone = |seq: &i64, held: &mut Held| {
            partitions.get(&held.place).is_none_or(|p| p.leaving) && !under_way.contains(seq)
        };
        let gone = self.held.extract_if(.., gone);
        gone.map(|(seq, held)| (seq, held.bytes)).collect()
    }

    /// Whether an event of a leaving partition is still under way.
    pub(crate) fn leaves_something(&self) -> bool {
        let leaving: HashSet<&Place> = self
            .partitions
            .iter()
            .filter(|(_, p)| p.leaving)
            .map(|(place, _)| place)
            .collect();
        !leaving.is_empty() && self.held.values().any(|h| leaving.contains(&h.place))
    }

    /// The partitions are gone, with everything of them. Returns (number, bytes) of each event.
    pub(crate) fn forget(&mut self, places: &[Place]) -> Vec<(i64, usize)> {
        for place in places {
            self.partitions.remove(place);
            self.changed.remove(place);
        }
        self.drop_ownerless()
    }

    fn drop_ownerless(&mut self) -> Vec<(i64, usize)> {
        let partitions = &self.partitions;
        let gone = self
            .held
            .extract_if(.., |_, held| !partitions.contains_key(&held.place));
        gone.map(|(seq, held)| (seq, held.bytes)).collect()
    }

    /// Partitions whose settled beginning may have grown since the last call: the offset to be read
    /// next by whoever takes over.
    pub(crate) fn settled(&mut self) -> Vec<(Place, u64, i64)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .filter_map(|place| {
                let partition = self.partitions.get(&place)?;
                let offset = partition.open.first().copied().or(partition.next)?;
                Some((place, partition.epoch, offset))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(partition: i32) -> Place {
        ("t".into(), partition)
    }

    fn read(window: &mut Window, partition: i32, offset: i64) -> Option<i64> {
        let message = Message {
            topic: "t".into(),
            partition,
            offset,
            ..Message::default()
        };
        window.take(place(partition), message, 10, |seq, _| {
            Some(LogEvent {
                seq,
                id: format!("{partition}-{offset}"),
                topic: "t".into(),
                key: String::new(),
                envelope: "{}".into(),
            })
        })
    }

    #[test]
    fn a_partition_is_settled_up_to_its_oldest_open_offset() {
        let mut window = Window::default();
        window.assign(place(0), 1);
        let seqs: Vec<i64> = [5, 6, 9]
            .map(|o| read(&mut window, 0, o).expect("ours"))
            .into();
        window.settle(seqs[1]);
        assert_eq!(window.settled(), [(place(0), 1, 5)]);
        window.settle(seqs[0]);
        assert_eq!(
            window.settled(),
            [(place(0), 1, 9)],
            "offsets may have holes"
        );
        window.settle(seqs[2]);
        assert_eq!(window.settled(), [(place(0), 1, 10)]);
        assert_eq!(window.settled(), [], "nothing changed since");
    }

    #[test]
    fn what_leaves_is_finished_where_it_is_under_way_and_left_to_the_next_owner_otherwise() {
        let mut window = Window::default();
        window.assign(place(0), 1);
        window.assign(place(1), 2);
        let flying = read(&mut window, 0, 0).expect("ours");
        let waiting = read(&mut window, 0, 1).expect("ours");
        let other = read(&mut window, 1, 0).expect("ours");
        window.leave(&[place(0)]);
        assert_eq!(read(&mut window, 0, 2), None, "no more of it");
        let under_way = HashSet::from([flying]);
        assert_eq!(window.drop_leaving(&under_way), [(waiting, 10)]);
        assert!(window.leaves_something());
        window.settle(flying);
        assert!(!window.leaves_something());
        assert_eq!(
            window.settled(),
            [(place(0), 1, 1)],
            "the one left out is the next owner's first"
        );
        assert_eq!(window.forget(&[place(0)]), []);
        assert!(window.get(other).is_some());
    }

    #[test]
    fn a_settlement_of_a_forgotten_partition_means_nothing_after_it_came_back() {
        let mut window = Window::default();
        window.assign(place(0), 1);
        let old = read(&mut window, 0, 7).expect("ours");
        assert_eq!(window.forget(&[place(0)]), [(old, 10)]);
        window.assign(place(0), 2);
        let new = read(&mut window, 0, 7).expect("ours");
        assert_eq!(window.settle(old), None);
        assert_eq!(window.settled(), []);
        window.settle(new);
        assert_eq!(window.settled(), [(place(0), 2, 8)]);
    }

    proptest! {
        #[test]
        fn no_settled_offset_passes_one_that_is_open(
            steps in prop::collection::vec((0..3_i32, any::<prop::sample::Index>(), any::<bool>()), 1..200)
        ) {
            let mut window = Window::default();
            let mut next = [0_i64; 3];
            let mut open: Vec<(i32, i64, i64)> = Vec::new();
            for partition in 0..3 {
                window.assign(place(partition), 1);
            }
            for (partition, pick, reads) in steps {
                if reads || open.is_empty() {
                    let offset = &mut next[partition as usize];
                    open.push((partition, *offset, read(&mut window, partition, *offset).expect("ours")));
                    *offset += 1 + i64::from(pick.index(3) == 0);
                } else {
                    let (_, _, seq) = open.swap_remove(pick.index(open.len()));
                    window.settle(seq);
                }
                for ((_, partition), _, settled) in window.settled() {
                    let oldest = open.iter().filter(|(p, ..)| *p == partition).map(|(_, o, _)| *o).min();
                    match oldest {
                        Some(oldest) => prop_assert_eq!(settled, oldest),
                        None => prop_assert!(settled <= next[partition as usize]),
                    }
                }
                prop_assert_eq!(window.len(), open.len());
            }
        }
    }
}
