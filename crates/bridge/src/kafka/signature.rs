//! Who vouches for an event on a topic.
//!
//! A service believes an event's `source`, and money moves on it. In the bridge's file that is the
//! relay's word; on a topic it is whatever somebody wrote. With a signing key, which every bridge of
//! a platform has and nobody else, an event that claims one of our services without a signature keeps
//! its data and loses that claim: its source is `external`.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header it stands in: `v1=<HMAC-SHA256 of type, a zero byte and value, in base64>`.
pub(crate) const HEADER: &str = "innover-signature";
const VERSION: &str = "v1=";

fn mac(key: &str, kind: &str, value: &[u8]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length, so there always is one.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).ok()?;
    mac.update(kind.as_bytes());
    mac.update(&[0]);
    mac.update(value);
    Some(mac)
}

/// The header's value for an event of type `kind`.
pub(crate) fn sign(key: &str, kind: &str, value: &[u8]) -> Option<String> {
    let tag = mac(key, kind, value)?.finalize().into_bytes();
    Some(format!("{VERSION}{}", STANDARD_NO_PAD.encode(tag)))
}

/// Whether one of our bridges wrote `value` on the topic of `kind`.
pub(crate) fn holds(key: &str, kind: &str, value: &[u8], header: &str) -> bool {
    header
        .strip_prefix(VERSION)
        .and_then(|tag| STANDARD_NO_PAD.decode(tag).ok())
        .zip(mac(key, kind, value))
        .is_some_and(|(tag, mac)| mac.verify_slice(&tag).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_one_key_type_and_value() {
        let header = sign("key", "payment.initiated", b"{}").expect("signed");
        for (key, kind, value, expected) in [
            ("key", "payment.initiated", "{}", true),
            ("other", "payment.initiated", "{}", false),
            ("key", "payment.completed", "{}", false),
            ("key", "payment.initiated", "{ }", false),
        ] {
            let got = holds(key, kind, value.as_bytes(), &header);
            assert_eq!(got, expected, "{key} {kind} {value}");
        }
        for nonsense in ["", "v1=", "v1=*", "v2=AAAA"] {
            assert!(!holds("key", "payment.initiated", b"{}", nonsense));
        }
    }
}
