//! Money enters a wallet from the house's cash.

use axum::extract::Path;
use http::Method;
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result,
    amount::{self, Amount},
    call, idempotency,
    idempotency::IdempotencyKey,
    ids,
};
use innover_money::Money;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{BalanceView, wallets::existing};
use crate::{
    events,
    model::{AccountState, TopUpError, Wallet},
    store::{self, TopUp},
};

/// Money that enters a wallet.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequest {
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The wallet's currency.
    #[schema(example = "EUR")]
    currency: String,
}

/// A top-up that was booked.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopUpView {
    id: String,
    wallet_id: String,
    /// The journal entry.
    entry_id: String,
    amount: String,
    currency: String,
    /// What the wallet held after it.
    balance: BalanceView,
}

/// The ledger's answer to an entry, as far as it is read here.
#[derive(Clone, Debug, Deserialize)]
struct Booked {
    id: String,
    balances: Vec<BookedBalance>,
}

#[derive(Clone, Debug, Deserialize)]
struct BookedBalance {
    account: String,
    posted: String,
    held: String,
    version: i64,
}

impl Booked {
    /// What it says of the wallet's account.
    fn account(&self, wallet: &Wallet) -> Result<AccountState> {
        let minor = |text: &str| Money::parse(text, wallet.currency).ok().map(Money::minor);
        self.balances
            .iter()
            .find(|b| b.account == wallet.account_id)
            .and_then(|b| {
                Some(AccountState {
                    account_id: b.account.clone(),
                    posted_minor: minor(&b.posted)?,
                    held_minor: minor(&b.held)?,
                    version: b.version,
                })
            })
            .ok_or_else(|| {
                Failure::new(Code::UpstreamError, "`ledger`: its answer lacks the wallet's balance")
            })
    }
}

/// Top up a wallet.
///
/// The ledger books it first, under an id that follows from the Idempotency-Key; a retry after a
/// crash in between finds that entry and only writes what is missing here.
#[utoipa::path(post, path = "/v1/wallets/{id}/top-ups", tag = "top-ups", request_body = TopUpRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this top-up")),
    responses((status = 201, body = TopUpView), (status = 404, description = "wallet_not_found"),
              (status = 422, description = "currency_mismatch or wallet_not_active")))]
pub async fn create(cx: Cx, Path(id): Path<String>, body: Body<TopUpRequest>) -> Result<Answer> {
    let identity = cx.require("ledger:write")?;
    let who = if identity.sub.is_empty() { &identity.client_id } else { &identity.sub };
    let key = cx.require_idempotency(&body.fields)?;
    let money = amount::money(&body.value.amount, &body.value.currency)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let wallet = existing(&db, &id).await?;
    wallet.may_take(money).map_err(refused)?;
    let top_up_id = top_up_id(&cx, who, &wallet.id);
    let booked = book(&cx, &wallet, &top_up_id, money).await?;
    let top_up = TopUp {
        id: top_up_id,
        wallet_id: wallet.id.clone(),
        entry_id: booked.id.clone(),
        amount: money.minor(),
        created_by: who.clone(),
        created_at: ids::now_us(),
    };
    let account = booked.account(&wallet)?;
    settle(&mut db, &key, wallet, &top_up, &account, Cause::from(&cx)).await
}

fn refused(error: TopUpError) -> Failure {
    match error {
        TopUpError::NotActive(state) => {
            Failure::new(Code::WalletNotActive, format!("the wallet is {}", state.as_str()))
        }
        TopUpError::CurrencyMismatch(currency) => {
            Failure::new(Code::CurrencyMismatch, format!("the wallet is in {currency}"))
                .param("/currency")
        }
    }
}

/// The same key of the same caller for the same wallet is the same top-up, also for a process that
/// knows nothing of the first attempt.
fn top_up_id(cx: &Cx, who: &str, wallet_id: &str) -> String {
    let key = Cause::from(cx).idempotency_key.unwrap_or_default();
    let mut digest = Sha256::new();
    for part in [who, wallet_id, &key] {
        // Length-prefixed, so that no two run together.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let hex: String = digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("top_{hex}")
}

async fn book(cx: &Cx, wallet: &Wallet, top_up_id: &str, money: Money) -> Result<Booked> {
    let posting = |account: String, direction: &str| {
        json!({
            "account": account,
            "direction": direction,
            "amount": money.to_decimal_string(),
            "currency": money.currency(),
        })
    };
    let entry = json!({
        "kind": "top_up",
        "reference": wallet.id,
        "external_id": top_up_id,
        "postings": [
            posting(format!("acc_house_cash_{}", money.currency()), "debit"),
            posting(wallet.account_id.clone(), "credit"),
        ],
    });
    // Safe to repeat: the ledger books an external_id once.
    call::json(cx, Method::POST, "ledger", "/v1/entries", Some(&entry), true).await
}

/// Writes what the ledger booked: the top-up, the new balance unless a later one is known already,
/// and the event when it was news.
async fn settle(
    db: &mut Db,
    key: &IdempotencyKey,
    mut wallet: Wallet,
    top_up: &TopUp,
    account: &AccountState,
    cause: Cause,
) -> Result<Answer> {
    let news = wallet.follow(account);
    let mut batch = Batch::new();
    store::insert_top_up(&mut batch, top_up);
    if news {
        store::follow(&mut batch, [&wallet]);
        let wallets = std::slice::from_ref(&wallet);
        batch.emit(events::updated(&top_up.entry_id, None, wallets, cause));
    }
    let after = Wallet { posted: account.posted_minor, held: account.held_minor, ..wallet };
    let answer = Answer::json(
        201,
        &TopUpView {
            id: top_up.id.clone(),
            wallet_id: after.id.clone(),
            entry_id: top_up.entry_id.clone(),
            amount: super::decimal(top_up.amount, after.currency),
            currency: after.currency.code().into(),
            balance: BalanceView::from(&after),
        },
    )?;
    Ok(idempotency::commit(db, batch, Some(key), answer).await?)
}
