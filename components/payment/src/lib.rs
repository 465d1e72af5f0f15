//! Payments: their states, their timeline and their confirmation.
//!
//! Callers post a payment and read it back; forex, ledger and wallet move it on by events, the job
//! `payment.confirm` completes it. It never books money and never knows a balance.

pub mod api;
pub mod capture;
pub mod events;
pub mod jobs;
pub mod model;
pub mod route;
pub mod rules;
pub mod store;

use innover_kit::{Migration, Service};

/// What the component is made of.
pub static SERVICE: Service = Service {
    events: &[
        ("payment.initiated", events::initiated),
        ("forex.converted", events::converted),
        ("forex.rejected", events::rejected),
        ("ledger.posted", events::posted),
        ("ledger.rejected", events::rejected),
        ("wallet.updated", events::wallet_updated),
    ],
    tasks: &[jobs::CONFIRM, jobs::ASK_RULES, jobs::SWEEP],
    migration: Some(Migration(1, "init")),
    ..Service::new("payment", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
