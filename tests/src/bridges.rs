//! Bridges in processes of their own, beside a platform that has none in its own.

use std::{
    path::{Path, PathBuf},
    process::Child,
};

use crate::{Platform, free_port, repository, until_it_says};

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
    pub async fn start_without_bridge(environment: &[(&str, &str)]) -> Platform {
        let bridge = format!("http://127.0.0.1:{}", free_port());
        Platform::start_as(repository(), environment, Some(bridge)).await
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
        let store = self.state().with_file_name(format!("{name}.db"));
        let mut command = self.command("bridge");
        command
            .env("INNOVER_URL", &self.url)
            .env("INNOVER_BRIDGE_STORE", &store)
            .env("INNOVER_LOG", store.with_extension("log"))
            .env(
                "INNOVER_MANAGEMENT_LISTEN",
                management.trim_start_matches("http://"),
            );
        let mut bridge = Bridge {
            child: None,
            management,
            store,
        };
        until_it_says(&mut command, "bridge ready", &mut bridge.child);
        bridge
    }
}

impl Bridge {
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

    /// The sum of a metric's series.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = reqwest::get(format!("{}/metrics", self.management))
            .await
            .unwrap();
        let text = page.text().await.unwrap();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let values = lines.filter_map(|line| line.rsplit_once(' '));
        values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
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
