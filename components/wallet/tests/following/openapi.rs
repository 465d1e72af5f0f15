//! The checked-in document is the one the service answers.

#[test]
fn the_checked_in_openapi_document_is_the_one_that_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let served = wallet::SERVICE.openapi().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &served).expect("written");
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == served,
        "openapi.json is out of date: run with UPDATE_OPENAPI=1"
    );
}

#[test]
fn spin_toml_declares_the_same_tasks() {
    innover_kit::testing::check_declared(&wallet::SERVICE);
}
