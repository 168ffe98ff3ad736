//! What evidence is made from, on disk: sealed records by partition, checkpoint files, and the measurement list, each
//! encoded as evidence carries it.
//!
//! Derived: everything here is made anew from the spool and the kernel when a collector starts. Memory holds one
//! position for each record and each entry and nothing of their content.

use evidence::bundle::MAX_EVIDENCE_LEN;
use evidence::{Boot, Entry, PartitionKey, PodInfo, Position, Quote, Tier, wire};
use minicbor::Encoder;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that wait in memory before they are written.
const BUFFER: usize = 64 * 1024;

/// Bytes between two records of a partition that are read along with them: a read of its own costs more.
const GAP: u64 = 4096;

/// Records that lie within so many bytes are read at once and then put into the order of evidence: those of a round most often
/// do, whose pods took turns.
const AT_ONCE: u64 = 4 * 1024 * 1024;

/// Why the store can not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed; with `ENOSPC` the disk is full.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The evidence would be longer than any verifier takes.
    #[error(
        "the evidence would have {0} bytes, the limit is {MAX_EVIDENCE_LEN}: restart the node to begin a new boot's list"
    )]
    TooLong(u64),
}

/// Where something stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    at: u64,
    len: u32,
}

impl Span {
    fn end(&self) -> u64 {
        self.at + u64::from(self.len)
    }
}

/// A file that grows, written in large pieces.
#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    /// Bytes in the file.
    written: u64,
    buf: Vec<u8>,
}

impl Log {
    fn create(path: PathBuf) -> Result<Log, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(|source| StoreError::Io {
            path: path.clone(),
            what: "create",
            source,
        })?;
        Ok(Log {
            file,
            path,
            written: 0,
            buf: Vec::with_capacity(BUFFER),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<Span, StoreError> {
        let io = |source| StoreError::Io {
            path: self.path.clone(),
            what: "append",
            source,
        };
        let len = u32::try_from(bytes.len()).map_err(|_| io(io::ErrorKind::InvalidInput.into()))?;
        if self.buf.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        let at = self.written + self.buf.len() as u64;
        self.buf.extend_from_slice(bytes);
        Ok(Span { at, len })
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file
            .write_all_at(&self.buf, self.written)
            .map_err(|source| StoreError::Io {
                path: self.path.clone(),
                what: "write",
                source,
            })?;
        self.written += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }

    fn reader(&mut self) -> Result<Reader, StoreError> {
        self.flush()?;
        let file = self.file.try_clone().map_err(|source| StoreError::Io {
            path: self.path.clone(),
            what: "duplicate",
            source,
        })?;
        Ok(Reader {
            file,
            path: self.path.clone(),
        })
    }
}

/// A second handle of a log's file; reads by position, so it does not disturb the writer.
#[derive(Debug)]
struct Reader {
    file: File,
    path: PathBuf,
}

impl Reader {
    fn copy(&self, at: u64, len: u64, buf: &mut Vec<u8>, out: &mut impl Write) -> Result<(), StoreError> {
        let (mut at, mut left) = (at, len);
        while left > 0 {
            let n = left.min(BUFFER as u64);
            buf.resize(n as usize, 0);
            self.file
                .read_exact_at(buf, at)
                .and_then(|()| out.write_all(buf))
                .map_err(|source| StoreError::Io {
                    path: self.path.clone(),
                    what: "copy",
                    source,
                })?;
            at += n;
            left -= n;
        }
        Ok(())
    }

    /// All that these partitions' spans name, each of which stands in the order of the file, with where it begins; `None` where
    /// it is more than [`AT_ONCE`].
    fn at_once(
        &self,
        partitions: &[(PartitionKey, Vec<Span>)],
    ) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let from = partitions
            .iter()
            .filter_map(|(_, spans)| Some(spans.first()?.at))
            .min();
        let to = partitions
            .iter()
            .filter_map(|(_, spans)| Some(spans.last()?.end()))
            .max();
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(None);
        };
        if to - from > AT_ONCE {
            return Ok(None);
        }
        let mut bytes = vec![0; (to - from) as usize];
        match self.file.read_exact_at(&mut bytes, from) {
            Ok(()) => Ok(Some((from, bytes))),
            Err(source) => Err(StoreError::Io {
                path: self.path.clone(),
                what: "copy",
                source,
            }),
        }
    }

    /// Copies what `spans` name, which stand in the order of the file; neighbours in one read.
    fn copy_all(&self, spans: &[Span], buf: &mut Vec<u8>, out: &mut impl Write) -> Result<(), StoreError> {
        let mut rest = spans;
        while let Some(first) = rest.first() {
            let mut last = first;
            let near = |last: &Span, next: &Span| {
                let gap = next.at.checked_sub(last.end());
                gap.is_some_and(|gap| gap <= GAP) && next.end() - first.at <= BUFFER as u64
            };
            let mut n = 1;
            while let Some(next) = rest.get(n).filter(|next| near(last, next)) {
                last = next;
                n += 1;
            }
            let (run, left) = rest.split_at(n);
            rest = left;
            if n == 1 {
                self.copy(first.at, u64::from(first.len), buf, out)?;
                continue;
            }
            buf.resize((last.end() - first.at) as usize, 0);
            self.file
                .read_exact_at(buf, first.at)
                .and_then(|()| {
                    let of = |span: &Span| &buf[(span.at - first.at) as usize..][..span.len as usize];
                    run.iter().try_for_each(|span| out.write_all(of(span)))
                })
                .map_err(|source| StoreError::Io {
                    path: self.path.clone(),
                    what: "copy",
                    source,
                })?;
        }
        Ok(())
    }
}

/// The store of one boot.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    records: Log,
    list: Log,
    /// Where each entry begins.
    entries: Vec<u64>,
    partitions: BTreeMap<PartitionKey, Vec<Span>>,
    /// A checkpoint's file stands behind the records that it is the first to seal.
    checkpoints: Vec<Span>,
}

/// What was sealed, frozen: the number of records of each partition and of checkpoints at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    partitions: Vec<(PartitionKey, usize)>,
    checkpoints: usize,
}

impl Store {
    /// An empty store in `dir`; what an earlier one left there is overwritten.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(dir: &Path) -> Result<Store, StoreError> {
        Ok(Store {
            dir: dir.to_owned(),
            records: Log::create(dir.join("records"))?,
            list: Log::create(dir.join("list"))?,
            entries: Vec::new(),
            partitions: BTreeMap::new(),
            checkpoints: Vec::new(),
        })
    }

    /// Adds a record to its partition.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn record(&mut self, key: PartitionKey, leaf: &[u8]) -> Result<(), StoreError> {
        let span = self.records.append(leaf)?;
        self.partitions.entry(key).or_default().push(span);
        Ok(())
    }

    /// Adds the file of the next checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn checkpoint(&mut self, file: &[u8]) -> Result<(), StoreError> {
        let span = self.records.append(file)?;
        self.checkpoints.push(span);
        Ok(())
    }

    /// The file of checkpoint `number`.
    ///
    /// # Errors
    /// [`StoreError::Io`]; `None` if there is no such checkpoint.
    pub fn checkpoint_file(&mut self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(span) = usize::try_from(number)
            .ok()
            .and_then(|n| self.checkpoints.get(n))
            .copied()
        else {
            return Ok(None);
        };
        let mut out = Vec::with_capacity(span.len as usize);
        self.records
            .reader()?
            .copy(span.at, u64::from(span.len), &mut Vec::new(), &mut out)?;
        Ok(Some(out))
    }

    /// Adds the next entry of the list, in canonical form.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let span = self.list.append(&wire::to_vec(entry))?;
        self.entries.push(span.at);
        Ok(())
    }

    /// How much there is now.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            partitions: self
                .partitions
                .iter()
                .map(|(key, spans)| (*key, spans.len()))
                .collect(),
            checkpoints: self.checkpoints.len(),
        }
    }

    /// What stands behind a position: where the list goes on, and where records do. `None` if this boot's evidence never
    /// was at that position.
    fn find(&mut self, frozen: &Frozen, position: &Position) -> Result<Option<Found>, StoreError> {
        let entries = usize::try_from(position.entries).unwrap_or(usize::MAX);
        let list_len = self.list.written + self.list.buf.len() as u64;
        let at = match self.entries.get(entries) {
            Some(at) => *at,
            None if entries == self.entries.len() => list_len,
            None => return Ok(None),
        };
        let number = usize::try_from(position.checkpoint).unwrap_or(usize::MAX);
        let Some(span) = self
            .checkpoints
            .get(number)
            .copied()
            .filter(|_| number < frozen.checkpoints)
        else {
            return Ok(None);
        };
        let file = self.checkpoint_file(position.checkpoint)?.unwrap_or_default();
        let is_same = Sha256::digest(&file)[..] == position.digest;
        Ok(is_same.then_some(Found {
            entries,
            list_at: at,
            records_at: span.at,
            checkpoints: number + 1,
        }))
    }

    /// All that evidence needs of what was frozen, and the list as it is now; to be written out by another thread. With a
    /// position only what came after it; where there is no such position, everything.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn assembly(&mut self, frozen: &Frozen, after: Option<&Position>) -> Result<Assembly, StoreError> {
        let found = match after {
            Some(position) => self
                .find(frozen, position)?
                .map(|found| (found, position.clone())),
            None => None,
        };
        let (start, after) = found.unzip();
        let start = start.unwrap_or_default();
        let list_len = self.list.written + self.list.buf.len() as u64 - start.list_at;
        let new = |spans: &[Span]| {
            let from = spans.partition_point(|span| span.at < start.records_at);
            spans[from..].to_vec()
        };
        let mut partitions: Vec<(PartitionKey, Vec<Span>)> = frozen
            .partitions
            .iter()
            .filter_map(|(key, n)| Some((*key, new(self.partitions.get(key)?.get(..*n)?))))
            .filter(|(_, spans)| !spans.is_empty())
            .collect();
        partitions.sort_by_cached_key(|(key, _)| key.to_string());
        let checkpoints: Vec<Span> = self
            .checkpoints
            .get(start.checkpoints..frozen.checkpoints)
            .unwrap_or_default()
            .to_vec();
        let sum = |spans: &[Span]| spans.iter().map(|s| u64::from(s.len)).sum::<u64>();
        let total = list_len + sum(&checkpoints) + partitions.iter().map(|(_, s)| sum(s)).sum::<u64>();
        if total > MAX_EVIDENCE_LEN as u64 {
            return Err(StoreError::TooLong(total));
        }
        let last = match (frozen.checkpoints as u64).checked_sub(1) {
            Some(number) => self
                .checkpoint_file(number)?
                .map(|file| (number, Sha256::digest(&file).into())),
            None => None,
        };
        Ok(Assembly {
            dir: self.dir.clone(),
            records: self.records.reader()?,
            list: self.list.reader()?,
            list_at: start.list_at,
            list_len,
            entries: (self.entries.len() - start.entries) as u64,
            partitions,
            checkpoints,
            after,
            last,
            total: self.entries.len() as u64,
        })
    }
}

/// Where what is new begins.
#[derive(Debug, Default)]
struct Found {
    entries: usize,
    list_at: u64,
    records_at: u64,
    checkpoints: usize,
}

/// The parts of one evidence.
#[derive(Debug)]
pub struct Assembly {
    dir: PathBuf,
    records: Reader,
    list: Reader,
    list_at: u64,
    list_len: u64,
    entries: u64,
    partitions: Vec<(PartitionKey, Vec<Span>)>,
    checkpoints: Vec<Span>,
    /// What all this comes after.
    after: Option<Position>,
    /// Where this ends: the last checkpoint's number and its file's SHA-256.
    last: Option<(u64, [u8; 32])>,
    /// Entries of the whole list.
    total: u64,
}

/// What evidence says beside its parts.
#[derive(Debug, Clone)]
pub struct Header {
    /// Where the tags lie.
    pub tier: Tier,
    /// What the node calls itself.
    pub node: String,
    /// boot_id.
    pub boot_id: [u8; 16],
    /// Kernel release.
    pub kernel: String,
    /// Names of pods, as the runtime told them.
    pub pods: Vec<PodInfo>,
    /// The quote.
    pub quote: Quote,
    /// What was measured before IMA began.
    pub boot: Boot,
}

/// Finished evidence: a file without a name, positioned at its start.
#[derive(Debug)]
pub struct EvidenceFile {
    /// Open for reading.
    pub file: File,
    /// Bytes in it.
    pub len: u64,
    /// Whether it is what came after a position, see [`evidence::Part`].
    pub is_part: bool,
    /// The position at its end, for whoever keeps it; `base` is left to him. `None` without a checkpoint.
    pub reached: Option<Position>,
}

impl Assembly {
    /// Writes deterministic CBOR as [`evidence::Evidence`] has it, or [`evidence::Part`], whose fields stand in the same
    /// order and without their numbers.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(self, header: &Header) -> Result<EvidenceFile, StoreError> {
        let io = |what| {
            let path = self.dir.clone();
            move |source| StoreError::Io { path, what, source }
        };
        let is_part = self.after.is_some();
        let file = anonymous_file(&self.dir).map_err(io("make a temporary file in"))?;
        let mut out = io::BufWriter::with_capacity(BUFFER, file);
        let mut buf = Vec::new();
        let mut head = |out: &mut io::BufWriter<File>, f: &dyn Fn(&mut Encoder<&mut Vec<u8>>)| {
            buf.clear();
            f(&mut Encoder::new(&mut buf));
            out.write_all(&buf).map_err(io("write in"))
        };
        // The encoder writes into memory, which can not fail.
        let key = |e: &mut Encoder<&mut Vec<u8>>, number: u8| {
            if !is_part {
                ok(e.u8(number));
            }
        };
        let (quote, tier) = (wire::to_vec(&header.quote), wire::to_vec(&header.tier));
        head(&mut out, &|e| {
            ok(if is_part { e.array(12) } else { e.map(11) });
            key(e, 0);
            ok(e.u8(1));
            key(e, 1);
        })?;
        out.write_all(&tier).map_err(io("write in"))?;
        head(&mut out, &|e| {
            key(e, 2);
            ok(e.str(&header.node));
            key(e, 3);
            ok(e.bytes(&header.boot_id));
            key(e, 4);
        })?;
        out.write_all(&quote).map_err(io("write in"))?;
        head(&mut out, &|e| {
            key(e, 5);
            ok(e.array(self.entries));
        })?;
        let mut copy = Vec::new();
        self.list.copy(self.list_at, self.list_len, &mut copy, &mut out)?;
        head(&mut out, &|e| {
            key(e, 6);
            ok(e.array(self.checkpoints.len() as u64));
        })?;
        for span in &self.checkpoints {
            let mut bytes = Vec::with_capacity(span.len as usize);
            self.records
                .copy(span.at, u64::from(span.len), &mut copy, &mut bytes)?;
            head(&mut out, &|e| ok(e.bytes(&bytes)))?;
        }
        head(&mut out, &|e| {
            key(e, 7);
            ok(e.array(self.partitions.len() as u64));
        })?;
        let at_once = self.records.at_once(&self.partitions)?;
        for (partition, spans) in &self.partitions {
            head(&mut out, &|e| {
                let e = e
                    .map(2)
                    .and_then(|e| e.u8(0))
                    .and_then(|e| e.str(&partition.to_string()));
                ok(e.and_then(|e| e.u8(1)).and_then(|e| e.array(spans.len() as u64)));
            })?;
            let Some((from, bytes)) = &at_once else {
                self.records.copy_all(spans, &mut copy, &mut out)?;
                continue;
            };
            for span in spans {
                let record = &bytes[(span.at - from) as usize..][..span.len as usize];
                out.write_all(record).map_err(io("write in"))?;
            }
        }
        head(&mut out, &|e| {
            key(e, 8);
        })?;
        out.write_all(&wire::to_vec(&header.pods))
            .map_err(io("write in"))?;
        head(&mut out, &|e| {
            key(e, 9);
            ok(e.str(&header.kernel));
        })?;
        // What is in the log does not change within a boot: a part leaves it out.
        let boot = Boot {
            log: header.boot.log.clone().filter(|_| !is_part),
            command_line: header.boot.command_line.clone().filter(|_| !is_part),
            registers: header.boot.registers.clone(),
        };
        head(&mut out, &|e| key(e, 10))?;
        out.write_all(&wire::to_vec(&boot)).map_err(io("write in"))?;
        if let Some(position) = &self.after {
            out.write_all(&wire::to_vec(position)).map_err(io("write in"))?;
        }
        let mut file = out.into_inner().map_err(|e| io("write in")(e.into_error()))?;
        let len = io::Seek::stream_position(&mut file).map_err(io("seek in"))?;
        if len > MAX_EVIDENCE_LEN as u64 {
            return Err(StoreError::TooLong(len));
        }
        io::Seek::rewind(&mut file).map_err(io("seek in"))?;
        let reached = self.last.map(|(checkpoint, digest)| Position {
            base: [0; 32],
            boot_id: header.boot_id,
            entries: self.total,
            checkpoint,
            digest,
        });
        Ok(EvidenceFile {
            file,
            len,
            is_part,
            reached,
        })
    }
}

fn ok<T>(result: Result<T, minicbor::encode::Error<core::convert::Infallible>>) {
    debug_assert!(result.is_ok(), "encoding into memory can not fail");
}

/// A file in `dir` that has no name and goes away with its last handle.
fn anonymous_file(dir: &Path) -> io::Result<File> {
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(dir)
    };
    match open(nix::fcntl::OFlag::O_TMPFILE.bits()) {
        Ok(file) => Ok(file),
        // Not every file system has it.
        Err(_) => {
            let path = dir.join(format!(".evidence.{}", std::process::id()));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::{Evidence, PodInfo, PodUid, Record};
    use std::io::Read;

    fn record(seq: u64) -> Record {
        Record {
            seq,
            boot_ns: 1,
            kind: evidence::EventKind::Execution,
            ret: 0,
            pcr: 0,
            digests: vec![],
            hash: None,
            path: vec![b'x'; 3000],
            dev: 0,
            ino: 0,
            cgroup_id: 1,
            cgroup: None,
            pid: 1,
            uid: 0,
            mnt_ns: 0,
            pid_ns: 0,
            ancestry: vec![],
            ancestry_cut: false,
            path_cut: false,
            guard: None,
        }
    }

    proptest::proptest! {
        #[test]
        fn spans_are_copied_whole_whatever_stands_between_them(
            // Lengths, and how much of something else stands before each; the last may be longer than is read at once.
            pieces in proptest::collection::vec((0usize..2 * GAP as usize, 0usize..9000), 0..40),
            long in proptest::option::of(BUFFER - 9000..BUFFER + 9000),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Log::create(dir.path().join("log")).unwrap();
            let (mut spans, mut expected) = (Vec::new(), Vec::new());
            for (n, (gap, len)) in pieces.into_iter().chain(long.map(|len| (1, len))).enumerate() {
                log.append(&vec![0xff; gap]).unwrap();
                let piece = vec![n as u8; len];
                spans.push(log.append(&piece).unwrap());
                expected.extend(piece);
            }
            let (mut buf, mut out) = (Vec::new(), Vec::new());
            log.reader().unwrap().copy_all(&spans, &mut buf, &mut out).unwrap();
            proptest::prop_assert_eq!(out, expected);
            proptest::prop_assert!(buf.len() <= BUFFER);
        }
    }

    #[test]
    fn streamed_evidence_is_byte_for_byte_what_the_type_encodes_to() {
        streamed_evidence_is_what_the_type_encodes_to(200);
        // More than is read at once.
        streamed_evidence_is_what_the_type_encodes_to(AT_ONCE / 3000 + 10);
    }

    fn streamed_evidence_is_what_the_type_encodes_to(records: u64) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path()).unwrap();
        let keys = [
            PartitionKey::Pod(PodUid([0xab; 16])),
            PartitionKey::Host,
            PartitionKey::Unattributed,
        ];
        let mut logs: BTreeMap<String, (PartitionKey, Vec<Record>)> = BTreeMap::new();
        for seq in 1..records {
            let key = keys[seq as usize % 3];
            store.record(key, &record(seq).to_cbor()).unwrap();
            logs.entry(key.to_string())
                .or_insert((key, vec![]))
                .1
                .push(record(seq));
        }
        store.checkpoint(b"file 0").unwrap();
        store.checkpoint(&[7; 300]).unwrap();
        let frozen = store.freeze();
        // What comes after the seal must not be in it, but for the list.
        store.record(PartitionKey::Host, &record(999).to_cbor()).unwrap();
        store
            .record(PartitionKey::Pod(PodUid([1; 16])), &record(1000).to_cbor())
            .unwrap();
        store.checkpoint(b"file 2").unwrap();
        let list: Vec<Entry> = (0..30u8)
            .map(|n| Entry::Full(vec![n; usize::from(n) * 20]))
            .collect();
        for entry in &list {
            store.entry(entry).unwrap();
        }
        let quote = Quote {
            attest: vec![1],
            signature: vec![2],
            ak: vec![3],
        };
        let zeros = vec![evidence::Digest::zero(evidence::Bank::Sha256); evidence::boot::REGISTERS];
        let boot = Boot {
            registers: vec![evidence::boot::Registers::new(zeros).unwrap()],
            log: Some(vec![7; 5000]),
            command_line: Some(b"quiet".to_vec()),
        };
        let header = Header {
            tier: Tier::Bpf,
            node: "n".into(),
            boot_id: [5; 16],
            kernel: "6.12".into(),
            pods: vec![PodInfo {
                uid: PodUid([0xab; 16]),
                namespace: "shop".into(),
                name: "till".into(),
            }],
            quote: quote.clone(),
            boot: boot.clone(),
        };
        let mut written = store.assembly(&frozen, None).unwrap().write(&header).unwrap();
        let mut bytes = Vec::new();
        written.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, written.len);
        let expected = Evidence {
            version: 1,
            tier: Tier::Bpf,
            node: "n".into(),
            boot_id: [5; 16],
            quote,
            list,
            checkpoints: vec![b"file 0".to_vec(), vec![7; 300]],
            partitions: logs
                .into_values()
                .map(|(key, records)| evidence::PartitionLog { key, records })
                .collect(),
            pods: header.pods.clone(),
            kernel: "6.12".into(),
            boot: Some(boot),
            unsealed: Vec::new(),
            in_flight: Vec::new(),
        };
        assert_eq!(Evidence::from_cbor(&bytes).unwrap(), expected);
        assert_eq!(bytes, expected.to_cbor());
        assert_eq!(store.checkpoint_file(1).unwrap(), Some(vec![7; 300]));
        assert_eq!(store.checkpoint_file(3).unwrap(), None);
    }

    #[test]
    fn what_came_after_a_position_is_a_part_and_an_unknown_position_gives_everything() {
        use evidence::{Part, PartitionLog};
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path()).unwrap();
        let pod = PartitionKey::Pod(PodUid([0xab; 16]));
        let file = |n: u64| vec![n as u8; 100 + n as usize];
        let entry = |n: u64| Entry::Full(vec![n as u8; n as usize * 7]);
        // Each checkpoint seals ten records of the host and, but for the second, one of the pod; three entries come with it.
        for n in 0..4u64 {
            for seq in 1..=10 {
                store
                    .record(PartitionKey::Host, &record(100 * n + seq).to_cbor())
                    .unwrap();
            }
            if n != 1 {
                store.record(pod, &record(100 * n + 11).to_cbor()).unwrap();
            }
            store.checkpoint(&file(n)).unwrap();
            (0..3).for_each(|i| store.entry(&entry(3 * n + i)).unwrap());
        }
        let frozen = store.freeze();
        store.record(pod, &record(999).to_cbor()).unwrap();
        let quote = Quote {
            attest: vec![1],
            signature: vec![2],
            ak: vec![3],
        };
        let header = Header {
            tier: Tier::Bpf,
            node: "n".into(),
            boot_id: [5; 16],
            kernel: "6.12".into(),
            pods: vec![PodInfo {
                uid: PodUid([0xab; 16]),
                namespace: "shop".into(),
                name: "till".into(),
            }],
            quote: quote.clone(),
            boot: Boot {
                registers: vec![],
                log: Some(vec![7; 500]),
                command_line: Some(b"quiet".to_vec()),
            },
        };
        let mut write = |position: &Position| {
            let mut written = store
                .assembly(&frozen, Some(position))
                .unwrap()
                .write(&header)
                .unwrap();
            let mut bytes = Vec::new();
            written.file.read_to_end(&mut bytes).unwrap();
            assert_eq!(
                (bytes.len() as u64, Part::is_part(&bytes)),
                (written.len, written.is_part)
            );
            bytes
        };
        for (number, entries) in [(0u64, 3u64), (0, 12), (1, 7), (2, 0), (3, 12)] {
            let from = Position {
                base: [8; 32],
                boot_id: [5; 16],
                entries,
                checkpoint: number,
                digest: Sha256::digest(file(number)).into(),
            };
            let records = |of: &dyn Fn(u64) -> Vec<u64>| -> Vec<Record> {
                (number + 1..4).flat_map(of).map(record).collect()
            };
            let logs = [
                (
                    PartitionKey::Pod(PodUid([0xab; 16])),
                    records(&|n| if n == 1 { vec![] } else { vec![100 * n + 11] }),
                ),
                (
                    PartitionKey::Host,
                    records(&|n| (1..=10).map(|seq| 100 * n + seq).collect()),
                ),
            ];
            let mut partitions: Vec<PartitionLog> = logs
                .into_iter()
                .filter(|(_, records)| !records.is_empty())
                .map(|(key, records)| PartitionLog { key, records })
                .collect();
            partitions.sort_by_key(|log| log.key.to_string());
            let expected = Part {
                version: 1,
                tier: Tier::Bpf,
                node: "n".into(),
                boot_id: [5; 16],
                quote: quote.clone(),
                list: (entries..12).map(entry).collect(),
                checkpoints: (number + 1..4).map(file).collect(),
                partitions,
                pods: header.pods.clone(),
                kernel: "6.12".into(),
                boot: Some(Boot {
                    log: None,
                    command_line: None,
                    ..header.boot.clone()
                }),
                from: from.clone(),
                unsealed: Vec::new(),
                in_flight: Vec::new(),
            };
            assert_eq!(
                write(&from),
                expected.to_cbor(),
                "after checkpoint {number}, entry {entries}"
            );
            for other in [
                Position {
                    digest: [0; 32],
                    ..from.clone()
                },
                Position {
                    entries: 13,
                    ..from.clone()
                },
                Position {
                    checkpoint: 4,
                    ..from.clone()
                },
                Position {
                    checkpoint: u64::MAX,
                    entries: u64::MAX,
                    ..from
                },
            ] {
                let whole = Evidence::from_cbor(&write(&other)).unwrap();
                assert_eq!((whole.list.len(), whole.checkpoints.len()), (12, 4));
            }
        }
    }

    #[test]
    fn an_empty_store_gives_whole_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path()).unwrap();
        let frozen = store.freeze();
        let quote = Quote {
            attest: vec![],
            signature: vec![],
            ak: vec![],
        };
        let header = Header {
            tier: Tier::Bpf,
            node: String::new(),
            boot_id: [0; 16],
            kernel: String::new(),
            pods: vec![],
            quote,
            boot: Boot {
                registers: vec![],
                log: None,
                command_line: None,
            },
        };
        let mut written = store.assembly(&frozen, None).unwrap().write(&header).unwrap();
        let mut bytes = Vec::new();
        written.file.read_to_end(&mut bytes).unwrap();
        assert!(Evidence::from_cbor(&bytes).unwrap().partitions.is_empty());
    }
}
