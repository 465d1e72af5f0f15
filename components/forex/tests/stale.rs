//! A platform whose rates are too old: nothing is priced, and the reason is said.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::testing::{Platform, person};
use innover_kit::{config, contract::Identity};
use serde_json::json;

#[tokio::test]
async fn stale_rates_refuse_quotes_and_payments_but_not_payments_in_one_currency() {
    config::set("fx_margin_bps", "0");
    // Whatever the clock says, the set is older than a hundred years from now.
    config::set("rates_max_age_days", "-36500");
    let migration = include_str!("../migrations/0001_init.sql");
    let platform = Platform::start(&forex::SERVICE, migration, &["gateway", "bridge"]);
    let body = json!({"from": "EUR", "to": "USD", "amount": "1"});
    let quote = platform
        .call(
            &person("usr_1", "user", "payment:write"),
            "POST",
            "/v1/quotes",
            Some(body),
        )
        .await;
    assert_eq!((quote.status, quote.code()), (422, "rates_stale"));
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    for (payment, target, expected) in [
        ("pay_1", "USD", "forex.rejected"),
        ("pay_2", "EUR", "forex.converted"),
    ] {
        let event = json!({
            "specversion": "1.0", "id": payment, "source": "/innover/payment", "type": "payment.initiated",
            "subject": payment, "time": "2026-10-30T12:00:00Z", "partitionkey": payment,
            "data": {"payment_id": payment, "payer_account": "acc_a", "payee_account": "acc_b",
                     "source_minor": 100, "source_currency": "EUR", "target_currency": target},
        });
        platform
            .send(
                "bridge",
                &bridge,
                "POST",
                "/_events",
                Some(event.to_string()),
                None,
            )
            .await;
        let rows = platform.rows(&format!(
            "SELECT type, payload FROM outbox WHERE key = '{payment}'"
        ));
        assert_eq!(rows[0][0], expected);
        assert_eq!(
            rows[0][1].contains("rates_stale"),
            expected == "forex.rejected"
        );
    }
}
