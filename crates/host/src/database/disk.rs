//! Group commit: what is on disk, and what has to be before anyone outside hears of it.
//!
//! SQLite writes a commit into the log and returns (`synchronous = NORMAL`); the write lock goes on to
//! the next writer at once. One fdatasync of the log then covers every commit before it. Until that
//! is done the commit can be seen inside this process, where a power cut would take it together with
//! whoever saw it; but nothing an instance says leaves the process before all it has seen is on
//! disk: answers, outbound requests, commands to Redis, events ([`Seen`], and `settle` of the
//! relay). So what anyone was told survives a power cut, as with `synchronous = FULL`, at one fsync
//! for many commits and none while the lock is held. A killed process loses nothing either way.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The log of one database and how much of it is on disk. Commits are counted.
pub(crate) struct Disk {
    log: File,
    path: PathBuf,
    /// Commits that SQLite was told to make: what a reader may have seen.
    begun: AtomicU64,
    /// Commits that are in the log.
    finished: AtomicU64,
    /// Commits that are on disk.
    synced: AtomicU64,
    /// Held by whoever waits for the disk; the others wait for that one.
    turn: tokio::sync::Mutex<()>,
}

impl Disk {
    /// For the database at `path`, which is open in WAL mode and stays so for this value's life:
    /// SQLite deletes the log with the last connection.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let path_of_log = PathBuf::from(log);
        let log = File::open(&path_of_log)?;
        // The log itself may be new: its name has to survive as well.
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self {
            log,
            path: path_of_log,
            begun: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// A commit is about to be written. The caller holds the write lock.
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Every commit begun is written, or failed. The caller still holds the write lock.
    pub(super) fn finish(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.finished.store(begun, Ordering::SeqCst);
    }

    /// What someone who reads now may have seen.
    pub(super) fn seen(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    fn has(&self, seen: u64) -> bool {
        self.synced.load(Ordering::Acquire) >= seen
    }

    /// Returns when what was `seen` is on disk.
    pub(super) async fn wait(self: &Arc<Self>, seen: u64) {
        while !self.has(seen) {
            let _turn = self.turn.lock().await;
            if self.has(seen) {
                return;
            }
            let finished = self.finished.load(Ordering::SeqCst);
            if self.has(finished) {
                // Its writer is between the two counts, or waits for another process.
                tokio::time::sleep(Duration::from_micros(100)).await;
                continue;
            }
            let this = Arc::clone(self);
            // A task that is cancelled here leaves the rest to the next one.
            let synced = tokio::task::spawn_blocking(move || this.sync()).await;
            if synced.is_ok() {
                self.synced.fetch_max(finished, Ordering::Release);
            }
        }
    }

    fn sync(&self) {
        let Err(error) = self.log.sync_data() else {
            return;
        };
        // What the kernel could not write may be gone from its cache too, and a second fsync would
        // succeed without it (PostgreSQL learnt this in 2018). Only a restart finds out what is
        // there, and nobody was told anything that is not.
        tracing::error!(file = %self.path.display(), %error, "the disk failed: stopping");
        eprintln!(
            "innover: cannot write {} to disk: {error}; stopping. Nothing that was answered is lost. \
             Check the disk, then start again.",
            self.path.display()
        );
        std::process::exit(1);
    }
}

/// What one guest instance has seen of its databases.
#[derive(Default)]
pub(crate) struct Seen(Mutex<Vec<(Arc<Disk>, u64)>>);

impl Seen {
    /// The instance ran a statement.
    pub(super) fn note(&self, disk: &Arc<Disk>) {
        let now = disk.seen();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|(known, _)| Arc::ptr_eq(known, disk)) {
            Some((_, seen)) => *seen = now.max(*seen),
            None => all.push((Arc::clone(disk), now)),
        }
    }

    /// Whether the instance may speak.
    pub(crate) fn is_on_disk(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().all(|(disk, seen)| disk.has(*seen))
    }

    /// Returns when the instance may speak of all it has seen so far.
    pub(crate) async fn on_disk(&self) {
        self.on_disk_where(|_| true).await;
    }

    /// Returns when the instance may write to `target`: what it has seen of its other databases
    /// must not be younger than what it makes of that.
    pub(super) async fn on_disk_beside(&self, target: &Arc<Disk>) {
        self.on_disk_where(|disk| !Arc::ptr_eq(disk, target)).await;
    }

    async fn on_disk_where(&self, of: impl Fn(&Arc<Disk>) -> bool) {
        let missing: Vec<(Arc<Disk>, u64)> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter()
                .filter(|(disk, seen)| of(disk) && !disk.has(*seen))
                .cloned()
                .collect()
        };
        for (disk, seen) in missing {
            disk.wait(seen).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(folder: &tempfile::TempDir) -> (rusqlite::Connection, Arc<Disk>) {
        let path = folder.path().join("a.db");
        let sqlite = rusqlite::Connection::open(&path).unwrap();
        sqlite
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a);")
            .unwrap();
        (sqlite, Arc::new(Disk::open(&path).unwrap()))
    }

    /// Whether it is still waiting after everything that could wake it had its turn.
    async fn waits(task: &tokio::task::JoinHandle<()>) -> bool {
        tokio::time::sleep(Duration::from_millis(30)).await;
        !task.is_finished()
    }

    #[tokio::test]
    async fn who_saw_a_commit_speaks_when_it_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (_sqlite, disk) = disk(&folder);
        let seen = Arc::new(Seen::default());
        seen.note(&disk);
        // Nothing was committed since the start.
        assert!(seen.is_on_disk());

        // Somebody is about to commit; who reads now may see it or not.
        disk.begin();
        seen.note(&disk);
        assert!(!seen.is_on_disk());
        let speaks = Arc::clone(&seen);
        let speaks = tokio::spawn(async move { speaks.on_disk().await });
        assert!(waits(&speaks).await, "the commit is not written yet");

        // Written, and the disk is busy.
        let busy = disk.turn.lock().await;
        disk.finish();
        assert!(waits(&speaks).await, "the commit is not on disk yet");
        assert!(!seen.is_on_disk());
        drop(busy);
        speaks.await.unwrap();
        assert!(seen.is_on_disk());
        assert_eq!(disk.synced.load(Ordering::Relaxed), 1);

        // Writing elsewhere waits for this database, writing here does not.
        disk.begin();
        disk.finish();
        seen.note(&disk);
        seen.on_disk_beside(&disk).await;
        assert!(!seen.is_on_disk());
        let other = tempfile::tempdir().unwrap();
        let (_sqlite, other) = self::disk(&other);
        seen.on_disk_beside(&other).await;
        assert!(seen.is_on_disk());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_wait_for_the_disk_serves_all_commits_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let (_sqlite, disk) = disk(&folder);
        let busy = disk.turn.lock().await;
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                disk.begin();
                disk.finish();
                let (disk, seen) = (Arc::clone(&disk), disk.seen());
                tokio::spawn(async move { disk.wait(seen).await })
            })
            .collect();
        drop(busy);
        for task in waiting {
            task.await.unwrap();
        }
        // The first to get its turn covered them all.
        assert_eq!(disk.synced.load(Ordering::Relaxed), 100);
    }
}
