//! The trial balance: the books add up, and every account is what its postings say.

use innover_kit::{Answer, Cx, Db, Result};
use serde::Serialize;
use utoipa::ToSchema;

use super::{READ, views::decimal};
use crate::{
    limits::DIFFERING_ACCOUNTS_MAX,
    store::reports::{self, TrialRow},
};

/// The sums of one currency.
#[derive(Debug, Serialize, ToSchema)]
struct CurrencyTotals {
    #[schema(example = "EUR")]
    currency: String,
    /// Sum of all debit postings.
    debits: String,
    /// Sum of all credit postings.
    credits: String,
    /// Debits less credits: zero, or the ledger is broken.
    #[schema(example = "0.00")]
    difference: String,
    /// Accounts in the currency.
    accounts: i64,
    /// Accounts whose balance is not the sum of their postings and open reservations.
    differing_accounts: i64,
}

impl From<&TrialRow> for CurrencyTotals {
    fn from(row: &TrialRow) -> CurrencyTotals {
        let decimal = |minor| decimal(minor, row.currency);
        CurrencyTotals {
            currency: row.currency.code().into(),
            debits: decimal(row.debits),
            credits: decimal(row.credits),
            // Both are sums of positive amounts, so their difference fits.
            difference: decimal(row.debits - row.credits),
            accounts: row.accounts,
            differing_accounts: row.differing,
        }
    }
}

/// The trial balance.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrialBalance {
    /// Whether every difference is zero and every account agrees with its postings.
    balanced: bool,
    /// One per currency that has accounts.
    data: Vec<CurrencyTotals>,
    /// Some of the accounts that differ from their postings.
    differing_accounts: Vec<String>,
}

/// Debits and credits per currency.
///
/// Summed from the postings and compared with every account's balance.
#[utoipa::path(get, path = "/v1/trial-balance", tag = "trial balance",
    responses((status = 200, body = TrialBalance)))]
pub async fn get(cx: Cx) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let rows = reports::trial_balance(&db).await?;
    let differing_accounts = match rows.iter().any(|row| row.differing != 0) {
        true => reports::differing_accounts(&db, DIFFERING_ACCOUNTS_MAX).await?,
        false => Vec::new(),
    };
    let balanced = rows
        .iter()
        .all(|row| row.debits == row.credits && row.differing == 0);
    let data = rows.iter().map(CurrencyTotals::from).collect();
    Answer::json(
        200,
        &TrialBalance {
            balanced,
            data,
            differing_accounts,
        },
    )
}
