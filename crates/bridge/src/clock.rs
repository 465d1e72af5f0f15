//! The time, in microseconds since the epoch. Tests run on tokio's paused clock, where months of
//! backoff pass at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where the bridge reads the time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A start time plus what tokio's clock has advanced since.
    Tokio {
        /// Microseconds since the epoch at `since`.
        start: i64,
        /// The instant that `start` names.
        since: Instant,
    },
}

impl Clock {
    /// A clock that follows tokio's, starting at `start` microseconds since the epoch.
    pub fn tokio(start: i64) -> Clock {
        Clock::Tokio {
            start,
            since: Instant::now(),
        }
    }

    /// Microseconds since the epoch.
    pub fn now(&self) -> i64 {
        match self {
            Clock::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)),
            Clock::Tokio { start, since } => start + micros(since.elapsed()),
        }
    }

    /// Sleeps until `at` (microseconds since the epoch), or `at_most`.
    pub async fn sleep_until(&self, at: i64, at_most: Duration) {
        let wait = u64::try_from(at.saturating_sub(self.now())).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(wait).min(at_most)).await;
    }
}

/// Whether a pause of at most `longest` that ends at `until` is not over. One that ends later than that
/// was begun before the clock was put back.
pub(crate) fn pausing(now: i64, until: i64, longest: Duration) -> bool {
    now < until && until - now <= micros(longest)
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
