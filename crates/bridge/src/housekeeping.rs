//! What has to happen now and then: expired leases, retention, checkpoints, samples for gauges, and jobs that
//! another process (`innover jobs push`) has put into the file.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::Clock,
    limits::{
        CHECKPOINT_EVERY, FINISHED_KEEP, FINISHED_ROWS_MAX, HOUSEKEEPING_EVERY, HOUSEKEEPING_ROWS,
        LEASES_EVERY, OUTSIDE_EVERY, SAMPLE_EVERY,
    },
    metrics::Metrics,
    store::{Durability, Store, StoreError, events, jobs, micros_before},
};

/// The housekeeper.
pub(crate) struct Housekeeper {
    pub(crate) store: Store,
    pub(crate) owner: String,
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
        let (mut outside, mut leases) = (every(OUTSIDE_EVERY), every(LEASES_EVERY));
        let (mut sample, mut retention) = (every(SAMPLE_EVERY), every(HOUSEKEEPING_EVERY));
        let mut checkpoint = every(CHECKPOINT_EVERY);
        let mut version = 0;
        loop {
            let done = tokio::select! {
                _ = outside.tick() => self.look_outside(&mut version).await,
                _ = leases.tick() => self.take_back_leases().await,
                _ = sample.tick() => self.sample().await,
                _ = checkpoint.tick() => self.store.checkpoint().await,
                _ = retention.tick() => self.retire().await,
                _ = self.shutdown.changed() => return,
            };
            match done {
                Ok(()) => {}
                Err(StoreError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "housekeeping of the bridge's store failed; it is tried again")
                }
            }
        }
    }

    fn ring(&self) {
        self.queues.values().for_each(|bell| bell.notify_one());
    }

    /// The writer's `data_version` changes when a connection other than its own has committed, and
    /// that is another process.
    async fn look_outside(&self, version: &mut i64) -> Result<(), StoreError> {
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
        let back = self
            .store
            .write(Durability::Normal, move |c| {
                jobs::take_back(c, &owner, false, now)
            })
            .await?;
        if back > 0 {
            tracing::warn!(back, "jobs whose lease ran out are queued again");
            self.metrics.leases_taken_back(back as u64);
            self.ring();
        }
        Ok(())
    }

    async fn sample(&self) -> Result<(), StoreError> {
        let sample = self.store.read(jobs::depths).await?;
        let queues: Vec<_> = self.queues.keys().cloned().collect();
        self.metrics.depths(&queues, &sample);
        Ok(())
    }

    async fn retire(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let (events_before, jobs_before) = (
            micros_before(now, self.retention),
            micros_before(now, FINISHED_KEEP),
        );
        loop {
            let subscribers = self.subscribers.clone();
            // Small pieces, each its own command: deliveries go on in between.
            let deleted =
                self.store
                    .write(Durability::Normal, move |c| {
                        let events =
                            events::retire(c, &subscribers, events_before, HOUSEKEEPING_ROWS)?;
                        Ok(events
                            + jobs::retire(c, jobs_before, FINISHED_ROWS_MAX, HOUSEKEEPING_ROWS)?)
                    })
                    .await?;
            if deleted == 0 || *self.shutdown.borrow() {
                return Ok(());
            }
        }
    }
}
