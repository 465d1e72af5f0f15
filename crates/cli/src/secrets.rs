//! `secrets.toml`: one secret per service, the keys access tokens are signed with, and the keys personal
//! data is encrypted under. What is in the file stays as it is, byte for byte; what is missing is
//! appended.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use innover_contract::keyring::{self, KEY_BYTES};
use jwt_simple::prelude::{Ed25519KeyPair, HS256Key, RS256KeyPair};
use serde::Deserialize;

use crate::state;

/// RFC 7518 §3.3 asks for at least this.
const RSA_BITS: usize = 2048;

const HEAD: &str = "\
# Made by `innover` on this machine and never rewritten; what is missing is appended. Keep it: whoever
# has it can speak as any service, sign tokens and read personal data. Without it every token is void,
# and without the [[profile_key]] that was in use nobody's personal data can be read again.
";

/// What the file holds.
pub struct Secrets {
    /// By service name, and `bridge`.
    pub services: BTreeMap<String, [u8; KEY_BYTES]>,
    /// Private JWKs; the first one signs.
    pub signing: Vec<serde_json::Value>,
    /// The private JWK checkpoints of the journal are signed with.
    pub checkpoint: Option<serde_json::Value>,
    /// What the data keys of profiles are wrapped under, in the order of the file: the last one wraps.
    pub profile: Vec<ProfileKey>,
}

/// A key that wraps data keys of profiles.
#[derive(Clone, PartialEq, Eq)]
pub struct ProfileKey {
    /// Stored beside everything the key wraps.
    pub id: String,
    key: [u8; KEY_BYTES],
}

/// The variable `profile_keys`: `<id>:<base64>,…`, the one that wraps first.
pub fn profile_keys(keys: &[ProfileKey]) -> String {
    let newest_first = keys.iter().rev();
    let texts: Vec<String> = newest_first
        .map(|key| format!("{}:{}", key.id, STANDARD.encode(key.key)))
        .collect();
    texts.join(",")
}

/// What an [`ensure`] had to add, for the line that says so.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Added {
    pub services: usize,
    pub signing_keys: usize,
    pub profile_keys: usize,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    service: Vec<Service>,
    #[serde(default)]
    signing_key: Vec<SigningKey>,
    checkpoint_key: Option<SigningKey>,
    #[serde(default)]
    profile_key: Vec<NewProfileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProfileKey {
    id: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SigningKey {
    alg: String,
    jwk: String,
}

/// A further secret that follows from one that is kept, for one `purpose`.
pub fn derive(secret: &[u8; KEY_BYTES], purpose: &str) -> String {
    URL_SAFE_NO_PAD.encode(keyring::derive(secret, purpose))
}

/// Reads the file. Its content never appears in an error.
pub fn read(path: &Path) -> Result<Secrets> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; `innover keys` makes it", path.display()))?;
    parse(&text).with_context(|| {
        format!(
            "{} is damaged; restore it from a backup, or move it away and run `innover keys` for new keys (tokens that are out become void, and personal data of profiles cannot be read again)",
            path.display()
        )
    })
}

fn parse(text: &str) -> Result<Secrets> {
    // toml's error shows the line, and the line is the secret: only the place is passed on.
    let file: File = toml::from_str(text).map_err(|error: toml::de::Error| {
        let end = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..end]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        anyhow!("line {line} is not what `innover` wrote")
    })?;
    let mut services = BTreeMap::new();
    for Service { name, secret } in file.service {
        let bytes = URL_SAFE_NO_PAD.decode(&secret).ok();
        let bytes = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
        let Some(bytes) = bytes else {
            bail!("the secret of {name} is not base64url of {KEY_BYTES} bytes");
        };
        if services.insert(name.clone(), bytes).is_some() {
            bail!("{name} has two secrets");
        }
    }
    let mut signing = Vec::new();
    let jwk = |SigningKey { alg, jwk }: SigningKey| {
        serde_json::from_str(&jwk).map_err(|_| anyhow!("the {alg} key is not a JWK"))
    };
    for key in file.signing_key {
        signing.push(jwk(key)?);
    }
    let mut profile: Vec<ProfileKey> = Vec::new();
    for NewProfileKey { id, key } in file.profile_key {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            bail!("the id of a profile_key is letters and digits");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&key).ok();
        let Some(bytes) = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok()) else {
            bail!("the profile_key {id} is not base64url of {KEY_BYTES} bytes");
        };
        if profile.iter().any(|known| known.id == id) {
            bail!("there are two profile_keys {id}");
        }
        profile.push(ProfileKey { id, key: bytes });
    }
    Ok(Secrets {
        services,
        signing,
        checkpoint: file.checkpoint_key.map(jwk).transpose()?,
        profile,
    })
}

/// Reads the file and appends a secret for each of `names` that has none, and the signing keys
/// where there are none: Ed25519 first, which is what the identity service signs with by default.
pub fn ensure(path: &Path, names: &[String]) -> Result<(Secrets, Added)> {
    let (mut text, known) = if path.exists() {
        let known = read(path)?;
        (
            fs::read_to_string(path).context("cannot read the secrets")?,
            known,
        )
    } else {
        (
            HEAD.to_owned(),
            Secrets {
                services: BTreeMap::new(),
                signing: vec![],
                checkpoint: None,
                profile: vec![],
            },
        )
    };
    let mut added = Added::default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for name in names
        .iter()
        .filter(|name| !known.services.contains_key(*name))
    {
        let secret = URL_SAFE_NO_PAD.encode(HS256Key::generate().to_bytes());
        text.push_str(&format!(
            "\n[[service]]\nname = \"{name}\"\nsecret = \"{secret}\"\n"
        ));
        added.services += 1;
    }
    if known.signing.is_empty() {
        for (alg, jwk) in [("EdDSA", new_ed25519()?), ("RS256", new_rsa()?)] {
            // A JWK is base64url and ASCII names: nothing in it ends a literal string of TOML.
            text.push_str(&format!(
                "\n[[signing_key]]\nalg = \"{alg}\"\njwk = '{jwk}'\n"
            ));
            added.signing_keys += 1;
        }
    }
    if known.checkpoint.is_none() {
        let jwk = new_ed25519()?;
        text.push_str(&format!(
            "\n[checkpoint_key]\nalg = \"EdDSA\"\njwk = '{jwk}'\n"
        ));
        added.signing_keys += 1;
    }
    if known.profile.is_empty() {
        text.push_str(&new_profile_key(&known.profile));
        added.profile_keys += 1;
    }
    // Also tightens the permissions of a file that others may read.
    state::replace(path, &text)?;
    Ok((
        parse(&text).context("what was just written does not read back")?,
        added,
    ))
}

/// Appends a key that wraps from the next start on; returns its id. Keys before it still unwrap, until
/// `profile.rotate` has wrapped everything under the new one.
pub fn add_profile_key(path: &Path) -> Result<String> {
    let known = read(path)?;
    let mut text = fs::read_to_string(path).context("cannot read the secrets")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&new_profile_key(&known.profile));
    let after = parse(&text).context("what was to be written does not read back")?;
    state::replace(path, &text)?;
    let newest = after.profile.last().map(|key| key.id.clone());
    newest.context("no profile_key was added")
}

/// A key whose id is one above those of `known`, so that no id is used twice.
fn new_profile_key(known: &[ProfileKey]) -> String {
    let numbers = known.iter().filter_map(|key| key.id.strip_prefix('k'));
    let last = numbers.filter_map(|n| n.parse::<u32>().ok()).max();
    let next = last.map_or(1, |n| n.saturating_add(1));
    let key = URL_SAFE_NO_PAD.encode(HS256Key::generate().to_bytes());
    format!("\n[[profile_key]]\nid = \"k{next}\"\nkey = \"{key}\"\n")
}

fn new_ed25519() -> Result<String> {
    let pair = Ed25519KeyPair::generate();
    let id = pair.jwk_thumbprint();
    with_alg(&pair.with_key_id(&id).to_jwk(), "EdDSA")
}

fn new_rsa() -> Result<String> {
    let pair =
        RS256KeyPair::generate(RSA_BITS).map_err(|e| anyhow!("cannot make an RSA key: {e}"))?;
    let id = pair.jwk_thumbprint();
    with_alg(&pair.with_key_id(&id).to_jwk(), "RS256")
}

/// Names the algorithm whatever the library leaves out: a verifier binds it to the key.
fn with_alg(jwk: &str, alg: &str) -> Result<String> {
    let mut jwk: serde_json::Map<_, _> =
        serde_json::from_str(jwk).context("a new key is no JSON")?;
    jwk.insert("alg".into(), alg.into());
    jwk.insert("use".into(), "sig".into());
    // RFC 7517 §4.3: `use` and `key_ops` should not be used together.
    jwk.remove("key_ops");
    Ok(serde_json::Value::Object(jwk).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn secrets_are_made_once_private_and_only_appended_to() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("secrets.toml");
        let (first, added) = ensure(&path, &names(&["bridge", "wallet"])).unwrap();
        assert_eq!(
            added,
            Added {
                services: 2,
                signing_keys: 3,
                profile_keys: 1
            }
        );
        assert_eq!(state::mode(&path), Some(0o600));
        let text = fs::read_to_string(&path).unwrap();

        let (again, added) = ensure(&path, &names(&["bridge", "wallet"])).unwrap();
        assert_eq!(added, Added::default());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(
            (&again.services, &again.signing),
            (&first.services, &first.signing)
        );

        let (more, added) = ensure(&path, &names(&["bridge", "wallet", "ledger"])).unwrap();
        assert_eq!(
            added,
            Added {
                services: 1,
                ..Added::default()
            }
        );
        assert!(
            fs::read_to_string(&path).unwrap().starts_with(&text),
            "the old bytes stay"
        );
        assert_eq!(more.services["wallet"], first.services["wallet"]);
        assert_ne!(more.services["ledger"], more.services["wallet"]);
    }

    #[test]
    fn the_signing_keys_are_private_jwks_that_sign() {
        let temp = tempfile::tempdir().unwrap();
        let (secrets, _) = ensure(&temp.path().join("s.toml"), &[]).unwrap();
        let [ed, rsa] = &secrets.signing[..] else {
            panic!("two keys")
        };
        assert_eq!(
            (&ed["kty"], &ed["crv"], &ed["alg"]),
            (&"OKP".into(), &"Ed25519".into(), &"EdDSA".into())
        );
        assert_eq!((&rsa["kty"], &rsa["alg"]), (&"RSA".into(), &"RS256".into()));
        assert!(Ed25519KeyPair::from_jwk(&ed.to_string()).is_ok());
        assert!(RS256KeyPair::from_jwk(&rsa.to_string()).is_ok());
        assert!(
            ed["kid"].as_str().is_some_and(|kid| kid.len() == 43),
            "the RFC 7638 thumbprint"
        );
    }

    #[test]
    fn a_new_profile_key_is_appended_and_named_first_while_the_old_one_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("secrets.toml");
        let (first, _) = ensure(&path, &[]).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        let [only] = &first.profile[..] else {
            panic!("one key")
        };
        let variable = profile_keys(&first.profile);
        let (id, key) = variable.split_once(':').unwrap();
        assert_eq!((id, STANDARD.decode(key).unwrap().len()), ("k1", 32));
        assert_eq!(add_profile_key(&path).unwrap(), "k2");
        assert!(fs::read_to_string(&path).unwrap().starts_with(&before));
        assert_eq!(state::mode(&path), Some(0o600));
        let (second, added) = ensure(&path, &[]).unwrap();
        assert_eq!(added, Added::default());
        assert!(second.profile[0] == *only);
        let both = profile_keys(&second.profile);
        assert!(both.starts_with("k2:"));
        assert!(both.ends_with(&format!(",{variable}")));
    }

    #[test]
    fn a_damaged_file_is_refused_without_showing_it_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("secrets.toml");
        for (text, place) in [
            ("[[service]]\nname = \"a\"\nsecret = \"topsecret", "line 3"),
            (
                "[[service]]\nname = \"a\"\nsecret = \"topsecret\"\n",
                "secret of a",
            ),
            (
                "[[service]]\nname = \"a\"\nsecret = \"topsecret\"\nmore = 1\n",
                "line",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", ensure(&path, &names(&["b"])).err().unwrap());
            assert!(
                error.contains(place) && !error.contains("topsecret"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
