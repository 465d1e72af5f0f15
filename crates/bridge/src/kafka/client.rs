//! What librdkafka has to say, in the bridge's log.

use rdkafka::{ClientContext, config::RDKafkaLogLevel, error::KafkaError, statistics::Statistics};

/// The context of clients that nobody listens to.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        failed(&error, reason);
    }

    fn stats(&self, _: Statistics) {}
}

/// librdkafka reports every attempt to connect as an error. What keeps the bridge from its work is
/// said once, by readiness and the log of whoever waits for it.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// As [`log`].
pub(crate) fn failed(error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka");
}
