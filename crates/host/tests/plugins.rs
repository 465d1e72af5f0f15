//! What is plugged into a component: it answers in the component's place, is given nothing of the
//! host, and ends only the instance it runs in. The probe asks for its environment, so the plugs
//! here are environments.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::path::Path;

use common::{App, config, one, start_with};
use http::StatusCode;
use innover_host::{CallError, Host, HostConfig};

/// The import the plugs satisfy, in the version the probe was linked with.
fn environment(folder: &Path) -> String {
    let probe = std::fs::read(folder.join("probe.wasm")).unwrap();
    let name = b"wasi:cli/environment@0.2.";
    let at = probe
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    let end = at + name.len();
    let patch = probe[end..].iter().take_while(|b| b.is_ascii_digit());
    String::from_utf8(probe[at..end + patch.count()].to_vec()).unwrap()
}

/// An environment whose `get-environment` runs `code`, which leaves the address of its answer.
fn plug(code: &str) -> String {
    format!(
        r#"(component
            (core module $m
                (memory (export "memory") 1)
                (data (i32.const 64) "PLUGanswers")
                (func (export "pairs") (result i32) {code})
                (func (export "none") (result i32) (i32.const 0)))
            (core instance $m (instantiate $m))
            (func $pairs (result (list (tuple string string)))
                (canon lift (core func $m "pairs") (memory (core memory $m "memory"))))
            (func $texts (result (list string))
                (canon lift (core func $m "none") (memory (core memory $m "memory"))))
            (func $text (result (option string))
                (canon lift (core func $m "none") (memory (core memory $m "memory"))))
            (instance (export "ENVIRONMENT")
                (export "get-environment" (func $pairs))
                (export "get-arguments" (func $texts))
                (export "initial-cwd" (func $text))))"#
    )
}

/// Answers the one pair PLUG=answers.
const ANSWERS: &str = "(i32.store (i32.const 16) (i32.const 64))
    (i32.store (i32.const 20) (i32.const 4))
    (i32.store (i32.const 24) (i32.const 68))
    (i32.store (i32.const 28) (i32.const 7))
    (i32.store (i32.const 8) (i32.const 16))
    (i32.store (i32.const 12) (i32.const 1))
    (i32.const 8)";

/// Hands on the environment it is given.
const HANDS_ON: &str = r#"(component
    (import "ENVIRONMENT" (instance $given
        (export "get-environment" (func (result (list (tuple string string)))))
        (export "get-arguments" (func (result (list string))))
        (export "initial-cwd" (func (result (option string))))))
    (export "ENVIRONMENT" (instance $given)))"#;

/// Writes the plug, and the manifest's line that plugs it in.
fn plug_in(config: &mut HostConfig, plug: &str) {
    let folder = config.base_dir.clone();
    let import = environment(&folder);
    let wasm = wat::parse_str(plug.replace("ENVIRONMENT", &import)).unwrap();
    std::fs::write(folder.join("plug.wasm"), wasm).unwrap();
}

const PLUGGED: &str = "dependencies = { \"wasi:cli/environment\" = { path = \"plug.wasm\" } }";

async fn start_plugged(lines: &str, plug: &str) -> App {
    let manifest = one(&format!("environment = {{ GREETING = \"hi\" }}\n{lines}"));
    start_with(&manifest, |config| plug_in(config, plug)).await
}

async fn refused(lines: &str, plug: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), &one(lines));
    plug_in(&mut config, plug);
    format!("{:#}", Host::start(config).await.err().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependency_answers_in_place_of_the_host_and_is_loaded_again_when_it_changes() {
    let app = start_plugged(PLUGGED, &plug(ANSWERS)).await;
    assert_eq!(
        app.get("/env").await,
        (StatusCode::OK, "PLUG=answers".into())
    );
    let import = environment(app.folder.path());
    let other = plug(ANSWERS).replace("answers", "changed");
    let wasm = wat::parse_str(other.replace("ENVIRONMENT", &import)).unwrap();
    std::fs::write(app.folder.path().join("plug.wasm"), wasm).unwrap();
    app.host.reload("a").await.unwrap();
    assert_eq!(
        app.get("/env").await,
        (StatusCode::OK, "PLUG=changed".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependency_sees_the_environment_only_when_it_inherits_it() {
    for (inherits, expected) in [
        ("", ""),
        (", inherit_configuration = false", ""),
        (", inherit_configuration = [\"variables\"]", ""),
        (", inherit_configuration = [\"environment\"]", "GREETING=hi"),
        (", inherit_configuration = true", "GREETING=hi"),
    ] {
        let lines = PLUGGED.replace("\"plug.wasm\"", &format!("\"plug.wasm\"{inherits}"));
        let app = start_plugged(&lines, HANDS_ON).await;
        assert_eq!(
            app.get("/env").await,
            (StatusCode::OK, expected.into()),
            "{inherits:?}"
        );
    }
    let lines = format!("dependencies_inherit_configuration = true\n{PLUGGED}");
    let app = start_plugged(&lines, HANDS_ON).await;
    assert_eq!(app.get("/env").await.1, "GREETING=hi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependency_that_imports_more_than_it_is_given_is_refused_by_the_imports_name() {
    for import in [
        "spin:variables/variables@3.0.0",
        "spin:sqlite/sqlite@3.1.0",
        "wasi:http/client@0.3.0",
        "wasi:sockets/tcp@0.2.6",
        "acme:thing/x@1.0.0",
    ] {
        let greedy = plug(ANSWERS).replacen(
            "(component",
            &format!("(component (import \"{import}\" (instance (export \"f\" (func))))"),
            1,
        );
        let error = refused(PLUGGED, &greedy).await;
        assert!(
            error.contains(import) && error.contains("dependency `wasi:cli/environment`"),
            "{import}: {error}"
        );
    }
    // An interface of types alone gives nothing.
    let types = plug(ANSWERS).replacen(
        "(component",
        "(component (import \"acme:thing/types@1.0.0\" (instance (type $t (record (field \"a\" u32))) (export \"t\" (type (eq $t)))))",
        1,
    );
    let app = start_plugged(PLUGGED, &types).await;
    assert_eq!(app.get("/env").await.1, "PLUG=answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependency_that_does_not_fit_is_refused_by_name() {
    let lines = |key: &str, rest: &str| {
        format!("dependencies = {{ \"{key}\" = {{ path = \"plug.wasm\"{rest} }} }}")
    };
    let answers = plug(ANSWERS);
    for (lines, plug, said) in [
        (
            PLUGGED.to_owned(),
            "(component)",
            "does not export `wasi:cli/environment@0.2.",
        ),
        (
            lines("wasi:cli/environment", ", export = \"acme:other/one\""),
            answers.as_str(),
            "does not export `acme:other/one`; it exports `wasi:cli/environment@0.2.",
        ),
        (
            lines("acme:other/one", ""),
            answers.as_str(),
            "the component does not import it",
        ),
        (PLUGGED.to_owned(), "(module)", "is not a component"),
        (
            PLUGGED.to_owned(),
            r#"(component
                (core module $m (func (export "f")))
                (core instance $m (instantiate $m))
                (func $f (canon lift (core func $m "f")))
                (instance (export "ENVIRONMENT") (export "get-environment" (func $f))))"#,
            "does not fit the import",
        ),
    ] {
        let error = refused(&lines, plug).await;
        assert!(error.contains(said), "{said:?} is not in {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_trap_in_a_dependency_ends_only_its_own_instance() {
    let lines = format!("{PLUGGED}\n[component.a.tool.innover]\ninstance_concurrency = 1");
    let app = start_plugged(&lines, &plug("unreachable")).await;
    let trap = app.call("a", "/env", "");
    let other = app.get("/sleep?ms=200");
    let (trapped, slept) = tokio::join!(trap, other);
    assert_eq!(trapped.err(), Some(CallError::Trapped));
    assert_eq!(slept, (StatusCode::OK, "slept".into()));
    assert_eq!(app.get("/hello").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_endless_loop_in_a_dependency_ends_at_the_deadline() {
    let lines = format!(
        "{PLUGGED}\n[component.a.tool.innover]\ninstance_concurrency = 1\ndeadline_ms = 1000"
    );
    let app = start_plugged(&lines, &plug("(loop $l (br $l)) unreachable")).await;
    let started = std::time::Instant::now();
    let answer = app.http("/env").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    // Not the deadline of a component that names none.
    assert!(started.elapsed() < std::time::Duration::from_secs(8));
    assert_eq!(app.get("/hello").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_a_dependency_asks_for_ends_at_the_components_limit() {
    let lines = format!("{PLUGGED}\n[component.a.tool.innover]\nmemory_mb = 32");
    // Grows until it is refused; 32 MiB are 512 pages.
    let hog = plug(
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        (if (i32.gt_u (memory.size) (i32.const 512)) (then unreachable))
        (i32.const 8)",
    );
    let app = start_plugged(&lines, &hog).await;
    assert_eq!(app.get("/env").await, (StatusCode::OK, String::new()));
    let filling = plug(
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
    );
    let app = start_plugged(&lines, &filling).await;
    assert_eq!(
        app.call("a", "/env", "").await.err(),
        Some(CallError::Trapped)
    );
    assert_eq!(app.get("/hello").await.0, StatusCode::OK);
}
