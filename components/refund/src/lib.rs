//! Refunds: completed payments taken back, whole or in parts, never more than was captured.
//!
//! It decides how much of a payment a refund takes and waits for the ledger, which alone knows
//! whether the payee still has it. It never books money and never knows a balance.

pub mod api;
pub mod events;
pub mod jobs;
pub mod model;
pub mod payment;
pub mod store;

use innover_kit::{Migration, Service};

/// What the component is made of.
pub static SERVICE: Service = Service {
    events: &[
        ("ledger.posted", events::posted),
        ("ledger.rejected", events::rejected),
    ],
    tasks: &[jobs::SWEEP],
    migration: Some(Migration(1, "init")),
    ..Service::new("refund", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
