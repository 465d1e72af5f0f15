//! Jobs started by the clock. A fire time becomes a job whose id is made of the schedule and that
//! time, in one commit with the note that it was fired: neither a crash nor a second start can
//! double it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use innover_contract::Job;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use tokio::sync::{Notify, watch};

use crate::{
    clock::{Clock, micros},
    config::{Missed, Route, Routes, ScheduleSpec, StartError},
    jobs::Jobs,
    limits::{CATCH_UP_MAX, SCHEDULE_GRACE, SCHEDULE_RETRY, SCHEDULE_WAKE_MAX},
    metrics::Metrics,
    store::StoreError,
};

/// One schedule, checked.
pub(crate) struct Schedule {
    /// `payment.sweep|*/10 * * * * *|UTC`: a changed pattern is another schedule and starts anew.
    id: String,
    route: Route,
    cron: Cron,
    zone: TimeZone,
    missed: Missed,
    spec: ScheduleSpec,
}

impl Schedule {
    /// Checks a schedule.
    pub(crate) fn new(spec: &ScheduleSpec, routes: &Routes) -> Result<Schedule, StartError> {
        let bad =
            |what: String| StartError::Config(format!("the schedule of `{}`: {what}", spec.task));
        let route = routes.resolve(None, &spec.task).map_err(bad)?;
        let cron = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build()
            .parse(&spec.cron)
            .map_err(|e| {
                bad(format!(
                    "`{}` is no cron pattern with seconds: {e}",
                    spec.cron
                ))
            })?;
        let zone = TimeZone::get(&spec.timezone)
            .map_err(|_| bad(format!("`{}` is no IANA time zone", spec.timezone)))?;
        let id = format!("{}|{}|{}", route.task, spec.cron, spec.timezone);
        Ok(Schedule {
            id,
            route,
            cron,
            zone,
            missed: spec.missed,
            spec: spec.clone(),
        })
    }

    /// The first fire time after `after`, both in microseconds since the epoch; `None` when the
    /// pattern never matches again.
    fn next(&self, after: i64) -> Option<i64> {
        let after = Timestamp::from_microsecond(after).ok()?;
        let next = self
            .cron
            .find_next_occurrence(&Zoned::new(after, self.zone.clone()), false)
            .ok()?;
        Some(next.timestamp().as_microsecond())
    }

    /// What to do about the fire times after `last` up to `now`.
    fn due(&self, last: i64, now: i64) -> Due {
        let mut due = Due {
            fire: Vec::new(),
            left_out: 0,
            considered: last,
        };
        // Times that are left out anyway are not walked through one by one: a schedule of every
        // second that slept for a year has 31 million of them. They count as one.
        let too_late = now - micros(SCHEDULE_GRACE) - 1;
        if self.missed == Missed::Skip && self.next(last).is_some_and(|first| first <= too_late) {
            due.left_out = 1;
            due.considered = too_late;
        }
        let bound = if self.missed == Missed::Skip {
            1
        } else {
            CATCH_UP_MAX
        };
        let mut fire = VecDeque::new();
        while let Some(next) = self.next(due.considered).filter(|next| *next <= now) {
            fire.push_back(next);
            if fire.len() > bound {
                fire.pop_front();
                due.left_out += 1;
            }
            due.considered = next;
        }
        due.fire = fire.into();
        due
    }

    /// Task, cron and time zone.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The queue its jobs go to.
    pub(crate) fn queue(&self) -> &str {
        &self.route.queue
    }

    fn job(&self, at: i64) -> Job {
        Job::new(
            job_id(&self.id, at),
            self.route.task.clone(),
            self.spec.args.clone(),
        )
    }
}

/// Fire times to deal with.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// Oldest first.
    fire: Vec<i64>,
    /// How many are left out, at least.
    left_out: u64,
    /// Times up to here are dealt with.
    considered: i64,
}

/// The id of a fire time's job, e.g. `schedule|payment.sweep|*/10 * * * * *|UTC|1793372400000000`.
fn job_id(schedule: &str, at: i64) -> String {
    format!("schedule|{schedule}|{at}")
}

/// Fires one schedule.
pub(crate) struct Timer {
    pub(crate) schedule: Schedule,
    pub(crate) jobs: Jobs,
    pub(crate) bell: Option<Arc<Notify>>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Timer {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let mut last: Option<i64> = None;
        let mut failing = false;
        while !*self.shutdown.borrow() {
            let now = self.clock.now();
            // A clock that was put back: the store says what is dealt with.
            let fired = match last.filter(|last| *last <= now + micros(SCHEDULE_GRACE)) {
                None => {
                    let noted = self.jobs.last_fire(&self.schedule.id, now).await;
                    noted.map(|(last, _)| last)
                }
                Some(last) => Ok(last),
            };
            let fired = match fired {
                Ok(last) => self.fire(last, now).await,
                Err(error) => Err(error),
            };
            let wait = match fired {
                Ok(considered) => {
                    failing = false;
                    last = Some(considered);
                    let next = self.schedule.next(considered).unwrap_or(i64::MAX);
                    let wait = u64::try_from(next.saturating_sub(self.clock.now())).unwrap_or(0);
                    match next <= now {
                        // Its time has come here, but not by the clock that counts.
                        true => SCHEDULE_RETRY,
                        false => Duration::from_micros(wait),
                    }
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    // What it remembers may be more than the store has.
                    last = None;
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(schedule = self.schedule.id, %error, "a schedule cannot be fired; trying again");
                    }
                    SCHEDULE_RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait.min(SCHEDULE_WAKE_MAX)) => {}
                _ = self.shutdown.changed() => {}
            }
        }
    }

    /// Enqueues what is due; returns the time up to which fire times are dealt with.
    async fn fire(&self, last: i64, now: i64) -> Result<i64, StoreError> {
        let mut due = self.schedule.due(last, now);
        let some = due.left_out > 0 || !due.fire.is_empty();
        if some && matches!(self.jobs, Jobs::Server(_)) {
            // Another bridge may have fired them, and what this one has fired may be lost with a server.
            let (last, servers) = self.jobs.last_fire(&self.schedule.id, now).await?;
            // Nothing is fired before its time because this bridge's clock is ahead.
            due = self.schedule.due(last, now.min(servers));
        }
        let Due {
            fire,
            left_out,
            considered,
        } = due;
        if left_out > 0 {
            tracing::warn!(
                schedule = self.schedule.id,
                left_out,
                "fire times passed while nothing ran and were left out"
            );
            self.metrics.missed(&self.schedule.route.task, left_out);
        }
        if fire.is_empty() {
            return Ok(considered);
        }
        let job = |at: i64| (at, self.schedule.job(at));
        let (id, queue) = (&self.schedule.id, &self.schedule.route.queue);
        let jobs = fire.into_iter().map(job).collect();
        let fired = self.jobs.fire(id, queue, jobs, considered, now).await?;
        self.metrics.fired(&self.schedule.route.task, fired);
        self.metrics.enqueued(&self.schedule.route.queue, fired);
        if let Some(bell) = &self.bell {
            bell.notify_one();
        }
        Ok(considered)
    }
}
