//! The one way into the bus and the queues: a commit, then the wake-up of whoever waits. With Kafka
//! events go there, and everything else into the store as before.

use std::{collections::HashMap, sync::Arc};

use innover_contract::Job;
use tokio::sync::Notify;

use crate::{
    kafka,
    metrics::Metrics,
    store::{
        self, Durability, Store, StoreError,
        events::{self, LogEvent, NewDeadLetter, NewEvent},
        jobs,
    },
    tail::Tail,
};

/// Something to publish.
pub(crate) enum Item {
    Event(NewEvent),
    /// A job whose queue is known.
    Job {
        queue: Arc<str>,
        job: Job,
    },
    /// It cannot be read, or nobody takes it.
    Dead(NewDeadLetter),
}

/// What became of a list of items.
#[derive(Debug, Default)]
pub(crate) struct Published {
    events: Vec<Arc<LogEvent>>,
    /// Jobs that are new, by queue.
    pub(crate) jobs: HashMap<Arc<str>, u64>,
    /// Ids that were known already.
    pub(crate) known: u64,
    dead: Vec<&'static str>,
}

/// Publishes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) tail: Arc<Tail>,
    /// Queue → its workers' bell.
    pub(crate) queues: Arc<HashMap<Arc<str>, Arc<Notify>>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where events go when they do not go into the store.
    pub(crate) kafka: Option<kafka::Producer>,
}

impl Publisher {
    /// Publishes all; after an error all is to be published again, and what was there is known by its
    /// id.
    pub(crate) async fn publish(
        &self,
        mut items: Vec<Item>,
        durability: Durability,
        now: i64,
    ) -> Result<Published, StoreError> {
        let Some(kafka) = &self.kafka else {
            return self.store(items, durability, now).await;
        };
        let mut events = Vec::new();
        items = items
            .into_iter()
            .filter_map(|item| match item {
                Item::Event(event) => {
                    events.push(event);
                    None
                }
                other => Some(other),
            })
            .collect();
        // The store first: jobs go on while Kafka is away.
        let published = match items.is_empty() {
            true => Published::default(),
            false => self.store(items, durability, now).await?,
        };
        if !events.is_empty() {
            let refused = kafka.publish(&events).await?;
            if !refused.is_empty() {
                let letters = refused.into_iter().map(Item::Dead).collect();
                self.store(letters, durability, now).await?;
            }
        }
        Ok(published)
    }

    /// Commits all or nothing.
    async fn store(
        &self,
        items: Vec<Item>,
        durability: Durability,
        now: i64,
    ) -> Result<Published, StoreError> {
        let (tail, queues, metrics) =
            (self.tail.clone(), self.queues.clone(), self.metrics.clone());
        let work = move |c: &rusqlite::Connection| {
            let mut published = Published::default();
            for item in items {
                match item {
                    Item::Event(event) => match events::append(c, event, now)? {
                        Some(event) => published.events.push(event),
                        None => published.known += 1,
                    },
                    Item::Job { queue, job } => match jobs::enqueue(c, &queue, &job, now)? {
                        true => *published.jobs.entry(queue).or_default() += 1,
                        false => published.known += 1,
                    },
                    Item::Dead(letter) => {
                        if events::bury(c, &letter, now)? {
                            published.dead.push(letter.kind);
                        }
                    }
                }
            }
            Ok(published)
        };
        // On the writer rather than here: two relays' events enter the tail in seq order.
        let after = move |published: &Published| {
            metrics.published(&published.events, published.known);
            tail.append(&published.events);
            for (queue, count) in &published.jobs {
                metrics.enqueued(queue, *count);
                if let Some(bell) = queues.get(queue) {
                    bell.notify_one();
                }
            }
            published.dead.iter().for_each(|kind| metrics.parked(kind));
        };
        self.store.write_then(durability, work, after).await
    }

    /// When it returns, a power cut loses nothing that was published before.
    pub(crate) async fn harden(&self, now: i64) -> Result<(), StoreError> {
        self.store
            .write(Durability::Full, move |c| store::barrier(c, now))
            .await
    }
}
