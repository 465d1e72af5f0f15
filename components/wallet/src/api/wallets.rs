//! Opening wallets and reading them.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Failure, Result, amount,
    context::insufficient_scope,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{BalanceView, READ, WRITE, orders::who};
use crate::{
    ledger,
    limits::{LOOKUP_IDS_MAX, OWNER_BYTES_MAX},
    model::{State, Wallet},
    store,
};

/// A wallet to be opened.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    #[schema(example = "EUR")]
    currency: String,
    /// Whose it is; the caller's when absent. Someone else's only for admin and finance.
    owner: Option<String>,
}

/// A wallet.
#[derive(Debug, Serialize, ToSchema)]
pub struct WalletView {
    id: String,
    #[schema(example = "EUR")]
    currency: String,
    /// `active`, `frozen` or `closed`.
    #[schema(example = "active")]
    state: String,
    owner: String,
    /// Its account in the ledger.
    account_id: String,
    balance: BalanceView,
    created_at: String,
}

impl From<&Wallet> for WalletView {
    fn from(w: &Wallet) -> WalletView {
        WalletView {
            id: w.id.clone(),
            currency: w.currency.code().into(),
            state: w.state.as_str().into(),
            owner: w.owner.clone(),
            account_id: w.account_id.clone(),
            balance: w.into(),
            created_at: rfc3339(w.created_at),
        }
    }
}

/// Open a wallet.
#[utoipa::path(post, path = "/v1/wallets", tag = "wallets", request_body = CreateRequest,
    responses((status = 201, body = WalletView), (status = 400, description = "unsupported_currency")))]
pub async fn create(cx: Cx, body: Body<CreateRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let own = who(&cx)?;
    let owner = body.value.owner.as_deref().unwrap_or(own);
    if !(1..=OWNER_BYTES_MAX).contains(&owner.len()) {
        let what = format!("an owner is 1 to {OWNER_BYTES_MAX} bytes");
        return Err(Failure::new(Code::InvalidRequest, what).param("/owner"));
    }
    if owner != own {
        cx.require_actor_for(owner)?;
    }
    let currency = amount::currency(&body.value.currency, "/currency")?;
    let key = cx.idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let id = ids::new_id("wal");
    let wallet = Wallet {
        account_id: id.replacen("wal_", "acc_", 1),
        id,
        owner: owner.to_owned(),
        currency,
        state: State::Active,
        posted: 0,
        held: 0,
        account_version: 0,
        version: 1,
        created_at: ids::now_us(),
    };
    // The account first: a wallet without an account could not be paid, while an account whose
    // wallet was never written is empty and nobody knows its id.
    ledger::open_account(&cx, &wallet).await?;
    let mut batch = Batch::new();
    store::insert(&mut batch, &wallet);
    let answer = Answer::json(201, &WalletView::from(&wallet))?;
    Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
}

/// Whose wallets a list shows.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
pub struct OwnerQuery {
    /// Only this owner's; the caller's own when absent and the caller may not read everyone's.
    owner: Option<String>,
}

/// The caller's wallets; everyone's for those who may read them.
#[utoipa::path(get, path = "/v1/wallets", tag = "wallets", params(PageQuery, OwnerQuery),
    responses((status = 200, body = Page<WalletView>)))]
pub async fn list(
    cx: Cx,
    Query(page): Query<PageQuery>,
    Query(whose): Query<OwnerQuery>,
) -> Result<Answer> {
    let identity = cx.require(READ)?;
    // Nobody's subject is empty, so only those who read everyone's things pass.
    let reads_all = cx.require_reader_of("").is_ok() && !identity.sub.is_empty();
    let owner = match &whose.owner {
        Some(owner) => {
            cx.require_reader_of(owner)?;
            Some(owner.as_str())
        }
        None if reads_all => None,
        None => Some(identity.sub.as_str()),
    };
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let rows = store::list(&db, owner, &after, i64::from(limit) + 1).await?;
    let views = rows.iter().map(WalletView::from).collect();
    Answer::json(200, &Page::new(views, limit, |view: &WalletView| &view.id))
}

/// One wallet and what it holds.
#[utoipa::path(get, path = "/v1/wallets/{id}", tag = "wallets", params(("id" = String, Path)),
    responses((status = 200, body = WalletView), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let wallet = existing(&db, &id).await?;
    cx.require_reader_of(&wallet.owner)?;
    Answer::json(200, &WalletView::from(&wallet))
}

/// The wallet with this id.
///
/// # Errors
/// 404 `wallet_not_found`.
pub async fn existing(db: &Db, id: &str) -> Result<Wallet> {
    store::get(db, id).await?.ok_or_else(|| {
        Failure::new(
            Code::WalletNotFound,
            format!("wallet `{id}` does not exist"),
        )
    })
}

/// Which wallets a service asks for.
#[derive(Clone, Debug, Deserialize, IntoParams)]
pub struct LookupQuery {
    /// Wallet ids, separated by commas.
    ids: String,
}

/// What a payment must know of a wallet.
#[derive(Debug, Serialize, ToSchema)]
struct LookupView {
    id: String,
    owner: String,
    currency: String,
    state: String,
    account_id: String,
}

/// The wallets that exist of those asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lookup {
    data: Vec<LookupView>,
}

/// Wallets by id, for the payment service; those that do not exist are absent.
#[utoipa::path(get, path = "/v1/wallets/lookup", tag = "services", params(LookupQuery),
    responses((status = 200, body = Lookup)))]
pub async fn lookup(cx: Cx, Query(query): Query<LookupQuery>) -> Result<Answer> {
    // It shows owners whoever asks, so it is for the service that decides with them alone.
    if cx.claims().is_none_or(|c| c.caller != "payment") {
        return Err(insufficient_scope("service:payment"));
    }
    let ids: Vec<&str> = query.ids.split(',').filter(|id| !id.is_empty()).collect();
    if ids.len() > LOOKUP_IDS_MAX {
        let what = format!("{} ids, {LOOKUP_IDS_MAX} at most", ids.len());
        return Err(Failure::new(Code::InvalidRequest, what).param("ids"));
    }
    let db = Db::open().await?;
    let rows = store::lookup(&db, ids).await?;
    let data = rows
        .into_iter()
        .map(|w| LookupView {
            id: w.id,
            owner: w.owner,
            currency: w.currency.code().into(),
            state: w.state.as_str().into(),
            account_id: w.account_id,
        })
        .collect();
    Answer::json(200, &Lookup { data })
}
