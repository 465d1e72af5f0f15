//! What callers see: decimal strings, RFC 3339 times.

use innover_kit::contract::time::rfc3339;
use innover_money::{Currency, Money};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    model::{Balance, Posted},
    store::{AccountRow, EntryRow, Line},
};

/// Minor units as a decimal string with all of the currency's digits.
pub fn decimal(minor: i64, currency: Currency) -> String {
    // An account is only opened in a currency with minor units.
    Money::new(minor, currency).map_or_else(|_| minor.to_string(), Money::to_decimal_string)
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What an account holds on its normal side.
#[derive(Debug, Serialize, ToSchema)]
pub struct BalanceView {
    /// By its postings.
    #[schema(example = "100.00")]
    posted: String,
    /// Reserved of it.
    #[schema(example = "0.00")]
    held: String,
    /// `posted` less `held`.
    #[schema(example = "100.00")]
    available: String,
}

impl BalanceView {
    fn new(balance: Balance, currency: Currency) -> BalanceView {
        BalanceView {
            posted: decimal(balance.posted, currency),
            held: decimal(balance.held, currency),
            available: decimal(balance.available, currency),
        }
    }
}

/// The sums behind a balance, which only grow.
#[derive(Debug, Serialize, ToSchema)]
struct TotalsView {
    debits: String,
    credits: String,
    pending_debits: String,
    pending_credits: String,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountView {
    pub id: String,
    /// Its place in the chart of accounts.
    code: String,
    name: String,
    #[schema(example = "EUR")]
    currency: String,
    /// The side on which it grows: `debit` or `credit`.
    normal_side: String,
    /// What the available balance never goes below; null for no limit.
    floor: Option<String>,
    /// `open` or `closed`.
    state: String,
    balance: BalanceView,
    totals: TotalsView,
    /// How many postings it has had.
    version: i64,
    #[schema(value_type = Object)]
    metadata: Value,
    created_at: String,
}

impl From<&AccountRow> for AccountView {
    fn from(row: &AccountRow) -> AccountView {
        let AccountRow {
            opening,
            account,
            created_at,
        } = row;
        let decimal = |minor| decimal(minor, account.currency);
        AccountView {
            id: account.id.to_string(),
            code: opening.code.clone(),
            name: opening.name.clone(),
            currency: account.currency.code().into(),
            normal_side: account.normal_side.as_str().into(),
            floor: account.floor.map(|floor| decimal(floor.0)),
            state: if account.closed { "closed" } else { "open" }.into(),
            balance: BalanceView::new(account.balance(), account.currency),
            totals: TotalsView {
                debits: decimal(account.totals.debits.0),
                credits: decimal(account.totals.credits.0),
                pending_debits: decimal(account.totals.pending_debits.0),
                pending_credits: decimal(account.totals.pending_credits.0),
            },
            version: account.version,
            metadata: object(&opening.metadata),
            created_at: rfc3339(*created_at),
        }
    }
}

/// A posting of an entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct PostingView {
    account: String,
    /// `debit` or `credit`.
    direction: String,
    amount: String,
    currency: String,
    /// What the account had posted after it.
    balance_after: String,
    /// Its number in the account.
    version: i64,
}

/// What an entry left in an account.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountBalanceView {
    account: String,
    currency: String,
    #[serde(flatten)]
    balance: BalanceView,
    /// The account's version after the entry.
    version: i64,
}

/// A journal entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryView {
    id: String,
    /// `payment`, `top_up`, `manual`, …
    kind: String,
    reference: String,
    /// What it was made for; at most one entry has it.
    external_id: Option<String>,
    payment_id: Option<String>,
    /// The entry it takes back, whole or in part.
    reverses: Option<String>,
    postings: Vec<PostingView>,
    /// New balances of the accounts it touched; only in the answer that posted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    balances: Option<Vec<AccountBalanceView>>,
    #[schema(value_type = Object)]
    metadata: Value,
    /// Who asked for it: a user, a client or a service.
    created_by: String,
    created_at: String,
}

impl EntryView {
    /// The answer to the request that posted it.
    pub fn posted(entry: &EntryRow, posted: &[Posted]) -> EntryView {
        let postings = posted.iter().map(|p| PostingView {
            account: p.account.to_string(),
            direction: p.side.as_str().into(),
            amount: p.money.to_decimal_string(),
            currency: p.money.currency().code().into(),
            balance_after: decimal(p.balance.posted, p.money.currency()),
            version: p.version,
        });
        let balances = posted.iter().map(|p| AccountBalanceView {
            account: p.account.to_string(),
            currency: p.money.currency().code().into(),
            balance: BalanceView::new(p.balance, p.money.currency()),
            version: p.version,
        });
        EntryView::new(entry, postings.collect(), Some(balances.collect()))
    }

    /// An entry as it was written.
    pub fn read(entry: &EntryRow, lines: &[Line]) -> EntryView {
        let postings = lines.iter().map(|line| PostingView {
            account: line.account.to_string(),
            direction: line.side.as_str().into(),
            amount: decimal(line.amount, line.currency),
            currency: line.currency.code().into(),
            balance_after: decimal(line.balance_after, line.currency),
            version: line.version,
        });
        EntryView::new(entry, postings.collect(), None)
    }

    fn new(
        entry: &EntryRow,
        postings: Vec<PostingView>,
        balances: Option<Vec<AccountBalanceView>>,
    ) -> EntryView {
        EntryView {
            id: entry.id.clone(),
            kind: entry.kind.clone(),
            reference: entry.reference.clone(),
            external_id: entry.external_id.clone(),
            payment_id: entry.payment_id.clone(),
            reverses: entry.reverses.clone(),
            postings,
            balances,
            metadata: object(&entry.metadata),
            created_by: entry.created_by.clone(),
            created_at: rfc3339(entry.created_at),
        }
    }
}

/// A posting as the account's statement shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatementLine {
    /// Its number in the account, from 1, without gaps.
    version: i64,
    entry_id: String,
    kind: String,
    reference: String,
    /// `debit` or `credit`.
    direction: String,
    amount: String,
    currency: String,
    /// What the account had posted after it, on its normal side.
    balance_after: String,
    created_at: String,
    /// Where the next page starts.
    #[serde(skip)]
    pub cursor: String,
}

impl From<&Line> for StatementLine {
    fn from(line: &Line) -> StatementLine {
        StatementLine {
            version: line.version,
            entry_id: line.entry_id.clone(),
            kind: line.kind.clone(),
            reference: line.reference.clone(),
            direction: line.side.as_str().into(),
            amount: decimal(line.amount, line.currency),
            currency: line.currency.code().into(),
            balance_after: decimal(line.balance_after, line.currency),
            created_at: rfc3339(line.created_at),
            cursor: line.version.to_string(),
        }
    }
}
