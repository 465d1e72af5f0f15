//! The HTTP surface of wallets.

mod allowance;
mod holds;
mod limits;
mod orders;
mod rebuilds;
mod settlements;
mod states;
mod top_ups;
mod transfers;
mod wallets;
mod withdrawals;

use innover_kit::{Cx, Result, context::insufficient_scope};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{ledger::decimal, model::Wallet};

const READ: &str = "wallet:read";
const WRITE: &str = "wallet:write";
/// Who may freeze wallets and have them compared with the ledger.
const OPERATORS: [&str; 3] = ["ops_user", "admin", "finance"];

#[derive(OpenApi)]
#[openapi(
    info(title = "Wallets", description = "Wallets of one owner and one currency: transfers, holds, limits, and money that enters and leaves."),
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
        .routes(routes!(transfers::create))
        .routes(routes!(withdrawals::create))
        .routes(routes!(holds::create, holds::list))
        .routes(routes!(holds::get))
        .routes(routes!(settlements::capture))
        .routes(routes!(settlements::release))
        .routes(routes!(states::freeze))
        .routes(routes!(states::unfreeze))
        .routes(routes!(states::close))
        .routes(routes!(states::decisions))
        .routes(routes!(limits::get))
        .routes(routes!(rebuilds::create))
        .routes(routes!(rebuilds::get))
        .routes(routes!(rebuilds::differences))
}

/// Requires one of the roles that operate the house; the answer is who it is, for the record.
fn operator(cx: &Cx) -> Result<String> {
    let identity = cx.identity()?;
    if OPERATORS.iter().any(|role| identity.has_role(role)) {
        return orders::who(cx).map(str::to_owned);
    }
    Err(insufficient_scope("role:ops_user"))
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
