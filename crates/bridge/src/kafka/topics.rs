//! Topics that are there before anybody needs them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::{KafkaResult, RDKafkaErrorCode},
    metadata::Metadata,
};

use super::{client::Quiet, config::KafkaConfig, locked};
use crate::{
    config::StartError,
    limits::{KAFKA_ADMIN_WAIT, KAFKA_MESSAGE_BYTES_MAX},
};

/// The longest name Kafka takes.
const NAME_BYTES_MAX: usize = 249;

/// Makes topics; a name that was seen once is not asked for again.
pub(crate) struct Topics {
    admin: Mutex<Arc<AdminClient<Quiet>>>,
    config: KafkaConfig,
    retention_ms: String,
    known: Mutex<HashSet<String>>,
}

/// Whether Kafka takes the name (its `Topic.validate`).
pub(crate) fn legal(name: &str) -> Result<(), String> {
    let signs = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name {
        "" | "." | ".." => Err(format!("`{name}` is no name for a topic")),
        _ if name.len() > NAME_BYTES_MAX => Err(format!(
            "a topic's name has at most {NAME_BYTES_MAX} characters, `{name}` has {}",
            name.len()
        )),
        _ if !name.chars().all(signs) => Err(format!(
            "a topic's name is made of letters, digits, `.`, `_` and `-`, and `{name}` is not"
        )),
        _ => Ok(()),
    }
}

fn client(config: &KafkaConfig) -> KafkaResult<Arc<AdminClient<Quiet>>> {
    Ok(Arc::new(config.client().create_with_context(Quiet)?))
}

impl Topics {
    pub(crate) fn new(config: KafkaConfig, retention: Duration) -> Result<Topics, StartError> {
        let admin = client(&config).map_err(|e| StartError::Config(format!("Kafka: {e}")))?;
        Ok(Topics {
            admin: Mutex::new(admin),
            config,
            retention_ms: retention.as_millis().to_string(),
            known: Mutex::default(),
        })
    }

    /// Makes those of the topics that are not there. One that is there stays as it is.
    ///
    /// # Errors
    /// Why one of them neither is there nor could be made.
    pub(crate) async fn ensure(&self, names: impl IntoIterator<Item = &str>) -> Result<(), String> {
        let missing: Vec<String> = {
            let known = locked(&self.known);
            let unknown = names.into_iter().filter(|n| !known.contains(*n));
            unknown
                .map(str::to_owned)
                .collect::<HashSet<_>>()
                .into_iter()
                .collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        // A delivery's size is the relay's limit; the broker's own would be smaller.
        let bytes = KAFKA_MESSAGE_BYTES_MAX.to_string();
        let wanted: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|name| self.new_topic(name, &bytes))
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(KAFKA_ADMIN_WAIT))
            .operation_timeout(Some(KAFKA_ADMIN_WAIT));
        let admin = self.admin();
        let created = admin.create_topics(&wanted, &options);
        // Its own limits are kept by threads of its own.
        let results = match tokio::time::timeout(KAFKA_ADMIN_WAIT * 2, created).await {
            Ok(results) => results.map_err(|e| e.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        let results = results.inspect_err(|_| self.start_over(&admin))?;
        let mut refused = Vec::new();
        for result in results {
            match result {
                Ok(name) => {
                    tracing::info!(topic = name, "topic made");
                    locked(&self.known).insert(name);
                }
                Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => {
                    locked(&self.known).insert(name);
                }
                Err((name, error)) => refused.push((name, error)),
            }
        }
        // Who may not make topics may still use those an operator made.
        for (name, error) in refused {
            if !self.exists(&name).await {
                self.start_over(&admin);
                return Err(format!("the topic {name} could not be made: {error}"));
            }
            locked(&self.known).insert(name);
        }
        Ok(())
    }

    /// The topic may be gone: it is looked for again.
    pub(crate) fn doubt(&self, name: &str) {
        locked(&self.known).remove(name);
    }

    fn new_topic<'a>(&'a self, name: &'a str, bytes: &'a str) -> NewTopic<'a> {
        let copies = TopicReplication::Fixed(self.config.replication);
        // Letters are few and are kept until somebody has dealt with them.
        let letters = name.ends_with(".dead-letters");
        let partitions = if letters { 1 } else { self.config.partitions };
        let topic = NewTopic::new(name, partitions, copies).set("max.message.bytes", bytes);
        match letters {
            // Whatever the brokers' defaults are.
            true => topic.set("retention.ms", "-1").set("retention.bytes", "-1"),
            false => topic.set("retention.ms", &self.retention_ms),
        }
    }

    async fn exists(&self, name: &str) -> bool {
        let name = name.to_owned();
        self.ask(move |metadata| metadata.topics().iter().any(|t| t.name() == name))
            .await
            .unwrap_or(false)
    }

    /// Whether a broker answers.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) async fn reachable(&self) -> Result<(), String> {
        let admin = self.admin();
        let asked = self.ask(|_| ()).await;
        asked.inspect_err(|_| self.start_over(&admin))
    }

    /// The next to ask is a new client, unless it is one already: one that was told of no brokers finds
    /// none again (https://github.com/confluentinc/librdkafka/issues/5301).
    fn start_over(&self, failed: &Arc<AdminClient<Quiet>>) {
        let mut admin = locked(&self.admin);
        if Arc::ptr_eq(&admin, failed)
            && let Ok(new) = client(&self.config)
        {
            let old = std::mem::replace(&mut *admin, new);
            // It waits for its threads.
            tokio::task::spawn_blocking(move || drop(old));
        }
    }

    fn admin(&self) -> Arc<AdminClient<Quiet>> {
        locked(&self.admin).clone()
    }

    /// Asks for all topics: a question about one could make it, where brokers do so by themselves.
    async fn ask<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Metadata) -> T + Send + 'static,
    ) -> Result<T, String> {
        let admin = self.admin();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(None, KAFKA_ADMIN_WAIT);
            metadata.map(|m| read(&m)).map_err(|e| e.to_string())
        });
        asked.await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_kafka_does() {
        let long = "x".repeat(250);
        for (name, good) in [
            ("payment.initiated", true),
            ("eu_1-x.Y", true),
            ("", false),
            ("..", false),
            ("with blank", false),
            ("ümlaut", false),
            (long.as_str(), false),
        ] {
            assert_eq!(legal(name).is_ok(), good, "{name}");
        }
    }
}
