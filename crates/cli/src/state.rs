//! The state folder (`.innover/`): where everything in it is, and who may run on it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The state folder of one platform.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Makes the folder where it is missing, readable by its owner only.
    pub fn create(path: &Path) -> Result<StateDir> {
        for folder in [path.to_owned(), path.join("db"), path.join("modules")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Self::open(path)
    }

    /// The folder of a platform that was started at least once.
    pub fn open(path: &Path) -> Result<StateDir> {
        let root = path.canonicalize().with_context(|| {
            format!(
                "there is no state folder at {}: run `innover up` first, or name it with --state-dir or INNOVER_STATE_DIR",
                path.display()
            )
        })?;
        Ok(StateDir { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The SQLite file of a label of spin.toml.
    pub fn database(&self, label: &str) -> PathBuf {
        self.root.join("db").join(format!("{label}.db"))
    }

    /// Spin's default key-value store.
    pub fn key_value(&self) -> PathBuf {
        self.root.join("key_value.db")
    }

    /// The bridge's own file: event log, jobs, dead letters.
    pub fn bridge(&self) -> PathBuf {
        self.root.join("bridge.db")
    }

    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets.toml")
    }

    pub fn runtime_config(&self) -> PathBuf {
        self.root.join("runtime-config.toml")
    }

    pub fn spin_env(&self) -> PathBuf {
        self.root.join("spin.env")
    }

    /// Compiled modules by content hash.
    pub fn modules(&self) -> PathBuf {
        self.root.join("modules")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("innover.log")
    }

    /// The process id of the running platform, for scripts; gone after a clean stop.
    pub fn pid(&self) -> PathBuf {
        self.root.join("innover.pid")
    }

    /// Waits for its turn to write keys and settings: `innover keys` beside a starting `innover up`
    /// must not lose what the other wrote. The lock ends with the returned file.
    pub fn writing(&self) -> Result<File> {
        let path = self.root.join("keys.lock");
        let file = private(&path)?;
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// Takes the folder for this process. The kernel gives the lock back whatever ends it.
    pub fn run(&self) -> Result<RunLock> {
        let path = self.root.join("innover.lock");
        let mut file = private(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: without it the refusal stands all the same.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another `innover`".to_owned(),
                    pid => format!("another `innover` (process {pid})"),
                };
                bail!(
                    "{holder} runs on {}: stop it first (`make down`, or Ctrl-C where it runs), or give this one a folder of its own with INNOVER_STATE_DIR",
                    self.root.display()
                );
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let pid = std::process::id();
        file.set_len(0).context("cannot write the lock file")?;
        file.rewind().context("cannot write the lock file")?;
        write!(file, "{pid}").context("cannot write the lock file")?;
        fs::write(self.pid(), format!("{pid}\n")).context("cannot write the pid file")?;
        Ok(RunLock {
            _file: file,
            pid: self.pid(),
        })
    }
}

/// Holds the state folder for one process.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    pid: PathBuf,
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A pid file that stays is only misleading: the lock itself ends with the process.
        let _ = fs::remove_file(&self.pid);
    }
}

fn private(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Replaces a file in one step: a reader sees the old text or the new one, and a crash leaves one of
/// the two. Readable by its owner only. An equal file is left as it is.
pub fn replace(path: &Path, text: &str) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) && mode(path) == Some(0o600) {
        return Ok(false);
    }
    let new = path.with_extension(format!("new{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok::<_, std::io::Error>(())
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&new);
    }
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// The permission bits of a file, `None` when there is none.
pub fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn a_second_platform_on_one_folder_is_refused_and_told_who_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::create(&temp.path().join("state")).unwrap();
        let first = state.run().unwrap();
        let refused = state.run().unwrap_err().to_string();
        assert!(
            refused.contains(&std::process::id().to_string()),
            "{refused}"
        );
        assert!(refused.contains("INNOVER_STATE_DIR"), "{refused}");
        drop(first);
        assert!(!state.pid().exists(), "a clean stop leaves no pid file");
        state.run().unwrap();
    }

    #[test]
    fn the_folder_and_what_is_written_there_belong_to_the_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::create(&temp.path().join("state")).unwrap();
        assert_eq!(mode(state.root()), Some(0o700));
        let file = state.spin_env();
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            replace(&file, "old").unwrap(),
            "equal, but others may read it"
        );
        assert_eq!(mode(&file), Some(0o600));
        assert!(!replace(&file, "old").unwrap());
        assert!(replace(&file, "new").unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(
            fs::read_dir(state.root()).unwrap().count(),
            3,
            "no temporary file stays"
        );
    }
}
