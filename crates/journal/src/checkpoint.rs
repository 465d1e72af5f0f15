//! Checkpoints: a signature over the heads of all accounts at one moment.

use ed25519_compact::{KeyPair, Seed, Signature};

use crate::{Hash, hash::Fields};

/// An account's last link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub account: &'a str,
    /// How many postings it has had.
    pub postings: i64,
    pub hash: Hash,
}

/// The Merkle root of all heads, which come in the order of their accounts' ids (by bytes). A node
/// without a sibling moves up as it is (RFC 9162, 2.1.1); leaves and nodes are hashed under
/// different names, so that none passes for the other.
pub fn root<'a>(heads: impl IntoIterator<Item = Head<'a>>) -> Hash {
    let leaf = |head: Head<'_>| {
        Fields::of("innover/head/1")
            .text(head.account)
            .number(head.postings)
            .hash(&head.hash)
            .done()
    };
    let mut level: Vec<Hash> = heads.into_iter().map(leaf).collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => Fields::of("innover/node/1").hash(left).hash(right).done(),
                // A chunk of two has one or two.
                rest => rest[0],
            })
            .collect();
    }
    level
        .pop()
        .unwrap_or_else(|| Fields::of("innover/no-accounts/1").done())
}

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// From 1, without gaps.
    pub number: i64,
    /// Microseconds since the epoch.
    pub created_at: i64,
    pub accounts: i64,
    pub postings: i64,
    pub root: Hash,
    /// [`Statement::hash`] of the one before; of nothing for the first.
    pub previous: Option<Hash>,
}

impl Statement {
    /// Its digest: what is signed, and what the next one names.
    pub fn hash(&self) -> Hash {
        let fields = Fields::of("innover/checkpoint/1")
            .number(self.number)
            .number(self.created_at)
            .number(self.accounts)
            .number(self.postings)
            .hash(&self.root);
        let previous = self.previous.map(String::from);
        fields.optional(previous.as_deref()).done()
    }
}

/// Signs checkpoints: Ed25519 (RFC 8032).
pub struct SigningKey(KeyPair);

/// Verifies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(ed25519_compact::PublicKey);

impl SigningKey {
    /// From the 32 bytes that are `d` of an OKP JWK (RFC 8037); `None` when they are not 32.
    pub fn from_seed(seed: &[u8]) -> Option<SigningKey> {
        Some(SigningKey(KeyPair::from_seed(Seed::from_slice(seed).ok()?)))
    }

    /// The other half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.pk)
    }

    /// 64 bytes. Without noise: the same statement has one signature.
    pub fn sign(&self, statement: &Statement) -> [u8; 64] {
        *self.0.sk.sign(statement.hash().as_bytes(), None)
    }
}

impl PublicKey {
    /// From the 32 bytes that are `x` of an OKP JWK; `None` when they are no key.
    pub fn from_bytes(bytes: &[u8]) -> Option<PublicKey> {
        ed25519_compact::PublicKey::from_slice(bytes)
            .ok()
            .map(PublicKey)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Whether the signature is this key's, over this statement.
    pub fn verifies(&self, statement: &Statement, signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|s| self.0.verify(statement.hash().as_bytes(), &s).is_ok())
    }
}
