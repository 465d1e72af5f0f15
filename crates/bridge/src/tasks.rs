//! The bridge's own tasks, which run until shutdown. Nobody misses one that ends before, by a fault in
//! it: what it would have carried only waits. So its end is logged, and the bridge is not ready any more.
//!
//! The process goes on. The other tasks are whole, and a fault that comes of one row or event would come
//! again after each restart, with every service of the process away in between.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::{sync::watch, task::JoinSet};

use crate::metrics::Metrics;

/// Tasks that stop together. Dropping them stops them at once.
pub(crate) struct Tasks {
    set: JoinSet<()>,
    metrics: Arc<Metrics>,
    shutdown: watch::Receiver<bool>,
}

impl Tasks {
    /// `shutdown` is what tells all of them to end.
    pub(crate) fn new(metrics: Arc<Metrics>, shutdown: watch::Receiver<bool>) -> Tasks {
        Tasks {
            set: JoinSet::new(),
            metrics,
            shutdown,
        }
    }

    /// Starts one. `name` is for whoever operates the bridge, e.g. `relay of wallet`.
    pub(crate) fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (name, metrics) = (name.into(), self.metrics.clone());
        let shutdown = self.shutdown.clone();
        self.set.spawn(async move {
            // Nothing of it is used afterwards. The hook of panics has said where it was.
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            // A bridge that is dropped has no sender any more.
            let told = *shutdown.borrow() || shutdown.has_changed().is_err();
            if panicked || !told {
                tracing::error!(
                    task = name,
                    panicked,
                    "a task of the bridge has ended; restart it"
                );
                metrics.ended(name);
            }
        });
    }

    /// Returns when all have ended.
    pub(crate) async fn join(&mut self) {
        while self.set.join_next().await.is_some() {}
    }
}
