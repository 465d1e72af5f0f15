//! What one guest instance holds on the host's side: its resources, its limits, its permissions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::component::ResourceTable;
use wasmtime::{StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::database::Seen;
use crate::interfaces::http::Outbound;
use crate::interfaces::wasi;
use crate::limits;
use crate::load::App;
use crate::shared::Shared;

/// The data of one store. Dropping it drops everything the instance had open; in particular an open
/// transaction is rolled back.
pub(crate) struct Guest {
    pub(crate) table: ResourceTable,
    pub(crate) limits: StoreLimits,
    pub(crate) open_databases: usize,
    pub(crate) seen: Arc<Seen>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Outbound,
    instance: u64,
    _counted: Counted,
}

/// Instances made so far; numbers them from 1, so that 0 can mean "no guest".
static INSTANCES: AtomicU64 = AtomicU64::new(1);

/// Counts the instance as alive until it is dropped.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guest {
    pub(crate) fn new(shared: &Arc<Shared>, app: &Arc<App>) -> Self {
        shared.metrics.instances.fetch_add(1, Ordering::Relaxed);
        shared
            .metrics
            .instances_started
            .fetch_add(1, Ordering::Relaxed);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(limits::HEADER_BYTES_MAX);
        let seen = Arc::new(Seen::default());
        Self {
            table: ResourceTable::new(),
            limits: StoreLimitsBuilder::new()
                .memory_size(app.memory_bytes)
                .instances(limits::CORE_INSTANCES_PER_COMPONENT as usize)
                .memories(limits::MEMORIES_PER_COMPONENT as usize)
                .tables(limits::TABLES_PER_COMPONENT as usize)
                .build(),
            open_databases: 0,
            seen: Arc::clone(&seen),
            wasi: wasi::context(&app.service, &app.environment, &shared.log),
            http,
            outbound: Outbound::new(Arc::clone(shared), Arc::clone(app), seen),
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            _counted: Counted(Arc::clone(shared)),
        }
    }

    /// The component this is an instance of, and what the manifest lets it do.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.outbound.app
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.outbound.shared
    }

    /// A number no other instance of this process has or had.
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outbound,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}
