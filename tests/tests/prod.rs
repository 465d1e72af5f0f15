//! Profile prod: none of the dev profile's users and clients, and a first client as docs/settings.md has
//! it, whom the command line signs in as.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;

use innover_tests::{Platform, innover, reference_rates, repository};

/// What lies between `from` and `to` in the manual, both included.
fn manual(from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(repository().join("docs/settings.md")).unwrap();
    let start = text.find(from).unwrap();
    let end = start + text[start..].find(to).unwrap() + to.len();
    text[start..end].to_owned()
}

/// `innover …` as that client; whether it succeeded, and what it printed.
fn command(p: &Platform, secret: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(innover())
        .args(arguments)
        .env("INNOVER_URL", &p.url)
        .env("INNOVER_CLIENT_ID", "operations")
        .env("INNOVER_CLIENT_SECRET", secret)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_client_of_prod_is_the_only_caller_and_the_command_line_signs_in_as_it() {
    let issuer = "https://pay.example";
    let p = Platform::start_with(&[("INNOVER_PROFILE", "prod"), ("INNOVER_ISSUER", issuer)]).await;
    let by_password = "grant_type=password&client_id=innover-cli&username=admin&password=admin";
    let refused = p.form("/oauth2/token", by_password).await;
    assert_eq!(
        (refused.status, &refused.json["error"]),
        (400, &"unsupported_grant_type".into()),
        "{}",
        refused.text
    );
    let by_secret = "grant_type=client_credentials&client_id=innover-service&client_secret=innover-service-secret";
    let refused = p.form("/oauth2/token", by_secret).await;
    assert_eq!(
        (refused.status, &refused.json["error"]),
        (401, &"invalid_client".into()),
        "{}",
        refused.text
    );

    let secret = "0123456789abcdef0123456789abcdef";
    let digest = Command::new("sh")
        .args(["-c", &manual("printf %s", "tr -d '='")])
        .env("SECRET", secret)
        .output()
        .unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    assert_eq!(digest.trim().len(), 43, "{digest}");
    let insert = manual("INSERT INTO clients", ";").replace("<that digest>", digest.trim());
    p.change("identity", &[insert.trim_end_matches(';')]);

    let (good, token) = command(&p, secret, &["token", "--scope", "forex:write"]);
    assert!(good && token.split('.').count() == 3, "{token}");
    let (good, said) = command(&p, "another", &["token"]);
    assert!(
        !good && said.contains("no token for operations") && said.contains("invalid_client"),
        "{said}"
    );
    let (good, said) = command(&p, secret, &["token", "--user", "admin"]);
    assert!(!good && said.contains("--client-id"), "{said}");

    let file = p.state().join("rates.xml");
    std::fs::write(&file, reference_rates("2026-11-26", "")).unwrap();
    let (good, said) = command(&p, secret, &["forex", "load", file.to_str().unwrap()]);
    assert!(good && said.contains("1 added"), "{said}");
    let (good, said) = command(&p, secret, &["ledger", "key"]);
    assert!(good && said.contains("\"kty\""), "{said}");
}
