//! The bus of events, as the environment has it: Kafka with `KAFKA_BROKERS`, else the bridge's file.

use anyhow::Result;
use innover_bridge::KafkaConfig;

use crate::{
    keys::BRIDGE,
    secrets::{self, Secrets},
};

/// Kafka, when it is configured. Events are signed by a key that follows from the bridge's secret
/// unless `KAFKA_SIGNING_KEY` is one.
pub fn kafka(secrets: &Secrets) -> Result<Option<KafkaConfig>> {
    let Some(mut config) = unsigned()? else {
        return Ok(None);
    };
    if config.signing_key.is_none() {
        let secret = secrets.services.get(BRIDGE);
        config.signing_key = secret.map(|s| secrets::derive(s, "signature of events"));
    }
    Ok(Some(config))
}

/// The same to read with: nothing is written by it.
pub fn unsigned() -> Result<Option<KafkaConfig>> {
    // Names that are no text mean nothing here.
    let settings = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(KafkaConfig::from_settings(settings)?)
}

/// For people.
pub fn shown(kafka: Option<&KafkaConfig>) -> String {
    match kafka {
        None => "events through the bridge's file".to_owned(),
        Some(config) => format!("events through Kafka at {}", config.brokers),
    }
}
