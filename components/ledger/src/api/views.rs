//! What callers see: decimal strings, RFC 3339 times.

use innover_kit::contract::time::rfc3339;
use innover_money::{Currency, Money};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    model::{Balance, Side, Standing, State},
    store::{
        accounts::AccountRow,
        entries::{EntryRow, Line, StatementRow},
        pending::PendingRow,
    },
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
    pub fn new(balance: Balance, currency: Currency) -> BalanceView {
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
    /// Grows by one with every change of what it holds.
    version: i64,
    /// How many postings it has had.
    postings: i64,
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
            postings: account.postings,
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
    /// Its number in the account, from 1, without gaps.
    number: i64,
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
    /// The caller's id, or one made here.
    id: String,
    /// `payment`, `top_up`, `manual`, …
    kind: String,
    reference: String,
    payment_id: Option<String>,
    /// The entry it takes back, whole or in part.
    reverses: Option<String>,
    postings: Vec<PostingView>,
    /// What the accounts it touched held after it.
    balances: Vec<AccountBalanceView>,
    #[schema(value_type = Object)]
    metadata: Value,
    /// Who asked for it: a user, a client or a service.
    created_by: String,
    created_at: String,
}

impl EntryView {
    /// An entry as it was written, and what it left in its accounts.
    pub fn new(entry: &EntryRow, lines: &[Line]) -> EntryView {
        let postings = lines.iter().map(|line| PostingView {
            account: line.account.to_string(),
            direction: line.side.as_str().into(),
            amount: decimal(line.amount, line.currency),
            currency: line.currency.code().into(),
            balance_after: decimal(line.balance_after, line.currency),
            number: line.number,
        });
        EntryView {
            id: entry.id.clone(),
            kind: entry.kind.clone(),
            reference: entry.reference.clone(),
            payment_id: entry.payment_id().map(str::to_owned),
            reverses: entry.reverses.clone(),
            postings: postings.collect(),
            balances: balances(lines),
            metadata: object(&entry.metadata),
            created_by: entry.created_by.clone(),
            created_at: rfc3339(entry.created_at),
        }
    }
}

impl From<&Standing> for AccountBalanceView {
    fn from(standing: &Standing) -> AccountBalanceView {
        AccountBalanceView {
            account: standing.account.to_string(),
            currency: standing.currency.code().into(),
            balance: BalanceView::new(standing.balance, standing.currency),
            version: standing.version,
        }
    }
}

fn balances(lines: &[Line]) -> Vec<AccountBalanceView> {
    lines
        .iter()
        .map(|line| AccountBalanceView::from(&line.standing()))
        .collect()
}

/// A transfer: booked at once, or in two phases.
#[derive(Debug, Serialize, ToSchema)]
pub struct TransferView {
    pub id: String,
    /// `posted`, `pending`, `voided` or `expired`.
    #[schema(example = "posted")]
    state: &'static str,
    debit_account: String,
    credit_account: String,
    /// What was asked for.
    #[schema(example = "10.00")]
    amount: String,
    #[schema(example = "EUR")]
    currency: String,
    /// What was posted of it; null while nothing is.
    posted_amount: Option<String>,
    /// Its journal entry; null while there is none.
    entry_id: Option<String>,
    kind: String,
    reference: String,
    #[schema(value_type = Object)]
    metadata: Value,
    created_by: String,
    created_at: String,
    /// When a reservation is given back; null for what is booked at once.
    expires_at: Option<String>,
    /// What its accounts held after it.
    balances: Vec<AccountBalanceView>,
}

impl TransferView {
    /// One that was booked at once.
    pub fn booked(entry: &EntryRow, lines: &[Line]) -> TransferView {
        let account = |side| {
            let line = lines.iter().find(|line| line.side == side);
            line.map(|line| line.account.to_string())
                .unwrap_or_default()
        };
        let amount = lines
            .first()
            .map(|line| decimal(line.amount, line.currency))
            .unwrap_or_default();
        TransferView {
            id: entry.id.clone(),
            state: State::Posted.as_str(),
            debit_account: account(Side::Debit),
            credit_account: account(Side::Credit),
            posted_amount: Some(amount.clone()),
            amount,
            currency: lines
                .first()
                .map(|line| line.currency.code().to_owned())
                .unwrap_or_default(),
            entry_id: Some(entry.id.clone()),
            kind: entry.kind.clone(),
            reference: entry.reference.clone(),
            metadata: object(&entry.metadata),
            created_by: entry.created_by.clone(),
            created_at: rfc3339(entry.created_at),
            expires_at: None,
            balances: balances(lines),
        }
    }

    /// A reservation as it was answered when it was made, whatever became of it.
    pub fn reserved(row: &PendingRow) -> TransferView {
        let money = row.reservation.money;
        TransferView {
            id: row.id.clone(),
            state: State::Pending.as_str(),
            debit_account: row.reservation.debit.to_string(),
            credit_account: row.reservation.credit.to_string(),
            amount: money.to_decimal_string(),
            currency: money.currency().code().into(),
            posted_amount: None,
            entry_id: None,
            kind: row.kind.clone(),
            reference: row.reference.clone(),
            metadata: object(&row.metadata),
            created_by: row.created_by.clone(),
            created_at: rfc3339(row.created_at),
            expires_at: Some(rfc3339(row.expires_at)),
            balances: row.standings.iter().map(AccountBalanceView::from).collect(),
        }
    }

    /// A reservation as it stands.
    pub fn current(row: &PendingRow) -> TransferView {
        let first = TransferView::reserved(row);
        if row.state == State::Pending {
            return first;
        }
        let posted = row.posted_amount;
        TransferView {
            state: row.state.as_str(),
            posted_amount: posted.map(|minor| decimal(minor, row.reservation.money.currency())),
            entry_id: posted.map(|_| row.id.clone()),
            balances: row
                .settled_standings
                .iter()
                .map(AccountBalanceView::from)
                .collect(),
            ..first
        }
    }
}

/// A posting as the account's statement shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatementLine {
    /// Its number in the account, from 1, without gaps.
    number: i64,
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

impl From<&StatementRow> for StatementLine {
    fn from(row: &StatementRow) -> StatementLine {
        let line = &row.line;
        StatementLine {
            number: line.number,
            entry_id: line.entry_id.clone(),
            kind: row.kind.clone(),
            reference: row.reference.clone(),
            direction: line.side.as_str().into(),
            amount: decimal(line.amount, line.currency),
            currency: line.currency.code().into(),
            balance_after: decimal(line.balance_after, line.currency),
            created_at: rfc3339(row.created_at),
            cursor: line.number.to_string(),
        }
    }
}
