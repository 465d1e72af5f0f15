//! Profiles on the running platform: documents and tiers by jobs and decisions, nothing personal in
//! clear in any file of the state, keys rotated and missing, export and erasure.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use innover_tests::{Answer, PATIENCE, Platform, innover, repository, unique};
use reqwest::Method;
use serde_json::{Value, json};

const ME: &str = "/api/profile/v1/profiles/me";
const DOCUMENTS: &str = "/api/profile/v1/profiles/me/documents";
const NAME: &str = "Wilhelmina Featherstonehaugh";
const NUMBER: &str = "ZX81QL48K";
const SCAN: &[u8] = b"%PDF-1.7 the scan of a passport";
const REASON: &str = "Featherstonehaugh lives in Penzance";

async fn put(p: &Platform, user: &str, name: &str, key: &str) -> Answer {
    let body = json!({"display_name": name, "country": "GB"});
    let request = p.request(user, Method::PUT, ME).await;
    request.key(key).json(&body).send().await
}

/// Asks until the answer is as wanted.
async fn until(p: &Platform, user: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = p.get(user, path).await;
        if answer.status == 200 && wanted(&answer.json) {
            return answer.json;
        }
        assert!(Instant::now() < deadline, "{path}: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn state_of(p: &Platform, id: &str, state: &str) -> Value {
    until(p, "user", &format!("{DOCUMENTS}/{id}"), |d| {
        d["state"] == state
    })
    .await
}

/// The files of the state folder that hold a text, in clear or as it is inside a text of base64.
fn files_with(folder: &Path, text: &[u8]) -> Vec<String> {
    // Whatever stands before it, two of the three forms lose at most three characters at each end.
    let forms: Vec<Vec<u8>> = (0..3)
        .map(|shift| {
            let shifted: Vec<u8> = std::iter::repeat_n(b' ', shift)
                .chain(text.iter().copied())
                .collect();
            let encoded = STANDARD.encode(shifted);
            encoded.as_bytes()[4..encoded.len() - 4].to_vec()
        })
        .chain([text.to_vec()])
        .collect();
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let holds = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form);
            if forms.iter().any(holds) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn assert_nothing_in_clear(p: &Platform) {
    for text in [NAME.as_bytes(), NUMBER.as_bytes(), SCAN, REASON.as_bytes()] {
        assert_eq!(files_with(p.state(), text), Vec::<String>::new());
    }
    // The address is the identity service's; no other service, event or job holds it.
    for file in files_with(p.state(), b"user@innover.local") {
        let name = Path::new(&file).file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("identity.db"), "{file}");
    }
}

/// Replaces the profile keys of the state's secrets.
fn edit_secrets(p: &Platform, edit: impl Fn(Vec<String>) -> Vec<String>) {
    let path = p.state().join("secrets.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut parts = text.split("\n[[profile_key]]");
    let head = parts.next().unwrap().to_owned();
    let keys = edit(parts.map(str::to_owned).collect());
    let keys: String = keys
        .iter()
        .map(|key| format!("\n[[profile_key]]{key}"))
        .collect();
    std::fs::write(&path, head + &keys).unwrap();
}

fn new_profile_key(p: &Platform) {
    let made = std::process::Command::new(innover())
        .args(["keys", "--new-profile-key"])
        .current_dir(repository())
        .env("INNOVER_STATE_DIR", p.state())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(said.contains("profile key k2 added"), "{said}");
}

fn counts(keys: &Value) -> Vec<(&str, bool, i64)> {
    let keys = keys["data"].as_array().unwrap().iter();
    keys.map(|k| {
        let id = k["id"].as_str().unwrap();
        (id, k["wraps"] == true, k["data_keys"].as_i64().unwrap())
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_known_step_by_step_and_forgotten_for_good() {
    let mut p = Platform::start().await;

    // Known: an address, a passport by rules, a proof of address by operations.
    let made = put(&p, "user", NAME, "first").await;
    assert_eq!(
        (made.status, &made.json["kyc_tier"]),
        (201, &json!(1)),
        "{}",
        made.text
    );
    let sub = made.id();
    let passport = json!({"type": "passport", "country": "GB", "number": NUMBER,
        "expires_on": "2099-01-31", "content_base64": STANDARD.encode(SCAN)});
    let submitted = p.post("user", DOCUMENTS, passport).await;
    assert_eq!(
        (submitted.status, &submitted.json["state"]),
        (202, &json!("submitted"))
    );
    let passport = submitted.id();
    state_of(&p, &passport, "verified").await;
    let bill = json!({"type": "proof_of_address", "country": "GB", "content_base64": STANDARD.encode(SCAN)});
    let bill = p.post("user", DOCUMENTS, bill).await.id();
    let waiting = state_of(&p, &bill, "verifying").await;
    assert_eq!(waiting["manual_review"], true);
    let decision = format!("/api/profile/v1/documents/{bill}/decision");
    let body = json!({"decision": "verified", "reason": REASON});
    let refused = p.post("user", &decision, body.clone()).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
    let decided = p.post("ops_user", &decision, body).await;
    assert_eq!(
        (decided.status, &decided.json["state"]),
        (200, &json!("verified")),
        "{}",
        decided.text
    );
    until(&p, "user", ME, |me| me["kyc_tier"] == 3).await;
    let again = put(&p, "user", NAME, "first").await;
    assert_eq!(
        (again.status, again.text),
        (201, made.text.clone()),
        "replayed, though it is sealed"
    );

    // Events went out, and nothing personal with them.
    let deadline = Instant::now() + PATIENCE;
    while p.number("profile", "SELECT COUNT(*) FROM outbox") > 0 {
        assert!(Instant::now() < deadline, "the outbox does not empty");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        !files_with(p.state(), passport.as_bytes()).is_empty(),
        "ids are in clear"
    );
    assert_nothing_in_clear(&p);

    // A new key first, the old one behind it; then everything is wrapped under the new one.
    assert_eq!(p.signal("-TERM"), Some(0));
    new_profile_key(&p);
    p.run();
    until(&p, "user", ME, |me| me["display_name"] == NAME).await;
    let keys = p.get("ops_user", "/api/profile/v1/keys").await;
    assert_eq!(
        counts(&keys.json),
        [("k1", false, 2), ("k2", true, 0)],
        "{}",
        keys.text
    );
    let rotation = p
        .post("ops_user", "/api/profile/v1/keys/rotation", json!({}))
        .await;
    assert_eq!(rotation.status, 202, "{}", rotation.text);
    let rotated = |keys: &Value| counts(keys).contains(&("k2", true, 2));
    until(&p, "ops_user", "/api/profile/v1/keys", rotated).await;

    // The old key is taken away: everything reads.
    assert_eq!(p.signal("-TERM"), Some(0));
    edit_secrets(&p, |keys| keys.into_iter().skip(1).collect());
    p.run();
    let read = p
        .get("user", &format!("{DOCUMENTS}/{passport}/content"))
        .await;
    let content = read.json["content_base64"].as_str().unwrap();
    assert_eq!(STANDARD.decode(content).unwrap(), SCAN);

    // Another key under the same id: an error that says so, and nothing else suffers.
    assert_eq!(p.signal("-TERM"), Some(0));
    let secrets = std::fs::read_to_string(p.state().join("secrets.toml")).unwrap();
    edit_secrets(&p, |_| {
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let wrong = URL_SAFE_NO_PAD.encode([7; 32]);
        vec![format!("\nid = \"k2\"\nkey = \"{wrong}\"\n")]
    });
    p.run();
    let wrong = p.get("user", ME).await;
    assert_eq!(
        (wrong.status, wrong.code()),
        (503, "not_ready"),
        "{}",
        wrong.text
    );
    assert!(wrong.text.contains("`k2`"), "{}", wrong.text);
    let new = put(&p, "admin", "Someone", &unique()).await;
    assert_eq!(
        (new.status, new.code()),
        (503, "not_ready"),
        "nothing is wrapped under it"
    );
    assert_eq!(p.get("user", "/api/profile/v1/health").await.status, 200);
    assert_eq!(p.signal("-TERM"), Some(0));
    std::fs::write(p.state().join("secrets.toml"), secrets).unwrap();
    p.run();

    // Everything that is held, for the person and, on record, for operations.
    let own = p.get("user", &format!("{ME}/export")).await;
    assert_eq!(own.json["profile"]["display_name"], NAME, "{}", own.text);
    assert_eq!(own.json["documents"][0]["number"], NUMBER);
    let path = format!("/api/profile/v1/profiles/{sub}/export");
    let asked = p
        .post("ops_user", &path, json!({"reason": "ticket 4711"}))
        .await;
    assert_eq!(asked.status, 200, "{}", asked.text);
    assert_eq!(
        asked.json["decisions"].as_array().unwrap().last().unwrap()["field"],
        "export"
    );

    // Forgotten.
    let wrapped = p.text(
        "profile",
        &format!("SELECT wrapped FROM data_keys WHERE owner = 'person:{sub}'"),
    );
    let erased = p
        .post(
            "user",
            &format!("{ME}/erase"),
            json!({"reason": "asked for it"}),
        )
        .await;
    assert_eq!(
        (erased.status, &erased.json["state"]),
        (200, &json!("erased")),
        "{}",
        erased.text
    );
    let again = p
        .post(
            "admin",
            &format!("/api/profile/v1/profiles/{sub}/erase"),
            json!({"reason": "again"}),
        )
        .await;
    assert_eq!(again.json, erased.json);
    for path in [ME.to_owned(), format!("{ME}/export"), DOCUMENTS.to_owned()] {
        let gone = p.get("user", &path).await;
        assert_eq!(
            (gone.status, gone.code()),
            (410, "profile_erased"),
            "{}",
            gone.text
        );
    }
    let write = put(&p, "user", NAME, "first").await;
    assert_eq!((write.status, write.code()), (410, "profile_erased"));
    let left = p.text(
        "profile",
        &format!(
            "SELECT state || username || email || display_name FROM profiles WHERE id = '{sub}'"
        ),
    );
    assert_eq!(left, "erased");
    assert_ne!(
        wrapped,
        p.text(
            "profile",
            &format!("SELECT wrapped FROM data_keys WHERE owner = 'person:{sub}'")
        )
    );
    assert_nothing_in_clear(&p);
    let deadline = Instant::now() + PATIENCE;
    while p.number("profile", "SELECT COUNT(*) FROM outbox") > 0 {
        assert!(Instant::now() < deadline, "the outbox does not empty");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!files_with(p.state(), b"profile.erased").is_empty());
    assert_nothing_in_clear(&p);
    assert_eq!(p.signal("-TERM"), Some(0));
}
