//! `cgpath policy`: makes reference values and checks policies. Opens the files; what is made of them, `policy` decides.

use crate::output::{Colour, Failure, Output, Status, escape};
use clap::{Args, Subcommand, ValueEnum};
use evidence::{Bank, Digest};
use policy::generate::image::{self, Choice, Mount, Platform, Store, TarStore};
use policy::generate::{self, Digester, Options, Progress, list::Learner, rootfs_archive};
use policy::{Policy, Reference, Source, SourceKind};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Makes reference values and checks policies.
#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Makes reference values from a container image (OCI layout or docker archive)
    #[command(after_help = "Examples:
  cgpath policy from-image app.tar -o app.json
  cgpath policy from-image layout/ --image app:1.2 --platform linux/arm64 -o app.json
  cgpath policy from-image app.tar --mount ./app.conf=/etc/app.conf -o app.json")]
    FromImage(FromImage),
    /// Makes reference values from a root file system (folder, or tar archive: plain, gzip or zstd)
    #[command(after_help = "Examples:
  cgpath policy from-rootfs root.tar -o rootfs.json
  sudo cgpath policy from-rootfs / -o rootfs.json")]
    FromRootfs(FromRootfs),
    /// Copies values from a measurement list; they are marked as learned, and verdicts repeat it
    #[command(after_help = "Example:
  cgpath policy from-log binary_runtime_measurements -o learned.json")]
    FromLog(FromLog),
    /// Reads a node's policy with all its reference files and says what is in them
    #[command(after_help = "Example:\n  cgpath policy check node.yaml")]
    Check {
        /// The policy file (YAML)
        policy: PathBuf,
    },
    /// Prints the JSON Schema of one of the formats, for editors
    #[command(after_help = "Example:\n  cgpath policy schema node > node-policy.schema.json")]
    Schema {
        /// Which format
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// A node's policy
    Node,
    /// A file of reference values
    Reference,
}

#[derive(Args)]
pub struct Common {
    /// Where to write the reference values; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Digest algorithm, as `ima_hash=` on the node; may be given several times
    #[arg(long = "alg", value_name = "ALGORITHM", default_value = "sha256", value_parser = algorithm)]
    algorithms: Vec<Bank>,
}

#[derive(Args)]
pub struct FromImage {
    /// The image: a tar archive or the folder of an OCI layout
    image_path: PathBuf,
    /// Which image, where there are several: name, tag or manifest digest
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Which platform, where there are several; this machine's by default
    #[arg(long, value_name = "OS/ARCH", value_parser = platform)]
    platform: Option<Platform>,
    /// A host's file or folder that the container sees at another path; may be given several times
    #[arg(long, value_name = "HOSTFILE=/PATH", value_parser = mount)]
    mount: Vec<(PathBuf, PathBuf)>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub struct FromRootfs {
    /// The folder or archive
    root: PathBuf,
    /// Goes into other file systems that are mounted below the folder, too
    #[arg(long)]
    cross_mounts: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub struct FromLog {
    /// The measurement list, binary or ASCII; `-` for standard input
    list: PathBuf,
    /// Where to write the reference values; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn algorithm(text: &str) -> Result<Bank, String> {
    Bank::from_name(text).ok_or_else(|| format!("one of {}", Bank::ALL.map(Bank::name).join(", ")))
}

fn platform(text: &str) -> Result<Platform, String> {
    Platform::parse(text).ok_or_else(|| "OS/ARCHITECTURE[/VARIANT], such as linux/arm64".into())
}

fn mount(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (host, inside) = text
        .split_once("=/")
        .ok_or("HOSTFILE=/path/in/container, the second path absolute")?;
    Ok((host.into(), Path::new("/").join(inside)))
}

/// What was made; with `--json` it is the output.
#[derive(Serialize)]
struct Summary<'a> {
    output: String,
    source: &'a Source,
    learned: bool,
    paths: usize,
    hashed_files: u64,
    hashed_bytes: u64,
    /// Mount points and, for lists, entries that were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<String>,
}

impl PolicyCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Input that cannot be read as what it should be, output that cannot be written.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        match self {
            PolicyCommand::FromImage(command) => command.run(out),
            PolicyCommand::FromRootfs(command) => command.run(out),
            PolicyCommand::FromLog(command) => command.run(out),
            PolicyCommand::Check { policy } => check(&policy, out),
            PolicyCommand::Schema { format } => {
                let schema = match format {
                    Format::Node => policy::schema::node_policy(),
                    Format::Reference => policy::schema::reference(),
                };
                out.line(format_args!("{schema:#}"))?;
                Ok(Status::Clean)
            }
        }
    }
}

impl FromImage {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let name = escape(self.image_path.as_os_str().as_bytes());
        let mut bar = Bar::new();
        let mut mounts = Vec::new();
        for (host, inside) in &self.mount {
            let mut walk = Walk::new(host, true, &self.common.algorithms);
            walk.run(&mut |relative, digests| {
                // A file that is mounted has no relative path: it is the path itself.
                let path = if relative.as_os_str().is_empty() {
                    inside.clone()
                } else {
                    inside.join(relative)
                };
                mounts.push(Mount {
                    path: path.into_os_string().into_vec(),
                    digests,
                });
                Ok(())
            })?;
        }
        let choice = Choice {
            image: self.image,
            platform: self.platform,
        };
        let mut progress = |p| bar.show(p);
        let mut options = Options {
            banks: &self.common.algorithms,
            progress: &mut progress,
        };
        let metadata = fs::metadata(&self.image_path).map_err(|e| Failure::file(&self.image_path, &e))?;
        let reference = if metadata.is_dir() {
            let mut store = Folder {
                name,
                root: self.image_path,
            };
            image::from_image(&mut store, &choice, &mounts, &mut options)
        } else {
            let file = File::open(&self.image_path).map_err(|e| Failure::file(&self.image_path, &e))?;
            TarStore::new(&name, file)
                .and_then(|mut store| image::from_image(&mut store, &choice, &mounts, &mut options))
        };
        finish(
            &reference.map_err(|e| failure(&e))?,
            &self.common.output,
            bar,
            vec![],
            out,
        )
    }
}

impl FromRootfs {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let name = escape(self.root.as_os_str().as_bytes());
        let mut bar = Bar::new();
        let metadata = fs::metadata(&self.root).map_err(|e| Failure::file(&self.root, &e))?;
        let mut skipped = Vec::new();
        let reference = if metadata.is_dir() {
            let source = Source {
                kind: SourceKind::Rootfs,
                name: name.clone(),
                digest: None,
            };
            let mut reference = Reference::new(source);
            let mut walk = Walk::new(&self.root, self.cross_mounts, &self.common.algorithms);
            walk.run(&mut |relative, digests| {
                let path = Path::new("/").join(relative).into_os_string().into_vec();
                for digest in digests {
                    reference
                        .insert(path.clone(), digest)
                        .map_err(|why| Failure::new("limit", format!("{}: {why}", escape(&path))))?;
                }
                Ok(())
            })?;
            bar.progress = walk.progress;
            skipped.extend(
                walk.mounts
                    .iter()
                    .map(|m| format!("mount point {}", escape(m.as_os_str().as_bytes()))),
            );
            if reference.files.is_empty() {
                return Err(
                    Failure::new("empty", format!("{name}: there is no regular file in it"))
                        .hint("name the folder that becomes `/` on the node"),
                );
            }
            reference
        } else {
            let file = File::open(&self.root).map_err(|e| Failure::file(&self.root, &e))?;
            let mut progress = |p| bar.show(p);
            let mut options = Options {
                banks: &self.common.algorithms,
                progress: &mut progress,
            };
            let reader = BufReader::with_capacity(128 * 1024, file);
            rootfs_archive(&name, reader, &mut options).map_err(|e| failure(&e))?
        };
        finish(&reference, &self.common.output, bar, skipped, out)
    }
}

impl FromLog {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let name = escape(self.list.as_os_str().as_bytes());
        let mut bar = Bar::new();
        let mut reader: Box<dyn Read> = if self.list.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(&self.list).map_err(|e| Failure::file(&self.list, &e))?)
        };
        let decode = |e: evidence::Error| Failure::decode(&name, &e);
        let mut decoder = evidence::list::Decoder::auto();
        let mut digester = Digester::new(&[Bank::Sha256]);
        let mut learner = Learner::new(&name);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::file(&self.list, &e)),
            };
            digester.update(&buffer[..n]);
            if n == 0 {
                decoder.end();
            } else {
                decoder.feed(&buffer[..n]);
            }
            while let Some(entry) = decoder.next_entry().map_err(decode)? {
                let digest = entry.file_digest().and_then(|d| d.digest());
                learner
                    .entry(entry.file_name(), digest, entry.is_violation())
                    .map_err(|e| failure(&e))?;
                bar.progress.files += 1;
            }
            bar.show(Progress {
                files: bar.progress.files,
                bytes: bar.progress.bytes + n as u64,
            });
            if n == 0 {
                break;
            }
        }
        let digest = digester
            .finish()
            .pop()
            .ok_or_else(|| Failure::new("internal", "no digest of the list"))?;
        let (reference, left_out) = learner.finish(digest).map_err(|e| failure(&e))?;
        let mut skipped = Vec::new();
        for (count, what) in [
            (left_out.violations, "violations"),
            (left_out.per_boot, "entries that change with each boot"),
            (left_out.without_digest, "entries without a known content digest"),
        ] {
            if count > 0 {
                skipped.push(format!("{count} {what}"));
            }
        }
        finish(&reference, &self.output, bar, skipped, out)
    }
}

/// Writes the reference file, then says what it is.
fn finish(
    reference: &Reference,
    output: &Path,
    bar: Bar,
    skipped: Vec<String>,
    out: &mut Output,
) -> Result<Status, Failure> {
    let progress = bar.end();
    if output.as_os_str() == "-" {
        let mut bytes = Vec::new();
        reference.write_json(&mut bytes)?;
        out.raw(&bytes)?;
        return Ok(Status::Clean);
    }
    write_whole(output, reference).map_err(|e| Failure::file(output, &e))?;
    let summary = Summary {
        output: escape(output.as_os_str().as_bytes()),
        source: &reference.source,
        learned: reference.learned,
        paths: reference.files.len(),
        hashed_files: progress.files,
        hashed_bytes: progress.bytes,
        skipped,
    };
    if out.json() {
        out.object(&summary)?;
        return Ok(Status::Clean);
    }
    let digest = reference
        .source
        .digest
        .as_ref()
        .map(|d| format!(" ({d})"))
        .unwrap_or_default();
    out.line(format_args!(
        "{}: {} paths from {}{digest}",
        summary.output,
        summary.paths,
        escape(reference.source.name.as_bytes())
    ))?;
    if reference.learned {
        let text = out.paint(
            Colour::Yellow,
            "learned: nobody has looked at these values; every verdict repeats it",
        );
        out.line(text)?;
    }
    for what in &summary.skipped {
        out.line(format_args!("left out: {what}"))?;
    }
    Ok(Status::Clean)
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, reference: &Reference) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let file = File::options().write(true).create_new(true).open(&temporary)?;
        let mut writer = BufWriter::with_capacity(128 * 1024, file);
        reference.write_json(&mut writer)?;
        writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one that counts.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Takes a file's path and its digests.
type Each<'a> = dyn FnMut(&Path, Vec<Digest>) -> Result<(), Failure> + 'a;

/// Every regular file below a folder, with its digests; symbolic links are not followed.
struct Walk<'a> {
    root: &'a Path,
    cross_mounts: bool,
    banks: &'a [Bank],
    progress: Progress,
    mounts: Vec<PathBuf>,
    /// Files with several names are hashed once.
    known: HashMap<(u64, u64), Vec<Digest>>,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, cross_mounts: bool, banks: &'a [Bank]) -> Walk<'a> {
        let (progress, mounts, known) = (Progress::default(), Vec::new(), HashMap::new());
        Walk {
            root,
            cross_mounts,
            banks,
            progress,
            mounts,
            known,
        }
    }

    /// Gives each file's path relative to the root, and its digests. A root that is a file itself has an empty path.
    fn run(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let mut bar = Bar::new();
        let device = fs::metadata(self.root)
            .map_err(|e| Failure::file(self.root, &e))?
            .dev();
        let mut stack = vec![PathBuf::new()];
        while let Some(relative) = stack.pop() {
            let path = if relative.as_os_str().is_empty() {
                self.root.to_owned()
            } else {
                self.root.join(&relative)
            };
            let error = |e: io::Error| Failure::file(&path, &e);
            // The root may be a link, whoever gave it meant what it leads to; links below it are not followed.
            let metadata = if relative.as_os_str().is_empty() {
                fs::metadata(&path)
            } else {
                fs::symlink_metadata(&path)
            }
            .map_err(error)?;
            if metadata.is_dir() {
                if metadata.dev() != device && !self.cross_mounts {
                    self.mounts.push(Path::new("/").join(&relative));
                    continue;
                }
                for entry in fs::read_dir(&path).map_err(error)? {
                    stack.push(relative.join(entry.map_err(error)?.file_name()));
                }
            } else if metadata.is_file() {
                let digests = self.hash(&path, &metadata)?;
                each(&relative, digests)?;
                bar.show(self.progress);
            }
        }
        self.mounts.sort();
        bar.end();
        Ok(())
    }

    fn hash(&mut self, path: &Path, seen: &fs::Metadata) -> Result<Vec<Digest>, Failure> {
        let error = |e: io::Error| Failure::file(path, &e);
        let inode = (seen.dev(), seen.ino());
        if let Some(known) = self.known.get(&inode) {
            return Ok(known.clone());
        }
        let file = File::open(path).map_err(error)?;
        // A link that was put in its place leads to another inode.
        let opened = file.metadata().map_err(error)?;
        if (opened.dev(), opened.ino()) != inode || !opened.is_file() {
            return Err(Failure::new(
                "changed",
                format!(
                    "{}: replaced while it was read",
                    escape(path.as_os_str().as_bytes())
                ),
            )
            .hint("make the values from a folder that nothing writes to"));
        }
        let (digests, length) = Digester::read(self.banks, file).map_err(error)?;
        self.progress.files += 1;
        self.progress.bytes += length;
        if seen.nlink() > 1 {
            self.known.insert(inode, digests.clone());
        }
        Ok(digests)
    }
}

/// The folder of an OCI layout.
struct Folder {
    name: String,
    root: PathBuf,
}

impl Store for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, path: &str) -> generate::Result<Option<Box<dyn Read + '_>>> {
        match File::open(self.root.join(path)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(generate::Error::Io {
                what: format!("{}: {path}", self.name),
                offset: 0,
                source,
            }),
        }
    }
}

fn failure(error: &generate::Error) -> Failure {
    use generate::Error as E;
    let (kind, hint) = match error {
        E::Io { .. } => ("io", None),
        E::Incomplete { .. } => ("incomplete", Some("the file was cut: copy or download it again")),
        E::Malformed { .. } => ("malformed", Some("check that this is the file that was meant")),
        E::Unsupported { .. } => ("unsupported", None),
        E::Limit { .. } => ("limit", None),
        E::WrongDigest { .. } => (
            "digest",
            Some("the archive was changed or damaged: do not use it"),
        ),
        E::Missing { .. } => ("missing", None),
        E::Choose { .. } => (
            "choose",
            Some("say which one with --image NAME and --platform OS/ARCH"),
        ),
        _ => ("input", None),
    };
    let failure = Failure::new(kind, escape(error.to_string().as_bytes()));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Reads a policy and the reference files beside it.
///
/// # Errors
/// What cannot be read, or is not a policy; with file, line and column where there are any.
pub fn load(path: &Path) -> Result<Policy, Failure> {
    load_as(path, |name, yaml, resolve| Policy::load(name, yaml, resolve))
}

/// A tenant's policy and the pod that it is about.
///
/// # Errors
/// What cannot be read or is no policy.
pub fn load_tenant(path: &Path) -> Result<(evidence::PodUid, Policy), Failure> {
    load_as(path, |name, yaml, resolve| {
        Policy::load_tenant(name, yaml, resolve)
    })
}

type Resolve<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

fn load_as<T>(
    path: &Path,
    read: impl FnOnce(&str, &[u8], Resolve<'_>) -> policy::Result<T>,
) -> Result<T, Failure> {
    let name = path.display().to_string();
    let yaml = read_bounded(path, policy::MAX_POLICY_LEN as u64).map_err(|e| Failure::file(path, &e))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read(&name, &yaml, &mut |reference| {
        let path = folder.join(reference);
        read_bounded(&path, policy::reference::MAX_REFERENCE_LEN as u64)
            .map_err(|e| format!("{}: {e}", path.display()))
    })
    .map_err(|e| {
        let failure = Failure::new("policy", escape(e.to_string().as_bytes()));
        match e {
            policy::Error::Syntax { .. } => {
                failure.hint("the format: policy/README.md, `cgpath policy schema node`")
            }
            policy::Error::Unresolved { .. } => {
                failure.hint("make it with `cgpath policy from-image|from-rootfs`")
            }
            _ => failure,
        }
    })
}

/// At most one byte more than `limit`: the reader of the bytes refuses them then.
fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check(path: &Path, out: &mut Output) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Pod<'a> {
        uid: evidence::PodUid,
        name: &'a str,
        paths: usize,
        learned: Vec<&'a str>,
    }
    #[derive(Serialize)]
    struct Checked<'a> {
        node: &'a str,
        digest: &'a Digest,
        host_paths: usize,
        host_learned: Vec<&'a str>,
        sandbox_paths: usize,
        pods: Vec<Pod<'a>>,
        dangerous: Vec<&'static str>,
        relaxed: Vec<String>,
    }
    let paths = |allowed: &policy::Allowed| allowed.references().map(|r| r.files.len()).sum();
    let policy = load(path)?;
    let checked = Checked {
        node: &policy.file.node,
        digest: policy.digest(),
        host_paths: paths(&policy.host),
        host_learned: policy.host.learned_sources(),
        sandbox_paths: paths(&policy.sandbox),
        pods: policy
            .pods
            .values()
            .map(|p| Pod {
                uid: p.pod.uid,
                name: &p.pod.name,
                paths: paths(&p.allowed),
                learned: p.allowed.learned_sources(),
            })
            .collect(),
        dangerous: policy.dangerous_keys(),
        relaxed: policy.relaxations(),
    };
    if out.json() {
        out.object(&checked)?;
        return Ok(Status::Clean);
    }
    let learned = |sources: &[&str]| match sources {
        [] => String::new(),
        sources => format!(", learned: {}", escape(sources.join(", ").as_bytes())),
    };
    out.line(format_args!(
        "policy of node {} ({})",
        escape(checked.node.as_bytes()),
        checked.digest
    ))?;
    out.line(format_args!(
        "host: {} paths{}",
        checked.host_paths,
        learned(&checked.host_learned)
    ))?;
    out.line(format_args!("sandbox: {} paths", checked.sandbox_paths))?;
    for pod in &checked.pods {
        let name = escape(pod.name.as_bytes());
        out.line(format_args!(
            "pod {} {name}: {} paths{}",
            pod.uid,
            pod.paths,
            learned(&pod.learned)
        ))?;
    }
    for key in &checked.dangerous {
        let text = out.paint(Colour::Red, &format!("{key}: a rule is switched off"));
        out.line(text)?;
    }
    for value in &checked.relaxed {
        let text = out.paint(
            Colour::Yellow,
            &format!("laxer than the default: {}", escape(value.as_bytes())),
        );
        out.line(text)?;
    }
    Ok(Status::Clean)
}

/// How far a long run is, on standard error: from the first second on, in place on a terminal, else every ten seconds.
struct Bar {
    progress: Progress,
    start: Instant,
    last: Instant,
    terminal: bool,
    shown: bool,
}

impl Bar {
    fn new() -> Bar {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        Bar {
            progress: Progress::default(),
            start: now,
            last: now,
            terminal,
            shown: false,
        }
    }

    fn show(&mut self, progress: Progress) {
        self.progress = progress;
        let pause = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        let since = Duration::from_secs(1).max(pause);
        if self.start.elapsed() < since || (self.shown && self.last.elapsed() < pause) {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let line = format!("{} files, {} MiB", progress.files, progress.bytes >> 20);
        // Progress is a courtesy: a closed standard error is no reason to stop.
        let _ = if self.terminal {
            write!(io::stderr(), "\r{line}\x1b[K")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    /// Clears the line.
    fn end(self) -> Progress {
        if self.shown && self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.progress
    }
}
