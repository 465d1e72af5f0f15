//! The attack corpus: every token here but the good ones is refused, by the check that is meant to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use gateway::token::{Issuer, KeySet, Refusal, check};
use jwt_simple::prelude::*;
use serde_json::{Value, json};

const ISSUER: &str = "http://127.0.0.1:3000";
const AUDIENCE: &str = "innover-api";

struct World {
    ed: Ed25519KeyPair,
    rsa: RS256KeyPair,
    keys: KeySet,
    issuer: Issuer,
}

/// RSA keys are slow to make: one serves all tests.
fn world() -> &'static World {
    static WORLD: std::sync::OnceLock<World> = std::sync::OnceLock::new();
    WORLD.get_or_init(|| {
        let ed = Ed25519KeyPair::generate().with_key_id("ed-1");
        let rsa = RS256KeyPair::generate(2048)
            .expect("an RSA key")
            .with_key_id("rsa-1");
        let set = format!(
            r#"{{"keys":[{},{}]}}"#,
            ed.public_key().with_key_id("ed-1").to_jwk(),
            rsa.public_key().with_key_id("rsa-1").to_jwk()
        );
        let keys = KeySet::parse(set.as_bytes()).expect("a key set");
        let issuer = Issuer {
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
        };
        World {
            ed,
            rsa,
            keys,
            issuer,
        }
    })
}

fn now() -> i64 {
    i64::try_from(
        std::time::UNIX_EPOCH
            .elapsed()
            .expect("after 1970")
            .as_secs(),
    )
    .expect("fits")
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "usr_1", "aud": AUDIENCE, "exp": now() + 3600, "iat": now(), "jti": "j1",
        "client_id": "innover-cli", "scope": "wallet:read", "email": "a@b.c", "email_verified": false,
        "groups": ["user"], "roles": ["user"], "preferred_username": "ana"})
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": "ed-1", "typ": "at+jwt"})
}

/// A token with exactly this header and payload text, signed by the Ed25519 key.
fn sign(header: &str, claims: &str) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let pair = ed25519_compact::KeyPair::from_slice(&world().ed.to_bytes()).expect("the same key");
    let signature = pair.sk.sign(&text, None);
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn with(mut base: Value, changes: Value) -> String {
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            // A null takes the member away.
            Value::Null => drop(base.as_object_mut().expect("an object").remove(name)),
            _ => base[name] = value.clone(),
        }
    }
    base.to_string()
}

fn refusal(token: &str) -> Refusal {
    check(token, &world().issuer, &world().keys).expect_err(token)
}

#[test]
fn a_good_token_tells_who_is_calling() {
    for typ in ["at+jwt", "application/at+jwt", "AT+JWT"] {
        for alg in ["EdDSA", "Ed25519"] {
            let token = sign(
                &with(header(), json!({"typ": typ, "alg": alg})),
                &claims().to_string(),
            );
            let good = check(&token, &world().issuer, &world().keys).expect("accepted");
            assert_eq!(good.identity.sub, "usr_1");
            assert_eq!(good.identity.preferred_username, "ana");
            assert!(good.identity.has_scope("wallet:read") && good.identity.has_role("user"));
        }
    }
    let several = sign(
        &header().to_string(),
        &with(claims(), json!({"aud": ["other", AUDIENCE]})),
    );
    assert!(
        check(&several, &world().issuer, &world().keys).is_ok(),
        "one of several audiences"
    );
}

#[test]
fn an_rsa_key_signs_rs256() {
    #[derive(Serialize)]
    struct Custom {
        client_id: &'static str,
    }
    let claims = Claims::with_custom_claims(
        Custom {
            client_id: "innover-cli",
        },
        Duration::from_hours(1),
    )
    .with_issuer(ISSUER)
    .with_audience(AUDIENCE)
    .with_subject("usr_1")
    .with_jwt_id("j");
    let options = HeaderOptions {
        signature_type: Some("at+jwt".into()),
        ..HeaderOptions::default()
    };
    let token = world()
        .rsa
        .sign_with_options(claims, &options)
        .expect("signed");
    assert_eq!(
        check(&token, &world().issuer, &world().keys)
            .expect("accepted")
            .identity
            .sub,
        "usr_1"
    );
}

#[test]
fn forged_headers_are_refused() {
    let good = claims().to_string();
    for (changes, want) in [
        (json!({"alg": "none"}), Refusal::Algorithm),
        (json!({"alg": "None"}), Refusal::Algorithm),
        (json!({"alg": "noNE"}), Refusal::Algorithm),
        (json!({"alg": "HS256"}), Refusal::Algorithm),
        (json!({"alg": "eddsa"}), Refusal::Algorithm),
        (json!({"alg": "RS256"}), Refusal::Algorithm),
        (json!({"alg": "ES256"}), Refusal::Algorithm),
        (json!({"alg": "EdDSA", "kid": "rsa-1"}), Refusal::Algorithm),
        (json!({"alg": null}), Refusal::Header),
        (json!({"alg": ["EdDSA"]}), Refusal::Header),
        (json!({"kid": null}), Refusal::Header),
        (json!({"kid": 1}), Refusal::Header),
        (json!({"kid": ""}), Refusal::UnknownKey),
        (json!({"kid": "../../dev/null"}), Refusal::UnknownKey),
        (json!({"kid": "' UNION SELECT 1 --"}), Refusal::UnknownKey),
        (json!({"kid": "ed-1\0"}), Refusal::UnknownKey),
        (json!({"kid": "ED-1"}), Refusal::UnknownKey),
        (json!({"kid": "k".repeat(8_192)}), Refusal::TooLong),
        (json!({"kid": "k".repeat(2_000)}), Refusal::Shape),
        (json!({"typ": null}), Refusal::Header),
        (json!({"typ": "JWT"}), Refusal::Type),
        (json!({"typ": "id+jwt"}), Refusal::Type),
        (json!({"typ": "logout+jwt"}), Refusal::Type),
        (json!({"typ": "x/at+jwt"}), Refusal::Type),
        (json!({"crit": []}), Refusal::Header),
        (json!({"crit": ["exp"]}), Refusal::Header),
        (
            json!({"jku": "http://169.254.169.254/jwks"}),
            Refusal::Header,
        ),
        (json!({"x5u": "http://127.0.0.1/cert"}), Refusal::Header),
        (json!({"x5c": ["MIIB"]}), Refusal::Header),
        (
            json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AA"}}),
            Refusal::Header,
        ),
        (json!({"zip": "DEF"}), Refusal::Header),
        (json!({"enc": "A256GCM"}), Refusal::Header),
        (json!({"b64": false}), Refusal::Header),
    ] {
        let token = sign(&with(header(), changes.clone()), &good);
        assert_eq!(refusal(&token), want, "{changes}");
    }
    let twice = r#"{"alg":"EdDSA","alg":"EdDSA","kid":"ed-1","typ":"at+jwt"}"#;
    assert_eq!(
        refusal(&sign(twice, &good)),
        Refusal::Header,
        "a member given twice"
    );
}

#[test]
fn wrong_claims_are_refused() {
    let soon = now();
    for (changes, want) in [
        (json!({"iss": "http://evil.example"}), Refusal::Verification),
        (json!({"iss": format!("{ISSUER}/")}), Refusal::Verification),
        (json!({"iss": null}), Refusal::Verification),
        (json!({"aud": null}), Refusal::Verification),
        (json!({"aud": "other"}), Refusal::Verification),
        (json!({"aud": []}), Refusal::Verification),
        (json!({"aud": ["other"]}), Refusal::Verification),
        (json!({"exp": null}), Refusal::Claims),
        (json!({"exp": soon - 31}), Refusal::Verification),
        (json!({"exp": "9999999999"}), Refusal::Verification),
        (json!({"exp": -1}), Refusal::Verification),
        (json!({"exp": 1e308}), Refusal::Claims),
        (json!({"iat": soon + 3_600}), Refusal::Verification),
        (json!({"nbf": soon + 3_600}), Refusal::Verification),
        (json!({"iat": null}), Refusal::Claims),
        (json!({"jti": null}), Refusal::Claims),
        (json!({"sub": null}), Refusal::Claims),
        (json!({"sub": ""}), Refusal::Claims),
        (json!({"sub": 7}), Refusal::Verification),
        (json!({"client_id": null}), Refusal::Claims),
        (json!({"roles": "admin"}), Refusal::Verification),
        (json!({"scope": ["ledger:write"]}), Refusal::Verification),
    ] {
        let token = sign(&header().to_string(), &with(claims(), changes.clone()));
        assert_eq!(refusal(&token), want, "{changes}");
    }
    let within = sign(
        &header().to_string(),
        &with(claims(), json!({"exp": soon - 25})),
    );
    assert!(
        check(&within, &world().issuer, &world().keys).is_ok(),
        "30 s of tolerance"
    );
    let twice = claims().to_string().replacen('{', r#"{"sub":"usr_2","#, 1);
    assert_eq!(
        refusal(&sign(&header().to_string(), &twice)),
        Refusal::Verification,
        "a claim given twice"
    );
}

#[test]
fn broken_shapes_are_refused() {
    let good = sign(&header().to_string(), &claims().to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let json_form =
        format!(r#"{{"protected":"{head}","payload":"{body}","signature":"{signature}"}}"#);
    for token in [
        String::new(),
        "a".into(),
        format!("{head}.{body}"),
        format!("{head}.{body}."),
        format!(".{body}.{signature}"),
        format!("{head}..{signature}"),
        format!("{good}.x.y"),
        format!("{good}="),
        format!(" {good}"),
        format!("{head}.{body}+.{signature}"),
        json_form,
    ] {
        assert_eq!(refusal(&token), Refusal::Shape, "{token}");
    }
    assert_eq!(refusal(&"a".repeat(1_000_000)), Refusal::TooLong);
    let deep = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
    assert_eq!(
        refusal(&sign(&header().to_string(), &deep)),
        Refusal::Verification,
        "deeply nested claims"
    );
}

#[test]
fn changed_tokens_and_foreign_keys_are_refused() {
    let good = sign(&header().to_string(), &claims().to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let admin = URL_SAFE_NO_PAD.encode(with(claims(), json!({"roles": ["admin"]})));
    assert_eq!(
        refusal(&format!("{}.{admin}.{}", parts[0], parts[2])),
        Refusal::Verification
    );
    let zero = URL_SAFE_NO_PAD.encode([0; 64]);
    assert_eq!(
        refusal(&format!("{}.{}.{zero}", parts[0], parts[1])),
        Refusal::Verification
    );
    // The same kid under another key, and the public key used as an HMAC secret.
    let other = Ed25519KeyPair::generate().with_key_id("ed-1");
    let options = || HeaderOptions {
        signature_type: Some("at+jwt".into()),
        ..HeaderOptions::default()
    };
    let claims = || {
        Claims::create(Duration::from_hours(1))
            .with_issuer(ISSUER)
            .with_audience(AUDIENCE)
            .with_subject("usr_1")
    };
    let foreign = other
        .sign_with_options(claims(), &options())
        .expect("signed");
    assert_eq!(refusal(&foreign), Refusal::Verification);
    for secret in [
        world().rsa.public_key().to_pem().expect("pem").into_bytes(),
        world().rsa.public_key().to_der().expect("der"),
        world().ed.public_key().to_bytes(),
    ] {
        for kid in ["rsa-1", "ed-1"] {
            let key = HS256Key::from_bytes(&secret).with_key_id(kid);
            let token = key
                .authenticate_with_options(claims(), &options())
                .expect("signed");
            assert_eq!(refusal(&token), Refusal::Algorithm, "{kid}");
        }
    }
}

#[test]
fn a_key_set_leaves_out_what_is_ambiguous_or_private() {
    let key = world().ed.public_key().with_key_id("ed-1").to_jwk();
    let twice = format!(r#"{{"keys":[{key},{key}]}}"#);
    assert!(
        KeySet::parse(twice.as_bytes()).expect("a set").is_empty(),
        "a kid given twice"
    );
    let private = format!(r#"{{"keys":[{}]}}"#, world().ed.to_jwk());
    assert!(
        KeySet::parse(private.as_bytes()).expect("a set").is_empty(),
        "a private key is no public one"
    );
    let other =
        r#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"},{"kty":"EC","kid":"b"},{"kty":"OKP"}]}"#;
    assert!(KeySet::parse(other.as_bytes()).expect("a set").is_empty());
    assert!(KeySet::parse(b"[]").is_none());
}
