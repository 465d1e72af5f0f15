//! What has to happen now and then: expired leases, retention, checkpoints, samples for gauges, and jobs that
//! another process (`innover jobs push`) has put into the file.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::Clock,
    jobs::{Jobs, Running},
    limits::{
        CHECKPOINT_EVERY, HOUSEKEEPING_EVERY, HOUSEKEEPING_ROWS, JOBS_LOOK_EVERY, LEASES_EVERY,
        OUTSIDE_EVERY, SAMPLE_EVERY,
    },
    metrics::Metrics,
    store::{Durability, Store, StoreError, events, micros_before},
};

/// The housekeeper.
pub(crate) struct Housekeeper {
    pub(crate) store: Store,
    pub(crate) jobs: Jobs,
    pub(crate) owner: String,
    /// What the queues' workers work on.
    pub(crate) running: Running,
    pub(crate) queues: Arc<HashMap<Arc<str>, Arc<Notify>>>,
    /// Names as a JSON array.
    pub(crate) subscribers: String,
    pub(crate) retention: Duration,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Housekeeper {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let look = match self.jobs {
            Jobs::File(_) => OUTSIDE_EVERY,
            Jobs::Server(_) => JOBS_LOOK_EVERY,
        };
        let (mut outside, mut leases) = (every(look), every(LEASES_EVERY));
        let (mut sample, mut retention) = (every(SAMPLE_EVERY), every(HOUSEKEEPING_EVERY));
        let mut checkpoint = every(CHECKPOINT_EVERY);
        let mut version = 0;
        // What was said of late: a server that is away fails every look.
        let mut said = None;
        loop {
            let done = tokio::select! {
                _ = outside.tick() => self.look_outside(&mut version).await,
                _ = leases.tick() => self.take_back_leases().await,
                _ = sample.tick() => self.sample().await,
                _ = checkpoint.tick() => self.store.checkpoint().await,
                _ = retention.tick() => {
                    said = None;
                    let retired = self.retire().await;
                    if let Ok(true) = retired {
                        retention.reset_immediately();
                    }
                    retired.map(drop)
                }
                _ = self.shutdown.changed() => return,
            };
            match done {
                Ok(()) => {}
                Err(StoreError::Closed) => return,
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() == Some(&text) {
                        continue;
                    }
                    said = Some(text);
                    tracing::warn!(%error, "housekeeping of the bridge's store failed; it is tried again")
                }
            }
        }
    }

    fn ring(&self) {
        self.queues.values().for_each(|bell| bell.notify_one());
    }

    /// Rings for jobs that somebody else has put on a queue.
    async fn look_outside(&self, version: &mut i64) -> Result<(), StoreError> {
        if let Jobs::Server(server) = &self.jobs {
            let queues: Vec<&str> = self.queues.keys().map(|queue| &**queue).collect();
            for queue in server.look(&queues).await? {
                if let Some(bell) = self.queues.get(queue.as_str()) {
                    bell.notify_one();
                }
            }
            return Ok(());
        }
        // The writer's `data_version` changes when a connection other than its own has committed,
        // and that is another process.
        let now = self
            .store
            .write(Durability::Normal, |c| {
                c.query_row("PRAGMA data_version", [], |r| r.get::<_, i64>(0))
            })
            .await?;
        if now != std::mem::replace(version, now) {
            self.ring();
        }
        Ok(())
    }

    async fn take_back_leases(&self) -> Result<(), StoreError> {
        let (owner, now) = (self.owner.clone(), self.clock.now());
        let back = self.jobs.take_back(owner, &self.running, now).await?;
        if back > 0 {
            tracing::warn!(back, "jobs whose lease ran out are queued again");
            self.metrics.leases_taken_back(back as u64);
            self.ring();
        }
        Ok(())
    }

    async fn sample(&self) -> Result<(), StoreError> {
        let sample = self.jobs.depths().await?;
        let queues: Vec<_> = self.queues.keys().cloned().collect();
        self.metrics.depths(&queues, &sample);
        let mut letters = self.store.read(events::dead_letters).await?;
        letters.extend(self.jobs.letters_shared().await?);
        self.metrics.dead_letters(&letters);
        Ok(())
    }

    /// Deletes some of what is too old or too many; returns whether a piece more is worth a round, which
    /// the little that grows old meanwhile is not. Small pieces, and the loop between two of them:
    /// deliveries go on, leases are taken back, samples are taken.
    async fn retire(&self) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let before = micros_before(now, self.retention);
        let subscribers = self.subscribers.clone();
        let events = self
            .store
            .write(Durability::Normal, move |c| {
                events::retire(c, &subscribers, before, HOUSEKEEPING_ROWS)
            })
            .await?;
        let jobs = self.jobs.retire(now).await?;
        // Of the oldest events some may have to stay.
        Ok(events >= HOUSEKEEPING_ROWS / 2 || jobs >= HOUSEKEEPING_ROWS)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn retention_comes_back_after_each_piece() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bridge.db");
        let store = Store::start(path.clone(), crate::store::claim(&path).unwrap()).unwrap();
        let metrics = Arc::new(Metrics::new(Clock::System));
        let jobs = Jobs::start(&store, None, "one", metrics.clone())
            .await
            .unwrap();
        let insert = "INSERT INTO event_log (id, topic, key, envelope, appended_at)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             SELECT i, 't', '', '{}', 0 FROM n";
        let rows = HOUSEKEEPING_ROWS as i64 + 1;
        store
            .write(Durability::Normal, move |c| c.execute(insert, [rows]))
            .await
            .unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let housekeeper = Housekeeper {
            store: store.clone(),
            jobs,
            owner: "one/1".into(),
            running: Running::default(),
            queues: Arc::default(),
            subscribers: "[]".into(),
            retention: Duration::ZERO,
            clock: Clock::System,
            metrics,
            shutdown,
        };
        let left = async || {
            let count = "SELECT count(*) FROM event_log";
            let read = store.read(move |c| c.query_row(count, [], |r| r.get::<_, i64>(0)));
            read.await.unwrap()
        };
        assert!(housekeeper.retire().await.unwrap());
        assert_eq!(left().await, 1);
        assert!(!housekeeper.retire().await.unwrap());
        assert_eq!(left().await, 0);
    }
}
