//! Wallets: who owns which account, and what it holds as the ledger last said. It opens accounts and
//! tops them up by calling the ledger and follows `ledger.posted`; it never invents money: every
//! balance here was read from the ledger.

pub mod api;
pub mod events;
pub mod limits;
pub mod model;
pub mod store;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    events: &[("ledger.posted", events::posted)],
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
