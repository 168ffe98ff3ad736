//! What evidence is made from, on disk: sealed records by partition, checkpoint files, and the measurement
//! list, each encoded as evidence carries it.
//!
//! Derived: everything here is made anew from the journal and the kernel when a collector starts. Memory
//! holds one position for each record and each entry and nothing of their content.

use crate::pipeline::Tail;
use cgpath_evidence::evidence::MAX_EVIDENCE_LEN;
use cgpath_evidence::td::log::MAX_LEN;
use cgpath_evidence::writer::{self, Envelope, EvidenceWriter};
use cgpath_evidence::{Boot, Cursor, Entry, InFlight, PartitionKey, PodInfo, Quotes, TdEvidence, Tier, wire};
use minicbor::{Encoder, encode};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that wait in memory before they are written.
const BUFFER: usize = 64 * 1024;

/// So many bytes of records wait where the disk is full. The journal takes no records then, so that it does
/// not come to more.
const MOST_BUFFERED: usize = 64 * BUFFER;

/// Bytes between two records of a partition that are read along with them: a read of its own costs more.
const GAP: u64 = 4096;

/// Records that lie within so many bytes are read at once and then put into the order of evidence: those of a
/// round most often do, whose pods took turns.
const AT_ONCE: u64 = 4 * 1024 * 1024;

/// Why the store cannot be used.
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
        "the evidence would have {0} bytes, the limit is {MAX_EVIDENCE_LEN}: restart the node to begin a new \
         boot's list"
    )]
    TooLong(u64),
    /// The register was extended more often than any verifier replays.
    #[error(
        "the register's log has {0} bytes, the limit is {MAX_LEN}: restart the node to begin a new boot's log"
    )]
    RegisterLog(u64),
}

/// Where something stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    at: u64,
    len: u32,
    /// Whether evidence shows it before it is sealed.
    is_shown: bool,
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
    /// Bytes of `buf` at most, where the disk is full.
    most: usize,
}

/// Whether the disk takes nothing more for now, or a quota does not.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl Log {
    fn create(path: PathBuf, most: usize) -> Result<Log, StoreError> {
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
            most,
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
            match self.flush() {
                // It is written when there is room. What must read it fails until then.
                Err(StoreError::Io { source, .. }) if is_full(&source) && self.buf.len() < self.most => {}
                done => done?,
            }
        }
        let at = self.written + self.buf.len() as u64;
        self.buf.extend_from_slice(bytes);
        Ok(Span {
            at,
            len,
            is_shown: false,
        })
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

    fn reader(&mut self) -> Result<LogHandle, StoreError> {
        self.flush()?;
        let file = self.file.try_clone().map_err(|source| StoreError::Io {
            path: self.path.clone(),
            what: "duplicate",
            source,
        })?;
        Ok(LogHandle {
            file,
            path: self.path.clone(),
        })
    }
}

/// A second handle of a log's file; reads by position, so it does not disturb the writer.
#[derive(Debug)]
struct LogHandle {
    file: File,
    path: PathBuf,
}

impl LogHandle {
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

    /// All that these partitions' spans name, each of which stands in the order of the file, with where it
    /// begins; `None` where it is more than [`AT_ONCE`].
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
    /// The log of the register that checkpoints extend, but for its end.
    register: Log,
    /// Where the event of each checkpoint ends in it.
    extended: Vec<u64>,
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
            records: Log::create(dir.join("records"), MOST_BUFFERED)?,
            // A reading of the list is in memory as a whole in any case, and the next one waits for room.
            list: Log::create(dir.join("list"), usize::MAX)?,
            register: Log::create(dir.join("register"), MOST_BUFFERED)?,
            extended: Vec::new(),
            entries: Vec::new(),
            partitions: BTreeMap::new(),
            checkpoints: Vec::new(),
        })
    }

    /// Adds a record to its partition; evidence shows it before it is sealed, or it does not.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn record(&mut self, key: PartitionKey, leaf: &[u8], is_shown: bool) -> Result<(), StoreError> {
        let span = Span {
            is_shown,
            ..self.records.append(leaf)?
        };
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

    /// Adds to the register's log what the pipeline says that it had up to now.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn log(&mut self, part: &Tail) -> Result<(), StoreError> {
        let span = self.register.append(&part.bytes)?;
        if part.event > 0 {
            self.extended.push(span.at + part.event as u64);
        }
        Ok(())
    }

    /// The register's log with its end, which the next checkpoint fixes: what is behind the event of
    /// checkpoint `after`, or all of it.
    fn register_log(&mut self, after: Option<u64>, tail: &Tail) -> Result<Vec<u8>, StoreError> {
        let end = self.register.written + self.register.buf.len() as u64;
        let from = match after.map(|number| usize::try_from(number).unwrap_or(usize::MAX)) {
            None => 0,
            Some(number) => match self.extended.get(number) {
                Some(at) => *at,
                None => end + tail.event as u64,
            },
        };
        let tail = tail
            .bytes
            .get(from.saturating_sub(end) as usize..)
            .unwrap_or_default()
            .to_vec();
        let len = end.saturating_sub(from);
        let total = len + tail.len() as u64;
        if total > MAX_LEN as u64 {
            return Err(StoreError::RegisterLog(total));
        }
        let mut log = Vec::with_capacity(total as usize);
        self.register
            .reader()?
            .copy(from, len, &mut Vec::new(), &mut log)?;
        log.extend(tail);
        Ok(log)
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

    /// What stands behind a cursor: where the list goes on, and where records do. `None` if this boot's
    /// evidence never was at that cursor.
    fn find(&mut self, frozen: &Frozen, cursor: &Cursor) -> Result<Option<Found>, StoreError> {
        let entries = usize::try_from(cursor.entries).unwrap_or(usize::MAX);
        let list_len = self.list.written + self.list.buf.len() as u64;
        let at = match self.entries.get(entries) {
            Some(at) => *at,
            None if entries == self.entries.len() => list_len,
            None => return Ok(None),
        };
        let number = usize::try_from(cursor.checkpoint).unwrap_or(usize::MAX);
        let Some(span) = self
            .checkpoints
            .get(number)
            .copied()
            .filter(|_| number < frozen.checkpoints)
        else {
            return Ok(None);
        };
        let file = self.checkpoint_file(cursor.checkpoint)?.unwrap_or_default();
        let is_same = Sha256::digest(&file)[..] == cursor.digest;
        Ok(is_same.then_some(Found {
            entries,
            list_at: at,
            records_at: span.at,
            checkpoints: number + 1,
        }))
    }

    /// All that evidence needs of what was frozen, what came behind that and is shown, and the list as it is
    /// now; to be written out by another thread. With a cursor only what came after it; where there is no
    /// such cursor, everything. `tail` is the end of the register's log; `None` where no register is
    /// extended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn assembly(
        &mut self,
        frozen: &Frozen,
        after: Option<&Cursor>,
        in_flight: Vec<InFlight>,
        tail: Option<&Tail>,
    ) -> Result<Assembly, StoreError> {
        let found = match after {
            Some(cursor) => self.find(frozen, cursor)?.map(|found| (found, cursor.clone())),
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
        let sealed: BTreeMap<PartitionKey, usize> = frozen.partitions.iter().copied().collect();
        let mut unsealed: Vec<(PartitionKey, Vec<Span>)> = self
            .partitions
            .iter()
            .map(|(key, spans)| {
                let behind = spans.get(sealed.get(key).copied().unwrap_or_default()..);
                let shown = behind.unwrap_or_default().iter().filter(|span| span.is_shown);
                (*key, shown.copied().collect::<Vec<_>>())
            })
            .filter(|(_, spans)| !spans.is_empty())
            .collect();
        unsealed.sort_by_cached_key(|(key, _)| key.to_string());
        let checkpoints: Vec<Span> = self
            .checkpoints
            .get(start.checkpoints..frozen.checkpoints)
            .unwrap_or_default()
            .to_vec();
        let sum = |spans: &[Span]| spans.iter().map(|s| u64::from(s.len)).sum::<u64>();
        let logs = partitions.iter().chain(&unsealed);
        let total = list_len + sum(&checkpoints) + logs.map(|(_, s)| sum(s)).sum::<u64>();
        if total > MAX_EVIDENCE_LEN as u64 {
            return Err(StoreError::TooLong(total));
        }
        let before = after.as_ref().map(|cursor| cursor.checkpoint);
        let register_log = tail.map(|tail| self.register_log(before, tail)).transpose()?;
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
            unsealed,
            in_flight,
            checkpoints,
            register_log,
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
    records: LogHandle,
    list: LogHandle,
    list_at: u64,
    list_len: u64,
    entries: u64,
    partitions: Vec<(PartitionKey, Vec<Span>)>,
    unsealed: Vec<(PartitionKey, Vec<Span>)>,
    in_flight: Vec<InFlight>,
    checkpoints: Vec<Span>,
    /// The register's log, or what is new of it.
    register_log: Option<Vec<u8>>,
    /// What all this comes after.
    after: Option<Cursor>,
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
    /// Names of pods, as the runtime states them.
    pub pods: Vec<PodInfo>,
    /// What signs for the node.
    pub quote: Quotes,
    /// What was measured before IMA began.
    pub boot: Boot,
    /// What belongs to a trust domain's quote, but for the register's log, which is the store's. A delta
    /// leaves out what does not change.
    pub td: Option<TdEvidence>,
}

/// Finished evidence: a file without a name, positioned at its start.
#[derive(Debug)]
pub struct EvidenceFile {
    /// Open for reading.
    pub file: File,
    /// Bytes in it.
    pub len: u64,
    /// Whether it is what came after a cursor, see [`cgpath_evidence::EvidenceDelta`].
    pub is_delta: bool,
    /// The cursor at its end, for a sink that keeps it; `base` is left to the sink. `None` without a
    /// checkpoint.
    pub reached: Option<Cursor>,
}

impl Assembly {
    /// Writes deterministic CBOR: [`cgpath_evidence::Evidence`], or [`cgpath_evidence::EvidenceDelta`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(mut self, header: &Header) -> Result<EvidenceFile, StoreError> {
        let io = |what| {
            let path = self.dir.clone();
            move |source| StoreError::Io { path, what, source }
        };
        let is_delta = self.after.is_some();
        let file = anonymous_file(&self.dir).map_err(io("make a temporary file in"))?;
        // What is in the log does not change within a boot: a delta leaves it out.
        let boot = Boot {
            log: header.boot.log.clone().filter(|_| !is_delta),
            command_line: header.boot.command_line.clone().filter(|_| !is_delta),
            registers: header.boot.registers.clone(),
        };
        let td = header.td.as_ref().map(|td| TdEvidence {
            register_log: self.register_log.take().unwrap_or_default(),
            ccel: td.ccel.as_ref().filter(|_| !is_delta).cloned(),
            auxblob: td.auxblob.clone(),
        });
        let envelope = Envelope {
            version: wire::VERSION,
            tier: header.tier,
            node: &header.node,
            boot_id: &header.boot_id,
            quote: &header.quote,
            pods: &header.pods,
            kernel: &header.kernel,
            boot: Some(&boot),
            from: self.after.as_ref(),
            unsealed: self.unsealed.len() as u64,
            in_flight: &self.in_flight,
            td: td.as_ref(),
        };
        let refused = |error| io("write in")(io_error(error));
        let mut encoder = Encoder::new(Sink::new(io::BufWriter::with_capacity(BUFFER, file)));
        let mut out = EvidenceWriter::new(&mut encoder, envelope);
        let mut copy = Vec::new();
        let e = out.list(self.entries).map_err(refused)?;
        self.list
            .copy(self.list_at, self.list_len, &mut copy, e.writer_mut().get_mut())?;
        let e = out.checkpoints(self.checkpoints.len() as u64).map_err(refused)?;
        for span in &self.checkpoints {
            let mut bytes = Vec::with_capacity(span.len as usize);
            self.records
                .copy(span.at, u64::from(span.len), &mut copy, &mut bytes)?;
            e.bytes(&bytes).map_err(refused)?;
        }
        let e = out.partitions(self.partitions.len() as u64).map_err(refused)?;
        self.write_logs(&self.partitions, &mut copy, e)?;
        let e = out.unsealed().map_err(refused)?;
        self.write_logs(&self.unsealed, &mut copy, e)?;
        out.end().map_err(refused)?;
        let buffered = encoder.into_writer().into_inner();
        let mut file = buffered
            .into_inner()
            .map_err(|e| io("write in")(e.into_error()))?;
        let len = io::Seek::stream_position(&mut file).map_err(io("seek in"))?;
        if len > MAX_EVIDENCE_LEN as u64 {
            return Err(StoreError::TooLong(len));
        }
        io::Seek::rewind(&mut file).map_err(io("seek in"))?;
        let reached = self.last.map(|(checkpoint, digest)| Cursor {
            base: [0; 32],
            boot_id: header.boot_id,
            entries: self.total,
            checkpoint,
            digest,
        });
        Ok(EvidenceFile {
            file,
            len,
            is_delta,
            reached,
        })
    }
}

impl Assembly {
    /// Writes the logs of partitions, one after the other.
    fn write_logs(
        &self,
        logs: &[(PartitionKey, Vec<Span>)],
        copy: &mut Vec<u8>,
        e: &mut Encoder<Sink>,
    ) -> Result<(), StoreError> {
        let io = |source| StoreError::Io {
            path: self.dir.clone(),
            what: "write in",
            source,
        };
        let at_once = self.records.at_once(logs)?;
        for (partition, spans) in logs {
            writer::log(e, partition, spans.len() as u64).map_err(|error| io(io_error(error)))?;
            let out = e.writer_mut().get_mut();
            let Some((from, bytes)) = &at_once else {
                self.records.copy_all(spans, copy, out)?;
                continue;
            };
            for span in spans {
                let record = &bytes[(span.at - from) as usize..][..span.len as usize];
                out.write_all(record).map_err(io)?;
            }
        }
        Ok(())
    }
}

/// Where evidence is written.
type Sink = encode::write::Writer<io::BufWriter<File>>;

/// Why the file did not take what was encoded. No encoder here refuses its value.
fn io_error(error: encode::Error<io::Error>) -> io::Error {
    error
        .into_write()
        .unwrap_or_else(|| io::ErrorKind::InvalidData.into())
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
mod tests;
