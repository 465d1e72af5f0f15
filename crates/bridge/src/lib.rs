//! Carries events and jobs between services.
//!
//! ```text
//! outbox of a service ──relay──▶ event log ──delivery──▶ POST /_events of its subscribers
//!                       └──────▶ job queue ──queue─────▶ POST /_tasks of the queue's service
//!                 schedule ──────────▲
//! ```
//! It runs inside `innover up` (the [`Door`] calls components in this process) and, the same code,
//! as `innover bridge` beside stock Spin ([`HttpDoor`] calls the gateway). At least once everywhere:
//! consumers have an inbox. In order per key; nothing is dropped without a dead letter.
//!
//! Code map: `relay` reads each `outbox` (`announce` wakes those in other processes); `publish` commits to `store` and wakes readers; `tail` keeps the
//! newest events in memory; `subscription` decides what is delivered next and what an answer means
//! (pure); `delivery` and `queue` do it; `jobs` is where queues and schedules are kept, in the bridge's
//! file or in a database that bridges share; `celery` is the queues' other half, in Redis; `handover` is
//! what both do with a service; `kafka` takes the place of the log, and of `delivery`'s loop, where it
//! is configured; `schedule` is the clock; `housekeeping` is retention and
//! leases; `tasks` notices when one of these ends; `inspect` reads the file of a running bridge.
//!
//! Architecture invariant: `store`'s writer is the only one that changes the bridge's file, and a
//! second bridge on it does not start.
#![warn(missing_docs)]

mod announce;
mod api;
mod backoff;
mod celery;
mod clock;
mod config;
mod delivery;
mod door;
mod handover;
mod housekeeping;
pub mod inspect;
mod jobs;
mod kafka;
pub mod limits;
mod metrics;
mod outbox;
mod publish;
mod queue;
mod relay;
mod schedule;
mod store;
mod subscription;
mod tail;
mod tasks;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use innover_contract::Job;
use tokio::sync::{Notify, Semaphore, watch};

pub use announce::announce;
pub use api::JOBS_PATH;
pub use celery::inspect::{RedisProblem, RedisQueues, TaskResult};
pub use clock::Clock;
pub use config::{
    BridgeConfig, Database, Missed, Place, Queue, QueueSpec, RedisConfig, Route, Routes,
    ScheduleSpec, ServiceSpec, StartError, TaskSpec,
};
pub use delivery::redeliver;
pub use door::{
    CALLER, Delivery, Door, DoorError, EVENTS_PATH, HttpDoor, NoGate, TASKS_PATH, WriteGate,
};
pub use jobs::MIGRATIONS as JOBS_MIGRATIONS;
pub use kafka::{KafkaConfig, KafkaLetter, KafkaLetters, KafkaProblem, Which};
pub use store::StoreError;

use jobs::Jobs;
use metrics::Metrics;
use publish::{Item, Publisher};
use store::{Durability, Store, events};
use tail::Tail;
use tasks::Tasks;

/// Tells relays that their database has just committed. Cheap, never blocks: made to be called from
/// the host's commit hook.
#[derive(Clone, Default)]
pub struct Commits {
    relays: Arc<HashMap<String, Arc<Notify>>>,
}

impl Commits {
    /// One bell per database label of the services.
    pub fn new(services: &[ServiceSpec]) -> Commits {
        let labels = services.iter().filter_map(|s| s.database.as_ref());
        Commits {
            relays: Arc::new(labels.map(|d| (d.label.clone(), Arc::default())).collect()),
        }
    }

    /// The database called `label` has committed something.
    pub fn committed(&self, label: &str) {
        if let Some(relay) = self.relays.get(label) {
            relay.notify_one();
        }
    }
}

/// Whether the bridge does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// `problems` is empty.
    pub ready: bool,
    /// One sentence for each outbox that cannot be read, each service that cannot be reached and each
    /// task of the bridge that has ended.
    pub problems: Vec<String>,
}

/// What came of an enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It is on the queue.
    New,
    /// A job of this id was there before; nothing changed.
    Known,
}

/// Why a job was not enqueued.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// No queue takes it; the sentence says which name is unknown.
    #[error("{0}")]
    Unknown(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running bridge. Dropping it stops it at once, as a crash would; nothing is lost, but what was
/// under way is delivered again. [`Bridge::shutdown`] finishes it first.
pub struct Bridge {
    publisher: Publisher,
    routes: Arc<Routes>,
    metrics: Arc<Metrics>,
    clock: Clock,
    celery: Option<Arc<celery::Shared>>,
    workers: Tasks,
    relays: Tasks,
    stop_workers: watch::Sender<bool>,
    stop_relays: watch::Sender<bool>,
}

impl Bridge {
    /// Opens the store and starts every loop. `commits` is [`Commits::new`] of the same services (or
    /// the default when nobody tells: outboxes are then polled).
    ///
    /// # Errors
    /// [`StartError`]: a contradiction in the configuration, a store that is in use or unusable.
    pub async fn start(
        config: BridgeConfig,
        door: Arc<dyn Door>,
        gate: Arc<dyn WriteGate>,
        commits: Commits,
    ) -> Result<Bridge, StartError> {
        let BridgeConfig {
            services,
            store: path,
            shared,
            retention,
            clock,
            redis,
            kafka,
        } = config;
        let routes = Arc::new(Routes::new(&services)?);
        check(&services)?;
        let schedules = services
            .iter()
            .flat_map(|s| &s.schedules)
            .map(|s| schedule::Schedule::new(s, &routes))
            .collect::<Result<Vec<_>, _>>()?;

        let unusable = |source| StartError::Store {
            path: path.clone(),
            source,
        };
        let store = Store::start(path.clone(), claim(&path).await?).map_err(unusable)?;
        let metrics = Arc::new(Metrics::new(clock.clone()));
        let (instance, owner, head) = store
            .write(Durability::Full, move |c| {
                let (instance, life) = store::next_life(c)?;
                let owner = format!("{instance}/{life}");
                // The claim on the file proves that nobody else holds leases now.
                jobs::file::take_back_all(c)?;
                Ok((instance, owner, events::head(c)?))
            })
            .await
            .map_err(unusable)?;
        let jobs = Jobs::start(&store, shared.as_ref(), &instance, metrics.clone())
            .await
            .map_err(StartError::Jobs)?;

        let bells: HashMap<Arc<str>, Arc<Notify>> = services
            .iter()
            .filter(|s| !s.subscribes.is_empty())
            .map(|s| (s.name.as_str().into(), Arc::default()))
            .collect();
        let mut waiting: HashMap<String, Vec<Arc<Notify>>> = HashMap::new();
        for service in &services {
            for topic in &service.subscribes {
                waiting
                    .entry(topic.clone())
                    .or_default()
                    .extend(bells.get(service.name.as_str()).cloned());
            }
        }
        let tail = Arc::new(Tail::new(head, waiting));
        let queues: Arc<HashMap<Arc<str>, Arc<Notify>>> = Arc::new(
            routes
                .queues()
                .iter()
                .map(|q| (q.name.clone(), Arc::default()))
                .collect(),
        );
        let (stop_workers, workers_stop) = watch::channel(false);
        let (stop_relays, relays_stop) = watch::channel(false);
        let bus = kafka
            .map(|mut kafka| {
                kafka.instance.get_or_insert_with(|| instance.clone());
                kafka
            })
            .map(|kafka| kafka::Bus::new(kafka, retention, metrics.clone(), relays_stop.clone()))
            .transpose()?
            .map(Arc::new);
        let publisher = Publisher {
            kafka: bus.as_ref().map(|bus| bus.producer.clone()),
            store: store.clone(),
            jobs: jobs.clone(),
            tail: tail.clone(),
            queues: queues.clone(),
            metrics: metrics.clone(),
        };
        let relay_bells: HashMap<&str, Arc<Notify>> = services
            .iter()
            .filter_map(|s| {
                let label = &s.database.as_ref()?.label;
                Some((
                    s.name.as_str(),
                    commits.relays.get(label).cloned().unwrap_or_default(),
                ))
            })
            .collect();

        let mut workers = Tasks::new(metrics.clone(), workers_stop.clone());
        let mut relays = Tasks::new(metrics.clone(), relays_stop.clone());
        if let Some(bus) = &bus {
            let watch = bus.clone().watch(services.clone(), workers_stop.clone());
            workers.spawn("watch over Kafka", watch);
        }
        for service in &services {
            if let (Some(database), Some(wake)) =
                (&service.database, relay_bells.get(service.name.as_str()))
            {
                let relay = relay::Relay {
                    service: service.name.as_str().into(),
                    database: database.clone(),
                    publisher: publisher.clone(),
                    routes: routes.clone(),
                    // Without the life: this bridge's next one goes on at once, and its file's
                    // claim keeps two of one instance from being there together.
                    lease: Arc::new(outbox::Lease::of(instance.clone())),
                    gate: gate.clone(),
                    wake: wake.clone(),
                    clock: clock.clone(),
                    metrics: metrics.clone(),
                    shutdown: relays_stop.clone(),
                };
                relays.spawn(format!("relay of {}", service.name), relay.run());
            }
            if let Some(bus) = &bus
                && !service.subscribes.is_empty()
            {
                let subscriber = kafka::Subscriber {
                    service: service.name.as_str().into(),
                    kinds: service.subscribes.clone(),
                    batch: service
                        .event_batch
                        .clamp(1, innover_contract::limits::EVENT_BATCH_MAX),
                    bus: bus.clone(),
                    door: door.clone(),
                    relay: relay_bells.get(service.name.as_str()).cloned(),
                    clock: clock.clone(),
                    metrics: metrics.clone(),
                    shutdown: workers_stop.clone(),
                };
                let name = format!("events of {} from Kafka", service.name);
                workers.spawn(name, subscriber.run());
                let topics = serde_json::json!(service.subscribes).to_string();
                let name = service.name.clone();
                let owed = store.read(move |c| events::owes(c, &name, &topics)).await;
                if !owed.map_err(unusable)? {
                    continue;
                }
                // Published before Kafka was configured: nobody else would deliver them.
                tracing::info!(
                    subscriber = service.name,
                    "events from the time before Kafka are still delivered from the store"
                );
            }
            if let Some(bell) = bells.get(service.name.as_str()) {
                let subscriber = delivery::Subscriber {
                    service: service.name.as_str().into(),
                    topics: service.subscribes.iter().cloned().collect(),
                    batch: service
                        .event_batch
                        .clamp(1, innover_contract::limits::EVENT_BATCH_MAX),
                    store: store.clone(),
                    tail: tail.clone(),
                    door: door.clone(),
                    bell: bell.clone(),
                    relay: relay_bells.get(service.name.as_str()).cloned(),
                    clock: clock.clone(),
                    metrics: metrics.clone(),
                    shutdown: workers_stop.clone(),
                };
                workers.spawn(format!("events of {}", service.name), subscriber.run());
            }
        }
        let slots: HashMap<Arc<str>, Arc<Semaphore>> = routes
            .queues()
            .iter()
            .map(|q| (q.name.clone(), Arc::new(Semaphore::new(q.spec.concurrency))))
            .collect();
        let mut celery = None;
        if let Some(redis) = redis {
            let setup = celery::Setup {
                config: redis,
                routes: routes.clone(),
                door: door.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                owner: owner.clone(),
                slots: slots.clone(),
                relays: relay_bells
                    .iter()
                    .map(|(s, bell)| ((*s).into(), bell.clone()))
                    .collect(),
                shutdown: workers_stop.clone(),
            };
            celery = Some(celery::start(setup, &mut workers)?);
        }
        let running = jobs::Running::default();
        for queue in routes.queues() {
            let name = queue.name.clone();
            let worker = queue::Worker {
                slots: slots[&queue.name].clone(),
                celery: celery.clone(),
                bell: queues.get(&queue.name).cloned().unwrap_or_default(),
                relay: relay_bells.get(&*queue.service).cloned(),
                queue,
                jobs: jobs.clone(),
                door: door.clone(),
                owner: owner.clone(),
                running: running.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                shutdown: workers_stop.clone(),
            };
            workers.spawn(format!("queue {name}"), worker.run());
        }
        for schedule in schedules {
            let name = format!("schedule {}", schedule.id());
            let timer = schedule::Timer {
                bell: queues.get(schedule.queue()).cloned(),
                schedule,
                jobs: jobs.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                shutdown: workers_stop.clone(),
            };
            workers.spawn(name, timer.run());
        }
        let subscribers: Vec<&str> = services
            .iter()
            .filter(|s| !s.subscribes.is_empty())
            .map(|s| s.name.as_str())
            .collect();
        if let Some(bus) = bus {
            metrics.letters_on_kafka(None);
            let names = subscribers.iter().map(|&name| name.to_owned()).collect();
            let count = bus.count_letters(names, workers_stop.clone());
            workers.spawn("count of dead letters on Kafka", count);
        }
        let housekeeper = housekeeping::Housekeeper {
            store,
            jobs,
            owner,
            running,
            queues,
            subscribers: serde_json::json!(subscribers).to_string(),
            retention,
            clock: clock.clone(),
            metrics: metrics.clone(),
            shutdown: workers_stop,
        };
        workers.spawn("housekeeping", housekeeper.run());
        Ok(Bridge {
            publisher,
            routes,
            metrics,
            clock,
            celery,
            workers,
            relays,
            stop_workers,
            stop_relays,
        })
    }

    /// All numbers in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Whether outboxes are read and services reached.
    pub fn readiness(&self) -> Readiness {
        let problems = self.metrics.problems();
        Readiness {
            ready: problems.is_empty(),
            problems,
        }
    }

    /// Puts a job on `queue`, or on the queue of its task's prefix. When it returns the job survives
    /// a power cut.
    ///
    /// # Errors
    /// [`EnqueueError`]: an unknown queue or task, or the store refused.
    pub async fn enqueue(
        &self,
        queue: Option<&str>,
        mut job: Job,
    ) -> Result<Enqueued, EnqueueError> {
        let queue = self
            .routes
            .route(queue, &mut job)
            .map_err(EnqueueError::Unknown)?;
        let published = self
            .publisher
            // There is no other copy, as an outbox would be.
            .publish(
                vec![Item::Job { queue, job }],
                Durability::Full,
                self.clock.now(),
            )
            .await?;
        Ok(if published.known == 0 {
            Enqueued::New
        } else {
            Enqueued::Known
        })
    }

    /// Takes no more work, finishes what is under way, and relays what it has committed.
    pub async fn shutdown(mut self) {
        // Deliveries first: what they commit is then still relayed.
        self.stop_workers.send_replace(true);
        self.workers.join().await;
        self.stop_relays.send_replace(true);
        self.relays.join().await;
    }
}

/// Puts a job into the store of a bridge that runs in another process (it looks for such jobs every
/// 200 ms) or does not run at all. Blocks on the file.
///
/// # Errors
/// [`EnqueueError`]: an unknown queue or task, or the file refused.
pub fn enqueue(
    store: &Path,
    services: &[ServiceSpec],
    queue: Option<&str>,
    mut job: Job,
) -> Result<Enqueued, EnqueueError> {
    let routes = Routes::new(services).map_err(|e| EnqueueError::Unknown(e.to_string()))?;
    let queue = routes
        .route(queue, &mut job)
        .map_err(EnqueueError::Unknown)?;
    let connection = store::open(store)?;
    let new = jobs::file::enqueue(&connection, &queue, &job, Clock::System.now())
        .map_err(StoreError::from)?;
    Ok(if new { Enqueued::New } else { Enqueued::Known })
}

/// Waits a little for a bridge that is about to end.
async fn claim(path: &Path) -> Result<store::Claim, StartError> {
    let until = tokio::time::Instant::now() + limits::CLAIM_WAIT;
    loop {
        match store::claim(path) {
            Err(StartError::InUse(_)) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(limits::POLL_MIN).await;
            }
            other => return other,
        }
    }
}

fn check(services: &[ServiceSpec]) -> Result<(), StartError> {
    let mut names = HashSet::new();
    let mut labels = HashSet::new();
    for service in services {
        if !names.insert(&service.name) {
            return Err(StartError::Config(format!(
                "two services are called `{}`",
                service.name
            )));
        }
        // The source of an event is the database it was read from.
        if let Some(database) = &service.database
            && !labels.insert(&database.label)
        {
            return Err(StartError::Config(format!(
                "two services have the database `{}`",
                database.label
            )));
        }
    }
    Ok(())
}
