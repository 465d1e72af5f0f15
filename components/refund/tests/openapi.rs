//! The checked-in document is what the code serves, and spin.toml says what the code does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[test]
fn the_checked_in_openapi_document_is_what_the_code_serves() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let served = refund::SERVICE.openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &served).unwrap();
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == served,
        "openapi.json differs: run the test with UPDATE_OPENAPI=1"
    );
}

#[test]
fn spin_toml_declares_the_same_tasks() {
    innover_kit::testing::check_declared(&refund::SERVICE);
}
