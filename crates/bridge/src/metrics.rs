//! Counters and gauges in Prometheus' text format, and the state behind readiness.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{Display, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{clock::Clock, store::events::LogEvent};

/// Upper bounds of duration histograms, in seconds: an idle hop takes a few milliseconds, a job up
/// to its deadline of a minute.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0,
];

/// Name and labels of a series, e.g. `("x_total", r#"queue="wallet-tasks""#)`.
type Series = (&'static str, String);

/// All numbers of one bridge.
pub(crate) struct Metrics {
    clock: Clock,
    counters: Mutex<BTreeMap<Series, u64>>,
    gauges: Mutex<BTreeMap<Series, f64>>,
    histograms: Mutex<BTreeMap<Series, Histogram>>,
    relays: Mutex<BTreeMap<String, Arc<RelayState>>>,
    /// Subscribers and queues whose service cannot be reached, and why.
    unreachable: Mutex<BTreeMap<String, String>>,
    /// Tasks that ended before they were told to.
    ended: Mutex<BTreeSet<String>>,
    /// Dead letters of events on Kafka, as they were last counted; negative before that.
    letters_on_kafka: AtomicI64,
}

#[derive(Default, Clone)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// A relay's last pass.
#[derive(Default)]
pub(crate) struct RelayState {
    /// When the oldest row that is not published was written; 0 when there is none.
    oldest: AtomicI64,
    /// Since when its passes fail, and why the last one did.
    failing: Mutex<Option<(i64, String)>>,
}

impl RelayState {
    pub(crate) fn oldest_row(&self, created_at: i64) {
        self.oldest.store(created_at, Relaxed);
    }

    pub(crate) fn healthy(&self) {
        *lock(&self.failing) = None;
    }

    /// Notes why a pass failed; says whether the one before did not, or for something else.
    pub(crate) fn failed(&self, error: &dyn Display, now: i64) -> bool {
        let mut failing = lock(&self.failing);
        let (since, text) = (failing.as_ref().map_or(now, |f| f.0), error.to_string());
        let news = failing.as_ref().is_none_or(|f| f.1 != text);
        *failing = Some((since, text));
        news
    }

    /// The age of its oldest row in seconds. Of an outbox that cannot be read nobody knows: a row may
    /// have come right after it could be read last.
    fn age(&self, now: i64) -> f64 {
        let oldest = self.oldest.load(Relaxed);
        let failing = lock(&self.failing)
            .as_ref()
            .map_or(now, |(since, _)| *since);
        let row = if oldest == 0 { now } else { oldest };
        (now - row.min(failing)).max(0) as f64 / 1e6
    }
}

/// No change below can be left half done by a panic, so a poisoned lock is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A label as Prometheus quotes it.
fn label(name: &str, value: &str) -> String {
    format!(
        "{name}=\"{}\"",
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    )
}

impl Metrics {
    pub(crate) fn new(clock: Clock) -> Metrics {
        Metrics {
            clock,
            counters: Mutex::default(),
            gauges: Mutex::default(),
            histograms: Mutex::default(),
            relays: Mutex::default(),
            unreachable: Mutex::default(),
            ended: Mutex::default(),
            letters_on_kafka: AtomicI64::default(),
        }
    }

    pub(crate) fn relay(&self, service: &str) -> Arc<RelayState> {
        lock(&self.relays)
            .entry(service.to_owned())
            .or_default()
            .clone()
    }

    fn add(&self, name: &'static str, labels: String, n: u64) {
        *lock(&self.counters).entry((name, labels)).or_default() += n;
    }

    fn set(&self, name: &'static str, labels: String, value: f64) {
        lock(&self.gauges).insert((name, labels), value);
    }

    fn observe(&self, name: &'static str, labels: String, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut histograms = lock(&self.histograms);
        let histogram = histograms.entry((name, labels)).or_default();
        histogram.count += 1;
        histogram.sum += seconds;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    pub(crate) fn published(&self, events: &[Arc<LogEvent>], known: u64) {
        let mut counters = lock(&self.counters);
        for event in events {
            let series = (
                "innover_events_published_total",
                label("topic", &event.topic),
            );
            *counters.entry(series).or_default() += 1;
        }
        if known > 0 {
            *counters
                .entry(("innover_publish_duplicates_total", String::new()))
                .or_default() += known;
        }
    }

    /// As [`Metrics::published`], for events that have no copy here.
    pub(crate) fn published_to(&self, topics: &HashMap<&str, u64>) {
        for (topic, n) in topics {
            self.add("innover_events_published_total", label("topic", topic), *n);
        }
    }

    pub(crate) fn parked(&self, kind: &str) {
        self.add("innover_parked_total", label("kind", kind), 1);
    }

    pub(crate) fn enqueued(&self, queue: &str, n: u64) {
        self.add("innover_jobs_enqueued_total", label("queue", queue), n);
    }

    /// `outcome` is `delivered`, `retried` or `dead`.
    pub(crate) fn events(&self, subscriber: &str, outcome: &'static str, n: u64) {
        let name = match outcome {
            "delivered" => "innover_events_delivered_total",
            "retried" => "innover_events_retried_total",
            _ => "innover_events_dead_total",
        };
        if n > 0 {
            self.add(name, label("subscriber", subscriber), n);
        }
    }

    pub(crate) fn delivery(&self, subscriber: &str, took: Duration) {
        self.observe(
            "innover_event_delivery_seconds",
            label("subscriber", subscriber),
            took,
        );
    }

    pub(crate) fn lag(&self, subscriber: &str, events: i64, waiting: usize) {
        self.set(
            "innover_subscriber_lag_events",
            label("subscriber", subscriber),
            events as f64,
        );
        self.set(
            "innover_subscriber_retry_events",
            label("subscriber", subscriber),
            waiting as f64,
        );
    }

    /// What is on this member's partitions and not settled, by topic.
    pub(crate) fn kafka_lag(&self, subscriber: &str, topics: &HashMap<&str, i64>) {
        for (topic, lag) in topics {
            let labels = format!(
                "{},{}",
                label("subscriber", subscriber),
                label("topic", topic)
            );
            self.set("innover_kafka_lag_events", labels, *lag as f64);
        }
        self.set(
            "innover_subscriber_lag_events",
            label("subscriber", subscriber),
            topics.values().sum::<i64>() as f64,
        );
    }

    /// What a member has read and not settled, and how much of it waits for its next try.
    pub(crate) fn kafka_held(&self, subscriber: &str, held: usize, waiting: usize) {
        let labels = label("subscriber", subscriber);
        self.set("innover_kafka_held_events", labels.clone(), held as f64);
        self.set("innover_subscriber_retry_events", labels, waiting as f64);
    }

    pub(crate) fn kafka_read(&self, subscriber: &str, n: u64) {
        if n > 0 {
            self.add(
                "innover_kafka_read_total",
                label("subscriber", subscriber),
                n,
            );
        }
    }

    /// `outcome` is `done`, `failed`, `retried`, `revoked` or `dead`.
    pub(crate) fn job(&self, queue: &str, outcome: &'static str) {
        let name = match outcome {
            "done" => "innover_jobs_done_total",
            "failed" => "innover_jobs_failed_total",
            "retried" => "innover_jobs_retried_total",
            "revoked" => "innover_jobs_revoked_total",
            _ => "innover_jobs_dead_total",
        };
        self.add(name, label("queue", queue), 1);
    }

    pub(crate) fn job_took(&self, task: &str, took: Duration) {
        self.observe("innover_job_duration_seconds", label("task", task), took);
    }

    pub(crate) fn leases_taken_back(&self, n: u64) {
        self.add("innover_job_leases_expired_total", String::new(), n);
    }

    pub(crate) fn fired(&self, task: &str, n: u64) {
        self.add("innover_schedules_fired_total", label("task", task), n);
    }

    pub(crate) fn missed(&self, task: &str, n: u64) {
        self.add("innover_schedules_missed_total", label("task", task), n);
    }

    /// Replaces the depth gauges with a new sample of (queue, state, count, oldest enqueued at).
    pub(crate) fn depths(&self, queues: &[Arc<str>], sample: &[(String, String, i64, i64)]) {
        let now = self.clock.now();
        for queue in queues {
            for (state, name) in [
                ("queued", "innover_jobs_queued"),
                ("delayed", "innover_jobs_delayed"),
                ("leased", "innover_jobs_running"),
            ] {
                let row = sample
                    .iter()
                    .find(|(q, s, ..)| **q == **queue && s == state);
                self.set(name, label("queue", queue), row.map_or(0.0, |r| r.2 as f64));
                if state == "queued" {
                    let age = row.map_or(0.0, |r| (now - r.3).max(0) as f64 / 1e6);
                    self.set(
                        "innover_jobs_oldest_age_seconds",
                        label("queue", queue),
                        age,
                    );
                }
            }
        }
    }

    /// Dead letters on Kafka that are not settled, or that they are not counted yet.
    pub(crate) fn letters_on_kafka(&self, count: Option<usize>) {
        let count = count.map_or(-1, |count| count as i64);
        self.letters_on_kafka.store(count, Relaxed);
    }

    /// Dead letters that are kept now, as a sample of (kind, count): a kind may come twice, from the
    /// file and the database that bridges share. Those on Kafka are added; before they are counted
    /// nothing is said of events.
    pub(crate) fn dead_letters(&self, sample: &[(String, i64)]) {
        for kind in ["event", "job", "outbox"] {
            let of_kind = sample.iter().filter(|(k, _)| k == kind);
            let mut kept: i64 = of_kind.map(|(_, count)| count).sum();
            if kind == "event" {
                match self.letters_on_kafka.load(Relaxed) {
                    ..0 => continue,
                    on_kafka => kept += on_kafka,
                }
            }
            self.set("innover_dead_letters", label("kind", kind), kept as f64);
        }
    }

    /// Lengths of a queue's lists in Redis, by state.
    pub(crate) fn redis_depths(&self, queue: &str, queued: i64, delayed: i64, leased: i64) {
        let labels = label("queue", queue);
        self.set("innover_redis_jobs_queued", labels.clone(), queued as f64);
        self.set("innover_redis_jobs_delayed", labels.clone(), delayed as f64);
        self.set("innover_redis_jobs_running", labels, leased as f64);
    }

    /// Notes that a service cannot be reached (`Some`, why) or can again.
    pub(crate) fn reachable(&self, who: &str, problem: Option<&str>) {
        let mut unreachable = lock(&self.unreachable);
        match problem {
            Some(problem) => drop(unreachable.insert(who.to_owned(), problem.to_owned())),
            None => drop(unreachable.remove(who)),
        }
    }

    /// Whether nothing was noted against it.
    pub(crate) fn is_reachable(&self, who: &str) -> bool {
        !lock(&self.unreachable).contains_key(who)
    }

    /// Notes that a task ended which nobody had told to.
    pub(crate) fn ended(&self, task: String) {
        lock(&self.ended).insert(task);
    }

    /// Everything that keeps the bridge from doing its work, one sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let relays = lock(&self.relays);
        let outboxes = relays.iter().filter_map(|(service, state)| {
            lock(&state.failing)
                .as_ref()
                .map(|(_, error)| format!("the outbox of {service}: {error}"))
        });
        let doors = lock(&self.unreachable);
        let doors = doors
            .iter()
            .map(|(who, problem)| format!("{who} cannot be reached: {problem}"));
        let ended = lock(&self.ended);
        let ended = ended
            .iter()
            .map(|task| format!("a task of the bridge has ended: {task}; restart it"));
        outboxes.chain(doors).chain(ended).collect()
    }

    /// Prometheus' text format, version 0.0.4.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let now = self.clock.now();
        let mut gauges = lock(&self.gauges).clone();
        for (service, state) in lock(&self.relays).iter() {
            let name = ("innover_outbox_age_seconds", label("service", service));
            gauges.insert(name, state.age(now));
        }
        let ready = f64::from(u8::from(self.problems().is_empty()));
        gauges.insert(("innover_bridge_ready", String::new()), ready);
        series(&mut text, "counter", &lock(&self.counters));
        series(&mut text, "gauge", &gauges);
        let mut last = "";
        for ((name, labels), histogram) in lock(&self.histograms).iter() {
            if *name != last {
                line(&mut text, format_args!("# TYPE {name} histogram"));
                last = name;
            }
            for (count, bound) in histogram.buckets.iter().zip(BUCKETS) {
                line(
                    &mut text,
                    format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}"),
                );
            }
            line(
                &mut text,
                format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {}", histogram.count),
            );
            line(
                &mut text,
                format_args!("{name}_sum{{{labels}}} {}", histogram.sum),
            );
            line(
                &mut text,
                format_args!("{name}_count{{{labels}}} {}", histogram.count),
            );
        }
        text
    }
}

fn series<T: Display>(text: &mut String, kind: &str, all: &BTreeMap<Series, T>) {
    let mut last = "";
    for ((name, labels), value) in all {
        if *name != last {
            line(text, format_args!("# TYPE {name} {kind}"));
            last = name;
        }
        match labels.is_empty() {
            true => line(text, format_args!("{name} {value}")),
            false => line(text, format_args!("{name}{{{labels}}} {value}")),
        }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_that_cannot_be_read_grows_older() {
        let state = RelayState::default();
        assert_eq!(state.age(5_000_000), 0.0);
        state.oldest_row(2_000_000);
        assert_eq!(state.age(5_000_000), 3.0);
        state.oldest_row(0);
        assert!(state.failed(&"away", 6_000_000));
        assert!(state.failed(&"slow", 7_000_000));
        assert!(!state.failed(&"slow", 8_000_000));
        assert_eq!(state.age(9_000_000), 3.0);
        state.healthy();
        assert_eq!(state.age(9_000_000), 0.0);
    }

    #[test]
    fn every_name_has_one_type_line_and_its_series() {
        let metrics = Metrics::new(Clock::System);
        metrics.enqueued("wallet-tasks", 2);
        metrics.enqueued("rules-tasks", 1);
        metrics.job_took("wallet.add", Duration::from_millis(3));
        let text = metrics.render();
        assert_eq!(
            text.matches("# TYPE innover_jobs_enqueued_total counter")
                .count(),
            1
        );
        assert!(
            text.contains("innover_jobs_enqueued_total{queue=\"wallet-tasks\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "innover_job_duration_seconds_bucket{task=\"wallet.add\",le=\"0.0025\"} 0\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "innover_job_duration_seconds_bucket{task=\"wallet.add\",le=\"0.005\"} 1\n"
            ),
            "{text}"
        );
    }
}
