//! The one way into the bus and the queues: a commit, then the wake-up of whoever waits. Events go to
//! Kafka where it is configured, jobs into the database that bridges share, and what has no such
//! place into the store; there all of it is one commit.

use std::{collections::HashMap, sync::Arc};

use innover_contract::Job;
use tokio::sync::Notify;

use crate::{
    jobs::{Jobs, file},
    kafka,
    metrics::Metrics,
    store::{
        self, Durability, Store, StoreError,
        events::{self, LogEvent, NewDeadLetter, NewEvent},
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
    pub(crate) jobs: Jobs,
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
        items: Vec<Item>,
        durability: Durability,
        now: i64,
    ) -> Result<Published, StoreError> {
        if let (None, Jobs::File(_)) = (&self.kafka, &self.jobs) {
            return self.store(items, durability, now).await;
        }
        let is_event = |item: &Item| matches!(item, Item::Event(_));
        let (events, others): (Vec<_>, Vec<_>) = items.into_iter().partition(is_event);
        // Jobs first: they go on while the bus is away.
        let mut published = match others.is_empty() {
            true => Published::default(),
            false => self.keep(others, durability, now).await?,
        };
        if events.is_empty() {
            return Ok(published);
        }
        let Some(kafka) = &self.kafka else {
            let events = self.store(events, durability, now).await?;
            published.known += events.known;
            return Ok(published);
        };
        let events: Vec<NewEvent> = events
            .into_iter()
            .filter_map(|item| match item {
                Item::Event(event) => Some(event),
                _ => None,
            })
            .collect();
        let refused = kafka.publish(&events).await?;
        if !refused.is_empty() {
            let letters = refused.into_iter().map(Item::Dead).collect();
            self.keep(letters, durability, now).await?;
        }
        Ok(published)
    }

    /// Puts jobs and dead letters where they are kept, all or nothing.
    async fn keep(
        &self,
        items: Vec<Item>,
        durability: Durability,
        now: i64,
    ) -> Result<Published, StoreError> {
        let Jobs::Server(server) = &self.jobs else {
            return self.store(items, durability, now).await;
        };
        let (mut jobs, mut letters) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Job { queue, job } => jobs.push((queue, job)),
                Item::Dead(letter) => letters.push(letter),
                Item::Event(_) => {}
            }
        }
        let put = server.put(&jobs, &letters).await?;
        if durability == Durability::Full {
            server.harden().await?;
        }
        for (queue, count) in &put.jobs {
            self.metrics.enqueued(queue, *count);
            if let Some(bell) = self.queues.get(queue.as_str()) {
                bell.notify_one();
            }
        }
        self.metrics.published(&[], put.known);
        put.letters
            .iter()
            .for_each(|kind| self.metrics.parked(kind));
        Ok(Published {
            known: put.known,
            ..Published::default()
        })
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
                    Item::Job { queue, job } => match file::enqueue(c, &queue, &job, now)? {
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
        // What Kafka has acknowledged it has for good.
        if self.kafka.is_none() || matches!(self.jobs, Jobs::File(_)) {
            self.store
                .write(Durability::Full, move |c| store::barrier(c, now))
                .await?;
        }
        match &self.jobs {
            Jobs::File(_) => Ok(()),
            Jobs::Server(server) => server.harden().await,
        }
    }
}
