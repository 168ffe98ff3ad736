//! Whose turn it is to run a guest: no more run at once than the machine has cores for.
//!
//! Promises: a thread that has a turn gets no second one but shares its own, so that a test with two guests
//! cannot wait for itself; tests that wait for what another test gathers hold no turn. Not here: other
//! processes, which have turns of their own.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

/// How many guests run at once: `CGPATH_GUESTS`, or the cores up to this many. A guest keeps one core busy
/// (without KVM one thread emulates all its processors) and has 1.5 GiB of memory.
const MOST_GUESTS: usize = 4;

static TAKEN: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

thread_local! {
    static MINE: RefCell<Weak<Slot>> = const { RefCell::new(Weak::new()) };
}

/// Held while a guest runs and while it is being made.
#[derive(Clone, Debug)]
pub struct Turn {
    _slot: Arc<Slot>,
}

#[derive(Debug)]
struct Slot {
    /// In a test, the test's name.
    thread: Option<String>,
    begun: Instant,
}

/// Waits until it is this thread's turn.
pub fn take() -> Turn {
    if let Some(slot) = MINE.with_borrow(Weak::upgrade) {
        return Turn { _slot: slot };
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    while *taken >= most() {
        taken = ENDED.wait(taken).unwrap_or_else(PoisonError::into_inner);
    }
    *taken += 1;
    drop(taken);
    let slot = Arc::new(Slot {
        thread: std::thread::current().name().map(str::to_owned),
        begun: Instant::now(),
    });
    MINE.set(Arc::downgrade(&slot));
    Turn { _slot: slot }
}

fn most() -> usize {
    let wanted = std::env::var("CGPATH_GUESTS")
        .ok()
        .and_then(|text| text.parse().ok());
    let cores = || {
        std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MOST_GUESTS)
    };
    wanted.unwrap_or_else(cores).max(1)
}

impl Drop for Slot {
    fn drop(&mut self) {
        // `cargo xtask test` lists the slowest tests by these lines. The name has the module in it in a test
        // only.
        if let Some(test) = self.thread.as_ref().filter(|name| name.contains("::")) {
            println!("TEST-SECONDS {test} {:.1}", self.begun.elapsed().as_secs_f64());
        }
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_have_a_turn_than_may_and_a_thread_never_waits_for_itself() {
        let running = AtomicUsize::new(0);
        let highest = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 * most() {
                scope.spawn(|| {
                    let first = take();
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    highest.fetch_max(now, Ordering::SeqCst);
                    let second = take();
                    drop(first);
                    std::thread::yield_now();
                    let third = take();
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop((second, third));
                });
            }
        });
        assert!((1..=most()).contains(&highest.into_inner()));
        assert_eq!(*TAKEN.lock().unwrap(), 0);
    }
}
