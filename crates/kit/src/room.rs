//! How much of large bodies an instance works for at once.
//!
//! What is read from a body, decided and written takes many times its bytes, of an instance's memory
//! that is bounded: a request too many would end the instance, and with it all that it serves.

use std::sync::atomic::{AtomicUsize, Ordering};

use innover_contract::Code;

use crate::failure::{Failure, Result};

/// Bodies up to here are not counted: as many as an instance serves at once fit.
const SMALL_BYTES: usize = 64 << 10;
/// Large bodies together: two of the largest batches, or seven of 8,190 transfers.
const ROOM_BYTES: usize = 8 << 20;

/// The large bodies of this instance.
pub(crate) static BODIES: Bodies = Bodies(AtomicUsize::new(0));

/// The bytes of large bodies that are worked for.
#[derive(Debug)]
pub(crate) struct Bodies(AtomicUsize);

/// Room for one body, as long as it lives.
#[derive(Debug)]
pub(crate) struct Room(&'static Bodies, usize);

impl Bodies {
    /// Room for a body of so many bytes. One that is alone always finds room.
    ///
    /// # Errors
    /// 503 `overloaded`, to be asked again in a second.
    pub(crate) fn room(&'static self, bytes: usize) -> Result<Room> {
        if bytes <= SMALL_BYTES {
            return Ok(Room(self, 0));
        }
        let fits = |taken: usize| {
            let sum = taken.saturating_add(bytes);
            (taken == 0 || sum <= ROOM_BYTES).then_some(sum)
        };
        match self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => Ok(Room(self, bytes)),
            Err(taken) => Err(Failure::new(
                Code::Overloaded,
                format!(
                    "{taken} bytes of large bodies are worked for already and this one has {bytes}: nothing was done, send it again in a second"
                ),
            )),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_share_a_bound_and_small_ones_do_not_count() {
        static BODIES: Bodies = Bodies(AtomicUsize::new(0));
        let take = |bytes| BODIES.room(bytes);
        let small = [(); 1_000].map(|()| take(SMALL_BYTES).unwrap());
        let alone = take(ROOM_BYTES + 1).unwrap();
        let refused = take(SMALL_BYTES + 1).unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
        drop((small, alone));
        let halves = [(); 2].map(|()| take(ROOM_BYTES / 2).unwrap());
        assert!(take(SMALL_BYTES + 1).is_err());
        drop(halves);
        assert!(take(ROOM_BYTES).is_ok());
    }
}
