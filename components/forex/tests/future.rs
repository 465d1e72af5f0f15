//! A platform that has rates of a day that has not come: they are not in force before it does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::{
    config,
    testing::{Platform, person},
};

#[tokio::test]
async fn rates_of_a_day_that_has_not_come_are_not_priced_with() {
    config::set("fx_margin_bps", "0");
    config::set("rates_max_age_days", "36500");
    let migration = include_str!("../migrations/0001_init.sql");
    let platform = Platform::start(&forex::SERVICE, migration, &["gateway"]);
    let payer = person("usr_1", "user", "payment:write");
    let before = platform.call(&payer, "GET", "/v1/rates", None).await;
    assert_eq!(before.status, 200, "{}", before.body);
    platform.rows(
        "INSERT INTO rate_sets (date, revision, source, digest, loaded_by, loaded_at)
         VALUES ('2962-10-30', 1, 'ECB', 'x', 'usr_finance', 1) RETURNING date",
    );
    let after = platform.call(&payer, "GET", "/v1/rates", None).await;
    assert_eq!(after.body["date"], before.body["date"], "{}", after.body);
    assert_eq!(after.body["rates"], before.body["rates"]);
}
