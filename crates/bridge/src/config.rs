//! What the bridge is told: which services there are, what they subscribe to, which queues and
//! schedules they have. The command line fills it from spin.toml.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use innover_contract::Job;
use serde_json::Value;

use crate::{clock::Clock, kafka::KafkaConfig};

/// Everything the bridge needs to know at start.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// The application's services.
    pub services: Vec<ServiceSpec>,
    /// The bridge's own SQLite file: its identity, event log, cursors, jobs, dead letters.
    pub store: PathBuf,
    /// The database in which several bridges keep jobs, schedules, and the dead letters of both;
    /// in the file when absent.
    pub shared: Option<Place>,
    /// Events are kept this long for replay, counted from when they were published.
    pub retention: Duration,
    /// Where the time comes from; tests run on tokio's paused clock.
    pub clock: Clock,
    /// Where Celery's clients put jobs; without it there is only the store's own queue.
    pub redis: Option<RedisConfig>,
    /// Where events go; without it they go through the store.
    pub kafka: Option<KafkaConfig>,
}

/// Redis as Celery's broker and result backend.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://[:password@]host:port/db`, where the queues are.
    pub broker: String,
    /// The same server, where results are; the broker's database when absent.
    pub backend: Option<String>,
}

impl BridgeConfig {
    /// A configuration with seven days' retention on the machine's clock.
    pub fn new(store: PathBuf, services: Vec<ServiceSpec>) -> BridgeConfig {
        let retention = Duration::from_secs(7 * 24 * 60 * 60);
        BridgeConfig {
            services,
            store,
            shared: None,
            retention,
            clock: Clock::System,
            redis: None,
            kafka: None,
        }
    }
}

/// One service.
#[derive(Clone, Debug, Default)]
pub struct ServiceSpec {
    /// Its name, e.g. `payment`: the `source` of its events and the prefix of its tasks.
    pub name: String,
    /// The database whose outbox is relayed.
    pub database: Option<Database>,
    /// Event types delivered to its `POST /_events`.
    pub subscribes: Vec<String>,
    /// Events in one delivery, at most 100.
    pub event_batch: usize,
    /// Its job queue.
    pub queue: Option<QueueSpec>,
    /// Jobs started by the clock; each task is one of `queue.tasks`.
    pub schedules: Vec<ScheduleSpec>,
}

/// A service's database.
#[derive(Clone, Debug)]
pub struct Database {
    /// The label of spin.toml, which names the host's write lock.
    pub label: String,
    /// Where it is.
    pub place: Place,
}

/// Where a database is.
#[derive(Clone)]
pub enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A database of PostgreSQL.
    Server {
        /// Its address, with the service's role and password.
        url: String,
        /// The certificate of the server's authority in PEM; those web browsers trust when absent.
        authority: Option<String>,
    },
}

/// Without the password.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(path) => f.debug_tuple("File").field(path).finish(),
            Place::Server { .. } => f.write_str("Server(…)"),
        }
    }
}

/// A job queue.
#[derive(Clone, Debug)]
pub struct QueueSpec {
    /// Its name, e.g. `payment-tasks`.
    pub name: String,
    /// Other names of the same queue; `rule-engine-tasks` also makes `rule-engine.` another prefix
    /// of the service's tasks.
    pub aliases: Vec<String>,
    /// Deliveries at once.
    pub concurrency: usize,
    /// The tasks it knows, by full name.
    pub tasks: BTreeMap<String, TaskSpec>,
}

/// One task of a queue.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    /// How long one delivery may take.
    pub deadline: Duration,
    /// Deliveries before it is a dead letter.
    pub max_attempts: u32,
    /// Jobs in one delivery.
    pub batch: usize,
    /// What its sender needs over HTTP beside `jobs:write`.
    pub scope: Option<String>,
}

impl Default for TaskSpec {
    fn default() -> TaskSpec {
        TaskSpec {
            deadline: Duration::from_secs(60),
            max_attempts: 10,
            batch: 1,
            scope: None,
        }
    }
}

/// A job started by the clock.
#[derive(Clone, Debug)]
pub struct ScheduleSpec {
    /// The task's full name.
    pub task: String,
    /// Cron pattern of six fields, seconds first.
    pub cron: String,
    /// IANA time zone the pattern is read in.
    pub timezone: String,
    /// What happens to a time that passed while nothing ran.
    pub missed: Missed,
    /// The job's positional arguments.
    pub args: Vec<Value>,
}

/// What happens to a time that passed while nothing ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// It is left out.
    #[default]
    Skip,
    /// The job is started once for each time missed.
    CatchUp,
}

/// Why the bridge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Two services or queues have one name, a schedule names an unknown task, a bad pattern.
    #[error("the bridge's configuration: {0}")]
    Config(String),
    /// Another bridge has the file open.
    #[error("{0} is in use by another bridge; stop it first, or give this one a store of its own")]
    InUse(PathBuf),
    /// The database of jobs that bridges share cannot be used.
    #[error("the database of jobs that bridges share: {0}; `innover migrate --create` makes it")]
    Jobs(crate::store::StoreError),
    /// The store's file could not be opened, locked or migrated.
    #[error("the bridge's store {path}: {source}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What SQLite or the file system said.
        source: crate::store::StoreError,
    },
}

/// Where a job goes: its queue's place in [`Routes::queues`], and its task's canonical name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The queue's canonical name.
    pub queue: Arc<str>,
    /// The task's full canonical name.
    pub task: String,
}

/// Names of queues and tasks, with their aliases.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Queue name or alias → the queue.
    queues: HashMap<String, Arc<Queue>>,
    /// Task prefix (`payment`, `rule-engine`) → the queue.
    prefixes: HashMap<String, Arc<Queue>>,
}

/// A queue and the service it belongs to.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Canonical name.
    pub name: Arc<str>,
    /// The service its jobs are delivered to.
    pub service: Arc<str>,
    /// The specification.
    pub spec: QueueSpec,
}

impl Routes {
    /// Reads the queues of all services.
    ///
    /// # Errors
    /// [`StartError::Config`] when two queues share a name, alias or task prefix.
    pub fn new(services: &[ServiceSpec]) -> Result<Routes, StartError> {
        let mut routes = Routes::default();
        for service in services {
            let Some(spec) = &service.queue else { continue };
            let queue = Arc::new(Queue {
                name: spec.name.as_str().into(),
                service: service.name.as_str().into(),
                spec: spec.clone(),
            });
            let names = std::iter::once(&spec.name).chain(&spec.aliases);
            for name in names {
                if routes.queues.insert(name.clone(), queue.clone()).is_some() {
                    return Err(StartError::Config(format!(
                        "two queues are called `{name}`"
                    )));
                }
            }
            let stems = spec.aliases.iter().filter_map(|a| a.strip_suffix("-tasks"));
            for prefix in std::iter::once(service.name.as_str()).chain(stems) {
                if routes
                    .prefixes
                    .insert(prefix.to_owned(), queue.clone())
                    .is_some()
                {
                    return Err(StartError::Config(format!(
                        "two queues own the tasks `{prefix}.*`"
                    )));
                }
            }
        }
        Ok(routes)
    }

    /// The distinct queues.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        let mut queues: Vec<_> = self
            .queues
            .iter()
            .filter(|(name, q)| **name == *q.name)
            .map(|(_, q)| q.clone())
            .collect();
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    /// The queue of a service, by its name or another of its task prefixes.
    pub fn of_service(&self, service: &str) -> Option<Arc<Queue>> {
        self.prefixes.get(service).cloned()
    }

    /// Finds the queue and canonical task of a job that was put on `queue`, or, with no queue
    /// named, on that of its task's prefix. `add` on `wallet-tasks` is `wallet.add`;
    /// `tasks.add` there is, too; `rule-engine.add` is `rules.add`.
    ///
    /// # Errors
    /// The reason to keep with the dead letter.
    pub fn resolve(&self, queue: Option<&str>, task: &str) -> Result<Route, String> {
        let queue = match queue {
            Some(name) => self
                .queues
                .get(name)
                .ok_or_else(|| format!("no queue is called `{name}`"))?,
            None => task
                .split_once('.')
                .and_then(|(prefix, _)| self.prefixes.get(prefix))
                .ok_or_else(|| format!("no queue has the task `{task}`"))?,
        };
        let canonical = match task.split_once('.') {
            // `tasks.add` is what a module `tasks.py` makes of its `add`.
            Some(("tasks", rest)) => format!("{}.{rest}", queue.service),
            None => format!("{}.{task}", queue.service),
            Some((prefix, rest))
                if self
                    .prefixes
                    .get(prefix)
                    .is_some_and(|q| q.name == queue.name) =>
            {
                format!("{}.{rest}", queue.service)
            }
            Some(_) => task.to_owned(),
        };
        if !queue.spec.tasks.contains_key(&canonical) {
            return Err(format!("the queue `{}` has no task `{task}`", queue.name));
        }
        Ok(Route {
            queue: queue.name.clone(),
            task: canonical,
        })
    }

    /// How a task is run.
    pub fn spec(&self, route: &Route) -> Option<&TaskSpec> {
        self.queues.get(&*route.queue)?.spec.tasks.get(&route.task)
    }

    /// As [`Routes::resolve`], with the job's task renamed to its canonical name.
    ///
    /// # Errors
    /// The reason to keep with the dead letter.
    pub fn route(&self, queue: Option<&str>, job: &mut Job) -> Result<Arc<str>, String> {
        let Route { queue, task } = self.resolve(queue, &job.task)?;
        job.task = task;
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, aliases: &[&str], tasks: &[&str]) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            queue: Some(QueueSpec {
                name: format!("{name}-tasks"),
                aliases: aliases.iter().map(|a| a.to_string()).collect(),
                concurrency: 2,
                tasks: tasks
                    .iter()
                    .map(|t| (t.to_string(), TaskSpec::default()))
                    .collect(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_job_finds_its_queue_by_name_alias_prefix_or_bare_task() {
        let services = [
            service("rules", &["rule-engine-tasks"], &["rules.add"]),
            service("wallet", &[], &["wallet.add"]),
        ];
        let routes = Routes::new(&services).expect("names are distinct");
        for (queue, task, expected) in [
            (
                Some("rules-tasks"),
                "rules.add",
                Ok(("rules-tasks", "rules.add")),
            ),
            (
                Some("rule-engine-tasks"),
                "rule-engine.add",
                Ok(("rules-tasks", "rules.add")),
            ),
            (
                Some("rule-engine-tasks"),
                "add",
                Ok(("rules-tasks", "rules.add")),
            ),
            (
                Some("wallet-tasks"),
                "tasks.add",
                Ok(("wallet-tasks", "wallet.add")),
            ),
            (None, "rule-engine.add", Ok(("rules-tasks", "rules.add"))),
            (None, "wallet.add", Ok(("wallet-tasks", "wallet.add"))),
            (None, "add", Err("no queue has the task `add`")),
            (
                Some("nobody-tasks"),
                "wallet.add",
                Err("no queue is called `nobody-tasks`"),
            ),
            (
                Some("wallet-tasks"),
                "rules.add",
                Err("the queue `wallet-tasks` has no task `rules.add`"),
            ),
            (
                Some("wallet-tasks"),
                "wallet.fly",
                Err("the queue `wallet-tasks` has no task `wallet.fly`"),
            ),
        ] {
            let got = routes.resolve(queue, task);
            let got = got
                .as_ref()
                .map(|r| (&*r.queue, r.task.as_str()))
                .map_err(String::as_str);
            assert_eq!(got, expected, "{queue:?} {task}");
        }
    }

    #[test]
    fn two_queues_of_one_name_are_refused() {
        let twice = [
            service("rules", &["wallet-tasks"], &[]),
            service("wallet", &[], &[]),
        ];
        assert!(Routes::new(&twice).is_err());
    }
}
