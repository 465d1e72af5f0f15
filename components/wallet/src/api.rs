//! The HTTP surface of wallets.

mod top_ups;
mod wallets;

use innover_money::{Currency, Money};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::model::Wallet;

#[derive(OpenApi)]
#[openapi(
    info(title = "Wallets", description = "Wallets of one owner and one currency, and money that enters them."),
    servers((url = "/api/wallet"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(wallets::create, wallets::list))
        .routes(routes!(wallets::lookup))
        .routes(routes!(wallets::get))
        .routes(routes!(top_ups::create))
}

/// What a wallet holds.
#[derive(Debug, Serialize, ToSchema)]
struct BalanceView {
    /// By the ledger's postings.
    #[schema(example = "100.00")]
    posted: String,
    /// Reserved of it.
    #[schema(example = "0.00")]
    held: String,
    /// What can be used: `posted` less `held`.
    #[schema(example = "100.00")]
    available: String,
}

impl From<&Wallet> for BalanceView {
    fn from(w: &Wallet) -> BalanceView {
        BalanceView {
            posted: decimal(w.posted, w.currency),
            held: decimal(w.held, w.currency),
            available: decimal(w.available(), w.currency),
        }
    }
}

/// Minor units as a decimal string with all of the currency's digits.
fn decimal(minor: i64, currency: Currency) -> String {
    // A wallet is only opened in a currency with minor units.
    Money::new(minor, currency).map_or_else(|_| minor.to_string(), Money::to_decimal_string)
}
