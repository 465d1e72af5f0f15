//! Rates, quotes and loading as callers see them, on the shipped extract.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::testing::{Platform, person};
use innover_kit::{config, contract::Identity};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            config::set("fx_margin_bps", "25");
            config::set("rates_max_age_days", "36500");
            let migration = include_str!("../migrations/0001_init.sql");
            Platform::start(&forex::SERVICE, migration, &["gateway", "payment"])
        })
        .await
}

fn payer() -> Identity {
    person("usr_1", "user", "payment:write")
}

fn finance() -> Identity {
    person("usr_f", "finance", "forex:read forex:write")
}

async fn get(who: &Identity, path: &str) -> innover_kit::testing::Reply {
    platform().await.call(who, "GET", path, None).await
}

async fn quote(body: Value) -> innover_kit::testing::Reply {
    platform()
        .await
        .call(&payer(), "POST", "/v1/quotes", Some(body))
        .await
}

#[tokio::test]
async fn rates_of_a_day_are_the_banks_own_digits() {
    let reply = get(&payer(), "/v1/rates?base=EUR&date=2026-10-30").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = &reply.body;
    assert_eq!(
        (&body["base"], &body["date"], &body["source"]),
        (&json!("EUR"), &json!("2026-10-30"), &json!("ECB"))
    );
    assert_eq!(body["triangulation"], "direct");
    assert_eq!(
        (&body["rates"]["USD"], &body["rates"]["ISK"]),
        (&json!("1.1172"), &json!("136"))
    );
    assert_eq!(body["rates"].as_object().unwrap().len(), 29);
    assert!(body["rates"]["BGN"].is_null(), "a hole stays a hole");
}

#[tokio::test]
async fn another_base_is_crossed_through_the_euro_and_says_so() {
    let reply = get(&payer(), "/v1/rates?base=USD&date=2026-10-30").await;
    assert_eq!(reply.body["triangulation"], "via EUR");
    // 1/1.1172 and 175.68/1.1172, half-even to ten digits.
    assert_eq!(reply.body["rates"]["EUR"], "0.8950948801");
    assert_eq!(reply.body["rates"]["JPY"], "157.2502685");
    assert!(reply.body["rates"]["USD"].is_null());
}

#[tokio::test]
async fn a_day_without_rates_names_its_neighbours() {
    for (date, said) in [
        ("2026-10-25", "2026-10-23 and 2026-10-26"),
        ("2099-01-01", "the nearest day with rates is 20"),
        ("1998-01-01", "the nearest day with rates is "),
    ] {
        let reply = get(&payer(), &format!("/v1/rates?date={date}")).await;
        assert_eq!((reply.status, reply.code()), (404, "not_found"), "{date}");
        assert!(
            reply.body["detail"].as_str().unwrap().contains(said),
            "{date}: {}",
            reply.body
        );
    }
    for (query, code, param) in [
        ("date=2026-02-30", "invalid_request", json!("date")),
        ("date=30.10.2026", "invalid_request", json!("date")),
        ("base=EURO", "unsupported_currency", json!("base")),
        ("base=XAU", "unsupported_currency", json!("base")),
        ("colour=red", "invalid_request", Value::Null),
    ] {
        let reply = get(&payer(), &format!("/v1/rates?{query}")).await;
        assert_eq!(
            (reply.status, reply.code(), &reply.body["param"]),
            (400, code, &param),
            "{query}"
        );
    }
    let reply = get(&payer(), "/v1/rates?base=KWD&date=2026-10-30").await;
    assert_eq!((reply.status, reply.code()), (422, "no_rate"));
}

#[tokio::test]
async fn a_quote_names_mid_rate_margin_both_sides_and_the_exact_product() {
    let reply = quote(json!({"from": "EUR", "to": "GBP", "amount": "33.33"})).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let body = &reply.body;
    assert_eq!(body["state"], "open");
    assert_eq!(
        body["source"],
        json!({"amount": "33.33", "currency": "EUR"})
    );
    // 25 basis points of 33.33 are 0.083325, up to 0.09; 33.24 × 0.8338 is exact.
    assert_eq!(
        (&body["margin"], &body["margin_bps"]),
        (&json!({"amount": "0.09", "currency": "EUR"}), &json!(25))
    );
    assert_eq!(
        (&body["exact"], &body["target"]["amount"]),
        (&json!("27.715512"), &json!("27.71"))
    );
    let read = get(
        &payer(),
        &format!("/v1/quotes/{}", body["id"].as_str().unwrap()),
    )
    .await;
    assert_eq!(
        (read.status, &read.body["exact"]),
        (200, &json!("27.715512"))
    );
    let stranger = person("usr_2", "user", "payment:write");
    let refused = get(
        &stranger,
        &format!("/v1/quotes/{}", body["id"].as_str().unwrap()),
    )
    .await;
    assert_eq!((refused.status, refused.code()), (403, "not_owner"));
    assert_eq!(
        get(&payer(), "/v1/quotes/quo_none").await.code(),
        "quote_not_found"
    );
}

#[tokio::test]
async fn what_cannot_be_quoted_is_refused_and_stores_nothing() {
    for (body, status, code, param) in [
        (
            json!({"from": "EUR", "to": "USD", "amount": "0"}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": "-1"}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": 1.5}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": "1.005"}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "JPY", "to": "USD", "amount": "1.5"}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": "1e3"}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": format!("1{}", "0".repeat(30))}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": null}),
            400,
            "invalid_amount",
            json!("/amount"),
        ),
        (
            json!({"from": "EUR", "to": "EUR", "amount": "1"}),
            400,
            "invalid_request",
            json!("/to"),
        ),
        (
            json!({"from": "BGN", "to": "EUR", "amount": "1"}),
            400,
            "unsupported_currency",
            json!("/from"),
        ),
        (
            json!({"from": "EUR", "to": "XAU", "amount": "1"}),
            400,
            "unsupported_currency",
            json!("/to"),
        ),
        (
            json!({"from": "EUR", "to": "KWD", "amount": "1"}),
            422,
            "no_rate",
            Value::Null,
        ),
        (
            json!({"from": "IDR", "to": "EUR", "amount": "100"}),
            422,
            "amount_too_small",
            Value::Null,
        ),
        (
            json!({"from": "EUR", "to": "USD"}),
            400,
            "invalid_request",
            json!(""),
        ),
        (
            json!({"from": "EUR", "to": "USD", "amount": "1", "colour": "red"}),
            400,
            "invalid_request",
            json!("/colour"),
        ),
    ] {
        let who = person("usr_refused", "user", "payment:write");
        let reply = platform()
            .await
            .call(&who, "POST", "/v1/quotes", Some(body.clone()))
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (status, code),
            "{body}: {}",
            reply.body
        );
        assert_eq!(reply.body["param"], param, "{body}: {}", reply.body);
    }
    let huge = r#"{"from":"EUR","to":"USD","amount":1000000000000000000000000000000}"#.to_owned();
    let reply = platform()
        .await
        .send("gateway", &payer(), "POST", "/v1/quotes", Some(huge), None)
        .await;
    assert_eq!((reply.status, reply.code()), (400, "invalid_amount"));
    assert!(
        platform()
            .await
            .rows("SELECT id FROM quotes WHERE owner = 'usr_refused'")
            .is_empty()
    );
    let viewer = person("usr_v", "viewer", "case:read");
    let body = json!({"from": "EUR", "to": "USD", "amount": "1"});
    let refused = platform()
        .await
        .call(&viewer, "POST", "/v1/quotes", Some(body))
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
}

#[tokio::test]
async fn an_integer_amount_means_major_units() {
    let reply = quote(json!({"from": "EUR", "to": "JPY", "amount": 10})).await;
    assert_eq!(reply.body["source"]["amount"], "10.00");
}

fn all_currencies(usd: &str) -> Value {
    let mut rates = serde_json::Map::new();
    for code in forex::sets::REQUIRED_DEFAULT.split_whitespace() {
        rates.insert(code.into(), "2".into());
    }
    rates.insert("USD".into(), usd.into());
    rates.into()
}

#[tokio::test]
async fn sets_are_stored_once_and_corrected_only_by_a_new_revision() {
    let platform = platform().await;
    let post = |body: Value| async move {
        platform
            .call(&finance(), "POST", "/v1/rate-sets", Some(body))
            .await
    };
    // A day of the past, so that other tests price with the extract.
    let set = |usd: &str| json!({"date": "1999-01-04", "rates": {"USD": usd, "CYP": "0.58231"}});
    let loaded = post(json!({"source": "ECB", "sets": [set("1.1789")], "history": true})).await;
    assert_eq!(
        (loaded.status, &loaded.body["added"]),
        (201, &json!(1)),
        "{}",
        loaded.body
    );
    let again = post(json!({"source": "ECB", "sets": [set("1.17890")], "history": true})).await;
    assert_eq!(
        (again.status, &again.body["unchanged"]),
        (200, &json!(1)),
        "the same by value"
    );
    let other = post(json!({"source": "ECB", "sets": [set("1.2")], "history": true})).await;
    assert_eq!((other.status, other.code()), (409, "already_exists"));
    let replaced =
        post(json!({"source": "ECB", "sets": [set("1.2")], "replace": true, "history": true}))
            .await;
    assert_eq!(
        (replaced.status, &replaced.body["replaced"]),
        (201, &json!(1))
    );
    let read = get(&payer(), "/v1/rates?date=1999-01-04").await;
    assert_eq!(
        (&read.body["revision"], &read.body["rates"]["USD"]),
        (&json!(2), &json!("1.2"))
    );
    let kept = platform.rows("SELECT revision, rate FROM rates WHERE date = '1999-01-04' AND currency = 'USD' ORDER BY revision");
    assert_eq!(kept, [["1", "1.1789"], ["2", "1.2"]]);
}

#[tokio::test]
async fn a_set_that_would_be_priced_with_must_be_complete() {
    let platform = platform().await;
    let body = json!({"source": "ECB", "sets": [{"date": "2026-10-31", "rates": {"USD": "1.2"}}]});
    let reply = platform
        .call(&finance(), "POST", "/v1/rate-sets", Some(body))
        .await;
    assert_eq!(
        (reply.status, &reply.body["param"]),
        (422, &json!("/sets/0/rates")),
        "{}",
        reply.body
    );
    assert!(reply.body["detail"].as_str().unwrap().contains("JPY"));
    // One bad set refuses all of them.
    let body = json!({"source": "ECB", "sets": [
        {"date": "1999-02-01", "rates": all_currencies("1.1")}, {"date": "2026-10-31", "rates": {"USD": "1.2"}}]});
    assert_eq!(
        platform
            .call(&finance(), "POST", "/v1/rate-sets", Some(body))
            .await
            .status,
        422
    );
    assert!(
        platform
            .rows("SELECT date FROM rate_sets WHERE date IN ('1999-02-01', '2026-10-31')")
            .is_empty()
    );
}

#[tokio::test]
async fn a_day_that_has_not_come_is_refused() {
    let platform = platform().await;
    let set = json!({"date": "2962-10-30", "rates": all_currencies("0.01")});
    let body = json!({"source": "ECB", "sets": [set]});
    let reply = platform
        .call(&finance(), "POST", "/v1/rate-sets", Some(body))
        .await;
    assert_eq!(
        (reply.status, &reply.body["param"]),
        (422, &json!("/sets/0/date")),
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn a_malformed_set_is_refused_by_its_field() {
    for (set, param) in [
        (
            json!({"date": "2026-02-30", "rates": {"USD": "1"}}),
            "/sets/0/date",
        ),
        (json!({"date": "1999-03-01", "rates": {}}), "/sets/0/rates"),
        (
            json!({"date": "1999-03-01", "rates": {"USD": "0"}}),
            "/sets/0/rates/USD",
        ),
        (
            json!({"date": "1999-03-01", "rates": {"USD": "-1"}}),
            "/sets/0/rates/USD",
        ),
        (
            json!({"date": "1999-03-01", "rates": {"USD": "1,1"}}),
            "/sets/0/rates/USD",
        ),
        (
            json!({"date": "1999-03-01", "rates": {"EUR": "1"}}),
            "/sets/0/rates/EUR",
        ),
        (
            json!({"date": "1999-03-01", "rates": {"XAU": "1"}}),
            "/sets/0/rates/XAU",
        ),
        (
            json!({"date": "1999-03-01", "rates": {"USD": 1.1}}),
            "/sets/0/rates/USD",
        ),
    ] {
        let body = json!({"source": "ECB", "sets": [set]});
        let reply = platform()
            .await
            .call(&finance(), "POST", "/v1/rate-sets", Some(body.clone()))
            .await;
        assert_eq!(
            (reply.status, &reply.body["param"]),
            (400, &json!(param)),
            "{body}: {}",
            reply.body
        );
    }
    let reply = platform()
        .await
        .call(
            &payer(),
            "POST",
            "/v1/rate-sets",
            Some(json!({"source": "ECB", "sets": []})),
        )
        .await;
    assert_eq!(
        (reply.status, &reply.body["scope"]),
        (403, &json!("forex:write"))
    );
}

#[tokio::test]
async fn days_with_rates_are_listed_newest_first() {
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/v1/rate-sets?limit=4".to_owned();
    loop {
        let page = get(&finance(), &path).await;
        seen.extend(
            page.body["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|set| set["date"].as_str().unwrap().to_owned()),
        );
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/rate-sets?limit=4&cursor={cursor}"),
            None => break,
        }
    }
    assert!(
        seen.len() >= 15 && seen.windows(2).all(|pair| pair[0] > pair[1]),
        "{seen:?}"
    );
    assert_eq!(seen[0], "2026-10-30");
}

#[tokio::test]
async fn payment_learns_what_an_amount_is_worth_rounded_up() {
    let nobody = Identity::default();
    let ask = |query: &'static str| {
        let nobody = nobody.clone();
        async move {
            platform()
                .await
                .send(
                    "payment",
                    &nobody,
                    "GET",
                    &format!("/v1/equivalent?{query}"),
                    None,
                    None,
                )
                .await
        }
    };
    // 100.00 USD / 1.1172 = 89.509… EUR
    let usd = ask("minor=10000&currency=USD&to=EUR").await;
    assert_eq!(usd.body, json!({"minor": 8951, "rate_date": "2026-10-30"}));
    assert_eq!(
        ask("minor=5&currency=EUR&to=EUR").await.body,
        json!({"minor": 5, "rate_date": null})
    );
    assert_eq!(
        ask("minor=5&currency=KWD&to=EUR").await.body,
        json!({"minor": null, "rate_date": null})
    );
    assert_eq!(
        ask("minor=-5&currency=USD&to=EUR").await.code(),
        "invalid_amount"
    );
    assert_eq!(
        ask("minor=5&currency=XYZ&to=EUR").await.code(),
        "unsupported_currency"
    );
    let refused = get(&payer(), "/v1/equivalent?minor=1&currency=USD&to=EUR").await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
}
