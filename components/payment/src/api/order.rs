//! A payment somebody wants made: its wallets, what the rules say of it, and its first state.

use http::Method;
use innover_kit::{
    Answer, Cause, Code, Cx, Db, Failure, Result, call,
    idempotency::{self, IdempotencyKey},
    ids,
};
use innover_money::Money;
use serde::Deserialize;

use super::PaymentView;
use crate::{
    jobs,
    model::Decision,
    rules::{self, Facts},
    store::{Payment, Writer},
};

/// Characters of a reference: what a bank statement carries (ISO 20022 unstructured remittance).
const REFERENCE_CHARS_MAX: usize = 140;
/// Bytes of an id: a prefix and 32 hex digits, with room.
const ID_BYTES_MAX: usize = 64;

/// A wallet as the wallet service tells other services.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Wallet {
    pub id: String,
    pub owner: String,
    pub currency: String,
    state: String,
    account_id: String,
}

#[derive(Deserialize)]
struct Wallets {
    data: Vec<Wallet>,
}

/// A payment to be made, checked: both wallets are active, the amount is in the payer's currency.
#[derive(Clone, Debug)]
pub(super) struct Order {
    payer: Wallet,
    payee: Wallet,
    money: Money,
    reference: String,
    quote_id: Option<String>,
}

impl Order {
    /// # Errors
    /// `wallet_not_active`, `currency_mismatch`, `quote_not_found` for what cannot be an id.
    pub fn new(
        payer: Wallet,
        payee: Wallet,
        money: Money,
        reference: String,
        quote_id: Option<String>,
    ) -> Result<Order> {
        for (wallet, param) in [(&payer, "/payer_wallet"), (&payee, "/payee_wallet")] {
            check_active(wallet, param)?;
        }
        if payer.currency != money.currency().code() {
            let what = format!(
                "the payer's wallet holds {}; give the amount in {}",
                payer.currency, payer.currency
            );
            return Err(Failure::new(Code::CurrencyMismatch, what).param("/currency"));
        }
        if let Some(id) = &quote_id
            && !is_id(id, "quo_")
        {
            let what = "there is no quote with this id";
            return Err(Failure::new(Code::QuoteNotFound, what).param("/quote_id"));
        }
        Ok(Order {
            payer,
            payee,
            money,
            reference,
            quote_id,
        })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            payment_id: None,
            money: self.money,
            target_currency: &self.payee.currency,
            cross_currency: self.payer.currency != self.payee.currency,
            payer_owner: &self.payer.owner,
            payee_owner: &self.payee.owner,
        }
    }

    /// The payment, in the state the rules put it.
    pub fn payment(self, cx: &Cx, decision: &Decision, cause: &Cause) -> Result<Payment> {
        let now = ids::now_us();
        Ok(Payment {
            id: ids::new_id("pay"),
            state: decision.first_state(),
            version: 1,
            payer_wallet: self.payer.id,
            payee_wallet: self.payee.id,
            payer_owner: self.payer.owner,
            payee_owner: self.payee.owner,
            payer_account: self.payer.account_id,
            payee_account: self.payee.account_id,
            source_minor: self.money.minor(),
            source_currency: self.payer.currency,
            target_minor: None,
            target_currency: self.payee.currency,
            margin_minor: None,
            rate: None,
            rate_date: None,
            exact: None,
            entry_id: None,
            quote_id: self.quote_id,
            reference: self.reference,
            reason_codes: decision.reason_codes.clone(),
            reason_detail: String::new(),
            rules_version: decision.version,
            traceparent: cause.traceparent.clone().unwrap_or_default(),
            correlation_id: cause.correlation_id.clone().unwrap_or_default(),
            created_by: caller(cx)?,
            withdrawn_by: None,
            created_at: now,
            updated_at: now,
        })
    }
}

/// What has become of the wallets of a payment that waited. The failure is `wallet_not_active`.
pub enum Standing {
    Active,
    /// Until somebody unfreezes it.
    Frozen(Failure),
    /// For good.
    Closed(Failure),
}

/// Whether both wallets of a payment that waited may still give and take: one may have been frozen or
/// closed meanwhile.
///
/// # Errors
/// Of the call.
pub async fn standing(cx: &Cx, payment: &Payment) -> Result<Standing> {
    let wanted = [
        (payment.payer_wallet.as_str(), "/payer_wallet"),
        (payment.payee_wallet.as_str(), "/payee_wallet"),
    ];
    let found = lookup(cx, &wanted).await?;
    let mut standing = Standing::Active;
    for (wallet, (_, param)) in found.iter().zip(wanted) {
        match check_active(wallet, param) {
            Ok(()) => {}
            Err(failure) if wallet.state == "closed" => return Ok(Standing::Closed(failure)),
            Err(failure) => standing = Standing::Frozen(failure),
        }
    }
    Ok(standing)
}

pub(super) fn check_active(wallet: &Wallet, param: &str) -> Result<()> {
    if wallet.state == "active" {
        return Ok(());
    }
    let what = format!("the wallet `{}` is {}", wallet.id, wallet.state);
    Err(Failure::new(Code::WalletNotActive, what).param(param))
}

/// Who is asking: a person, or a client whose token has no subject.
pub(super) fn caller(cx: &Cx) -> Result<String> {
    let who = cx.identity()?;
    Ok(if who.sub.is_empty() {
        who.client_id.clone()
    } else {
        who.sub.clone()
    })
}

/// Asks the rules about an order, stores it in the state they put it, and answers 202.
pub(super) async fn take_on(
    cx: &Cx,
    db: &mut Db,
    key: &IdempotencyKey,
    order: Order,
) -> Result<Answer> {
    let decision = rules::decide(cx, &order.facts()).await;
    let cause = Cause::from(cx);
    let payment = order.payment(cx, &decision, &cause)?;
    let mut writer = Writer::default();
    let worth = decision.amount_eur_minor;
    insert(&mut writer, &payment, &decision, worth, &cause);
    if payment.awaits_rules() {
        jobs::ask_rules_later(&mut writer.batch, &payment.id, cause);
    }
    let answer = Answer::json(202, &PaymentView::from(&payment))?;
    Ok(idempotency::commit(db, writer.finish(), Some(key), answer).await?)
}

/// Adds a new payment, what was decided on it and what it is worth in euro cents, which is less than
/// was decided on where it is one leg of several.
pub(super) fn insert(
    writer: &mut Writer,
    payment: &Payment,
    decision: &Decision,
    amount_eur_minor: Option<i64>,
    cause: &Cause,
) {
    writer.note_decision(&payment.id, decision, cause);
    writer.insert(payment, amount_eur_minor, cause);
}

/// Refuses what cannot stand on a statement.
pub(super) fn check_reference(reference: &str, param: &str) -> Result<()> {
    let chars = reference.chars().count();
    if chars > REFERENCE_CHARS_MAX || reference.chars().any(char::is_control) {
        let what = format!("at most {REFERENCE_CHARS_MAX} characters, no control characters");
        return Err(Failure::new(Code::InvalidRequest, what).param(param));
    }
    Ok(())
}

/// Whether a text could be an id: it becomes a part of a path.
fn is_id(id: &str, prefix: &str) -> bool {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    id.starts_with(prefix) && id.len() <= ID_BYTES_MAX && plain
}

fn no_wallet(id: &str, param: &str) -> Failure {
    let shown: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
    Failure::new(
        Code::WalletNotFound,
        format!("there is no wallet `{shown}`"),
    )
    .param(param)
}

/// Both wallets of a payment; the payer's is the caller's, or the caller acts for the house.
pub(super) async fn wallets(cx: &Cx, payer: &str, payee: &str) -> Result<(Wallet, Wallet)> {
    if payer == payee {
        let what = "payer and payee are the same wallet";
        return Err(Failure::new(Code::InvalidRequest, what).param("/payee_wallet"));
    }
    let wanted = [(payer, "/payer_wallet"), (payee, "/payee_wallet")];
    let mut found = lookup(cx, &wanted).await?.into_iter();
    match (found.next(), found.next()) {
        (Some(payer), Some(payee)) => {
            cx.require_actor_for(&payer.owner)?;
            Ok((payer, payee))
        }
        _ => Err(no_wallet(payer, "/payer_wallet")),
    }
}

/// The wallets with these ids, in this order; each comes with the field that names it.
pub(super) async fn lookup(cx: &Cx, wanted: &[(&str, &str)]) -> Result<Vec<Wallet>> {
    for (id, param) in wanted {
        if !is_id(id, "wal_") {
            return Err(no_wallet(id, param));
        }
    }
    let ids: Vec<&str> = wanted.iter().map(|(id, _)| *id).collect();
    let path = format!("/v1/wallets/lookup?ids={}", ids.join(","));
    let found: Wallets = call::json(cx, Method::GET, "wallet", &path, None::<&()>, true).await?;
    wanted
        .iter()
        .map(|(id, param)| {
            let wallet = found.data.iter().find(|w| w.id == *id);
            wallet.cloned().ok_or_else(|| no_wallet(id, param))
        })
        .collect()
}
