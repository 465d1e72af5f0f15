//! Cases: what a person has to look at and decide on, above all payments under review.
//!
//! It knows who has a case, what they decided, and what the scoring service says of it. It never
//! moves a payment: it asks the payment service to, and follows what becomes of it.

pub mod api;
pub mod events;
pub mod jobs;
pub mod limits;
pub mod model;
pub mod payment;
pub mod scoring;
pub mod store;

use innover_kit::{Migration, Service};

/// What the component is made of.
pub static SERVICE: Service = Service {
    events: &[
        ("payment.review", events::review),
        ("payment.initiated", events::settled),
        ("payment.declined", events::settled),
        ("payment.cancelled", events::settled),
    ],
    tasks: &[jobs::RESCORE, jobs::DECIDE_PAYMENT, jobs::SWEEP],
    migration: Some(Migration(1, "init")),
    ..Service::new("cases", api::routes)
};

#[cfg(target_family = "wasm")]
mod entry {
    use spin_sdk::http::{IntoResponse, Request};

    #[spin_sdk::http_service]
    async fn handle(request: Request) -> impl IntoResponse {
        innover_kit::serve(&crate::SERVICE, request).await
    }
}
