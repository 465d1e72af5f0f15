//! The only public door: public paths to services, access tokens, scopes, limits and headers. It
//! keeps no data of its own. Every request of the platform passes here, so the way from the first
//! byte to the service allocates little, asks the host little and has no router but [`table`].

pub mod catalogue;
pub mod cors;
pub mod headers;
pub mod limits;
pub mod names;
pub mod problem;
pub mod settings;
pub mod table;
pub mod token;
pub mod verified;

#[cfg(target_family = "wasm")]
mod door;
#[cfg(target_family = "wasm")]
mod keys;
#[cfg(target_family = "wasm")]
mod upstream;

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::wasip3::{
        exports::http::handler::Guest,
        http::types::{ErrorCode, Request, Response},
    };

    struct Gateway;
    // By hand instead of `#[http_service]`, which turns every request and answer into `http` types
    // and back: a third of what a request costs here.
    spin_sdk::wasip3::http::service::export!(Gateway with_types_in spin_sdk::wasip3);

    impl Guest for Gateway {
        async fn handle(request: Request) -> Result<Response, ErrorCode> {
            crate::door::handle(request).await
        }
    }
}
