//! Accounts and their statements.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Failure, Result, amount,
    batch::with_retries,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use innover_money::{Currency, Minor, Money};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    READ, invalid, line, metadata, name, time, trusted,
    views::{AccountView, StatementLine, TransferView, decimal},
    writer,
};
use crate::{
    limits::HOLDS_SHOWN_MAX,
    model::{Account, House, Opening, Side},
    store::{
        accounts::{self, AccountRow},
        entries, pending,
    },
};

/// An account to be opened.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// Its id, `acc_…`; opening the same id again answers the account. Made here when absent.
    id: Option<String>,
    /// Its place in the chart of accounts.
    #[schema(example = "wallet")]
    code: String,
    /// What people call it.
    #[serde(default)]
    name: String,
    #[schema(example = "EUR")]
    currency: String,
    /// The side on which it grows: `debit` or `credit`.
    #[schema(example = "credit")]
    normal_side: String,
    /// What the available balance never goes below, zero or less; null for no limit.
    #[schema(example = "0.00")]
    floor: Option<String>,
    /// Anything, up to 4 kB.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

impl OpenRequest {
    fn opening(&self) -> Result<Opening> {
        let currency = amount::currency(&self.currency, "/currency")?;
        let id = match &self.id {
            Some(id) if id.starts_with("acc_") => name(id, "/id")?.to_owned(),
            Some(_) => return Err(invalid("an account's id starts with `acc_`", "/id")),
            None => ids::new_id("acc"),
        };
        let normal_side = Side::parse(&self.normal_side)
            .ok_or_else(|| invalid("`debit` or `credit`", "/normal_side"))?;
        Ok(Opening {
            id: id.into(),
            code: name(&self.code, "/code")?.into(),
            name: line(&self.name, "/name")?.into(),
            currency,
            normal_side,
            floor: self
                .floor
                .as_deref()
                .map(|floor| floor_of(floor, currency))
                .transpose()?,
            metadata: metadata(&self.metadata)?,
        })
    }
}

/// A floor above zero would be broken from the start.
fn floor_of(text: &str, currency: Currency) -> Result<Minor> {
    let refused = |what: String| Failure::new(Code::InvalidAmount, what).param("/floor");
    let floor = Money::parse(text, currency).map_err(|e| refused(e.to_string()))?;
    if floor.is_positive() {
        return Err(refused("a floor is zero or below".into()));
    }
    Ok(Minor(floor.minor()))
}

/// Open an account.
///
/// Idempotent by its id. The first account in a currency opens the house's accounts in it too.
#[utoipa::path(post, path = "/v1/accounts", tag = "accounts", request_body = OpenRequest,
    responses((status = 201, body = AccountView), (status = 409, description = "The id is another account's")))]
pub async fn open(cx: Cx, body: Body<OpenRequest>) -> Result<Answer> {
    writer(&cx)?;
    let opening = body.value.opening()?;
    let key = cx.idempotency(&body.fields)?;
    with_retries(async || {
        let mut db = Db::open().await?;
        db.lock().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        if let Some(found) = accounts::find(&db, opening.id.as_str()).await? {
            return opened_before(&opening, &found);
        }
        let now = ids::now_us();
        let mut batch = Batch::new();
        let openings = with_house(&db, &opening).await?;
        let no = accounts::next_no(&db).await?;
        accounts::open(&mut batch, &openings, no, now);
        let account = Account::opened(&opening, no, now);
        let row = AccountRow {
            opening: opening.clone(),
            account,
            created_at: now,
        };
        let answer = Answer::json(201, &AccountView::from(&row))?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

/// The account and those of the house that its currency lacks.
async fn with_house(db: &Db, opening: &Opening) -> Result<Vec<Opening>> {
    let house = House::ALL.map(|account| account.opening(opening.currency));
    let there = accounts::book(db, house.iter().map(|o| &o.id)).await?;
    let missing = house
        .into_iter()
        .filter(|o| o.id != opening.id && there.account(&o.id).is_none());
    Ok(std::iter::once(opening.clone()).chain(missing).collect())
}

fn opened_before(asked: &Opening, found: &AccountRow) -> Result<Answer> {
    let differing = asked.differing(&found.opening);
    if differing.is_empty() {
        return Answer::json(201, &AccountView::from(found));
    }
    let differing = differing.join(", ");
    Err(Failure::new(
        Code::AlreadyExists,
        format!("account `{}` exists and differs in {differing}", asked.id),
    ))
}

/// The accounts, in the order of their ids.
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts", params(PageQuery),
    responses((status = 200, body = Page<AccountView>)))]
pub async fn list(cx: Cx, Query(page): Query<PageQuery>) -> Result<Answer> {
    // A service compares what it shows with all of them.
    if trusted(&cx).is_none() {
        cx.require(READ)?;
    }
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let rows = accounts::page(&db, &after, i64::from(limit) + 1).await?;
    let views = rows.iter().map(AccountView::from).collect();
    Answer::json(200, &Page::new(views, limit, |view: &AccountView| &view.id))
}

/// An account with its open reservations.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountWithHolds {
    #[serde(flatten)]
    account: AccountView,
    /// Transfers that are reserved on it, oldest first, the first 100.
    holds: Vec<TransferView>,
}

/// One account, what it holds, and what is reserved of it: one snapshot.
#[utoipa::path(get, path = "/v1/accounts/{id}", tag = "accounts", params(("id" = String, Path)),
    responses((status = 200, body = AccountWithHolds), (status = 404, description = "No such account")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let mut db = Db::open().await?;
    let mut row = existing(&db, &id).await?;
    let mut holds = Vec::new();
    if row.account.totals.has_pending() {
        // Two reads are two snapshots unless nothing can change in between.
        db.lock().await?;
        row = existing(&db, &id).await?;
        holds = pending::of_account(&db, row.account.no, HOLDS_SHOWN_MAX).await?;
    }
    let view = AccountWithHolds {
        account: AccountView::from(&row),
        holds: holds.iter().map(TransferView::current).collect(),
    };
    Answer::json(200, &view)
}

/// When.
#[derive(Clone, Debug, Deserialize, IntoParams)]
pub struct AtQuery {
    /// RFC 3339, e.g. `2026-10-31T23:59:59Z`; now when absent.
    at: Option<String>,
}

/// What an account had posted at a time.
#[derive(Debug, Serialize, ToSchema)]
struct BalanceAt {
    account: String,
    #[schema(example = "EUR")]
    currency: String,
    /// The time asked for.
    at: String,
    /// What was posted until then, that moment included, on the normal side.
    #[schema(example = "100.00")]
    posted: String,
    /// The number of the last posting it counts; 0 when there was none.
    number: i64,
}

/// What an account had posted at a time.
///
/// Reservations move nothing, so they are not part of a past balance.
#[utoipa::path(get, path = "/v1/accounts/{id}/balance", tag = "accounts",
    params(("id" = String, Path), AtQuery),
    responses((status = 200, body = BalanceAt), (status = 404, description = "No such account")))]
pub async fn balance(
    cx: Cx,
    Path(id): Path<String>,
    Query(query): Query<AtQuery>,
) -> Result<Answer> {
    cx.require(READ)?;
    let at = match &query.at {
        None => ids::now_us(),
        Some(text) => time(text, "at")?,
    };
    let db = Db::open().await?;
    let row = existing(&db, &id).await?;
    let (number, posted) = last_until(&db, row.account.no, row.account.postings, at).await?;
    Answer::json(
        200,
        &BalanceAt {
            account: id,
            currency: row.account.currency.code().into(),
            at: rfc3339(at),
            posted: decimal(posted, row.account.currency),
            number,
        },
    )
}

/// The number of an account's last posting until `at`, and the balance after it. Times of an account
/// never go back, so it is found by halving.
async fn last_until(db: &Db, account_no: i64, postings: i64, at: i64) -> Result<(i64, i64)> {
    let (mut low, mut high, mut posted) = (0, postings, 0);
    while low < high {
        let middle = low + (high - low + 1) / 2;
        match entries::posted_at(db, account_no, middle).await? {
            Some((made_at, balance)) if made_at <= at => (low, posted) = (middle, balance),
            _ => high = middle - 1,
        }
    }
    Ok((low, posted))
}

/// The account's postings, oldest first, each with the balance after it.
#[utoipa::path(get, path = "/v1/accounts/{id}/statement", tag = "accounts",
    params(("id" = String, Path), PageQuery),
    responses((status = 200, body = Page<StatementLine>), (status = 404, description = "No such account")))]
pub async fn statement(
    cx: Cx,
    Path(id): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Answer> {
    cx.require(READ)?;
    let limit = page.limit()?;
    let after = match page.after()?.as_str() {
        "" => 0,
        version => version.parse::<i64>().map_err(|_| {
            Failure::new(
                Code::InvalidCursor,
                "pass `next_cursor` of the page before unchanged",
            )
            .param("cursor")
        })?,
    };
    let db = Db::open().await?;
    existing(&db, &id).await?;
    let lines = entries::statement(&db, &id, after, i64::from(limit) + 1).await?;
    let views = lines.iter().map(StatementLine::from).collect();
    Answer::json(
        200,
        &Page::new(views, limit, |line: &StatementLine| &line.cursor),
    )
}

/// Close an account that holds nothing, with nothing reserved. It takes no more postings, for good.
#[utoipa::path(post, path = "/v1/accounts/{id}/close", tag = "accounts", params(("id" = String, Path)),
    responses((status = 200, body = AccountView), (status = 409, description = "It still holds something")))]
pub async fn close(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    writer(&cx)?;
    let key = cx.idempotency(&Map::new())?;
    with_retries(async || {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        db.lock().await?;
        let mut row = existing(&db, &id).await?;
        if row.account.closed {
            return Answer::json(200, &AccountView::from(&row));
        }
        // What is reserved on the other side would be posted to a closed account.
        if row.account.balance().posted != 0 || row.account.totals.has_pending() {
            let why = format!("account `{id}` still holds something; move it first");
            return Err(Failure::new(Code::InvalidState, why));
        }
        let mut batch = Batch::new();
        accounts::close(&mut batch, &row.account);
        batch.emit(innover_kit::Emit {
            kind: "ledger.account_closed",
            key: id.clone(),
            key_version: row.account.version,
            data: json!({"account_id": id}),
            cause: (&cx).into(),
        });
        row.account.closed = true;
        let answer = Answer::json(200, &AccountView::from(&row))?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

async fn existing(db: &Db, id: &str) -> Result<AccountRow> {
    accounts::find(db, id).await?.ok_or_else(|| {
        Failure::new(
            Code::AccountNotFound,
            format!("account `{id}` does not exist"),
        )
    })
}
