//! How personal data is stored: each person's fields under that person's own data key, the data key
//! wrapped under a key of the environment (AES-256-GCM, NIST SP 800-38D, both times).
//!
//! Every ciphertext is bound to its place, so that one put into another row, column or person's
//! record does not open. Whoever destroys a data key destroys what it sealed.

use std::sync::{Arc, Mutex};

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use hmac::{Hmac, Mac};
use innover_kit::{Code, Failure, Result, config};
use sha2::Sha256;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Random, so one key seals at most 2³² values (SP 800-38D §8.3): a person has thousands, and a key
/// of the environment wraps one key per person.
const NONCE_BYTES: usize = 12;
/// Keys of the environment: the one in use, and those before it until the rotation is through.
const KEKS_MAX: usize = 16;

/// Why something cannot be sealed or opened. Nothing secret is in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The variable does not hold keys.
    #[error(
        "the variable `profile_keys` is not `<id>:<base64 of 32 bytes>,…` ({0}); `innover keys` writes it"
    )]
    Variable(&'static str),
    /// A data key is wrapped under a key that was taken from the list.
    #[error(
        "personal data is wrapped under the key `{0}`, which the variable `profile_keys` does not name; put it back behind the newest one, and take a key out only when `profile.rotate` says that nothing is left under it"
    )]
    NoKey(String),
    /// The key of that id is another one, or the row was changed.
    #[error(
        "the key `{0}` of the variable `profile_keys` does not open what was wrapped under that id: it is another key, or the row was changed"
    )]
    WrongKey(String),
    /// A ciphertext is not what was stored in its place.
    #[error("`{table}.{column}` was changed, or moved here from another place: it does not open")]
    Altered {
        /// Where it is stored.
        table: &'static str,
        /// Where it is stored.
        column: &'static str,
    },
    /// No randomness.
    #[error("the platform gives no random bytes")]
    NoRandomness,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        let text = fault.to_string();
        println!(
            "{}",
            serde_json::json!({"level": "error", "service_name": "profile", "msg": text})
        );
        match fault {
            Fault::Variable(_) | Fault::NoKey(_) | Fault::WrongKey(_) => {
                Failure::new(Code::NotReady, text)
            }
            Fault::Altered { .. } | Fault::NoRandomness => Failure::new(Code::Internal, text),
        }
    }
}

/// Where a ciphertext is stored.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row's primary key.
    pub row: &'a str,
}

/// Length-prefixed, so that no two lists of parts run together.
fn joined(parts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Fault::NoRandomness)?;
    Ok(bytes)
}

fn encrypt(cipher: &Aes256Gcm, aad: &[u8], msg: &[u8]) -> Result<String, Fault> {
    let nonce = random::<NONCE_BYTES>()?;
    let mut sealed = nonce.to_vec();
    let text = cipher
        .encrypt(&nonce.into(), Payload { msg, aad })
        .map_err(|_| Fault::NoRandomness)?;
    sealed.extend_from_slice(&text);
    Ok(STANDARD_NO_PAD.encode(sealed))
}

fn decrypt(cipher: &Aes256Gcm, aad: &[u8], sealed: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
    let (nonce, msg) = bytes.split_first_chunk::<NONCE_BYTES>()?;
    cipher.decrypt(nonce.into(), Payload { msg, aad }).ok()
}

fn mac(key: &[u8], parts: &[&str]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    mac.update(&joined(parts));
    mac.finalize().into_bytes().into()
}

/// The keys of the environment (key-encryption keys).
pub struct Keks(Vec<Kek>);

struct Kek {
    id: String,
    cipher: Aes256Gcm,
}

/// The keys this component was given, read once per instance and value.
///
/// # Errors
/// 503 when there are none.
pub async fn keks() -> Result<Arc<Keks>> {
    static READ: Mutex<Option<(String, Arc<Keks>)>> = Mutex::new(None);
    let text = config::get("profile_keys").await?;
    if let Ok(read) = READ.lock()
        && let Some((known, keks)) = &*read
        && *known == text
    {
        return Ok(Arc::clone(keks));
    }
    let keks = Arc::new(Keks::parse(&text)?);
    if let Ok(mut read) = READ.lock() {
        *read = Some((text, Arc::clone(&keks)));
    }
    Ok(keks)
}

impl Keks {
    /// Reads `<id>:<base64 of 32 bytes>,…`.
    ///
    /// # Errors
    /// [`Fault::Variable`]; what is there is not repeated, since it is a secret.
    pub fn parse(text: &str) -> Result<Keks, Fault> {
        let mut keks: Vec<Kek> = Vec::new();
        for part in text.trim().split(',') {
            let (id, key) = part
                .trim()
                .split_once(':')
                .ok_or(Fault::Variable("a part has no colon"))?;
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(Fault::Variable("an id is letters and digits"));
            }
            if keks.iter().any(|known| known.id == id) {
                return Err(Fault::Variable("an id stands there twice"));
            }
            let key: [u8; KEY_BYTES] = STANDARD
                .decode(key)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(Fault::Variable("a key is not base64 of 32 bytes"))?;
            keks.push(Kek {
                id: id.to_owned(),
                cipher: Aes256Gcm::new(&key.into()),
            });
        }
        if keks.len() > KEKS_MAX {
            return Err(Fault::Variable("more keys than 16"));
        }
        Ok(Keks(keks))
    }

    /// The id of the key that wraps.
    pub fn newest(&self) -> &str {
        self.0.first().map_or("", |kek| kek.id.as_str())
    }

    /// The ids of all keys, the one that wraps first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|kek| kek.id.as_str())
    }

    /// Whether there is a key of this id.
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|kek| kek.id == id)
    }

    fn wrap(&self, owner: &str, id: &str, secret: &[u8]) -> Result<Wrapped, Fault> {
        let newest = self.0.first().ok_or(Fault::Variable("it is empty"))?;
        let aad = joined(&["data_keys", "wrapped", owner, id, &newest.id]);
        Ok(Wrapped {
            owner: owner.to_owned(),
            id: id.to_owned(),
            kek_id: newest.id.clone(),
            wrapped: encrypt(&newest.cipher, &aad, secret)?,
        })
    }

    /// A new data key of `owner` and its wrapped form.
    ///
    /// # Errors
    /// [`Fault::NoRandomness`].
    pub fn create(&self, owner: &str, id: &str) -> Result<(DataKey, Wrapped), Fault> {
        let secret = random::<KEY_BYTES>()?;
        Ok((
            DataKey::new(owner, id, &secret),
            self.wrap(owner, id, &secret)?,
        ))
    }

    fn unwrap(&self, key: &Wrapped) -> Result<[u8; KEY_BYTES], Fault> {
        let kek = self.0.iter().find(|kek| kek.id == key.kek_id);
        let kek = kek.ok_or_else(|| Fault::NoKey(key.kek_id.clone()))?;
        let aad = joined(&["data_keys", "wrapped", &key.owner, &key.id, &key.kek_id]);
        decrypt(&kek.cipher, &aad, &key.wrapped)
            .and_then(|secret| secret.try_into().ok())
            .ok_or_else(|| Fault::WrongKey(key.kek_id.clone()))
    }

    /// A stored data key.
    ///
    /// # Errors
    /// [`Fault::NoKey`], [`Fault::WrongKey`].
    pub fn open(&self, key: &Wrapped) -> Result<DataKey, Fault> {
        Ok(DataKey::new(&key.owner, &key.id, &self.unwrap(key)?))
    }

    /// The same data key under the newest key.
    ///
    /// # Errors
    /// As [`Keks::open`].
    pub fn rewrap(&self, key: &Wrapped) -> Result<Wrapped, Fault> {
        self.wrap(&key.owner, &key.id, &self.unwrap(key)?)
    }
}

/// A data key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// Whose it is.
    pub owner: String,
    /// The data key's own id.
    pub id: String,
    /// The key it is wrapped under.
    pub kek_id: String,
    /// The ciphertext.
    pub wrapped: String,
}

impl Wrapped {
    /// What replaces a destroyed key: as long as the key was, so that a database that overwrites a
    /// value of the same length in place leaves nothing of the old one.
    pub fn filler(&self) -> String {
        "A".repeat(self.wrapped.len())
    }
}

/// A person's key, opened.
pub struct DataKey {
    owner: String,
    id: String,
    cipher: Aes256Gcm,
    mac: [u8; 32],
}

impl DataKey {
    fn new(owner: &str, id: &str, secret: &[u8]) -> DataKey {
        // One secret, two keys: none is used for two algorithms.
        DataKey {
            owner: owner.to_owned(),
            id: id.to_owned(),
            cipher: Aes256Gcm::new(&mac(secret, &["seal"]).into()),
            mac: mac(secret, &["digest"]),
        }
    }

    fn aad(&self, place: Place) -> Vec<u8> {
        let Place { table, column, row } = place;
        joined(&[table, column, row, &self.owner, &self.id])
    }

    /// Seals bytes for one place.
    ///
    /// # Errors
    /// [`Fault::NoRandomness`].
    pub fn seal_bytes(&self, place: Place, bytes: &[u8]) -> Result<String, Fault> {
        encrypt(&self.cipher, &self.aad(place), bytes)
    }

    /// Seals a text for one place.
    ///
    /// # Errors
    /// [`Fault::NoRandomness`].
    pub fn seal(&self, place: Place, text: &str) -> Result<String, Fault> {
        self.seal_bytes(place, text.as_bytes())
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// [`Fault::Altered`].
    pub fn open_bytes(&self, place: Place, sealed: &str) -> Result<Vec<u8>, Fault> {
        decrypt(&self.cipher, &self.aad(place), sealed).ok_or(Fault::Altered {
            table: place.table,
            column: place.column,
        })
    }

    /// Opens a text that was sealed for this place.
    ///
    /// # Errors
    /// [`Fault::Altered`].
    pub fn open(&self, place: Place, sealed: &str) -> Result<String, Fault> {
        String::from_utf8(self.open_bytes(place, sealed)?).map_err(|_| Fault::Altered {
            table: place.table,
            column: place.column,
        })
    }

    /// A digest that only this key's holder can make: equal for equal parts, and no help to someone
    /// who guesses them.
    pub fn digest(&self, parts: &[&str]) -> String {
        STANDARD_NO_PAD.encode(mac(&self.mac, parts))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn keks(ids: &[(&str, u8)]) -> Keks {
        let parts: Vec<String> = ids
            .iter()
            .map(|(id, byte)| format!("{id}:{}", STANDARD.encode([*byte; 32])))
            .collect();
        Keks::parse(&parts.join(",")).unwrap()
    }

    const PLACE: Place = Place {
        table: "profiles",
        column: "email",
        row: "usr_1",
    };

    #[test]
    fn a_ciphertext_opens_only_in_the_place_it_was_sealed_for() {
        let keks = keks(&[("k1", 1)]);
        let (ada, _) = keks.create("person:usr_1", "dk_1").unwrap();
        let sealed = ada.seal(PLACE, "ada@example.com").unwrap();
        assert_eq!(ada.open(PLACE, &sealed).unwrap(), "ada@example.com");
        for other in [
            Place {
                table: "documents",
                ..PLACE
            },
            Place {
                column: "username",
                ..PLACE
            },
            Place {
                row: "usr_2",
                ..PLACE
            },
        ] {
            let (table, column) = (other.table, other.column);
            assert_eq!(
                ada.open(other, &sealed),
                Err(Fault::Altered { table, column })
            );
        }
        let (eve, _) = keks.create("person:usr_2", "dk_2").unwrap();
        assert!(eve.open(PLACE, &sealed).is_err(), "another person's key");
        let secret = [7; 32];
        let one = DataKey::new("person:usr_1", "dk_1", &secret);
        let sealed = one.seal(PLACE, "x").unwrap();
        for (owner, id) in [("person:usr_2", "dk_1"), ("person:usr_1", "dk_2")] {
            let same_secret = DataKey::new(owner, id, &secret);
            assert!(same_secret.open(PLACE, &sealed).is_err(), "{owner} {id}");
        }
    }

    #[test]
    fn no_byte_of_a_ciphertext_can_be_changed() {
        let (key, _) = keks(&[("k1", 1)]).create("person:u", "dk").unwrap();
        let sealed = key.seal(PLACE, "Ada").unwrap();
        let bytes = STANDARD_NO_PAD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(key.open(PLACE, &STANDARD_NO_PAD.encode(changed)).is_err());
        }
        assert!(key.open(PLACE, "").is_err());
        assert!(key.open(PLACE, "not base64!").is_err());
    }

    #[test]
    fn the_same_text_is_never_sealed_to_the_same_bytes() {
        let (key, _) = keks(&[("k1", 1)]).create("person:u", "dk").unwrap();
        let all: std::collections::BTreeSet<String> = (0..1_000)
            .map(|_| key.seal(PLACE, "Ada").unwrap())
            .collect();
        assert_eq!(all.len(), 1_000);
    }

    #[test]
    fn a_data_key_opens_under_its_own_key_its_owner_and_its_id_only() {
        let both = keks(&[("k1", 1), ("k2", 2)]);
        let (_, wrapped) = both.create("person:u", "dk").unwrap();
        assert_eq!(wrapped.kek_id, "k1");
        assert!(both.open(&wrapped).is_ok());
        let fault = |keks: &Keks, key: &Wrapped| keks.open(key).err().unwrap();
        assert_eq!(
            fault(&keks(&[("k2", 2)]), &wrapped),
            Fault::NoKey("k1".into())
        );
        assert_eq!(
            fault(&keks(&[("k1", 9)]), &wrapped),
            Fault::WrongKey("k1".into())
        );
        for other in [
            Wrapped {
                owner: "person:v".into(),
                ..wrapped.clone()
            },
            Wrapped {
                id: "dk_2".into(),
                ..wrapped.clone()
            },
            Wrapped {
                wrapped: wrapped.filler(),
                ..wrapped.clone()
            },
        ] {
            assert_eq!(fault(&both, &other), Fault::WrongKey("k1".into()));
        }
    }

    #[test]
    fn a_rewrapped_data_key_opens_what_it_sealed_before_without_the_old_key() {
        let (key, wrapped) = keks(&[("k1", 1)]).create("person:u", "dk").unwrap();
        let sealed = key.seal(PLACE, "Ada").unwrap();
        let digest = key.digest(&["Ada"]);
        let again = keks(&[("k2", 2), ("k1", 1)]).rewrap(&wrapped).unwrap();
        assert_eq!(again.kek_id, "k2");
        assert_eq!(again.wrapped.len(), wrapped.wrapped.len());
        let opened = keks(&[("k2", 2)]).open(&again).unwrap();
        assert_eq!(opened.open(PLACE, &sealed).unwrap(), "Ada");
        assert_eq!(opened.digest(&["Ada"]), digest);
        assert_ne!(opened.digest(&["A", "da"]), opened.digest(&["Ad", "a"]));
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused_without_repeating_it() {
        let key = STANDARD.encode([1; 32]);
        for text in [
            "".to_owned(),
            key.clone(),
            format!(":{key}"),
            format!("k1:{}", &key[..20]),
            format!("k1:{key},k1:{key}"),
            format!("k 1:{key}"),
            format!("k1:{key},"),
        ] {
            let fault = Keks::parse(&text).err().unwrap();
            assert!(matches!(fault, Fault::Variable(_)), "{text}");
            assert!(!fault.to_string().contains(&key[..20]));
        }
    }
}
