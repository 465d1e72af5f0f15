//! Log lines: JSON, one per line, written by one thread so that a request never waits for a disk or
//! a terminal.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::limits;

/// A cheap handle on the writer thread. The thread ends when the last handle is gone; [`Log::flush`]
/// waits until everything said so far is written.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    lines: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
    requests: AtomicBool,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Log {
    /// Lines go to `sink`.
    pub fn to(sink: impl Write + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(limits::LOG_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        // A log that cannot be written must not stop the platform: without the thread, sending
        // fails and lines are counted as dropped.
        let _ = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(receiver, sink, &counter));
        Self::with(Some(sender), dropped)
    }

    /// Lines go to standard output.
    pub fn stdout() -> Self {
        Self::to(io::stdout())
    }

    /// Lines go to standard error.
    pub fn stderr() -> Self {
        Self::to(io::stderr())
    }

    /// Lines are thrown away.
    pub fn discard() -> Self {
        Self::with(None, Arc::default())
    }

    fn with(lines: Option<SyncSender<Message>>, dropped: Arc<AtomicU64>) -> Self {
        let requests = AtomicBool::new(lines.is_some());
        Self {
            shared: Arc::new(Shared {
                lines,
                dropped,
                requests,
            }),
        }
    }

    /// Switches the line per request on or off; on unless the log is discarded.
    pub fn requests(self, on: bool) -> Self {
        self.shared
            .requests
            .store(on && self.shared.lines.is_some(), Ordering::Relaxed);
        self
    }

    pub(crate) fn wants_requests(&self) -> bool {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Queues one line; `line` has no line end. When the writer cannot follow, the line is dropped
    /// and counted.
    pub fn line(&self, mut line: Vec<u8>) {
        let Some(lines) = &self.shared.lines else {
            return;
        };
        line.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            lines.try_send(Message::Line(line))
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were lost because the writer could not follow.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Returns when every line queued before is written. Blocks: not for an async task.
    pub fn flush(&self) {
        let Some(lines) = &self.shared.lines else {
            return;
        };
        let (done, wait) = sync_channel(1);
        if lines.send(Message::Flush(done)).is_ok() {
            // An error means that the writer is gone, and then nothing is left to wait for.
            let _ = wait.recv();
        }
    }

    /// A `Write` whose every `write` is one or more lines, for `tracing_subscriber`'s `with_writer`.
    pub fn writer(&self) -> LineWriter {
        LineWriter(self.clone())
    }
}

fn write_lines(lines: Receiver<Message>, mut sink: impl Write, dropped: &AtomicU64) {
    let mut batch = Vec::with_capacity(64 << 10);
    while let Ok(first) = lines.recv() {
        let mut waiting = Vec::new();
        for message in std::iter::once(first).chain(lines.try_iter().take(limits::LOG_LINES_MAX)) {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => waiting.push(done),
            }
        }
        if sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
        batch.clear();
        for done in waiting {
            // Nobody waits any more: nothing to tell.
            let _ = done.send(());
        }
        // While this thread is not waiting, a request queues its line without waking anybody.
        std::thread::sleep(limits::LOG_PAUSE);
    }
}

/// See [`Log::writer`].
pub struct LineWriter(Log);

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            self.0.line(line.to_vec());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the line of one request says.
pub(crate) struct RequestLine<'a> {
    pub service: &'a str,
    pub method: &'a str,
    pub route: &'a str,
    pub status: u16,
    pub duration_us: u64,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    /// `http` from outside, `chain` from another component, `call` from the bridge.
    pub via: &'a str,
}

impl RequestLine<'_> {
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut line = String::with_capacity(320);
        line.push_str(r#"{"timestamp":""#);
        push_now(&mut line);
        line.push_str(r#"","level":"info","message":"request","service_name":""#);
        push_escaped(&mut line, self.service);
        line.push_str(r#"","method":""#);
        push_escaped(&mut line, self.method);
        line.push_str(r#"","route":""#);
        push_escaped(&mut line, self.route);
        line.push_str(r#"","via":""#);
        line.push_str(self.via);
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            r#"","status":{},"duration_ms":{}.{:03},"request_id":""#,
            self.status,
            self.duration_us / 1000,
            self.duration_us % 1000
        );
        push_escaped(&mut line, self.request_id);
        line.push_str(r#"","trace_id":""#);
        push_escaped(&mut line, self.trace_id);
        line.push_str("\"}");
        line.into_bytes()
    }
}

/// A line a guest wrote: as it is when it is a JSON object, else wrapped into one.
pub(crate) fn guest_line(service: &str, stream: &str, text: &str) -> Vec<u8> {
    let trimmed = text.trim_end();
    if trimmed.starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() {
        return trimmed.as_bytes().to_vec();
    }
    let mut line = String::with_capacity(trimmed.len() + 128);
    line.push_str(r#"{"timestamp":""#);
    push_now(&mut line);
    line.push_str(r#"","level":""#);
    line.push_str(if stream == "stderr" { "warn" } else { "info" });
    line.push_str(r#"","service_name":""#);
    push_escaped(&mut line, service);
    line.push_str(r#"","stream":""#);
    line.push_str(stream);
    line.push_str(r#"","message":""#);
    push_escaped(&mut line, trimmed);
    line.push_str("\"}");
    line.into_bytes()
}

/// JSON string escapes; the common case, nothing to escape, is one scan and one copy.
fn push_escaped(out: &mut String, text: &str) {
    let plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\';
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
fn push_now(out: &mut String) {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    push_time(out, now.as_secs(), now.subsec_millis());
}

fn push_time(out: &mut String, seconds: u64, millis: u32) {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that the leap day is the last of a year (Howard Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000Z"),
        ] {
            let mut out = String::new();
            push_time(&mut out, seconds, 0);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_request_line_is_json_whatever_its_values_hold() {
        let line = RequestLine {
            service: "payment",
            method: "GET",
            route: "/a/\"b\"\n\u{1}",
            status: 200,
            duration_us: 1_234,
            request_id: "id\\",
            trace_id: "",
            via: "http",
        }
        .render();
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["route"], "/a/\"b\"\n\u{1}");
        assert_eq!(json["duration_ms"], 1.234);
        assert_eq!(json["request_id"], "id\\");
    }

    #[test]
    fn a_json_line_of_a_guest_passes_and_any_other_is_wrapped() {
        assert_eq!(guest_line("x", "stdout", "{\"a\":1}\n"), b"{\"a\":1}");
        for text in ["plain \"words\"", "{broken", "[1]"] {
            let line = guest_line("pay", "stderr", text);
            let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(json["message"], text);
            assert_eq!(json["service_name"], "pay");
        }
    }

    #[test]
    fn flush_returns_after_the_lines_before_it_are_written() {
        #[derive(Clone, Default)]
        struct Sink(Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let log = Log::to(sink.clone());
        for n in 0..100 {
            log.line(n.to_string().into_bytes());
        }
        log.flush();
        assert_eq!(
            sink.0
                .lock()
                .unwrap()
                .iter()
                .filter(|b| **b == b'\n')
                .count(),
            100
        );
    }
}
