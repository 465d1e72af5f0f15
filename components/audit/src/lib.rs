//! The audit trail: every event of the platform, append-only, each row sealed with the one before.
//!
//! Services tell it by their events and nobody writes to it otherwise. It reads payloads only to keep
//! them.

pub mod api;
pub mod events;
pub mod limits;
pub mod model;
pub mod store;

use innover_kit::{
    Migration, Service,
    events::{EVERY, Locking},
};

/// What the component is made of.
pub static SERVICE: Service = Service {
    events: &[(EVERY, events::record)],
    // One chain has one end, which every delivery moves.
    events_locking: Locking::BeforeReading,
    migration: Some(Migration(1, "init")),
    ..Service::new("audit", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
