//! Counters and histograms, and their Prometheus text.
//!
//! Hand-written because each request counts under (service, method, route, status): the hot path is
//! one read lock and three atomic additions, with no label strings built.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use http::Method;

use crate::limits;

/// Upper bounds of the duration buckets in microseconds and as Prometheus prints them.
const BUCKETS: [(u64, &str); 12] = [
    (1_000, "0.001"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];

const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "OTHER",
];

pub(crate) fn method_index(method: &Method) -> usize {
    METHODS
        .iter()
        .position(|name| *name == method.as_str())
        .unwrap_or(METHODS.len() - 1)
}

pub(crate) fn method_name(index: usize) -> &'static str {
    METHODS.get(index).copied().unwrap_or("OTHER")
}

#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, us: u64) {
        if let Some(at) = BUCKETS.iter().position(|(bound, _)| us <= *bound) {
            self.buckets[at].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut below = 0;
        for (bucket, (_, bound)) in self.buckets.iter().zip(BUCKETS) {
            below += bucket.load(Relaxed);
            line(
                out,
                name,
                "_bucket",
                &format!("{labels},le=\"{bound}\""),
                below,
            );
        }
        let count = self.count.load(Relaxed);
        line(
            out,
            name,
            "_bucket",
            &format!("{labels},le=\"+Inf\""),
            count,
        );
        line(
            out,
            name,
            "_sum",
            labels,
            seconds(self.sum_us.load(Relaxed)),
        );
        line(out, name, "_count", labels, count);
    }
}

/// All requests of one service.
#[derive(Default)]
pub(crate) struct Requests {
    routes: RwLock<HashMap<Box<str>, Arc<Route>>>,
}

#[derive(Default)]
struct Route {
    statuses: RwLock<Vec<(usize, u16, AtomicU64)>>,
    durations: [std::sync::OnceLock<Histogram>; METHODS.len()],
}

impl Requests {
    pub(crate) fn record(&self, method: usize, route: &str, status: u16, us: u64) {
        let found = self
            .routes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(route)
            .map(|entry| entry.record(method, status, us));
        if found.is_none() {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            // A guest sends its route patterns, which are few; if it sends paths instead, the
            // number of series still stays bounded.
            let label = if routes.len() < limits::ROUTE_LABELS_MAX {
                route
            } else {
                "other"
            };
            routes
                .entry(label.into())
                .or_default()
                .record(method, status, us);
        }
    }

    fn sorted(&self) -> BTreeMap<String, Arc<Route>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes
            .iter()
            .map(|(name, route)| (name.to_string(), Arc::clone(route)))
            .collect()
    }
}

impl Route {
    fn record(&self, method: usize, status: u16, us: u64) {
        if let Some(histogram) = self.durations.get(method) {
            histogram.get_or_init(Histogram::default).observe(us);
        }
        let is_this = |entry: &&(usize, u16, AtomicU64)| entry.0 == method && entry.1 == status;
        let counted = self
            .statuses
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(is_this)
            .map(|entry| entry.2.fetch_add(1, Relaxed));
        if counted.is_none() {
            let mut statuses = self
                .statuses
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            match statuses.iter().find(is_this) {
                Some(entry) => {
                    entry.2.fetch_add(1, Relaxed);
                }
                None => statuses.push((method, status, AtomicU64::new(1))),
            }
        }
    }
}

type Extra = Box<dyn Fn(&mut String) + Send + Sync>;

/// Everything the host counts.
#[derive(Default)]
pub(crate) struct Metrics {
    services: RwLock<BTreeMap<String, Arc<Requests>>>,
    /// Guest instances alive.
    pub(crate) instances: AtomicI64,
    /// Guest instances made since the start.
    pub(crate) instances_started: AtomicU64,
    /// Requests turned away because a component was at its limit.
    pub(crate) saturated: AtomicU64,
    /// Instances that ended in a trap, by cause: trap or deadline.
    pub(crate) traps: AtomicU64,
    pub(crate) runaways: AtomicU64,
    /// Messages of Redis triggers that were handled, and that failed.
    pub(crate) messages: AtomicU64,
    pub(crate) messages_failed: AtomicU64,
    database_waits: Mutex<BTreeMap<String, Arc<Waits>>>,
    extra: RwLock<Vec<Extra>>,
}

#[derive(Default)]
struct Waits {
    durations: Histogram,
    timeouts: AtomicU64,
}

impl Metrics {
    pub(crate) fn service(&self, service: &str) -> Arc<Requests> {
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(services.entry(service.to_owned()).or_default())
    }

    /// A writer had to wait for a database's lock.
    pub(crate) fn database_wait(&self, label: &str, waited: Duration, got_it: bool) {
        let waits = {
            let mut all = self
                .database_waits
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(label.to_owned()).or_default())
        };
        waits.durations.observe(us(waited));
        if !got_it {
            waits.timeouts.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn add(&self, extra: Extra) {
        self.extra
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(extra);
    }

    /// The Prometheus text format, version 0.0.4.
    pub(crate) fn render(&self, log_lines_dropped: u64) -> String {
        let mut out = String::with_capacity(16 << 10);
        self.render_requests(&mut out);
        let counter = |out: &mut String, name: &str, help: &str, value: u64| {
            head(out, name, help, "counter");
            line(out, name, "", "", value);
        };
        head(
            &mut out,
            "innover_instances",
            "Guest instances alive.",
            "gauge",
        );
        line(
            &mut out,
            "innover_instances",
            "",
            "",
            self.instances.load(Relaxed),
        );
        for (name, help, value) in [
            (
                "innover_instances_started_total",
                "Guest instances made.",
                &self.instances_started,
            ),
            (
                "innover_saturated_total",
                "Requests refused with 503 at a component's limit.",
                &self.saturated,
            ),
            (
                "innover_traps_total",
                "Guest instances that trapped.",
                &self.traps,
            ),
            (
                "innover_runaways_total",
                "Guest instances stopped at a deadline.",
                &self.runaways,
            ),
            (
                "innover_redis_messages_total",
                "Messages handled by Redis triggers.",
                &self.messages,
            ),
            (
                "innover_redis_messages_failed_total",
                "Messages whose handler failed.",
                &self.messages_failed,
            ),
        ] {
            counter(&mut out, name, help, value.load(Relaxed));
        }
        counter(
            &mut out,
            "innover_log_lines_dropped_total",
            "Log lines lost.",
            log_lines_dropped,
        );
        self.render_waits(&mut out);
        process(&mut out);
        for extra in self
            .extra
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            extra(&mut out);
        }
        out
    }

    fn render_requests(&self, out: &mut String) {
        let services: Vec<_> = {
            let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
            services
                .iter()
                .map(|(name, requests)| (name.clone(), requests.sorted()))
                .collect()
        };
        let name = "http_requests_total";
        head(out, name, "Requests by their outcome.", "counter");
        for (service, routes) in &services {
            for (route, series) in routes {
                for (method, status, count) in series
                    .statuses
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                {
                    let labels = format!(
                        "{},status_code=\"{status}\"",
                        labels(service, *method, route)
                    );
                    line(out, name, "", &labels, count.load(Relaxed));
                }
            }
        }
        let name = "http_request_duration_seconds";
        head(out, name, "Time to the head of the answer.", "histogram");
        for (service, routes) in &services {
            for (route, series) in routes {
                for (method, histogram) in series.durations.iter().enumerate() {
                    if let Some(histogram) = histogram.get() {
                        histogram.render(out, name, &labels(service, method, route));
                    }
                }
            }
        }
    }

    fn render_waits(&self, out: &mut String) {
        let waits = self
            .database_waits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let name = "innover_sqlite_lock_wait_seconds";
        head(out, name, "Waits for a database's write lock.", "histogram");
        for (label, waits) in &waits {
            waits
                .durations
                .render(out, name, &format!("database=\"{}\"", escaped(label)));
        }
        let name = "innover_sqlite_lock_timeouts_total";
        head(
            out,
            name,
            "Waits for a database's write lock that were given up.",
            "counter",
        );
        for (label, waits) in &waits {
            let labels = format!("database=\"{}\"", escaped(label));
            line(out, name, "", &labels, waits.timeouts.load(Relaxed));
        }
    }
}

fn labels(service: &str, method: usize, route: &str) -> String {
    format!(
        "service=\"{}\",method=\"{}\",route=\"{}\"",
        escaped(service),
        method_name(method),
        escaped(route)
    )
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

// Writing to a String cannot fail, so the results of `write!` say nothing.
pub(crate) fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

pub(crate) fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    value: impl std::fmt::Display,
) {
    let _ = match labels {
        "" => writeln!(out, "{name}{suffix} {value}"),
        _ => writeln!(out, "{name}{suffix}{{{labels}}} {value}"),
    };
}

pub(crate) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// What Prometheus' client libraries say about every process, read from /proc; left out where there
/// is none.
fn process(out: &mut String) {
    if let Some(ticks) = cpu_ticks() {
        // 100 per second: USER_HZ is part of Linux' interface, whatever the kernel's own rate.
        let name = "process_cpu_seconds_total";
        head(out, name, "User and system CPU time.", "counter");
        line(
            out,
            name,
            "",
            "",
            format!("{}.{:02}", ticks / 100, ticks % 100),
        );
    }
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        head(out, name, "Resident memory.", "gauge");
        line(out, name, "", "", bytes);
    }
}

fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold spaces; utime and stime
    // are the 14th and 15th field.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_service_method_route_and_status() {
        let metrics = Metrics::default();
        let requests = metrics.service("payment");
        for (status, us) in [(200, 900), (200, 7_000), (503, 20_000_000)] {
            requests.record(method_index(&Method::GET), "/v1/\"x\"", status, us);
        }
        metrics.add(Box::new(|out| out.push_str("extra_metric 1\n")));
        let text = metrics.render(0);
        for expected in [
            r#"http_requests_total{service="payment",method="GET",route="/v1/\"x\"",status_code="200"} 2"#,
            r#"http_requests_total{service="payment",method="GET",route="/v1/\"x\"",status_code="503"} 1"#,
            r#"route="/v1/\"x\"",le="0.005"} 1"#,
            r#"route="/v1/\"x\"",le="10"} 2"#,
            r#"route="/v1/\"x\"",le="+Inf"} 3"#,
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "extra_metric 1",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }

    #[test]
    fn the_number_of_route_labels_is_bounded() {
        let requests = Requests::default();
        for n in 0..limits::ROUTE_LABELS_MAX * 2 {
            requests.record(0, &format!("/{n}"), 200, 1);
        }
        let routes = requests.sorted();
        assert_eq!(routes.len(), limits::ROUTE_LABELS_MAX + 1);
        assert!(routes.contains_key("other"));
    }
}
