//! Named steps of the payment flow at which a test can hold a process, to kill it or what it talks to
//! at exactly that moment. The host and the bridge call [`hold`] at each step; `tests/tests/
//! crash_matrix.rs` arms them. Owns the list of the steps and the waiting at one.
//!
//! It does nothing at all unless `INNOVER_FAILPOINTS` names a folder when the process starts; then
//! [`announce`] says so in the log. A step is armed by a file of its name in that folder, whose text is
//! the service it is meant for (empty: any). Who gets there first renames the file to
//! `<step>.reached.<process id>`, so of several processes exactly one is held, once, and waits until
//! that file is gone. Only the task that got there waits.
#![warn(missing_docs)]

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Names the folder; without it no step is ever held.
pub const SETTING: &str = "INNOVER_FAILPOINTS";

/// Who is held goes on after this time: a test that died must not leave a process standing still.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Between two looks whether the file is gone.
const LOOK_EVERY: Duration = Duration::from_millis(1);

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $step:ident = $name:literal,)+) => {
        /// A step at which a process can be held. Each happens at a service, its `at`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step {
            $($(#[doc = $doc])+ $step,)+
        }

        impl Step {
            /// Every step, in the order of a payment's way.
            pub const ALL: &[Step] = &[$(Step::$step),+];

            /// The name of its file.
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name,)+
                }
            }

            /// What has happened and what has not when it is held.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Step::$step => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

steps! {
    /// Host: a component has asked PostgreSQL for a write; nothing is sent.
    StatementUnsent = "statement.unsent",
    /// Host: PostgreSQL has committed a component's write; the component has no answer.
    StatementUnanswered = "statement.unanswered",
    /// Host: a component has asked SQLite to commit; nothing is committed.
    CommitUnwritten = "commit.unwritten",
    /// Host: SQLite has committed; the component has no answer.
    CommitUnanswered = "commit.unanswered",
    /// Host: the answer to a client's POST is made; none of it is sent.
    AnswerUnsent = "answer.unsent",
    /// Host: a service has taken events or jobs; the answer to the bridge, in a process of its own, is not sent.
    DeliveryUnanswered = "delivery.unanswered",
    /// Bridge: rows of an outbox are read; nothing of them is published.
    RowsUnpublished = "rows.unpublished",
    /// Bridge: rows of an outbox are published; they are in the outbox still, and may be lost on the bus by a power cut.
    RowsPublished = "rows.published",
    /// Bridge: rows of an outbox are published for good; they are not deleted.
    RowsUndeleted = "rows.undeleted",
    /// Bridge: events are about to be delivered to a subscriber.
    EventsUndelivered = "events.undelivered",
    /// Bridge: a subscriber has acknowledged events, their effect is there; the bridge has noted nothing of it.
    EventsUnsettled = "events.unsettled",
    /// Bridge: acknowledged events are settled in memory; their offsets are not committed to Kafka.
    OffsetsUncommitted = "offsets.uncommitted",
    /// Bridge: jobs are leased; they are not delivered.
    JobsUndelivered = "jobs.undelivered",
    /// Bridge: jobs have had their effect; they are leased still.
    JobsUnsettled = "jobs.unsettled",
}

/// The folder of armed steps.
struct Armed(PathBuf);

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let folder = std::env::var_os(SETTING).filter(|folder| !folder.is_empty());
            folder.map(|folder| Armed(folder.into()))
        })
        .as_ref()
}

/// Whether this process can be held at all.
pub fn is_armed() -> bool {
    armed().is_some()
}

/// Says in the log that this process can be held; says nothing when it cannot.
pub fn announce() {
    if let Some(Armed(folder)) = armed() {
        tracing::warn!(
            folder = %folder.display(),
            "{SETTING} is set: this process stands still wherever a test tells it to; leave it unset outside tests"
        );
    }
}

/// Waits here when the step is armed for the service `at`.
pub async fn hold(step: Step, at: &str) {
    let Some(reached) = armed().and_then(|armed| armed.reach(step, at)) else {
        return;
    };
    let until = Instant::now() + HOLD_MAX;
    while waits(&reached, until) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The same on a thread that may block.
pub fn hold_blocking(step: Step, at: &str) {
    let Some(reached) = armed().and_then(|armed| armed.reach(step, at)) else {
        return;
    };
    let until = Instant::now() + HOLD_MAX;
    while waits(&reached, until) {
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Armed {
    /// The file to wait for, when the step is armed for `at` and nobody else has taken it.
    fn reach(&self, step: Step, at: &str) -> Option<PathBuf> {
        let file = self.0.join(step.name());
        let wanted = std::fs::read_to_string(&file).ok()?;
        if !wanted.is_empty() && wanted != at {
            return None;
        }
        let reached = self
            .0
            .join(format!("{}.reached.{}", step.name(), std::process::id()));
        // Of two that come at the same moment one finds the file gone.
        std::fs::rename(&file, &reached).ok()?;
        tracing::warn!(step = step.name(), at, "held for a test");
        Some(reached)
    }
}

fn waits(reached: &Path, until: Instant) -> bool {
    if !reached.exists() {
        return false;
    }
    if Instant::now() < until {
        return true;
    }
    tracing::error!(
        file = %reached.display(),
        "nobody deleted the file of a held step within {} s; going on",
        HOLD_MAX.as_secs()
    );
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use std::{collections::HashSet, fs};

    use super::*;

    #[test]
    fn every_step_has_a_name_and_a_meaning_of_its_own() {
        let names: HashSet<&str> = Step::ALL.iter().map(|step| step.name()).collect();
        let meanings: HashSet<&str> = Step::ALL.iter().map(|step| step.meaning()).collect();
        assert_eq!(
            (names.len(), meanings.len()),
            (Step::ALL.len(), Step::ALL.len())
        );
    }

    #[test]
    fn an_armed_step_holds_one_who_gets_there_at_the_named_service_and_nobody_after() {
        let folder = tempfile::tempdir().unwrap();
        let armed = Armed(folder.path().to_owned());
        let step = Step::RowsPublished;
        assert_eq!(armed.reach(step, "ledger"), None, "not armed");
        fs::write(folder.path().join(step.name()), "ledger").unwrap();
        assert_eq!(armed.reach(step, "wallet"), None, "armed for another one");
        assert_eq!(
            armed.reach(Step::RowsUndeleted, "ledger"),
            None,
            "another step"
        );

        // Several at the same moment.
        let held: Vec<PathBuf> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| armed.reach(step, "ledger")))
                .collect();
            all.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        let name = format!("rows.published.reached.{}", std::process::id());
        assert_eq!(held, [folder.path().join(name)]);

        let later = Instant::now() + HOLD_MAX;
        assert!(waits(&held[0], later));
        assert!(!waits(&held[0], Instant::now()), "it is not held for ever");
        fs::remove_file(&held[0]).unwrap();
        assert!(!waits(&held[0], later));
        assert_eq!(armed.reach(step, "ledger"), None, "it holds once");
    }

    #[tokio::test]
    async fn without_the_setting_nothing_is_held() {
        assert!(!is_armed());
        hold(Step::AnswerUnsent, "").await;
        hold_blocking(Step::AnswerUnsent, "");
    }
}
