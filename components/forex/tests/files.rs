//! Files of the ECB's as they are published, posted as they are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write;

use innover_kit::testing::{Platform, Reply, person};
use innover_kit::{config, contract::Identity};
use serde_json::json;
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            config::set("fx_margin_bps", "0");
            config::set("rates_max_age_days", "36500");
            let migration = include_str!("../migrations/0001_init.sql");
            Platform::start(&forex::SERVICE, migration, &["gateway", "bridge"])
        })
        .await
}

fn finance() -> Identity {
    person("usr_f", "finance", "forex:read forex:write")
}

async fn post(path: &str, media: &str, file: String) -> Reply {
    platform()
        .await
        .send_as("gateway", &finance(), path, media, file)
        .await
}

/// The bank's daily file: its name spaces, its sender, its single quotes.
fn daily_xml(date: &str, without: &[&str]) -> String {
    let mut cubes = String::new();
    for code in forex::sets::REQUIRED_DEFAULT.split_whitespace() {
        if !without.contains(&code) {
            write!(cubes, "\n\t\t\t<Cube currency='{code}' rate='1.50'/>").unwrap();
        }
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <gesmes:Envelope xmlns:gesmes=\"http://www.gesmes.org/xml/2002-08-01\" \
         xmlns=\"http://www.ecb.int/vocabulary/2002-08-01/eurofxref\">\n\
         \t<gesmes:subject>Reference rates</gesmes:subject>\n\
         \t<gesmes:Sender>\n\t\t<gesmes:name>European Central Bank</gesmes:name>\n\t</gesmes:Sender>\n\
         \t<Cube>\n\t\t<Cube time='{date}'>{cubes}\n\t\t</Cube>\n\t</Cube>\n</gesmes:Envelope>"
    )
}

#[tokio::test]
async fn the_daily_xml_becomes_a_set_and_the_older_ones_are_kept() {
    let loaded = post(
        "/v1/rate-sets",
        "application/xml",
        daily_xml("2026-11-02", &[]),
    )
    .await;
    assert_eq!(
        (loaded.status, &loaded.body),
        (201, &json!({"added": 1, "replaced": 0, "unchanged": 0})),
        "{}",
        loaded.body
    );
    let again = post(
        "/v1/rate-sets",
        "text/xml; charset=utf-8",
        daily_xml("2026-11-02", &[]),
    )
    .await;
    assert_eq!((again.status, &again.body["unchanged"]), (200, &json!(1)));
    let platform = platform().await;
    for (date, usd) in [("2026-11-02", "1.50"), ("2026-10-30", "1.1172")] {
        let path = format!("/v1/rates?date={date}");
        let read = platform.call(&finance(), "GET", &path, None).await;
        assert_eq!(
            (&read.body["rates"]["USD"], &read.body["source"]),
            (&json!(usd), &json!("ECB")),
            "{}",
            read.body
        );
    }
}

#[tokio::test]
async fn a_daily_file_that_lacks_currencies_is_refused_whole_and_names_them() {
    // Also on a day long before the newest one: a daily file is complete, or something is wrong.
    for date in ["2026-11-30", "2020-01-02"] {
        let file = daily_xml(date, &["JPY", "ISK"]);
        let reply = post("/v1/rate-sets", "application/xml", file).await;
        assert_eq!(
            (reply.status, reply.code()),
            (422, "invalid_request"),
            "{}",
            reply.body
        );
        let said = reply.body["detail"].as_str().unwrap();
        assert!(said.contains("it lacks JPY, ISK"), "{said}");
        let sql = format!("SELECT currency FROM rates WHERE date = '{date}'");
        assert!(platform().await.rows(&sql).is_empty());
    }
    let reply = post(
        "/v1/rate-sets?history=true",
        "application/xml",
        daily_xml("2020-01-02", &["JPY", "ISK"]),
    )
    .await;
    assert_eq!(reply.status, 201, "{}", reply.body);
}

#[tokio::test]
async fn the_history_keeps_its_holes_and_knows_the_currencies_that_are_gone() {
    let file = "Date,USD,JPY,CYP,EEK,BGN,\n2008-01-02,1.4688,162.5,N/A,15.6466,1.9558,\n\
                2007-12-31,1.4721,164.93,0.585274,15.6466,N/A,\n";
    let loaded = post("/v1/rate-sets", "text/csv", file.into()).await;
    assert_eq!(
        (loaded.status, &loaded.body["added"]),
        (201, &json!(2)),
        "{}",
        loaded.body
    );
    let rows = platform().await.rows(
        "SELECT date, currency, rate FROM rates WHERE currency IN ('CYP', 'BGN') AND date < '2009-01-01' ORDER BY 1",
    );
    assert_eq!(
        rows,
        [
            ["2007-12-31", "CYP", "0.585274"],
            ["2008-01-02", "BGN", "1.9558"]
        ]
    );
    let read = platform()
        .await
        .call(
            &finance(),
            "GET",
            "/v1/rates?base=CYP&date=2007-12-31",
            None,
        )
        .await;
    assert_eq!(read.status, 200, "{}", read.body);
    // Rates only: nobody is quoted a price in a currency that is gone.
    let body = json!({"from": "CYP", "to": "EUR", "amount": "1"});
    let who = person("usr_1", "user", "payment:write");
    let quote = platform()
        .await
        .call(&who, "POST", "/v1/quotes", Some(body))
        .await;
    assert_eq!((quote.status, quote.code()), (400, "unsupported_currency"));
}

#[tokio::test]
async fn what_is_no_file_of_the_banks_is_refused_and_says_where() {
    for (media, file, said) in [
        (
            "application/xml",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>".to_owned(),
            "line 1",
        ),
        (
            "application/xml",
            "<a><Cube time='2026-11-03'>".into(),
            "line 1",
        ),
        ("application/xml", "<a/>".into(), "no rates"),
        (
            "application/xml",
            daily_xml("2026-13-03", &[]),
            "\"2026-13-03\" is not a date",
        ),
        (
            "application/xml",
            daily_xml("2026-11-03", &[]).replace("'1.50'", "'-1.50'"),
            "\"-1.50\" is not a rate",
        ),
        (
            "application/xml",
            daily_xml("2026-11-03", &[]).replace("'USD'", "'XAU'"),
            "\"XAU\" is not a currency",
        ),
        (
            "text/csv",
            "Date,USD,\n2026-11-03,1.1,2.2,\n".into(),
            "row has 3 columns",
        ),
        ("text/csv", String::new(), "no rates"),
    ] {
        let reply = post("/v1/rate-sets", media, file.clone()).await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid_request"),
            "{file}"
        );
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains(said), "{detail}");
    }
    let reply = post("/v1/rate-sets", "application/pdf", "x".into()).await;
    assert_eq!(
        (reply.status, reply.code()),
        (415, "unsupported_media_type")
    );
    assert!(
        reply.body["detail"]
            .as_str()
            .unwrap()
            .contains("application/xml")
    );
    let reply = post("/v1/rate-sets", "application/xml", "<".repeat(5 << 20)).await;
    assert_eq!((reply.status, reply.code()), (413, "body_too_large"));
    assert!(
        platform()
            .await
            .rows("SELECT date FROM rate_sets WHERE date = '2026-11-03'")
            .is_empty()
    );
}

#[test]
fn the_required_currencies_of_the_application_are_the_ones_the_bank_quotes() {
    let page = include_str!("../../../spin.toml");
    let line = page
        .lines()
        .find(|l| l.starts_with("fx_currencies"))
        .unwrap();
    let listed = line.split('"').nth(1).unwrap();
    assert_eq!(listed, forex::sets::REQUIRED_DEFAULT);
}

/// Delivers a job as the bridge does; returns what the service says of it.
async fn run(id: &str, kwargs: serde_json::Value) -> serde_json::Value {
    let mut bridge = person("bridge", "", "deliver");
    bridge.roles.clear();
    let job = json!({"id": id, "task": "forex.load_rates", "kwargs": kwargs});
    let body = json!({ "jobs": [job] }).to_string();
    let reply = platform()
        .await
        .send("bridge", &bridge, "POST", "/_tasks", Some(body), None)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body["results"][0].clone()
}

#[tokio::test]
async fn a_job_loads_rates_as_a_request_does() {
    let document = daily_xml("2026-11-09", &[]);
    let loaded = run("load-1", json!({ "document": document })).await;
    let added = json!({"added": 1, "replaced": 0, "unchanged": 0});
    assert_eq!(loaded["result"], added, "{loaded}");
    assert_eq!(run("load-1", json!({ "document": document })).await, loaded);
    let again = run("load-2", json!({ "document": document })).await;
    assert_eq!(again["result"]["unchanged"], 1, "{again}");
    let usd = json!({"USD": {"__type__": "decimal", "__value__": "1.10"}});
    let old = json!({"day": "2020-02-29", "rates": usd, "history": true});
    assert_eq!(run("load-3", old).await["result"], added);
    for (id, kwargs, status, why) in [
        ("load-4", json!({}), 422, "takes day and rates, or document"),
        (
            "load-5",
            json!({"document": "x"}),
            400,
            "no file of the ECB's",
        ),
        (
            "load-6",
            json!({"day": "2020-02-29", "rates": {"USD": "1.2"}}),
            422,
            "other rates of 2020-02-29",
        ),
        (
            "load-7",
            json!({"day": "2020-02-30", "rates": {"USD": "1.2"}}),
            400,
            "is not a date",
        ),
        (
            "load-8",
            json!({"day": "2026-11-10", "rates": {"USD": "1.2"}}),
            422,
            "it lacks",
        ),
        (
            "load-9",
            json!({"day": "2026-11-10", "rates": {"USD": 1.2}}),
            422,
            "argument 'rates.USD': invalid type",
        ),
    ] {
        let refused = run(id, kwargs).await;
        assert_eq!(refused["status"], status, "{refused}");
        assert!(
            refused["error"].as_str().unwrap().contains(why),
            "{refused}"
        );
    }
}
