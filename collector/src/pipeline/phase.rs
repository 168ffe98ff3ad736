//! How far the pipeline is with a checkpoint and the evidence about it.

use super::anchoring::Place;
#[cfg(doc)]
use super::event::Action;
use super::event::{OpenMark, Purpose};
use std::time::Duration;

/// How far the checkpoint that is being made has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// [`Action::RunCanary`] was asked for.
    Canary(Purpose),
    /// The list is being read.
    Polling(Purpose),
    /// Records up to the counters' number are waited for.
    Draining {
        purpose: Purpose,
        wait: Wait,
    },
    /// The list is being read to its end again: every entry that a drained record names is in it by then, and
    /// the running value is to cover it.
    Listing(Purpose),
    /// [`Action::Seal`] was asked for.
    Sealing(Purpose),
    /// The last checkpoint is being anchored at `place`, after so many tries; `then` is what to do with it.
    Anchoring {
        then: Then,
        place: Place,
        tries: u32,
    },
    /// [`Action::Answer`] was given. As long as the quote is under way nothing is sealed: so the next
    /// checkpoint, of any request, states what this quote covers, and seals what is shown behind it.
    Quoting {
        id: u64,
    },
    /// What is behind the quote: the list, then the marks, then the records up to the counters' number. In
    /// this order, and a mark goes only after its record was sent: so each entry that the quote covers has
    /// the one or the other.
    Looking {
        id: u64,
        marks: Vec<OpenMark>,
        wait: Wait,
    },
}

/// What to do with a checkpoint that is anchored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// It carries what was asked for.
    Answer(Purpose),
    /// It was left over by a crash or a failure: go on with this.
    Start(Purpose),
    /// It was left over by a crash.
    Nothing,
}

/// No wait lasts longer than so many times [`Setup::drain_timeout`](super::Setup::drain_timeout): who holds
/// numbers back one by one does not keep a checkpoint from being sealed. A round waits twice, before its seal
/// and behind its quote, and its nonce must live longer than both.
pub(super) const LONGEST_WAIT: u32 = 6;

/// A wait for records that are on their way: it is over when none of them has come for a while.
///
/// Time alone says nothing: on a busy node the ring is read late, and what stands in it is not lost. So time
/// counts only as far as the ring was looked at: a full disk and a machine that sleeps stop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    timeout: Duration,
    target: Option<Target>,
    /// How many were missing when one came last.
    missing: u64,
    /// Since one came last.
    idle: Duration,
    /// In all.
    waited: Duration,
    last: Duration,
}

/// What is waited for: as the counters stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// The last number that was given.
    pub seq: u64,
    /// How many numbers the kernel had lost by then. What it loses later explains none that is missing.
    pub lost: u64,
}

impl Wait {
    pub(super) fn new(timeout: Duration, now: Duration) -> Wait {
        Wait {
            timeout,
            target: None,
            missing: u64::MAX,
            idle: Duration::ZERO,
            waited: Duration::ZERO,
            last: now,
        }
    }

    pub(super) fn target(&self) -> Option<Target> {
        self.target
    }

    /// Waits for what there is now; what comes later is not waited for.
    pub(super) fn aim(&mut self, target: Target) {
        self.target.get_or_insert(target);
    }

    /// Whether it is over at `now`, with so many still missing.
    pub(super) fn is_over(&mut self, missing: u64, now: Duration) -> bool {
        let step = now.saturating_sub(self.last).min(self.timeout / 5);
        self.last = now;
        self.waited += step;
        if missing < self.missing {
            self.missing = missing;
            self.idle = Duration::ZERO;
        } else {
            self.idle += step;
        }
        self.idle >= self.timeout || self.waited >= self.timeout * LONGEST_WAIT
    }
}
