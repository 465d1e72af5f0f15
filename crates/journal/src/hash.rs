//! SHA-256 over fields whose borders cannot be moved.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// 32 bytes; 64 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

/// Not 64 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 lower-case hex digits")]
pub struct NotAHash;

impl Hash {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Hash {
        Hash(bytes)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in hash.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }
}

impl TryFrom<String> for Hash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Hash, NotAHash> {
        text.parse()
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Hash, NotAHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAHash),
        };
        let bytes = text.as_bytes();
        if bytes.len() != 64 {
            return Err(NotAHash);
        }
        let mut hash = [0; 32];
        for (out, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
            *out = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Hash(hash))
    }
}

/// Collects fields, each with its length before it, under the name of what they make up: no two
/// different records have the same bytes, and none of one kind has those of another.
pub(crate) struct Fields(Sha256);

impl Fields {
    pub(crate) fn of(kind: &str) -> Fields {
        Fields(Sha256::new()).text(kind)
    }

    fn bytes(mut self, bytes: &[u8]) -> Fields {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Fields {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn number(self, number: i64) -> Fields {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn hash(self, hash: &Hash) -> Fields {
        self.bytes(&hash.0)
    }

    /// Absent and empty differ.
    pub(crate) fn optional(self, text: Option<&str>) -> Fields {
        match text {
            None => self.bytes(&[0]),
            Some(text) => self.bytes(&[1]).text(text),
        }
    }

    pub(crate) fn optional_number(self, number: Option<i64>) -> Fields {
        match number {
            None => self.bytes(&[0]),
            Some(number) => self.bytes(&[1]).number(number),
        }
    }

    pub(crate) fn done(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn borders_absence_and_kinds_are_part_of_a_hash() {
        let all = [
            Fields::of("a").text("bc").text("d"),
            Fields::of("a").text("b").text("cd"),
            Fields::of("ab").text("c").text("d"),
            Fields::of("a").text("bcd"),
            Fields::of("a").optional(None).text("bcd"),
            Fields::of("a").optional(Some("")).text("bcd"),
            Fields::of("a").number(1),
            Fields::of("a").optional_number(Some(1)),
            Fields::of("a").optional_number(None),
        ];
        let all: std::collections::BTreeSet<Hash> = all.into_iter().map(Fields::done).collect();
        assert_eq!(all.len(), 9);
    }

    #[test]
    fn text_reads_back_and_nothing_else_reads() {
        let hash = Fields::of("x").done();
        let text = String::from(hash);
        assert_eq!(
            (text.len(), text.parse(), &hash.to_string()),
            (64, Ok(hash), &text)
        );
        for bad in [
            "",
            "00",
            &text[1..],
            &text.to_uppercase(),
            &format!("{}g", &text[1..]),
        ] {
            assert_eq!(bad.parse::<Hash>(), Err(NotAHash), "{bad}");
        }
    }
}
