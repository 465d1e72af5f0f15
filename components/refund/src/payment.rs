//! What the payment service says of a payment, and what of it can be refunded.

use http::Method;
use innover_kit::{Code, Cx, Failure, Result, call};
use innover_money::{Currency, MoneyError, Rate};
use serde::Deserialize;

use crate::{
    model::{Legs, Terms},
    store::Capture,
};

/// The one state of a payment that can be refunded.
const COMPLETED: &str = "completed";

/// A payment as the payment service tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Payment {
    payment_id: String,
    state: String,
    payer_wallet: String,
    payee_wallet: String,
    payer_owner: String,
    /// Who may ask for a refund.
    pub payee_owner: String,
    payer_account: String,
    payee_account: String,
    source_minor: i64,
    source_currency: String,
    target_minor: Option<i64>,
    target_currency: String,
    margin_minor: Option<i64>,
    rate: Option<String>,
    ledger_entry_id: Option<String>,
}

impl Payment {
    /// Asks the payment service. A payment's end state never changes, so this is asked once per
    /// payment that is refunded.
    ///
    /// # Errors
    /// 404 `payment_not_found`, or the failure of the call.
    pub async fn ask(cx: &Cx, id: &str) -> Result<Payment> {
        let path = format!("/v1/payments/{id}/capture");
        call::json(cx, Method::GET, "payment", &path, None::<&()>, true).await
    }

    /// What was captured, none of it refunded.
    ///
    /// # Errors
    /// 409 `payment_not_completed`.
    pub fn capture(self) -> Result<Capture> {
        if self.state != COMPLETED {
            let what = format!(
                "the payment is `{}`; wait until it is completed",
                self.state
            );
            return Err(not_completed(what));
        }
        let terms = self.terms().map_err(|e| not_completed(e.to_string()))?;
        let (Some(terms), Some(entry_id)) = (terms, self.ledger_entry_id) else {
            return Err(not_completed("it is not known what was booked".into()));
        };
        Ok(Capture {
            payment_id: self.payment_id,
            version: 0,
            entry_id,
            payer_wallet: self.payer_wallet,
            payee_wallet: self.payee_wallet,
            payer_owner: self.payer_owner,
            payee_owner: self.payee_owner,
            payer_account: self.payer_account,
            payee_account: self.payee_account,
            terms,
            refunded: Legs::default(),
        })
    }

    /// `None` while the conversion is not known.
    fn terms(&self) -> Result<Option<Terms>, MoneyError> {
        let (Some(target), Some(margin), Some(rate)) =
            (self.target_minor, self.margin_minor, &self.rate)
        else {
            return Ok(None);
        };
        let captured = Legs {
            source: self.source_minor,
            margin,
            target,
        };
        let source = Currency::parse(&self.source_currency)?;
        let target = Currency::parse(&self.target_currency)?;
        Terms::new(captured, source, target, Rate::parse(rate)?).map(Some)
    }
}

fn not_completed(what: String) -> Failure {
    Failure::new(Code::PaymentNotCompleted, what).param("/payment_id")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(change: &[(&str, Value)]) -> Payment {
        let mut payment = json!({
            "payment_id": "pay_1", "state": "completed", "payer_wallet": "wal_a",
            "payee_wallet": "wal_b", "payer_owner": "usr_a", "payee_owner": "usr_b",
            "payer_account": "acc_a", "payee_account": "acc_b", "source_minor": 3333,
            "source_currency": "EUR", "target_minor": 3723, "target_currency": "USD",
            "margin_minor": 0, "rate": "1.1172", "exact": "37.236276",
            "ledger_entry_id": "ent_1",
        });
        for (field, value) in change {
            payment[field] = value.clone();
        }
        serde_json::from_value(payment).expect("a payment")
    }

    #[test]
    fn only_a_completed_payment_whose_booking_is_known_can_be_refunded() {
        let capture = told(&[]).capture().expect("refundable");
        assert_eq!(capture.terms.captured().target, 3723);
        for change in [
            [("state", json!("processing"))],
            [("state", json!("failed"))],
            [("target_minor", Value::Null)],
            [("ledger_entry_id", Value::Null)],
            [("target_minor", json!(0))],
            [("margin_minor", json!(3333))],
            [("rate", json!("nothing"))],
        ] {
            let failure = told(&change).capture().expect_err("refused");
            assert_eq!(failure.code(), Code::PaymentNotCompleted, "{change:?}");
        }
    }
}
