//! What the production profile does not have.

mod common;

use innover_kit::contract::Identity;

#[test]
fn nobody_gets_in_by_password_in_production() {
    let password = common::form(
        "prod",
        "/oauth2/token",
        &[
            ("grant_type", "password"),
            ("client_id", "innover-cli"),
            ("username", "admin"),
            ("password", "admin"),
        ],
        &[],
    );
    assert_eq!(
        (password.status, password.text("error")),
        (400, "unsupported_grant_type")
    );
    let client = common::form(
        "prod",
        "/oauth2/token",
        &[
            ("grant_type", "client_credentials"),
            ("client_id", "innover-service"),
            ("client_secret", "innover-service-secret"),
        ],
        &[],
    );
    assert_eq!(
        (client.status, client.text("error")),
        (401, "invalid_client"),
        "the dev client does not exist"
    );
    let login = common::call(
        "prod",
        &Identity::default(),
        "POST",
        "/v1/auth/login",
        &[("content-type", "application/json")],
        r#"{"username":"admin","password":"admin"}"#.into(),
    );
    assert_eq!(login.status, 404);
    for path in [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ] {
        let found = common::call(
            "prod",
            &Identity::default(),
            "GET",
            path,
            &[],
            String::new(),
        );
        assert_eq!(
            (found.status, found.text("issuer")),
            (200, "http://127.0.0.1:3000")
        );
        let grants = found.body["grant_types_supported"].to_string();
        assert!(
            !grants.contains("password") && grants.contains("refresh_token"),
            "{grants}"
        );
    }
}
