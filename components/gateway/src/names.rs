//! Request and span ids. They name, they do not protect: a generator seeded once per instance gives
//! them, instead of six calls of the host per request.

use std::sync::Mutex;

/// A generator of ids (xorshift128+), seeded with 128 random bits.
#[derive(Clone, Copy, Debug)]
pub struct Names(u64, u64);

static SHARED: Mutex<Option<Names>> = Mutex::new(None);

impl Names {
    /// A generator from 16 random bytes.
    pub fn seeded(seed: [u8; 16]) -> Names {
        let (a, b) = seed.split_at(8);
        let word = |half: &[u8]| {
            half.iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        // All zero is the one state the generator never leaves.
        Names(word(a) | 1, word(b))
    }

    fn next(&mut self) -> u64 {
        let (mut x, y) = (self.0, self.1);
        let sum = x.wrapping_add(y);
        x ^= x << 23;
        *self = Names(y, x ^ y ^ (x >> 17) ^ (y >> 26));
        sum
    }

    /// Eight bytes for a span.
    pub fn span(&mut self) -> [u8; 8] {
        self.next().to_be_bytes()
    }

    /// 24 bytes for a trace and its first span.
    pub fn trace(&mut self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.span());
        }
        bytes
    }

    /// A UUIDv7 (RFC 9562 §5.7) of this time, as text.
    pub fn uuid(&mut self, now_us: i64) -> String {
        let ms = u64::try_from(now_us / 1_000).unwrap_or_default();
        let high = ms << 16 | 0x7000 | (self.next() >> 52);
        let low = 0x8000_0000_0000_0000 | (self.next() >> 2);
        let mut text = String::with_capacity(36);
        for (i, byte) in high
            .to_be_bytes()
            .into_iter()
            .chain(low.to_be_bytes())
            .enumerate()
        {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(if digit < 10 {
                    b'0' + digit
                } else {
                    b'a' + digit - 10
                }));
            }
        }
        text
    }
}

/// Uses this instance's generator; `seed` is asked for the first time.
pub fn with<T>(seed: impl FnOnce() -> [u8; 16], name: impl FnOnce(&mut Names) -> T) -> T {
    match SHARED.lock() {
        Ok(mut shared) => name(shared.get_or_insert_with(|| Names::seeded(seed()))),
        Err(_) => name(&mut Names::seeded(seed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_version_7_in_order_of_time_and_never_the_same() {
        let mut names = Names::seeded([3; 16]);
        let first = names.uuid(1_795_172_102_000_000);
        assert_eq!(&first[..14], "01a1f898-6f70-", "the time comes first");
        assert_eq!((&first[14..15], first.len()), ("7", 36), "{first}");
        assert!(matches!(&first[19..20], "8" | "9" | "a" | "b"), "{first}");
        let all: std::collections::HashSet<String> = (0..10_000).map(|_| names.uuid(1)).collect();
        assert_eq!(all.len(), 10_000);
        assert_ne!(
            Names::seeded([1; 16]).uuid(1),
            Names::seeded([2; 16]).uuid(1)
        );
        assert_ne!(Names::seeded([0; 16]).trace(), [0; 24]);
    }
}
