//! What the bridge delivers and the payment service gives up.

use innover_kit::contract::{Identity, service_token};
use serde_json::{Value, json};

use crate::support::{Caller, ask, finance, open, transfer};

#[tokio::test]
async fn a_delivered_conversion_is_handled_once() {
    open("acc_d1", "NOK").await;
    open("acc_d2", "NOK").await;
    let fund = json!({"postings": [
        {"account": "acc_house_cash_NOK", "direction": "debit", "amount": "9.00", "currency": "NOK"},
        {"account": "acc_d1", "direction": "credit", "amount": "9.00", "currency": "NOK"},
    ]});
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("k-d1"), fund)
            .await
            .0,
        201
    );
    let event = json!({
        "specversion": "1.0", "id": "0192f3c2-0000-7000-8000-000000000001", "source": "/innover/forex",
        "type": "forex.converted", "subject": "pay_d", "time": "2026-10-30T12:00:00Z", "partitionkey": "pay_d",
        "data": {"payment_id": "pay_d", "payer_account": "acc_d1", "payee_account": "acc_d2",
                 "source_minor": 400, "source_currency": "NOK", "target_minor": 400, "target_currency": "NOK",
                 "margin_minor": 0, "rate": "1", "rate_date": null, "exact": "4.00", "conversion_id": null},
    });
    let bridge = Caller {
        service: "bridge",
        identity: Identity {
            scope: "deliver".into(),
            ..Default::default()
        },
    };
    for _ in 0..2 {
        let (status, answer, _) = ask(&bridge, "POST", "/_events", None, event.clone()).await;
        assert_eq!(
            (status, &answer["results"][0]["status"]),
            (200, &json!(200)),
            "{answer}"
        );
    }
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_d2", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "4.00");
}

#[tokio::test]
async fn a_payment_given_up_is_refused_for_good_and_a_booked_one_says_so() {
    let payment = Caller {
        service: "payment",
        identity: Identity::default(),
    };
    let path = "/v1/payments/pay_given_up/refuse";
    let (status, answer, _) = ask(&finance(), "POST", path, None, json!({})).await;
    assert_eq!(status, 403, "{answer}");
    let (status, answer, _) = ask(&payment, "POST", path, None, json!({})).await;
    assert_eq!((status, &answer), (200, &json!({"entry_id": null})));
    let again = ask(&payment, "POST", path, None, json!({})).await;
    assert_eq!((again.0, again.1), (200, answer), "asked again, the same");

    open("acc_gu_a", "EUR").await;
    open("acc_gu_b", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_gu_a", "10.00");
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("gu-fund"), fund)
            .await
            .0,
        201
    );
    let bridge = Caller {
        service: "bridge",
        identity: Identity {
            scope: service_token::SCOPE_DELIVER.into(),
            ..Default::default()
        },
    };
    let converted = |payment: &str| {
        json!({"specversion": "1.0", "id": format!("ev_{payment}"), "source": "/innover/forex",
               "type": "forex.converted", "partitionkey": payment, "time": "2026-10-30T12:00:00Z",
               "data": {"payment_id": payment, "payer_account": "acc_gu_a", "payee_account": "acc_gu_b",
                        "source_minor": 100, "source_currency": "EUR", "target_minor": 100,
                        "target_currency": "EUR", "margin_minor": 0, "rate": "1", "rate_date": null,
                        "exact": "1", "conversion_id": null}})
    };
    for id in ["pay_given_up", "pay_booked"] {
        let (status, answer, _) = ask(&bridge, "POST", "/_events", None, converted(id)).await;
        assert_eq!(
            (status, &answer["results"][0]["status"]),
            (200, &json!(200)),
            "{answer}"
        );
    }
    let (_, account, _) = ask(
        &finance(),
        "GET",
        "/v1/accounts/acc_gu_b",
        None,
        Value::Null,
    )
    .await;
    assert_eq!(
        account["balance"]["posted"], "1.00",
        "only one of the two was booked"
    );
    let (_, answer, _) = ask(
        &payment,
        "POST",
        "/v1/payments/pay_booked/refuse",
        None,
        json!({}),
    )
    .await;
    assert!(answer["entry_id"].is_string(), "{answer}");
}

#[tokio::test]
async fn a_refund_is_given_up_by_its_service_alone_and_never_booked_after() {
    let refund = Caller {
        service: "refund",
        identity: Identity::default(),
    };
    let payment = Caller {
        service: "payment",
        identity: Identity::default(),
    };
    let path = "/v1/refunds/ref_given_up/refuse";
    for caller in [&payment, &finance()] {
        let (status, answer, _) = ask(caller, "POST", path, None, json!({})).await;
        assert_eq!(
            (status, &answer["code"]),
            (403, &json!("insufficient_scope"))
        );
    }
    // Outcomes share a table: a refund's service cannot end a payment.
    let foreign = "/v1/refunds/pay_1/refuse";
    let (status, answer, _) = ask(&refund, "POST", foreign, None, json!({})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_request")));
    let (status, answer, _) = ask(&refund, "POST", path, None, json!({})).await;
    assert_eq!((status, &answer), (200, &json!({"entry_id": null})));

    open("acc_rf_a", "EUR").await;
    open("acc_rf_b", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_rf_b", "10.00");
    let (status, ..) = ask(&finance(), "POST", "/v1/entries", Some("rf-fund"), fund).await;
    assert_eq!(status, 201);
    let bridge = Caller {
        service: "bridge",
        identity: Identity {
            scope: service_token::SCOPE_DELIVER.into(),
            ..Default::default()
        },
    };
    for id in ["ref_given_up", "ref_booked"] {
        let event = json!({
            "specversion": "1.0", "id": format!("ev_{id}"), "source": "/innover/refund",
            "type": "refund.initiated", "partitionkey": id, "time": "2026-10-30T12:00:00Z",
            "data": {"refund_id": id, "payment_id": "pay_1", "reverses": "ent_1",
                     "payer_account": "acc_rf_a", "payee_account": "acc_rf_b",
                     "source_minor": 100, "source_currency": "EUR", "target_minor": 100,
                     "target_currency": "EUR", "margin_minor": 0},
        });
        let (status, answer, _) = ask(&bridge, "POST", "/_events", None, event).await;
        assert_eq!(
            (status, &answer["results"][0]["status"]),
            (200, &json!(200)),
            "{answer}"
        );
    }
    let read = ask(
        &finance(),
        "GET",
        "/v1/accounts/acc_rf_a",
        None,
        Value::Null,
    )
    .await;
    assert_eq!(
        read.1["balance"]["posted"], "1.00",
        "only one of the two was booked"
    );
    let booked = "/v1/refunds/ref_booked/refuse";
    let (_, answer, _) = ask(&refund, "POST", booked, None, json!({})).await;
    let entry = format!(
        "/v1/entries/{}",
        answer["entry_id"].as_str().expect("booked")
    );
    let (_, entry, _) = ask(&finance(), "GET", &entry, None, Value::Null).await;
    assert_eq!(
        (&entry["kind"], &entry["id"], &entry["reverses"]),
        (&json!("refund"), &json!("ref_booked"), &json!("ent_1"))
    );
}
