//! `POST /pay-dynamic`: the amount that is to arrive is given, the way there is chosen.

use http::Method;
use innover_kit::{
    Answer, Cause, Code, Cx, Db, Failure, FormOrJson, Result,
    amount::{self, Amount},
    call,
    idempotency::{self, IdempotencyKey},
};
use innover_money::{Currency, Money, Rate};
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    MoneyView, PaymentView, WRITE,
    order::{self, Order, Wallet},
    pay::{self, OwnWallet},
};
use crate::{
    jobs,
    model::{Decision, Outcome, State},
    route::{self, Kind, Leg, Part, Price, Purse, Route},
    rules::{self, Facts},
    store::{self, Defaults, Payment, Writer},
};

/// Wallets in other currencies that are priced: each takes up to two calls of the ten seconds a
/// request has, and no split uses more.
const PRICED_MAX: usize = route::LEGS_MAX;

/// An order to be paid the cheapest way.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DynamicRequest {
    /// The payments' reference, and their idempotency key.
    #[schema(example = "123")]
    order_id: String,
    /// What arrives, in major units of the payee's currency.
    #[schema(value_type = Amount)]
    amount: Amount,
    /// Only this wallet pays; any of the caller's when absent.
    #[serde(default)]
    payer_wallet: Option<String>,
    /// The caller's default.
    #[serde(default)]
    payee_wallet: Option<String>,
    /// The payee wallet's, which is what the amount is in.
    #[serde(default)]
    currency: Option<String>,
}

/// One wallet's part.
#[derive(Debug, Serialize, ToSchema)]
struct LegView {
    payer_wallet: String,
    /// What leaves the wallet.
    source: MoneyView,
    /// What arrives of it.
    target: MoneyView,
    /// The house's margin; null without a conversion.
    margin: Option<MoneyView>,
    /// Margin and rounding against the mid rate, in the payee's currency, rounded up.
    cost: MoneyView,
    /// The quote it is converted at; null without a conversion, and under review.
    quote_id: Option<String>,
    payment_id: String,
}

/// A kind of route that was not taken.
#[derive(Debug, Serialize, ToSchema)]
struct OtherView {
    #[schema(value_type = String)]
    route: Kind,
    legs: usize,
    cost: MoneyView,
}

/// The way that was chosen, and its payments.
#[derive(Debug, Serialize, ToSchema)]
struct DynamicView {
    order_id: String,
    /// The state all payments start in: `initiated`, `review` or `declined`.
    #[schema(value_type = String)]
    state: State,
    /// `same_currency`, `conversion` or `split`.
    #[schema(value_type = String)]
    route: Kind,
    /// Why this route.
    why: String,
    /// What arrives.
    amount: MoneyView,
    /// What all legs cost.
    cost: MoneyView,
    legs: Vec<LegView>,
    /// The best of each other kind of route that would have been possible.
    others: Vec<OtherView>,
    /// What becomes of the others when one leg fails; null where there is one.
    if_a_leg_fails: Option<&'static str>,
    payments: Vec<PaymentView>,
}

const IF_A_LEG_FAILS: &str = "the legs were accepted together, and from here each is a payment of \
    its own: when one fails nothing of it is booked, the others stay as they are, and what is \
    missing can be paid under another order id or the others be refunded";

/// Pay an order the cheapest way, by form or JSON.
///
/// The amount is what arrives. It is paid from a wallet in the payee's currency, by a conversion, or
/// split over several of the caller's wallets, whichever costs least (margin and rounding); the
/// answer says which and why. A split is accepted whole or not at all.
#[utoipa::path(post, path = "/pay-dynamic", tag = "orders", servers((url = "/")),
    request_body(content((DynamicRequest = "application/x-www-form-urlencoded"),
                         (DynamicRequest = "application/json"))),
    responses((status = 202, description = "Taken on", body = DynamicView),
              (status = 400, description = "the payee is neither named nor a default"),
              (status = 422, description = "insufficient_funds, currency_mismatch, rates_stale")))]
pub(super) async fn pay_dynamic(
    cx: Cx,
    FormOrJson(body): FormOrJson<DynamicRequest>,
) -> Result<Answer> {
    cx.require(WRITE)?;
    let request = body.value;
    pay::check_order_id(&request.order_id)?;
    let key = cx.idempotency_under(&request.order_id, &body.fields)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let defaults = store::defaults(&db, &order::caller(&cx)?).await?;
    let payee = payee(&cx, &request, &defaults).await?;
    let amount = amount::money(&request.amount, &payee.currency)?;
    let own = payers(&cx, &request, &payee).await?;
    let market = Market::ask(&cx, &own, amount).await?;
    let routes = market.routes(&cx, amount).await?;
    let Some((chosen, others)) = route::choose(routes) else {
        let refusal = market.refusal(amount);
        // Rates that are too old are not so for good: the same order may be paid when there are others.
        if refusal.code() == Code::RatesStale {
            return Err(refusal);
        }
        return idempotency::refuse(&cx, &mut db, &key, refusal).await;
    };
    let taken = Taken {
        order_id: request.order_id,
        amount,
        chosen,
        others,
    };
    taken.accept(&cx, &mut db, &key, payee).await
}

/// Who is paid, and in what. A bare amount is in the payee's currency, so whoever says another one,
/// or has another one as a default, means something else.
async fn payee(cx: &Cx, request: &DynamicRequest, defaults: &Defaults) -> Result<Wallet> {
    let id = pay::payee(request.payee_wallet.as_ref(), defaults)?;
    let payee = order::lookup(cx, &[(&id, "/payee_wallet")]).await?;
    let payee = payee.into_iter().next().ok_or(Code::WalletNotFound)?;
    let meant = request.currency.as_ref().or(defaults.currency.as_ref());
    match meant {
        Some(code) if *code != payee.currency => {
            let what = format!(
                "the payee's wallet holds {}, and the amount is what arrives: give it in {} with `currency={}`",
                payee.currency, payee.currency, payee.currency
            );
            Err(Failure::new(Code::CurrencyMismatch, what).param("/currency"))
        }
        _ => Ok(payee),
    }
}

/// The wallets that may pay: the one that is named, or all of the caller's.
async fn payers(cx: &Cx, request: &DynamicRequest, payee: &Wallet) -> Result<Vec<OwnWallet>> {
    let mut own = match &request.payer_wallet {
        None => pay::own_wallets(cx).await?,
        Some(id) => {
            // Looked up first: that checks whose it is, and that the id is one.
            let payer = order::lookup(cx, &[(id, "/payer_wallet")]).await?;
            for wallet in &payer {
                cx.require_actor_for(&wallet.owner)?;
                order::check_active(wallet, "/payer_wallet")?;
            }
            let path = format!("/v1/wallets/{id}");
            vec![call::json(cx, Method::GET, "wallet", &path, None::<&()>, true).await?]
        }
    };
    own.retain(|w| w.state == "active" && w.id != payee.id);
    if own.is_empty() {
        let what = "you have no wallet to pay from; open one with POST /api/wallet/v1/wallets";
        return Err(Failure::new(Code::InvalidRequest, what).param("/payer_wallet"));
    }
    Ok(own)
}

/// The wallets that may pay, with what forex says of them.
struct Market {
    purses: Vec<Purse>,
    /// Why a wallet could not be priced, the last such reason.
    unpriced: Option<Failure>,
}

impl Market {
    /// Prices what must be: nothing, when a wallet in the payee's currency covers the amount.
    async fn ask(cx: &Cx, own: &[OwnWallet], amount: Money) -> Result<Market> {
        let mut purses = own.iter().map(purse).collect::<Result<Vec<Purse>>>()?;
        purses.retain(|p| p.available.is_positive());
        let mut market = Market {
            purses,
            unpriced: None,
        };
        if route::without_conversion(&market.purses, amount).is_some() {
            return Ok(market);
        }
        let (mut same, mut foreign): (Vec<Purse>, Vec<Purse>) = std::mem::take(&mut market.purses)
            .into_iter()
            .partition(|p| p.available.currency() == amount.currency());
        // Of each currency the fullest wallet first, so that none is left out for many small ones.
        foreign.sort_by_key(|p| (p.available.currency().code(), -p.available.minor()));
        let mut seen = std::collections::BTreeMap::<&str, usize>::new();
        let mut ranked: Vec<(usize, Purse)> = Vec::with_capacity(foreign.len());
        for purse in foreign {
            let rank = seen.entry(purse.available.currency().code()).or_default();
            ranked.push((*rank, purse));
            *rank += 1;
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        for (_, mut purse) in ranked.into_iter().take(PRICED_MAX) {
            purse.whole = market
                .price(cx, purse.available.currency(), amount, "target")
                .await?;
            let enough = purse
                .whole
                .as_ref()
                .is_some_and(|price| price.source.minor() <= purse.available.minor());
            if !enough {
                purse.all = market
                    .price(cx, amount.currency(), purse.available, "source")
                    .await?;
            }
            same.push(purse);
        }
        market.purses = same;
        Ok(market)
    }

    /// A price, unless forex refuses to give one: then that wallet cannot take part.
    async fn price(
        &mut self,
        cx: &Cx,
        other: Currency,
        fixed: Money,
        side: &str,
    ) -> Result<Option<Price>> {
        match price(cx, other, fixed, side).await {
            Ok(price) => Ok(Some(price)),
            Err(failure) if matches!(failure.status(), 400 | 422) => {
                self.unpriced = Some(failure);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Every way to the payee.
    async fn routes(&self, cx: &Cx, amount: Money) -> Result<Vec<Route>> {
        if let Some(leg) = route::without_conversion(&self.purses, amount) {
            return Ok(vec![whole(vec![leg])?]);
        }
        let mut routes = Vec::new();
        for leg in route::conversions(&self.purses) {
            routes.push(whole(vec![leg])?);
        }
        if let Some(mut split) = route::split(&self.purses, amount) {
            if let Some((wallet, rest)) = split.rest
                && let Some(purse) = self.purses.iter().find(|p| p.id == wallet)
            {
                let price = price(cx, purse.available.currency(), rest, "target").await?;
                let part = Part::Fixed(price);
                split.legs.push(Leg { wallet, part });
            }
            routes.push(whole(split.legs)?);
        }
        Ok(routes)
    }

    /// Why there is none.
    fn refusal(&self, amount: Money) -> Failure {
        let priced = self
            .purses
            .iter()
            .any(|p| p.whole.is_some() || p.all.is_some());
        if let Some(failure) = self.unpriced.as_ref().filter(|_| !priced) {
            return failure.clone();
        }
        let covered = Money::new(route::covered(&self.purses, amount), amount.currency());
        let covered = covered.map_or_else(|_| "less".to_owned(), |money| money.to_string());
        let what = format!("your wallets cover {covered} of {amount}");
        Failure::new(Code::InsufficientFunds, what).param("/amount")
    }
}

fn purse(wallet: &OwnWallet) -> Result<Purse> {
    let available = Currency::parse(&wallet.currency)
        .and_then(|currency| Money::parse(&wallet.balance.available, currency))
        .map_err(|e| Failure::new(Code::UpstreamError, format!("`wallet`: {e}")))?;
    Ok(Purse {
        id: wallet.id.clone(),
        available,
        whole: None,
        all: None,
    })
}

fn whole(legs: Vec<Leg>) -> Result<Route> {
    Route::new(legs).map_err(|e| Failure::new(Code::InvalidAmount, e.to_string()).param("/amount"))
}

#[derive(Deserialize)]
struct SentMoney {
    amount: String,
    currency: String,
}

impl SentMoney {
    fn money(&self) -> Result<Money> {
        Currency::parse(&self.currency)
            .and_then(|currency| Money::parse(&self.amount, currency))
            .map_err(|e| Failure::new(Code::UpstreamError, format!("`forex`: {e}")))
    }
}

/// A price or a quote as forex answers it.
#[derive(Deserialize)]
struct SentPrice {
    /// A quote's.
    id: Option<String>,
    source: SentMoney,
    margin: SentMoney,
    target: SentMoney,
    rate_exact: String,
}

impl SentPrice {
    fn price(&self) -> Result<Price> {
        Ok(Price {
            source: self.source.money()?,
            margin: self.margin.money()?,
            target: self.target.money()?,
            rate: Rate::parse(&self.rate_exact)
                .map_err(|e| Failure::new(Code::UpstreamError, format!("`forex`: {e}")))?,
        })
    }
}

/// What forex is asked: `fixed` on one side, `other` is the currency of the other.
fn pair(other: Currency, fixed: Money, side: &str) -> (&'static str, &'static str) {
    match side {
        "target" => (other.code(), fixed.currency().code()),
        _ => (fixed.currency().code(), other.code()),
    }
}

async fn price(cx: &Cx, other: Currency, fixed: Money, side: &str) -> Result<Price> {
    let (from, to) = pair(other, fixed, side);
    let amount = fixed.to_decimal_string();
    let path = format!("/v1/prices?from={from}&to={to}&amount={amount}&amount_side={side}");
    let sent: SentPrice = call::json(cx, Method::GET, "forex", &path, None::<&()>, true).await?;
    sent.price()
}

/// Locks the price of a leg; `None` where nothing is converted.
async fn quote(cx: &Cx, leg: &Leg) -> Result<Option<String>> {
    let (planned, other, fixed, side) = match &leg.part {
        Part::Same(_) => return Ok(None),
        Part::Fixed(p) => (p, p.source.currency(), p.target, "target"),
        Part::All(p) => (p, p.target.currency(), p.source, "source"),
    };
    let (from, to) = pair(other, fixed, side);
    let body = json!({
        "from": from, "to": to, "amount": fixed.to_decimal_string(), "amount_side": side,
    });
    // One that is made twice expires unused.
    let sent: SentPrice =
        call::json(cx, Method::POST, "forex", "/v1/quotes", Some(&body), true).await?;
    if sent.price()? != *planned {
        let what = "the rates changed while the route was chosen; send it again";
        return Err(Failure::new(Code::Conflict, what));
    }
    Ok(sent.id)
}

/// The route that is taken.
struct Taken {
    order_id: String,
    amount: Money,
    chosen: Route,
    others: Vec<Route>,
}

impl Taken {
    /// Makes one payment per leg, all of them in one batch.
    async fn accept(
        self,
        cx: &Cx,
        db: &mut Db,
        key: &IdempotencyKey,
        payee: Wallet,
    ) -> Result<Answer> {
        let ids: Vec<(&str, &str)> = self
            .chosen
            .legs
            .iter()
            .map(|leg| (leg.wallet.as_str(), "/payer_wallet"))
            .collect();
        let payers = order::lookup(cx, &ids).await?;
        let decision = self.decide(cx, &payers, &payee).await;
        let cause = Cause::from(cx);
        let mut writer = Writer::default();
        let mut payments = Vec::with_capacity(payers.len());
        let worth = route::shares(decision.amount_eur_minor, &self.chosen.legs);
        let legs = self.chosen.legs.iter().zip(worth);
        for (payer, (leg, amount_eur_minor)) in payers.into_iter().zip(legs) {
            // A person takes longer than a quote lasts: what is under review is converted at the
            // rates of the moment it is approved.
            let quote_id = match decision.outcome {
                Outcome::Approve => quote(cx, leg).await?,
                Outcome::Review | Outcome::Decline => None,
            };
            let reference = self.order_id.clone();
            let order = Order::new(payer, payee.clone(), leg.part.source(), reference, quote_id)?;
            let payment = order.payment(cx, &decision, &cause)?;
            order::insert(&mut writer, &payment, &decision, amount_eur_minor, &cause);
            payments.push(payment);
        }
        // The parts of a split are judged together, which a part by itself cannot be.
        if let [payment] = payments.as_slice()
            && payment.awaits_rules()
        {
            jobs::ask_rules_later(&mut writer.batch, &payment.id, cause);
        }
        let answer = Answer::json(202, &self.view(&payments, decision.first_state())?)?;
        Ok(idempotency::commit(db, writer.finish(), Some(key), answer).await?)
    }

    /// The rules judge the whole: an amount in parts is still that amount.
    async fn decide(&self, cx: &Cx, payers: &[Wallet], payee: &Wallet) -> Decision {
        let payer_owner = payers.first().map_or("", |w| w.owner.as_str());
        let money = match self.chosen.legs.as_slice() {
            [one] => one.part.source(),
            _ => self.amount,
        };
        let facts = Facts {
            payment_id: None,
            money,
            target_currency: &payee.currency,
            cross_currency: payers.iter().any(|w| w.currency != payee.currency),
            payer_owner,
            payee_owner: &payee.owner,
        };
        rules::decide(cx, &facts).await
    }

    fn view(&self, payments: &[Payment], state: State) -> Result<DynamicView> {
        let cost = |minor: i64| {
            Money::new(minor, self.amount.currency())
                .map(MoneyView::from)
                .map_err(|e| Failure::new(Code::Internal, e.to_string()))
        };
        let legs = self.chosen.legs.iter().zip(payments).map(|(leg, payment)| {
            let of_leg = leg.part.cost();
            let of_leg = of_leg.map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
            Ok(LegView {
                payer_wallet: leg.wallet.clone(),
                source: leg.part.source().into(),
                target: leg.part.target().into(),
                margin: leg.part.margin().map(Into::into),
                cost: cost(of_leg)?,
                quote_id: payment.quote_id.clone(),
                payment_id: payment.id.clone(),
            })
        });
        let others = self.others.iter().map(|route| {
            Ok(OtherView {
                route: route.kind,
                legs: route.legs.len(),
                cost: cost(route.cost)?,
            })
        });
        Ok(DynamicView {
            order_id: self.order_id.clone(),
            state,
            route: self.chosen.kind,
            why: route::why(&self.chosen, &self.others, self.amount),
            amount: self.amount.into(),
            cost: cost(self.chosen.cost)?,
            legs: legs.collect::<Result<_>>()?,
            others: others.collect::<Result<_>>()?,
            if_a_leg_fails: (payments.len() > 1).then_some(IF_A_LEG_FAILS),
            payments: payments.iter().map(PaymentView::from).collect(),
        })
    }
}
