//! Outbox → bus and queues: one loop per service database.
//!
//! A pass reads rows in commit order and publishes them. The rows stay where they are for a moment:
//! they are the copy that survives a power cut, so a hop costs no fsync of ours. A little later, for
//! many rows at once, the bridge's store is made durable and only then the rows are deleted; in a file
//! under the database's write lock, which the service's own commits need too. Should the delete be
//! undone, or the process die before it, rows are published again, and the log's unique id (for jobs,
//! the job's id) makes that a no-op.
//!
//! Jobs do not wait for Kafka: while it does not take the events that were read, or has refused them,
//! the jobs of the outbox are read on their own, wherever they are in it.

use std::{sync::Arc, time::Duration};

use innover_contract::{
    Job,
    event::{OUTBOX_TASK_PREFIX, OutboxHeaders},
    time::rfc3339,
};
use innover_failpoint::{Step, hold};
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    clock::Clock,
    config::{Database, Place, Routes},
    door::WriteGate,
    limits::{
        ENVELOPE_BYTES_MAX, POLL_EAGER, POLL_MAX, POLL_MIN, RELAY_BACKOFF, RELAY_DELETE_AFTER,
        RELAY_DELETE_ROWS, RELAY_GATHER, RELAY_JOBS_EVERY, RELAY_LOAD_FORGET, RELAY_LOAD_ROWS,
        RELAY_ROWS_MAX,
    },
    metrics::{Metrics, RelayState},
    outbox::{Lease, Outbox, Row},
    publish::{Item, Publisher},
    store::{
        Durability, StoreError,
        events::{NewDeadLetter, NewEvent},
    },
};

/// One service's relay.
pub(crate) struct Relay {
    pub(crate) service: Arc<str>,
    pub(crate) database: Database,
    pub(crate) publisher: Publisher,
    pub(crate) routes: Arc<Routes>,
    /// This bridge's claim on the outbox, among several.
    pub(crate) lease: Arc<Lease>,
    pub(crate) gate: Arc<dyn WriteGate>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// What a relay remembers between two passes.
#[derive(Default)]
struct Progress {
    outbox: Option<Outbox>,
    /// Since when there are rows that are published and not deleted.
    undeleted_since: Option<Instant>,
    /// The outbox as jobs are read from it while events do not flow.
    jobs: Option<Outbox>,
}

impl Relay {
    /// Runs until shutdown, then publishes what is committed by then.
    pub(crate) async fn run(mut self) {
        let mut progress = Progress::default();
        let state = self.metrics.relay(&self.service);
        let mut poll = POLL_MIN;
        let mut last_row = Instant::now();
        // Rows of the last passes, newer ones counting more; in eighths, since most passes find one.
        let mut load = 0_usize;
        let mut failures = 0_u32;
        loop {
            let closing = *self.shutdown.borrow();
            let pass = self.pass(&mut progress, &state, closing).await;
            let wait = match pass {
                Ok(rows) => {
                    failures = 0;
                    state.healthy();
                    if rows >= RELAY_ROWS_MAX {
                        continue;
                    }
                    if closing {
                        return;
                    }
                    load = (load * 3 + rows * 8) / 4;
                    if last_row.elapsed() > RELAY_LOAD_FORGET {
                        load = 0;
                    }
                    if rows > 0 {
                        last_row = Instant::now();
                    }
                    let eager = last_row.elapsed() < POLL_EAGER;
                    poll = if eager {
                        POLL_MIN
                    } else {
                        (poll * 3 / 2).min(POLL_MAX)
                    };
                    poll.min(
                        progress
                            .undeleted_since
                            .map_or(poll, |_| RELAY_DELETE_AFTER),
                    )
                }
                Err(error) => {
                    if closing {
                        tracing::warn!(service = &*self.service, %error, "the outbox keeps its rows until the next start");
                        return;
                    }
                    let yields = matches!(error, StoreError::Yields);
                    // Once for each reason it fails for.
                    if !yields && state.failed(&error, self.clock.now()) {
                        tracing::warn!(service = &*self.service, %error, "the relay cannot read or publish its outbox; it keeps trying");
                    }
                    failures += 1;
                    progress = Progress {
                        jobs: progress.jobs.take(),
                        ..Progress::default()
                    };
                    if let StoreError::Bus(_) | StoreError::Yields = error {
                        self.lease.events_flow(false);
                        self.jobs(&mut progress.jobs).await;
                    }
                    RELAY_BACKOFF
                        .saturating_mul(2_u32.saturating_pow(failures.min(8)))
                        .min(POLL_MAX)
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = self.shutdown.changed() => {}
            }
            // Under load a moment's wait gathers more rows, and each hop after this one handles them
            // in one commit. Payments one after the other leave a row or two per pass.
            if load >= RELAY_LOAD_ROWS * 8 && !*self.shutdown.borrow() {
                tokio::time::sleep(RELAY_GATHER).await;
            }
        }
    }

    async fn open(&self) -> Result<Outbox, StoreError> {
        Outbox::open(&self.database, &self.lease, &self.wake).await
    }

    /// Publishes one read of the outbox and deletes what is due. Returns how many rows it read.
    async fn pass(
        &self,
        progress: &mut Progress,
        state: &RelayState,
        closing: bool,
    ) -> Result<usize, StoreError> {
        // Put back only when all went well; otherwise the next pass starts anew.
        let mut outbox = match progress.outbox.take() {
            Some(outbox) => outbox,
            None => self.open().await?,
        };
        let rows = outbox.read().await?;
        let count = rows.len();
        let mut delete_now = closing;
        state.oldest_row(rows.first().map_or(0, |r| r.created_at));
        if count > 0 {
            hold(Step::RowsUnpublished, &self.service).await;
            let items = rows
                .into_iter()
                .map(|row| item(&self.service, &self.routes, row))
                .collect();
            if let Place::File(_) = self.database.place {
                self.gate.settle(&self.database).await?;
            }
            // A row that a job has left its rowid to is not to be taken for one that was read.
            delete_now |= self.publish(items, &mut progress.jobs).await?;
            hold(Step::RowsPublished, &self.service).await;
            progress.undeleted_since.get_or_insert_with(Instant::now);
            if count < RELAY_ROWS_MAX {
                state.oldest_row(0);
            }
        } else {
            // Nothing is held up, perhaps since another bridge has published it.
            self.lease.events_flow(true);
        }
        let due = progress
            .undeleted_since
            .is_some_and(|since| since.elapsed() >= RELAY_DELETE_AFTER);
        if due
            || outbox.undeleted() >= RELAY_DELETE_ROWS
            || (delete_now && progress.undeleted_since.is_some())
        {
            self.publisher.harden(self.clock.now()).await?;
            hold(Step::RowsUndeleted, &self.service).await;
            outbox.delete(&self.gate, &self.database.label).await?;
            progress.undeleted_since = None;
        }
        progress.outbox = Some(outbox);
        progress.jobs = None;
        // It may have failed last, and is not asked again.
        self.metrics.reachable(&self.of_jobs(), None);
        Ok(count)
    }

    /// Publishes rows. As long as Kafka does not take their events, the jobs of the outbox go on:
    /// returns whether it came to that. Both at a time, since they share connections and either may
    /// hold the last one; and no pass for jobs is left half done.
    async fn publish(
        &self,
        items: Vec<Item>,
        jobs: &mut Option<Outbox>,
    ) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let publish = self.publisher.publish(items, Durability::Normal, now);
        tokio::pin!(publish);
        let mut apart = false;
        let mut wait = RELAY_JOBS_EVERY;
        loop {
            tokio::select! {
                biased;
                published = &mut publish => return self.published(published, apart),
                () = tokio::time::sleep(wait), if self.publisher.kafka.is_some() => {}
            }
            self.lease.events_flow(false);
            apart = true;
            let pass = self.jobs(jobs);
            tokio::pin!(pass);
            let rows = tokio::select! {
                biased;
                published = &mut publish => {
                    pass.await;
                    return self.published(published, true);
                }
                rows = &mut pass => rows,
            };
            wait = match rows < RELAY_ROWS_MAX {
                true => RELAY_JOBS_EVERY,
                false => Duration::ZERO,
            };
        }
    }

    fn published<T>(
        &self,
        published: Result<T, StoreError>,
        apart: bool,
    ) -> Result<bool, StoreError> {
        // What came instead of an answer may have been the jobs' database's fault.
        if !matches!(published, Err(StoreError::Bus(_))) {
            self.lease.events_flow(true);
        }
        published?;
        Ok(apart)
    }

    /// Publishes and deletes jobs alone, from an outbox of their own. Returns how many it read. A
    /// failure is said by readiness, and the next time starts anew.
    async fn jobs(&self, outbox: &mut Option<Outbox>) -> usize {
        match self.jobs_pass(outbox).await {
            Ok(rows) => {
                self.metrics.reachable(&self.of_jobs(), None);
                rows
            }
            Err(error) => {
                tracing::debug!(service = &*self.service, %error, "jobs cannot be relayed either");
                self.metrics
                    .reachable(&self.of_jobs(), Some(&error.to_string()));
                0
            }
        }
    }

    /// The passes for jobs, as readiness calls them.
    fn of_jobs(&self) -> String {
        format!("{} (jobs of its outbox)", self.service)
    }

    async fn jobs_pass(&self, progress: &mut Option<Outbox>) -> Result<usize, StoreError> {
        let mut outbox = match progress.take() {
            Some(outbox) => outbox,
            None => self.open().await?,
        };
        let rows = outbox.read_jobs().await?;
        let count = rows.len();
        if count > 0 {
            let items = rows
                .into_iter()
                .map(|row| item(&self.service, &self.routes, row))
                .collect();
            if let Place::File(_) = self.database.place {
                self.gate.settle(&self.database).await?;
            }
            let now = self.clock.now();
            self.publisher.publish(items, Durability::Full, now).await?;
            outbox.delete(&self.gate, &self.database.label).await?;
        }
        *progress = Some(outbox);
        Ok(count)
    }
}

/// What is published for a row. Whether a row can be read depends on the row alone, so a second try
/// would fail alike: an unreadable one is parked at once, and the rest flows on.
fn item(service: &str, routes: &Routes, row: Row) -> Item {
    match parse(service, routes, &row) {
        Ok(item) => item,
        Err((kind, target, error)) => {
            tracing::error!(
                service,
                id = row.id,
                topic = row.topic,
                r#type = row.kind,
                error,
                "an outbox row was parked"
            );
            let id = if row.id.is_empty() {
                format!("{service}-row-{}-{}", row.place, row.created_at)
            } else {
                row.id
            };
            Item::Dead(NewDeadLetter {
                kind,
                target,
                id,
                name: row.kind,
                key: row.key,
                envelope: row.payload,
                error,
                attempts: 1,
            })
        }
    }
}

type Unreadable = (&'static str, String, String);

fn parse(service: &str, routes: &Routes, row: &Row) -> Result<Item, Unreadable> {
    let unreadable = |error: String| ("outbox", service.to_owned(), error);
    if row.id.is_empty() || row.topic.is_empty() || row.kind.is_empty() {
        return Err(unreadable("id, topic and type must not be empty".into()));
    }
    let headers: OutboxHeaders = match row.headers.is_empty() {
        true => OutboxHeaders::default(),
        false => {
            serde_json::from_str(&row.headers).map_err(|e| unreadable(format!("headers: {e}")))?
        }
    };
    if let Some(task) = row.kind.strip_prefix(OUTBOX_TASK_PREFIX) {
        let mut job: Job = serde_json::from_str(&row.payload)
            .map_err(|e| unreadable(format!("payload of {task}: {e}")))?;
        let queue = routes
            .route(Some(&row.topic), &mut job)
            .map_err(|e| ("job", row.topic.clone(), e))?;
        job.traceparent = job.traceparent.or(headers.traceparent);
        job.correlationid = job.correlationid.or(headers.correlationid);
        fits(row.payload.len()).map_err(unreadable)?;
        return Ok(Item::Job { queue, job });
    }
    let envelope =
        envelope(service, row, &headers).map_err(|e| unreadable(format!("payload: {e}")))?;
    fits(envelope.len()).map_err(unreadable)?;
    Ok(Item::Event(NewEvent {
        id: row.id.clone(),
        topic: row.topic.clone(),
        key: row.key.clone(),
        envelope,
    }))
}

/// What does not fit into one delivery would be refused 25 times before it became a dead letter.
fn fits(bytes: usize) -> Result<(), String> {
    match bytes <= ENVELOPE_BYTES_MAX {
        true => Ok(()),
        false => Err(format!(
            "{bytes} bytes, and a delivery carries at most {ENVELOPE_BYTES_MAX}"
        )),
    }
}

/// The CloudEvent's attributes; `data` is appended as it is in the row.
#[derive(Serialize)]
struct Attributes<'a> {
    specversion: &'a str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    time: String,
    datacontenttype: &'a str,
    dataschema: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    partitionkey: &'a str,
    #[serde(flatten)]
    headers: &'a OutboxHeaders,
}

/// Builds the event as JSON. The payload is checked but not parsed into a tree and written again:
/// that would cost more than everything else here, and would round large numbers.
fn envelope(
    service: &str,
    row: &Row,
    headers: &OutboxHeaders,
) -> Result<String, serde_json::Error> {
    serde_json::from_str::<serde::de::IgnoredAny>(&row.payload)?;
    let mut text = serde_json::to_string(&Attributes {
        specversion: "1.0",
        id: &row.id,
        source: format!("/innover/{service}"),
        kind: &row.kind,
        subject: &row.key,
        time: rfc3339(row.created_at),
        datacontenttype: "application/json",
        dataschema: format!("/schemas/{}/v1.json", row.kind),
        partitionkey: &row.key,
        headers,
    })?;
    text.pop();
    text.push_str(r#","data":"#);
    text.push_str(row.payload.trim());
    text.push('}');
    Ok(text)
}
