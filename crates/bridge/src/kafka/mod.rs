//! Kafka as the bus: where it is configured, events go through it instead of the bridge's file. Jobs,
//! and rows that cannot be published, stay in the file.
//!
//! ```text
//! outbox ──relay──▶ publish ──producer──▶ topic per event type ──member──▶ subscriber ──▶ POST /_events
//!                                                                             └──▶ <service>.dead-letters
//! ```
//! Code map: `config` is how to get there; `topics` makes topics; `producer` publishes; `member` is a
//! service's place in its consumer group, `trouble` what keeps it from reading; `message` reads what is
//! on a topic; `signature` tells whose it is; `window` knows what is read and not settled; `subscriber`
//! delivers it; `letters` keeps and shows what could not be. `leaders` keeps librdkafka from ending
//! the process.
//!
//! Invariants:
//! - An outbox row is deleted after every in-sync copy of its event is written.
//! - An offset is committed after everything before it on its partition has its effect or is among the
//!   dead letters.
//! - Events of one key and type are delivered in order, across restarts and rebalances. What is
//!   repeated after a crash is repeated from an earlier event of the partition on, in order.
//! - Of a partition that goes to another member nothing is delivered after it is given away, except
//!   what was under way when a bounded wait ended.
#![allow(
    clippy::result_large_err,
    reason = "rdkafka's error carries the message that was not sent"
)]

mod client;
mod config;
#[cfg(target_os = "linux")]
mod leaders;
mod letters;
mod member;
mod message;
mod producer;
mod signature;
mod subscriber;
mod topics;
mod trouble;
mod window;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    config::{ServiceSpec, StartError},
    limits::{KAFKA_LOOK_EVERY, POLL_MAX},
    metrics::Metrics,
};

pub use config::KafkaConfig;
pub use letters::{KafkaLetter, KafkaLetters, KafkaProblem, Which};
pub(crate) use producer::Producer;
pub(crate) use subscriber::Subscriber;

use topics::Topics;

/// Who cannot be reached when no broker answers.
const BROKERS: &str = "Kafka";
/// What is missing when a topic is not there and cannot be made.
const TOPICS: &str = "Kafka (topics)";

/// No change under these locks can be left half done by a panic, so a poisoned one is still whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the relays and subscribers of a bridge share.
pub(crate) struct Bus {
    pub(crate) config: KafkaConfig,
    pub(crate) producer: Producer,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    /// Whether the topics were there, or a broker said why not.
    ready: watch::Sender<bool>,
}

impl Bus {
    /// Connects to nothing yet: a bridge starts while Kafka is away. `relays_stop` is set when nobody
    /// is to wait for Kafka any longer.
    ///
    /// # Errors
    /// [`StartError::Config`]: a setting that librdkafka refuses.
    pub(crate) fn new(
        config: KafkaConfig,
        retention: Duration,
        metrics: Arc<Metrics>,
        relays_stop: watch::Receiver<bool>,
    ) -> Result<Bus, StartError> {
        config.check()?;
        let topics = Arc::new(Topics::new(config.clone(), retention)?);
        let producer = Producer::new(config.clone(), topics.clone(), metrics.clone(), relays_stop)?;
        Ok(Bus {
            config,
            producer,
            topics,
            metrics,
            ready: watch::Sender::new(false),
        })
    }

    /// Says once that the topics were looked for, and as long as it takes.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Makes the topics of the services and keeps an eye on the brokers until shutdown.
    pub(crate) async fn watch(
        self: Arc<Self>,
        services: Vec<ServiceSpec>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let names: Vec<String> = services
            .iter()
            .filter(|s| !s.subscribes.is_empty())
            .flat_map(|s| {
                let topics = s.subscribes.iter().map(|kind| self.config.topic(kind));
                topics.chain([self.config.dead_letters(&s.name)])
            })
            .collect();
        let (mut away, mut missing) = (false, !names.is_empty());
        self.ready.send_replace(names.is_empty());
        while !*shutdown.borrow() {
            let answer = tokio::select! {
                answer = self.topics.reachable() => answer,
                _ = shutdown.changed() => return,
            };
            match answer {
                Err(problem) => {
                    if !away {
                        tracing::warn!(
                            brokers = self.config.brokers,
                            problem,
                            "Kafka cannot be reached; events wait and the bridge keeps trying"
                        );
                    }
                    away = true;
                    self.metrics.reachable(BROKERS, Some(&problem));
                }
                Ok(()) => {
                    if away {
                        tracing::info!("Kafka can be reached again");
                    }
                    away = false;
                    self.metrics.reachable(BROKERS, None);
                    if missing {
                        let ensured = self.topics.ensure(names.iter().map(String::as_str)).await;
                        if let Err(problem) = &ensured {
                            tracing::warn!(problem, "a topic is missing; the bridge keeps trying");
                        }
                        missing = ensured.is_err();
                        self.metrics.reachable(TOPICS, ensured.err().as_deref());
                        self.ready.send_replace(true);
                    }
                }
            }
            let pause = if away { POLL_MAX } else { KAFKA_LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = shutdown.changed() => return,
            }
        }
    }
}
