//! What the figures were taken on.

use std::{
    io::{Seek, Write},
    time::{Duration, Instant},
};

use anyhow::Result;

/// One line: processor, cores, memory.
pub fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    format!(
        "{} × {}, memory {memory}",
        cores,
        field(&read("/proc/cpuinfo"), "model name")
    )
}

/// How often 8 kB can be written and synced, one after the other.
pub fn fsyncs_per_second() -> Result<f64> {
    let mut file = tempfile_in_target()?;
    let page = [0_u8; 8192];
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < Duration::from_secs(1) {
        file.rewind()?;
        file.write_all(&page)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

/// A file without a name beside the bench's states: removed at once, gone when closed.
fn tempfile_in_target() -> Result<std::fs::File> {
    let path = std::path::Path::new("target").join(format!("fsync-{}", std::process::id()));
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}
