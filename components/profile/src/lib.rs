//! Owns profiles: who a subject is to the house, how far it is known (KYC tier 0–3), by which
//! documents, and whether it may act. People write their own; rules and operations decide on
//! documents, tiers and states. What is personal is stored under a key per person (`seal.rs`,
//! docs/profiles.md). It never sees money.

pub mod api;
pub mod jobs;
pub mod model;
mod once;
pub mod seal;
pub mod store;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    migration: Some(innover_kit::Migration(1, "init")),
    tasks: &[jobs::VERIFY_KYC, jobs::EXPIRE, jobs::ROTATE],
    ..innover_kit::Service::new("profile", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
