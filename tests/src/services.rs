//! Servers that the test command has started in a folder, so that a test may kill them and bring them
//! back (`tests/services/`).

use std::{path::PathBuf, process::Command};

use crate::{repository, unique};

/// Sends events through the Kafka that `INNOVER_TEST_KAFKA` names (`host:port`), on topics of its own:
/// environment of one platform, or `None` without one.
pub fn kafka() -> Option<Vec<(&'static str, String)>> {
    let brokers = std::env::var("INNOVER_TEST_KAFKA").ok()?;
    let own = unique();
    (!brokers.is_empty()).then(|| {
        vec![
            ("KAFKA_BROKERS", brokers),
            ("KAFKA_TOPIC_PREFIX", format!("{own}.")),
            ("KAFKA_GROUP_PREFIX", own),
        ]
    })
}

/// A server in a folder.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    folder: PathBuf,
}

impl Service {
    /// The PostgreSQL whose folder `INNOVER_TEST_POSTGRES_FOLDER` names.
    pub fn postgres() -> Option<Service> {
        Service::of("postgres", "INNOVER_TEST_POSTGRES_FOLDER")
    }

    /// The Kafka whose folder `INNOVER_TEST_KAFKA_FOLDER` names.
    pub fn kafka() -> Option<Service> {
        Service::of("kafka", "INNOVER_TEST_KAFKA_FOLDER")
    }

    fn of(name: &'static str, variable: &str) -> Option<Service> {
        let folder = std::env::var_os(variable).filter(|folder| !folder.is_empty())?;
        Some(Service {
            name,
            folder: folder.into(),
        })
    }

    /// SIGKILL for all of its processes; returns when they are gone.
    pub fn kill(&self) {
        self.tell("kill");
    }

    /// Starts it again on its data and its port; returns when it serves.
    pub fn again(&self) {
        self.tell(match self.name {
            "postgres" => "again",
            _ => "start",
        });
    }

    fn tell(&self, action: &str) {
        let script = repository().join("tests/services").join(self.name);
        let done = Command::new(script)
            .arg(action)
            .arg(&self.folder)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{} {action}: {}",
            self.name,
            String::from_utf8_lossy(&done.stderr)
        );
    }
}
