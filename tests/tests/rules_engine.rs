//! The rule engine replaced by editing one line of spin.toml: another engine decides, and one that
//! fails costs a person's look at the payment, never the payment.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use innover_tests::{Platform, repository};
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// An engine that takes any rule set as it is. `evaluate` is its code; what it leaves is the address
/// of its answer.
fn engine(evaluate: &str) -> Vec<u8> {
    // At 64 lies a text of no bytes, at 128 a decision: decline, no score, nothing matched.
    let core = format!(
        r#"(module
            (memory (export "memory") 16)
            (data (i32.const 136) "\02")
            (global $free (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
            (func (export "innover:risk/rules@1.0.0#check")
                (param i32 i32 i32 i32 i32 i32) (result i32)
                (global.set $free (i32.const 4096))
                (i32.const 64))
            (func (export "innover:risk/rules@1.0.0#evaluate")
                (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.const 4096))
                {evaluate}))"#
    );
    let mut module = wat::parse_str(core).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(repository().join("wit/risk")).unwrap();
    let world = resolve
        .select_world(&[package], Some("rules-plugin"))
        .unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().validate(true).module(&module);
    encoder.unwrap().encode().unwrap()
}

/// The state and the reasons of a small payment on a platform with this engine.
async fn pay_with(engine: &[u8]) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["components", "target"] {
        std::os::unix::fs::symlink(repository().join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("engine.wasm"), engine).unwrap();
    let manifest = std::fs::read_to_string(repository().join("spin.toml")).unwrap();
    let shipped = "\"innover:risk/rules\" = { component = \"rules-engine\" }";
    assert!(manifest.contains(shipped));
    let manifest = manifest.replace(
        shipped,
        "\"innover:risk/rules\" = { path = \"engine.wasm\" }",
    );
    std::fs::write(folder.path().join("spin.toml"), manifest).unwrap();
    let p = Platform::start_in(folder.path(), &[]).await;
    let payer = p.funded("user", "10.00", "EUR").await;
    let payee = p.wallet("finance", "EUR").await;
    let started = Instant::now();
    let answer = p.pay("user", &payer, &payee, "1.00", "EUR").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert!(started.elapsed() < Duration::from_secs(10));
    let state = answer.json["state"].as_str().unwrap().to_owned();
    (state, answer.json["reason_codes"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_engine_decides_after_one_line_of_the_manifest_is_changed() {
    let declines_all = engine("(i32.const 128)");
    assert_eq!(
        pay_with(&declines_all).await,
        ("declined".into(), json!([]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_goes_to_a_person_when_the_engine_traps_loops_or_fills_its_memory() {
    let unavailable = ("review".to_owned(), json!(["rules_unavailable"]));
    for evaluate in [
        "unreachable",
        "(loop $l (br $l)) unreachable",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
    ] {
        assert_eq!(pay_with(&engine(evaluate)).await, unavailable, "{evaluate}");
    }
}
