//! Batches that are built on what another batch of this instance is about to commit.
//!
//! Whoever reads what others are writing has to wait for their commit. Whoever knows what they write
//! need not: it decides on that at once, and only its own commit waits for theirs. When theirs does
//! not happen, its own does not either, and it starts over from a read.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::wake::{self, Bell};

/// A commit under way, and what became of it.
#[derive(Debug, Default)]
pub struct Underway(Mutex<State>);

#[derive(Default)]
struct State {
    committed: Option<bool>,
    waiting: Vec<Bell>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("committed", &self.committed)
            .finish_non_exhaustive()
    }
}

impl Underway {
    /// Whether it has happened; `None` while nobody knows.
    pub fn committed(&self) -> Option<bool> {
        self.state().committed
    }

    /// Waits for the end: whether it has happened.
    pub async fn ended(&self) -> bool {
        let ear = {
            let mut state = self.state();
            if let Some(committed) = state.committed {
                return committed;
            }
            let (bell, ear) = wake::pair();
            state.waiting.push(bell);
            ear
        };
        ear.heard().await;
        self.committed().unwrap_or_default()
    }

    fn end(&self, committed: bool) {
        let bells = {
            let mut state = self.state();
            state.committed.get_or_insert(committed);
            mem::take(&mut state.waiting)
        };
        drop(bells);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch waits for, and who hears what became of it. One that is dropped has not happened.
#[derive(Default)]
pub(crate) struct Follow {
    /// Those whose commit it is built on.
    pub(crate) before: Vec<Arc<Underway>>,
    /// Its own.
    pub(crate) own: Arc<Underway>,
}

impl Follow {
    /// Waits for those before; `false` when one of them did not happen.
    pub(crate) async fn ready(&self) -> bool {
        for before in &self.before {
            if !before.ended().await {
                return false;
            }
        }
        true
    }

    pub(crate) fn end(self, committed: bool) {
        self.own.end(committed);
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.own.end(false);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn after(before: &[&Follow]) -> Follow {
        Follow {
            before: before
                .iter()
                .map(|follow| Arc::clone(&follow.own))
                .collect(),
            own: Arc::default(),
        }
    }

    #[tokio::test]
    async fn who_follows_waits_for_all_and_happens_only_if_they_do() {
        let (first, second) = (Follow::default(), Follow::default());
        let both = after(&[&first, &second]);
        let third = after(&[&both]);
        let own = both.own.clone();
        {
            let mut ready = std::pin::pin!(both.ready());
            assert!(waits(ready.as_mut()).await);
            first.end(true);
            assert!(waits(ready.as_mut()).await);
            second.end(true);
            assert!(ready.await);
        }
        assert_eq!(own.committed(), None);
        drop(both);
        assert_eq!(own.committed(), Some(false), "it was given up");
        assert!(!third.ready().await);
    }

    #[tokio::test]
    async fn many_hear_of_one_end() {
        let first = Follow::default();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let own = Arc::clone(&first.own);
                tokio::spawn(async move { own.ended().await })
            })
            .collect();
        tokio::task::yield_now().await;
        first.end(true);
        for waiting in waiting {
            assert!(waiting.await.unwrap());
        }
    }

    /// Whether it waits still, after it had a chance to go on.
    async fn waits(future: std::pin::Pin<&mut (impl Future + ?Sized)>) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), future)
            .await
            .is_err()
    }
}
