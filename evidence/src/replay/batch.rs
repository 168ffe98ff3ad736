//! Replays a measurement list batch by batch, on several threads.
//!
//! Promises: the same results as [`Replay`], whatever the batches and the number of threads; memory for a few
//! batches and no more; nothing is allocated for an entry. Each bank's chain is serial, digests of entries
//! are independent: a thread that is free takes the next batch of a chain whose digests are there, else
//! computes digests. Nobody waits for all.
//! Not here: reading of lists, which the caller's thread does when there is room.

use super::{Extensions, Fill, Register, Replay};
use crate::Bank;
use crate::list::{ListEntry, Listed};
use core::num::NonZeroUsize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Batches that are in work at once, and as many more for each thread.
const BATCHES: usize = 6;

/// No further batch is asked for while those in work hold more than this.
const BYTES: usize = 8 * 1024 * 1024;

/// Replays the batches that `source` gives, until it gives none, into every PCR that their entries name, with
/// at most `threads` threads, the caller's among them. See [`Replay`] for one entry after the other.
///
/// `each` is given every entry, in order, with what its listed digest is worth. Both are called on the
/// caller's thread. Batches of some hundred entries are best: their digests stay in a cache until all chains
/// took them in.
///
/// # Errors
/// Those of `source`, at once.
pub fn replay_batches<B: AsRef<[u8]> + Send + Sync, E>(
    lanes: impl IntoIterator<Item = (Bank, Fill)>,
    threads: NonZeroUsize,
    mut source: impl FnMut() -> Result<Option<Vec<ListEntry<B>>>, E>,
    mut each: impl FnMut(&ListEntry<B>, Listed),
) -> Result<Replay, E> {
    let lanes: Vec<(Bank, Fill)> = lanes.into_iter().collect();
    let mut replay = Replay::new(lanes.iter().copied());
    let mut named = BTreeSet::new();
    let shared = Shared::new(&lanes);
    let room = BATCHES + threads.get();
    let read = thread::scope(|scope| {
        for _ in 1..threads.get() {
            // A thread that cannot be had leaves its share to the others.
            if thread::Builder::new()
                .spawn_scoped(scope, || shared.work())
                .is_err()
            {
                break;
            }
        }
        // Ends the others however this ends.
        let _stop = Stop(&shared);
        loop {
            let (finished, turn) = shared.turn(room);
            for batch in finished {
                for (at, entry) in batch.entries.iter().enumerate() {
                    let Some(listed) = batch.steps.listed(at) else {
                        continue;
                    };
                    replay.entries += 1;
                    replay.violations += u64::from(listed == Listed::Violation);
                    each(entry, listed);
                }
                named.extend(
                    batch
                        .entries
                        .chunk_by(|a, b| a.pcr() == b.pcr())
                        .filter_map(|s| Some(s.first()?.pcr())),
                );
            }
            match turn {
                Turn::Read => shared.add(source()?),
                Turn::Run(task) => shared.run(task),
                Turn::Look => {}
                Turn::Done => return Ok(()),
            }
        }
    });
    read?;
    replay.registers = named.into_iter().map(|pcr| (pcr, Vec::new())).collect();
    let mut chains = shared
        .board
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .chains;
    chains.sort_by_key(|chain| chain.position);
    for chain in chains {
        for (pcr, register) in chain.lane.into_iter().flat_map(|lane| lane.registers) {
            replay.registers.entry(pcr).or_default().push(register);
        }
    }
    Ok(replay)
}

/// One bank's registers.
struct Lane {
    bank: Bank,
    fill: Fill,
    registers: BTreeMap<u32, Register>,
}

/// A batch with its digests.
struct Hashed<B> {
    entries: Vec<ListEntry<B>>,
    steps: Extensions,
    bytes: usize,
}

/// A batch in work.
enum Batch<B> {
    Read(Vec<ListEntry<B>>, usize),
    /// A thread computes its digests.
    Taken,
    Hashed(Arc<Hashed<B>>),
}

/// A lane and how far it is.
struct Chain {
    /// Where the caller named it.
    position: usize,
    /// Not there while a thread extends it.
    lane: Option<Lane>,
    /// The number of the next batch.
    next: usize,
}

/// What is to be done. Threads look at it under a lock and work without it.
struct Board<B> {
    /// In the list's order, without those that all chains took in.
    batches: VecDeque<Batch<B>>,
    /// The number of the first of them.
    first: usize,
    bytes: usize,
    /// Longest first: nothing can make that one shorter.
    chains: Vec<Chain>,
    /// Taken in by all chains and not given to the caller yet.
    finished: Vec<Arc<Hashed<B>>>,
    /// No more batches will come.
    ended: bool,
    /// Nobody wants the result any more.
    stopped: bool,
}

struct Shared<B> {
    board: Mutex<Board<B>>,
    changed: Condvar,
    /// Banks whose digests are extended.
    sources: Vec<Bank>,
}

/// Ends all threads that work for it when it goes.
struct Stop<'a, B>(&'a Shared<B>);

impl<B> Drop for Stop<'_, B> {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

/// What a thread can take.
enum Task<B> {
    /// The chain with this index takes in a batch.
    Chain(usize, Lane, Arc<Hashed<B>>),
    /// The digests of the batch with this number.
    Digests(usize, Vec<ListEntry<B>>, usize),
}

/// What the caller's thread does next.
enum Turn<B> {
    Read,
    Run(Task<B>),
    /// There is something for the caller.
    Look,
    Done,
}

impl<B> Board<B> {
    fn task(&mut self) -> Option<Task<B>> {
        for (index, chain) in self.chains.iter_mut().enumerate() {
            let Some(Batch::Hashed(batch)) = self.batches.get(chain.next - self.first) else {
                continue;
            };
            if let Some(lane) = chain.lane.take() {
                return Some(Task::Chain(index, lane, Arc::clone(batch)));
            }
        }
        let unhashed = |batch: &Batch<B>| matches!(batch, Batch::Read(..));
        let index = self.batches.iter().position(unhashed)?;
        match std::mem::replace(&mut self.batches[index], Batch::Taken) {
            Batch::Read(entries, bytes) => Some(Task::Digests(self.first + index, entries, bytes)),
            Batch::Taken | Batch::Hashed(_) => None,
        }
    }

    /// Takes away what all chains took in.
    fn settle(&mut self) {
        while let Some(Batch::Hashed(batch)) = self.batches.front()
            && self.chains.iter().all(|chain| chain.next > self.first)
        {
            self.finished.push(Arc::clone(batch));
            self.bytes -= batch.bytes;
            self.batches.pop_front();
            self.first += 1;
        }
    }

    fn done(&self) -> bool {
        self.ended && self.batches.is_empty()
    }
}

impl<B: AsRef<[u8]>> Shared<B> {
    fn new(lanes: &[(Bank, Fill)]) -> Shared<B> {
        let chain = |(position, (bank, fill)): (usize, &(Bank, Fill))| Chain {
            position,
            lane: Some(Lane {
                bank: *bank,
                fill: *fill,
                registers: BTreeMap::new(),
            }),
            next: 0,
        };
        let mut chains: Vec<Chain> = lanes.iter().enumerate().map(chain).collect();
        chains.sort_by_key(|chain| core::cmp::Reverse(lanes[chain.position].0));
        let needed = |source: &Bank| lanes.iter().any(|(bank, fill)| fill.source(*bank) == *source);
        Shared {
            sources: Bank::ALL.into_iter().filter(needed).collect(),
            board: Mutex::new(Board {
                batches: VecDeque::new(),
                first: 0,
                bytes: 0,
                chains,
                finished: Vec::new(),
                ended: false,
                stopped: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// What the caller's thread does: reading comes first, so that nobody lacks work.
    fn turn(&self, room: usize) -> (Vec<Arc<Hashed<B>>>, Turn<B>) {
        let mut board = self.lock();
        loop {
            let turn = if !board.ended && board.batches.len() < room && board.bytes < BYTES {
                Turn::Read
            } else if let Some(task) = board.task() {
                Turn::Run(task)
            } else if !board.finished.is_empty() {
                Turn::Look
            } else if board.done() || board.stopped {
                Turn::Done
            } else {
                board = self.wait(board);
                continue;
            };
            return (std::mem::take(&mut board.finished), turn);
        }
    }

    fn add(&self, batch: Option<Vec<ListEntry<B>>>) {
        let mut board = self.lock();
        match batch {
            None => board.ended = true,
            Some(entries) => {
                let bytes = entries.iter().map(|entry| entry.record().len()).sum();
                board.bytes += bytes;
                board.batches.push_back(Batch::Read(entries, bytes));
            }
        }
        drop(board);
        self.changed.notify_all();
    }

    /// What the other threads do, until there is no more.
    fn work(&self) {
        // Where this thread fails, nobody must wait for its work.
        let _stop = Stop(self);
        let mut board = self.lock();
        while !board.done() && !board.stopped {
            board = match board.task() {
                Some(task) => {
                    drop(board);
                    self.run(task);
                    self.lock()
                }
                None => self.wait(board),
            };
        }
        drop(board);
    }

    fn run(&self, task: Task<B>) {
        match task {
            Task::Chain(index, mut lane, batch) => {
                lane.extend(&batch.steps);
                let mut board = self.lock();
                let chain = &mut board.chains[index];
                chain.lane = Some(lane);
                chain.next += 1;
                board.settle();
            }
            Task::Digests(number, entries, bytes) => {
                let steps = Extensions::of(&self.sources, &entries);
                let mut board = self.lock();
                let index = number - board.first;
                board.batches[index] = Batch::Hashed(Arc::new(Hashed {
                    entries,
                    steps,
                    bytes,
                }));
                board.settle();
            }
        }
        self.changed.notify_all();
    }
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, Board<B>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, board: MutexGuard<'a, Board<B>>) -> MutexGuard<'a, Board<B>> {
        self.changed.wait(board).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn extend(&mut self, steps: &Extensions) {
        let Lane {
            bank,
            fill,
            registers,
        } = self;
        let mut at = 0;
        while let Some(pcr) = steps.pcr(at) {
            let register = registers
                .entry(pcr)
                .or_insert_with(|| Register::new(*bank, *fill));
            while steps.pcr(at) == Some(pcr) {
                // All sources were computed.
                steps.extend(at, register);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Decoder;
    use crate::list::tests::{fields, record};
    use crate::list::{BUILTIN, ByteOrder, Form, Layout};
    use proptest::prelude::*;

    /// What an entry's listed digest is.
    #[derive(Debug, Clone, Copy)]
    enum Claim {
        Right,
        Padded,
        Sm3,
        Wrong,
        Violation,
    }

    fn claim() -> impl Strategy<Value = Claim> {
        prop_oneof![
            6 => Just(Claim::Right),
            1 => Just(Claim::Padded),
            1 => Just(Claim::Sm3),
            1 => Just(Claim::Wrong),
            1 => Just(Claim::Violation),
        ]
    }

    fn number(order: ByteOrder, len: usize) -> [u8; 4] {
        match order {
            ByteOrder::Little => (len as u32).to_le_bytes(),
            ByteOrder::Big => (len as u32).to_be_bytes(),
        }
    }

    /// A record of the template with this number, whose fields are `bytes`, claimed as `claim` says.
    fn made(order: ByteOrder, bank: Bank, pcr: u32, template: usize, bytes: &[u8], claim: Claim) -> Vec<u8> {
        let name = BUILTIN[template].0.as_bytes();
        let (data, hashed) = if name == b"ima" {
            let mut digest = [7; 20];
            digest[..bytes.len().min(20)].copy_from_slice(&bytes[..bytes.len().min(20)]);
            let file = &bytes[..bytes.len().min(255)];
            let mut hashed = [&digest[..], file].concat();
            hashed.resize(20 + 256, 0);
            let len = number(order, file.len());
            ([&digest[..], &len, file].concat(), hashed)
        } else {
            let count = BUILTIN[template].1.split('|').count();
            let mut parts = vec![&b"sha256:\0"[..]; count];
            parts[count - 1] = bytes;
            let data = fields(order, &parts);
            (data.clone(), data)
        };
        let mut digest = match claim {
            Claim::Padded => Bank::Sha1.hash(&[&hashed]).bytes().to_vec(),
            Claim::Sm3 if bank == Bank::Sha256 => {
                use sm3::Digest as _;
                sm3::Sm3::digest(&hashed).to_vec()
            }
            Claim::Violation => Vec::new(),
            Claim::Right | Claim::Sm3 | Claim::Wrong => bank.hash(&[&hashed]).bytes().to_vec(),
        };
        digest.resize(bank.len(), 0);
        if matches!(claim, Claim::Wrong) {
            digest[3] ^= 1;
        }
        record(order, pcr, &digest, name, &data)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn batches_give_what_one_entry_after_the_other_gives(
            big in any::<bool>(),
            bank in prop::sample::select(&Bank::ALL[..]),
            lanes in prop::collection::vec((prop::sample::select(&Bank::ALL[..]),
                prop::sample::select(&Fill::ALL[..])), 0..6),
            made_of in prop::collection::vec(
                (prop::sample::select(&[10u32, 10, 10, 11][..]), 0..BUILTIN.len(),
                    prop::collection::vec(any::<u8>(), 0..300), claim()),
                0..400,
            ),
            batch in 1usize..500,
            threads in 1usize..4,
        ) {
            let order = if big { ByteOrder::Big } else { ByteOrder::Little };
            let layout = Layout { order, digest_len: bank.len() };
            let mut decoder = Decoder::new(crate::list::Format::Binary(Some(layout)));
            for (pcr, template, bytes, claim) in &made_of {
                decoder.feed(&made(order, bank, *pcr, *template, bytes, *claim));
            }
            decoder.end();
            prop_assert_eq!(decoder.form(), Some(Form::Binary(layout)));
            let mut entries = Vec::new();
            while let Some(entry) = decoder.next_entry().unwrap() {
                entries.push(entry);
            }
            prop_assert_eq!(entries.len(), made_of.len());

            let mut single = Replay::new(lanes.clone());
            let expected: Vec<_> = entries.iter().map(|entry| (entry.index(), single.push(entry))).collect();
            let mut listed = Vec::new();
            let mut source = entries.chunks(batch).map(<[_]>::to_vec);
            let batches = replay_batches(
                lanes,
                NonZeroUsize::new(threads).unwrap(),
                || Ok::<_, ()>(source.next()),
                |entry, worth| listed.push((entry.index(), worth)),
            )
            .unwrap();
            prop_assert_eq!(listed, expected);
            prop_assert_eq!(
                (batches.entries(), batches.violations()),
                (single.entries(), single.violations())
            );
            let values = |replay: &Replay| -> Vec<_> {
                replay.pcrs().map(|(pcr, r)| (pcr, r.iter().map(Register::value).collect::<Vec<_>>()))
                    .collect()
            };
            prop_assert_eq!(values(&batches), values(&single));
        }
    }

    #[test]
    fn a_replay_of_nothing_names_no_register() {
        for threads in [1, 3].map(|n| NonZeroUsize::new(n).unwrap()) {
            let lanes = [(Bank::Sha1, Fill::Hashed)];
            let none = || Ok::<Option<Vec<ListEntry>>, ()>(None);
            let replay = replay_batches(lanes, threads, none, |_, _| panic!("there is no entry")).unwrap();
            assert_eq!((replay.entries(), replay.pcrs().count()), (0, 0));
        }
    }

    #[test]
    fn an_error_of_the_source_ends_the_replay() {
        for (threads, before) in [(1, 0), (1, 40), (3, 0), (3, 40)] {
            let entry = crate::list::tests::ima_ng(10, "/bin/a", b"a");
            let mut given = 0;
            let source = || {
                given += 1;
                if given > before {
                    Err("broken")
                } else {
                    Ok(Some(vec![entry.clone(); 50]))
                }
            };
            let lanes = Bank::ALL.map(|bank| (bank, Fill::Hashed));
            let replay = replay_batches(lanes, NonZeroUsize::new(threads).unwrap(), source, |_, _| ());
            assert_eq!(replay.err(), Some("broken"));
        }
    }
}
