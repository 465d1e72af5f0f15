//! What a service says of a task: its name, its parameters, how it is run.

use std::{future::Future, pin::Pin};

use innover_contract::{Job, limits::TASK_DEADLINE_MS_DEFAULT};
use serde_json::Value as Json;

use super::Handled;
use crate::{Cx, Db, Result};

/// A future a task returns.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<Handled>> + 'a>>;

/// Runs jobs of one task, several at once. As an event handler it reads, decides and returns one
/// batch, and results by job id; it never commits.
pub type TaskHandler = for<'a> fn(&'a Cx, &'a Db, &'a [Job]) -> Running<'a>;

/// A future a pure task returns.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Json>> + 'a>>;

/// Runs one job of a task that changes nothing.
pub type PureHandler = for<'a> fn(&'a Cx, &'a Job) -> Answering<'a>;

/// The tasks of a service, besides the samples.
pub type Tasks = &'static [Task];

/// How often a job is delivered when its task does not say.
const ATTEMPTS_DEFAULT: u32 = 10;

/// A task, declared beside the function that runs it:
///
/// ```
/// # use innover_kit::{Cx, Db, Job, jobs::{Handled, Running, Task}};
/// /// `payment.confirm(payment_id)`: completes a booked payment.
/// pub const CONFIRM: Task = Task::new("payment.confirm", &["payment_id"], confirm).batch(50);
///
/// fn confirm<'a>(_: &'a Cx, _: &'a Db, jobs: &'a [Job]) -> Running<'a> {
/// #   let _ = jobs;
///     Box::pin(async { Ok(Handled::default()) })
/// }
/// ```
///
/// The deliverer reads the same from spin.toml, before any component is loaded;
/// `innover_kit::testing::check_declared` holds the two together.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// The full name, e.g. `payment.confirm`.
    pub name: &'static str,
    /// The parameters in their order: `a`, `a?` for one that may be left out (those come last),
    /// and `*args`, `**kwargs` for whatever else comes by position and by name.
    pub parameters: &'static [&'static str],
    /// How long one delivery may take.
    pub deadline_ms: u64,
    /// Deliveries before it is a dead letter.
    pub max_attempts: u32,
    /// Jobs in one delivery.
    pub jobs_per_delivery: u32,
    pub(super) run: Run,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Run {
    Writing(TaskHandler),
    Pure(PureHandler),
}

impl Task {
    /// A task with the defaults: 60 s, 10 attempts, one job at a time.
    pub const fn new(
        name: &'static str,
        parameters: &'static [&'static str],
        run: TaskHandler,
    ) -> Task {
        Task::running(name, parameters, Run::Writing(run))
    }

    /// A task that changes nothing: it is given no database and its jobs leave no mark, so that a
    /// job that is delivered twice runs twice.
    pub const fn pure(
        name: &'static str,
        parameters: &'static [&'static str],
        run: PureHandler,
    ) -> Task {
        Task::running(name, parameters, Run::Pure(run))
    }

    const fn running(name: &'static str, parameters: &'static [&'static str], run: Run) -> Task {
        Task {
            name,
            parameters,
            deadline_ms: TASK_DEADLINE_MS_DEFAULT,
            max_attempts: ATTEMPTS_DEFAULT,
            jobs_per_delivery: 1,
            run,
        }
    }

    /// One delivery takes this many seconds at most.
    #[must_use]
    pub const fn deadline_s(mut self, seconds: u64) -> Task {
        self.deadline_ms = seconds * 1_000;
        self
    }

    /// A job is delivered this often at most.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Task {
        self.max_attempts = attempts;
        self
    }

    /// This many jobs come in one delivery at most; their effects share a commit.
    #[must_use]
    pub const fn batch(mut self, jobs: u32) -> Task {
        self.jobs_per_delivery = jobs;
        self
    }

    /// A job of this task.
    pub fn job(&self, id: impl Into<String>, args: Vec<Json>) -> Job {
        Job::new(id, self.name, args)
    }
}
