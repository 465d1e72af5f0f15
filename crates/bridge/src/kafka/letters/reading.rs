//! Reads letters' topics: which letters are there, and which are settled.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};

use super::{DISCARDED, KafkaProblem, Place, REPLAYED};
use crate::{
    kafka::{config::KafkaConfig, member::detach, message::Message},
    limits::{KAFKA_ADMIN_WAIT, KAFKA_LETTERS_WAIT, KAFKA_POLL},
};

/// The place in a note.
fn noted(message: &Message) -> Option<Place> {
    let place = message
        .header(REPLAYED)
        .or_else(|| message.header(DISCARDED))?;
    let (partition, offset) = place.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// How far a letters' topic was read, and what is open there.
pub(super) struct Reading<L> {
    pub(super) since: Instant,
    /// By partition.
    next: HashMap<i32, i64>,
    /// By place, hence oldest first per partition.
    pub(super) open: BTreeMap<Place, L>,
    /// Noted in another partition than the letter's, which was not read so far yet.
    settled: HashSet<Place>,
    /// Whether it was read to its end once.
    pub(super) whole: bool,
}

impl<L> Default for Reading<L> {
    fn default() -> Self {
        Reading {
            since: Instant::now(),
            next: HashMap::new(),
            open: BTreeMap::new(),
            settled: HashSet::new(),
            whole: false,
        }
    }
}

impl<L> Reading<L> {
    fn take(&mut self, message: Message, keep: impl Fn(Message) -> L) {
        let place = (message.partition, message.offset);
        self.next.insert(message.partition, message.offset + 1);
        match noted(&message) {
            // It was read, and may have been noted before.
            Some(place) if self.next.get(&place.0).is_some_and(|next| place.1 < *next) => {
                self.open.remove(&place);
            }
            Some(place) => {
                self.settled.insert(place);
            }
            None if self.settled.remove(&place) => {}
            None => {
                self.open.insert(place, keep(message));
            }
        }
    }

    /// Makes it fit the offsets that the partitions have, each from its first to before its end.
    fn resume(&mut self, partitions: &[(i32, i64, i64)]) {
        let next = |partition| self.next.get(partition).copied().unwrap_or(0);
        if partitions.iter().any(|(p, _, high)| next(p) > *high) {
            // Somebody has made the topic anew.
            *self = Reading::default();
        }
        for (partition, low, _) in partitions {
            // What an operator had the topic forget is no letter any more.
            let kept = |(p, offset): &Place| p != partition || offset >= low;
            self.open.retain(|place, _| kept(place));
            self.settled.retain(kept);
            let next = self.next.entry(*partition).or_insert(*low);
            *next = (*next).max(*low);
        }
    }
}

/// Reads letters' topics.
pub(super) struct Topics {
    consumer: BaseConsumer,
    metadata: Metadata,
}

impl Topics {
    pub(super) fn open(config: &KafkaConfig) -> Result<Topics, KafkaProblem> {
        let consumer: BaseConsumer = config.reader().create()?;
        // Of all topics: a question about one could make it, where brokers do so by themselves.
        let metadata = consumer.fetch_metadata(None, KAFKA_ADMIN_WAIT)?;
        Ok(Topics { consumer, metadata })
    }

    /// The offsets a partition has. Of one that was made or moved this moment a broker says for a while
    /// that it does not lead it.
    fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        stop: impl Fn() -> bool,
    ) -> Result<(i64, i64), KafkaProblem> {
        let until = Instant::now() + KAFKA_ADMIN_WAIT;
        loop {
            if stop() {
                return Err(KafkaProblem::Stopping);
            }
            let asked = self
                .consumer
                .fetch_watermarks(topic, partition, KAFKA_ADMIN_WAIT);
            match asked.as_ref().map_err(KafkaError::rdkafka_error_code) {
                Err(Some(
                    RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition,
                )) if Instant::now() < until => std::thread::sleep(KAFKA_POLL),
                _ => return Ok(asked?),
            }
        }
    }

    /// Reads a topic from where `reading` is to its end. What was read before an error stays read.
    pub(super) fn read<L>(
        &self,
        topic: &str,
        reading: &mut Reading<L>,
        keep: impl Fn(Message) -> L,
        stop: impl Fn() -> bool,
    ) -> Result<(), KafkaProblem> {
        let consumer = &self.consumer;
        let Some(found) = self.metadata.topics().iter().find(|t| t.name() == topic) else {
            // Nobody has given up anything yet.
            *reading = Reading::default();
            reading.whole = true;
            return Ok(());
        };
        let mut partitions = Vec::new();
        for partition in found.partitions() {
            let (low, high) = self.watermarks(topic, partition.id(), &stop)?;
            partitions.push((partition.id(), low, high));
        }
        reading.resume(&partitions);
        let (mut assignment, mut ends) = (TopicPartitionList::new(), Vec::new());
        for (partition, _, high) in partitions {
            let next = reading.next.get(&partition).copied().unwrap_or_default();
            if next < high {
                assignment.add_partition_offset(topic, partition, Offset::Offset(next))?;
                ends.push((partition, high));
            }
        }
        if !ends.is_empty() {
            consumer.assign(&assignment)?;
        }
        let mut until = Instant::now() + KAFKA_LETTERS_WAIT;
        let mut why = String::new();
        while !ends.is_empty() {
            if stop() {
                return Err(KafkaProblem::Stopping);
            }
            if Instant::now() > until {
                let topic = topic.to_owned();
                return Err(KafkaProblem::Slow { topic, why });
            }
            match consumer.poll(KAFKA_POLL) {
                None => {}
                Some(Ok(message)) => {
                    until = Instant::now() + KAFKA_LETTERS_WAIT;
                    reading.take(detach(&message), &keep);
                }
                Some(Err(error)) if ends_reading(&error) => return Err(error.into()),
                // One of several brokers is away, or it is about the group, which there is none of.
                Some(Err(error)) => why = format!(" It said: {error}"),
            }
            // By position: the last offsets of a topic may be no messages.
            let position = consumer.position()?;
            ends.retain(|(partition, end)| {
                let at = position.find_partition(topic, *partition);
                let read = matches!(at.map(|p| p.offset()), Some(Offset::Offset(at)) if at >= *end);
                if read {
                    let next = reading.next.entry(*partition).or_default();
                    *next = (*next).max(*end);
                }
                !read
            });
        }
        reading.whole = true;
        Ok(())
    }
}

/// Whether a client that said so reads nothing more of the topic.
fn ends_reading(error: &KafkaError) -> bool {
    match error {
        KafkaError::MessageConsumption(code) => matches!(
            code,
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        ),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LETTER: Option<(&str, &str)> = None;

    fn message(partition: i32, offset: i64, note: Option<(&str, &str)>) -> Message {
        let headers = note.map(|(name, place)| (name.to_owned(), place.as_bytes().to_vec()));
        Message {
            topic: "wallet.dead-letters".into(),
            partition,
            offset,
            key: None,
            value: None,
            timestamp_ms: None,
            headers: headers.into_iter().collect(),
        }
    }

    fn open(reading: &Reading<()>) -> Vec<Place> {
        reading.open.keys().copied().collect()
    }

    #[test]
    fn a_letter_is_open_until_it_is_noted_wherever_the_note_is_and_however_often() {
        let mut reading = Reading::default();
        for (partition, offset, note) in [
            (1, 0, Some((DISCARDED, "0/1"))),
            (0, 0, LETTER),
            (0, 1, LETTER),
            (0, 2, LETTER),
            (0, 3, Some((REPLAYED, "0/0"))),
            (1, 1, Some((REPLAYED, "0/0"))),
            (1, 2, Some((REPLAYED, "no place"))),
        ] {
            reading.take(message(partition, offset, note), drop);
        }
        assert_eq!(open(&reading), [(0, 2), (1, 2)]);
        assert!(reading.settled.is_empty());
    }

    #[test]
    fn a_reading_goes_on_where_it_was_unless_the_topic_was_made_anew() {
        let mut reading = Reading::default();
        reading.resume(&[(0, 0, 3), (1, 0, 1)]);
        for offset in 0..3 {
            reading.take(message(0, offset, LETTER), drop);
        }
        reading.take(message(1, 0, Some((DISCARDED, "0/0"))), drop);
        // One partition more; of another one the beginning is gone.
        reading.resume(&[(0, 2, 5), (1, 0, 1), (2, 7, 9)]);
        assert_eq!(reading.next, [(0, 3), (1, 1), (2, 7)].into());
        assert_eq!(open(&reading), [(0, 2)]);
        // What one partition says of the others is gone with it.
        reading.resume(&[(0, 0, 5), (1, 0, 0), (2, 0, 9)]);
        assert_eq!(reading.next, [(0, 0), (1, 0), (2, 0)].into());
        assert!(open(&reading).is_empty());
    }
}
