//! A platform of the bench's own: a child process on free ports with a temporary state.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::storage::{Database, Storage};
use crate::app::App;

/// Compiling every component takes some seconds on two cores.
const READY_MAX: Duration = Duration::from_secs(120);

/// A running platform.
pub struct Running {
    child: Child,
    folder: Folder,
    storage: Arc<Storage>,
    /// The gateway's URL.
    pub url: String,
    /// From the start of the process to `ready`.
    pub started_in: Duration,
}

/// Its state; removed when dropped.
pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How the payments of a round ended.
pub struct Settled {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Running {
    /// Starts a platform, on an earlier one's state when `folder` is given.
    pub async fn start(
        app: &App,
        storage: &Arc<Storage>,
        folder: Option<Folder>,
    ) -> Result<Running> {
        let folder = match folder {
            Some(folder) => folder,
            None => {
                // Beside the usual state, hence on the disk it will live on.
                let name = format!("innover-bench-{}", uuid::Uuid::now_v7().simple());
                let folder = Folder(app.base.join("target").join(name));
                if let Storage::Server(_) = **storage {
                    let made = innover(app, storage, &folder)?
                        // Of an earlier round's folder, where there was one.
                        .args(["migrate", "--create", "--new-passwords"])
                        .stdout(Stdio::null())
                        .status()
                        .context("cannot make the databases")?;
                    ensure!(made.success(), "the databases were not made");
                }
                folder
            }
        };
        let started = Instant::now();
        let mut child = innover(app, storage, &folder)?
            .arg("up")
            .env("INNOVER_LISTEN", "127.0.0.1:0")
            .env("INNOVER_MANAGEMENT_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a platform")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?);
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        let mut seen = Vec::new();
        let url = loop {
            match tokio::time::timeout(READY_MAX, heard.recv()).await {
                Ok(Some(line)) => match line.strip_prefix("ready ") {
                    Some(url) => break url.to_owned(),
                    None => seen.push(line),
                },
                _ => bail!(
                    "the platform did not get ready; it said:\n{}",
                    seen.join("\n")
                ),
            }
        };
        let started_in = started.elapsed();
        Ok(Running {
            child,
            folder,
            storage: storage.clone(),
            url,
            started_in,
        })
    }

    /// Stops it as a user would; returns its state.
    pub async fn stop(mut self) -> Result<Folder> {
        let pid = self.child.id().to_string();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .context("cannot send SIGTERM")?;
        let status = tokio::task::spawn_blocking(move || self.child.wait()).await??;
        if !status.success() {
            bail!("the platform ended with {status}");
        }
        Ok(self.folder)
    }

    /// Resident memory in megabytes (10⁶ bytes).
    pub fn resident_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|n| n.parse::<f64>().ok())
            .context("no VmRSS in /proc")?;
        Ok(kib * 1.024e-3)
    }

    /// A service's database.
    pub async fn database(&self, service: &str) -> Result<Database> {
        self.storage.database(&self.folder.0, service).await
    }

    /// The newest payment's id; what comes later is greater.
    pub async fn newest_payment(&self) -> Result<String> {
        let payments = self.database("payment").await?;
        payments
            .text("SELECT COALESCE(MAX(id), '') FROM payments")
            .await
    }

    /// Waits until `count` payments after `before` are completed, and says how they fared.
    pub async fn settled(&self, before: &str, count: usize, until: Instant) -> Result<Settled> {
        const COUNT: &str = "SELECT COUNT(*) FILTER (WHERE state = 'completed'),
                COUNT(*) FILTER (WHERE state IN ('failed', 'declined', 'review'))
             FROM payments WHERE id > $1";
        let payments = self.database("payment").await?;
        loop {
            let counts = payments.numbers(COUNT, &[before]).await?;
            let [done, failed] = counts.first().map_or([0, 0], |row| [row[0], row[1]]);
            if failed > 0 {
                bail!("{failed} payments were not completed");
            }
            if usize::try_from(done).is_ok_and(|done| done >= count) {
                break;
            }
            if Instant::now() > until {
                bail!("{done} of {count} payments were completed in time");
            }
            // Counting costs the platform's cores something: rarely while many are under way.
            let wait = if count > 100 { 50 } else { 2 };
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let times = "SELECT created_at, updated_at FROM payments WHERE id > $1 ORDER BY updated_at";
        let rows: Vec<(i64, i64)> = payments
            .numbers(times, &[before])
            .await?
            .into_iter()
            .map(|row| (row[0], row[1]))
            .collect();
        let first = rows
            .iter()
            .map(|(created, _)| *created)
            .min()
            .context("no payments")?;
        let last = rows
            .last()
            .map(|(_, updated)| *updated)
            .context("no payments")?;
        let mut took: Vec<i64> = rows
            .iter()
            .map(|(created, updated)| updated - created)
            .collect();
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() - 1) * percent / 100] as f64 / 1e3;
        Ok(Settled {
            per_second: rows.len() as f64 / ((last - first).max(1) as f64 / 1e6),
            p50_ms: at(50),
            p99_ms: at(99),
        })
    }
}

/// A command of this program on the state in `folder`.
fn innover(app: &App, storage: &Storage, folder: &Folder) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .current_dir(&app.base)
        .envs(storage.environment())
        .env("INNOVER_STATE_DIR", &folder.0);
    Ok(command)
}
