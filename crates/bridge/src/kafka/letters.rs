//! Dead letters of events on Kafka: a topic per service, `<service>.dead-letters`, kept without end.
//!
//! A letter is the message as it was, with headers that say where it was and why it is here. A replay
//! puts it back on its own topic and notes that in the letters' topic by a message without a value,
//! since a topic cannot be edited; a letter that was replayed is not listed any more. All subscribers
//! of the type see a replayed event; those that had it know its id.

use std::{collections::HashSet, time::Instant};

use innover_contract::TraceParent;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde::Serialize;

use super::{
    config::KafkaConfig,
    member::detach,
    message::{ID_HEADER, Message},
    producer::Outgoing,
};
use crate::limits::{
    ERROR_BYTES_MAX, KAFKA_ADMIN_WAIT, KAFKA_LETTER_CUT_BYTES, KAFKA_LETTERS_WAIT, KAFKA_POLL,
};

/// Headers of a letter; those of the original message stand beside them.
const TOPIC: &str = "dead-letter-topic";
const PARTITION: &str = "dead-letter-partition";
const OFFSET: &str = "dead-letter-offset";
const ERROR: &str = "dead-letter-error";
const ATTEMPTS: &str = "dead-letter-attempts";
const TRACE_ID: &str = "dead-letter-trace-id";
const EVENT_ID: &str = "dead-letter-event-id";
const OURS: &str = "dead-letter-";
/// Set when the value is only the beginning of the original.
const CUT: &str = "dead-letter-cut";
/// A header of a message without a value: the letter at this place was replayed.
const REPLAYED: &str = "dead-letter-replayed";

/// A letter on its way to the topic.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// With its value.
    pub(crate) message: Message,
    /// Whether that is only the beginning of the original.
    pub(crate) cut: bool,
    /// The event's id and its trace context, where it has them.
    pub(crate) id: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) error: String,
    pub(crate) attempts: u32,
}

impl Letter {
    /// Makes it small enough for any topic; `false` when it is already.
    pub(crate) fn cut(&mut self) -> bool {
        if self.cut {
            return false;
        }
        self.cut = true;
        self.message.headers.clear();
        self.message.key = self
            .message
            .key
            .take()
            .filter(|key| key.len() <= ERROR_BYTES_MAX);
        if let Some(value) = &mut self.message.value {
            value.truncate(KAFKA_LETTER_CUT_BYTES);
        }
        true
    }

    /// The message for the letters' topic.
    pub(crate) fn outgoing<'a>(&'a self, topic: &'a str) -> Outgoing<'a> {
        let mut headers = OwnedHeaders::new();
        for (name, value) in &self.message.headers {
            // A replayed letter that came back must not carry its first story beside its second.
            if !name.starts_with(OURS) {
                headers = headers.insert(Header {
                    key: name,
                    value: Some(value),
                });
            }
        }
        let trace = self.traceparent.as_deref().and_then(TraceParent::parse);
        let (partition, offset) = (self.message.partition, self.message.offset);
        for (key, value) in [
            (TOPIC, Some(self.message.topic.clone())),
            (PARTITION, Some(partition.to_string())),
            (OFFSET, Some(offset.to_string())),
            (ERROR, Some(self.error.clone())),
            (ATTEMPTS, Some(self.attempts.to_string())),
            (TRACE_ID, trace.map(|t| t.trace_id().to_owned())),
            (EVENT_ID, Some(self.id.clone())),
            (CUT, self.cut.then(|| "true".to_owned())),
        ] {
            if let Some(value) = value {
                headers = headers.insert(Header {
                    key,
                    value: Some(&value),
                });
            }
        }
        Outgoing {
            topic,
            key: self.message.key.as_deref(),
            // A message without a value must not pass for the note of a replay: it has no such header.
            value: self.message.value.as_deref(),
            headers,
        }
    }
}

/// Why letters cannot be read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum KafkaProblem {
    /// What Kafka or its client said.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The topic was not read to its end in time.
    #[error("the dead letters of {0} could not be read to the end in time; is Kafka healthy?")]
    Slow(String),
    /// It was too large for the letters' topic.
    #[error(
        "of this dead letter only the beginning was kept; the original is on {topic}, partition {partition}, offset {offset}, for as long as that topic keeps it"
    )]
    Cut {
        /// Where the original is.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// No such letter, or it was replayed.
    #[error("{0} has no dead letter {1}/{2}; list them to see what there is")]
    Unknown(String, i32, i64),
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KafkaLetter {
    /// The subscriber.
    pub service: String,
    /// Its partition on the letters' topic; with `offset` its name.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The topic the event was on.
    pub topic: String,
    /// The partition it was on.
    pub original_partition: i32,
    /// The offset it had.
    pub original_offset: i64,
    /// The event's id; empty when the message was no event.
    pub id: String,
    /// The message's key.
    pub key: Option<String>,
    /// Why it is here.
    pub error: String,
    /// Deliveries; 0 when it was no event.
    pub attempts: u32,
    /// The trace of the request that caused it.
    pub trace_id: Option<String>,
    /// The original value, with replacement characters where it is no text.
    pub value: String,
    /// Whether `value` is only the beginning of the original, which was too large.
    pub cut: bool,
    /// When it was given up, microseconds since the epoch.
    pub dead_at: i64,
}

/// Shows and replays the dead letters of events. Blocks on the network.
pub struct KafkaLetters {
    config: KafkaConfig,
}

impl KafkaLetters {
    /// For the same Kafka as the bridge's.
    pub fn new(config: KafkaConfig) -> KafkaLetters {
        KafkaLetters { config }
    }

    /// The newest letters of a service that were not replayed, at most `limit`, newest first.
    ///
    /// # Errors
    /// [`KafkaProblem`]: Kafka cannot be reached or read.
    pub fn list(&self, service: &str, limit: usize) -> Result<Vec<KafkaLetter>, KafkaProblem> {
        let mut letters: Vec<KafkaLetter> = self
            .read(service)?
            .iter()
            .map(|m| letter(service, m))
            .collect();
        letters.sort_by_key(|l| std::cmp::Reverse((l.dead_at, l.offset)));
        letters.truncate(limit);
        Ok(letters)
    }

    /// How many letters of a service were not replayed.
    ///
    /// # Errors
    /// [`KafkaProblem`]: Kafka cannot be reached or read.
    pub fn depth(&self, service: &str) -> Result<usize, KafkaProblem> {
        Ok(self.read(service)?.len())
    }

    /// Puts a letter's original bytes back on its topic. When it returns they are there, and the letter
    /// is not listed any more.
    ///
    /// # Errors
    /// [`KafkaProblem`]: no such letter, or Kafka cannot be reached; it is safe to try again.
    pub fn replay(
        &self,
        service: &str,
        partition: i32,
        offset: i64,
    ) -> Result<KafkaLetter, KafkaProblem> {
        let messages = self.read(service)?;
        let message = messages
            .iter()
            .find(|m| (m.partition, m.offset) == (partition, offset))
            .ok_or_else(|| KafkaProblem::Unknown(service.to_owned(), partition, offset))?;
        let letter = letter(service, message);
        if letter.cut {
            return Err(KafkaProblem::Cut {
                topic: letter.topic,
                partition: letter.original_partition,
                offset: letter.original_offset,
            });
        }
        let mut headers = OwnedHeaders::new();
        let mut named = false;
        for (name, value) in &message.headers {
            if !name.starts_with(OURS) {
                named |= name == ID_HEADER;
                headers = headers.insert(Header {
                    key: name,
                    value: Some(value),
                });
            }
        }
        // What was put there by hand is named by its place, which is another one now.
        if !named && !letter.id.is_empty() {
            headers = headers.insert(Header {
                key: ID_HEADER,
                value: Some(&letter.id),
            });
        }
        self.put(Outgoing {
            topic: &letter.topic,
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            headers,
        })?;
        let place = format!("{partition}/{offset}");
        self.put(Outgoing {
            topic: &self.config.dead_letters(service),
            key: None,
            value: None,
            headers: OwnedHeaders::new().insert(Header {
                key: REPLAYED,
                value: Some(&place),
            }),
        })?;
        Ok(letter)
    }

    fn put(&self, message: Outgoing<'_>) -> Result<(), KafkaProblem> {
        let mut client = self.config.producer();
        // Somebody waits for the answer.
        client.set(
            "message.timeout.ms",
            KAFKA_LETTERS_WAIT.as_millis().to_string(),
        );
        let producer: FutureProducer = client.create()?;
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(message.topic).headers(message.headers);
        if let Some(key) = message.key {
            record = record.key(key);
        }
        if let Some(value) = message.value {
            record = record.payload(value);
        }
        let delivery = producer.send_result(record).map_err(|(error, _)| error)?;
        match futures::executor::block_on(delivery) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error.into()),
            Err(_) => Err(KafkaError::Canceled.into()),
        }
    }

    /// Every letter that was not replayed, oldest first per partition.
    fn read(&self, service: &str) -> Result<Vec<Message>, KafkaProblem> {
        let topic = self.config.dead_letters(service);
        let consumer: BaseConsumer = self.config.reader().create()?;
        let metadata = consumer.fetch_metadata(None, KAFKA_ADMIN_WAIT)?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            // Nobody has given up anything yet.
            return Ok(Vec::new());
        };
        let (mut assignment, mut ends) = (TopicPartitionList::new(), Vec::new());
        for partition in found.partitions() {
            let (low, high) =
                consumer.fetch_watermarks(&topic, partition.id(), KAFKA_ADMIN_WAIT)?;
            if high > low {
                assignment.add_partition_offset(&topic, partition.id(), Offset::Offset(low))?;
                ends.push((partition.id(), high));
            }
        }
        consumer.assign(&assignment)?;
        let (mut messages, mut replayed) = (Vec::new(), HashSet::new());
        let until = Instant::now() + KAFKA_LETTERS_WAIT;
        while !ends.is_empty() {
            if Instant::now() > until {
                return Err(KafkaProblem::Slow(service.to_owned()));
            }
            if let Some(message) = consumer.poll(KAFKA_POLL) {
                let message = detach(&message?);
                match message.header(REPLAYED) {
                    Some(place) => drop(replayed.insert(place.into_owned())),
                    None => messages.push(message),
                }
            }
            // By position: the last offsets of a topic may be no messages.
            let position = consumer.position()?;
            ends.retain(|(partition, end)| {
                let at = position.find_partition(&topic, *partition);
                !matches!(at.map(|p| p.offset()), Some(Offset::Offset(at)) if at >= *end)
            });
        }
        messages.retain(|m| !replayed.contains(&format!("{}/{}", m.partition, m.offset)));
        Ok(messages)
    }
}

fn letter(service: &str, message: &Message) -> KafkaLetter {
    let text = |name| message.header(name).map(|v| v.into_owned());
    let number = |name| text(name).and_then(|v| v.parse::<i64>().ok());
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    KafkaLetter {
        service: service.to_owned(),
        partition: message.partition,
        offset: message.offset,
        topic: text(TOPIC).unwrap_or_default(),
        original_partition: number(PARTITION)
            .and_then(|n| n.try_into().ok())
            .unwrap_or(-1),
        original_offset: number(OFFSET).unwrap_or(-1),
        id: text(EVENT_ID).unwrap_or_default(),
        key: message.key.as_deref().map(lossy),
        error: text(ERROR).unwrap_or_default(),
        attempts: number(ATTEMPTS)
            .and_then(|n| n.try_into().ok())
            .unwrap_or(0),
        trace_id: text(TRACE_ID),
        value: message.value.as_deref().map(lossy).unwrap_or_default(),
        cut: message.header(CUT).is_some(),
        dead_at: message.timestamp_ms.unwrap_or(0).saturating_mul(1_000),
    }
}
