//! `cgpath policy`: makes reference values and checks policies. Opens the files; what is made of them,
//! `cgpath-refvals` decides.

mod boot_values;
mod check;
mod corim;
mod deb;
mod diff;
pub(crate) mod files;
mod keylime;
mod lint;
mod migrate;
mod suggest;
mod test;

pub use test::states;

use crate::output::{Colour, Failure, Output, Status, count, escape};
use cgpath_evidence::Bank;
use cgpath_policy::{Reference, Source, SourceKind};
use cgpath_refvals::image::{self, Mount, Platform};
use cgpath_refvals::{self as generate, Digester, HashOptions, Progress, list::Learner, rootfs_archive};
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files::PolicyFileError;
use clap::{Args, Subcommand, ValueEnum};
use files::{Bar, Walk};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

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
    /// Makes reference values from Debian packages: SHA-256 of what is in them, not dpkg's md5sums
    #[command(after_help = "Examples:
  cgpath policy from-deb bash_5.2.15-2_amd64.deb libc6_*.deb -o host.json
  cgpath policy from-deb /var/cache/apt/archives -o host.json

Maintainer scripts stand where dpkg runs them. What they, diversions and alternatives make of a system is not in the packages.")]
    FromDeb(deb::FromDeb),
    /// Copies values from a measurement list; they are marked as learned, and verdicts repeat it
    #[command(after_help = "Example:
  cgpath policy from-log binary_runtime_measurements -o learned.json")]
    FromLog(FromLog),
    /// Copies what a good boot measured, as the `boot:` of a node's policy (rule V10)
    #[command(after_help = "Example:
  cgpath policy from-boot evidence.cbor >> node.yaml

The evidence must be of a boot that is known to be good: what it measured is accepted from then on. Notes on standard \
error, and comments in the values, say what was not understood, what only a register's value binds, and what the \
firmware does otherwise than the TCG's profile says.")]
    FromBoot(boot_values::FromBoot),
    /// Computes what a unified kernel image will have measured, as the `boot:` of a node's policy (rule V10)
    #[command(after_help = "Example:
  cgpath policy from-uki /boot/efi/EFI/Linux/debian.efi >> node.yaml

It names the image, its kernel, its initrd and its command line. The firmware's own registers are learned: see from-boot. A policy has \
one `boot:`; how both become one: docs/policies.md.")]
    FromUki(boot_values::FromUki),
    /// Makes reference values from a Keylime runtime policy
    #[command(after_help = "Example:
  cgpath policy from-keylime runtime-policy.json -o keylime.json

Its excludes come with the values and count wherever a policy names the file.")]
    FromKeylime(keylime::FromKeylime),
    /// Writes reference values as a Keylime runtime policy
    #[command(after_help = "Example:
  cgpath policy to-keylime rootfs.json app.json --exclude-checkpoints -o runtime-policy.json")]
    ToKeylime(keylime::ToKeylime),
    /// Writes the reference values of a node's policy, or of reference files, as a CoRIM
    #[command(after_help = "Examples:
  cgpath policy to-corim node.yaml --key signer.pem --signer 'Example Ltd.' -o node.corim
  cgpath policy to-corim app.json -o app.corim

What a CoRIM cannot say (excludes, tolerances, keys that switch a rule off, SHA-1) is named, and left out.")]
    ToCorim(corim::ToCorim),
    /// Makes reference values, and the part of a node's policy that names them, from a CoRIM
    #[command(after_help = "Examples:
  cgpath policy from-corim node.corim --key signer.pub.pem -o values/
  cat head.yaml values/policy-part.yaml > values/node.yaml

What is not understood is refused with its place: it could change what is accepted.")]
    FromCorim(corim::FromCorim),
    /// Says what a policy would have said of all stored evidence of its node; exit 1 if not all is trusted
    /// under it
    #[command(after_help = "Example:
  cgpath policy test new.yaml --against /var/lib/cgpath/store

Nothing in the store is changed.")]
    Test(test::Test),
    /// Shows how two policies, or two reference files, differ; exit 1 if they do
    #[command(after_help = "Examples:
  cgpath policy diff old.yaml new.yaml
  cgpath policy diff app-1.1.json app-1.2.json")]
    Diff(diff::Diff),
    /// Looks for what weakens a policy: excludes and what they hide, learned values, laxer keys; exit 1 if
    /// there is anything
    #[command(after_help = "Examples:
  cgpath policy lint node.yaml
  cgpath policy lint node.yaml --against /var/lib/cgpath/store")]
    Lint(lint::Lint),
    /// Makes the two files of version 2 of a policy of version 1: node part and workload part
    #[command(after_help = "Example:
  cgpath policy migrate worker-1.yaml -o worker-1-v2.yaml

Each pod becomes a workload by its UID. What outlives a roll-out is a namespace and labels: docs/policies.md.")]
    Migrate(migrate::Migrate),
    /// Writes a patch that would accept what a verdict did not: to be looked at, never applied by itself
    #[command(after_help = "Examples:
  cgpath policy suggest node.yaml --from verdict.json > upgrade.patch
  cgpath policy suggest node.yaml --from /var/lib/cgpath/store > upgrade.patch
  patch -p0 < upgrade.patch")]
    Suggest(suggest::Suggest),
    /// Reads a node's policy with all its reference files and says what is in them
    #[command(
        after_help = "Examples:\n  cgpath policy check node.yaml\n  cgpath policy check --tenant web.yaml"
    )]
    Check {
        /// The policy file (YAML)
        policy: PathBuf,
        /// It is a tenant's, of one pod (`cgpath verify --tenant`)
        #[arg(long)]
        tenant: bool,
    },
    /// Prints the JSON Schema of one of the formats, for editors
    #[command(
        after_help = "Examples:\n  cgpath policy schema node > node-policy.schema.json\n  \
                            cgpath policy schema workloads > workloads.schema.json\n  \
                            cgpath policy schema tenant > tenant-policy.schema.json"
    )]
    Schema {
        /// Which format
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// A node's policy
    Node,
    /// The workload part of policies of version 2
    Workloads,
    /// A tenant's policy
    Tenant,
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
    /// The image: a tar archive, packed with gzip, xz or zstd or not, the folder of an OCI layout, or
    /// containerd's (`/var/lib/containerd`)
    image_path: PathBuf,
    /// Which image, where there are several: name, tag or manifest digest; of containerd's NAME@DIGEST
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Which platform, where there are several; this machine's by default. As a node takes them: arm64 is
    /// arm64/v8, and arm/v7 takes arm/v6 where there is no other
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
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

pub(crate) fn algorithm(text: &str) -> Result<Bank, String> {
    Bank::from_name(text).ok_or_else(|| format!("one of {}", Bank::ALL.map(Bank::name).join(", ")))
}

pub(crate) fn platform(text: &str) -> Result<Platform, String> {
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
            PolicyCommand::FromDeb(command) => command.run(out),
            PolicyCommand::FromLog(command) => command.run(out),
            PolicyCommand::FromBoot(command) => command.run(out),
            PolicyCommand::FromUki(command) => command.run(out),
            PolicyCommand::FromKeylime(command) => command.run(out),
            PolicyCommand::ToKeylime(command) => command.run(out),
            PolicyCommand::ToCorim(command) => command.run(out),
            PolicyCommand::FromCorim(command) => command.run(out),
            PolicyCommand::Test(command) => command.run(out),
            PolicyCommand::Diff(command) => command.run(out),
            PolicyCommand::Lint(command) => command.run(out),
            PolicyCommand::Migrate(command) => command.run(out),
            PolicyCommand::Suggest(command) => command.run(out),
            PolicyCommand::Check {
                policy,
                tenant: false,
            } => check::check(&policy, out),
            PolicyCommand::Check { policy, tenant: true } => check::check_tenant(&policy, out),
            PolicyCommand::Schema { format } => {
                let schema = match format {
                    Format::Node => cgpath_policy::schema::node_policy(),
                    Format::Workloads => cgpath_policy::schema::workloads(),
                    Format::Tenant => cgpath_policy::schema::tenant_policy(),
                    Format::Reference => cgpath_policy::schema::reference(),
                };
                out.line(format_args!("{schema:#}"))?;
                Ok(Status::Clean)
            }
        }
    }
}

impl FromImage {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
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
        let (mut store, choice) = files::open_image(&self.image_path, self.image, self.platform)?;
        let mut progress = |p| bar.show(p);
        let mut options = HashOptions {
            banks: &self.common.algorithms,
            progress: &mut progress,
        };
        let reference = image::from_image(&mut *store, &choice, &mounts, &mut options);
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
            let mut options = HashOptions {
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
            Box::new(File::open(&self.list).map_err(|e| Failure::input(&self.list, &e))?)
        };
        let decode = |e: cgpath_evidence::Error| Failure::decode(&name, &e);
        let mut decoder = cgpath_evidence::list::Decoder::auto();
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
        "{}: {} from {}{digest}",
        summary.output,
        count(summary.paths, "path"),
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

pub(crate) fn failure(error: &generate::Error) -> Failure {
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
            Some(
                "say which one with --image NAME or its digest, and --platform OS/ARCH where platforms \
                 differ",
            ),
        ),
        _ => ("input", None),
    };
    let failure = Failure::new(kind, escape(error.to_string().as_bytes()));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

impl From<PolicyFileError> for Failure {
    fn from(error: PolicyFileError) -> Failure {
        match error {
            PolicyFileError::Io { path, error } => Failure::file(&path, &error),
            PolicyFileError::Policy(error) => refused(&error),
        }
    }
}

/// A policy or a reference file that cannot be used.
pub(crate) fn refused(error: &cgpath_policy::Error) -> Failure {
    let failure = Failure::new("policy", escape(error.to_string().as_bytes()));
    match error {
        cgpath_policy::Error::Syntax { .. } => failure.hint(
            "the formats: policy/README.md, `cgpath policy schema node` and `reference`; a \
                tenant's policy is checked with --tenant",
        ),
        cgpath_policy::Error::Unresolved { .. } => {
            failure.hint("make it with `cgpath policy from-image|from-rootfs`")
        }
        _ => failure,
    }
}

/// Reads a file of reference values.
fn reference(path: &Path) -> Result<Reference, Failure> {
    let json = read_bounded(path, cgpath_policy::reference::MAX_REFERENCE_LEN as u64)
        .map_err(|e| Failure::file(path, &e))?;
    Reference::from_json(&path.display().to_string(), &json).map_err(|e| refused(&e))
}
