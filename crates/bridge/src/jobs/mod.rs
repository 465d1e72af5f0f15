//! Where jobs, schedules and the dead letters of jobs and outbox rows are kept, wherever that is: in
//! the bridge's own file, or in a PostgreSQL database that bridges share. Queues, schedules,
//! publishing, housekeeping, the API and the command line come here.
//!
//! `file` and `server` do the same with another SQL; `connections` is how `server` speaks to its
//! database, `moving` takes what is in a bridge's file to a database that it shares from now on.

mod connections;
pub(crate) mod file;
mod moving;
pub(crate) mod server;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use innover_contract::Job;

use crate::{
    config::{Place, Queue},
    inspect::{self, JobRow},
    limits::{HOUSEKEEPING_ROWS, RESULT_BYTES_MAX},
    metrics::Metrics,
    store::{Durability, Store, StoreError},
};

/// Names and SQL of the migrations of the database that bridges share, in their order.
pub const MIGRATIONS: [(&str, &str); 1] = [("jobs", include_str!("migrations/0001_jobs.sql"))];

/// A job this bridge has leased.
#[derive(Clone, Debug)]
pub(crate) struct Leased {
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) envelope: String,
    /// This delivery's number, 1 the first.
    pub(crate) attempt: u32,
    pub(crate) enqueued_at: i64,
}

/// The jobs this process works on, from their lease until what became of them is written. It does not
/// take those back from itself, whatever a clock that was put forward says of their leases, or a server
/// that was away for longer. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashSet<(String, u32)>>>);

impl Running {
    /// Of one turn: what is written, and what is leased.
    pub(crate) fn turned(&self, settled: &[(Leased, Outcome)], leased: &[Vec<Leased>]) {
        // A panic leaves no change half done.
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (job, _) in settled {
            running.remove(&(job.id.clone(), job.attempt));
        }
        running.extend(
            leased
                .iter()
                .flatten()
                .map(|job| (job.id.clone(), job.attempt)),
        );
    }

    fn ids(&self) -> Vec<String> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|(id, _)| id.clone()).collect()
    }
}

/// What became of a delivered job.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Its result, as JSON.
    Done { result: String },
    /// Tried again at `eta`; by itself when it is suspected of failing whole batches.
    Retry {
        eta: i64,
        alone: bool,
        error: String,
    },
    /// No handler ran: it is as if it had not been fetched.
    Returned,
    /// Its time was over before it ran.
    Expired,
    /// Refused for good (`dead` false), or its tries are used up.
    GivenUp {
        dead: bool,
        error: String,
        /// The problem's code, when a service said so.
        code: String,
    },
}

/// What a queue's worker wants done in one commit.
pub(crate) struct Turn {
    pub(crate) queue: Arc<Queue>,
    pub(crate) settled: Vec<(Leased, Outcome)>,
    /// How many batches to lease.
    pub(crate) room: usize,
    /// `<instance>/<life>`: whose leases these are.
    pub(crate) owner: String,
    /// By the bridge's clock.
    pub(crate) now: i64,
}

/// What came of it.
pub(crate) struct Turned {
    /// Each a delivery: jobs of one task, the first by priority and age.
    pub(crate) leased: Vec<Vec<Leased>>,
    /// When the next delayed job is ready, by the bridge's clock; asked for only when there is room.
    pub(crate) next_eta: Option<i64>,
}

/// Unfinished jobs: queue, state, how many, and when the oldest was enqueued.
pub(crate) type Depth = (String, String, i64, i64);

/// Where this bridge's jobs are; cheap to clone.
#[derive(Clone)]
pub(crate) enum Jobs {
    /// In its own file.
    File(Store),
    /// In a database that it shares with other bridges.
    Server(Arc<server::Server>),
}

impl Jobs {
    /// Opens the place. With `shared` it takes there what the bridge's file still has, and takes back
    /// what earlier lives of this bridge (`instance`) had leased.
    ///
    /// # Errors
    /// The server cannot be reached, or its database is not what `innover migrate` makes.
    pub(crate) async fn start(
        store: &Store,
        shared: Option<&Place>,
        instance: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Jobs, StoreError> {
        let Some(place) = shared else {
            return Ok(Jobs::File(store.clone()));
        };
        let server = Arc::new(server::Server::new(place, instance, metrics)?);
        server.take_back_own().await?;
        moving::everything(store, &server).await?;
        Ok(Jobs::Server(server))
    }

    /// Writes outcomes and leases up to `room` batches.
    ///
    /// # Errors
    /// Nothing is written or leased then.
    pub(crate) async fn turn(&self, turn: Turn) -> Result<Turned, StoreError> {
        match self {
            Jobs::File(store) => {
                store
                    .write(Durability::Normal, move |c| file::turn(c, &turn))
                    .await
            }
            Jobs::Server(server) => server.turn(&turn).await,
        }
    }

    /// Extends the lease of jobs that still run here.
    pub(crate) async fn renew(
        &self,
        ids: Vec<String>,
        owner: String,
        now: i64,
    ) -> Result<(), StoreError> {
        match self {
            Jobs::File(store) => {
                store
                    .write(Durability::Normal, move |c| {
                        file::renew(c, &ids, &owner, now)
                    })
                    .await
            }
            Jobs::Server(server) => server.renew(&ids, &owner).await,
        }
    }

    /// Queues jobs again whose lease ran out, but those that `owner` works on. Returns how many.
    pub(crate) async fn take_back(
        &self,
        owner: String,
        running: &Running,
        now: i64,
    ) -> Result<usize, StoreError> {
        let running = running.ids();
        match self {
            Jobs::File(store) => {
                store
                    .write(Durability::Normal, move |c| {
                        file::take_back(c, &owner, &running, now)
                    })
                    .await
            }
            Jobs::Server(server) => server.take_back(&owner, &running).await,
        }
    }

    /// Unfinished jobs by queue and state; in a shared database those of all bridges.
    pub(crate) async fn depths(&self) -> Result<Vec<Depth>, StoreError> {
        match self {
            Jobs::File(store) => store.read(file::depths).await,
            Jobs::Server(server) => server.depths().await,
        }
    }

    /// Dead letters that are kept beside those in the bridge's file, by kind.
    pub(crate) async fn letters_shared(&self) -> Result<Vec<(String, i64)>, StoreError> {
        match self {
            Jobs::File(_) => Ok(Vec::new()),
            Jobs::Server(server) => server.letters_kept().await,
        }
    }

    /// One job.
    pub(crate) async fn job(&self, id: &str) -> Result<Option<JobRow>, StoreError> {
        match self {
            Jobs::File(store) => {
                let id = id.to_owned();
                store.read(move |c| inspect::job_in(c, &id)).await
            }
            Jobs::Server(server) => server.job(id).await,
        }
    }

    /// Deletes some of the finished jobs that are too old or too many. Returns how many.
    pub(crate) async fn retire(&self, now: i64) -> Result<usize, StoreError> {
        match self {
            Jobs::File(store) => {
                store
                    .write(Durability::Normal, move |c| {
                        file::retire(c, now, HOUSEKEEPING_ROWS)
                    })
                    .await
            }
            Jobs::Server(server) => server.retire(HOUSEKEEPING_ROWS).await,
        }
    }

    /// The time up to which a schedule's fire times are dealt with, and now, by the clock that counts; a
    /// new one begins `now`.
    pub(crate) async fn last_fire(
        &self,
        schedule: &str,
        now: i64,
    ) -> Result<(i64, i64), StoreError> {
        match self {
            Jobs::File(store) => {
                let schedule = schedule.to_owned();
                store
                    .write(Durability::Normal, move |c| {
                        Ok((file::last_fire(c, &schedule, now)?, now))
                    })
                    .await
            }
            Jobs::Server(server) => server.last_fire(schedule, now).await,
        }
    }

    /// Enqueues the jobs of fire times, in one commit with the note that times up to `considered`
    /// are dealt with. Returns how many are new: another bridge may have fired them.
    pub(crate) async fn fire(
        &self,
        schedule: &str,
        queue: &Arc<str>,
        jobs: Vec<(i64, Job)>,
        considered: i64,
        now: i64,
    ) -> Result<u64, StoreError> {
        match self {
            Jobs::File(store) => {
                let (schedule, queue) = (schedule.to_owned(), queue.clone());
                store
                    .write(Durability::Normal, move |c| {
                        file::fire(c, &schedule, &queue, &jobs, considered, now)
                    })
                    .await
            }
            Jobs::Server(server) => server.fire(schedule, queue, &jobs, considered).await,
        }
    }
}

/// Of a schedule.
const AHEAD: &str = "fire times up to a moment to come were dealt with, by a clock that was ahead; they count again";

/// What is stored of a result, and a note in place of one that is too long.
fn kept(result: &str) -> (Option<&str>, Option<String>) {
    match result.len() > RESULT_BYTES_MAX {
        true => (
            None,
            Some(format!("the result of {} bytes was not kept", result.len())),
        ),
        false => (Some(result), None),
    }
}
