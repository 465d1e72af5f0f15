//! Dead letters of events on Kafka: a topic per service, `<service>.dead-letters`, kept without end.
//!
//! A letter is the message as it was, with headers that say where it was and why it is here. A replay
//! puts it back on its own topic. That, and that it was discarded, is noted in the letters' topic by a
//! message without a value, since a topic cannot be edited; such a letter is settled, and neither listed
//! nor counted any more. All subscribers of the type see a replayed event; those that had it know its id.

mod count;
mod reading;

use std::collections::{BTreeMap, HashSet};

use innover_contract::TraceParent;
use rdkafka::{
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::FutureProducer,
};
use serde::Serialize;

use self::reading::{Reading, Topics};
use super::{
    config::KafkaConfig,
    message::{ID_HEADER, Message},
    producer::Outgoing,
};
use crate::limits::{ERROR_BYTES_MAX, KAFKA_LETTER_CUT_BYTES, KAFKA_LETTERS_WAIT};

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
/// Headers of a message without a value: what was done with the letter at this place.
const REPLAYED: &str = "dead-letter-replayed";
const DISCARDED: &str = "dead-letter-discarded";

/// A partition and an offset of a letters' topic, which name a letter.
type Place = (i32, i64);

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
    /// A topic of letters that did not go on.
    #[error("the rest of {topic} could not be read in time; is Kafka healthy?{why}")]
    Slow {
        /// The topic.
        topic: String,
        /// What the client said last, if anything.
        why: String,
    },
    /// Nobody waits for it any more.
    #[error("the bridge is stopping")]
    Stopping,
    /// It was put among the letters by hand.
    #[error("it does not say which topic it is for, so it can only be discarded")]
    Nowhere,
    /// One before it, for the same topic, was not taken.
    #[error("not tried, since {0} did not take one before it")]
    Skipped(String),
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
    /// No such letter, or it is settled.
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

/// Which dead letters of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that are not settled.
    All,
    /// The one at this place.
    One {
        /// Its partition on the letters' topic.
        partition: i32,
        /// Its offset there.
        offset: i64,
    },
}

/// Shows, replays and discards the dead letters of events. Blocks on the network.
pub struct KafkaLetters {
    config: KafkaConfig,
}

impl KafkaLetters {
    /// For the same Kafka as the bridge's.
    pub fn new(config: KafkaConfig) -> KafkaLetters {
        KafkaLetters { config }
    }

    /// The newest letters of a service that are not settled, at most `limit`, newest first.
    ///
    /// # Errors
    /// [`KafkaProblem`]: Kafka cannot be reached or read.
    pub fn list(&self, service: &str, limit: usize) -> Result<Vec<KafkaLetter>, KafkaProblem> {
        let open = self.open(service)?;
        let mut letters: Vec<_> = open.values().map(|m| letter(service, m)).collect();
        letters.sort_by_key(|l| std::cmp::Reverse((l.dead_at, l.offset)));
        letters.truncate(limit);
        Ok(letters)
    }

    /// How many letters of a service are not settled.
    ///
    /// # Errors
    /// [`KafkaProblem`]: Kafka cannot be reached or read.
    pub fn depth(&self, service: &str) -> Result<usize, KafkaProblem> {
        Ok(self.open(service)?.len())
    }

    /// Puts the original bytes of letters back on their topics, those of a partition in their order. Each
    /// is `told` when it is there and not listed any more, or why it stays. Where a topic does not take
    /// one, the others for it stay too.
    ///
    /// # Errors
    /// [`KafkaProblem`]: no such letter, or none could be read; it is safe to try again.
    pub fn replay(
        &self,
        service: &str,
        which: Which,
        mut told: impl FnMut(&KafkaLetter, Result<(), KafkaProblem>),
    ) -> Result<(), KafkaProblem> {
        let letters = self.config.dead_letters(service);
        let producer = self.producer()?;
        let mut refused = HashSet::new();
        for (place, message) in self.which(service, which)? {
            let letter = letter(service, &message);
            let done = if refused.contains(&letter.topic) {
                Err(KafkaProblem::Skipped(letter.topic.clone()))
            } else {
                original(&letter, &message).and_then(|original| {
                    put(&producer, original)?;
                    put(&producer, note(&letters, REPLAYED, place))
                })
            };
            if let Err(KafkaProblem::Kafka(_)) = done {
                refused.insert(letter.topic.clone());
            }
            told(&letter, done);
        }
        Ok(())
    }

    /// Notes that nobody will deliver these letters. Each is `told` when it is not listed any more.
    ///
    /// # Errors
    /// [`KafkaProblem`]: no such letter, or Kafka cannot be reached; it is safe to try again.
    pub fn discard(
        &self,
        service: &str,
        which: Which,
        mut told: impl FnMut(&KafkaLetter),
    ) -> Result<(), KafkaProblem> {
        let topic = self.config.dead_letters(service);
        let producer = self.producer()?;
        for (place, message) in self.which(service, which)? {
            put(&producer, note(&topic, DISCARDED, place))?;
            told(&letter(service, &message));
        }
        Ok(())
    }

    fn which(&self, service: &str, which: Which) -> Result<BTreeMap<Place, Message>, KafkaProblem> {
        let mut open = self.open(service)?;
        let Which::One { partition, offset } = which else {
            return Ok(open);
        };
        let one = open
            .remove_entry(&(partition, offset))
            .ok_or_else(|| KafkaProblem::Unknown(service.to_owned(), partition, offset))?;
        Ok([one].into())
    }

    fn open(&self, service: &str) -> Result<BTreeMap<Place, Message>, KafkaProblem> {
        let topics = Topics::open(&self.config)?;
        let mut reading = Reading::default();
        let topic = self.config.dead_letters(service);
        topics.read(&topic, &mut reading, |m| m, || false)?;
        Ok(reading.open)
    }

    fn producer(&self) -> Result<FutureProducer, KafkaError> {
        let mut client = self.config.producer();
        // Somebody waits for the answer.
        client.set(
            "message.timeout.ms",
            KAFKA_LETTERS_WAIT.as_millis().to_string(),
        );
        client.create()
    }
}

/// The message that is dead, as it was.
///
/// # Errors
/// It cannot be put anywhere.
fn original<'a>(
    letter: &'a KafkaLetter,
    message: &'a Message,
) -> Result<Outgoing<'a>, KafkaProblem> {
    if letter.cut {
        return Err(KafkaProblem::Cut {
            topic: letter.topic.clone(),
            partition: letter.original_partition,
            offset: letter.original_offset,
        });
    }
    if letter.topic.is_empty() {
        return Err(KafkaProblem::Nowhere);
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
    Ok(Outgoing {
        topic: &letter.topic,
        key: message.key.as_deref(),
        value: message.value.as_deref(),
        headers,
    })
}

fn note<'a>(topic: &'a str, done: &str, (partition, offset): Place) -> Outgoing<'a> {
    Outgoing {
        topic,
        key: None,
        value: None,
        headers: OwnedHeaders::new().insert(Header {
            key: done,
            value: Some(&format!("{partition}/{offset}")),
        }),
    }
}

fn put(producer: &FutureProducer, message: Outgoing<'_>) -> Result<(), KafkaProblem> {
    let sent = producer.send_result(message.record());
    let delivery = sent.map_err(|(error, _)| error)?;
    match futures::executor::block_on(delivery) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error.into()),
        Err(_) => Err(KafkaError::Canceled.into()),
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
