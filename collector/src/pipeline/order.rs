//! Puts records back into sequence order, drops those seen before, and knows which never came.
//!
//! The kernel takes a number before it reserves room, so records can arrive slightly out of order, and one
//! for which there was no room leaves a hole. Nothing behind a hole is handed out until it is filled or given
//! up.

use std::collections::BTreeMap;

/// Held back behind a hole at most; then the hole has to be given up.
pub const MAX_HELD: usize = 65_536;

/// The sequence as far as it has been handed out, and what waits.
#[derive(Debug)]
pub struct Order<T> {
    /// The next number to hand out.
    next: u64,
    held: BTreeMap<u64, T>,
    /// Holes that were given up, as ranges first..=last; a record that comes after all is taken out again.
    given_up: BTreeMap<u64, u64>,
    given_up_count: u64,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Order {
            next: 1,
            held: BTreeMap::new(),
            given_up: BTreeMap::new(),
            given_up_count: 0,
        }
    }
}

impl<T> Order<T> {
    /// Takes in a record and hands out to `sink` all that are due now. Returns whether it was new.
    pub fn push(&mut self, seq: u64, item: T, mut sink: impl FnMut(T)) -> bool {
        if seq < self.next {
            let late = self.take_given_up(seq);
            if late {
                sink(item);
            }
            return late;
        }
        if self.held.contains_key(&seq) {
            return false;
        }
        if seq == self.next {
            self.next += 1;
            sink(item);
            self.drain(&mut sink);
        } else {
            self.held.insert(seq, item);
        }
        true
    }

    fn drain(&mut self, sink: &mut impl FnMut(T)) {
        while let Some(item) = self.held.remove(&self.next) {
            self.next += 1;
            sink(item);
        }
    }

    /// Waits no longer for numbers up to `through`: hands out what is held up to there, and counts the holes.
    pub fn give_up(&mut self, through: u64, mut sink: impl FnMut(T)) {
        while self.next <= through {
            match self.held.first_key_value().map(|(seq, _)| *seq) {
                Some(seq) if seq <= through => {
                    self.hole(self.next, seq - 1);
                    self.next = seq;
                    self.drain(&mut sink);
                }
                _ => {
                    self.hole(self.next, through);
                    self.next = through + 1;
                    self.drain(&mut sink);
                }
            }
        }
    }

    fn hole(&mut self, first: u64, last: u64) {
        if first <= last {
            self.given_up.insert(first, last);
            self.given_up_count += last - first + 1;
        }
    }

    fn take_given_up(&mut self, seq: u64) -> bool {
        let Some((&first, &last)) = self.given_up.range(..=seq).next_back() else {
            return false;
        };
        if seq > last {
            return false;
        }
        self.given_up.remove(&first);
        if first < seq {
            self.given_up.insert(first, seq - 1);
        }
        if seq < last {
            self.given_up.insert(seq + 1, last);
        }
        self.given_up_count -= 1;
        true
    }

    /// The last number handed out, or given up, without a hole before it that is still waited for.
    pub fn through(&self) -> u64 {
        self.next - 1
    }

    /// How many numbers up to `seq` have not come and are still waited for.
    pub fn missing(&self, seq: u64) -> u64 {
        let due = (seq + 1).saturating_sub(self.next);
        due.saturating_sub(self.held.range(..=seq).count() as u64)
    }

    /// Holes given up that nothing has filled since.
    pub fn lost(&self) -> u64 {
        self.given_up_count
    }

    /// Where the first hole ends if more than [`MAX_HELD`] records wait behind it.
    pub fn overdue(&self) -> Option<u64> {
        (self.held.len() > MAX_HELD).then(|| self.held.first_key_value().map(|(seq, _)| seq - 1))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_arrival_order_with_repeats_gives_the_same_sequence(
            order in Just((1u64..60).collect::<Vec<_>>()).prop_shuffle(),
            again in prop::collection::vec(1u64..60, 0..20)
        ) {
            let mut o = Order::default();
            let mut out = Vec::new();
            for seq in order.iter().chain(&again) {
                o.push(*seq, *seq, |s| out.push(s));
            }
            prop_assert_eq!(out, (1u64..60).collect::<Vec<_>>());
            prop_assert_eq!(o.lost(), 0);
        }

        #[test]
        fn what_never_comes_is_counted_exactly(present in prop::collection::btree_set(1u64..80, 0..80)) {
            let mut o = Order::default();
            let mut out = Vec::new();
            for seq in present.iter().rev() {
                o.push(*seq, *seq, |s| out.push(s));
            }
            prop_assert_eq!(o.missing(79), 79 - present.len() as u64);
            o.give_up(79, |s| out.push(s));
            prop_assert_eq!(out, present.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(o.lost(), 79 - present.len() as u64);
            prop_assert_eq!(o.through(), 79);
            // What comes late is taken, once.
            for seq in 1..80 {
                prop_assert_eq!(o.push(seq, seq, |_| ()), !present.contains(&seq));
                prop_assert!(!o.push(seq, seq, |_| ()));
            }
            prop_assert_eq!(o.lost(), 0);
        }
    }
}
