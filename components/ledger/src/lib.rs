//! The journal: accounts, entries that balance, and what every account holds because of them.
//! Payments reach it as `forex.converted`, refunds as `refund.initiated`; wallets open accounts and top up through its HTTP
//! surface, finance posts entries and transfers. It never calls anyone and never trusts an amount it
//! did not book itself.

pub mod api;
pub mod booking;
pub mod checkpoints;
pub mod events;
pub mod jobs;
pub mod limits;
pub mod model;
pub mod settling;
pub mod store;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    events: &[
        ("forex.converted", events::converted),
        ("refund.initiated", events::refund_initiated),
    ],
    // Payments of one merchant all move its account.
    events_locking: innover_kit::events::Locking::BeforeReading,
    tasks: &[jobs::CHECKPOINT, jobs::EXPIRE],
    body_bytes_max: innover_kit::contract::limits::LEDGER_BODY_BYTES_MAX,
    migration: Some(innover_kit::Migration(2, "one_row_for_an_id")),
    ..innover_kit::Service::new("ledger", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
