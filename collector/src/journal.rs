//! What must survive a crash of the collector: raw records, seeds and seals, in the order in which they were
//! handled.
//!
//! One append-only file for each boot, named `spool`. A frame is: length of the payload (u32), CRC-32 of kind
//! and payload (u32), kind (u8), payload; little-endian. Promises: a frame that [`Journal::append`] said was
//! written is there after `kill -9`; a frame that was cut short is recognised and removed; anything else that
//! does not fit is an error, never skipped. It need not survive a power cut: the next boot starts a new
//! chain.
//!
//! The file is opened once, for reading and writing: a second opening for reading would make IMA log a
//! violation (`open_writers`) under policies that measure what root reads.

use crate::decode;
use crate::pipeline::{Fact, KernelRecord, Note};
use bytes::Bytes;
use cgpath_evidence::{Checkpoint, wire};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Begins the file; the boot id follows.
const MAGIC: &[u8; 16] = b"cgpathd spool 1\n";

/// Bytes before the first frame.
pub const START: u64 = 32;

/// Bytes before a frame's payload.
const HEAD: usize = 9;

/// A payload is never longer: the longest raw record and a checkpoint fit easily.
const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes read at once when the file is replayed.
const READ_AHEAD: usize = 1 << 20;

const KIND_RAW: u8 = 1;
const KIND_NOTE: u8 = 2;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file operation failed; with `ENOSPC` the disk is full.
    #[error("spool {path}: cannot {what}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file holds what was never written there.
    #[error("spool {path} is damaged at byte {offset}: {why}; this boot's chain cannot be continued: reboot")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// What does not fit.
        why: String,
    },
}

/// What a frame holds.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A record as the ring buffer had it.
    Raw(Bytes),
    /// What the collector itself noted.
    Note(Note),
}

impl Frame {
    /// The fact that the pipeline handles.
    pub fn into_fact(self) -> Fact {
        match self {
            Frame::Raw(raw) => Fact::Record(kernel_record(&raw)),
            Frame::Note(note) => Fact::Note(note),
        }
    }
}

/// A raw record decoded, or noted as undecodable.
pub fn kernel_record(raw: &Bytes) -> KernelRecord {
    match decode::decode(raw) {
        Ok(event) => KernelRecord::Decoded(Box::new(event)),
        Err(error) => {
            tracing::error!(%error, "a record of the kernel side cannot be read; it counts as lost");
            KernelRecord::Undecodable {
                seq: decode::record_seq(raw).ok(),
            }
        }
    }
}

/// Reads frames, from a file or from any other bytes.
#[derive(Debug)]
pub struct Frames<R> {
    reader: R,
    path: PathBuf,
    at: u64,
    len: u64,
}

impl<R: Read> Frames<R> {
    /// `reader` stands behind the first [`START`] bytes of `len` in all; `path` is named in errors.
    pub fn new(reader: R, path: &Path, len: u64) -> Frames<R> {
        Frames {
            reader,
            path: path.to_owned(),
            at: START,
            len,
        }
    }

    /// Where the next frame begins, in bytes from the file's start.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn corrupt(&self, why: impl Into<String>) -> JournalError {
        JournalError::Corrupt {
            path: self.path.clone(),
            offset: self.at,
            why: why.into(),
        }
    }

    /// The next frame; `None` at the end, or if the file ends inside of it.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`], with the frame's place, or [`JournalError::Io`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, JournalError> {
        let Some((n, crc_expected, kind)) = self.head()? else {
            return Ok(None);
        };
        let mut payload = vec![0; n];
        self.reader
            .read_exact(&mut payload)
            .map_err(|source| JournalError::Io {
                path: self.path.clone(),
                what: "read",
                source,
            })?;
        if crc(kind, &payload) != crc_expected {
            return Err(self.corrupt("a checksum does not fit"));
        }
        let frame = match kind {
            KIND_RAW => Frame::Raw(payload.into()),
            KIND_NOTE => Frame::Note(self.note(&payload)?),
            other => return Err(self.corrupt(format!("a frame of kind {other}"))),
        };
        self.at += (HEAD + n) as u64;
        Ok(Some(frame))
    }

    /// The next frame's bytes of payload, checksum and kind; `None` if it is not there whole.
    fn head(&mut self) -> Result<Option<(usize, u32, u8)>, JournalError> {
        if self.len.saturating_sub(self.at) < HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.reader
            .read_exact(&mut head)
            .map_err(|source| JournalError::Io {
                path: self.path.clone(),
                what: "read",
                source,
            })?;
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = head;
        let n = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if n > MAX_PAYLOAD {
            return Err(self.corrupt(format!("a frame of {n} bytes, at most {MAX_PAYLOAD} are written")));
        }
        let whole = self.at + (HEAD + n) as u64 <= self.len;
        Ok(whole.then_some((n, u32::from_le_bytes([c0, c1, c2, c3]), kind)))
    }

    /// Goes to where the whole frames end; says where that is, and gives the last seal among them.
    fn end(mut self) -> Result<(u64, Option<Checkpoint>), JournalError> {
        let path = self.path.clone();
        let io = |source| JournalError::Io {
            path: path.clone(),
            what: "read",
            source,
        };
        let mut seal = None;
        let mut payload = Vec::new();
        while let Some((n, crc_expected, kind)) = self.head()? {
            payload.resize(n, 0);
            self.reader.read_exact(&mut payload).map_err(io)?;
            if kind != KIND_RAW {
                if crc(kind, &payload) != crc_expected {
                    return Err(self.corrupt("a checksum does not fit"));
                }
                if let Note::Sealed(sealed) = self.note(&payload)? {
                    seal = Some(sealed.checkpoint);
                }
            }
            self.at += (HEAD + n) as u64;
        }
        Ok((self.at, seal))
    }

    fn note(&self, payload: &[u8]) -> Result<Note, JournalError> {
        wire::from_slice(payload, "spool note", MAX_PAYLOAD).map_err(|e| self.corrupt(e.to_string()))
    }
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    len: u64,
    seal: Option<Checkpoint>,
    buf: Vec<u8>,
}

impl Journal {
    /// Opens the journal of `boot_id` in `dir`, or makes it. A frame that was cut short at the end is
    /// removed.
    ///
    /// Records are looked at only as far as is needed to find the end: [`Journal::replay`] checks them.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(dir: &Path, boot_id: &[u8; 16]) -> Result<Journal, JournalError> {
        let path = dir.join("spool");
        let io = |what| {
            let path = path.clone();
            move |source| JournalError::Io { path, what, source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open"))?;
        let len = file.metadata().map_err(io("stat"))?.len();
        let mut journal = Journal {
            file,
            path: path.clone(),
            len: START,
            seal: None,
            buf: Vec::new(),
        };
        if len < START {
            // New, or cut short while it was made: nothing was handled yet.
            let mut start = MAGIC.to_vec();
            start.extend(boot_id);
            journal.file.set_len(0).map_err(io("truncate"))?;
            journal.file.write_all_at(&start, 0).map_err(io("write"))?;
            return Ok(journal);
        }
        let mut start = [0; START as usize];
        journal.file.read_exact_at(&mut start, 0).map_err(io("read"))?;
        if &start[..16] != MAGIC || &start[16..] != boot_id {
            return Err(JournalError::Corrupt {
                path,
                offset: 0,
                why: "not a spool of this version and boot".into(),
            });
        }
        (journal.len, journal.seal) = journal.frames(len)?.end()?;
        if journal.len < len {
            // Rather an error than to remove what stands behind damage.
            let mut frames = journal.frames(len)?;
            while frames.next_frame()?.is_some() {}
            journal.len = frames.at();
            tracing::warn!(
                offset = journal.len,
                torn = len - journal.len,
                "the spool's last frame was cut short"
            );
            journal.file.set_len(journal.len).map_err(io("truncate"))?;
        }
        Ok(journal)
    }

    fn frames(&self, len: u64) -> Result<Frames<BufReader<File>>, JournalError> {
        let io = |source| JournalError::Io {
            path: self.path.clone(),
            what: "read",
            source,
        };
        let clone = self.file.try_clone().map_err(io)?;
        let mut reader = BufReader::with_capacity(READ_AHEAD, clone);
        reader.seek(SeekFrom::Start(START)).map_err(io)?;
        Ok(Frames::new(reader, &self.path, len))
    }

    /// Hands all frames to `sink` in order.
    ///
    /// # Errors
    /// [`JournalError`], or what `sink` returns.
    pub fn replay<E: From<JournalError>>(
        &self,
        mut sink: impl FnMut(Frame) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut frames = self.frames(self.len)?;
        while let Some(frame) = frames.next_frame()? {
            sink(frame)?;
        }
        Ok(())
    }

    /// Removes all frames.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn clear(&mut self) -> Result<(), JournalError> {
        self.file.set_len(START).map_err(|source| JournalError::Io {
            path: self.path.clone(),
            what: "truncate",
            source,
        })?;
        self.len = START;
        self.seal = None;
        Ok(())
    }

    /// Whether a checkpoint was sealed in this boot, as far as was known when this was opened.
    pub fn has_seal(&self) -> bool {
        self.seal.is_some()
    }

    /// The last checkpoint that was sealed in this boot, as far as was known when this was opened.
    pub fn last_seal(&self) -> Option<&Checkpoint> {
        self.seal.as_ref()
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no frame is in it.
    pub fn is_empty(&self) -> bool {
        self.len <= START
    }

    /// Writes a record as the ring buffer had it.
    ///
    /// # Errors
    /// [`JournalError::Io`]; then the file is as it was.
    pub fn append_raw(&mut self, raw: &[u8]) -> Result<(), JournalError> {
        self.append(KIND_RAW, raw)
    }

    /// Writes a note.
    ///
    /// # Errors
    /// As [`Journal::append_raw`].
    pub fn append_note(&mut self, note: &Note) -> Result<(), JournalError> {
        self.append(KIND_NOTE, &wire::to_vec(note))
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> Result<(), JournalError> {
        let n = u32::try_from(payload.len())
            .ok()
            .filter(|n| *n as usize <= MAX_PAYLOAD);
        let io = |source| JournalError::Io {
            path: self.path.clone(),
            what: "append",
            source,
        };
        let n = n.ok_or_else(|| io(io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long")))?;
        self.buf.clear();
        self.buf.extend_from_slice(&n.to_le_bytes());
        self.buf.extend_from_slice(&crc(kind, payload).to_le_bytes());
        self.buf.push(kind);
        self.buf.extend_from_slice(payload);
        if let Err(source) = self.file.write_all_at(&self.buf, self.len) {
            // A full disk takes a part of a frame: it must not stay, or the next one would be taken for its
            // rest.
            self.file.set_len(self.len).map_err(io)?;
            return Err(io(source));
        }
        self.len += self.buf.len() as u64;
        Ok(())
    }
}

fn crc(kind: u8, payload: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&[kind]);
    h.update(payload);
    h.finalize()
}

/// Makes `state_dir/<boot id>` and removes the oldest other boots' directories beyond `keep`.
///
/// # Errors
/// [`JournalError::Io`] if this boot's directory cannot be made; one of another boot that cannot be removed
/// is logged.
pub fn boot_dir(state_dir: &Path, boot_id: &str, keep: usize) -> Result<PathBuf, JournalError> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = state_dir.join(boot_id);
    let io = |what| {
        let path = dir.clone();
        move |source| JournalError::Io { path, what, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(io("make the directory"))?;
    let mut others: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(state_dir)
        .map_err(io("list the directory"))?
        .flatten()
        // Only what looks like a boot id: whatever else lies there is not ours to remove.
        .filter(|e| e.file_name() != boot_id && is_boot_id(&e.file_name().to_string_lossy()))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    others.sort();
    let surplus = (others.len() + 1).saturating_sub(keep.max(1));
    for (_, path) in others.into_iter().take(surplus) {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed an old boot's records"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "an old boot's records stay"),
        }
    }
    Ok(dir)
}

fn is_boot_id(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::SealedCheckpoint;

    fn all(dir: &Path) -> Result<Vec<String>, JournalError> {
        let mut out = Vec::new();
        Journal::open(dir, &[1; 16])?.replay(|frame| {
            out.push(format!("{frame:?}"));
            Ok::<(), JournalError>(())
        })?;
        Ok(out)
    }

    fn filled(dir: &Path) -> Journal {
        let mut journal = Journal::open(dir, &[1; 16]).unwrap();
        journal.append_note(&Note::Started).unwrap();
        journal
            .append_note(&Note::SeedCgroup {
                id: 1,
                parent: 0,
                name: vec![0xff, 0],
            })
            .unwrap();
        journal.append_raw(b"not a record").unwrap();
        journal.append_note(&Note::GaveUp { through: 9 }).unwrap();
        journal
    }

    /// One of each kind. A new kind does not compile until it has its place here.
    fn one_of_each() -> Vec<Note> {
        let mut all = vec![Note::Started];
        while let Some(last) = all.last() {
            all.push(match last {
                Note::Started => Note::Base { list_len: 7 },
                Note::Base { .. } => Note::SeedCgroup {
                    id: 2,
                    parent: 1,
                    name: vec![0xff, 0],
                },
                Note::SeedCgroup { .. } => Note::SeedProcess {
                    tgid: 3,
                    start_ns: 4,
                    tick_ns: 5,
                    exe: vec![0xfe],
                    dev: 6,
                    ino: 7,
                },
                Note::SeedProcess { .. } => Note::Loaded { list_len: 8 },
                Note::Loaded { .. } => Note::GaveUp { through: 9 },
                Note::GaveUp { .. } => {
                    let node = cgpath_testkit::Node::boot(cgpath_testkit::KeyKind::EcdsaP256);
                    // As a reader has it.
                    let sealed = SealedCheckpoint::from_file(&node.checkpoints[0].file);
                    Note::Sealed(Box::new(sealed.unwrap()))
                }
                Note::Sealed(_) => Note::Anchors(crate::pipeline::Anchors::PCR10),
                Note::Anchors(_) => Note::Others(crate::pipeline::OthersFound {
                    before: vec![1],
                    after: vec![2],
                    done: true,
                    taken: 3,
                }),
                Note::Others(_) => Note::Named(Box::new(crate::pipeline::Stated {
                    uid: cgpath_testkit::pod(1),
                    boot_ns: 10,
                    named: cgpath_evidence::Named::Pod(cgpath_evidence::PodName {
                        namespace: "shop".into(),
                        name: "till".into(),
                        labels: vec![("app".into(), "till".into())],
                        labels_left_out: false,
                    }),
                })),
                Note::Named(_) => break,
            });
        }
        all
    }

    #[test]
    fn every_kind_of_note_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &[1; 16]).unwrap();
        let all = one_of_each();
        for note in &all {
            journal.append_note(note).unwrap();
        }
        drop(journal);
        let mut read = Vec::new();
        let again = Journal::open(dir.path(), &[1; 16]).unwrap();
        again
            .replay(|frame| {
                read.push(frame.into_fact());
                Ok::<(), JournalError>(())
            })
            .unwrap();
        let all: Vec<Fact> = all.into_iter().map(Fact::Note).collect();
        assert_eq!(read, all);
        assert!(again.has_seal());
    }

    #[test]
    fn a_file_cut_at_any_byte_keeps_its_whole_frames_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let len = filled(dir.path()).len();
        let whole = std::fs::read(dir.path().join("spool")).unwrap();
        assert_eq!(whole.len() as u64, len);
        let frames = all(dir.path()).unwrap();
        assert_eq!(frames.len(), 4);
        for cut in 0..whole.len() {
            std::fs::write(dir.path().join("spool"), &whole[..cut]).unwrap();
            let got = all(dir.path()).unwrap();
            assert!(got.len() < 4 && got[..] == frames[..got.len()], "cut at {cut}");
            // And it can be written to again, and read back.
            let mut journal = Journal::open(dir.path(), &[1; 16]).unwrap();
            journal.append_note(&Note::Started).unwrap();
            assert_eq!(all(dir.path()).unwrap().len(), got.len() + 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_that_names_the_frame() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let whole = std::fs::read(dir.path().join("spool")).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            std::fs::write(dir.path().join("spool"), &bad).unwrap();
            // A length made larger reads like a frame that was cut short; nothing else passes.
            match all(dir.path()) {
                Err(JournalError::Corrupt { .. }) => {}
                Ok(frames) => assert!(frames.len() < 4, "byte {at}"),
                Err(e) => panic!("byte {at}: {e}"),
            }
        }
    }

    #[test]
    fn another_boots_spool_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let e = Journal::open(dir.path(), &[2; 16]);
        assert!(matches!(e, Err(JournalError::Corrupt { offset: 0, .. })));
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_file_as_it_was() {
        // /dev/full takes nothing; the journal's own file is swapped for it.
        let dir = tempfile::tempdir().unwrap();
        let mut journal = filled(dir.path());
        let len = journal.len();
        let good = std::mem::replace(
            &mut journal.file,
            OpenOptions::new().write(true).open("/dev/full").unwrap(),
        );
        let e = journal.append_raw(b"x").unwrap_err();
        assert!(e.to_string().contains("append"), "{e}");
        journal.file = good;
        assert_eq!(journal.len(), len);
        journal.append_raw(b"x").unwrap();
        assert_eq!(all(dir.path()).unwrap().len(), 5);
    }

    #[test]
    fn old_boots_are_removed_beyond_the_limit_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n: u8| format!("{n:08x}-0000-4000-8000-000000000000");
        for n in 0..5 {
            std::fs::create_dir(dir.path().join(id(n))).unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + u64::from(n));
            File::open(dir.path().join(id(n)))
                .unwrap()
                .set_modified(at)
                .unwrap();
        }
        std::fs::create_dir(dir.path().join("something-else")).unwrap();
        boot_dir(dir.path(), &id(9), 3).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [id(3), id(4), id(9), "something-else".into()]);
    }
}
