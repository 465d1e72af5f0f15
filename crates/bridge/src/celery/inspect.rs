//! The queues in Redis as an operator sees them: what waits, what runs, what is dead, and what became
//! of a task.

use std::{collections::HashMap, sync::Arc};

use redis::RedisError;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    connection::Redis,
    dead::Letter,
    keys::{Keys, result_key},
    message::Message,
};
use crate::{
    config::{Queue, RedisConfig, Routes, ServiceSpec, StartError},
    inspect::{DeadLetterRow, JobFilter, JobRow, LetterFilter, QueueRow},
};

/// Why Redis was not asked.
#[derive(Debug, thiserror::Error)]
pub enum RedisProblem {
    /// The addresses or the services contradict each other.
    #[error(transparent)]
    Config(#[from] StartError),
    /// What Redis says.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
}

/// What the result backend holds of a task.
#[derive(Debug)]
pub struct TaskResult {
    /// `done`, `failed`, `revoked` or `retried`.
    pub state: &'static str,
    /// As JSON; of a failure Celery's exception.
    pub result: Option<String>,
    /// The exception's class and text.
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    status: String,
    result: Box<RawValue>,
}

/// A view of the queues.
pub struct RedisQueues {
    redis: Arc<Redis>,
    queues: Vec<Arc<Queue>>,
}

impl RedisQueues {
    /// Connects for a few questions.
    ///
    /// # Errors
    /// [`RedisProblem`].
    pub async fn connect(
        config: &RedisConfig,
        services: &[ServiceSpec],
    ) -> Result<RedisQueues, RedisProblem> {
        let redis = Redis::new(&config.broker, config.backend.as_deref())?;
        redis.connect_once().await?;
        Ok(RedisQueues {
            redis: Arc::new(redis),
            queues: Routes::new(services)?.queues(),
        })
    }

    pub(crate) fn of(redis: Arc<Redis>, queues: Vec<Arc<Queue>>) -> RedisQueues {
        RedisQueues { redis, queues }
    }

    fn wanted<'a>(&'a self, queue: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Queue>> {
        self.queues
            .iter()
            .filter(move |q| queue.is_none_or(|name| *name == *q.name))
    }

    /// How much is in each queue.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn queues(&self) -> Result<Vec<QueueRow>, RedisProblem> {
        let mut rows = Vec::new();
        for queue in &self.queues {
            let keys = Keys::new(queue);
            let mut commands = redis::pipe();
            for key in [keys.delayed(), keys.leased(), keys.deaths()] {
                commands.cmd("ZCARD").arg(key);
            }
            for list in &keys.lists {
                commands.cmd("LLEN").arg(list);
            }
            let counts: Vec<i64> = self.redis.query(&commands).await?;
            if let [delayed, leased, dead, lists @ ..] = &counts[..] {
                rows.push(QueueRow {
                    queue: queue.name.to_string(),
                    queued: lists.iter().sum(),
                    delayed: *delayed,
                    leased: *leased,
                    dead: *dead,
                    ..QueueRow::default()
                });
            }
        }
        Ok(rows)
    }

    /// Up to `limit` jobs that are not finished; finished ones are only results here.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn jobs(
        &self,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<Vec<JobRow>, RedisProblem> {
        let mut rows = Vec::new();
        let wants = |state: &str| filter.state.as_deref().is_none_or(|s| s == state);
        for queue in self.wanted(filter.queue.as_deref()) {
            let keys = Keys::new(queue);
            for (state, place) in [("leased", keys.leased()), ("delayed", keys.delayed())] {
                if wants(state) {
                    for (bytes, score) in self.placed(&keys, place, limit).await? {
                        let eta = if state == "delayed" {
                            (score * 1e3) as i64
                        } else {
                            0
                        };
                        rows.push(row(queue, state, &bytes, eta));
                    }
                }
            }
            for list in keys.lists.iter().filter(|_| wants("queued")) {
                let mut commands = redis::pipe();
                commands
                    .cmd("LRANGE")
                    .arg(list)
                    .arg(-(limit as i64))
                    .arg(-1);
                let (messages,): (Vec<Vec<u8>>,) = self.redis.query(&commands).await?;
                rows.extend(
                    messages
                        .iter()
                        .rev()
                        .map(|bytes| row(queue, "queued", bytes, 0)),
                );
            }
        }
        rows.retain(|row| filter.task.as_ref().is_none_or(|task| *task == row.task));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn placed(
        &self,
        keys: &Keys,
        place: &str,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, f64)>, RedisProblem> {
        let mut commands = redis::pipe();
        commands
            .cmd("ZRANGE")
            .arg(place)
            .arg(0)
            .arg(limit.saturating_sub(1))
            .arg("WITHSCORES");
        let (leases,): (Vec<(String, f64)>,) = self.redis.query(&commands).await?;
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        commands.cmd("HMGET").arg(keys.messages());
        for (lease, _) in &leases {
            commands.arg(lease);
        }
        let (messages,): (Vec<Option<Vec<u8>>>,) = self.redis.query(&commands).await?;
        let both = messages.into_iter().zip(leases);
        Ok(both
            .filter_map(|(bytes, (_, score))| Some((bytes?, score)))
            .collect())
    }

    /// Up to `limit` dead letters, newest first.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn dead_letters(
        &self,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetterRow>, RedisProblem> {
        let mut rows = Vec::new();
        for queue in self.wanted(filter.target.as_deref()) {
            for (_, letter) in self.letters(queue, filter).await? {
                rows.push(DeadLetterRow {
                    seq: 0,
                    kind: "job".into(),
                    target: queue.name.to_string(),
                    id: letter.id,
                    name: letter.task,
                    key: String::new(),
                    envelope: letter.message,
                    error: letter.error,
                    attempts: letter.attempts.into(),
                    dead_at: letter.dead_at,
                });
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.dead_at));
        rows.truncate(limit);
        Ok(rows)
    }

    async fn letters(
        &self,
        queue: &Queue,
        filter: &LetterFilter,
    ) -> Result<Vec<(String, Letter)>, RedisProblem> {
        let mut commands = redis::pipe();
        commands.cmd("HGETALL").arg(Keys::new(queue).dead());
        let (all,): (HashMap<String, String>,) = self.redis.query(&commands).await?;
        let letters = all.into_iter().filter_map(|(lease, json)| {
            let letter: Letter = serde_json::from_str(&json).ok()?;
            Some((lease, letter))
        });
        Ok(letters
            .filter(|(_, letter)| filter.matches(&letter.id, &letter.task))
            .collect())
    }

    /// Puts dead letters back on their queues (`retry`) or deletes them. Returns how many.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn settle(&self, filter: &LetterFilter, retry: bool) -> Result<usize, RedisProblem> {
        let mut settled = 0;
        for queue in self.wanted(filter.target.as_deref()) {
            let keys = Keys::new(queue);
            let letters = self.letters(queue, filter).await?;
            for some in letters.chunks(500) {
                let mut commands = redis::pipe();
                let places = [keys.dead(), keys.deaths(), &queue.spec.name].map(String::clone);
                self.redis.scripts.letters.call(&mut commands, &places);
                commands.arg(if retry { "retry" } else { "discard" });
                for (lease, letter) in some {
                    commands.arg(lease).arg(&letter.message);
                }
                let (taken,): (usize,) = self.redis.query(&commands).await?;
                settled += taken;
            }
        }
        Ok(settled)
    }

    /// What the result backend holds of a task.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn result(&self, id: &str) -> Result<Option<TaskResult>, RedisProblem> {
        let mut commands = redis::pipe();
        if self.redis.backend != self.redis.broker {
            commands.cmd("SELECT").arg(self.redis.backend).ignore();
        }
        commands.cmd("GET").arg(result_key(id));
        if self.redis.backend != self.redis.broker {
            commands.cmd("SELECT").arg(self.redis.broker).ignore();
        }
        let (meta,): (Option<String>,) = self.redis.query(&commands).await?;
        let Some(meta) = meta.and_then(|text| serde_json::from_str::<Meta>(&text).ok()) else {
            return Ok(None);
        };
        let result = Some(meta.result.get().to_owned());
        let raised: Value = serde_json::from_str(meta.result.get()).unwrap_or_default();
        let error = raised["exc_type"]
            .as_str()
            .map(|class| format!("{class}: {}", raised["exc_message"]));
        Ok(Some(match meta.status.as_str() {
            "SUCCESS" => TaskResult {
                state: "done",
                result,
                error: None,
            },
            "REVOKED" => TaskResult {
                state: "revoked",
                result: None,
                error,
            },
            "RETRY" => TaskResult {
                state: "retried",
                result: None,
                error,
            },
            _ => TaskResult {
                state: "failed",
                result: None,
                error,
            },
        }))
    }
}

fn row(queue: &Queue, state: &str, bytes: &[u8], eta: i64) -> JobRow {
    let message = Message::parse(bytes).ok();
    let envelope = String::from_utf8_lossy(bytes).into_owned();
    let headers = message.as_ref().map(|m| &m.headers);
    JobRow {
        id: headers.map_or(String::new(), |h| h.id.clone()),
        queue: queue.name.to_string(),
        task: headers.map_or(String::new(), |h| h.task.clone()),
        state: state.into(),
        priority: message.as_ref().map_or(0, |m| m.priority.into()),
        attempts: headers.map_or(0, |h| h.retries.into()),
        eta: headers.and_then(|h| h.eta).unwrap_or(eta),
        enqueued_at: 0,
        started_at: None,
        finished_at: None,
        result: None,
        error: message.is_none().then(|| "it cannot be read".into()),
        envelope,
    }
}
