//! What top-ups, transfers, withdrawals and holds share: each is recorded, asked of the ledger, and
//! recorded again with the ledger's answer.
//!
//! The first record takes what it needs of the owner's limit, in the same batch. It has an id that
//! follows from the caller, the wallet and the Idempotency-Key, and the ledger knows the movement by
//! it; so a retry after a crash in between finds the record, hears from the ledger what became of it,
//! and writes what is missing. A movement nobody retries is settled by `wallet.sweep`.

use innover_kit::{
    Answer, Batch, Cause, Code, Cx, Db, Failure, Result,
    amount::Amount,
    batch::with_retries,
    idempotency::{self, IdempotencyKey},
    ids,
};
use innover_money::{Currency, Money};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{BalanceView, allowance::Allowance, wallets::existing};
use crate::{
    events::{self, Of},
    ledger::{self, Accounts, Transfer, Verdict},
    limits::TEXT_CHARS_MAX,
    model::{
        OrderError, Projection, Wallet, limits,
        movement::{Kind, Movement, State, TIMED_OUT},
    },
    store::{
        self,
        movements::{self, Changes},
    },
};

/// Money to be moved, checked as far as that goes without looking at what was done before.
pub struct Order {
    /// What it is.
    pub kind: Kind,
    /// The wallet it is asked of.
    pub wallet: Wallet,
    /// The payee's; `None` for the house.
    pub other: Option<Wallet>,
    /// How much.
    pub money: Money,
    /// What it is for.
    pub reference: String,
    /// How long a hold is held.
    pub expires_in_s: Option<i64>,
    /// Whether it counts toward the owner's limit.
    pub limited: bool,
}

/// A movement that was booked.
#[derive(Debug, Serialize, ToSchema)]
pub struct MovementView {
    id: String,
    /// `top_up`, `transfer` or `withdrawal`.
    kind: &'static str,
    /// The wallet it was asked of.
    wallet_id: String,
    /// The payee's wallet; null when the other side is the house.
    to_wallet: Option<String>,
    /// The journal entry.
    entry_id: Option<String>,
    #[schema(example = "100.00")]
    amount: String,
    #[schema(example = "EUR")]
    currency: String,
    reference: String,
    /// What the wallet held after it.
    balance: BalanceView,
}

/// A line of text.
///
/// # Errors
/// 400 when it is longer than a line of a statement.
pub fn line(text: &str, param: &str) -> Result<String> {
    if text.chars().count() <= TEXT_CHARS_MAX && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    let what = format!("one line of at most {TEXT_CHARS_MAX} characters");
    Err(Failure::new(Code::InvalidRequest, what).param(param))
}

/// The money of a request.
///
/// # Errors
/// 400, naming the field.
pub fn money(amount: &Amount, currency: &str) -> Result<Money> {
    innover_kit::amount::money(amount, currency)
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Failure {
        match error {
            OrderError::NotActive { wallet_id, state } => Failure::new(
                Code::WalletNotActive,
                format!("wallet `{wallet_id}` is {}", state.as_str()),
            ),
            OrderError::CurrencyMismatch(currency) => Failure::new(
                Code::CurrencyMismatch,
                format!("the wallet is in {currency}"),
            )
            .param("/currency"),
            OrderError::Conversion { from, to } => Failure::new(
                Code::CurrencyMismatch,
                format!(
                    "the wallets are in {from} and {to}; make a payment, which converts: POST /api/payment/v1/process"
                ),
            )
            .param("/to_wallet"),
            OrderError::SameWallet => Failure::new(
                Code::InvalidRequest,
                "payer and payee are the same wallet; name another one",
            )
            .param("/to_wallet"),
        }
    }
}

/// Who asks.
///
/// # Errors
/// 401 without a token.
pub fn who(cx: &Cx) -> Result<&str> {
    let identity = cx.identity()?;
    Ok(if identity.sub.is_empty() {
        &identity.client_id
    } else {
        &identity.sub
    })
}

/// An id that is the same for the same caller, thing and Idempotency-Key, also in a process that
/// knows nothing of the first attempt.
///
/// # Errors
/// 401 without a token.
pub fn id_of(cx: &Cx, prefix: &str, thing: &str) -> Result<String> {
    let key = Cause::from(cx).idempotency_key.unwrap_or_default();
    let mut digest = Sha256::new();
    for part in [who(cx)?, thing, &key] {
        // Length-prefixed, so that no two run together.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let hex: String = digest.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("{prefix}_{hex}"))
}

/// Whether the caller moves its own money, whose limits count. The house moves others' without.
///
/// # Errors
/// 401 without a token.
pub fn is_limited(cx: &Cx, wallet: &Wallet) -> Result<bool> {
    Ok(!cx.acts_for_house()? || cx.identity()?.sub == wallet.owner)
}

/// Records the order, asks the ledger, and answers with what came of it.
///
/// # Errors
/// The rule that says no, or that it is not known what came of it: ask again with the same key.
pub async fn carry_out(cx: &Cx, key: &IdempotencyKey, order: &Order) -> Result<Answer> {
    let asked = order.movement(cx)?;
    let movement = match request(cx, key, order, &asked).await? {
        Recorded::Movement(movement) => movement,
        Recorded::Answer(answer) => return Ok(answer),
    };
    let verdict = match movement.state {
        // The connection is given back before the ledger is waited for.
        State::Requested => {
            let accounts = Accounts::of(order.kind, &order.wallet, order.other.as_ref());
            Some(ledger::book(cx, &movement, &accounts).await?)
        }
        _ => None,
    };
    with_retries(async || conclude(cx, key, &movement.id, verdict.as_ref()).await).await
}

impl Order {
    fn movement(&self, cx: &Cx) -> Result<Movement> {
        let now = ids::now_us();
        Ok(Movement {
            id: id_of(cx, self.kind.prefix(), &self.wallet.id)?,
            place: ids::new_uuid(),
            kind: self.kind,
            state: State::Requested,
            version: 1,
            wallet_id: self.wallet.id.clone(),
            other_wallet: self.other.as_ref().map(|w| w.id.clone()),
            owner: self.wallet.owner.clone(),
            amount: self.money.minor(),
            moved: 0,
            currency: self.wallet.currency,
            reference: self.reference.clone(),
            entry_id: None,
            code: String::new(),
            detail: String::new(),
            allowance: 0,
            day: limits::day(now),
            expires_in_s: self.expires_in_s,
            expires_at: None,
            claim: None,
            created_by: who(cx)?.to_owned(),
            created_at: now,
            updated_at: now,
        })
    }

    fn wallets(&self) -> impl Iterator<Item = &Wallet> {
        std::iter::once(&self.wallet).chain(self.other.as_ref())
    }
}

enum Recorded {
    /// The movement as it is recorded: requested, or further already.
    Movement(Box<Movement>),
    /// It was refused before the ledger was asked.
    Answer(Answer),
}

/// Records what the ledger will be asked for, once per key.
async fn request(
    cx: &Cx,
    key: &IdempotencyKey,
    order: &Order,
    asked: &Movement,
) -> Result<Recorded> {
    let known = movements::get(&Db::open().await?, &asked.id).await?;
    let allowance = match known {
        Some(_) => None,
        // Before any connection is held: it may have to ask for a rate.
        None if order.limited => Some(Allowance::of(cx, order.money).await?),
        None => None,
    };
    with_retries(async || {
        let mut db = Db::open().await?;
        if let Some(before) = movements::get(&db, &asked.id).await? {
            return again(&mut db, asked, before).await;
        }
        for wallet in order.wallets() {
            existing(&db, &wallet.id).await?.active()?;
        }
        let mut movement = asked.clone();
        let mut batch = Batch::new();
        if let Some(allowance) = &allowance {
            match allowance.take(&db, &mut movement).await? {
                Ok(ceiling) => movements::take_allowance(&mut batch, &movement, ceiling),
                Err(refusal) => return refuse(cx, &mut db, key, movement, refusal).await,
            }
        }
        movements::insert(&mut batch, &movement);
        store::while_active(&mut batch, order.wallets().map(|w| w.id.as_str()));
        batch.commit(&mut db).await?;
        Ok(Recorded::Movement(movement.into()))
    })
    .await
}

/// The movement of an earlier attempt with this key. When the ledger is to be asked again, that is
/// recorded first, so that the sweep does not give it up meanwhile.
async fn again(db: &mut Db, asked: &Movement, before: Movement) -> Result<Recorded> {
    let differing = before.differing(asked);
    if !differing.is_empty() {
        let mut failure = Failure::new(
            Code::IdempotencyKeyReused,
            format!(
                "this key was used for a request that differs in {}; use a new key for a new request",
                differing.join(", ")
            ),
        );
        failure.0.differing_fields = differing.into_iter().map(str::to_owned).collect();
        return Err(failure);
    }
    if before.state != State::Requested {
        return Ok(Recorded::Movement(before.into()));
    }
    let mut changes = Changes::default();
    changes.change(&before, &before, &Cause::default());
    changes.finish().commit(db).await?;
    Ok(Recorded::Movement(before.into()))
}

/// The refused movement is recorded with the answer: twins meet at its id, so that one of them cannot
/// be told "limit exceeded" by what the other has just taken.
async fn refuse(
    cx: &Cx,
    db: &mut Db,
    key: &IdempotencyKey,
    mut movement: Movement,
    refusal: Failure,
) -> Result<Recorded> {
    movement.refuse(&refusal.0.code, &refusal.0.detail);
    let mut batch = Batch::new();
    movements::insert(&mut batch, &movement);
    let answer = idempotency::commit(db, batch, Some(key), stored(cx, refusal)?).await?;
    Ok(Recorded::Answer(answer))
}

/// A refusal as it is kept: a decision is final for its key.
///
/// # Errors
/// 500 when it cannot be written as JSON.
pub fn stored(cx: &Cx, Failure(mut problem): Failure) -> Result<Answer> {
    problem.instance = Some(cx.path().to_owned());
    problem.request_id = Some(cx.request_id().to_owned());
    Answer::json(problem.status, &problem)
}

/// Writes what the ledger said: the movement, the balances unless later ones are known, the event
/// when they were news, and the answer.
async fn conclude(
    cx: &Cx,
    key: &IdempotencyKey,
    id: &str,
    verdict: Option<&Verdict>,
) -> Result<Answer> {
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let before = recorded(&db, id).await?;
    let wallet = existing(&db, &before.wallet_id).await?;
    let cause = Cause::from(cx);
    let mut after = before.clone();
    let mut balance = wallet.clone();
    let mut batch = match verdict {
        Some(Verdict::Stands(transfer)) => {
            let news = after.follow(&transfer.told(&after)?);
            let told = transfer.accounts(wallet.currency);
            if let Some(account) = told.iter().find(|a| a.account_id == wallet.account_id) {
                balance.posted = account.posted_minor;
                balance.held = account.held_minor;
            }
            let mut batch = changed(news, &before, &after, &cause);
            project(&db, &mut batch, id, transfer, wallet.currency, cause).await?;
            batch
        }
        Some(Verdict::Refused(failure)) => {
            let news = after.refuse(&failure.0.code, &failure.0.detail);
            changed(news, &before, &after, &cause)
        }
        None => Batch::new(),
    };
    let answer = answer(cx, &after, &balance)?;
    key.record(&mut batch, &answer);
    match batch.commit(&mut db).await {
        Ok(()) => Ok(answer),
        Err(error) => match key.replay(&db).await? {
            Some(twin) => Ok(twin),
            None => Err(error.into()),
        },
    }
}

fn changed(news: bool, before: &Movement, after: &Movement, cause: &Cause) -> Batch {
    let mut changes = Changes::default();
    if news {
        changes.change(before, after, cause);
    }
    changes.finish()
}

/// Moves the projections of all wallets a transfer names to what the ledger said of them.
///
/// # Errors
/// When the database fails.
pub async fn project(
    db: &Db,
    batch: &mut Batch,
    transfer_id: &str,
    transfer: &Transfer,
    currency: Currency,
    cause: Cause,
) -> Result<()> {
    let told = transfer.accounts(currency);
    let wallets = store::of_accounts(db, told.iter().map(|a| a.account_id.as_str())).await?;
    let mut projection = Projection::new(wallets);
    let touched = projection.follow(&told);
    if touched.moved {
        store::follow(batch, projection.moved());
        let of = Of {
            entry_id: transfer.entry_id(),
            transfer_id: Some(transfer_id),
            payment_id: None,
        };
        batch.emit(events::updated(of, &touched.wallets, cause));
    }
    Ok(())
}

async fn recorded(db: &Db, id: &str) -> Result<Movement> {
    movements::get(db, id)
        .await?
        .ok_or_else(|| Failure::new(Code::Internal, "a recorded movement is gone"))
}

/// What the caller is told of a movement whose outcome is known.
fn answer(cx: &Cx, m: &Movement, wallet: &Wallet) -> Result<Answer> {
    match m.state {
        State::Refused => stored(cx, refusal(m)),
        _ if m.kind == Kind::Hold => Answer::json(201, &super::holds::HoldView::from(m)),
        _ => Answer::json(
            201,
            &MovementView {
                id: m.id.clone(),
                kind: m.kind.as_str(),
                wallet_id: m.wallet_id.clone(),
                to_wallet: m.other_wallet.clone(),
                entry_id: m.entry_id.clone(),
                amount: ledger::decimal(m.amount, m.currency),
                currency: m.currency.code().into(),
                reference: m.reference.clone(),
                balance: wallet.into(),
            },
        ),
    }
}

fn refusal(m: &Movement) -> Failure {
    if m.code == TIMED_OUT {
        return Failure::new(Code::InvalidState, m.detail.clone());
    }
    let code = Code::parse(&m.code).unwrap_or(Code::Conflict);
    Failure::new(code, m.detail.clone())
}
