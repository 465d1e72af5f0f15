//! Where `innover up` writes its JSON log lines, and the subscriber for the native code's own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use innover_host::log::Log;
use tracing_subscriber::{
    EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

/// One file and the one before it are kept: a laptop keeps about the last 200,000 requests.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Opens the log `target` names: `stderr`, `stdout`, `off`, or a file.
pub fn open(target: &str) -> Result<Log> {
    Ok(match target {
        "stderr" => Log::stderr(),
        "stdout" => Log::stdout(),
        "off" => Log::discard(),
        path => Log::to(Rotating::open(Path::new(path))?),
    })
}

/// Sends what native code says through `tracing` to the same log.
pub fn subscribe(log: &Log) {
    let filter =
        EnvFilter::try_from_env("INNOVER_LOG_LEVEL").unwrap_or_else(|_| EnvFilter::new("info"));
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(Lines(log.clone()));
    // A second call in one process (tests) keeps the first subscriber.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init();
}

struct Lines(Log);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = innover_host::log::LineWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self.0.writer()
    }
}

/// A file that is put aside as `<name>.1` when it is full.
struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Rotating {
    fn open(path: &Path) -> Result<Rotating> {
        let (file, bytes) = append(path).with_context(|| {
            format!(
                "cannot write the log {}; INNOVER_LOG takes a file, stderr, stdout or off",
                path.display()
            )
        })?;
        Ok(Rotating {
            path: path.to_owned(),
            file,
            bytes,
        })
    }
}

/// Log lines name people and amounts, so the file is its owner's.
fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes >= FILE_BYTES_MAX {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            (self.file, self.bytes) = append(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_a_new_one_begun() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("innover.log");
        let mut log = Rotating::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        log.bytes = FILE_BYTES_MAX;
        log.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(
            std::fs::read_to_string(temp.path().join("innover.log.1")).unwrap(),
            "one\n"
        );
        drop(log);
        Rotating::open(&path)
            .unwrap()
            .write_all(b"three\n")
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\nthree\n");
    }
}
