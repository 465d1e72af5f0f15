//! Events → Kafka.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{
        FutureProducer, FutureRecord, Producer as _, PurgeConfig,
        future_producer::{DeliveryFuture, OwnedDeliveryResult},
    },
};
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};

use super::{
    client::Quiet,
    config::KafkaConfig,
    locked, signature,
    topics::{Topics, legal},
};
use crate::{
    config::StartError,
    limits::{KAFKA_CLOSE_WAIT, KAFKA_SLOW_ACK, KAFKA_STUCK},
    metrics::Metrics,
    store::{
        StoreError,
        events::{NewDeadLetter, NewEvent},
    },
};

/// The media type of a structured CloudEvent.
const CLOUDEVENT: &str = "application/cloudevents+json";
/// Publishes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Producer {
    producer: Arc<Mutex<FutureProducer<Quiet>>>,
    /// When the producer, or the one it has replaced, was last seen to be alive.
    progress: Arc<Mutex<Instant>>,
    topics: Arc<Topics>,
    config: KafkaConfig,
    metrics: Arc<Metrics>,
    /// Ids of events that are on their topics, of lists that failed for others of their events. Such a
    /// list comes again until an operator has dealt with the topic in question, and every time would
    /// leave another copy.
    done: Arc<Mutex<HashSet<String>>>,
    /// How many waits for acknowledgements take long now, by who waits.
    slow: Arc<Mutex<HashMap<String, usize>>>,
    /// Set when the relays are to end: then nobody waits for a broker that is away.
    stop: watch::Receiver<bool>,
    /// When the last wait ends, one time for all of them; set by the first that sees `stop`.
    end: Arc<OnceLock<Instant>>,
}

/// A message as it goes to a topic.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    /// `None` is what Kafka calls a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: OwnedHeaders,
}

impl<'a> Outgoing<'a> {
    /// As the client takes it.
    pub(crate) fn record(self) -> FutureRecord<'a, [u8], [u8]> {
        let mut record = FutureRecord::to(self.topic).headers(self.headers);
        if let Some(key) = self.key {
            record = record.key(key);
        }
        if let Some(value) = self.value {
            record = record.payload(value);
        }
        record
    }
}

/// Why a message was not acknowledged.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It would be refused again, and only it.
    Itself(String),
    /// Whatever is sent may be refused.
    Now(String),
}

/// What of an envelope is said again in headers, and whose it is.
#[derive(Deserialize, Default)]
struct Attributes {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    source: String,
    traceparent: Option<String>,
    correlationid: Option<String>,
}

fn attributes(event: &NewEvent) -> Attributes {
    serde_json::from_str(&event.envelope).unwrap_or_default()
}

/// Who emitted it.
fn service(event: &NewEvent) -> String {
    let source = attributes(event).source;
    source.strip_prefix("/innover/").unwrap_or(&source).into()
}

/// A wait for acknowledgements of what is sent from its beginning on. Once it takes long, the bridge is
/// not ready, until it ends.
struct Wait<'a> {
    producer: &'a Producer,
    who: String,
    slow_at: Instant,
    slow: bool,
}

impl Wait<'_> {
    fn new(producer: &Producer, who: String) -> Wait<'_> {
        Wait {
            producer,
            who: format!("Kafka (publishing {who})"),
            slow_at: Instant::now() + KAFKA_SLOW_ACK,
            slow: false,
        }
    }

    fn note_slow(&mut self) {
        tracing::warn!(
            who = self.who,
            "Kafka does not acknowledge; events stay in their outboxes and publishing waits"
        );
        self.slow = true;
        let mut all = locked(&self.producer.slow);
        *all.entry(self.who.clone()).or_default() += 1;
        let problem = format!("no acknowledgement for {} s", KAFKA_SLOW_ACK.as_secs());
        self.producer.metrics.reachable(&self.who, Some(&problem));
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.slow {
            return;
        }
        let mut all = locked(&self.producer.slow);
        let others = all.get_mut(&self.who).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if others == 0 {
            all.remove(&self.who);
            self.producer.metrics.reachable(&self.who, None);
        }
    }
}

impl Producer {
    pub(crate) fn new(
        config: KafkaConfig,
        topics: Arc<Topics>,
        metrics: Arc<Metrics>,
        stop: watch::Receiver<bool>,
    ) -> Result<Producer, StartError> {
        let producer = create(&config).map_err(|e| StartError::Config(format!("Kafka: {e}")))?;
        Ok(Producer {
            producer: Arc::new(Mutex::new(producer)),
            progress: Arc::new(Mutex::new(Instant::now())),
            topics,
            config,
            metrics,
            done: Arc::default(),
            slow: Arc::default(),
            stop,
            end: Arc::default(),
        })
    }

    /// Publishes in order and returns once all copies of every event are written, with those that
    /// Kafka refuses for what they are: they are for the dead letters.
    ///
    /// A producer has no duplicates and no gaps of its own: what is accepted of a list is always its
    /// beginning, per partition. So a list that is published again after a crash repeats that
    /// beginning in order, and inboxes know it.
    ///
    /// # Errors
    /// [`StoreError::Bus`]: publish the whole list again later.
    pub(crate) async fn publish(
        &self,
        events: &[NewEvent],
    ) -> Result<Vec<NewDeadLetter>, StoreError> {
        let signing_key = self.config.signing_key.as_deref();
        let mut letters = Vec::new();
        let mut good = Vec::with_capacity(events.len());
        let done: HashSet<&str> = {
            let all = locked(&self.done);
            let ids = events.iter().map(|event| event.id.as_str());
            ids.filter(|id| all.contains(*id)).collect()
        };
        for event in events.iter().filter(|e| !done.contains(e.id.as_str())) {
            let topic = self.config.topic(&event.topic);
            match legal(&topic) {
                Ok(()) => good.push((event, topic)),
                Err(error) => letters.push(letter(event, error)),
            }
        }
        self.topics
            .ensure(good.iter().map(|(_, topic)| topic.as_str()))
            .await
            .map_err(StoreError::Bus)?;

        let who = events.first().map(service).unwrap_or_default();
        let mut wait = Wait::new(self, format!("for {who}"));
        let mut waiting: VecDeque<(usize, DeliveryFuture)> = VecDeque::new();
        let mut failed = Vec::new();
        for (place, (event, topic)) in good.iter().enumerate() {
            loop {
                match self.send(outgoing(signing_key, event, topic)) {
                    Ok(delivery) => waiting.push_back((place, delivery)),
                    // The oldest makes room.
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                        match waiting.pop_front() {
                            Some((place, delivery)) => {
                                if let Err(refused) = self.acknowledged(delivery, &mut wait).await {
                                    failed.push((place, refused));
                                }
                            }
                            None if self.is_past_the_end() => {
                                return Err(StoreError::Bus("no room before the end".into()));
                            }
                            None => tokio::time::sleep(Duration::from_millis(10)).await,
                        }
                        continue;
                    }
                    Err(error) => failed.push((place, refusal(&error))),
                }
                break;
            }
        }
        for (place, delivery) in waiting {
            if let Err(refused) = self.acknowledged(delivery, &mut wait).await {
                failed.push((place, refused));
            }
        }
        failed.sort_by_key(|(place, _)| *place);

        let mut now = None;
        let mut missing: HashSet<usize> = failed.iter().map(|(place, _)| *place).collect();
        for (place, mut refused) in failed {
            let (event, topic) = &good[place];
            // A batch is refused as one: perhaps this event is fine by itself.
            if let Refused::Itself(_) = refused {
                refused = match self.send(outgoing(signing_key, event, topic)) {
                    Ok(delivery) => match self.acknowledged(delivery, &mut wait).await {
                        Ok(()) => {
                            missing.remove(&place);
                            continue;
                        }
                        Err(refused) => refused,
                    },
                    Err(error) => refusal(&error),
                };
            }
            match refused {
                Refused::Itself(error) => letters.push(letter(event, error)),
                Refused::Now(error) => {
                    self.distrust(topic);
                    now.get_or_insert(format!("{topic}: {error}"));
                }
            }
        }
        let mut counts: HashMap<&str, u64> = HashMap::new();
        let mut all_done = locked(&self.done);
        for (place, (event, _)) in good.iter().enumerate() {
            if !missing.contains(&place) {
                *counts.entry(&event.topic).or_default() += 1;
                if now.is_some() {
                    all_done.insert(event.id.clone());
                }
            }
        }
        if now.is_none() {
            for id in &done {
                all_done.remove(*id);
            }
        }
        drop(all_done);
        self.metrics.published_to(&counts);
        match now {
            Some(problem) => Err(StoreError::Bus(problem)),
            None => Ok(letters),
        }
    }

    /// Puts one message on a topic that may not be there yet.
    ///
    /// # Errors
    /// Why it is not there.
    pub(crate) async fn put(&self, message: Outgoing<'_>) -> Result<(), Refused> {
        let topic = message.topic;
        self.topics.ensure([topic]).await.map_err(Refused::Now)?;
        let delivery = self.send(message).map_err(|e| refusal(&e))?;
        let mut wait = Wait::new(self, format!("to {topic}"));
        let acknowledged = self.acknowledged(delivery, &mut wait).await;
        if let Err(Refused::Now(_)) = &acknowledged {
            self.distrust(topic);
        }
        acknowledged
    }

    fn send(&self, message: Outgoing<'_>) -> Result<DeliveryFuture, KafkaError> {
        let producer = locked(&self.producer).clone();
        producer
            .send_result(message.record())
            .map_err(|(error, _)| error)
    }

    /// Waits for as long as the producer makes progress, says when it takes long, and gives up at the
    /// end.
    async fn acknowledged(
        &self,
        delivery: DeliveryFuture,
        wait: &mut Wait<'_>,
    ) -> Result<(), Refused> {
        let mut stop = self.stop.clone();
        tokio::pin!(delivery);
        let stuck = tokio::time::sleep(KAFKA_STUCK);
        tokio::pin!(stuck);
        let mut end = self.end.get().copied();
        let result: Result<OwnedDeliveryResult, _> = loop {
            tokio::select! {
                // What is there counts, even after the end.
                biased;
                result = &mut delivery => break result,
                () = tokio::time::sleep_until(wait.slow_at), if !wait.slow => wait.note_slow(),
                () = &mut stuck => {
                    let until = *locked(&self.progress) + KAFKA_STUCK;
                    if until <= Instant::now() {
                        self.replace("nothing was acknowledged for too long");
                    }
                    stuck.as_mut().reset(until.max(Instant::now() + KAFKA_SLOW_ACK));
                }
                _ = stop.wait_for(|stop| *stop), if end.is_none() => end = Some(self.begin_end()),
                () = tokio::time::sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    return Err(Refused::Now("no acknowledgement before the end".into()));
                }
            }
        };
        match result {
            Ok(Ok(_)) => {
                *locked(&self.progress) = Instant::now();
                Ok(())
            }
            Ok(Err((error, _))) => Err(refusal(&error)),
            Err(_) => Err(Refused::Now("the producer has ended".into())),
        }
    }

    /// When nobody waits for an acknowledgement any more, now that all ends.
    fn begin_end(&self) -> Instant {
        *self.end.get_or_init(|| Instant::now() + KAFKA_CLOSE_WAIT)
    }

    fn is_past_the_end(&self) -> bool {
        *self.stop.borrow() && self.begin_end() <= Instant::now()
    }

    /// After a failure: the topic may be gone, and the producer may be beyond repair. It refuses
    /// everything then, and a new one starts.
    fn distrust(&self, topic: &str) {
        self.topics.doubt(topic);
        let fatal = locked(&self.producer).client().fatal_error();
        if let Some((_, problem)) = fatal {
            self.replace(&problem);
        }
    }

    /// Starts a new producer. Whatever the old one has not had acknowledged is given up as one, so
    /// nothing of a key overtakes what came before it: all of it is published again.
    fn replace(&self, problem: &str) {
        let new = match create(&self.config) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(problem, %error, "the producer of Kafka cannot be replaced");
                return;
            }
        };
        tracing::warn!(problem, "the producer of Kafka was replaced");
        *locked(&self.progress) = Instant::now();
        let old = std::mem::replace(&mut *locked(&self.producer), new);
        old.purge(PurgeConfig::default().queue().inflight());
        // It waits for threads of its own.
        tokio::task::spawn_blocking(move || drop(old));
    }
}

fn create(config: &KafkaConfig) -> Result<FutureProducer<Quiet>, KafkaError> {
    config.producer().create_with_context(Quiet)
}

fn outgoing<'a>(signing_key: Option<&str>, event: &'a NewEvent, topic: &'a str) -> Outgoing<'a> {
    let known = attributes(event);
    let signature =
        signing_key.and_then(|key| signature::sign(key, &event.topic, event.envelope.as_bytes()));
    let mut headers = OwnedHeaders::new();
    for (key, value) in [
        ("content-type", Some(CLOUDEVENT)),
        ("ce_id", Some(event.id.as_str())),
        ("ce_type", Some(known.kind.as_str())),
        ("traceparent", known.traceparent.as_deref()),
        ("correlation_id", known.correlationid.as_deref()),
        (signature::HEADER, signature.as_deref()),
    ] {
        if value.is_some() {
            headers = headers.insert(Header { key, value });
        }
    }
    Outgoing {
        topic,
        // Without a key it goes to any partition: it has no order with others.
        key: (!event.key.is_empty()).then_some(event.key.as_bytes()),
        value: Some(event.envelope.as_bytes()),
        headers,
    }
}

fn refusal(error: &KafkaError) -> Refused {
    let text = error.to_string();
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp,
        ) => Refused::Itself(text),
        _ => Refused::Now(text),
    }
}

fn letter(event: &NewEvent, error: String) -> NewDeadLetter {
    let service = service(event);
    tracing::error!(
        service,
        id = event.id,
        topic = event.topic,
        error,
        "Kafka does not take an event; it is a dead letter"
    );
    NewDeadLetter {
        kind: "outbox",
        target: service,
        id: event.id.clone(),
        name: event.topic.clone(),
        key: event.key.clone(),
        envelope: event.envelope.clone(),
        error: format!("Kafka: {error}"),
        attempts: 1,
    }
}
