//! Bridges in processes of their own, beside a platform that has none in its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
};

use crate::{Platform, free_port, launch, repository};

/// A running bridge.
pub struct Bridge {
    child: Option<Child>,
    /// `http://127.0.0.1:<port>` of its management listener.
    pub management: String,
    store: PathBuf,
}

impl Platform {
    /// A platform without a bridge. Jobs of clients are refused until there is
    /// [`Platform::answering_bridge`].
    pub fn start_without_bridge(environment: &[(&str, &str)]) -> Platform {
        let mut platform = Platform::new(repository(), environment);
        platform.bridge = Some(format!("http://127.0.0.1:{}", free_port()));
        platform.run();
        platform
    }

    /// A second host on the same databases, without a bridge; `None` when they are files, which one
    /// process has.
    pub fn beside(&self) -> Option<Platform> {
        self.databases()?;
        let environment: Vec<(&str, &str)> = self
            .environment()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut second = Platform::unstarted(repository(), &environment);
        second.bridge = Some(format!("http://127.0.0.1:{}", free_port()));
        second.run();
        Some(second)
    }

    /// Starts a bridge with the file of this name, and waits until it is at work.
    pub fn bridge(&self, name: &str) -> Bridge {
        self.bridge_at(name, format!("http://127.0.0.1:{}", free_port()))
    }

    /// The same at the place where the gateway looks for jobs.
    pub fn answering_bridge(&self, name: &str) -> Bridge {
        let place = self.bridge.clone().expect("started without a bridge");
        self.bridge_at(name, place)
    }

    fn bridge_at(&self, name: &str, management: String) -> Bridge {
        let mut bridge = Bridge {
            child: None,
            management,
            store: self.state().with_file_name(format!("{name}.db")),
        };
        bridge.run(self);
        bridge
    }
}

impl Bridge {
    /// Starts the process and waits until it is at work.
    pub fn run(&mut self, platform: &Platform) {
        let mut command = platform.command("bridge");
        command
            .env("INNOVER_URL", &platform.url)
            .env("INNOVER_BRIDGE_STORE", &self.store)
            .env("INNOVER_LOG", self.log())
            .env(
                "INNOVER_MANAGEMENT_LISTEN",
                self.management.trim_start_matches("http://"),
            );
        launch(&mut self.child, command, "bridge ready");
    }

    /// Where it logs.
    pub fn log(&self) -> PathBuf {
        self.store.with_extension("log")
    }

    /// What leases of this bridge begin with.
    pub fn instance(&self) -> String {
        let file = rusqlite::Connection::open(&self.store).unwrap();
        let sql = "SELECT value FROM meta WHERE key = 'instance'";
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Its own file.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Its management's answer.
    pub async fn asked(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.management));
        let answer = answer.await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The sum of a metric's series.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.asked("/metrics").await;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let values = lines.filter_map(|line| line.rsplit_once(' '));
        values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    /// How it ended, though nobody told it to.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
