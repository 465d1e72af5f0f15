//! Scores cases and keeps every scoring. What computes a score is a plug-in (`scorer.rs`): this
//! service gives it typed features, holds it to its word and tells the others (`score_updated`). It
//! decides nothing; cases and the people who work on them do.

pub mod api;
pub mod features;
pub mod limits;
pub mod model;
pub mod scorer;
pub mod store;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    migration: Some(innover_kit::Migration(1, "init")),
    ..innover_kit::Service::new("scoring", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
