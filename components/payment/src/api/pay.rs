//! `POST /pay`: a payment in one line, `order_id=123&amount=100`, from the caller's defaults.

use http::Method;
use innover_kit::{
    Answer, Code, Cx, Db, Failure, FormOrJson, Result,
    amount::{self, Amount},
    call,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    PaymentView, WRITE,
    order::{self, Order},
};
use crate::store::{self, Defaults};

/// Characters of an order's id: it is the payment's reference.
const ORDER_ID_CHARS_MAX: usize = 140;
/// Wallets of one owner that are looked at: a page of the wallet service.
const WALLETS_MAX: usize = 200;
/// How to set what is missing.
const SET_DEFAULTS: &str = "or set it once with PUT /api/payment/v1/defaults";

/// An order to be paid.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PayRequest {
    /// The payment's reference, and its idempotency key: an order is paid once.
    #[schema(example = "123")]
    order_id: String,
    /// What leaves the payer's wallet, in major units.
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The caller's default, or the only wallet the caller has.
    #[serde(default)]
    payer_wallet: Option<String>,
    /// The caller's default.
    #[serde(default)]
    payee_wallet: Option<String>,
    /// The payer wallet's.
    #[serde(default)]
    currency: Option<String>,
    /// A quote to convert at.
    #[serde(default)]
    quote_id: Option<String>,
}

/// Pay an order, by form or JSON.
///
/// The order's id is the payment's reference and its idempotency key: the same order again gets the
/// same answer. Wallets and currency come from the caller's defaults when they are not named.
#[utoipa::path(post, path = "/pay", tag = "orders", servers((url = "/")),
    request_body(content((PayRequest = "application/x-www-form-urlencoded"),
                         (PayRequest = "application/json"))),
    responses((status = 202, description = "Taken on", body = PaymentView),
              (status = 400, description = "a wallet is neither named nor a default"),
              (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found"),
              (status = 422, description = "idempotency_key_reused: another payment has this order id")))]
pub(super) async fn pay(cx: Cx, FormOrJson(body): FormOrJson<PayRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let request = body.value;
    check_order_id(&request.order_id)?;
    let key = cx.idempotency_under(&request.order_id, &body.fields)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let defaults = store::defaults(&db, &order::caller(&cx)?).await?;
    let payee = payee(request.payee_wallet.as_ref(), &defaults)?;
    let payer = payer(&cx, &request, &defaults, &payee).await?;
    let (payer, payee) = order::wallets(&cx, &payer, &payee).await?;
    let currency = currency(&request, &defaults, &payer.currency);
    let money = amount::money(&request.amount, currency)?;
    let order = Order::new(payer, payee, money, request.order_id, request.quote_id)?;
    order::take_on(&cx, &mut db, &key, order).await
}

/// An order's id is an idempotency key and stands on statements.
pub(super) fn check_order_id(id: &str) -> Result<()> {
    let printable = id.bytes().all(|b| (0x20..0x7f).contains(&b));
    if (1..=ORDER_ID_CHARS_MAX).contains(&id.len()) && printable {
        return Ok(());
    }
    let what = format!("an order's id is 1 to {ORDER_ID_CHARS_MAX} printable ASCII characters");
    Err(Failure::new(Code::InvalidRequest, what).param("/order_id"))
}

/// Who is paid.
///
/// # Errors
/// 400 saying what to set.
pub(super) fn payee(named: Option<&String>, defaults: &Defaults) -> Result<String> {
    named
        .or(defaults.payee_wallet.as_ref())
        .cloned()
        .ok_or_else(|| {
            let what = format!("say who is paid by `payee_wallet`, {SET_DEFAULTS}");
            Failure::new(Code::InvalidRequest, what).param("/payee_wallet")
        })
}

async fn payer(cx: &Cx, request: &PayRequest, defaults: &Defaults, payee: &str) -> Result<String> {
    if let Some(named) = request
        .payer_wallet
        .as_ref()
        .or(defaults.payer_wallet.as_ref())
    {
        return Ok(named.clone());
    }
    let currency = request.currency.as_ref().or(defaults.currency.as_ref());
    let mut own = own_wallets(cx).await?;
    own.retain(|w| {
        w.state == "active" && w.id != payee && currency.is_none_or(|code| *code == w.currency)
    });
    if own.len() == 1 {
        return Ok(own.swap_remove(0).id);
    }
    let kind = currency.map_or_else(String::new, |code| format!(" in {code}"));
    let what = match own.len() {
        0 => format!(
            "you have no wallet{kind} to pay from; open one with POST /api/wallet/v1/wallets"
        ),
        several => format!(
            "you have {several} wallets{kind}: say which one pays by `payer_wallet`, {SET_DEFAULTS}"
        ),
    };
    Err(Failure::new(Code::InvalidRequest, what).param("/payer_wallet"))
}

/// A currency that is named holds. A default is for the default wallet: another wallet that is named
/// pays in its own.
fn currency<'a>(request: &'a PayRequest, defaults: &'a Defaults, payers: &'a str) -> &'a str {
    match (&request.currency, &request.payer_wallet, &defaults.currency) {
        (Some(named), _, _) => named,
        (None, None, Some(default)) => default,
        _ => payers,
    }
}

/// A wallet of the caller's, as its owner sees it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct OwnWallet {
    pub id: String,
    pub currency: String,
    pub state: String,
    pub balance: Balance,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Balance {
    /// Decimal string.
    pub available: String,
}

#[derive(Deserialize)]
struct OwnWallets {
    data: Vec<OwnWallet>,
}

/// The caller's wallets, oldest first.
pub(super) async fn own_wallets(cx: &Cx) -> Result<Vec<OwnWallet>> {
    let owner = order::caller(cx)?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("owner", &owner)
        .append_pair("limit", &WALLETS_MAX.to_string())
        .finish();
    let path = format!("/v1/wallets?{query}");
    let found: OwnWallets = call::json(cx, Method::GET, "wallet", &path, None::<&()>, true).await?;
    Ok(found.data)
}
