//! How long to wait after a failure.
//!
//! Promise: pauses grow, have some chance in them, and begin anew after a success. Not here: how long to wait
//! after one.

use std::time::Duration;

/// The first pause after a failure.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause of a sink, seconds.
pub(super) const LONGEST_OF_SINK: u64 = 300;

/// Failures since the last success.
pub(super) struct Backoff {
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// With the longest pause, in seconds.
    pub(super) fn new(longest: u64) -> Backoff {
        Backoff {
            longest: Duration::from_secs(longest),
            failures: 0,
        }
    }

    /// Failures since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// One more; gives the pause.
    pub(super) fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        cgpath_net::pause(FIRST, self.longest, self.failures)
    }

    /// It worked.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}
