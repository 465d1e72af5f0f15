//! Checkpoints: the heads of all accounts at one moment, signed.
//!
//! The job `ledger.checkpoint` makes one a minute, whoever may write makes one at any time. The
//! private key is this component's variable `checkpoint_key`; an auditor needs only the public one.

use std::sync::OnceLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_journal::{CheckpointLine, Head, SigningKey, Statement, root};
use innover_kit::{Batch, Code, Db, Failure, Result, config, ids};
use serde::Deserialize;

use crate::store::checkpoints;

/// A private OKP JWK (RFC 8037).
#[derive(Deserialize)]
struct Jwk {
    d: String,
}

/// This component's key.
///
/// # Errors
/// 503 when the variable is missing or holds no key.
pub async fn key() -> Result<&'static SigningKey> {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key);
    }
    let jwk = config::get("checkpoint_key").await?;
    let key = serde_json::from_str::<Jwk>(&jwk)
        .ok()
        .and_then(|jwk| URL_SAFE_NO_PAD.decode(jwk.d).ok())
        .and_then(|seed| SigningKey::from_seed(&seed));
    // The value is a secret: what is wrong with it is not said.
    let key = key.ok_or_else(|| {
        Failure::new(
            Code::NotReady,
            "the variable `checkpoint_key` holds no Ed25519 JWK; run `innover keys`",
        )
    })?;
    Ok(KEY.get_or_init(|| key))
}

/// The public half as a JWK.
pub fn public_jwk(key: &SigningKey) -> serde_json::Value {
    let x = URL_SAFE_NO_PAD.encode(key.public().as_bytes());
    serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA", "use": "sig"})
}

/// The next checkpoint as steps of a batch; `None` when nothing happened since the newest one.
///
/// # Errors
/// 503 without a key; the database.
pub async fn next(db: &Db, batch: &mut Batch) -> Result<Option<CheckpointLine>> {
    let key = key().await?;
    let newest = checkpoints::newest(db).await?;
    let heads = checkpoints::heads(db, newest.as_ref().map_or(0, |c| c.number)).await?;
    if heads.is_empty() {
        return Ok(None);
    }
    let statement = Statement {
        number: newest.as_ref().map_or(0, |c| c.number) + 1,
        created_at: ids::now_us(),
        accounts: heads.len() as i64,
        postings: heads.iter().map(|head| head.postings).sum(),
        root: root(heads.iter().map(|head| Head {
            account: &head.account,
            postings: head.postings,
            hash: head.head,
        })),
        previous: newest.map(|c| c.statement().hash()),
    };
    let signature = key.sign(&statement);
    let line = CheckpointLine {
        number: statement.number,
        created_at: statement.created_at,
        accounts: statement.accounts,
        postings: statement.postings,
        root: statement.root,
        previous: statement.previous,
        signature: signature.iter().map(|b| format!("{b:02x}")).collect(),
    };
    checkpoints::write(batch, &line, &heads);
    Ok(Some(line))
}
