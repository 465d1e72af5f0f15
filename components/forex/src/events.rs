//! `payment.initiated` comes in, `forex.converted` or `forex.rejected` goes out.
//!
//! A payment is converted once: when its event comes again under another id, the answer names the
//! conversion it has, at the rate that was locked then.

use std::collections::{BTreeMap, BTreeSet};

use innover_kit::{
    Batch, Cause, Cx, Db, Emit, Event, Failure, Result, contract,
    events::{self, Handled, Handling},
    ids, log,
};
use innover_money::{Currency, Money};
use serde::Deserialize;
use serde_json::json;

use crate::{
    model::{self, Price, Refusal},
    rates::{self, Policy},
    store::{self, ConversionRow, QuoteRow, Terms},
};

/// The part of `payment.initiated` that concerns a conversion.
#[derive(Clone, Debug, Deserialize)]
pub struct Initiated {
    payment_id: String,
    payer_account: String,
    payee_account: String,
    source_minor: i64,
    source_currency: String,
    target_currency: String,
    /// The quote the payer agreed to, where there was one.
    #[serde(default)]
    quote_id: Option<String>,
    /// Whose wallet pays.
    #[serde(default)]
    payer_owner: String,
    /// Who asked for the payment.
    #[serde(default)]
    created_by: String,
}

impl Initiated {
    /// Whether there is something to convert. A quote never is for one currency, so a payment that
    /// names one is held to it.
    fn crosses(&self) -> bool {
        self.source_currency != self.target_currency || self.quote_id.is_some()
    }

    /// A quote is its owner's: for payments they make, or that are made for them.
    fn may_use(&self, quote: &QuoteRow) -> bool {
        !quote.owner.is_empty()
            && (quote.owner == self.payer_owner || quote.owner == self.created_by)
    }
}

/// Handles `payment.initiated`.
pub fn initiated<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(convert_all(cx, db, events))
}

async fn convert_all(cx: &Cx, db: &Db, events: &[Event]) -> Result<Handled> {
    let mut handled = Handled::default();
    let mut asked: Vec<(&Event, Initiated)> = Vec::with_capacity(events.len());
    for event in events {
        // Money moves on what payment itself said, never on what was put on the topic by hand.
        if event.service() != Some("payment") {
            log::warn(
                cx,
                "ignored an event that payment did not emit",
                &[("id", (&*event.id).into())],
            );
            continue;
        }
        match events::data(event) {
            Ok(payment) => asked.push((event, payment)),
            Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
        }
    }
    let mut desk = Desk::open(db, &asked).await?;
    for (event, payment) in &asked {
        let emit = match desk.decide(event, payment) {
            Ok(data) => emit("forex.converted", event, payment, data),
            Err(refusal) => {
                let failure = Failure::from(refusal);
                let data = json!({
                    "payment_id": payment.payment_id,
                    "code": failure.0.code,
                    "detail": failure.0.detail,
                });
                emit("forex.rejected", event, payment, data)
            }
        };
        handled.batch.emit(emit);
    }
    desk.write(&mut handled.batch);
    Ok(handled)
}

fn emit(kind: &'static str, event: &Event, payment: &Initiated, data: serde_json::Value) -> Emit {
    Emit {
        kind,
        key: payment.payment_id.clone(),
        key_version: 1,
        data,
        cause: Cause::from(event),
    }
}

/// Everything one delivery needs to decide, read at once, and what it decided.
struct Desk {
    market: Option<(std::sync::Arc<model::RateTable>, Policy)>,
    known: BTreeMap<String, ConversionRow>,
    quotes: BTreeMap<String, QuoteRow>,
    quotes_used: BTreeSet<String>,
    new: Vec<ConversionRow>,
}

impl Desk {
    async fn open(db: &Db, asked: &[(&Event, Initiated)]) -> Result<Desk> {
        let mut desk = Desk {
            market: None,
            known: BTreeMap::new(),
            quotes: BTreeMap::new(),
            quotes_used: BTreeSet::new(),
            new: Vec::new(),
        };
        let crossing = || asked.iter().map(|(_, p)| p).filter(|p| p.crosses());
        if crossing().next().is_none() {
            return Ok(desk);
        }
        let known = store::conversions_of(db, crossing().map(|p| p.payment_id.as_str())).await?;
        desk.known = known
            .into_iter()
            .map(|c| (c.payment_id.clone(), c))
            .collect();
        let quoted: Vec<&str> = crossing().filter_map(|p| p.quote_id.as_deref()).collect();
        if !quoted.is_empty() {
            let quotes = store::quotes(db, quoted.into_iter()).await?;
            desk.quotes = quotes.into_iter().map(|q| (q.id.clone(), q)).collect();
        }
        desk.market = Some((rates::newest(db).await?, Policy::read().await?));
        Ok(desk)
    }

    /// The payload of `forex.converted`.
    fn decide(&mut self, event: &Event, payment: &Initiated) -> Result<serde_json::Value, Refusal> {
        let source = amount(payment)?;
        if !payment.crosses() {
            return Ok(json!({
                "payment_id": payment.payment_id,
                "payer_account": payment.payer_account,
                "payee_account": payment.payee_account,
                "source_minor": payment.source_minor,
                "source_currency": payment.source_currency,
                "target_minor": payment.source_minor,
                "target_currency": payment.target_currency,
                "margin_minor": 0,
                "rate": "1",
                "rate_date": null,
                "exact": source.to_decimal_string(),
                "conversion_id": null,
            }));
        }
        if let Some(conversion) = self.known.get(&payment.payment_id) {
            return Ok(converted(payment, conversion));
        }
        let terms = match &payment.quote_id {
            Some(quote) => self.quoted(event, payment, quote)?,
            None => self.priced(payment, source)?,
        };
        let conversion = ConversionRow {
            id: ids::new_id("cnv"),
            payment_id: payment.payment_id.clone(),
            quote_id: payment.quote_id.clone(),
            terms,
            created_at: ids::now_us(),
        };
        let data = converted(payment, &conversion);
        self.new.push(conversion);
        Ok(data)
    }

    fn priced(&self, payment: &Initiated, source: Money) -> Result<Terms, Refusal> {
        let target = currency(&payment.target_currency)?;
        let Some((table, policy)) = &self.market else {
            // `open` reads the market whenever a payment crosses currencies.
            return Err(Refusal::Amount("no rates were read".into()));
        };
        table.check_age(policy.today, policy.max_age_days)?;
        let price = model::price(source, target, table, policy.margin_bps)?;
        Ok(terms(&price, table))
    }

    fn quoted(&mut self, event: &Event, payment: &Initiated, id: &str) -> Result<Terms, Refusal> {
        // Someone else's is as good as none: nobody uses it up, or learns that it is there.
        let quote = self
            .quotes
            .get(id)
            .filter(|quote| payment.may_use(quote))
            .ok_or_else(|| Refusal::QuoteNotFound(id.into()))?;
        let terms = &quote.terms;
        let asked = (
            payment.source_minor,
            &payment.source_currency,
            &payment.target_currency,
        );
        if (
            terms.source_minor,
            &terms.source_currency,
            &terms.target_currency,
        ) != asked
        {
            return Err(Refusal::QuoteMismatch {
                quote: id.into(),
                quoted: format!(
                    "{} minor units of {} to {}",
                    terms.source_minor, terms.source_currency, terms.target_currency
                ),
                asked: format!("{} minor units of {} to {}", asked.0, asked.1, asked.2),
            });
        }
        if quote.conversion_id.is_some() || self.quotes_used.contains(id) {
            return Err(Refusal::QuoteUsed(id.into()));
        }
        // What counts is when the payer asked, not how long the event took.
        let asked_at = contract::time::parse_rfc3339(&event.time).unwrap_or_else(|_| ids::now_us());
        if asked_at > quote.expires_at {
            return Err(Refusal::QuoteExpired(id.into()));
        }
        self.quotes_used.insert(id.into());
        Ok(terms.clone())
    }

    fn write(self, batch: &mut Batch) {
        store::insert_conversions(batch, &self.new);
        let used = self
            .new
            .into_iter()
            .filter_map(|c| Some((c.quote_id?, c.id)))
            .collect();
        store::use_quotes(batch, used);
    }
}

fn currency(code: &str) -> Result<Currency, Refusal> {
    Currency::parse(code).map_err(Refusal::Currency)
}

fn amount(payment: &Initiated) -> Result<Money, Refusal> {
    let money = Money::new(payment.source_minor, currency(&payment.source_currency)?)
        .map_err(Refusal::Currency)?;
    if money.is_positive() {
        return Ok(money);
    }
    Err(Refusal::Amount("it must be above zero".into()))
}

/// What a price says, with the set it was made of.
pub fn terms(price: &Price, table: &model::RateTable) -> Terms {
    Terms {
        source_minor: price.source.minor(),
        source_currency: price.source.currency().code().into(),
        margin_minor: price.margin.minor(),
        target_minor: price.target.minor(),
        target_currency: price.target.currency().code().into(),
        rate: price.rate.to_string(),
        rate_date: table.date.clone(),
        rate_revision: table.revision,
        exact: price.exact.to_string(),
    }
}

fn converted(payment: &Initiated, conversion: &ConversionRow) -> serde_json::Value {
    let t = &conversion.terms;
    json!({
        "payment_id": payment.payment_id,
        "payer_account": payment.payer_account,
        "payee_account": payment.payee_account,
        "source_minor": t.source_minor,
        "source_currency": t.source_currency,
        "target_minor": t.target_minor,
        "target_currency": t.target_currency,
        "margin_minor": t.margin_minor,
        "rate": t.rate,
        "rate_date": t.rate_date,
        "exact": t.exact,
        "conversion_id": conversion.id,
    })
}
