//! Wallets: who owns which account, and what it holds as the ledger last said. It decides whether
//! money may move (states, holds, limits by KYC tier) and asks the ledger to move it; it never
//! invents money: every balance here was read from the ledger.

pub mod api;
pub mod events;
pub mod jobs;
pub mod ledger;
pub mod limits;
pub mod model;
pub mod store;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    events: &[
        ("ledger.posted", events::ledger),
        ("ledger.reserved", events::ledger),
        ("ledger.released", events::ledger),
        ("ledger.transfers_posted", events::ledger),
        ("profile.updated", events::profile_updated),
    ],
    tasks: &[jobs::sweep::TASK, jobs::rebuild::TASK],
    migration: Some(innover_kit::Migration(1, "init")),
    ..innover_kit::Service::new("wallet", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
