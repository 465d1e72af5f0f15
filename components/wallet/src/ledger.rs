//! What the ledger is asked, and what it says. A movement is a transfer there, under its own id, so
//! each of these may be repeated: the ledger books, settles and refuses an id once.

use http::Method;
use innover_kit::{
    Code, Cx, Failure, Result, call,
    contract::{limits::PAGE_LIMIT_MAX, time::parse_rfc3339},
};
use innover_money::{Currency, Money};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::{
    AccountState, Wallet,
    comparison::Account,
    movement::{Claim, GIVEN_UP, Kind, Movement, Settling, TIMED_OUT, Told},
};

const LEDGER: &str = "ledger";
const PENDING: &str = "pending";

/// The ledger's view of a transfer, as far as it is read here.
#[derive(Clone, Debug, Deserialize)]
pub struct Transfer {
    state: String,
    posted_amount: Option<String>,
    entry_id: Option<String>,
    expires_at: Option<String>,
    #[serde(default)]
    balances: Vec<TransferBalance>,
}

#[derive(Clone, Debug, Deserialize)]
struct TransferBalance {
    account: String,
    posted: String,
    held: String,
    version: i64,
}

/// What came of asking.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The transfer as the ledger has it.
    Stands(Transfer),
    /// It is final that this is not done.
    Refused(Failure),
}

fn misfit(what: &str) -> Failure {
    Failure::new(Code::UpstreamError, format!("`ledger`: {what}"))
}

fn minor(text: &str, currency: Currency) -> Option<i64> {
    Money::parse(text, currency).ok().map(Money::minor)
}

impl Transfer {
    /// What it says of a movement.
    ///
    /// # Errors
    /// 502 when it does not fit.
    pub fn told(&self, movement: &Movement) -> Result<Told> {
        match self.state.as_str() {
            PENDING => Ok(Told::Pending {
                expires_at: self
                    .expires_at
                    .as_deref()
                    .and_then(|at| parse_rfc3339(at).ok()),
            }),
            "posted" => Ok(Told::Posted {
                minor: match &self.posted_amount {
                    Some(text) => minor(text, movement.currency)
                        .ok_or_else(|| misfit("the posted amount does not fit"))?,
                    None => movement.amount,
                },
                entry_id: self.entry_id.clone(),
            }),
            "voided" => Ok(Told::Voided),
            "expired" => Ok(Told::Expired),
            other => Err(misfit(&format!("a transfer in state `{other}`"))),
        }
    }

    /// What it says of accounts in `currency`.
    pub fn accounts(&self, currency: Currency) -> Vec<AccountState> {
        self.balances
            .iter()
            .filter_map(|b| {
                Some(AccountState {
                    account_id: b.account.clone(),
                    posted_minor: minor(&b.posted, currency)?,
                    held_minor: minor(&b.held, currency)?,
                    version: b.version,
                })
            })
            .collect()
    }

    /// The journal entry, once booked.
    pub fn entry_id(&self) -> Option<&str> {
        self.entry_id.as_deref()
    }
}

/// Asks for a movement between two accounts.
///
/// # Errors
/// When it is not known what came of it: ask again.
pub async fn book(cx: &Cx, movement: &Movement, accounts: &Accounts) -> Result<Verdict> {
    let mut body = json!({
        "id": movement.id,
        "debit_account": accounts.debit,
        "credit_account": accounts.credit,
        "amount": decimal(movement.amount, movement.currency),
        "currency": movement.currency,
        "kind": movement.kind.as_str(),
        "reference": movement.reference,
    });
    if movement.kind == Kind::Hold {
        body["pending"] = true.into();
        body["expires_in_s"] = movement.expires_in_s.into();
    }
    match ask(cx, Method::POST, "/v1/transfers", Some(&body)).await {
        // The sweep has given it up meanwhile, and perhaps died before it wrote that here.
        Err(failure) if failure.code() == Code::InvalidState => {
            let mut refusal = Failure::new(Code::InvalidState, GIVEN_UP);
            refusal.0.code = TIMED_OUT.into();
            Ok(Verdict::Refused(refusal))
        }
        done => verdict(done),
    }
}

/// Settles a held movement as its claim says.
///
/// # Errors
/// When it is not known what came of it: ask again.
pub async fn settle(cx: &Cx, movement: &Movement, claim: &Claim) -> Result<Verdict> {
    let (verb, body) = match claim.what {
        Settling::Capture => (
            "post",
            json!({
                "amount": decimal(claim.minor, movement.currency),
                "currency": movement.currency,
            }),
        ),
        Settling::Release => ("void", json!({})),
    };
    let path = format!("/v1/transfers/{}/{verb}", movement.id);
    match ask(cx, Method::POST, &path, Some(&body)).await {
        Err(failure) if failure.code() == Code::InvalidState => ended(cx, movement).await,
        done => verdict(done),
    }
}

/// What became of a movement that ended otherwise than it was to be settled.
async fn ended(cx: &Cx, movement: &Movement) -> Result<Verdict> {
    let found = find(cx, &movement.id).await?;
    let transfer = found.ok_or_else(|| misfit("it lost a transfer"))?;
    // One whose time is over is marked as expired before that is said: until then it may be posted.
    if transfer.state == PENDING {
        return Err(misfit("it does not settle what it holds"));
    }
    Ok(Verdict::Stands(transfer))
}

/// The transfer with this id; `None` when the ledger never heard of it.
///
/// # Errors
/// When the ledger does not say.
pub async fn find(cx: &Cx, id: &str) -> Result<Option<Transfer>> {
    let path = format!("/v1/transfers/{id}");
    match ask(cx, Method::GET, &path, None).await {
        Ok(transfer) => Ok(Some(transfer)),
        Err(failure) if failure.status() == 404 => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[derive(Deserialize)]
struct GivenUp {
    transfer: Option<Transfer>,
}

/// The movement's transfer; `None` when the ledger never got it, and from now on refuses it.
///
/// # Errors
/// When the ledger does not say.
pub async fn give_up(cx: &Cx, movement: &Movement) -> Result<Option<Transfer>> {
    let path = format!("/v1/transfers/{}/refuse", movement.id);
    let body = json!({"kind": movement.kind.as_str(), "reference": movement.reference});
    let GivenUp { transfer } = ask(cx, Method::POST, &path, Some(&body)).await?;
    Ok(transfer)
}

async fn ask<T: serde::de::DeserializeOwned>(
    cx: &Cx,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<T> {
    call::json(cx, method, LEDGER, path, body, true).await
}

/// Tells a decision of the accounts, which is final for its id, from everything that leaves the
/// outcome open.
fn verdict(asked: Result<Transfer>) -> Result<Verdict> {
    let failure = match asked {
        Ok(transfer) => return Ok(Verdict::Stands(transfer)),
        Err(failure) => failure,
    };
    match failure.code() {
        Code::InsufficientFunds => Ok(Verdict::Refused(Failure::new(
            Code::InsufficientFunds,
            "the wallet's available balance does not cover this",
        ))),
        Code::AccountClosed
        | Code::AccountNotFound
        | Code::CurrencyMismatch
        | Code::InvalidAmount => {
            let detail = failure.0.detail.clone();
            Ok(Verdict::Refused(Failure::new(failure.code(), detail)))
        }
        _ => Err(failure),
    }
}

/// The two accounts of a movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// What is debited.
    pub debit: String,
    /// What is credited.
    pub credit: String,
}

impl Accounts {
    /// Those of a movement of `wallet`, with `other` or with the house's cash.
    pub fn of(kind: Kind, wallet: &Wallet, other: Option<&Wallet>) -> Accounts {
        let cash = || format!("acc_house_cash_{}", wallet.currency);
        let own = wallet.account_id.clone();
        let far = other.map_or_else(cash, |w| w.account_id.clone());
        match kind {
            Kind::TopUp => Accounts {
                debit: far,
                credit: own,
            },
            Kind::Transfer | Kind::Withdrawal | Kind::Hold => Accounts {
                debit: own,
                credit: far,
            },
        }
    }
}

/// Opens a wallet's account.
///
/// # Errors
/// The ledger's, or 502 when it opened another one.
pub async fn open_account(cx: &Cx, wallet: &Wallet) -> Result<()> {
    let opening = json!({
        "id": wallet.account_id,
        "code": WALLETS,
        "name": format!("Wallet {}", wallet.id),
        "currency": wallet.currency,
        "normal_side": "credit",
        "floor": decimal(0, wallet.currency),
    });
    // Safe to repeat: the ledger knows the account by its id.
    let opened: Value = ask(cx, Method::POST, "/v1/accounts", Some(&opening)).await?;
    if opened["id"] == wallet.account_id.as_str() {
        return Ok(());
    }
    Err(misfit("it opened another account than was asked for"))
}

/// Closes a wallet's account, which the ledger does only when it holds nothing. Safe to repeat.
///
/// # Errors
/// 409 `invalid_state` when it still holds something.
pub async fn close_account(cx: &Cx, wallet: &Wallet) -> Result<()> {
    let path = format!("/v1/accounts/{}/close", wallet.account_id);
    let _closed: Value = ask(cx, Method::POST, &path, Some(&json!({}))).await?;
    Ok(())
}

/// The place of wallets' accounts in the chart of accounts.
const WALLETS: &str = "wallet";

#[derive(Debug, Deserialize)]
struct AccountView {
    id: String,
    code: String,
    currency: String,
    state: String,
    version: i64,
    balance: BalanceView,
}

#[derive(Debug, Deserialize)]
struct BalanceView {
    posted: String,
    held: String,
}

impl AccountView {
    fn account(self) -> Result<Account> {
        let unfit = || misfit(&format!("account `{}` does not fit", self.id));
        let currency = Currency::parse(&self.currency).map_err(|_| unfit())?;
        Ok(Account {
            holds: AccountState {
                posted_minor: minor(&self.balance.posted, currency).ok_or_else(unfit)?,
                held_minor: minor(&self.balance.held, currency).ok_or_else(unfit)?,
                version: self.version,
                account_id: self.id,
            },
            currency,
            closed: self.state == "closed",
            of_wallet: self.code == WALLETS,
        })
    }
}

#[derive(Debug, Deserialize)]
struct AccountPage {
    data: Vec<AccountView>,
    next_cursor: Option<String>,
}

/// A page of accounts in the order of their ids, and the cursor of the next one.
///
/// # Errors
/// When the ledger does not say.
pub async fn accounts(cx: &Cx, cursor: Option<&str>) -> Result<(Vec<Account>, Option<String>)> {
    let after = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
    let path = format!("/v1/accounts?limit={PAGE_LIMIT_MAX}{after}");
    let page: AccountPage = ask(cx, Method::GET, &path, None).await?;
    let accounts = page.data.into_iter().map(AccountView::account);
    Ok((accounts.collect::<Result<_>>()?, page.next_cursor))
}

/// Minor units as a decimal string with all of the currency's digits.
pub fn decimal(minor: i64, currency: Currency) -> String {
    // A wallet is only opened in a currency with minor units.
    Money::new(minor, currency).map_or_else(|_| minor.to_string(), Money::to_decimal_string)
}
