//! A load generator that costs little: prepared HTTP/1.1 requests over kept connections, answers
//! read only as far as their length. It runs on one thread of its own, so that at most one core goes
//! to it. Closed loop: each connection sends its next request when it has its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Requests to one address.
#[derive(Clone)]
pub struct Load {
    address: String,
    /// Each is sent once; a single one is sent again and again.
    requests: Arc<Vec<Vec<u8>>>,
    repeat: bool,
    /// Requests per second, when they are not sent as fast as answers come.
    rate: Option<f64>,
}

/// What a round showed.
pub struct Report {
    latencies_us: Vec<u32>,
    took: Duration,
    /// Answers with another status than 2xx.
    pub not_2xx: usize,
}

impl Report {
    /// Answers per second.
    pub fn per_second(&self) -> f64 {
        self.latencies_us.len() as f64 / self.took.as_secs_f64()
    }

    /// The latency below which `percent` of the answers were.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (last as f64 * percent / 100.0).round() as usize;
        self.latencies_us
            .get(at)
            .map_or(f64::NAN, |us| f64::from(*us) / 1e3)
    }
}

impl Load {
    /// The same GET again and again.
    pub fn get(url: &str, path: &str, token: Option<&str>) -> Result<Load> {
        let address = address(url)?;
        let authorization = token
            .map(|t| format!("authorization: Bearer {t}\r\n"))
            .unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}\r\n");
        Ok(Load {
            address,
            requests: Arc::new(vec![request.into_bytes()]),
            repeat: true,
            rate: None,
        })
    }

    /// Each body once, with its Idempotency-Key where it has one.
    pub fn post(
        url: &str,
        path: &str,
        token: &str,
        bodies: Vec<(Option<String>, String)>,
    ) -> Result<Load> {
        let address = address(url)?;
        let requests = bodies
            .into_iter()
            .map(|(key, body)| {
                let key = key.map_or_else(String::new, |key| format!("idempotency-key: {key}\r\n"));
                format!(
                    "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
                     {key}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
                .into_bytes()
            })
            .collect();
        Ok(Load {
            address,
            requests: Arc::new(requests),
            repeat: false,
            rate: None,
        })
    }

    /// The same at a steady rate, as long as there are connections that wait for nothing.
    pub fn paced(self, rate: f64) -> Load {
        Load {
            rate: Some(rate),
            ..self
        }
    }

    /// Runs until all requests are answered, or for `length`.
    pub async fn run(&self, connections: usize, length: Duration) -> Result<Report> {
        let load = self.clone();
        // A thread of its own, with a runtime of its own.
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(load.round(connections, length))
        })
        .await
        .context("the load generator broke off")?
    }

    async fn round(self, connections: usize, length: Duration) -> Result<Report> {
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let until = started + length;
        let tasks: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(self.clone().connection(next.clone(), started, until)))
            .collect();
        let mut report = Report {
            latencies_us: Vec::new(),
            took: length,
            not_2xx: 0,
        };
        for task in tasks {
            let (latencies, not_2xx) = task.await.context("a connection broke off")??;
            report.latencies_us.extend(latencies);
            report.not_2xx += not_2xx;
        }
        report.took = started.elapsed();
        report.latencies_us.sort_unstable();
        Ok(report)
    }

    async fn connection(
        self,
        next: Arc<AtomicUsize>,
        started: Instant,
        until: Instant,
    ) -> Result<(Vec<u32>, usize)> {
        let mut stream = TcpStream::connect(&self.address)
            .await
            .context("cannot connect")?;
        stream.set_nodelay(true)?;
        let mut buffer = Vec::with_capacity(64 * 1024);
        let (mut latencies, mut not_2xx) = (Vec::new(), 0);
        while Instant::now() < until {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = self.requests.get(if self.repeat { 0 } else { n }) else {
                break;
            };
            if let Some(rate) = self.rate {
                let due = started + Duration::from_secs_f64(n as f64 / rate);
                tokio::time::sleep_until(due.into()).await;
            }
            let sent = Instant::now();
            stream.write_all(request).await?;
            let status = read_answer(&mut stream, &mut buffer).await?;
            latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
            not_2xx += usize::from(!(200..300).contains(&status));
        }
        Ok((latencies, not_2xx))
    }
}

/// Reads one answer; returns its status.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<u16> {
    buffer.clear();
    let head = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("the connection was closed before the answer");
        }
    };
    let text = std::str::from_utf8(&buffer[..head])
        .context("the head is not UTF-8")?
        .to_ascii_lowercase();
    let status = text
        .get(9..12)
        .and_then(|s| s.parse().ok())
        .context("no status")?;
    let header = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name).map(str::trim))
    };
    if let Some(length) = header("content-length:") {
        let end = head + length.parse::<usize>().context("a bad content-length")?;
        while buffer.len() < end {
            if stream.read_buf(buffer).await? == 0 {
                bail!("the connection was closed within the body");
            }
        }
    } else if header("transfer-encoding:") == Some("chunked") {
        while !buffer.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(buffer).await? == 0 {
                bail!("the connection was closed within the body");
            }
        }
    }
    Ok(status)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn address(url: &str) -> Result<String> {
    Ok(url
        .strip_prefix("http://")
        .context("an http:// URL")?
        .trim_end_matches('/')
        .to_owned())
}
