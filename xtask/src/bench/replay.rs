//! Replay of a long measurement list in all four banks: `cgpath log replay` beside the bare hash extensions,
//! evmctl and Keylime.
//!
//! Promises: everybody reads the same entries, and a result that is not ours ends the benchmark. Not here:
//! the list's generator and the bare chains (examples of `cgpath-evidence`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::measure::{self, Contender, Spread, Taken};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::python::{self, KEYLIME_VERSION};
use crate::workspace::{Workspace, find_program};
use crate::{build, shell};

/// Lists that were made by another generator have other names.
const GENERATOR: u32 = 1;

/// Entries of the list.
const ENTRIES: u64 = 1_000_000;

/// Keylime replays this share of the entries, since it is slow; compared are entries a second.
const KEYLIME_SHARE: u64 = 10;

/// Calls what Keylime's verifier calls, with no policy. `gpg` is imported for signed policies and not used
/// here.
const KEYLIME_REPLAY: &str = "\
import sys, types
sys.modules['gpg'] = types.ModuleType('gpg')
from keylime.common.algorithms import Hash
from keylime.ima import ima
lines = open(sys.argv[1]).read().split('\\n')
value, failure = ima.process_measurement_list(None, lines, pcrval=sys.argv[2], hash_alg=Hash.SHA1)
sys.exit('not replayed' if failure or value != sys.argv[2] else 0)
";

/// `cargo xtask bench replay`.
///
/// # Errors
/// When something does not build, fails, or replays to another value.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    build::with_examples(
        workspace,
        "cgpath, the list's generator and the bare chains",
        "cgpath-evidence",
        &["make_list", "bare_chains"],
    )?;
    let release = workspace.target.join("release");
    let cgpath = release.join("cgpath");
    let lists = Lists {
        program: release.join("examples/make_list"),
        directory: workspace.cache.join("bench"),
    };
    let entries = options.entries.unwrap_or(ENTRIES);
    let list = lists.provide(entries, false)?;
    let values = replayed(&cgpath, &list, entries)?;

    let chains = release.join("examples/bare_chains");
    let split = shell::output(Command::new(&chains).arg(entries.to_string()))?;
    let split: Vec<&str> = split.split_whitespace().collect();
    let mut contenders = vec![
        Contender {
            name: "cgpath",
            command: replay_command(&cgpath, &list),
        },
        Contender {
            name: "bound",
            command: Command::new(&chains),
        },
    ];
    contenders[1].command.arg(entries.to_string()).args(&split);
    let evmctl = evmctl(&lists, &list, &values);
    let keylime = keylime(workspace, &lists, &cgpath, entries / KEYLIME_SHARE);
    let mut reasons = BTreeMap::new();
    for (name, command) in [("evmctl", evmctl), ("keylime", keylime)] {
        match command {
            Ok(command) => contenders.push(Contender { name, command }),
            Err(reason) => {
                reasons.insert(name, format!("{reason:#}"));
            }
        }
    }
    let machine = measure::machine();
    let mut taken: BTreeMap<&str, Vec<Taken>> = BTreeMap::new();
    let measured = measure::rounds(&mut contenders, options.rounds())?;
    for (contender, measured) in contenders.iter().zip(measured) {
        taken.insert(contender.name, measured);
    }
    // As if it had replayed all of them.
    for taken in taken.entry("keylime").or_default() {
        let all = entries as f64 / (entries / KEYLIME_SHARE) as f64;
        (taken.wall, taken.cpu) = (taken.wall * all, taken.cpu * all);
    }

    let why = |name: &str| reasons.get(name).cloned().unwrap_or_else(|| "no runs".to_owned());
    let each = |name: &str, of: fn(&Taken) -> f64| -> Vec<f64> {
        taken
            .get(name)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(of)
            .collect()
    };
    let wall: fn(&Taken) -> f64 = |taken| taken.wall;
    let cpu: fn(&Taken) -> f64 = |taken| taken.cpu;
    let figure = |label: &str, name: &str, of| Figure {
        found: Spread::of(&each(name, of)).ok_or_else(|| why(name)),
        name: label.to_owned(),
        unit: "s",
    };
    let ratio = |label: &str, goal, a: &str, b: &str, of| {
        let (left, right) = (each(a, of), each(b, of));
        let ratios: Vec<f64> = left.iter().zip(&right).map(|(a, b)| a / b).collect();
        Ratio {
            name: label.to_owned(),
            goal,
            found: Spread::of(&ratios).ok_or_else(|| why(if left.is_empty() { a } else { b })),
        }
    };
    let memory = |entries: u64| -> Result<Figure> {
        let list = lists.provide(entries, false)?;
        let peak = measure::peak_memory(&mut replay_command(&cgpath, &list))?;
        Ok(Figure {
            name: format!("cgpath, peak memory, {entries} entries"),
            unit: "MiB",
            found: Spread::of(&[peak]).ok_or_else(|| "not measured".to_owned()),
        })
    };
    let others: Vec<&str> = values
        .keys()
        .map(String::as_str)
        .filter(|bank| !split.contains(bank))
        .collect();
    Ok(Report {
        name: "replay",
        method: vec![
            machine,
            format!("{entries} ima-ng entries, from the page cache; whole processes; all banks but where \
                said."),
            "bound: as many bare extensions of each bank, with the same hash code, on two \
             threads:".to_owned(),
            format!("{} on one, {} on the other (the best split).", split.join("+"), others.join("+")),
            "evmctl: ima_measurement with registers from files (--pcrs), which it needs to replay at all; it \
             knows sha1"
                .to_owned(),
            "and sha256 only, and replays each as hashed and as padded.".to_owned(),
            format!("keylime: process_measurement_list of {KEYLIME_VERSION}, sha1 only, no policy, the ASCII \
                list;"),
            format!("of 1 entry in {KEYLIME_SHARE}, with Python's start, scaled to all."),
        ],
        figures: vec![
            figure("cgpath log replay", "cgpath", wall),
            figure("bound", "bound", wall),
            figure("evmctl (2 banks)", "evmctl", wall),
            figure("keylime (1 bank)", "keylime", wall),
            figure("cgpath, processor time", "cgpath", cpu),
            figure("bound, processor time", "bound", cpu),
            memory(entries)?,
            memory(entries * 2)?,
        ],
        ratios: vec![
            ratio("cgpath / bound", Some("at most 1.5"), "cgpath", "bound", wall),
            ratio("cgpath / bound, processor time", None, "cgpath", "bound", cpu),
            ratio("evmctl / cgpath", None, "evmctl", "cgpath", wall),
            ratio("keylime / cgpath", Some("at least 20"), "keylime", "cgpath", wall),
        ],
    })
}

/// Generated lists, in the cache.
struct Lists {
    program: PathBuf,
    directory: PathBuf,
}

impl Lists {
    fn provide(&self, entries: u64, ascii: bool) -> Result<PathBuf> {
        let form = if ascii { "ascii" } else { "bin" };
        let path = self.directory.join(format!("list-{GENERATOR}-{entries}.{form}"));
        let mut command = Command::new(&self.program);
        command.arg(entries.to_string());
        if ascii {
            command.arg("ascii");
        }
        measure::cached(&path, &mut command)?;
        Ok(path)
    }
}

fn replay_command(cgpath: &Path, list: &Path) -> Command {
    let mut command = Command::new(cgpath);
    command.args(["log", "replay", "--json"]).arg(list);
    command
}

/// PCR 10 in each bank, as cgpath replays it.
fn replayed(cgpath: &Path, list: &Path, entries: u64) -> Result<BTreeMap<String, String>> {
    let text = shell::output(&mut replay_command(cgpath, list))?;
    let found: serde_json::Value = serde_json::from_str(&text).context("what cgpath printed")?;
    if found["entries"] != entries {
        bail!(
            "{}: {} entries, not {entries}; hint: remove it",
            list.display(),
            found["entries"]
        );
    }
    let banks = found["pcrs"]["10"]
        .as_object()
        .context("cgpath printed no PCR 10")?;
    let text =
        |(bank, value): (&String, &serde_json::Value)| Some((bank.clone(), value.as_str()?.to_owned()));
    Ok(banks.iter().filter_map(text).collect())
}

/// evmctl compares with a TPM's registers, or with files of them: 24 lines each.
fn evmctl(lists: &Lists, list: &Path, values: &BTreeMap<String, String>) -> Result<Command> {
    let program = find_program("evmctl").context("evmctl is not installed (package ima-evm-utils)")?;
    let mut command = Command::new(program);
    command.arg("ima_measurement");
    for bank in ["sha1", "sha256"] {
        let value = values.get(bank).with_context(|| format!("no {bank} value"))?;
        let zeros = "0".repeat(value.len());
        let lines: String = (0..24)
            .map(|pcr| format!("PCR-{pcr:02}:{}\n", if pcr == 10 { value } else { &zeros }))
            .collect();
        let path = lists.directory.join(format!("pcrs-{bank}"));
        std::fs::write(&path, lines).with_context(|| format!("writing {}", path.display()))?;
        command.arg("--pcrs").arg(format!("{bank},{}", path.display()));
    }
    command.arg(list);
    shell::output(&mut command)?;
    Ok(command)
}

/// Keylime's replay in a virtual environment of its own, which is made at first use.
fn keylime(workspace: &Workspace, lists: &Lists, cgpath: &Path, entries: u64) -> Result<Command> {
    if entries == 0 {
        bail!("too few entries");
    }
    let python = python::keylime(workspace)?;
    let home = python.parent().context("a program lies in a folder")?.to_owned();
    let list = lists.provide(entries, true)?;
    let values = replayed(cgpath, &lists.provide(entries, false)?, entries)?;
    let value = values.get("sha1").context("no sha1 value")?;
    let mut command = Command::new(python);
    command.args(["-c", KEYLIME_REPLAY]).arg(list).arg(value);
    command.env("KEYLIME_TEST", "on").env("KEYLIME_DIR", home);
    shell::output(&mut command).context("Keylime's replay")?;
    Ok(command)
}
