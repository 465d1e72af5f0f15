//! Owns exchange rates, quotes and conversions. Payments reach it as `payment.initiated` events and
//! leave as `forex.converted` or `forex.rejected`; people ask it for rates and quotes. It never
//! books anything: that is the ledger's part.

pub mod api;
pub mod events;
pub mod jobs;
pub mod limits;
pub mod loading;
pub mod model;
pub mod rates;
pub mod sets;
pub mod store;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    events: &[("payment.initiated", events::initiated)],
    tasks: &[jobs::LOAD_RATES],
    migration: Some(innover_kit::Migration(1, "init")),
    body_bytes_max: limits::FILE_BYTES_MAX,
    ..innover_kit::Service::new("forex", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
