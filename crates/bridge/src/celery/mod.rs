//! Celery's wire: unmodified Celery clients put jobs on lists in Redis, this takes them to their
//! services and leaves results where the clients wait (protocol 2; celery 5.3 to 5.7, kombu).
//!
//! Code map: `connection` is the one connection; `message` and `signature` read what clients send,
//! `canvas` says what follows from a task's end (both pure), `outcome` what its client reads;
//! `worker` moves jobs, one per queue, by the scripts beside it, `flight` is one delivery and
//! `settlement` what is written of it; `control` and `events` are what
//! `inspect` and Flower see; `dead` is what is kept of messages nobody will try again.
//!
//! Architecture invariant: a message is in exactly one place (a list, a lease, the delayed ones, the
//! dead letters) at every moment, since only scripts move it.

mod canvas;
mod connection;
mod control;
mod dead;
mod events;
mod flight;
pub(crate) mod inspect;
mod keys;
mod message;
mod outcome;
mod registry;
mod revoked;
mod settlement;
mod signature;
mod worker;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use redis::Value as Reply;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::{Clock, micros},
    config::{Queue, RedisConfig, Routes, StartError},
    door::Door,
    jobs::{Leased, Outcome},
    limits::{HEARTBEAT_EVERY, REPLY_EXPIRES, REVOKED_KEEP, SAMPLE_EVERY, TASK_EVENTS_EVERY},
    metrics::Metrics,
    tasks::Tasks,
};
use canvas::Sender;
use connection::{Redis, Ring, Said, passes};
use control::Command;
use keys::{Keys, REVOKED, REVOKED_VERSION};
use message::Message;
use outcome::{Exception, State, Stored};
use worker::{UnderWay, Worker};

/// What every part of it needs.
pub(crate) struct Shared {
    redis: Arc<Redis>,
    routes: Arc<Routes>,
    door: Arc<dyn Door>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// `<instance>/<life>-<random>/`, then the queue adds its own number.
    lease_prefix: String,
    events: events::Events,
    registry: registry::Registry,
    revoked: revoked::Revoked,
    /// Queue or alias → its bell.
    bells: HashMap<String, Arc<Notify>>,
    started: Instant,
}

/// What is told to [`start`].
pub(crate) struct Setup {
    pub(crate) config: RedisConfig,
    pub(crate) routes: Arc<Routes>,
    pub(crate) door: Arc<dyn Door>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    /// `<instance>/<life>`: whose leases these are.
    pub(crate) owner: String,
    /// Per queue, shared with the embedded one.
    pub(crate) slots: HashMap<Arc<str>, Arc<Semaphore>>,
    /// Per queue's service: its relay.
    pub(crate) relays: HashMap<Arc<str>, Arc<Notify>>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Starts the workers of every queue. They wait when there is no Redis.
///
/// # Errors
/// [`StartError::Config`]: an address that is none.
pub(crate) fn start(setup: Setup, tasks: &mut Tasks) -> Result<Arc<Shared>, StartError> {
    let Setup {
        config,
        routes,
        door,
        clock,
        metrics,
        owner,
        slots,
        relays,
        shutdown,
    } = setup;
    let redis = Arc::new(Redis::new(&config.broker, config.backend.as_deref())?);
    let queues = routes.queues();
    let mut bells: HashMap<String, Arc<Notify>> = HashMap::new();
    for queue in &queues {
        let bell: Arc<Notify> = Arc::default();
        for name in std::iter::once(&queue.spec.name).chain(&queue.spec.aliases) {
            bells.insert(name.clone(), bell.clone());
        }
    }
    let shared = Arc::new(Shared {
        redis: redis.clone(),
        routes,
        door,
        clock,
        metrics: metrics.clone(),
        events: events::Events::new(host(&owner)),
        // A life's number comes again when the bridge's file is restored from a copy.
        lease_prefix: format!(
            "{owner}-{:x}/",
            uuid::Uuid::now_v7().as_u128() & 0xffff_ffff
        ),
        registry: registry::Registry::default(),
        revoked: revoked::Revoked::new(),
        bells,
        started: Instant::now(),
    });
    let (said, heard) = mpsc::unbounded_channel();
    // A name that begins with another one is covered by it, and Redis refuses both together.
    let names: Vec<&String> = shared.bells.keys().collect();
    let prefixes = names
        .iter()
        .filter(|name| {
            !names
                .iter()
                .any(|other| other != *name && name.starts_with(other.as_str()))
        })
        .map(|name| (*name).clone())
        .collect();
    let ringing = shared.clone();
    let ring: Ring = Arc::new(move |key| ringing.ring(key));
    tasks.spawn(
        "connection to Redis",
        redis.run(prefixes, ring, said, metrics, shutdown.clone()),
    );
    tasks.spawn(
        "remote control in Redis",
        shared
            .clone()
            .listen(heard, queues.clone(), shutdown.clone()),
    );
    tasks.spawn(
        "heartbeats in Redis",
        shared.clone().tell(queues.clone(), shutdown.clone()),
    );
    for queue in queues {
        let name = format!("queue {} in Redis", queue.name);
        let worker = Worker {
            shared: shared.clone(),
            slots: slots
                .get(&queue.name)
                .cloned()
                .unwrap_or_else(|| Arc::new(Semaphore::new(1))),
            bell: shared.bells.get(&*queue.name).cloned().unwrap_or_default(),
            relay: relays.get(&queue.service).cloned(),
            under_way: UnderWay::default(),
            queue,
            shutdown: shutdown.clone(),
        };
        tasks.spawn(name, worker.run());
    }
    Ok(shared)
}

/// What stands after `@` in a worker's name: two bridges on one machine are two workers, and one that
/// starts again is the same.
fn host(owner: &str) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = machine.trim();
    let instance = owner.split('/').next().unwrap_or_default();
    let tail = instance
        .get(instance.len().saturating_sub(4)..)
        .unwrap_or_default();
    format!(
        "{}-{tail}",
        if machine.is_empty() {
            "localhost"
        } else {
            machine
        }
    )
}

impl Shared {
    /// The operator's view; `None` while there is no connection.
    pub(crate) fn queues(&self) -> Option<inspect::RedisQueues> {
        let up = self.redis.is_up();
        up.then(|| inspect::RedisQueues::of(self.redis.clone(), self.routes.queues()))
    }

    /// Stores results of jobs that were pushed through Redis and kept in the bridge's own queue. The
    /// result is in the bridge's file too, so one that Redis does not take is only noted.
    pub(crate) async fn store_results<'a>(
        &self,
        queue: &Queue,
        jobs: impl Iterator<Item = &'a (Leased, Outcome)>,
    ) {
        let failed = |job: &Leased, state, exception: Exception| {
            let traceback =
                (state == State::Failure).then(|| exception.traceback(&job.task, &job.id));
            Stored {
                traceback,
                ..Stored::new(&job.id, state, exception.raw())
            }
        };
        let results: Vec<Stored> = jobs
            .filter_map(|(job, outcome)| match outcome {
                Outcome::Done { result } => Some(Stored::new(
                    &job.id,
                    State::Success,
                    signature::raw(result.clone()),
                )),
                Outcome::Expired => {
                    Some(failed(job, State::Revoked, Exception::revoked("expired")))
                }
                Outcome::GivenUp { error, code, .. } => Some(failed(
                    job,
                    State::Failure,
                    Exception::of_problem(code, error),
                )),
                Outcome::Retry { .. } | Outcome::Returned => None,
            })
            .collect();
        if results.is_empty() {
            return;
        }
        let commands = settlement::store(&self.redis, queue, results, self.clock.now());
        if let Err(error) = self.redis.query::<Reply>(&commands).await {
            tracing::warn!(queue = &*queue.name, %error, "results were not stored in Redis; `innover jobs show` has them");
        }
    }

    /// A list has changed; all may have when it is not named.
    fn ring(&self, key: Option<&str>) {
        let Some(key) = key else {
            return self.bells.values().for_each(|bell| bell.notify_one());
        };
        let queue = key.split('\u{6}').next().unwrap_or(key);
        if let Some(bell) = self.bells.get(queue) {
            bell.notify_one();
        }
    }

    /// How tasks are sent that follow from `message`, which came by `queue`.
    fn sender<'a>(&'a self, queue: &'a Queue, message: &'a Message) -> Sender<'a> {
        Sender {
            route: self,
            queue: &queue.spec.name,
            root: message.root(),
            parent: &message.headers.id,
            traceparent: message.headers.traceparent.as_deref(),
        }
    }

    /// Reads the revoked ids again; `false` when they cannot be read.
    async fn load_revoked(&self) -> bool {
        let mut commands = redis::pipe();
        commands.cmd("GET").arg(REVOKED_VERSION);
        commands.cmd("ZRANGE").arg(REVOKED).arg(0).arg(-1);
        match self
            .redis
            .query::<(Option<String>, HashSet<String>)>(&commands)
            .await
        {
            Ok((version, ids)) => {
                self.revoked
                    .replace(version.unwrap_or_else(|| "0".into()), ids);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the revoked ids cannot be read; what was fetched waits");
                false
            }
        }
    }

    /// Hears what the server says.
    async fn listen(
        self: Arc<Self>,
        mut heard: mpsc::UnboundedReceiver<Said>,
        queues: Vec<Arc<Queue>>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut first = true;
        loop {
            let said = tokio::select! {
                said = heard.recv() => said,
                _ = shutdown.changed() => return,
            };
            match said {
                None => return,
                Some(Said::Connected) => {
                    if std::mem::take(&mut first) {
                        self.take_back(&queues).await;
                    }
                    self.load_revoked().await;
                    self.announce("worker-online", &queues).await;
                    self.ring(None);
                }
                Some(Said::Ended) => {}
                Some(Said::Control(payload)) => match Command::parse(&payload) {
                    Ok(command) => self.obey(&command, &queues).await,
                    Err(error) => {
                        tracing::warn!(error, "a message of remote control cannot be read")
                    }
                },
            }
        }
    }

    /// What an earlier life of this instance leased: the claim on its file proves that it is dead.
    async fn take_back(&self, queues: &[Arc<Queue>]) {
        let instance = self.lease_prefix.split('/').next().unwrap_or_default();
        let keys: Vec<String> = queues
            .iter()
            .map(|q| Keys::new(q).leased().clone())
            .collect();
        let mut commands = redis::pipe();
        self.redis.scripts.take_back.call(&mut commands, &keys);
        commands.arg(format!("{instance}/")).arg(&self.lease_prefix);
        match self.redis.query::<(u64,)>(&commands).await {
            Ok((0,)) => {}
            Ok((n,)) => {
                tracing::info!(
                    jobs = n,
                    "jobs that an earlier life had leased are fetched again"
                );
                self.metrics.leases_taken_back(n);
            }
            Err(error) => tracing::warn!(%error, "leases of an earlier life end by themselves"),
        }
    }

    async fn announce(&self, kind: &str, queues: &[Arc<Queue>]) {
        let mut commands = redis::pipe();
        let key = kind.replace('-', ".");
        for queue in queues {
            let processed = self.registry.totals(&queue.name).values().sum();
            let active = self.registry.count(&queue.name);
            let event = self.events.worker(kind, &queue.service, active, processed);
            events::publish(&mut commands, self.redis.broker, &key, &event);
        }
        // Whoever misses one hears the next.
        let _ = self.redis.query::<Reply>(&commands).await;
    }

    /// Heartbeats, events of tasks, and samples of the queues' lengths.
    async fn tell(self: Arc<Self>, queues: Vec<Arc<Queue>>, mut shutdown: watch::Receiver<bool>) {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut beat, mut tasks) = (every(HEARTBEAT_EVERY), every(TASK_EVENTS_EVERY));
        let mut sample = every(SAMPLE_EVERY);
        loop {
            tokio::select! {
                _ = beat.tick() => if self.redis.is_up() { self.announce("worker-heartbeat", &queues).await },
                _ = tasks.tick() => self.tell_tasks().await,
                _ = sample.tick() => if self.redis.is_up() { self.sample(&queues).await },
                _ = shutdown.changed() => {
                    self.announce("worker-offline", &queues).await;
                    return;
                }
            }
        }
    }

    /// One message per worker: readers take the sender from its first event.
    async fn tell_tasks(&self) {
        let mut by_node: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for event in self.events.take() {
            let node = event["hostname"].as_str().unwrap_or_default().to_owned();
            by_node.entry(node).or_default().push(event);
        }
        if by_node.is_empty() {
            return;
        }
        let mut commands = redis::pipe();
        for events in by_node.into_values() {
            events::publish(
                &mut commands,
                self.redis.broker,
                "task.multi",
                &Value::Array(events),
            );
        }
        let _ = self.redis.query::<Reply>(&commands).await;
    }

    async fn sample(&self, queues: &[Arc<Queue>]) {
        for queue in queues {
            let keys = Keys::new(queue);
            let mut commands = redis::pipe();
            commands.cmd("ZCARD").arg(keys.delayed());
            commands.cmd("ZCARD").arg(keys.leased());
            for list in &keys.lists {
                commands.cmd("LLEN").arg(list);
            }
            match self.redis.query::<Vec<i64>>(&commands).await.as_deref() {
                Ok([delayed, leased, lists @ ..]) => {
                    let queued = lists.iter().sum();
                    self.metrics
                        .redis_depths(&queue.name, queued, *delayed, *leased);
                }
                Ok(_) => {}
                Err(error) if passes(error) => return,
                Err(error) => {
                    tracing::warn!(queue = &*queue.name, %error, "a key of the queue is not what it should be; nothing comes from there");
                }
            }
        }
    }

    /// Carries out a command, and answers for each worker that is meant.
    async fn obey(&self, command: &Command, queues: &[Arc<Queue>]) {
        if !command.is_due(self.clock.now() as f64 / 1e6) {
            return;
        }
        let meant: Vec<(&Arc<Queue>, String)> = queues
            .iter()
            .map(|queue| (queue, self.events.node(&queue.service)))
            .filter(|(_, node)| command.is_for(node))
            .collect();
        if meant.is_empty() {
            return;
        }
        let done = self.act(command).await;
        let Some(reply_to) = &command.reply_to else {
            return;
        };
        let mut commands = redis::pipe();
        for (queue, node) in &meant {
            let answer = match &done {
                Some(done) => done.clone(),
                None => self.read(command, queue, node).await,
            };
            let headers = json!({"ticket": command.ticket, "clock": self.events.tick()});
            let info = json!({"exchange": reply_to.exchange, "routing_key": reply_to.routing_key});
            let mut body = serde_json::Map::new();
            body.insert(node.clone(), answer);
            let message = events::envelope(&Value::Object(body), headers, info);
            commands
                .cmd("LPUSH")
                .arg(reply_to.key())
                .arg(message)
                .ignore();
        }
        // Celery leaves a list behind for ever when nobody fetches it.
        commands
            .cmd("EXPIRE")
            .arg(reply_to.key())
            .arg(REPLY_EXPIRES.as_secs())
            .ignore();
        let (set, entry) = reply_to.binding();
        let mut bound = redis::pipe();
        bound.cmd("SISMEMBER").arg(set).arg(entry);
        let sent = match self.redis.query::<(bool,)>(&bound).await {
            Ok((true,)) => self.redis.query::<Reply>(&commands).await.map(drop),
            Ok((false,)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(method = command.method, %error, "an answer to remote control was not sent");
        }
    }

    /// Commands that change something; `None` for the others.
    async fn act(&self, command: &Command) -> Option<Value> {
        let refused = |what: &str| Some(json!({"error": what}));
        match command.method.as_str() {
            "revoke" | "terminate" => {
                let ids = command.ids("task_id");
                let terminate =
                    command.method == "terminate" || command.arguments["terminate"] == true;
                if let Err(error) = self.revoke(&ids).await {
                    return refused(&format!("the ids were not revoked: {error}"));
                }
                if terminate {
                    self.registry.terminate(&ids);
                }
                Some(json!({"ok": format!("tasks {} flagged as revoked", ids.join(", "))}))
            }
            "enable_events" => {
                let text = match self.events.enable(true) {
                    true => "task events already enabled",
                    false => "task events enabled",
                };
                Some(json!({ "ok": text }))
            }
            "disable_events" => {
                let text = match self.events.enable(false) {
                    true => "task events disabled",
                    false => "task events already disabled",
                };
                Some(json!({ "ok": text }))
            }
            "heartbeat" | "election" => Some(json!({"ok": "done"})),
            "rate_limit" | "time_limit" | "pool_grow" | "pool_shrink" | "autoscale"
            | "pool_restart" | "add_consumer" | "cancel_consumer" => {
                refused("queues, concurrency and deadlines are set in spin.toml")
            }
            "shutdown" => refused("the platform's workers are stopped with the platform"),
            "revoke_by_stamped_headers" => refused("tasks are revoked by id"),
            _ => None,
        }
    }

    /// Makes sure that these do not run, here or anywhere, now or after a restart.
    async fn revoke(&self, ids: &[String]) -> Result<(), redis::RedisError> {
        if ids.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut commands = redis::pipe();
        commands.atomic();
        commands
            .cmd("ZREMRANGEBYSCORE")
            .arg(REVOKED)
            .arg("-inf")
            .arg(now / 1_000)
            .ignore();
        commands.cmd("ZADD").arg(REVOKED);
        for id in ids {
            commands.arg((now + micros(REVOKED_KEEP)) / 1_000).arg(id);
        }
        commands.ignore();
        commands.cmd("INCR").arg(REVOKED_VERSION).ignore();
        self.redis.query::<Reply>(&commands).await?;
        self.load_revoked().await;
        Ok(())
    }

    async fn read(&self, command: &Command, queue: &Queue, node: &str) -> Value {
        let scheduled = match command.method.as_str() {
            "scheduled" | "dump_schedule" => self.scheduled(queue, node).await,
            _ => Vec::new(),
        };
        let worker = control::Worker {
            queue,
            active: self.registry.active(&queue.name, node),
            totals: json!(self.registry.totals(&queue.name)),
            revoked: self.revoked.ids(),
            scheduled,
            clock: self.events.tick(),
            uptime: self.started.elapsed().as_secs(),
            broker: (&self.redis.address, self.redis.broker),
        };
        control::answer(command, &worker).unwrap_or_else(
            || json!({"error": format!("there is no command `{}`", command.method)}),
        )
    }

    /// Jobs that wait for their time.
    async fn scheduled(&self, queue: &Queue, node: &str) -> Vec<Value> {
        let keys = Keys::new(queue);
        let mut commands = redis::pipe();
        commands
            .cmd("ZRANGE")
            .arg(keys.delayed())
            .arg(0)
            .arg(999)
            .arg("WITHSCORES");
        let due = self.redis.query::<(Vec<(String, f64)>,)>(&commands).await;
        let due = due.map(|(due,)| due).unwrap_or_default();
        if due.is_empty() {
            return Vec::new();
        }
        // Those alone: a queue may hold any number of messages.
        let mut commands = redis::pipe();
        commands.cmd("HMGET").arg(keys.messages());
        for (lease, _) in &due {
            commands.arg(lease);
        }
        let Ok((messages,)) = self.redis.query::<(Vec<Option<Vec<u8>>>,)>(&commands).await else {
            return Vec::new();
        };
        // One that has run in between is gone.
        let entry = |((_, at), message): ((String, f64), Option<Vec<u8>>)| {
            let message = Message::parse(&message?).ok()?;
            let at = innover_contract::time::rfc3339((at * 1e3) as i64);
            Some(json!({
                "eta": at.replace('Z', "+00:00"),
                "priority": message.priority,
                "request": {
                    "id": message.headers.id,
                    "name": message.headers.task,
                    "args": serde_json::from_str::<Value>(message.args.get()).unwrap_or_default(),
                    "kwargs": serde_json::from_str::<Value>(message.kwargs.get()).unwrap_or_default(),
                    "type": message.headers.task,
                    "hostname": node,
                    "time_start": null,
                    "acknowledged": false,
                    "delivery_info": {"exchange": "", "routing_key": message.routing_key, "priority": message.priority, "redelivered": message.redelivered},
                    "worker_pid": null,
                },
            }))
        };
        due.into_iter().zip(messages).filter_map(entry).collect()
    }
}

impl canvas::Route for Shared {
    fn queue(&self, task: &str) -> Option<String> {
        self.routes
            .resolve(None, task)
            .ok()
            .map(|route| route.queue.to_string())
    }
}
