//! Where Kafka is and how to speak to it. The command line fills it from the environment.

use std::{collections::BTreeMap, fmt};

use rdkafka::ClientConfig;

use crate::{
    config::StartError,
    limits::{
        KAFKA_BATCH_BYTES, KAFKA_HEARTBEAT, KAFKA_LINGER, KAFKA_MESSAGE_BYTES_MAX,
        KAFKA_METADATA_EVERY, KAFKA_PREFETCH_EVENTS, KAFKA_PREFETCH_KBYTES, KAFKA_SESSION_TIMEOUT,
        SAMPLE_EVERY,
    },
};

/// Names of librdkafka that may be set from outside: how to get in, and nothing on which the
/// bridge's promises rest.
const PASSED: [&str; 6] = [
    "security.protocol",
    "client.id",
    "client.rack",
    "session.timeout.ms",
    "broker.address.family",
    "enable.ssl.certificate.verification",
];
/// The same, whole families.
const PASSED_FAMILIES: [&str; 2] = ["sasl.", "ssl."];

/// Kafka as the bus of events.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Put before the event's type to make the topic's name; several platforms may share a cluster.
    pub topic_prefix: String,
    /// Partitions of a topic that the bridge makes.
    pub partitions: i32,
    /// Copies of each partition of a topic that the bridge makes.
    pub replication: i32,
    /// The consumer group of a service is `<group_prefix>.<service>`.
    pub group_prefix: String,
    /// Tells this bridge from others across restarts; the bridge gives its own when there is none. A
    /// member that comes back under its name has its partitions at once, without it only when the
    /// session of the one that died has ended.
    pub instance: Option<String>,
    /// Known to every bridge of the platform and to nobody else: events claim to be of one of its
    /// services only with a signature by this key. Without one every writer of a topic is believed.
    pub signing_key: Option<String>,
    /// Further settings by librdkafka's names, e.g. `sasl.username`.
    pub settings: BTreeMap<String, String>,
}

/// Settings hold passwords: only their names are printed.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("group_prefix", &self.group_prefix)
            .field("instance", &self.instance)
            .field("signed", &self.signing_key.is_some())
            .field("settings", &self.settings.keys())
            .finish()
    }
}

impl KafkaConfig {
    /// Kafka at `brokers`, unprotected, with topics of three partitions and one copy.
    pub fn new(brokers: impl Into<String>) -> KafkaConfig {
        KafkaConfig {
            brokers: brokers.into(),
            topic_prefix: String::new(),
            partitions: 3,
            replication: 1,
            group_prefix: "innover".into(),
            instance: None,
            signing_key: None,
            settings: BTreeMap::new(),
        }
    }

    /// Reads settings as they stand in an environment; `None` without `KAFKA_BROKERS`.
    ///
    /// `KAFKA_BROKERS`, `KAFKA_TOPIC_PREFIX`, `KAFKA_PARTITIONS`, `KAFKA_REPLICATION_FACTOR`,
    /// `KAFKA_GROUP_PREFIX` and `KAFKA_SIGNING_KEY` are the fields. `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_*`, `KAFKA_SSL_*`,
    /// `KAFKA_CLIENT_ID`, `KAFKA_CLIENT_RACK`, `KAFKA_SESSION_TIMEOUT_MS`,
    /// `KAFKA_BROKER_ADDRESS_FAMILY` and `KAFKA_ENABLE_SSL_CERTIFICATE_VERIFICATION` are passed to
    /// librdkafka, in lower case with dots: `KAFKA_SASL_USERNAME` is `sasl.username`. Other names,
    /// such as those Kubernetes gives every container, mean nothing here.
    ///
    /// # Errors
    /// [`StartError::Config`]: a number that is none, or a value librdkafka does not know.
    pub fn from_settings<K: AsRef<str>, V: AsRef<str>>(
        settings: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Option<KafkaConfig>, StartError> {
        let mut config = KafkaConfig::new("");
        for (name, value) in settings {
            let (name, value) = (name.as_ref(), value.as_ref().trim());
            let Some(rest) = name.strip_prefix("KAFKA_") else {
                continue;
            };
            // An empty variable is how compose files leave one out.
            if value.is_empty() {
                continue;
            }
            match rest {
                "BROKERS" => config.brokers = value.to_owned(),
                "TOPIC_PREFIX" => config.topic_prefix = value.to_owned(),
                "GROUP_PREFIX" => config.group_prefix = value.to_owned(),
                "SIGNING_KEY" => config.signing_key = Some(value.to_owned()),
                "PARTITIONS" => config.partitions = count(name, value)?,
                "REPLICATION_FACTOR" => config.replication = count(name, value)?,
                _ => {
                    let own = rest.to_lowercase().replace('_', ".");
                    if PASSED.contains(&own.as_str())
                        || PASSED_FAMILIES.iter().any(|f| own.starts_with(f))
                    {
                        config.settings.insert(own, value.to_owned());
                    }
                }
            }
        }
        if config.brokers.is_empty() {
            return Ok(None);
        }
        config.check()?;
        Ok(Some(config))
    }

    /// Finds what librdkafka would refuse.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        if self.partitions < 1 || self.replication < 1 {
            return Err(StartError::Config(
                "Kafka: partitions and replication factor must be at least 1".into(),
            ));
        }
        if !self.topic_prefix.is_empty() {
            super::topics::legal(&self.topic_prefix)
                .map_err(|e| StartError::Config(format!("Kafka's topic prefix: {e}")))?;
        }
        let native = self.client().create_native_config();
        native.map(drop).map_err(|error| {
            let hint = match error.to_string().contains("not available at build time") {
                true => "; build with the feature `kafka-tls` for TLS and SCRAM",
                false => "",
            };
            StartError::Config(format!("Kafka: {error}{hint}"))
        })
    }

    /// What every client has.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", "innover");
        for (name, value) in &self.settings {
            // Only consumers have sessions.
            if name != "session.timeout.ms" {
                client.set(name, value);
            }
        }
        client
            .set("bootstrap.servers", &self.brokers)
            .set(
                "topic.metadata.refresh.interval.ms",
                KAFKA_METADATA_EVERY.as_millis().to_string(),
            )
            .set("reconnect.backoff.max.ms", "1000")
            // Idle connections come and go; that is no news.
            .set("log.connection.close", "false");
        client
    }

    /// A producer that neither loses, doubles nor reorders, whatever the brokers do.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Waits for as long as it takes: a message given up here while a later one of its key
            // went through would come after it when it is published again.
            .set("message.timeout.ms", "0")
            .set("linger.ms", KAFKA_LINGER.as_millis().to_string())
            .set("batch.size", KAFKA_BATCH_BYTES.to_string())
            .set("message.max.bytes", KAFKA_MESSAGE_BYTES_MAX.to_string())
            .set("compression.type", "lz4")
            // As Kafka's own clients do it: a key goes to the same partition whoever writes it.
            .set("partitioner", "murmur2_random");
        client
    }

    /// A member of a service's group.
    pub(crate) fn consumer(&self, service: &str) -> ClientConfig {
        let mut client = self.client();
        let session = self.settings.get("session.timeout.ms").cloned();
        if let Some(instance) = &self.instance {
            client.set("group.instance.id", instance);
        }
        client
            .set("group.id", self.group(service))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set(
                "session.timeout.ms",
                session.unwrap_or_else(|| KAFKA_SESSION_TIMEOUT.as_millis().to_string()),
            )
            .set(
                "heartbeat.interval.ms",
                KAFKA_HEARTBEAT.as_millis().to_string(),
            )
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            .set("queued.min.messages", KAFKA_PREFETCH_EVENTS.to_string())
            .set(
                "queued.max.messages.kbytes",
                KAFKA_PREFETCH_KBYTES.to_string(),
            )
            .set("fetch.wait.max.ms", "100")
            .set(
                "statistics.interval.ms",
                SAMPLE_EVERY.as_millis().to_string(),
            );
        client
    }

    /// A consumer that reads a topic from end to end and is no member of a group.
    pub(crate) fn reader(&self) -> ClientConfig {
        let mut client = self.client();
        client
            // The client demands a name; nothing is committed under it.
            .set("group.id", self.group("reader"))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false");
        client
    }

    /// The consumer group of a service.
    pub fn group(&self, service: &str) -> String {
        format!("{}.{service}", self.group_prefix)
    }

    /// The topic of an event type.
    pub fn topic(&self, kind: &str) -> String {
        format!("{}{kind}", self.topic_prefix)
    }

    /// The topic that keeps what a service could not be given.
    pub fn dead_letters(&self, service: &str) -> String {
        format!("{}{service}.dead-letters", self.topic_prefix)
    }

    /// The event type of a topic.
    pub(crate) fn kind<'a>(&self, topic: &'a str) -> &'a str {
        topic
            .strip_prefix(self.topic_prefix.as_str())
            .unwrap_or(topic)
    }
}

fn count(name: &str, value: &str) -> Result<i32, StartError> {
    match value.parse() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err(StartError::Config(format!(
            "{name}={value}: a whole number of at least 1 is needed"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_environments_names_and_passwords_are_not_printed() {
        let config = KafkaConfig::from_settings([
            ("KAFKA_BROKERS", "a:9092,b:9092"),
            ("KAFKA_TOPIC_PREFIX", "eu."),
            ("KAFKA_PARTITIONS", "12"),
            ("KAFKA_REPLICATION_FACTOR", "3"),
            ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
            ("KAFKA_SASL_MECHANISM", "PLAIN"),
            ("KAFKA_SASL_USERNAME", "innover"),
            ("KAFKA_SASL_PASSWORD", "hush-hush"),
            ("KAFKA_SSL_CA_LOCATION", ""),
            ("KAFKA_SIGNING_KEY", "hush"),
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_ACKS", "0"),
            ("REDIS_URL", "redis://x"),
        ])
        .expect("it is in order")
        .expect("brokers are named");
        assert_eq!(
            (
                config.partitions,
                config.replication,
                config.topic("payment.initiated")
            ),
            (12, 3, "eu.payment.initiated".into())
        );
        let names: Vec<&str> = config.settings.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "sasl.mechanism",
                "sasl.password",
                "sasl.username",
                "security.protocol"
            ],
            "what the promises rest on cannot be set"
        );
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        assert_eq!(config.kind("eu.payment.initiated"), "payment.initiated");
    }

    #[test]
    fn without_brokers_there_is_no_kafka_and_nonsense_is_refused() {
        let none: [(&str, &str); 1] = [("KAFKA_TOPIC_PREFIX", "x")];
        assert!(matches!(KafkaConfig::from_settings(none), Ok(None)));
        for (name, value) in [
            ("KAFKA_PARTITIONS", "0"),
            ("KAFKA_REPLICATION_FACTOR", "many"),
            ("KAFKA_SECURITY_PROTOCOL", "carrier-pigeon"),
            ("KAFKA_TOPIC_PREFIX", "no blanks"),
        ] {
            let refused = KafkaConfig::from_settings([("KAFKA_BROKERS", "a:1"), (name, value)]);
            assert!(refused.is_err(), "{name}={value}");
        }
    }

    #[test]
    fn tls_is_there_or_the_answer_says_how_to_get_it() {
        let asked = KafkaConfig::from_settings([
            ("KAFKA_BROKERS", "a:1"),
            ("KAFKA_SECURITY_PROTOCOL", "ssl"),
        ]);
        assert_eq!(asked.is_ok(), cfg!(feature = "kafka-tls"), "{asked:?}");
        if let Err(refused) = asked {
            assert!(refused.to_string().contains("`kafka-tls`"), "{refused}");
        }
    }

    #[test]
    fn every_clients_settings_are_known_to_librdkafka() {
        let config = KafkaConfig::new("127.0.0.1:1");
        for client in [
            config.client(),
            config.producer(),
            config.consumer("forex"),
            config.reader(),
        ] {
            client.create_native_config().expect("known");
        }
    }
}
