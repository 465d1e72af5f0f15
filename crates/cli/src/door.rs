//! How the bridge inside `innover up` reaches the components: in process, through the host.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, header};
use innover_bridge::{
    CALLER, Database, Delivery, Door, DoorError, NoGate, Place, QueueSpec, ScheduleSpec,
    ServiceSpec, TaskSpec, WriteGate,
};
use innover_contract::{
    Identity, Keyring,
    limits::SERVICE_TOKEN_SECONDS,
    service_token::{self, SCOPE_DELIVER},
};
use innover_host::{CallError, Caller, Host};

use crate::app::App;

/// Calls components of this process with a deliver token.
pub struct HostDoor {
    caller: Caller,
    keyring: Keyring,
    tokens: Mutex<HashMap<String, (String, Instant)>>,
}

impl HostDoor {
    pub fn new(caller: Caller, keyring: Keyring) -> HostDoor {
        HostDoor {
            caller,
            keyring,
            tokens: Mutex::default(),
        }
    }

    /// The `Authorization` of deliveries to a service. One is used for half its life, so that what
    /// is left covers a delivery that waits for its turn.
    fn authorization(&self, service: &str) -> Result<String, DoorError> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, until)) = tokens.get(service)
            && Instant::now() < *until
        {
            return Ok(value.clone());
        }
        let identity = Identity {
            sub: CALLER.into(),
            scope: SCOPE_DELIVER.into(),
            ..Default::default()
        };
        let request_id = uuid::Uuid::now_v7().to_string();
        let token = service_token::mint(&self.keyring, CALLER, service, &identity, &request_id)
            .map_err(|error| DoorError::Unavailable(format!("no deliver token: {error}")))?;
        let value = format!("Bearer {token}");
        let until = Instant::now() + Duration::from_secs(SERVICE_TOKEN_SECONDS / 2);
        tokens.insert(service.to_owned(), (value.clone(), until));
        Ok(value)
    }

    async fn call(&self, delivery: Delivery<'_>) -> Result<(u16, Bytes), DoorError> {
        let mut request = Request::post(delivery.path)
            .header(header::CONTENT_TYPE, delivery.content_type)
            .header(header::AUTHORIZATION, self.authorization(delivery.service)?);
        if let Some(traceparent) = &delivery.traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(delivery.body).map_err(|error| {
            DoorError::Failed(format!("the delivery is no HTTP request: {error}"))
        })?;
        let answer = self
            .caller
            .call(delivery.service, request, delivery.deadline)
            .await;
        let answer = answer.map_err(|error| match error {
            CallError::NotFound | CallError::Saturated | CallError::Stopping => {
                DoorError::Unavailable(error.to_string())
            }
            CallError::Deadline => DoorError::Timeout(delivery.deadline),
            CallError::Trapped | CallError::Body => DoorError::Failed(error.to_string()),
        })?;
        Ok((answer.status().as_u16(), answer.into_body()))
    }
}

impl Door for HostDoor {
    fn deliver<'a>(
        &'a self,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Result<(u16, Bytes), DoorError>> {
        Box::pin(self.call(delivery))
    }
}

/// The host's write locks. Holds the host weakly: the bridge may outlive it by a moment at shutdown.
pub struct HostGate(pub Weak<Host>);

impl WriteGate for HostGate {
    fn lock<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Box<dyn Send>> {
        Box::pin(async move {
            let Some(host) = self.0.upgrade() else {
                return Box::new(()) as Box<dyn Send>;
            };
            match host.lock_database(label).await {
                Some(Ok(guard)) => Box::new(guard) as Box<dyn Send>,
                // Without the lock the relay competes through SQLite's own, which is slower and right.
                Some(Err(_)) | None => Box::new(()),
            }
        })
    }

    fn settle<'a>(&'a self, database: &'a Database) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move {
            let Some(host) = self.0.upgrade() else {
                return NoGate.settle(database).await;
            };
            host.settle_database(&database.label).await;
            Ok(())
        })
    }
}

/// What the bridge is told about the application's components. `database` says where a label is.
pub fn services(app: &App, database: impl Fn(&str) -> Place) -> Vec<ServiceSpec> {
    let components = app.manifest.components.iter();
    components
        .filter(|(_, component)| {
            let tool = &component.innover;
            tool.database.is_some() || tool.jobs.is_some() || !tool.subscribes.is_empty()
        })
        .map(|(id, component)| {
            let tool = &component.innover;
            ServiceSpec {
                name: tool.service_name(id).to_owned(),
                database: tool.database.as_ref().map(|label| Database {
                    label: label.clone(),
                    place: database(label),
                }),
                subscribes: tool.subscribes.clone(),
                event_batch: tool.event_batch() as usize,
                queue: tool.jobs.as_ref().map(queue),
                schedules: tool.schedules.iter().map(schedule).collect(),
            }
        })
        .collect()
}

fn queue(jobs: &innover_manifest::Jobs) -> QueueSpec {
    let tasks = jobs.tasks.iter().map(|(name, task)| {
        let spec = TaskSpec {
            deadline: Duration::from_millis(task.deadline_ms),
            max_attempts: task.max_attempts,
            batch: task.batch as usize,
            scope: task.scope.clone(),
        };
        (name.clone(), spec)
    });
    QueueSpec {
        name: jobs.queue.clone(),
        aliases: jobs.aliases.clone(),
        concurrency: jobs.concurrency as usize,
        tasks: tasks.collect(),
    }
}

fn schedule(schedule: &innover_manifest::Schedule) -> ScheduleSpec {
    ScheduleSpec {
        task: schedule.task.clone(),
        cron: schedule.cron.clone(),
        timezone: schedule.timezone.clone(),
        missed: match schedule.missed {
            innover_manifest::Missed::Skip => innover_bridge::Missed::Skip,
            innover_manifest::Missed::CatchUp => innover_bridge::Missed::CatchUp,
        },
        args: schedule.args.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn the_bridge_learns_every_outbox_subscription_queue_and_schedule() {
        let app = crate::app::tests::own();
        let specs = services(&app, |label| Place::File(format!("db/{label}.db").into()));
        let payment = specs.iter().find(|spec| spec.name == "payment").unwrap();
        let place = &payment.database.as_ref().unwrap().place;
        assert!(matches!(place, Place::File(path) if path.ends_with("db/payment.db")));
        assert!(payment.subscribes.contains(&"forex.converted".to_owned()));
        let queue = payment.queue.as_ref().unwrap();
        assert_eq!(
            (queue.name.as_str(), queue.tasks["payment.confirm"].batch),
            ("payment-tasks", 50)
        );
        assert_eq!(payment.schedules[0].task, "payment.sweep");
        assert!(
            specs.iter().any(|spec| spec.name == "tasks"),
            "pushed jobs wait in its outbox"
        );
        assert!(
            !specs.iter().any(|spec| spec.name == "gateway"),
            "nothing to relay or deliver"
        );
    }
}
