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
        deadline: Duration,
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
        deadline: Duration,
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
