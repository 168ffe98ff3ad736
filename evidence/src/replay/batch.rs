//! Replays a measurement list batch by batch, on several threads.
//!
//! Promises: the same results as [`Replay`], whatever the batches and the number of threads; memory for two batches of
//! digests and no more; nothing is allocated for an entry. A register's chain is serial, so that each bank's chain is one
//! task; digests of entries are independent and are computed for one batch while the chains take in the batch before.
//! Not here: reading of lists, which the caller does meanwhile.

use super::{Fill, Register, Replay};
use crate::list::{Computed, ListEntry, Listed, TemplateDigests};
use crate::{Bank, many};
use core::num::NonZeroUsize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Entries whose digests are one task: few enough that threads end together, enough to fill lanes.
const TASK_LEN: usize = 256;

/// Replays batches of entries into every PCR that they name. See [`Replay`] for one entry after the other.
#[derive(Debug, Clone)]
pub struct BatchReplay {
    lanes: Vec<Lane>,
    threads: NonZeroUsize,
    /// Banks whose digests are extended.
    sources: Vec<Bank>,
    /// What the chains take in next.
    pending: Vec<Step>,
    /// Memory of the batch before that.
    spare: Vec<Step>,
    /// PCRs that entries named.
    named: BTreeSet<u32>,
    entries: u64,
    violations: u64,
}

/// One bank's registers.
#[derive(Debug, Clone)]
struct Lane {
    bank: Bank,
    fill: Fill,
    registers: BTreeMap<u32, Register>,
}

/// One entry, as far as registers need it.
#[derive(Debug, Clone)]
struct Step {
    pcr: u32,
    listed: Listed,
    /// Those of all sources, unless the entry is a violation.
    digests: Computed,
}

impl Step {
    const EMPTY: Step = Step {
        pcr: 0,
        listed: Listed::Violation,
        digests: [None; Bank::ALL.len()],
    };
}

/// What a thread can take.
enum Task<'a, B> {
    Chain(&'a mut Lane, &'a [Step]),
    Digests(&'a [ListEntry<B>], &'a mut [Step]),
}

impl BatchReplay {
    /// A replay of these banks with at most `threads` threads, the caller's among them.
    pub fn new(lanes: impl IntoIterator<Item = (Bank, Fill)>, threads: NonZeroUsize) -> BatchReplay {
        let lanes: Vec<Lane> = lanes
            .into_iter()
            .map(|(bank, fill)| Lane {
                bank,
                fill,
                registers: BTreeMap::new(),
            })
            .collect();
        let needed = |bank: &Bank| lanes.iter().any(|lane| lane.fill.source(lane.bank) == *bank);
        BatchReplay {
            sources: Bank::ALL.into_iter().filter(needed).collect(),
            lanes,
            threads,
            pending: Vec::new(),
            spare: Vec::new(),
            named: BTreeSet::new(),
            entries: 0,
            violations: 0,
        }
    }

    /// Takes the next entries, and calls `meanwhile` on the caller's thread while others compute: gives what that gave.
    /// What the entries' listed digests are worth is then in [`BatchReplay::listed`].
    pub fn push<B: AsRef<[u8]> + Sync, T>(
        &mut self,
        entries: &[ListEntry<B>],
        meanwhile: impl FnOnce() -> T,
    ) -> T {
        let mut steps = std::mem::take(&mut self.spare);
        steps.resize(entries.len(), Step::EMPTY);
        let digests = entries
            .chunks(TASK_LEN)
            .zip(steps.chunks_mut(TASK_LEN))
            .map(|(entries, steps)| Task::Digests(entries, steps));
        let given = run(
            self.threads,
            &self.sources,
            chains(&mut self.lanes, &self.pending).chain(digests),
            meanwhile,
        );
        self.spare = std::mem::replace(&mut self.pending, steps);
        self.entries += entries.len() as u64;
        for same in self.pending.chunk_by(|a, b| a.pcr == b.pcr) {
            self.named.extend(same.first().map(|step| step.pcr));
            let violations = same.iter().filter(|step| step.listed == Listed::Violation);
            self.violations += violations.count() as u64;
        }
        given
    }

    /// What each listed digest of the entries last given is worth, in their order.
    pub fn listed(&self) -> impl Iterator<Item = Listed> {
        self.pending.iter().map(|step| step.listed)
    }

    /// The registers after the last entry.
    pub fn finish(mut self) -> Replay {
        let chains = chains::<&[u8]>(&mut self.lanes, &self.pending);
        run(self.threads, &self.sources, chains, || ());
        let none = |pcr: &u32| (*pcr, Vec::new());
        let mut registers: BTreeMap<u32, Vec<Register>> = self.named.iter().map(none).collect();
        for lane in &self.lanes {
            for (pcr, register) in &lane.registers {
                registers.entry(*pcr).or_default().push(register.clone());
            }
        }
        Replay {
            lanes: self.lanes.iter().map(|lane| (lane.bank, lane.fill)).collect(),
            registers,
            entries: self.entries,
            violations: self.violations,
        }
    }
}

/// The longest chain first: nothing can make it shorter.
fn chains<'a, B: 'a>(lanes: &'a mut [Lane], steps: &'a [Step]) -> impl Iterator<Item = Task<'a, B>> {
    let mut lanes: Vec<&mut Lane> = lanes.iter_mut().collect();
    lanes.sort_by_key(|lane| core::cmp::Reverse(lane.bank));
    lanes.into_iter().map(|lane| Task::Chain(lane, steps))
}

/// Runs all tasks, and `meanwhile` before the caller's thread takes part.
fn run<'a, B: AsRef<[u8]> + Sync + 'a, T>(
    threads: NonZeroUsize,
    sources: &[Bank],
    tasks: impl Iterator<Item = Task<'a, B>> + Send,
    meanwhile: impl FnOnce() -> T,
) -> T {
    let tasks = Mutex::new(tasks);
    let work = || {
        loop {
            let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                Some(task) => task.run(sources),
                None => break,
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.get() {
            // A thread that cannot be had leaves its share to the others.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        let given = meanwhile();
        work();
        given
    })
}

impl<B: AsRef<[u8]>> Task<'_, B> {
    fn run(self, sources: &[Bank]) {
        match self {
            Task::Chain(lane, steps) => lane.extend(steps),
            Task::Digests(entries, steps) => digests(sources, entries, steps),
        }
    }
}

impl Lane {
    fn extend(&mut self, steps: &[Step]) {
        let Lane {
            bank,
            fill,
            registers,
        } = self;
        let source = fill.source(*bank) as usize;
        for same in steps.chunk_by(|a, b| a.pcr == b.pcr) {
            let Some(first) = same.first() else { continue };
            let register = registers
                .entry(first.pcr)
                .or_insert_with(|| Register::new(*bank, *fill));
            for step in same {
                match &step.digests[source] {
                    Some(digest) => register.extend(digest),
                    None => register.extend_violation(),
                }
            }
        }
    }
}

fn digests<B: AsRef<[u8]>>(sources: &[Bank], entries: &[ListEntry<B>], steps: &mut [Step]) {
    // What the batch before the last one left there.
    for digest in steps.iter_mut().flat_map(|step| &mut step.digests) {
        *digest = None;
    }
    if sources.contains(&Bank::Sha384) && sources.contains(&Bank::Sha512) {
        let hashed = |entry: &'_ ListEntry<B>| !entry.is_violation() && entry.hashed_piece().is_some();
        let messages: Vec<(usize, &[u8])> = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| hashed(entry))
            .filter_map(|(index, entry)| Some((index, entry.hashed_piece()?)))
            .collect();
        many::sha384_and_sha512(&messages, |index, sha384, sha512| {
            if let Some(step) = steps.get_mut(index) {
                step.digests[Bank::Sha384 as usize] = Some(sha384);
                step.digests[Bank::Sha512 as usize] = Some(sha512);
            }
        });
    }
    for (entry, step) in entries.iter().zip(steps) {
        step.pcr = entry.pcr();
        let mut computed = TemplateDigests::new(entry, &mut step.digests);
        step.listed = computed.listed();
        if step.listed != Listed::Violation {
            for bank in sources {
                computed.get(*bank);
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
            lanes in prop::collection::vec((prop::sample::select(&Bank::ALL[..]), prop::sample::select(&Fill::ALL[..])), 0..6),
            made_of in prop::collection::vec(
                (prop::sample::select(&[10u32, 10, 10, 11][..]), 0..BUILTIN.len(), prop::collection::vec(any::<u8>(), 0..300), claim()),
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
            let expected: Vec<Listed> = entries.iter().map(|entry| single.push(entry)).collect();
            let mut batches = BatchReplay::new(lanes, NonZeroUsize::new(threads).unwrap());
            let mut listed = Vec::new();
            for entries in entries.chunks(batch) {
                let given = batches.push(entries, || entries.len());
                listed.extend(batches.listed());
                prop_assert_eq!(given, entries.len());
            }
            prop_assert_eq!(listed, expected);
            let batches = batches.finish();
            prop_assert_eq!(
                (batches.entries(), batches.violations()),
                (single.entries(), single.violations())
            );
            let values = |replay: &Replay| -> Vec<_> {
                replay.pcrs().map(|(pcr, r)| (pcr, r.iter().map(Register::value).collect::<Vec<_>>())).collect()
            };
            prop_assert_eq!(values(&batches), values(&single));
        }
    }

    #[test]
    fn a_replay_of_nothing_names_no_register() {
        let mut batches = BatchReplay::new([(Bank::Sha1, Fill::Hashed)], NonZeroUsize::MIN);
        batches.push::<&[u8], _>(&[], || ());
        assert_eq!(batches.listed().count(), 0);
        let replay = batches.finish();
        assert_eq!((replay.entries(), replay.pcrs().count()), (0, 0));
    }
}
