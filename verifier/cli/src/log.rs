//! `cgpath log`: what stands in a measurement list, without judging it.
//!
//! Promises: lists are read as a stream, in bounded memory but for the numbers of entries whose digests
//! differ; what is printed is escaped. Not here: reading of lists (`cgpath_evidence::list`), registers
//! (`cgpath_evidence::replay`).

use crate::output::{Colour, Failure, Output, Status, escape};
use cgpath_evidence::cgroup::{self, DEFAULT_RUNTIMES, Runtimes};
use cgpath_evidence::list::{
    Decoder, Field, FieldValue, Format, ListBank, ListEntry, Listed, Templates, Value, unescaped,
};
use cgpath_evidence::replay::{Fill, replay_batches};
use cgpath_evidence::{Bank, Error, PartitionKey, PodUid, record::lossy_path, text::foreign};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

/// Shows, replays and partitions measurement lists.
#[derive(clap::Subcommand)]
pub enum Log {
    /// Prints one line for each entry
    ///
    /// The line is the kernel's ASCII form with unsafe bytes of names escaped: blanks and control characters
    /// as \xHH.
    #[command(after_help = "\
Examples:
  cgpath log show /sys/kernel/security/ima/binary_runtime_measurements
  cgpath log show list.bin --json | jq -r '.fields[\"n-ng\"]'")]
    Show {
        #[command(flatten)]
        input: Input,
    },
    /// Recomputes every digest and the registers that the list leads to
    #[command(after_help = "\
Examples:
  cgpath log replay /sys/kernel/security/ima/binary_runtime_measurements
  cgpath log replay ascii_runtime_measurements --format ascii --json | jq .pcrs

Exit codes: 0 all digests are right, 1 one is not, 2 not readable as a measurement list, or without an entry.")]
    Replay {
        #[command(flatten)]
        input: Input,
    },
    /// Counts the entries of each pod, by the cgroup paths in the list
    ///
    /// Only templates with a cg-path field have paths; entries of others are unattributed. Pods whose entries
    /// show no container runtime among their ancestors are named as suspect too.
    #[command(after_help = "Example:\n  cgpath log partition binary_runtime_measurements_sha256 --json")]
    Partition {
        #[command(flatten)]
        input: Input,
        /// A further executable that starts containers: its name or its whole path, `*` at its end for
        /// anything
        #[arg(long = "runtime", value_name = "NAME")]
        runtimes: Vec<String>,
    },
}

/// Where a list is, and how to read it.
#[derive(clap::Args)]
pub struct Input {
    /// The measurement list; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to read it
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    format: FormatArg,
    /// A template that no kernel of ours knows, by its fields: `ima-own=d-ng|n-ng|sig`
    #[arg(long = "template", value_name = "NAME=FIELDS", value_parser = parse_template)]
    templates: Vec<(String, String)>,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum FormatArg {
    /// Whatever the first bytes show.
    Auto,
    /// The kernel's binary form, of any byte order and bank.
    Binary,
    /// The kernel's ASCII form.
    Ascii,
}

fn parse_template(text: &str) -> Result<(String, String), String> {
    let (name, fields) = text.split_once('=').ok_or("expected NAME=FIELDS")?;
    Templates::default().define(name, fields)?;
    Ok((name.to_owned(), fields.to_owned()))
}

impl Log {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Files that cannot be read as a measurement list.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        match self {
            Log::Show { input } => show(&input, out),
            Log::Replay { input } => replay(&input, out),
            Log::Partition { input, runtimes } => partition(&input, &runtimes, out),
        }
    }
}

/// How much is read at once.
const CHUNK_LEN: usize = 256 * 1024;

/// A batch of a replay has no more entries than this, and ends with the entry that makes it longer than
/// [`BATCH_BYTES`].
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;

/// Threads that replay; each bank's chain is serial, so that more would have nothing to do.
const MAX_THREADS: usize = 6;

/// A list that is being read, entry by entry, each checked for its shape.
struct EntryReader<'a> {
    input: &'a Input,
    templates: Templates,
    decoder: Decoder,
    source: Box<dyn Read>,
    chunk: Vec<u8>,
    ended: bool,
    /// Whether there was an entry yet.
    begun: bool,
    /// The error of the end, if the list ends inside of an entry, so that what came before can be shown.
    cut: Option<Failure>,
}

impl EntryReader<'_> {
    /// The next entry, its shape not checked yet; `None` at the end. A list without any is none: the kernel's
    /// begins with the boot's aggregate.
    fn entry(&mut self) -> Result<Option<ListEntry>, Failure> {
        loop {
            match self.decoder.next_entry() {
                Ok(Some(entry)) => {
                    self.begun = true;
                    return Ok(Some(entry));
                }
                Ok(None) if self.ended && !self.begun => return Err(self.input.empty()),
                Ok(None) if self.ended => return Ok(None),
                Ok(None) => self.feed()?,
                Err(error @ Error::Incomplete { .. }) => {
                    self.cut = Some(self.input.failure(&error));
                    return Ok(None);
                }
                Err(error) => return Err(self.input.failure(&error)),
            }
        }
    }

    fn feed(&mut self) -> Result<(), Failure> {
        match self.source.read(&mut self.chunk) {
            Ok(0) => {
                self.ended = true;
                self.decoder.end();
            }
            Ok(len) => self.decoder.feed(&self.chunk[..len]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Failure::file(&self.input.file, &e)),
        }
        Ok(())
    }

    /// The next entries, their shapes checked; `None` at the end.
    fn batch(&mut self) -> Result<Option<Vec<ListEntry>>, Failure> {
        let mut batch = Vec::with_capacity(BATCH_ENTRIES);
        let mut bytes = 0;
        while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
            let Some(entry) = self.entry()? else { break };
            entry
                .check(&self.templates)
                .map_err(|error| self.input.failure(&error))?;
            bytes += entry.record().len();
            batch.push(entry);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}

impl Input {
    fn reader(&self) -> Result<EntryReader<'_>, Failure> {
        let mut templates = Templates::default();
        for (name, fields) in &self.templates {
            templates
                .define(name, fields)
                .map_err(|why| Failure::new("usage", why))?;
        }
        let decoder = Decoder::new(match self.format {
            FormatArg::Auto => Format::Auto,
            FormatArg::Binary => Format::Binary(None),
            FormatArg::Ascii => Format::Ascii,
        })
        .with_templates(templates.clone());
        Ok(EntryReader {
            input: self,
            templates,
            decoder,
            source: self.open()?,
            chunk: vec![0; CHUNK_LEN],
            ended: false,
            begun: false,
            cut: None,
        })
    }

    /// Calls `each` for every entry with its fields. If the list ends inside of an entry, that error is given
    /// back.
    fn read(
        &self,
        mut each: impl FnMut(&ListEntry, &[FieldValue]) -> Result<(), Failure>,
    ) -> Result<Option<Failure>, Failure> {
        let mut reader = self.reader()?;
        while let Some(entry) = reader.entry()? {
            let fields = entry
                .fields(&reader.templates)
                .map_err(|error| self.failure(&error))?;
            each(&entry, &fields)?;
        }
        Ok(reader.cut)
    }

    fn open(&self) -> Result<Box<dyn Read>, Failure> {
        if self.file == Path::new("-") {
            return Ok(Box::new(io::stdin().lock()));
        }
        match File::open(&self.file) {
            Ok(file) => Ok(Box::new(file)),
            Err(e) => Err(Failure::input(&self.file, &e)),
        }
    }

    fn empty(&self) -> Failure {
        let name = foreign(self.file.as_os_str().as_encoded_bytes());
        Failure::new("empty", format!("{name}: there is no entry in it"))
            .hint("the kernel's list has at least one: did what wrote this file fail?")
    }

    fn failure(&self, error: &Error) -> Failure {
        let failure = Failure::decode(&escape(self.file.as_os_str().as_encoded_bytes()), error);
        match error {
            Error::Incomplete { .. } => {
                failure.hint("the list ends inside of an entry: was the copy cut short?")
            }
            Error::Malformed { why, .. } if why.contains("template `") => {
                failure.hint("if it is a template of your own, give its fields: --template NAME=FIELDS")
            }
            Error::Malformed { why, .. } if why.contains("hash algorithm") => {
                failure.hint("the kernel's algorithms are listed in its crypto/hash_info.c")
            }
            _ => failure
                .hint("expected the kernel's binary_runtime_measurements or ascii_runtime_measurements"),
        }
    }
}

/// Shows what came before the end, then says that the list is cut.
fn finish(cut: Option<Failure>, status: Status) -> Result<Status, Failure> {
    match cut {
        Some(failure) => Err(failure),
        None => Ok(status),
    }
}

/// The bank of the listed digest, as far as it can be known.
fn bank_name(entry: &ListEntry, listed: Listed) -> &'static str {
    match listed {
        Listed::Matches(bank) => bank.name(),
        Listed::PaddedSha1(bank) => bank.name(),
        Listed::Violation | Listed::Differs => {
            Bank::from_len(entry.listed_digest().len()).map_or("unknown", Bank::name)
        }
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    index: u64,
    pcr: u32,
    bank: &'static str,
    digest: String,
    template: String,
    violation: bool,
    /// `violation`, `matches`, `padded-sha1` or `differs`.
    listed: &'static str,
    fields: ShownFields<'a>,
}

/// In the template's order; a field that a field list names twice gets `#2` behind its name.
struct ShownFields<'a>(Vec<(Field, ShownValue<'a>)>);

#[derive(Serialize)]
#[serde(untagged)]
enum ShownValue<'a> {
    Empty(()),
    Text(#[serde(serialize_with = "lossy_path::serialize")] &'a [u8]),
    Made(String),
    Number(u32),
}

impl Serialize for ShownFields<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut seen: BTreeMap<Field, usize> = BTreeMap::new();
        s.collect_map(self.0.iter().map(|(field, value)| {
            let n = seen.entry(*field).or_default();
            *n += 1;
            let key = if *n == 1 {
                field.id().to_owned()
            } else {
                format!("{}#{n}", field.id())
            };
            (key, value)
        }))
    }
}

fn shown_value<'a>(field: &FieldValue<'a>) -> cgpath_evidence::Result<ShownValue<'a>> {
    Ok(match field.value()? {
        Value::Empty => ShownValue::Empty(()),
        Value::Text(text) => ShownValue::Text(text),
        Value::Number(number) => ShownValue::Number(number),
        // Both are ASCII by construction.
        Value::Raw(_) | Value::Digest(_) => {
            ShownValue::Made(String::from_utf8_lossy(&field.ascii()?).into_owned())
        }
    })
}

fn show(input: &Input, out: &mut Output) -> Result<Status, Failure> {
    let cut = input.read(|entry, fields| {
        let listed = entry.listed();
        if out.json() {
            let values: cgpath_evidence::Result<Vec<_>> =
                fields.iter().map(|f| Ok((f.field, shown_value(f)?))).collect();
            let shown = Shown {
                index: entry.index(),
                pcr: entry.pcr(),
                bank: bank_name(entry, listed),
                digest: hex::encode(entry.listed_digest()),
                template: escape(entry.template_name()),
                violation: entry.is_violation(),
                listed: match listed {
                    Listed::Violation => "violation",
                    Listed::Matches(_) => "matches",
                    Listed::PaddedSha1(_) => "padded-sha1",
                    Listed::Differs => "differs",
                },
                fields: ShownFields(values.map_err(|e| input.failure(&e))?),
            };
            return out.object(&shown);
        }
        let mut line = escape(entry.ascii_start().as_bytes());
        for field in fields {
            line.push(' ');
            let text = field.ascii().map_err(|e| input.failure(&e))?;
            // A blank would look like the next column.
            line.push_str(&escape(&text).replace(' ', "\\x20"));
        }
        match listed {
            Listed::Violation => out.line(out.paint(Colour::Yellow, &line)),
            Listed::Differs => out.line(out.paint(Colour::Red, &line)),
            Listed::Matches(_) | Listed::PaddedSha1(_) => out.line(line),
        }
    })?;
    finish(cut, Status::Clean)
}

#[derive(Serialize)]
struct Replayed {
    entries: u64,
    violations: u64,
    templates: BTreeMap<String, u64>,
    pcrs: BTreeMap<u32, BTreeMap<Bank, String>>,
    mismatches: Vec<Mismatch>,
    /// Entries whose digest is SHA-1's, padded: the kernel had not this bank's hash.
    #[serde(skip_serializing_if = "is_zero")]
    padded: u64,
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
}

#[derive(Serialize)]
struct Mismatch {
    index: u64,
    bank: &'static str,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !b
}

/// What the listed digests of all entries are worth, and which templates there are.
#[derive(Default)]
struct Tally {
    templates: BTreeMap<Vec<u8>, u64>,
    /// The last entry's template, and how many there were since another one: most lists have one all through.
    run: (Vec<u8>, u64),
    mismatches: Vec<Mismatch>,
    padded: u64,
    sm3: bool,
}

impl Tally {
    fn end_run(&mut self) {
        let (name, count) = std::mem::take(&mut self.run);
        if count > 0 {
            *self.templates.entry(name).or_default() += count;
        }
    }

    fn count(&mut self, entry: &ListEntry, listed: Listed) {
        if self.run.0 != entry.template_name() {
            self.end_run();
            self.run.0 = entry.template_name().to_vec();
        }
        self.run.1 += 1;
        match listed {
            Listed::Differs => {
                let bank = if self.sm3 {
                    ListBank::Sm3.name()
                } else {
                    bank_name(entry, listed)
                };
                self.mismatches.push(Mismatch {
                    index: entry.index(),
                    bank,
                });
            }
            Listed::PaddedSha1(_) => self.padded += 1,
            Listed::Matches(bank) => self.sm3 = bank == ListBank::Sm3,
            Listed::Violation => {}
        }
    }
}

fn replay(input: &Input, out: &mut Output) -> Result<Status, Failure> {
    let threads = thread::available_parallelism().map_or(NonZeroUsize::MIN, |n| {
        n.min(NonZeroUsize::new(MAX_THREADS).unwrap_or(NonZeroUsize::MIN))
    });
    let mut tally = Tally::default();
    let mut reader = input.reader()?;
    let replay = replay_batches(
        Bank::ALL.map(|bank| (bank, Fill::Hashed)),
        threads,
        || reader.batch(),
        |entry, listed| tally.count(entry, listed),
    )?;
    let cut = reader.cut;
    tally.end_run();
    let mut templates: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in &tally.templates {
        *templates.entry(escape(name)).or_default() += count;
    }
    let value = |r: &cgpath_evidence::replay::Register| (r.bank(), hex::encode(r.bytes()));
    let replayed = Replayed {
        entries: replay.entries(),
        violations: replay.violations(),
        templates,
        pcrs: replay
            .pcrs()
            .map(|(pcr, r)| (pcr, r.iter().map(value).collect()))
            .collect(),
        mismatches: tally.mismatches,
        padded: tally.padded,
        truncated: cut.is_some(),
    };
    if out.json() {
        out.object(&replayed)?;
    } else {
        print_replayed(&replayed, out)?;
    }
    finish(cut, Status::clean_if(replayed.mismatches.is_empty()))
}

fn print_replayed(replayed: &Replayed, out: &mut Output) -> Result<(), Failure> {
    let mark = |n: usize, text: String, out: &Output| {
        if n == 0 {
            text
        } else {
            out.paint(Colour::Yellow, &text)
        }
    };
    let violations = usize::try_from(replayed.violations).unwrap_or(usize::MAX);
    out.line(format_args!("entries     {}", replayed.entries))?;
    out.line(mark(violations, format!("violations  {violations}"), out))?;
    for (name, count) in &replayed.templates {
        out.line(format_args!("template    {name} {count}"))?;
    }
    if replayed.padded > 0 {
        let text = format!("padded      {} (SHA-1 in a larger bank)", replayed.padded);
        out.line(out.paint(Colour::Yellow, &text))?;
    }
    for (pcr, banks) in &replayed.pcrs {
        for (bank, value) in banks {
            out.line(format_args!("PCR {pcr:<2}      {:<6} {value}", bank.name()))?;
        }
    }
    const SHOWN: usize = 20;
    let wrong = &replayed.mismatches;
    for mismatch in wrong.iter().take(SHOWN) {
        let text = format!(
            "mismatch    entry {}: not the {} of its bytes",
            mismatch.index, mismatch.bank
        );
        out.line(out.paint(Colour::Red, &text))?;
    }
    match wrong.len() {
        0 => {
            let text = out.paint(Colour::Green, "all digests are those of the entries' bytes");
            out.line(text)
        }
        n if n > SHOWN => out.line(format_args!(
            "            and {} more (--json lists all)",
            n - SHOWN
        )),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Partitioned {
    pods: BTreeMap<PodUid, u64>,
    host: u64,
    unattributed: u64,
    suspect: BTreeMap<PodUid, u64>,
    /// Pods whose UID has no dashes in the path: static ones. People see it so.
    #[serde(skip)]
    undashed: BTreeSet<PodUid>,
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
}

fn partition(input: &Input, runtimes: &[String], out: &mut Output) -> Result<Status, Failure> {
    let names: BTreeSet<&str> = DEFAULT_RUNTIMES
        .iter()
        .copied()
        .chain(runtimes.iter().map(String::as_str))
        .collect();
    let runtimes = Runtimes::new(names);
    let (mut pods, mut suspect) = (BTreeMap::new(), BTreeMap::new());
    let (mut host, mut unattributed) = (0, 0);
    let mut undashed = BTreeSet::new();
    let cut = input.read(|_, fields| {
        let text = |wanted| {
            fields
                .iter()
                .find(|f| f.field == wanted)
                .map(|f| f.bytes.strip_suffix(&[0]).unwrap_or(f.bytes))
        };
        let path = text(Field::CgPath).map(unescaped);
        match cgroup::partition_of(path.as_deref()) {
            PartitionKey::Pod(uid) => {
                if path.is_some_and(|path| uid.is_undashed_in(&path)) {
                    undashed.insert(uid);
                }
                *pods.entry(uid).or_default() += 1;
                // A template without `dep` says nothing of the ancestry; an empty `dep` says that there is
                // none.
                if text(Field::Dep).is_some_and(|dep| runtimes.suspect_dep(dep)) {
                    *suspect.entry(uid).or_default() += 1;
                }
            }
            PartitionKey::Host => host += 1,
            PartitionKey::Boot | PartitionKey::Unattributed => unattributed += 1,
        }
        Ok(())
    })?;
    let found = Partitioned {
        pods,
        host,
        unattributed,
        suspect,
        undashed,
        truncated: cut.is_some(),
    };
    if out.json() {
        out.object(&found)?;
    } else {
        for (uid, count) in &found.pods {
            let mark = match found.suspect.get(uid) {
                Some(n) => out.paint(
                    Colour::Yellow,
                    &format!("  {n} suspect: no container runtime among the ancestors"),
                ),
                None => String::new(),
            };
            let uid = uid.shown(found.undashed.contains(uid));
            out.line(format_args!("pod {uid:<36}  {count}{mark}"))?;
        }
        out.line(format_args!("host {:>38}", found.host))?;
        out.line(format_args!("unattributed {:>30}", found.unattributed))?;
    }
    finish(cut, Status::Clean)
}
