//! Users, clients and tokens. The gateway calls it for `/oauth2/*`, `/.well-known/*`, sign-in and
//! `/v1/users`, and for the keys it checks access tokens with. It never sees another service's data
//! and never answers with a password, a secret or a private key.

pub mod api;
pub mod dev;
pub mod discovery;
pub mod keys;
pub mod limits;
pub mod model;
pub mod oauth;
pub mod password;
pub mod settings;
pub mod signin;
pub mod store;
pub mod tokens;

/// What the component is made of.
pub static SERVICE: innover_kit::Service = innover_kit::Service {
    migration: Some(innover_kit::Migration(1, "init")),
    queue: false,
    ..innover_kit::Service::new("identity", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
