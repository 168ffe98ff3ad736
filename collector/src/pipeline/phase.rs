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
        target: Option<u64>,
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
        target: Option<u64>,
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
/// numbers back one by one does not keep a checkpoint from being sealed.
pub(super) const LONGEST_WAIT: u32 = 30;

/// A wait for records that are on their way: it is over when none of them has come for a while.
///
/// Time alone says nothing: on a busy node the ring is read late, and what stands in it is not lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    timeout: Duration,
    ends: Duration,
    /// How many were missing when one came last.
    missing: u64,
    gives_up: Duration,
}

impl Wait {
    pub(super) fn new(timeout: Duration, now: Duration) -> Wait {
        Wait {
            timeout,
            ends: now + timeout * LONGEST_WAIT,
            missing: u64::MAX,
            gives_up: now + timeout,
        }
    }

    /// Whether it is over at `now`, with so many still missing.
    pub(super) fn is_over(&mut self, missing: u64, now: Duration) -> bool {
        if missing < self.missing {
            self.missing = missing;
            self.gives_up = (now + self.timeout).min(self.ends);
        }
        now >= self.gives_up
    }
}
