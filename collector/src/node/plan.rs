//! What the node installer does on a host, decided from what is there.
//!
//! Promises: pure; nothing of somebody else's is overwritten or removed; after any of the steps the next
//! plan comes to the same end. Not here: looking at the host and doing the steps (see [`super::host`]).

use super::manifest::{self, Link, Manifest, Put};
use std::collections::{BTreeMap, BTreeSet};

/// Where the program is put by preference, and where else; in this order.
pub const PREFIXES: [&str; 2] = ["/usr", "/opt/ima-cgpath"];

/// The Debian package that brings the same.
pub const PACKAGE: &str = "ima-cgpath-collector";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The program, its libraries, documents, unit: what a package brings as well.
    Program,
    /// By which a pod asks the host.
    Asking,
    /// What a person may change: configuration, IMA policy, the kernel's command line.
    Settings,
}

/// A file that is wanted on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where on the host.
    pub path: String,
    /// SHA-256 of its content, as hex.
    pub sha256: String,
    /// Its permissions.
    pub mode: u32,
    /// What it is for.
    pub part: Part,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A regular file.
    File {
        /// SHA-256 of its content, as hex.
        sha256: String,
        /// Its owner.
        uid: u32,
    },
    /// A symbolic link and what it says.
    Link(String),
    /// Something else.
    Other,
}

/// A host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// What is at the paths that count; absent where nothing is.
    pub found: BTreeMap<String, Found>,
    /// Directories on the way to them that are not there.
    pub absent_dirs: BTreeSet<String>,
    /// What was installed before.
    pub manifest: Option<Manifest>,
    /// The files of the Debian package, where it is installed.
    pub packaged: Option<BTreeSet<String>>,
    /// A collector runs.
    pub runs: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a directory.
    MakeDir(String),
    /// Write the manifest, in place of the one before.
    Note(Manifest),
    /// Write the content of a piece beside its place.
    Stage(String),
    /// Rename it to its place.
    Swap(String),
    /// Make a link.
    Link(Link),
    /// Remove a file or a link.
    Remove(String),
    /// Remove a directory if it is empty.
    RemoveDir(String),
    /// Remove the manifest.
    Forget,
}

/// What is done, and what a person should read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// A line for each thing.
    pub lines: Vec<String>,
    /// The program is exchanged while a collector runs. Then the last step waits for the handover: until
    /// that is done, the next plan exchanges again.
    pub exchanges: bool,
}

/// Why nothing is done.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No place takes the program.
    #[error(
        "neither of /usr and /opt takes files ({0}): this host cannot be installed on by a pod; put \
        the collector into its image (docs/install-by-hand.md)"
    )]
    ReadOnly(String),
    /// The prefix that was asked for is not one.
    #[error("the prefix {0} is not one of {known}", known = PREFIXES.join(", "))]
    Prefix(String),
    /// A file of somebody else is in the way.
    #[error(
        "{path} is there and not ours ({what}): it is not overwritten; remove it, or keep what it \
        belongs to and leave this node out"
    )]
    Foreign {
        /// Which.
        path: String,
        /// What it is.
        what: String,
    },
    /// A file that was installed was changed.
    #[error("{0} was changed since it was installed: it is not overwritten; put it back or remove it")]
    Changed(String),
    /// The package was installed over what a pod installed.
    #[error(
        "the package {PACKAGE} was installed after a pod had installed the same: remove the pod's \
        first (cgpathd node uninstall), which keeps the package's files"
    )]
    PackageCame,
    /// The collector that runs would be another program than its file.
    #[error(
        "a collector runs and is another program ({old}): have the policy accept {new}, then install \
        with --handover (docs/upgrade.md); nothing was changed"
    )]
    Runs {
        /// SHA-256 of the file that is there.
        old: String,
        /// SHA-256 of the new one.
        new: String,
    },
}

/// Below which the program goes. `refused` says why one of [`PREFIXES`] takes no files.
///
/// # Errors
/// [`Refusal::ReadOnly`], [`Refusal::Prefix`].
pub fn prefix(
    wanted: Option<&str>,
    before: Option<&Manifest>,
    refused: impl Fn(&str) -> Option<String>,
) -> Result<String, Refusal> {
    // What was installed is exchanged where it is.
    if let Some(wanted) = before.map(|before| before.prefix.as_str()).or(wanted)
        && !PREFIXES.contains(&wanted)
    {
        return Err(Refusal::Prefix(wanted.to_owned()));
    }
    let mut why = Vec::new();
    for prefix in PREFIXES {
        let wanted = before.map(|before| before.prefix.as_str()).or(wanted);
        if wanted.is_some_and(|wanted| wanted != prefix) {
            continue;
        }
        match refused(prefix) {
            None => return Ok(prefix.to_owned()),
            Some(reason) => why.push(format!("{prefix}: {reason}")),
        }
    }
    Err(Refusal::ReadOnly(why.join("; ")))
}

/// Whether a path is the program's.
pub fn is_program(path: &str) -> bool {
    PREFIXES
        .iter()
        .any(|prefix| path.strip_prefix(prefix) == Some("/sbin/cgpathd"))
}

/// Where a file is written before it is renamed to its place: in the same directory.
pub fn staged(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, name)) => format!("{dir}/.{name}.cgpathd-new"),
        None => format!(".{path}.cgpathd-new"),
    }
}

/// Directories on the way to a path, the outer ones first.
pub fn dirs_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .map(|(at, _)| &path[..at])
        .filter(|dir| !dir.is_empty())
}

/// Brings what is wanted onto the host. `pieces` have different paths.
///
/// # Errors
/// See [`Refusal`]; then nothing is done at all.
pub fn install(
    prefix: &str,
    pieces: &[Piece],
    links: &[Link],
    host: &Host,
    handover: bool,
) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    let before = host.manifest.clone().unwrap_or_else(|| Manifest::new(prefix));
    let brought_program = before.files.iter().any(|file| is_program(&file.path));
    if host.packaged.is_some() && brought_program {
        return Err(Refusal::PackageCame);
    }
    let mut next = Manifest::new(prefix);
    // Those that were made and are there still.
    next.dirs = before
        .dirs
        .iter()
        .filter(|dir| !host.absent_dirs.contains(*dir))
        .cloned()
        .collect();
    let mut stage = Vec::new();
    for piece in pieces {
        let path = &piece.path;
        if let Some(packaged) = &host.packaged
            && (piece.part == Part::Program || packaged.contains(path))
        {
            if packaged.contains(path) {
                plan.lines.push(format!("is there  {path}: the package's"));
            }
            continue;
        }
        let ours = before.digests(path);
        let keep = |next: &mut Manifest, digests: Vec<String>| {
            next.files.push(Put {
                path: path.clone(),
                sha256: digests,
            });
        };
        match host.found.get(path) {
            None => stage.push((piece, None)),
            Some(Found::File { sha256, .. }) if *sha256 == piece.sha256 => {
                if ours.contains(sha256.as_str()) {
                    keep(&mut next, vec![sha256.clone()]);
                }
                // What somebody else put there stays theirs, also where it is the same.
                plan.lines.push(format!("is there  {path}"));
            }
            Some(Found::File { sha256, .. }) if ours.contains(sha256.as_str()) => {
                stage.push((piece, Some(sha256.clone())));
            }
            Some(Found::File { .. }) if piece.part == Part::Settings => {
                // Of one that was made here it is known still what it was.
                if !ours.is_empty() {
                    keep(
                        &mut next,
                        ours.iter().map(|digest| (*digest).to_owned()).collect(),
                    );
                }
                plan.lines
                    .push(format!("kept      {path}: it is there and differs from ours"));
            }
            Some(Found::File { .. }) if !ours.is_empty() => return Err(Refusal::Changed(path.clone())),
            Some(found) => return Err(foreign(path, found)),
        }
    }
    if let Some((old, new)) = exchanged(pieces, host, &before).filter(|_| host.runs) {
        if !handover {
            return Err(Refusal::Runs { old, new });
        }
        plan.exchanges = true;
    }
    let mut make_links = Vec::new();
    for link in links {
        let was_ours = before.links.contains(link);
        match host.found.get(&link.path) {
            None => make_links.push(link),
            // However it is written: somebody enabled the unit.
            Some(Found::Link(target)) if last(target) == last(&link.target) => {
                if was_ours {
                    next.links.push(link.clone());
                }
                plan.lines.push(format!("is there  {}", link.path));
            }
            Some(found) => return Err(foreign(&link.path, found)),
        }
    }
    let stale = stale(&before, pieces, host, &mut plan, &mut next);
    // What an end in the middle left beside its place.
    let places = pieces
        .iter()
        .map(|piece| &piece.path)
        .chain(before.files.iter().map(|file| &file.path));
    let leftovers: BTreeSet<String> = places
        .filter(|path| !stage.iter().any(|(piece, _)| piece.path == **path))
        .map(|path| staged(path))
        .filter(|path| host.found.contains_key(path))
        .collect();
    let is_noted =
        before.done && before.files == sorted(&next) && !host.found.contains_key(&staged(manifest::PLACE));
    if stage.is_empty() && make_links.is_empty() && stale.is_empty() && leftovers.is_empty() && is_noted {
        return Ok(plan);
    }
    let staged_paths = stage.iter().map(|(piece, _)| piece.path.as_str());
    let paths: Vec<&str> = staged_paths
        .chain(make_links.iter().map(|link| link.path.as_str()))
        .collect();
    let make: BTreeSet<String> = paths
        .iter()
        .flat_map(|path| dirs_of(path))
        .filter(|dir| host.absent_dirs.contains(*dir))
        .map(str::to_owned)
        .collect();
    next.dirs.extend(make.iter().cloned());
    next.dirs.sort();
    next.dirs.dedup();
    next.links.extend(make_links.iter().map(|link| (*link).clone()));
    next.links.sort();
    for (piece, _) in &stage {
        next.files.push(Put {
            path: piece.path.clone(),
            sha256: vec![piece.sha256.clone()],
        });
    }
    next.files = sorted(&next);
    next.done = true;

    // First it is written down what will be ours: an end at any step leaves nothing that is not known.
    let mut pending = next.clone();
    pending.done = false;
    for file in &mut pending.files {
        let old = before.digests(&file.path).into_iter().map(str::to_owned);
        let all: BTreeSet<String> = file.sha256.iter().cloned().chain(old).collect();
        file.sha256 = all.into_iter().collect();
    }
    pending.files.extend(stale.iter().cloned());
    pending.files = sorted(&pending);
    plan.steps.push(Step::Note(pending));
    plan.steps.extend(make.into_iter().map(Step::MakeDir));
    plan.steps
        .extend(stage.iter().map(|(piece, _)| Step::Stage(piece.path.clone())));
    for (piece, old) in &stage {
        plan.steps.push(Step::Swap(piece.path.clone()));
        let verb = if old.is_some() { "exchanged" } else { "made     " };
        plan.lines.push(format!("{verb} {}", piece.path));
    }
    for link in make_links {
        plan.steps.push(Step::Link(link.clone()));
        plan.lines
            .push(format!("made      {} -> {}", link.path, link.target));
    }
    plan.steps.extend(leftovers.into_iter().map(Step::Remove));
    for file in stale {
        plan.lines
            .push(format!("removed   {}: this version has none", file.path));
        plan.steps.push(Step::Remove(file.path));
    }
    plan.steps.push(Step::Note(next));
    Ok(plan)
}

/// The program that was there, and the one that takes its place: also where only the end of that is missing.
fn exchanged(pieces: &[Piece], host: &Host, before: &Manifest) -> Option<(String, String)> {
    let piece = pieces.iter().find(|piece| is_program(&piece.path))?;
    let Some(Found::File { sha256, .. }) = host.found.get(&piece.path) else {
        return None;
    };
    let ours = before.digests(&piece.path);
    let old = match *sha256 == piece.sha256 {
        true if before.done => return None,
        true => ours.into_iter().find(|digest| *digest != sha256.as_str())?,
        false => ours.into_iter().find(|digest| *digest == sha256.as_str())?,
    };
    Some((old.to_owned(), piece.sha256.clone()))
}

fn foreign(path: &str, found: &Found) -> Refusal {
    let what = match found {
        Found::File { uid: 0, .. } => "a file with another content".to_owned(),
        Found::File { uid, .. } => format!("a file of the user {uid}"),
        Found::Link(target) => format!("a link to {target}"),
        Found::Other => "no regular file".to_owned(),
    };
    Refusal::Foreign {
        path: path.to_owned(),
        what,
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn sorted(manifest: &Manifest) -> Vec<Put> {
    let mut files = manifest.files.clone();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

/// Files of an earlier version that this one has not.
fn stale(before: &Manifest, pieces: &[Piece], host: &Host, plan: &mut Plan, next: &mut Manifest) -> Vec<Put> {
    let mut stale = Vec::new();
    for file in &before.files {
        if pieces.iter().any(|piece| piece.path == file.path) {
            continue;
        }
        match host.found.get(&file.path) {
            None => {}
            Some(Found::File { sha256, .. }) if file.sha256.contains(sha256) => stale.push(file.clone()),
            Some(_) => {
                next.files.push(file.clone());
                plan.lines
                    .push(format!("kept      {}: it was changed", file.path));
            }
        }
    }
    stale
}

/// Removes what was installed, and says what stays.
pub fn uninstall(host: &Host) -> Plan {
    let mut plan = Plan::default();
    let Some(before) = &host.manifest else {
        plan.lines.push("nothing was installed here by a pod".to_owned());
        return plan;
    };
    let mut pending = before.clone();
    pending.done = false;
    plan.steps.push(Step::Note(pending));
    for link in before.links.iter().rev() {
        match host.found.get(&link.path) {
            Some(Found::Link(target)) if *target == link.target => {
                plan.steps.push(Step::Remove(link.path.clone()));
                plan.lines.push(format!("removed   {}", link.path));
            }
            Some(_) => plan
                .lines
                .push(format!("kept      {}: it was changed", link.path)),
            None => {}
        }
    }
    for file in &before.files {
        let staged = staged(&file.path);
        if host.found.contains_key(&staged) {
            plan.steps.push(Step::Remove(staged));
        }
        let packaged = host
            .packaged
            .as_ref()
            .is_some_and(|files| files.contains(&file.path));
        match host.found.get(&file.path) {
            None => {}
            Some(_) if packaged => plan.lines.push(format!("kept      {}: the package's", file.path)),
            Some(Found::File { sha256, .. }) if file.sha256.contains(sha256) => {
                plan.steps.push(Step::Remove(file.path.clone()));
                plan.lines.push(format!("removed   {}", file.path));
            }
            Some(_) => plan
                .lines
                .push(format!("kept      {}: it was changed", file.path)),
        }
    }
    plan.steps
        .extend(before.dirs.iter().rev().cloned().map(Step::RemoveDir));
    plan.steps.push(Step::Forget);
    plan.lines.push(format!("removed   {}", manifest::PLACE));
    plan
}
