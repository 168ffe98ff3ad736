//! `cgpathd node`: the collector is brought onto a host by a pod, and asked from it.
//!
//! Promises: the pod runs no program of the host's, and needs no capability: files are the user root's, and
//! the host's systemd runs what must be run there. Not here: what is installed where (see [`plan`]), what
//! a node lacks (see [`crate::check`]).

pub mod host;
pub mod manifest;
pub mod plan;
pub mod systemd;

use crate::check;
use crate::cli::Install;
use crate::config::{Config, DEFAULT_PATH, EXAMPLE};
use crate::control;
use crate::setup;
use crate::status::Status;
use host::{Content, Contents, HostError, Root};
use manifest::Link;
use plan::{Host, Part, Refusal, is_program};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use systemd::{Systemd, SystemdError};
use tokio::sync::watch;

/// The unit of the collector.
const UNIT: &str = "cgpathd.service";

/// The units by which the host answers a pod.
const ASK_SOCKET: &str = "cgpathd-check.socket";
const ASKED: &str = "cgpathd-check@.service";
const ASK_SOCKET_TEXT: &str = include_str!("../../../deploy/node/cgpathd-check.socket");
const ASKED_TEXT: &str = include_str!("../../../deploy/node/cgpathd-check@.service");

/// Where that socket is.
const ASK: &str = "run/ima-cgpath-check/check.sock";

/// The program as its unit names it.
const PROGRAM: &str = "/usr/sbin/cgpathd";

/// What of the image goes onto the host, below the prefix; directories as a whole.
const OF_THE_IMAGE: [&str; 5] = [
    "sbin/cgpathd",
    "lib/ima-cgpath",
    "share/ima-cgpath",
    "share/doc/ima-cgpath",
    "share/man/man8",
];

/// Files of the image, and how deep they lie.
const MAX_FILES: usize = 4096;
const MAX_DEPTH: usize = 8;

/// An answer of the host is no longer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// How long a check may take: the TPM may be slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often [`wait`] looks.
const EVERY: Duration = Duration::from_secs(60);

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The host's files.
    #[error("{0}{hint}", hint = hint(.0))]
    Host(#[from] HostError),
    /// The host's systemd.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A file of the image.
    #[error("the image: {path}: {source}")]
    Image {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The collector runs and nothing can stop it.
    #[error("the collector runs, and the host's systemd cannot be asked to stop it: {0}")]
    Running(SystemdError),
    /// The host does not answer.
    #[error(
        "the host does not answer at /{ASK}: {0}; the installed program may not start on this host (its \
        C library older than the image's), or {ASK_SOCKET} is not active"
    )]
    Silent(io::Error),
    /// Its answer cannot be read.
    #[error("the answer of the host: {0}")]
    Answer(String),
    /// Standard output.
    #[error("standard output: {0}")]
    Output(io::Error),
}

fn hint(error: &HostError) -> &'static str {
    match error {
        HostError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "; where SELinux enforces, the pod needs the type spc_t (chart: node.seLinuxType)"
        }
        _ => "",
    }
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), NodeError> {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(NodeError::Output)
}

/// A path of the host's configuration, below where its root is.
fn below(root: &Path, path: &Path) -> std::path::PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Puts what is in `image`, a root directory with this program in it, onto the host whose root directory is
/// `root`.
///
/// # Errors
/// See [`NodeError`]. After a [`Refusal`] nothing was changed; after another error it can be done again.
pub fn install(
    root: &Path,
    image: &Path,
    wanted: &Install,
    config: &Config,
    out: &mut dyn Write,
) -> Result<(), NodeError> {
    let on = Root::new(root);
    let runs = control::ask_status(&below(root, &config.run_dir)).is_ok();
    let before = on.look(std::iter::empty(), runs)?;
    let prefix = plan::prefix(wanted.prefix.as_deref(), before.manifest.as_ref(), |prefix| {
        // Of the optional directory the one around it counts.
        on.refused(if prefix == "/usr" { "/usr/sbin" } else { prefix })
    })?;
    let contents = contents(root, image, &prefix, wanted, config)?;
    let links = links(before.packaged.is_some());
    let paths = contents
        .keys()
        .map(String::as_str)
        .chain(links.iter().map(|link| link.path.as_str()));
    let host = on.look(paths, runs)?;
    let image_error = |source| NodeError::Image {
        path: image.display().to_string(),
        source,
    };
    let pieces = host::pieces(&contents, part).map_err(image_error)?;
    let plan = plan::install(&prefix, &pieces, &links, &host, wanted.handover)?;
    let mut text = plan.lines.join("\n");
    text.push('\n');
    if wanted.dry_run {
        return print(out, &format!("nothing is done (--dry-run); it would be:\n{text}"));
    }
    let (now, later) = plan
        .steps
        .split_at(plan.steps.len() - usize::from(plan.exchanges));
    for step in now {
        on.apply(step, &contents)?;
    }
    if wanted.setup {
        text += &setup::left_to_do(root);
    }
    print(out, &text)?;
    let labels = wrong_labels(&on, contents.keys().map(String::as_str), &selinux_label);
    print(out, &labels)?;
    if !labels.is_empty() && wanted.start {
        return print(out, "nothing is started: the labels above are wrong\n");
    }
    if wanted.start {
        start(root, &host, &prefix, plan.exchanges, out)?;
    }
    for step in later {
        on.apply(step, &contents)?;
    }
    Ok(())
}

/// Has the host's systemd check the node, and start the collector.
fn start(
    root: &Path,
    host: &Host,
    prefix: &str,
    exchanges: bool,
    out: &mut dyn Write,
) -> Result<(), NodeError> {
    let mut systemd = Systemd::connect(root)?;
    systemd.reload()?;
    if exchanges {
        run_once(
            &mut systemd,
            root,
            "cgpathd-handover",
            &format!("{prefix}/sbin/cgpathd handover"),
        )?;
        systemd.job("RestartUnit", UNIT, PATIENCE)?;
        print(out, "handed over to the new program, and restarted\n")?;
    }
    systemd.job("StartUnit", ASK_SOCKET, PATIENCE)?;
    let report = report(&ask(root, "check")?)?;
    print(out, &report.table)?;
    if host.runs {
        return print(out, "the collector runs\n");
    }
    if !report.missing.is_empty() {
        let missing = report.missing.join(", ");
        return print(
            out,
            &format!(
                "not started, for the node lacks: {missing}; with these mended the unit starts at the next \
                 boot, before the kubelet\n"
            ),
        );
    }
    systemd.job("StartUnit", UNIT, PATIENCE)?;
    print(out, &format!("started   {UNIT}\n"))
}

/// Has the host's systemd run a command once, as a unit that is gone afterwards.
fn run_once(systemd: &mut Systemd, root: &Path, name: &str, command: &str) -> Result<(), NodeError> {
    let unit = format!("{name}.service");
    let place = format!("/run/systemd/system/{unit}");
    let on = Root::new(root);
    let text = format!(
        "[Unit]\nDescription=cgpathd node: {command}\n[Service]\nType=oneshot\nExecStart={command}\n\
         LimitMEMLOCK=infinity\n"
    );
    let io = |what| {
        let path = place.clone();
        move |source| NodeError::Host(HostError::Io { path, what, source })
    };
    on.put(&place, &text).map_err(io("write"))?;
    let mut run = || {
        systemd.reload()?;
        systemd.job("StartUnit", &unit, PATIENCE)
    };
    let ran = run();
    on.take(&place).map_err(io("remove"))?;
    ran?;
    Ok(systemd.reload()?)
}

/// What goes onto the host.
fn contents(
    root: &Path,
    image: &Path,
    prefix: &str,
    wanted: &Install,
    config: &Config,
) -> Result<Contents, NodeError> {
    let mut contents = Contents::new();
    for part in OF_THE_IMAGE {
        let from = image.join("usr").join(part);
        let found = gather(&from, &format!("{prefix}/{part}"), MAX_DEPTH, &mut contents);
        found.map_err(|source| NodeError::Image {
            path: from.display().to_string(),
            source,
        })?;
    }
    let program = format!("{prefix}/sbin/cgpathd");
    let text = |text: &str| {
        (
            0o644,
            Content::Bytes(text.replace(PROGRAM, &program).into_bytes()),
        )
    };
    let unit = |name: &str| format!("/etc/systemd/system/{name}");
    contents.insert(setup::UNIT_PATH.to_owned(), text(setup::UNIT));
    contents.insert(unit(ASK_SOCKET), text(ASK_SOCKET_TEXT));
    contents.insert(unit(ASKED), text(ASKED_TEXT));
    contents.insert(
        "/etc/modules-load.d/cgpathd.conf".to_owned(),
        text(setup::MODULES),
    );
    contents.insert(DEFAULT_PATH.to_owned(), (0o600, Content::Bytes(EXAMPLE.into())));
    if let Some(dir) = &wanted.settings {
        let error = |source| NodeError::Image {
            path: dir.display().to_string(),
            source,
        };
        for entry in std::fs::read_dir(dir).map_err(error)?.take(MAX_FILES) {
            let entry = entry.map_err(error)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if (name == "cgpathd.toml" || name.ends_with(".pem")) && entry.path().is_file() {
                contents.insert(
                    format!("/etc/ima-cgpath/{name}"),
                    (0o600, Content::File(entry.path())),
                );
            }
        }
    }
    if wanted.setup {
        for (path, content) in setup::for_the_kernel(root, config) {
            let path = path.display().to_string();
            contents.insert(path, (0o644, Content::Bytes(content.into())));
        }
    }
    Ok(contents)
}

/// A file of the image, or those of a directory.
fn gather(from: &Path, to: &str, depth: usize, contents: &mut Contents) -> io::Result<()> {
    // All but the program may be absent: a static one has no libraries.
    if !from.exists() && !is_program(to) {
        return Ok(());
    }
    if !from.is_dir() {
        let mode = if is_program(to) { 0o755 } else { 0o644 };
        contents.insert(to.to_owned(), (mode, Content::File(from.to_owned())));
        return Ok(());
    }
    if depth == 0 || contents.len() > MAX_FILES {
        return Err(io::Error::other("more files than an image of the collector has"));
    }
    for entry in std::fs::read_dir(from)? {
        let name = entry?.file_name();
        gather(
            &from.join(&name),
            &format!("{to}/{}", name.to_string_lossy()),
            depth - 1,
            contents,
        )?;
    }
    Ok(())
}

fn part(path: &str) -> Part {
    match path {
        _ if path.contains("/cgpathd-check") => Part::Asking,
        "/etc/systemd/system/cgpathd.service" | "/etc/modules-load.d/cgpathd.conf" => Part::Program,
        _ if path.starts_with("/etc/") => Part::Settings,
        _ => Part::Program,
    }
}

/// By which the units start at each boot; the package's own unit where it is installed.
fn links(is_packaged: bool) -> [Link; 2] {
    let unit = if is_packaged {
        setup::PACKAGED_UNIT
    } else {
        setup::UNIT_PATH
    };
    let link = |target: &str, unit: &str, to: &str| Link {
        path: format!("/etc/systemd/system/{target}.wants/{unit}"),
        target: to.to_owned(),
    };
    [
        link("multi-user.target", UNIT, unit),
        link(
            "sockets.target",
            ASK_SOCKET,
            "/etc/systemd/system/cgpathd-check.socket",
        ),
    ]
}

/// The SELinux type of a file; none where it has none.
fn selinux_label(path: &Path) -> Option<String> {
    let mut buffer = [0; 256];
    let len = rustix::fs::lgetxattr(path, "security.selinux", &mut buffer[..]).ok()?;
    let label = String::from_utf8_lossy(buffer.get(..len)?).into_owned();
    label.trim_end_matches('\0').split(':').nth(2).map(str::to_owned)
}

/// The type that the reference policy has for a path, where it matters.
fn expected_label(path: &str) -> Option<&'static str> {
    let is = |part| path.contains(part);
    match path {
        _ if is_program(path) => Some("bin_t"),
        _ if is("/lib/ima-cgpath/") => Some("lib_t"),
        _ if is("/etc/systemd/system/") => Some("systemd_unit_file_t"),
        _ => None,
    }
}

/// A line for each file whose SELinux type is another than the reference policy's; nothing where the host
/// has no SELinux.
fn wrong_labels<'a>(
    on: &Root,
    paths: impl Iterator<Item = &'a str>,
    label: &dyn Fn(&Path) -> Option<String>,
) -> String {
    let mut text = String::new();
    if !on.has_directory("/sys/fs/selinux") || on.read("/sys/fs/selinux/enforce", 1).ok().flatten().is_none()
    {
        return text;
    }
    for path in paths {
        let Some((expected, place)) = expected_label(path).zip(on.inside(path).ok()) else {
            continue;
        };
        if place.is_file() && label(&place).as_deref() != Some(expected) {
            let found = label(&place).unwrap_or_else(|| "without a label".to_owned());
            // A String takes everything.
            let _ = writeln!(
                text,
                "label     {path} is {found}, not {expected}: run: restorecon -v {path}"
            );
        }
    }
    text
}

/// Stops the collector that a pod installed, and removes what it installed.
///
/// # Errors
/// See [`NodeError`]; it can be done again.
pub fn uninstall(root: &Path, config: &Config, dry_run: bool, out: &mut dyn Write) -> Result<(), NodeError> {
    let on = Root::new(root);
    let runs = control::ask_status(&below(root, &config.run_dir)).is_ok();
    let host = on.look(std::iter::empty(), runs)?;
    let plan = plan::uninstall(&host);
    let mut text = plan.lines.join("\n");
    text.push('\n');
    if dry_run {
        return print(out, &format!("nothing is done (--dry-run); it would be:\n{text}"));
    }
    let files = host.manifest.iter().flat_map(|manifest| &manifest.files);
    let program = files.map(|file| file.path.as_str()).find(|path| is_program(path));
    let mut systemd = match (Systemd::connect(root), program) {
        (Ok(systemd), _) => Some(systemd),
        (Err(error), Some(_)) if runs => return Err(NodeError::Running(error)),
        (Err(_), _) => None,
    };
    if let Some(systemd) = &mut systemd
        && host.manifest.is_some()
    {
        stop(systemd, root, program, out)?;
    }
    for step in &plan.steps {
        on.apply(step, &Contents::new())?;
    }
    if let Some(systemd) = &mut systemd {
        systemd.reload()?;
    }
    print(out, &text)?;
    if program.is_some() {
        print(
            out,
            &format!(
                "stays     {}: records of past boots; remove by hand\n\
             stays     {}: until the next boot, with the file system of checkpoint files\n\
             stays     the IMA policy in force: until the next boot\n\
             note      this boot cannot be attested any more\n",
                config.state_dir.display(),
                config.run_dir.display()
            ),
        )?;
    }
    Ok(())
}

fn stop(
    systemd: &mut Systemd,
    root: &Path,
    program: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), NodeError> {
    let not_there = |error: &SystemdError| {
        matches!(error, SystemdError::Failed { name, .. }
        if name.ends_with(".NoSuchUnit"))
    };
    let units: BTreeSet<&str> = program.map(|_| UNIT).into_iter().chain([ASK_SOCKET]).collect();
    for unit in units {
        match systemd.job("StopUnit", unit, PATIENCE) {
            Err(error) if not_there(&error) => continue,
            stopped => stopped?,
        }
        print(out, &format!("stopped   {unit}\n"))?;
    }
    if let Some(program) = program
        && Root::new(root).read(program, 1)?.is_some()
    {
        // What stays in the kernel goes with the boot: no reason to leave the files.
        match run_once(systemd, root, "cgpathd-unload", &format!("{program} unload")) {
            Ok(()) => print(out, "unloaded  the eBPF programs\n")?,
            Err(error) => print(
                out,
                &format!("stays     eBPF programs, until the next boot: {error}\n"),
            )?,
        }
    }
    Ok(())
}

/// Asks the host; gives its answer, which is JSON.
fn ask(root: &Path, question: &str) -> Result<String, NodeError> {
    let ask = || -> io::Result<String> {
        let mut stream = UnixStream::connect(root.join(ASK))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
        match answer.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(answer),
        }
    };
    ask().map_err(NodeError::Silent)
}

/// Answers one question on the host: `check` or `status`, by the line that comes first.
///
/// # Errors
/// When the answer cannot be written.
pub fn answer(config: &Config, question: &mut dyn Read, out: &mut impl Write) -> io::Result<u8> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 16 && question.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.extend(byte);
    }
    match line.as_slice() {
        b"check" => return check::run(config, true, out),
        b"status" => match control::ask_status(&config.run_dir) {
            Ok(status) => serde_json::to_writer(&mut *out, &status)?,
            Err(error) => serde_json::to_writer(&mut *out, &serde_json::json!({"error": error.to_string()}))?,
        },
        _ => serde_json::to_writer(&mut *out, &serde_json::json!({"error": "no such question"}))?,
    }
    writeln!(out)?;
    Ok(0)
}

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    /// Ids of what is not met.
    missing: Vec<String>,
    /// A line for each row that is not good.
    table: String,
    /// As `cgpathd check` ends.
    code: u8,
}

/// Reads what `cgpathd check --json` printed.
fn report(text: &str) -> Result<Report, NodeError> {
    let value: Value = serde_json::from_str(text).map_err(|e| NodeError::Answer(e.to_string()))?;
    let Some(rows) = value["rows"].as_array() else {
        let error = value["error"].as_str().unwrap_or("no rows");
        return Err(NodeError::Answer(error.to_owned()));
    };
    let mut report = Report {
        missing: Vec::new(),
        table: String::new(),
        code: 0,
    };
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default();
        let (id, state) = (word("id"), word("state"));
        match state {
            "ok" => continue,
            "fail" => {
                report.missing.push(id.to_owned());
                report.code = 1;
            }
            "skip" if report.code == 0 => report.code = 2,
            _ => {}
        }
        let remedy = match word("remedy") {
            "" => String::new(),
            remedy => format!(" -> {remedy}"),
        };
        // A String takes everything.
        let _ = writeln!(report.table, "{state:4}  {id}  {}{remedy}", word("found"));
    }
    Ok(report)
}

/// Prints what `cgpathd check --json` says on the host; gives its exit code.
///
/// # Errors
/// When the host does not answer.
pub fn check(root: &Path, out: &mut dyn Write) -> Result<u8, NodeError> {
    let answer = ask(root, "check")?;
    let code = report(&answer)?.code;
    print(out, &answer)?;
    Ok(code)
}

/// A line about the collector of the host, and whether it does its work.
fn described(answer: Result<String, NodeError>) -> (String, bool) {
    let status = match answer.map(|answer| serde_json::from_str::<Status>(&answer).map_err(|_| answer)) {
        Ok(Ok(status)) => status,
        Ok(Err(answer)) => {
            let value: Value = serde_json::from_str(&answer).unwrap_or_default();
            let why = value["error"].as_str().unwrap_or("its answer cannot be read");
            return (format!("no collector runs on this host: {why}"), false);
        }
        Err(error) => return (error.to_string(), false),
    };
    let older = match status.predating {
        0 => "no pod is older than it".to_owned(),
        n => format!(
            "pods that are older than it: {n}; they are `predates collector` until they end: drain the node, \
             or reboot it"
        ),
    };
    if let Some(blind) = status.blind {
        return (
            format!("checkpoint {blind} was sealed blind: this boot cannot be attested; reboot"),
            false,
        );
    }
    if status.stalled {
        return ("the disk takes no more records: make room".to_owned(), false);
    }
    (format!("the collector runs; {older}"), true)
}

/// Prints a line about the collector of the host; gives 0 where it does its work, else 1.
///
/// # Errors
/// When nothing can be printed.
pub fn status(root: &Path, out: &mut dyn Write) -> Result<u8, NodeError> {
    let (line, works) = described(ask(root, "status"));
    print(out, &format!("{line}\n"))?;
    Ok(u8::from(!works))
}

/// Prints that line whenever it is another one, until `stopped`.
///
/// # Errors
/// When nothing can be printed.
pub async fn wait(
    root: &Path,
    mut stopped: watch::Receiver<bool>,
    out: &mut dyn Write,
) -> Result<(), NodeError> {
    let mut last = String::new();
    let mut every = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = stopped.changed() => return Ok(()),
        }
        let root = root.to_owned();
        let asked = tokio::task::spawn_blocking(move || described(ask(&root, "status")));
        // It ends with this process, whatever it waits for.
        let line = tokio::select! {
            asked = asked => asked.map(|(line, _)| line).unwrap_or_default(),
            _ = stopped.changed() => return Ok(()),
        };
        if line != last {
            print(out, &format!("{line}\n"))?;
            last = line;
        }
    }
}

#[cfg(test)]
mod tests;
