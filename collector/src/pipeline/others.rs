//! What another writer did to the register: its own log explains a value that is found there, or nothing
//! does.
//!
//! Pure. Promise: what is explained is a hash chain from the value that was left there to the one that was
//! found, of whole events of that log in its order and of the last checkpoint at most once. Not here: where
//! the log is (see [`crate::anchor`]), whether a verifier accepts its writer.

use super::anchoring::OthersFound;
use cgpath_evidence::td::{self, Register as Value};
use core::ops::Range;

/// New events that are looked at, at most: each pair of them is a place in which the checkpoint may stand.
const MOST_EVENTS: usize = 256;

/// Bytes of them, at most: they go into the journal as one note.
const MOST_BYTES: usize = 512 * 1024;

/// What is known of the register.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Which RTMR.
    pub index: u8,
    /// What it holds if neither the checkpoint nor anybody else has extended it.
    pub before: Value,
    /// What it holds if the checkpoint has, and nobody else since what is known.
    pub after: Value,
    /// What the checkpoint extends it with.
    pub digest: Value,
    /// Whether the checkpoint has extended it.
    pub is_done: bool,
    /// Events of the other log that are in it already.
    pub taken: usize,
}

/// An event of the other writer.
struct Event {
    digest: Value,
    bytes: Range<usize>,
}

/// The events that extend RTMR `index`; `None` where the log cannot be read.
fn events(log: &[u8], index: u8) -> Option<Vec<Event>> {
    let mut events = Vec::new();
    for extension in td::log::read(log).ok()? {
        let extension = extension.ok()?;
        if extension.rtmr == index {
            let bytes = usize::try_from(extension.offset).ok()?..usize::try_from(extension.end).ok()?;
            let digest = extension.digest;
            events.push(Event { digest, bytes });
        }
    }
    Some(events)
}

/// How many events of this log extend RTMR `index`; none where it cannot be read.
pub(crate) fn count(log: &[u8], index: u8) -> u32 {
    let count = events(log, index).map_or(0, |events| events.len());
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl State {
    /// Which events of `log`, from the first that is not known to be in the register, make it hold `found`.
    pub(super) fn explain(&self, log: &[u8], found: &Value) -> Option<OthersFound> {
        let events = events(log, self.index)?;
        // They log first and extend then: when the register was read, the last event may have been to come.
        let starts = [self.taken, self.taken.saturating_sub(1)];
        starts.into_iter().find_map(|start| {
            let new = events.get(start..)?;
            let new = &new[..new.len().min(MOST_EVENTS)];
            let split = if self.is_done {
                chain(self.after, new)
                    .position(|value| value == *found)
                    .map(|end| (Some(0), end))
            } else {
                self.split(new, found)
            };
            let (at, end) = split?;
            let bytes = |events: &[Event]| -> Vec<u8> {
                let ranges = events.iter().map(|event| event.bytes.clone());
                ranges.flat_map(|range| log[range].iter().copied()).collect()
            };
            let (before, after) = new[..end].split_at(at.unwrap_or(end));
            let others = OthersFound {
                before: bytes(before),
                after: bytes(after),
                done: at.is_some(),
                taken: u32::try_from(start + end).ok()?,
            };
            (others.before.len() + others.after.len() <= MOST_BYTES).then_some(others)
        })
    }

    /// Before which of these events the checkpoint has extended the register, if it has, and how many of
    /// them are in it.
    fn split(&self, new: &[Event], found: &Value) -> Option<(Option<usize>, usize)> {
        if let Some(end) = chain(self.before, new).position(|value| value == *found) {
            return Some((None, end));
        }
        chain(self.before, new).enumerate().find_map(|(at, value)| {
            let with = td::extend(&value, &self.digest);
            let more = chain(with, &new[at..]).position(|value| value == *found)?;
            Some((Some(at), at + more))
        })
    }
}

/// A register's value before any of these events, after the first, and so on.
fn chain(value: Value, events: &[Event]) -> impl Iterator<Item = Value> {
    let next = |value: &mut Value, event: &Event| {
        *value = td::extend(value, &event.digest);
        Some(*value)
    };
    core::iter::once(value).chain(events.iter().scan(value, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::boot::EventType;
    use proptest::prelude::*;

    const OURS: Value = [0xaa; 48];
    const ORIGIN: Value = [0x22; 48];

    /// A log of so many events of RTMR 3, each with one of another register before it.
    fn log(events: u8) -> Vec<u8> {
        let mut log = Vec::new();
        for n in 0..events {
            td::log::append(
                &mut log,
                2,
                EventType::EVENT_TAG,
                &[0xff; 48],
                b"of another register",
            );
            td::log::append(&mut log, 3, EventType::EVENT_TAG, &[n; 48], &[n; 5]);
        }
        log
    }

    fn state(taken: usize) -> State {
        State {
            index: 3,
            before: ORIGIN,
            after: td::extend(&ORIGIN, &OURS),
            digest: OURS,
            is_done: false,
            taken,
        }
    }

    /// The register after these steps: an event of theirs, or ours.
    fn value(steps: &[Option<u8>]) -> Value {
        steps.iter().fold(ORIGIN, |value, step| {
            td::extend(&value, &step.map_or(OURS, |n| [n; 48]))
        })
    }

    proptest! {
        #[test]
        fn every_order_of_their_events_and_ours_is_found_and_replays_to_the_value(
            logged in 0u8..20,
            taken in 0u8..20,
            extended in 0u8..20,
            ours in prop::option::of(0u8..20),
        ) {
            let taken = taken.min(logged);
            let extended = extended.clamp(taken, logged);
            let mut steps: Vec<Option<u8>> = (taken..extended).map(Some).collect();
            let at = ours.map(|at| usize::from(at).min(steps.len()));
            if let Some(at) = at {
                steps.insert(at, None);
            }
            let found = value(&steps);
            let others = state(usize::from(taken)).explain(&log(logged), &found).unwrap();
            prop_assert_eq!((others.done, others.taken), (at.is_some(), u32::from(extended)));
            let mut replayed = td::log::replay(&others.before, 3, &ORIGIN).unwrap();
            if others.done {
                replayed = td::extend(&replayed, &OURS);
            }
            prop_assert_eq!(td::log::replay(&others.after, 3, &replayed).unwrap(), found);
        }
    }

    #[test]
    fn what_their_log_does_not_explain_is_not_explained() {
        let foreign = value(&[Some(0), Some(99)]);
        assert_eq!(state(0).explain(&log(5), &foreign), None);
        // In another order, twice ours, one left out.
        for steps in [&[Some(1), Some(0)][..], &[None, None], &[Some(0), Some(2)]] {
            assert_eq!(state(0).explain(&log(5), &value(steps)), None, "{steps:?}");
        }
        let mut cut = log(5);
        cut.pop();
        assert_eq!(state(0).explain(&cut, &value(&[Some(0)])), None);
        // What is known to be done is not done once more.
        let known = State {
            is_done: true,
            ..state(0)
        };
        assert_eq!(known.explain(&log(5), &value(&[Some(0), None])), None);
        let others = known.explain(&log(5), &value(&[None, Some(0), Some(1)])).unwrap();
        assert_eq!((others.before.len(), others.done, others.taken), (0, true, 2));
    }

    #[test]
    fn an_event_that_was_logged_and_not_extended_when_the_register_was_first_read_is_found_later() {
        let others = state(3).explain(&log(3), &value(&[Some(2), None])).unwrap();
        assert_eq!((others.done, others.taken), (true, 3));
    }

    #[test]
    fn no_more_events_are_looked_at_than_the_limit() {
        let mut log = Vec::new();
        for _ in 0..MOST_EVENTS + 1 {
            td::log::append(&mut log, 3, EventType::EVENT_TAG, &[7; 48], b"");
        }
        let found = |events: usize| value(&vec![Some(7); events]);
        assert_eq!(
            state(0).explain(&log, &found(MOST_EVENTS)).unwrap().taken as usize,
            MOST_EVENTS
        );
        assert_eq!(state(0).explain(&log, &found(MOST_EVENTS + 1)), None);
        assert_eq!(count(&log, 3) as usize, MOST_EVENTS + 1);
        assert_eq!((count(&log, 2), count(b"no log", 3)), (0, 0));
    }
}
