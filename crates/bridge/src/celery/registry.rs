//! What runs here now and how much has run: for `inspect`, and to end a job that is revoked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::message::Message;
use crate::clock::Clock;

/// A job that runs.
pub(crate) struct Running {
    id: String,
    task: String,
    args: String,
    kwargs: String,
    routing_key: String,
    priority: u8,
    redelivered: bool,
    attempt: u32,
    started_at: i64,
    /// Ends its delivery.
    stop: Arc<Notify>,
}

impl Running {
    pub(crate) fn new(message: &Message, task: &str, attempt: u32, stop: &Arc<Notify>) -> Running {
        Running {
            id: message.headers.id.clone(),
            task: task.to_owned(),
            args: message.args.get().to_owned(),
            kwargs: message.kwargs.get().to_owned(),
            routing_key: message.routing_key.clone(),
            priority: message.priority,
            redelivered: message.redelivered,
            attempt,
            started_at: Clock::System.now(),
            stop: stop.clone(),
        }
    }

    /// As `inspect active` shows it (celery/worker/request.py, `info`).
    fn info(&self, node: &str) -> Value {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
        json!({
            "id": self.id,
            "name": self.task,
            "args": parsed(&self.args),
            "kwargs": parsed(&self.kwargs),
            "type": self.task,
            "hostname": node,
            "time_start": self.started_at as f64 / 1e6,
            "acknowledged": false,
            "retries": self.attempt - 1,
            "delivery_info": {
                "exchange": "",
                "routing_key": self.routing_key,
                "priority": self.priority,
                "redelivered": self.redelivered,
            },
            "worker_pid": std::process::id(),
        })
    }
}

#[derive(Default)]
struct Inside {
    /// Queue → number of the delivery's job → job.
    running: HashMap<String, BTreeMap<u64, Running>>,
    /// Queue → task → how many are done.
    totals: HashMap<String, BTreeMap<String, u64>>,
}

/// The jobs of this bridge.
#[derive(Default)]
pub(crate) struct Registry {
    inside: Mutex<Inside>,
    next: AtomicU64,
}

/// Takes its jobs out again when it is dropped.
pub(crate) struct Entered<'a> {
    registry: &'a Registry,
    queue: String,
    numbers: Vec<u64>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.registry.lock().running.get_mut(&self.queue) {
            for number in &self.numbers {
                running.remove(number);
            }
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, queue: &str, jobs: impl Iterator<Item = Running>) -> Entered<'_> {
        let mut inside = self.lock();
        let running = inside.running.entry(queue.to_owned()).or_default();
        let mut numbers = Vec::new();
        for job in jobs {
            let number = self.next.fetch_add(1, Relaxed);
            running.insert(number, job);
            numbers.push(number);
        }
        Entered {
            registry: self,
            queue: queue.to_owned(),
            numbers,
        }
    }

    pub(crate) fn done(&self, queue: &str, task: &str) {
        let mut inside = self.lock();
        let totals = match inside.totals.get_mut(queue) {
            Some(totals) => totals,
            None => inside.totals.entry(queue.to_owned()).or_default(),
        };
        match totals.get_mut(task) {
            Some(n) => *n += 1,
            None => drop(totals.insert(task.to_owned(), 1)),
        }
    }

    /// Done jobs by task.
    pub(crate) fn totals(&self, queue: &str) -> BTreeMap<String, u64> {
        self.lock().totals.get(queue).cloned().unwrap_or_default()
    }

    /// How many run.
    pub(crate) fn count(&self, queue: &str) -> usize {
        self.lock().running.get(queue).map_or(0, BTreeMap::len)
    }

    pub(crate) fn active(&self, queue: &str, node: &str) -> Vec<Value> {
        let inside = self.lock();
        let running = inside
            .running
            .get(queue)
            .into_iter()
            .flat_map(BTreeMap::values);
        running.map(|job| job.info(node)).collect()
    }

    /// Ends the deliveries of these jobs, where they run alone.
    pub(crate) fn terminate(&self, ids: &[String]) {
        let inside = self.lock();
        for job in inside.running.values().flat_map(BTreeMap::values) {
            if ids.contains(&job.id) {
                job.stop.notify_one();
            }
        }
    }
}
