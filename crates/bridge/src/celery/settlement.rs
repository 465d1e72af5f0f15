//! What becomes of a leased message, written in one step by `settle.lua`.

use redis::{FromRedisValue, Pipeline, RedisError, Value};

use super::{
    canvas::{Effects, Join},
    connection::Redis,
    dead::Letter,
    keys::{Keys, group_key, result_key},
    outcome::Stored,
};
use crate::{
    config::Queue,
    limits::{LEASE, REDIS_DEAD_MAX, RESULT_EXPIRES},
};

/// A message as it was leased; what a dead letter is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) lease: String,
    /// The task's id; of a message that cannot be read, the lease.
    pub(crate) id: String,
    pub(crate) task: String,
    /// Deliveries, with the retries the message has behind it.
    pub(crate) attempt: u32,
    pub(crate) bytes: Vec<u8>,
}

/// What is written for a message in one step.
pub(crate) struct Settlement {
    pub(crate) origin: Origin,
    pub(crate) action: Action,
    pub(crate) effects: Effects,
    /// Chords whose body is among the effects: group key and claim.
    pub(crate) finished: Vec<(String, String)>,
}

pub(crate) enum Action {
    /// There is no lease: only the results are stored.
    Store,
    Done,
    /// Due at a time in microseconds, after so many deliveries.
    Wait {
        at: i64,
        deliveries: u32,
    },
    /// A dead letter: why, and its time in microseconds.
    Dead {
        error: String,
        at: i64,
    },
}

impl Action {
    /// When what waits is due.
    pub(crate) fn due(&self) -> Option<i64> {
        match self {
            Action::Wait { at, .. } => Some(*at),
            _ => None,
        }
    }
}

impl Settlement {
    pub(crate) fn new(origin: Origin, action: Action, effects: Effects) -> Settlement {
        Settlement {
            origin,
            action,
            effects,
            finished: Vec::new(),
        }
    }

    /// The arguments of `settle.lua`.
    fn write(&self, commands: &mut Pipeline, now: i64) {
        commands.arg(&self.origin.lease);
        match &self.action {
            Action::Store => commands.arg(&["store", "", ""]),
            Action::Done => commands.arg(&["done", "", ""]),
            // Not a moment before its time: what is fetched too early is put back.
            Action::Wait { at, deliveries } => commands
                .arg("wait")
                .arg(at.saturating_add(999) / 1_000)
                .arg(*deliveries),
            Action::Dead { error, at } => {
                let letter = Letter::new(&self.origin, error, *at).json();
                commands.arg("dead").arg(letter).arg(at / 1_000)
            }
        };
        let Effects {
            messages,
            chords,
            results,
            ..
        } = &self.effects;
        commands.arg(messages.len());
        for message in messages {
            commands.arg(message.key()).arg(message.encode());
        }
        commands.arg(chords.len());
        for chord in chords {
            let structure = chord.structure.as_deref().unwrap_or_default();
            commands
                .arg(group_key(&chord.group))
                .arg(chord.size)
                .arg(structure);
        }
        commands.arg(results.len());
        for stored in results {
            commands
                .arg(result_key(&stored.id))
                .arg(stored.json(now))
                .arg(RESULT_EXPIRES.as_secs());
        }
        commands.arg(self.finished.len());
        for (group, claim) in &self.finished {
            commands.arg(group).arg(claim);
        }
    }
}

/// The command that writes these settlements.
pub(crate) fn settle(redis: &Redis, keys: &Keys, settled: &[Settlement], now: i64) -> Pipeline {
    let mut commands = redis::pipe();
    redis.scripts.settle.call(&mut commands, &keys.own);
    commands
        .arg(redis.broker)
        .arg(redis.backend)
        .arg(REDIS_DEAD_MAX);
    for settlement in settled {
        settlement.write(&mut commands, now);
    }
    commands
}

/// Adds the command that renews leases.
pub(crate) fn renew(redis: &Redis, keys: &Keys, commands: &mut Pipeline, leases: &[String]) {
    let keys = [keys.leased().clone()];
    redis.scripts.renew.call(commands, &keys);
    commands.arg(LEASE.as_millis() as u64).arg(leases);
}

/// The command that stores results without a lease.
pub(crate) fn store(redis: &Redis, queue: &Queue, results: Vec<Stored>, now: i64) -> Pipeline {
    let effects = Effects {
        results,
        ..Effects::default()
    };
    let settlement = Settlement::new(Origin::default(), Action::Store, effects);
    settle(
        redis,
        &Keys::new(queue),
        std::slice::from_ref(&settlement),
        now,
    )
}

/// What `settle.lua` answers.
pub(crate) struct Settled {
    /// How many leases were still held.
    pub(crate) held: usize,
    /// Dead letters that were deleted since there are too many.
    pub(crate) deleted: i64,
    /// Lists nothing could be put on.
    pub(crate) lost: Vec<String>,
}

impl Settled {
    pub(crate) fn read(answer: Value) -> Result<Settled, RedisError> {
        let mut items = Vec::<Value>::from_redis_value(answer)?.into_iter();
        let mut next = || items.next().unwrap_or(Value::Int(0));
        let (held, deleted) = (
            usize::from_redis_value(next())?,
            i64::from_redis_value(next())?,
        );
        let lost: Result<_, _> = items.map(String::from_redis_value).collect();
        Ok(Settled {
            held,
            deleted,
            lost: lost?,
        })
    }
}

/// What a part of a chord claims the body with: the same for every delivery of the part, so that it
/// is claimed again after a crash.
pub(crate) fn claim(join: &Join) -> String {
    format!("innover:{}", join.task_id)
}
