//! One pass over a JSON text that refuses what `serde_json` lets through: a key named twice
//! anywhere, nesting beyond the bound, and the character U+0000, which PostgreSQL cannot store.

use std::{collections::BTreeSet, fmt};

use innover_contract::{Code, limits::JSON_DEPTH_MAX};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::{Failure, Result};

/// Checks that `text` is one JSON value, names no key twice, nests at most 64 deep and holds no U+0000.
///
/// # Errors
/// `malformed_json` with line and column, or `duplicate_key` naming the key.
pub fn check(text: &[u8]) -> Result<()> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Level(JSON_DEPTH_MAX)
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|e| match e.to_string().split_once(DUPLICATE) {
            Some((_, rest)) => {
                let key = rest.split('`').next().unwrap_or_default();
                Failure::new(
                    Code::DuplicateKey,
                    format!("the key `{key}` is given twice; give it once"),
                )
            }
            None => Failure::new(
                Code::MalformedJson,
                format!("the body is not valid JSON: {e}"),
            ),
        })
}

const DUPLICATE: &str = "duplicate key `";

#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn inner<E: Error>(self) -> Result<Level, E> {
        self.0
            .checked_sub(1)
            .map(Level)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {JSON_DEPTH_MAX} levels")))
    }
}

fn storable<E: Error>(text: &str) -> Result<(), E> {
    match text.contains('\0') {
        true => Err(E::custom(
            "a text holds the character U+0000, which cannot be stored; leave it out",
        )),
        false => Ok(()),
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        storable(text)
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            storable::<A::Error>(&key)?;
            if seen.contains(&key) {
                return Err(A::Error::custom(format_args!("{DUPLICATE}{key}`")));
            }
            map.next_value_seed(inner)?;
            seen.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_depth_are_refused_wherever_they_stand() {
        assert!(check(br#"{"a":1,"b":[{"a":1},{"a":2}]}"#).is_ok());
        for (text, code) in [
            (r#"{"a":1,"a":2}"#, Code::DuplicateKey),
            (r#"{"x":[{"b":1,"\u0062":2}]}"#, Code::DuplicateKey),
            (r#"{"a":1"#, Code::MalformedJson),
            (r#"{"a":1} {}"#, Code::MalformedJson),
            ("", Code::MalformedJson),
            (r#"["a\u0000"]"#, Code::MalformedJson),
            (r#"{"\u0000":1}"#, Code::MalformedJson),
        ] {
            assert_eq!(
                check(text.as_bytes()).map_err(|f| f.code()),
                Err(code),
                "{text}"
            );
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(check(deep(64).as_bytes()).is_ok());
        assert_eq!(
            check(deep(65).as_bytes()).map_err(|f| f.code()),
            Err(Code::MalformedJson)
        );
    }
}
