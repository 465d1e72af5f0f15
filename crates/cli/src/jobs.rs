//! `innover jobs`: the queues, in the bridge's file (running or not) or in the database that bridges
//! share, and, when it answers, in Redis.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use innover_bridge::{
    Enqueued, RedisConfig, RedisQueues, ServiceSpec,
    inspect::{JobFilter, JobStore, LetterFilter, QueueRow},
};
use innover_contract::Job;
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    arguments::{self, JobsCommand, Place, Seen, Which},
    databases::Databases,
    door,
    events::{exists, print_letters},
    keys::BRIDGE,
    print::{self, cut, time},
    redis_probe, secrets,
    state::StateDir,
};

/// Between two looks for a result.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub async fn run(command: JobsCommand) -> Result<()> {
    match command {
        JobsCommand::Push {
            task,
            args,
            kwargs,
            queue,
            id,
            priority,
            countdown,
            wait,
            databases,
            place,
        } => {
            let named: Map<String, Value> =
                serde_json::from_str(&kwargs).context("--kwargs is a JSON object")?;
            let id = id.unwrap_or_else(|| format!("job_{}", uuid::Uuid::now_v7().simple()));
            let mut job = Job::new(id, task, args.into_iter().map(argument).collect());
            job.kwargs = named;
            job.priority = priority;
            job.eta = countdown.map(|seconds| now() + (seconds.clamp(0.0, 1e9) * 1e6) as i64);
            let store = store(&place, &databases)?;
            let services = services(&place)?;
            push(
                &store,
                &services,
                queue.as_deref(),
                job,
                wait.map(Duration::from_secs),
            )
            .await
        }
        JobsCommand::List {
            queue,
            task,
            job_state,
            limit,
            seen,
        } => {
            let filter = JobFilter {
                queue,
                task,
                // As everything else calls it.
                state: job_state.map(|s| if s == "running" { "leased".into() } else { s }),
            };
            list(&seen.store()?, seen.redis().await, &filter, limit).await
        }
        JobsCommand::Show { id, seen } => show(&seen.store()?, seen.redis().await, &id).await,
        JobsCommand::Queues { seen } => queues(&seen.store()?, seen.redis().await).await,
        JobsCommand::Inspect { seen } => inspect_queues(seen).await,
        JobsCommand::DeadLetters { which, limit, seen } => {
            let filter = which.filter();
            let mut letters = Vec::new();
            let store = seen.store()?;
            letters.extend(store.dead_letters(&filter, limit).await?);
            if let Some(redis) = seen.redis().await {
                letters.extend(redis.dead_letters(&filter, limit).await?);
            }
            print_letters("job", letters);
            Ok(())
        }
        JobsCommand::Retry { which, all, seen } => settle(which, all, seen, true).await,
        JobsCommand::Discard { which, all, seen } => settle(which, all, seen, false).await,
    }
}

/// Where the jobs are.
pub(crate) fn store(place: &Place, databases: &arguments::Databases) -> Result<JobStore> {
    let state = StateDir::open(&place.state_dir)?;
    let mut databases = Databases::new(databases)?;
    if let Databases::Server(_) = databases {
        databases.unlock([BRIDGE], &secrets::read(&state.secrets())?);
    }
    let place = match databases.shared() {
        Some(place) => place,
        None => {
            let store = state.bridge();
            exists(&store)?;
            innover_bridge::Place::File(store)
        }
    };
    Ok(JobStore::new(place)?)
}

impl Seen {
    fn store(&self) -> Result<JobStore> {
        store(&self.place, &self.databases)
    }

    fn services(&self) -> Result<Vec<ServiceSpec>> {
        services(&self.place)
    }

    /// The queues in Redis, when one answers.
    async fn redis(&self) -> Option<RedisQueues> {
        redis_probe::ping(&self.queues.redis_url).await.ok()?;
        let config = RedisConfig {
            broker: self.queues.redis_url.clone(),
            backend: self.queues.result_backend.clone(),
        };
        let connected = match self.services() {
            Ok(services) => RedisQueues::connect(&config, &services)
                .await
                .map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        connected
            .inspect_err(|error| eprintln!("Redis is left out: {error:#}"))
            .ok()
    }
}

impl Which {
    fn filter(&self) -> LetterFilter {
        LetterFilter {
            kind: Some("job"),
            target: self.queue.clone(),
            name: self.task.clone(),
            id: self.id.clone(),
        }
    }
}

fn services(place: &Place) -> Result<Vec<ServiceSpec>> {
    let app = App::load(&place.manifest)?;
    let state = StateDir::open(&place.state_dir)?;
    Ok(door::services(&app, |label| {
        Databases::Files.place(&state, label)
    }))
}

/// JSON, or text as it is typed.
fn argument(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or_else(|_| text.into())
}

fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

async fn push(
    store: &JobStore,
    services: &[ServiceSpec],
    queue: Option<&str>,
    job: Job,
    wait: Option<Duration>,
) -> Result<()> {
    let id = job.id.clone();
    match store.enqueue(services, queue, job).await? {
        Enqueued::New => print::line(&id),
        Enqueued::Known => print::line(format!("{id} was there before; nothing changed")),
    };
    let Some(wait) = wait else { return Ok(()) };
    let until = Instant::now() + wait;
    loop {
        let job = store.job(&id).await?.context("the job is gone")?;
        match job.state.as_str() {
            "done" => {
                print::line(job.result.unwrap_or_else(|| "null".into()));
                return Ok(());
            }
            "failed" | "dead" | "revoked" => {
                bail!("{}: {}", job.state, job.error.unwrap_or_default())
            }
            state if Instant::now() >= until => bail!(
                "still {state} after {} s; `innover jobs show {id}` has it later",
                wait.as_secs()
            ),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn list(
    store: &JobStore,
    redis: Option<RedisQueues>,
    filter: &JobFilter,
    limit: usize,
) -> Result<()> {
    let mut jobs = store.jobs(filter, limit).await?;
    if let Some(redis) = redis {
        jobs.extend(redis.jobs(filter, limit).await?);
    }
    let rows: Vec<_> = jobs
        .into_iter()
        .map(|j| {
            let took = match (j.started_at, j.finished_at) {
                (Some(start), Some(end)) => format!("{} ms", (end - start) / 1000),
                _ => String::new(),
            };
            let last = j.error.or(j.result).unwrap_or_default();
            let enqueued = match j.enqueued_at {
                0 => "in Redis".to_owned(),
                at => time(at),
            };
            [
                enqueued,
                j.queue,
                j.task,
                j.id,
                j.state,
                j.attempts.to_string(),
                took,
                cut(&last, 60),
            ]
        })
        .collect();
    if rows.is_empty() {
        print::line("no such jobs");
        return Ok(());
    }
    print::table(
        [
            "enqueued",
            "queue",
            "task",
            "id",
            "state",
            "tries",
            "took",
            "result or error",
        ],
        &rows,
    );
    Ok(())
}

async fn show(store: &JobStore, redis: Option<RedisQueues>, id: &str) -> Result<()> {
    let shown = match (store.job(id).await?, redis) {
        (Some(job), _) => {
            let parsed = |text: &Option<String>| -> Value {
                text.as_ref().map_or(Value::Null, |t| {
                    serde_json::from_str(t).unwrap_or_else(|_| t.clone().into())
                })
            };
            Some(json!({
                "id": job.id,
                "queue": job.queue,
                "task": job.task,
                "state": job.state,
                "priority": job.priority,
                "attempts": job.attempts,
                "enqueued_at": time(job.enqueued_at),
                "eta": (job.eta > 0).then(|| time(job.eta)),
                "started_at": job.started_at.map(time),
                "finished_at": job.finished_at.map(time),
                "result": parsed(&job.result),
                "error": job.error,
                "envelope": parsed(&Some(job.envelope)),
            }))
        }
        (None, Some(redis)) => redis.result(id).await?.map(|found| {
            let result = found
                .result
                .map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
            json!({
                "id": id,
                "state": found.state,
                "result": result,
                "error": found.error,
            })
        }),
        (None, None) => None,
    };
    let shown = shown
        .with_context(|| format!("there is no job {id}; `innover jobs list` shows the newest"))?;
    print::line(serde_json::to_string_pretty(&shown).context("cannot print the job")?);
    Ok(())
}

async fn queues(store: &JobStore, redis: Option<RedisQueues>) -> Result<()> {
    let row = |place: &str, q: QueueRow| {
        let counts =
            [q.queued, q.delayed, q.leased, q.done, q.failed, q.dead].map(|n| n.to_string());
        let [queued, delayed, leased, done, failed, dead] = counts;
        let oldest = q.oldest_queued_at.map(time).unwrap_or_default();
        let place = place.to_owned();
        [
            q.queue, place, queued, delayed, leased, done, failed, dead, oldest,
        ]
    };
    let kept = match store {
        JobStore::File(_) => "here",
        JobStore::Shared(_) => "PostgreSQL",
    };
    let mut rows: Vec<_> = store
        .queues()
        .await?
        .into_iter()
        .map(|q| row(kept, q))
        .collect();
    if let Some(redis) = redis {
        let there = redis.queues().await?.into_iter();
        let busy = there.filter(|q| q.queued + q.delayed + q.leased + q.dead > 0);
        rows.extend(busy.map(|q| row("Redis", q)));
    }
    rows.sort();
    print::table(
        [
            "queue",
            "kept",
            "queued",
            "delayed",
            "running",
            "done",
            "failed",
            "dead",
            "oldest queued",
        ],
        &rows,
    );
    Ok(())
}

/// What Celery's `inspect registered` and `active` show, without Redis too.
async fn inspect_queues(seen: Seen) -> Result<()> {
    let store = seen.store()?;
    let rows: Vec<_> = seen
        .services()?
        .into_iter()
        .filter_map(|service| service.queue)
        .map(|queue| {
            let tasks: Vec<&str> = queue.tasks.keys().map(String::as_str).collect();
            let mut names = vec![queue.name.clone()];
            names.extend(queue.aliases.clone());
            [
                names.join(", "),
                queue.concurrency.to_string(),
                tasks.join(" "),
            ]
        })
        .collect();
    print::table(["queue", "at once", "tasks"], &rows);
    let filter = JobFilter {
        state: Some("leased".into()),
        ..JobFilter::default()
    };
    print::line("");
    print::line("running now:");
    list(&store, seen.redis().await, &filter, 200).await
}

async fn settle(which: Which, all: bool, seen: Seen, retry: bool) -> Result<()> {
    if which.id.is_none() && !all {
        bail!("name the job, or say --all (with --queue or --task for some of them)");
    }
    let filter = which.filter();
    let mut settled = seen.store()?.settle(&filter, retry).await?;
    if let Some(redis) = seen.redis().await {
        settled += redis.settle(&filter, retry).await?;
    }
    let done = if retry { "queued again" } else { "discarded" };
    if settled == 0 && which.id.is_some() {
        bail!("no dead letter matches; `innover jobs dead-letters` lists them");
    }
    print::line(format!("{settled} {done}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_or_the_text_that_was_typed() {
        assert_eq!(argument("1".into()), json!(1));
        assert_eq!(argument("[1, 2]".into()), json!([1, 2]));
        assert_eq!(argument("pay_1".into()), json!("pay_1"));
        assert_eq!(argument("01".into()), json!("01"));
    }
}
