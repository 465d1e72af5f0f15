//! Counts the letters that are not settled, for the metrics.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use super::{
    KafkaProblem,
    reading::{Reading, Topics},
};
use crate::{
    kafka::{Bus, config::KafkaConfig},
    limits::{KAFKA_LETTERS_AGAIN, KAFKA_LETTERS_EVERY},
};

/// Counts letters, each once however many there are: a count goes on from the one before.
struct Count {
    config: KafkaConfig,
    /// By topic.
    readings: BTreeMap<String, Reading<()>>,
}

impl Count {
    /// Reads what is new on every topic, whatever becomes of the others. Returns the number of letters,
    /// once each topic was read to its end, and the first problem.
    fn go_on(&mut self, stop: impl Fn() -> bool) -> (Option<usize>, Result<(), KafkaProblem>) {
        let topics = match Topics::open(&self.config) {
            Ok(topics) => topics,
            Err(problem) => return (None, Err(problem)),
        };
        let mut result = Ok(());
        for (topic, reading) in &mut self.readings {
            // A topic that was made anew and has as many messages again looks as if nothing was new.
            let old = reading.whole && reading.since.elapsed() > KAFKA_LETTERS_AGAIN;
            let mut again = Reading::default();
            let read = topics.read(topic, if old { &mut again } else { reading }, drop, &stop);
            if old && read.is_ok() {
                *reading = again;
            }
            result = result.and(read);
        }
        let all = self.readings.values().all(|reading| reading.whole);
        let open = self.readings.values().map(|reading| reading.open.len());
        (all.then(|| open.sum()), result)
    }
}

impl Bus {
    /// Counts the letters of services until shutdown.
    pub(crate) async fn count_letters(
        self: Arc<Self>,
        services: Vec<String>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let topics = services.iter().map(|name| self.config.dead_letters(name));
        let mut count = Count {
            config: self.config.clone(),
            readings: topics.map(|topic| (topic, Reading::default())).collect(),
        };
        // What was said of late: a broker that is away fails every count.
        let mut said = None;
        loop {
            let told = shutdown.clone();
            let counting = tokio::task::spawn_blocking(move || {
                // The end of the process waits for this thread.
                let stop = || *told.borrow() || told.has_changed().is_err();
                let counted = count.go_on(stop);
                (count, counted)
            });
            let done = tokio::select! {
                done = counting => done,
                _ = shutdown.changed() => return,
            };
            let Ok((back, (letters, result))) = done else {
                return;
            };
            count = back;
            if letters.is_some() {
                self.metrics.letters_on_kafka(letters);
            }
            let problem = result.err().map(|problem| problem.to_string());
            if let Some(problem) = &problem
                && said.as_ref() != Some(problem)
            {
                tracing::warn!(
                    problem,
                    "dead letters on Kafka cannot be counted; it is tried again"
                );
            }
            said = problem;
            tokio::select! {
                () = tokio::time::sleep(KAFKA_LETTERS_EVERY) => {}
                _ = shutdown.changed() => return,
            }
        }
    }
}
