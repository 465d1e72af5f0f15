//! What all instances of all components share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::database::Databases;
use crate::interfaces::key_value::Stores;
use crate::interfaces::redis::Servers;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::postgres;
use crate::service::Service;

/// The host behind the interfaces.
pub(crate) struct Shared {
    pub(crate) databases: Databases,
    pub(crate) stores: Stores,
    pub(crate) redis: Servers,
    pub(crate) postgres: postgres::Servers,
    pub(crate) log: Log,
    pub(crate) metrics: Arc<Metrics>,
    /// Components by id. Set once when all are loaded: services refer to `Shared` and it to them.
    services: OnceLock<HashMap<String, Arc<Service>>>,
    stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        databases: Databases,
        stores: Stores,
        redis: Servers,
        postgres: postgres::Servers,
        log: Log,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            databases,
            stores,
            redis,
            postgres,
            log,
            metrics,
            services: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_services(&self, services: HashMap<String, Arc<Service>>) {
        // Called once, by `Host::start`; a second call would change nothing.
        let _ = self.services.set(services);
    }

    pub(crate) fn service(&self, component: &str) -> Option<&Arc<Service>> {
        self.services.get()?.get(component)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.get().into_iter().flat_map(HashMap::values)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
