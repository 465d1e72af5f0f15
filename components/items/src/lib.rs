//! Items: the smallest complete service, which docs/adding-a-service.md builds step by step. People
//! keep a list of their own.

pub mod api;
pub mod events;
pub mod jobs;
pub mod model;
pub mod store;

use innover_kit::{Migration, Service};

/// What the component is made of.
pub static SERVICE: Service = Service {
    tasks: &[jobs::CREATE],
    migration: Some(Migration(1, "init")),
    ..Service::new("items", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
