//! `[component.<id>.tool.innover]`: what Innover's own host, bridge and command line need to know
//! about a component. Spin ignores everything under `tool`.

use std::collections::BTreeMap;

use serde::Serialize;

/// The settings of one component. All are optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InnoverTool {
    /// The service's name, when it is not the component id; see [`InnoverTool::service_name`].
    pub service: Option<String>,
    /// The SQLite label whose outbox the relay reads.
    pub database: Option<String>,
    /// The folder of the migrations of that database, relative to the manifest.
    pub migrations: Option<String>,
    /// Components it may call with a service token. Each is reachable by its allowed hosts.
    pub calls: Vec<String>,
    /// Event types it wants delivered to `POST /_events`.
    pub subscribes: Vec<String>,
    /// Requests it takes at once, over all its instances.
    pub concurrency: Option<u32>,
    /// How long one request may take.
    pub deadline_ms: Option<u64>,
    /// How much memory one instance may have.
    pub memory_mb: Option<u32>,
    /// Its job queue.
    pub jobs: Option<Jobs>,
    /// Jobs that are started by the clock.
    pub schedules: Vec<Schedule>,
    /// Events delivered in one call; see [`InnoverTool::event_batch`].
    pub event_batch: Option<u32>,
}

impl InnoverTool {
    /// The service's name: as set, or the component id.
    pub fn service_name<'a>(&'a self, component_id: &'a str) -> &'a str {
        self.service.as_deref().unwrap_or(component_id)
    }

    /// How many events one delivery may carry.
    pub fn event_batch(&self) -> u32 {
        self.event_batch
            .unwrap_or(crate::limits::EVENT_BATCH_DEFAULT)
    }
}

/// `[component.<id>.tool.innover.jobs]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Jobs {
    /// The queue's name, for example `payment-tasks`.
    pub queue: String,
    /// Other queues whose jobs it takes as its own.
    pub aliases: Vec<String>,
    /// Jobs run at once.
    pub concurrency: u32,
    /// The tasks it knows, by full name, for example `payment.confirm`.
    pub tasks: BTreeMap<String, Task>,
}

/// One entry of `[component.<id>.tool.innover.jobs.tasks]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// How long one run may take.
    pub deadline_ms: u64,
    /// Runs before it is a dead letter.
    pub max_attempts: u32,
    /// Jobs delivered in one call.
    pub batch: u32,
}

/// One `[[component.<id>.tool.innover.schedules]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schedule {
    /// The task that is started; one of `jobs.tasks`.
    pub task: String,
    /// Cron pattern of six fields, seconds first.
    pub cron: String,
    /// IANA time zone the pattern is read in.
    pub timezone: String,
    /// What happens to a time that passed while nothing ran.
    pub missed: Missed,
    /// The job's arguments.
    pub args: Vec<serde_json::Value>,
}

/// What happens to a time that passed while nothing ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// It is left out.
    #[default]
    Skip,
    /// The job is started once for each time missed.
    CatchUp,
}
