//! A database that was the dev profile's and is production's now.

mod common;

use innover_kit::config;

#[test]
fn the_dev_profiles_client_is_unknown_in_production() {
    let token = || {
        common::form(
            "dev",
            "/oauth2/token",
            &[
                ("grant_type", "client_credentials"),
                ("client_id", "innover-service"),
                ("client_secret", "innover-service-secret"),
            ],
            &[],
        )
    };
    assert_eq!(token().status, 200);
    config::set("profile", "prod");
    let refused = token();
    assert_eq!(
        (refused.status, refused.text("error")),
        (401, "invalid_client")
    );
}
