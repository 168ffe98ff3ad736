//! `cargo xtask kernel`: the patched kernels, from the distribution's source package to an image that a guest boots.
//!
//! Promises: the source is the newest of its series that a package index knows, checked by apt; a build lies outside of
//! the source and of the repository, and is found again by a key of everything that went into it; two builds of one key
//! are the same bytes. Not here: guests (`vm-tests`), what the patches do (`kernel-patches/`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;
use serde_json::json;

use crate::needs::{self, Consent, Purpose};
use crate::world::{World, find_program, is_root};
use crate::{help, shell};

/// Raised when what is made from a source, or kept of a build, changes.
const RECIPE: u32 = 1;

/// The commit of the source as it was fetched.
const PRISTINE: &str = "pristine";

/// The directory that is compiled after each patch.
const IMA: &str = "security/integrity/ima/";

/// The self-test's source, in the patched tree.
const SELFTEST: &str = "tools/testing/selftests/ima/cgpath.c";

/// Who applied the patches, in the source's own history.
const NAME: &str = "ima-cgpath maintainers";
const MAIL: &str = "maintainers@ima-cgpath.example";

/// A kernel that a series is made against: an entry of `kernel-patches/bases.toml`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Base {
    series: String,
    package: String,
    suite: String,
    made_for: String,
    upstream: String,
    full: bool,
}

/// What is built besides the small kernel for guests.
#[derive(Default)]
struct Variant {
    debug: bool,
    config: Option<PathBuf>,
}

/// `cargo xtask kernel`.
///
/// # Errors
/// For unknown options, and when a step fails.
pub fn kernel_command(world: &World, mut parser: lexopt::Parser) -> Result<ExitCode> {
    let mut consent = Consent::default();
    let mut variant = Variant::default();
    let mut verb: Option<String> = None;
    let mut wanted: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => consent.yes = true,
            Long("no-install") => consent.no_install = true,
            Long("base") => wanted.push(parser.value()?.string()?),
            Long("debug") => variant.debug = true,
            Long("config") => variant.config = Some(PathBuf::from(parser.value()?)),
            Short('h') | Long("help") => {
                print!("{}", help::KERNEL);
                return Ok(ExitCode::SUCCESS);
            }
            Value(value) if verb.is_none() => verb = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(verb) = verb else {
        print!("{}", help::KERNEL);
        return Ok(ExitCode::FAILURE);
    };
    let all = bases(world)?;
    let mut chosen: Vec<&Base> = Vec::new();
    for name in &wanted {
        if name == "all" {
            chosen.extend(&all);
        } else {
            chosen.push(named(&all, name).context("--base; `all` is each of them")?);
        }
    }
    if chosen.is_empty() {
        chosen.extend(all.iter().filter(|base| base.full));
    }
    if !matches!(verb.as_str(), "fetch" | "apply" | "build" | "check") {
        bail!("no `kernel {verb}`; there are fetch, apply, build and check");
    }
    if let Some(code) = needs::provide(world, Purpose::Kernel, consent)? {
        return Ok(code);
    }
    let _lock = lock(world)?;
    for base in chosen {
        match verb.as_str() {
            "fetch" => println!("{}", fetch(world, base)?.dir.display()),
            "apply" => {
                let source = fetch(world, base)?;
                apply(world, base, &source)?;
                println!("{}", source.dir.display());
            }
            "build" => println!("{}", build(world, base, &variant)?.display()),
            _ => check(world, base)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks every series and builds the kernels that are built in full: the step `kernel` of `cargo xtask test`.
///
/// Gives the number of patches that were checked, and the directories of the kernels.
///
/// # Errors
/// When a patch does not apply, is not clean or does not compile, or a build fails.
pub fn check_and_build(world: &World) -> Result<(u64, Vec<PathBuf>)> {
    let _lock = lock(world)?;
    let mut patches = 0;
    let mut kernels = Vec::new();
    for base in bases(world)? {
        check(world, &base)?;
        patches += series(world, &base)?.len() as u64;
        if base.full {
            kernels.push(build(world, &base, &Variant::default())?);
        }
    }
    Ok((patches, kernels))
}

/// The directory of the built kernel of a series, for a guest to run; or the exit status of one who wants nothing to be
/// installed.
///
/// # Errors
/// When there is no such base, something that is needed cannot be installed, or the build fails.
pub fn for_guests(world: &World, name: &str, consent: Consent) -> Result<Result<PathBuf, ExitCode>> {
    let all = bases(world)?;
    let base = named(&all, name)?;
    if let Some(code) = needs::provide(world, Purpose::Kernel, consent)? {
        return Ok(Err(code));
    }
    let _lock = lock(world)?;
    build(world, base, &Variant::default()).map(Ok)
}

fn named<'a>(all: &'a [Base], name: &str) -> Result<&'a Base> {
    all.iter().find(|base| base.series == name).with_context(|| {
        let names: Vec<&str> = all.iter().map(|base| base.series.as_str()).collect();
        format!("no base `{name}`; there are {}", names.join(", "))
    })
}

/// The series whose kernel is meant where nobody says which.
pub const USUAL_BASE: &str = "6.12";

/// One at a time: sources and half-made builds are shared. Held until the file is closed.
fn lock(world: &World) -> Result<std::fs::File> {
    std::fs::create_dir_all(&world.cache).with_context(|| format!("making {}", world.cache.display()))?;
    let path = world.cache.join("kernel.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("another `cargo xtask kernel` is at work; waiting for it");
        file.lock()
            .with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

fn patches_dir(world: &World) -> PathBuf {
    world.root.join("kernel-patches")
}

/// What the series are made against.
fn bases(world: &World) -> Result<Vec<Base>> {
    let path = patches_dir(world).join("bases.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse_bases(&text).with_context(|| format!("in {}", path.display()))
}

/// Reads the part of TOML that `bases.toml` uses: tables with quoted names, and strings.
fn parse_bases(text: &str) -> Result<Vec<Base>> {
    let mut bases: Vec<Base> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(series) = line.strip_prefix("[\"").and_then(|rest| rest.strip_suffix("\"]")) {
            bases.push(Base {
                series: series.to_owned(),
                ..Base::default()
            });
            continue;
        }
        let pair = line.split_once('=').and_then(|(key, value)| {
            let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
            Some((key.trim(), value.to_owned()))
        });
        let Some((key, value)) = pair else {
            bail!("line {number}: neither [\"series\"] nor key = \"value\"");
        };
        let base = bases
            .last_mut()
            .with_context(|| format!("line {number}: `{key}` belongs to no [\"series\"]"))?;
        match key {
            "package" => base.package = value,
            "suite" => base.suite = value,
            "made_for" => base.made_for = value,
            "upstream" => base.upstream = value,
            "full" if value == "yes" || value == "no" => base.full = value == "yes",
            "full" => bail!("line {number}: `full` is \"yes\" or \"no\""),
            other => bail!("line {number}: no key `{other}`"),
        }
    }
    for base in &bases {
        let needed = [&base.package, &base.suite, &base.made_for, &base.upstream];
        if needed.into_iter().any(String::is_empty) {
            bail!(
                "[\"{}\"] lacks one of package, suite, made_for, upstream",
                base.series
            );
        }
    }
    if bases.is_empty() {
        bail!("it names no base");
    }
    Ok(bases)
}

/// The patches of a base in their order.
fn series(world: &World, base: &Base) -> Result<Vec<PathBuf>> {
    let dir = patches_dir(world).join(&base.series);
    let mut patches: Vec<PathBuf> = std::fs::read_dir(&dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    patches.sort();
    if patches.is_empty() {
        bail!("{} has no patches", dir.display());
    }
    Ok(patches)
}

/// A source that lies in the cache, as a git repository of the files that the series changes.
struct Source {
    version: String,
    /// The top of the kernel's source.
    dir: PathBuf,
}

impl Source {
    fn git(&self) -> Command {
        let mut command = Command::new("git");
        command.current_dir(&self.dir);
        // What a person set up for their own repositories must not change what is built.
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), NAME);
            command.env(format!("GIT_{role}_EMAIL"), MAIL);
        }
        command.args(["-c", "gc.auto=0", "-c", "advice.mergeConflict=false"]);
        command
    }
}

/// Where apt looks: this machine's lists, or lists of our own with one suite.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        if is_root() {
            // The user _apt cannot write into root's cache, and would only be warned about.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    }

    /// The version that would be installed, if the lists know the package.
    fn candidate(&self, package: &str) -> Option<String> {
        let text = shell::output(self.command("apt-cache").args(["policy", package])).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate:"))?;
        Some(line.trim().to_owned()).filter(|version| version != "(none)")
    }

    /// Lists of our own, in the cache: needs no root and changes nothing of the machine.
    fn of_suite(world: &World, suite: &str) -> Result<Self> {
        let dir = world.cache.join("apt-kernel").join(suite);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part)).with_context(|| format!("making {}", dir.display()))?;
        }
        let keyrings = [
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp",
        ];
        let keyring = keyrings
            .into_iter()
            .find(|path| Path::new(path).is_file())
            .context("no keyring of Debian's archive; hint: apt-get install debian-archive-keyring")?;
        let mirror = match std::env::var("CGPATH_MIRROR") {
            Ok(mirror) => mirror,
            Err(_) => {
                let mut command = Command::new("apt-get");
                command.args(["indextargets", "--format", "$(REPO_URI)", "Label: Debian"]);
                let text = shell::output(&mut command)?;
                let first = text.lines().map(str::trim).find(|line| !line.is_empty());
                let first = first.context("apt knows no source of Debian's; hint: set CGPATH_MIRROR")?;
                first.trim_end_matches('/').to_owned()
            }
        };
        let place = if suite.ends_with("-security") {
            format!("{mirror}-security")
        } else {
            mirror
        };
        let list = dir.join("sources.list");
        std::fs::write(&list, format!("deb [signed-by={keyring}] {place} {suite} main\n"))?;
        let apt = Self {
            options: vec![
                format!("Dir::Etc::SourceList={}", list.display()),
                "Dir::Etc::SourceParts=-".to_owned(),
                format!("Dir::State={}", dir.join("state").display()),
                "Dir::State::status=/var/lib/dpkg/status".to_owned(),
                format!("Dir::Cache={}", dir.join("cache").display()),
            ],
        };
        shell::run(
            &format!("Package lists of {suite}"),
            apt.command("apt-get").args(["-q", "update"]),
        )?;
        Ok(apt)
    }
}

/// The newest version of a base's source, and where apt has it; neither when only the cache can help.
fn newest(world: &World, base: &Base) -> Result<(Apt, String)> {
    let machine = Apt { options: Vec::new() };
    if let Some(version) = machine.candidate(&base.package) {
        return Ok((machine, version));
    }
    let own = Apt::of_suite(world, &base.suite)?;
    let version = own.candidate(&base.package).with_context(|| {
        format!(
            "{} is neither known to this machine nor in {}",
            base.package, base.suite
        )
    })?;
    Ok((own, version))
}

fn sources(world: &World) -> PathBuf {
    world.cache.join("kernel-src")
}

/// The directory name of a version: `6.12_6.12.117-1~deb12u1`.
fn source_name(base: &Base, version: &str) -> String {
    format!("{}_{}", base.series, version.replace([':', '/'], "_"))
}

/// A version of this base that is in the cache: the one that the series was made for, if it is there.
fn cached_version(world: &World, base: &Base) -> Option<String> {
    let prefix = format!("{}_", base.series);
    let mut versions: Vec<String> = std::fs::read_dir(sources(world))
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("linux/.git/ready").is_file())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix(&prefix)?.to_owned())
        })
        .collect();
    versions.sort_by_key(|version| *version == base.made_for);
    versions.pop()
}

/// The version to use: the newest one, or without any package lists the one that lies in the cache.
fn version(world: &World, base: &Base) -> Result<(Option<Apt>, String)> {
    match newest(world, base) {
        Ok((apt, version)) => Ok((Some(apt), version)),
        Err(error) => match cached_version(world, base) {
            Some(version) => {
                eprintln!("{error:#}; taking {version} from the cache");
                Ok((None, version))
            }
            None => Err(error),
        },
    }
}

/// Puts a base's source into the cache.
fn fetch(world: &World, base: &Base) -> Result<Source> {
    let (apt, version) = version(world, base)?;
    let home = sources(world).join(source_name(base, &version));
    let source = Source {
        version: version.clone(),
        dir: home.join("linux"),
    };
    if source.dir.join(".git/ready").is_file() {
        return Ok(source);
    }
    let apt = apt.with_context(|| format!("{} is damaged; hint: remove it", home.display()))?;
    let part = PathBuf::from(format!("{}.part", home.display()));
    for old in [&part, &home] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    std::fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let mut download = apt.command("apt-get");
    download
        .current_dir(&part)
        .args(["-q", "download", &format!("{}={version}", base.package)]);
    shell::run(&format!("Source of {} {version}", base.package), &mut download)?;
    let archive = find(&part, |name| name.ends_with(".deb"))?;
    shell::output(Command::new("dpkg").arg("-x").arg(&archive).arg(&part))?;
    let tarball = find(&part.join("usr/src"), |name| name.contains(".tar."))?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tarball).arg("-C").arg(&part);
    shell::run("Unpacking", &mut unpack)?;
    let top = find(&part, |name| name.starts_with("linux-source-"))?;
    std::fs::rename(&top, part.join("linux"))?;
    std::fs::remove_file(&archive)?;
    std::fs::remove_dir_all(part.join("usr"))?;
    let unpacked = Source {
        version: version.clone(),
        dir: part.join("linux"),
    };
    // A whole kernel would take minutes to commit; `git am` needs the files that it changes.
    shell::output(unpacked.git().args(["init", "-q", "-b", "start", "."]))?;
    shell::output(unpacked.git().args(["config", "status.showUntrackedFiles", "no"]))?;
    shell::output(unpacked.git().args([
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        &format!("{} {version}", base.package),
    ]))?;
    shell::output(unpacked.git().args(["tag", PRISTINE]))?;
    std::fs::write(unpacked.dir.join(".git/ready"), "")?;
    std::fs::rename(&part, &home).with_context(|| format!("putting {} in place", home.display()))?;
    Ok(source)
}

/// The entry of a directory whose name fits.
fn find(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    std::fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_str().is_some_and(&fits))
        .map(|entry| entry.path())
        .with_context(|| format!("{} does not have what the package should hold", dir.display()))
}

/// The paths that a patch changes, from its `diff --git` lines.
fn touched(patch: &str) -> Vec<&str> {
    let lines = patch
        .lines()
        .filter_map(|line| line.strip_prefix("diff --git a/"));
    lines.filter_map(|line| Some(line.split_once(" b/")?.0)).collect()
}

/// SHA-256 of the patches of a series, in order.
fn series_digest(world: &World, base: &Base) -> Result<String> {
    let mut bytes = Vec::new();
    for patch in series(world, base)? {
        bytes.extend(std::fs::read(&patch).with_context(|| format!("reading {}", patch.display()))?);
    }
    sha256(&bytes)
}

fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting sha256sum")?;
    let mut stdin = child.stdin.take().context("sha256sum takes no input")?;
    // It reads everything before it writes, so this cannot block.
    stdin.write_all(bytes)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split_whitespace().next().unwrap_or_default();
    if !output.status.success() || digest.len() != 64 {
        bail!("sha256sum failed ({})", output.status);
    }
    Ok(digest.to_owned())
}

/// Where the digest of the series that is applied is written down.
fn applied_mark(source: &Source) -> PathBuf {
    source.dir.join(".git/applied")
}

/// Brings the source back to what was fetched, with all files that the series changes under git's eyes.
fn reset(world: &World, base: &Base, source: &Source) -> Result<()> {
    let mark = applied_mark(source);
    if mark.exists() {
        std::fs::remove_file(&mark)?;
    }
    // A series that stopped half-way; that there is none is no error.
    let _ = source
        .git()
        .args(["am", "--abort"])
        .stderr(Stdio::null())
        .status();
    shell::output(
        source
            .git()
            .args(["checkout", "-q", "--force", "--detach", PRISTINE]),
    )?;
    let mut files = BTreeSet::new();
    for patch in series(world, base)? {
        let text = std::fs::read_to_string(&patch).with_context(|| format!("reading {}", patch.display()))?;
        files.extend(touched(&text).into_iter().map(str::to_owned));
    }
    let there = files.iter().filter(|file| source.dir.join(file).is_file());
    shell::output(source.git().args(["add", "--force", "--"]).args(there))?;
    let staged = source
        .git()
        .args(["diff", "--cached", "--quiet"])
        .status()
        .context("starting git")?;
    if !staged.success() {
        shell::output(source.git().args(["commit", "-q", "--amend", "--no-edit"]))?;
        shell::output(source.git().args(["tag", "-f", PRISTINE]))?;
    }
    Ok(())
}

fn am(source: &Source, patch: &Path) -> Result<()> {
    let applied = shell::output(source.git().args(["am", "-q"]).arg(patch));
    applied.map(drop).with_context(|| {
        format!(
            "{} does not apply to {}",
            patch.file_name().unwrap_or_default().to_string_lossy(),
            source.version
        )
    })
}

/// Makes the source the patched one, unless it is already.
fn apply(world: &World, base: &Base, source: &Source) -> Result<()> {
    let digest = series_digest(world, base)?;
    if std::fs::read_to_string(applied_mark(source)).is_ok_and(|text| text == digest) {
        return Ok(());
    }
    reset(world, base, source)?;
    for patch in series(world, base)? {
        am(source, &patch)?;
    }
    std::fs::write(applied_mark(source), digest)?;
    Ok(())
}

/// The fragments of a variant, one after the other; a base may have one of its own.
fn fragments(world: &World, base: &Base, variant: &Variant) -> Result<String> {
    let dir = patches_dir(world).join("config");
    let mut files = vec![
        dir.join("base.config"),
        dir.join("tpm.config"),
        dir.join("bpf.config"),
    ];
    if variant.debug {
        files.push(dir.join("debug.config"));
    }
    files.extend(Some(dir.join(format!("{}.config", base.series))).filter(|file| file.is_file()));
    files.extend(variant.config.clone());
    let mut text = String::new();
    for file in files {
        let part = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        text.push_str(&part);
        text.push('\n');
    }
    Ok(text)
}

/// A place where a source is compiled.
struct Tree<'a> {
    source: &'a Source,
    out: PathBuf,
}

impl Tree<'_> {
    fn make(&self) -> Command {
        let mut command = Command::new("make");
        let jobs = std::env::var("CGPATH_JOBS")
            .ok()
            .and_then(|jobs| jobs.parse().ok());
        let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        // Names of this machine's directories would be in the debug information, and in the build id with it.
        let names = format!(
            "-ffile-prefix-map={}=/usr/src/linux -ffile-prefix-map={}=/usr/src/build",
            self.source.dir.display(),
            self.out.display()
        );
        command
            .current_dir(&self.source.dir)
            .arg("-s")
            .arg(format!("-j{jobs}"))
            .arg(format!("O={}", self.out.display()))
            .arg("ARCH=x86_64")
            .arg(format!("KCFLAGS={names}"))
            .arg(format!("KAFLAGS={names}"))
            .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026")
            .env("KBUILD_BUILD_USER", "ima-cgpath")
            .env("KBUILD_BUILD_HOST", "ima-cgpath")
            .env("KBUILD_BUILD_VERSION", "1")
            // Set, so that the state of the git repository is not looked at.
            .env("LOCALVERSION", "")
            .env("LC_ALL", "C")
            .env_remove("MAKEFLAGS");
        command
    }

    /// Makes `.config` from the fragments and holds each of their lines against it.
    fn configure(&self, fragments: &str) -> Result<()> {
        std::fs::create_dir_all(&self.out).with_context(|| format!("making {}", self.out.display()))?;
        let wanted = self.out.join("fragments.config");
        std::fs::write(&wanted, fragments)?;
        let mut command = self.make();
        command
            .arg(format!("KCONFIG_ALLCONFIG={}", wanted.display()))
            .arg("allnoconfig");
        shell::output(&mut command)?;
        let config = std::fs::read_to_string(self.out.join(".config"))?;
        let missing = not_held(fragments, &config);
        if !missing.is_empty() {
            bail!(
                "{} cannot have what the fragments ask for: {}; hint: what does each depend on there?",
                self.source.version,
                missing.join(", ")
            );
        }
        Ok(())
    }
}

/// The lines of the fragments that do not hold in `config`. Of two lines for one option the last one counts.
fn not_held(fragments: &str, config: &str) -> Vec<String> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for line in fragments.lines() {
        if let Some((option, value)) = line.split_once('=')
            && option.starts_with("CONFIG_")
        {
            wanted.retain(|(other, _)| *other != option);
            wanted.push((option, value));
        }
    }
    let held: BTreeSet<&str> = config.lines().collect();
    let is_set = |option: &str| config.lines().any(|line| line.starts_with(&format!("{option}=")));
    let fails = |(option, value): &(&str, &str)| match *value {
        "n" => is_set(option),
        value => !held.contains(format!("{option}={value}").as_str()),
    };
    let failed = wanted.into_iter().filter(fails);
    failed
        .map(|(option, value)| format!("{option}={value}"))
        .collect()
}

fn builds(world: &World) -> PathBuf {
    world.cache.join("kernel-build")
}

/// Builds a kernel, or finds it built; gives the directory with the image.
fn build(world: &World, base: &Base, variant: &Variant) -> Result<PathBuf> {
    let (_, version) = version(world, base)?;
    let fragments = fragments(world, base, variant)?;
    let compiler = shell::output(Command::new("gcc").arg("--version"))?;
    let compiler = compiler.lines().next().unwrap_or_default().to_owned();
    let series_digest = series_digest(world, base)?;
    let key = sha256(format!("{RECIPE}\n{version}\n{series_digest}\n{compiler}\n{fragments}").as_bytes())?;
    let home = world
        .cache
        .join("kernels")
        .join(format!("ima-cgpath-{}", base.series))
        .join(key.get(..16).unwrap_or(&key));
    if home.join("ready.json").is_file() {
        return Ok(home);
    }
    let source = fetch(world, base)?;
    apply(world, base, &source)?;
    let tree = tree(world, base, &source, &fragments)?;
    tree.configure(&fragments)?;
    shell::run(
        &format!("Kernel {} with the series", source.version),
        tree.make().arg("bzImage"),
    )?;
    let release = shell::output(tree.make().arg("kernelrelease"))?.trim().to_owned();
    let part = PathBuf::from(format!("{}.part", home.display()));
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    }
    let modules = part.join("usr/lib/modules").join(&release);
    for dir in [&part.join("boot"), &part.join("selftest"), &modules] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    std::os::unix::fs::symlink("usr/lib", part.join("lib"))?;
    let image = PathBuf::from("boot").join(format!("vmlinuz-{release}"));
    let copy = |from: &Path, to: &Path| {
        std::fs::copy(from, to)
            .map(drop)
            .with_context(|| format!("copying {}", from.display()))
    };
    copy(&tree.out.join("arch/x86/boot/bzImage"), &part.join(&image))?;
    copy(
        &tree.out.join(".config"),
        &part.join("boot").join(format!("config-{release}")),
    )?;
    // There are no modules, but what guests ask for by modprobe is found to be built in.
    for list in ["modules.builtin", "modules.builtin.modinfo"] {
        copy(&tree.out.join(list), &modules.join(list))?;
    }
    std::fs::write(modules.join("modules.order"), "")?;
    let depmod = find_program("depmod").context("no depmod; hint: apt-get install kmod")?;
    shell::output(Command::new(depmod).arg("-b").arg(&part).arg(&release))?;
    let mut test = Command::new("gcc");
    test.args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(part.join("selftest/cgpath"))
        .arg(source.dir.join(SELFTEST));
    shell::output(&mut test).context("compiling the self-test")?;
    let ready = json!({
        "release": release,
        "package": format!("{} with kernel-patches/{}", base.package, base.series),
        "version": source.version,
        "sha256": sha256(&std::fs::read(part.join(&image))?)?,
        "image": image,
        "key": key,
        "compiler": compiler,
        "series": series_digest,
    });
    std::fs::write(part.join("ready.json"), serde_json::to_vec_pretty(&ready)?)?;
    if home.exists() {
        std::fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    }
    std::fs::rename(&part, &home).with_context(|| format!("putting {} in place", home.display()))?;
    Ok(home)
}

/// The place for these fragments: another series of patches is compiled on top of what is there.
fn tree<'a>(world: &World, base: &Base, source: &'a Source, fragments: &str) -> Result<Tree<'a>> {
    let digest = sha256(fragments.as_bytes())?;
    let name = format!(
        "{}-{}",
        source_name(base, &source.version),
        digest.get(..8).unwrap_or(&digest)
    );
    Ok(Tree {
        source,
        out: builds(world).join(name),
    })
}

/// Applies a series patch by patch; each must be clean and must compile without a warning that was not there before.
fn check(world: &World, base: &Base) -> Result<()> {
    let source = fetch(world, base)?;
    let digest = series_digest(world, base)?;
    shell::heading(&format!("Series for {} on {}", base.series, source.version));
    reset(world, base, &source)?;
    let fragments = fragments(world, base, &Variant::default())?;
    let tree = tree(world, base, &source, &fragments)?;
    tree.configure(&fragments)?;
    shell::run("What compiling needs", tree.make().arg("prepare"))?;
    let before = warnings(&tree)?;
    let patches = series(world, base)?;
    let mut faults = Vec::new();
    for (index, patch) in patches.iter().enumerate() {
        let name = patch
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        am(&source, patch)?;
        let style = checkpatch(&source, patch)?;
        let new: Vec<String> = warnings(&tree)?.difference(&before).cloned().collect();
        println!(
            "{} {}/{} {name}: {style}, {} new warnings at W=1",
            base.series,
            index + 1,
            patches.len(),
            new.len()
        );
        if style != CLEAN {
            faults.push(format!("{name}: {style}"));
        }
        faults.extend(new.into_iter().map(|warning| format!("{name}: {warning}")));
    }
    if !faults.is_empty() {
        bail!("series for {}:\n  {}", base.series, faults.join("\n  "));
    }
    std::fs::write(applied_mark(&source), digest)?;
    Ok(())
}

/// What checkpatch counts in a patch that it finds nothing in.
const CLEAN: &str = "0 errors, 0 warnings, 0 checks";

/// What checkpatch counts, and what it found on standard error.
fn checkpatch(source: &Source, patch: &Path) -> Result<String> {
    let output = Command::new("perl")
        .current_dir(&source.dir)
        .arg("scripts/checkpatch.pl")
        .args(["--strict", "--no-color"])
        .arg(patch)
        // Debian's source has no LICENSES directory, without which the check of licence names in git's tree breaks.
        .env("GIT_DIR", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .context("starting checkpatch.pl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let total = text.lines().find_map(|line| line.strip_prefix("total: "));
    let Some((counts, _)) = total.and_then(|total| total.rsplit_once(", ")) else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("checkpatch.pl counted nothing ({}): {text}{said}", output.status);
    };
    if counts != CLEAN {
        eprintln!("{text}");
    }
    Ok(counts.to_owned())
}

/// Compiles IMA with more warnings than usual; line numbers are left out, since patches move lines.
fn warnings(tree: &Tree<'_>) -> Result<BTreeSet<String>> {
    let output = tree
        .make()
        .args(["W=1", IMA])
        .stdin(Stdio::null())
        .output()
        .context("starting make")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        bail!(
            "{IMA} does not compile:\n{}",
            lines[lines.len().saturating_sub(30)..].join("\n")
        );
    }
    let mut found = BTreeSet::new();
    for line in said.lines().filter(|line| line.contains("warning:")) {
        let mut plain = String::new();
        for part in line.split(':') {
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                let _ = write!(plain, "{part}:");
            }
        }
        found.insert(plain);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_read_and_what_is_not_understood_is_an_error_with_its_line() {
        let text = "# x\n[\"6.12\"]\npackage = \"p\"\nsuite = \"s\"\nmade_for = \"1\"\nupstream = \"v\"\nfull = \"yes\"\n";
        let bases = parse_bases(text).unwrap();
        assert_eq!(bases.len(), 1);
        assert!(bases[0].full && bases[0].series == "6.12" && bases[0].package == "p");
        for (broken, said) in [
            ("package = \"p\"\n", "line 1"),
            ("[\"6.12\"]\npackage = p\n", "line 2"),
            ("[\"6.12\"]\ncolour = \"red\"\n", "line 2"),
            ("[\"6.12\"]\nfull = \"perhaps\"\n", "line 2"),
            ("[\"6.12\"]\npackage = \"p\"\n", "lacks"),
            ("", "no base"),
        ] {
            let error = parse_bases(broken).unwrap_err().to_string();
            assert!(error.contains(said), "{broken}: {error}");
        }
    }

    #[test]
    fn an_option_that_the_kernel_did_not_take_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=10\nCONFIG_LSM=\"x\"\n";
        let asked = "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=10\nCONFIG_LSM=\"x\"\n# CONFIG_Z is not set\n";
        assert!(not_held(asked, config).is_empty());
        assert_eq!(
            not_held("CONFIG_B=y\nCONFIG_A=n\nCONFIG_C=1\n", config),
            ["CONFIG_B=y", "CONFIG_A=n", "CONFIG_C=1"]
        );
        assert!(not_held("CONFIG_C=1\nCONFIG_C=10\n", config).is_empty());
    }

    #[test]
    fn a_patch_names_the_files_that_it_changes() {
        let patch = "diff --git a/x/y.c b/x/y.c\nindex 1..2\n--- a/x/y.c\ndiff --git a/z b/z\n";
        assert_eq!(touched(patch), ["x/y.c", "z"]);
    }
}
