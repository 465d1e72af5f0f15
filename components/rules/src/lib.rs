//! Owns rule sets and has the active one evaluated over typed facts. Payment calls it before it starts
//! a payment; operators read and change the rules. It never sees an account and moves no money. What
//! reads and evaluates a rule is a plug-in (`engine.rs`). From payment's events it knows what a payer
//! did before (`velocity.rs`).

pub mod active;
pub mod api;
mod engine;
pub mod events;
pub mod facts;
pub mod jobs;
pub mod limits;
pub mod model;
pub mod shadow;
pub mod store;
pub mod velocity;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    events: &[
        ("payment.initiated", events::asked),
        ("payment.review", events::asked),
        ("payment.declined", events::ended),
        ("payment.failed", events::ended),
        ("payment.cancelled", events::ended),
    ],
    tasks: &[jobs::FORGET],
    migration: Some(innover_kit::Migration(1, "init")),
    ..innover_kit::Service::new("rules", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
