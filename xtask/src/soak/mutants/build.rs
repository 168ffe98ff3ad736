//! A copy of the repository in which the rules have all their mutants, each behind a switch.
//!
//! Promises: what did not change is not compiled again, and nothing of it gets into the repository's own
//! builds. A switch that does not compile is taken out: where the mutant itself cannot compile that is what
//! becomes of it, else it gets a build of its own. Not here: which tests kill it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::kernel::sha256;
use crate::test::programs::{self, Program};
use crate::workspace::Workspace;
use crate::{build as tools, shell};

use super::log::{Log, Outcome};
use super::{Mutant, PACKAGE, ROOT, SOURCES, accepted};

/// So many times switches that do not compile are taken out: each stage of the compiler has errors of its
/// own.
const ROUNDS: u32 = 20;

enum Built {
    Programs(Vec<Program>),
    /// The compiler's errors.
    Not(Vec<Value>),
}

/// See the module.
pub struct Tree<'w> {
    workspace: &'w Workspace,
    dir: PathBuf,
    /// Its own, for cargo takes a package of the copy for that of the repository.
    target: PathBuf,
    /// What the switches' program takes its mutants from.
    list: PathBuf,
    /// Files of the repository.
    files: Vec<String>,
}

impl<'w> Tree<'w> {
    /// Brings the copy up to date; files with mutants are left to [`Self::switch`].
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn copy(workspace: &'w Workspace, folder: &Path, mutants: &[Mutant]) -> Result<Self> {
        let dir = folder.join("tree");
        let mut git = Command::new("git");
        git.current_dir(&workspace.root);
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = shell::output(&mut git)?;
        let is_there = |file: &&str| workspace.root.join(file).is_file();
        let files = listed
            .split('\0')
            .filter(|file| !file.is_empty())
            .filter(is_there);
        let files: Vec<String> = files.map(str::to_owned).collect();
        let mutated: BTreeSet<String> = mutants
            .iter()
            .map(|mutant| format!("{SOURCES}{}", mutant.file))
            .collect();
        for file in files
            .iter()
            .filter(|file| *file != ROOT && !mutated.contains(*file))
        {
            copy(&workspace.root.join(file), &dir.join(file))?;
        }
        for file in mutated.iter().map(String::as_str).chain([ROOT]) {
            if let Some(parent) = dir.join(file).parent() {
                std::fs::create_dir_all(parent)?;
            }
        }
        // Published data beside the repository, which some tests want.
        let (shared, link) = (workspace.root.join("../shared"), folder.join("shared"));
        if shared.is_dir() && !link.exists() {
            std::os::unix::fs::symlink(&shared, &link).context("a link to published data")?;
        }
        Ok(Self {
            workspace,
            dir,
            target: folder.join("target"),
            list: folder.join("list.json"),
            files,
        })
    }

    /// SHA-256 over the repository's files at these paths, with their names; without the list of mutants that
    /// no test kills.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn digest(&self, paths: &[&str]) -> Result<String> {
        let is_there = |file: &&String| {
            paths.iter().any(|path| Path::new(file).starts_with(path)) && *file != accepted::FILE
        };
        let mut bytes = Vec::new();
        for file in self.files.iter().filter(is_there) {
            let content = std::fs::read(self.workspace.root.join(file))?;
            bytes.extend(format!("{file} {}\n", content.len()).into_bytes());
            bytes.extend(content);
        }
        sha256(&bytes)
    }

    /// Puts switches into the copy, but for those that do not compile, and gives its test programs.
    ///
    /// # Errors
    /// When something does not compile that belongs to no switch.
    pub fn switch(&self, mutants: &[Mutant], log: &mut Log) -> Result<Vec<Program>> {
        for mutant in mutants.iter().filter(|mutant| mutant.is_opaque()) {
            log.leave_alone(mutant)?;
        }
        for _ in 0..ROUNDS {
            let is_left = |mutant: &&Mutant| {
                log.is_alone(&mutant.name) || log.outcome(&mutant.name) == Some(&Outcome::Unviable)
            };
            let left: BTreeSet<u64> = mutants
                .iter()
                .filter(is_left)
                .map(|mutant| mutant.number)
                .collect();
            let (done, unviable) = self.write_switches(mutants, &left)?;
            for mutant in mutants {
                if unviable.contains(&mutant.number) {
                    log.add(mutant, &Outcome::Unviable, Duration::ZERO)?;
                } else if !done.contains(&mutant.number) && !left.contains(&mutant.number) {
                    log.leave_alone(mutant)?;
                }
            }
            shell::heading(&format!(
                "compiling the rules and their tests with {} mutants",
                done.len()
            ));
            let messages = match self.build()? {
                Built::Programs(programs) => return Ok(programs),
                Built::Not(messages) => messages,
            };
            let blamed = self.blamed(&messages)?;
            println!("soak mutants: {} switches do not compile", blamed.len());
            for (number, is_its_own) in blamed {
                let mutant = mutants.iter().find(|mutant| mutant.number == number);
                let mutant = mutant.context("an error in an unknown switch")?;
                if is_its_own {
                    log.add(mutant, &Outcome::Unviable, Duration::ZERO)?;
                } else {
                    log.leave_alone(mutant)?;
                }
            }
        }
        bail!("switches still do not compile after {ROUNDS} rounds")
    }

    /// Gives the numbers of the mutants that have a switch, and of those that cannot compile.
    fn write_switches(
        &self,
        mutants: &[Mutant],
        left: &BTreeSet<u64>,
    ) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
        let values: Vec<Value> = mutants
            .iter()
            .map(|mutant| {
                let mut value = mutant.value.clone();
                value["left"] = left.contains(&mutant.number).into();
                value
            })
            .collect();
        std::fs::write(&self.list, serde_json::to_vec(&values)?)?;
        let mut command = tools::example(self.workspace, "switches");
        command
            .arg(&self.workspace.root)
            .arg(ROOT)
            .arg(&self.list)
            .arg(&self.dir);
        let written: Value = serde_json::from_str(&shell::spoken(&mut command)?)?;
        let numbers = |key: &str| -> Option<BTreeSet<u64>> {
            written[key].as_array()?.iter().map(Value::as_u64).collect()
        };
        let both = numbers("switches").zip(numbers("unviable"));
        both.context("the switches' program says another thing than numbers")
    }

    /// Builds the test programs, in the open but for errors. What a test takes is what the plain library of
    /// it takes, so that no package is compiled twice.
    fn build(&self) -> Result<Built> {
        let mut command = tools::cargo(self.workspace);
        command
            .current_dir(&self.dir)
            .env("CARGO_TARGET_DIR", &self.target);
        command.args([
            "test",
            "--locked",
            "-p",
            PACKAGE,
            "--lib",
            "--test",
            "integration",
        ]);
        command.args(["--no-run", "--message-format", "json"]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.context("starting cargo test")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(Built::Programs(
                said.lines().filter_map(programs::program).collect(),
            ));
        }
        let messages = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let errors = messages.map(|mut line| line["message"].take());
        Ok(Built::Not(
            errors.filter(|message| message["level"] == "error").collect(),
        ))
    }

    /// The mutants whose switches do not compile, and whether each error is in the mutant's own text.
    fn blamed(&self, errors: &[Value]) -> Result<BTreeMap<u64, bool>> {
        let mut blamed = BTreeMap::new();
        let mut others = String::new();
        for error in errors {
            let found = self.blame(error)?;
            if found.is_empty() && error["spans"].as_array().is_some_and(|spans| !spans.is_empty()) {
                others.push_str(error["rendered"].as_str().unwrap_or_default());
            }
            for (number, is_its_own) in found {
                *blamed.entry(number).or_insert(true) &= is_its_own;
            }
        }
        if blamed.is_empty() {
            bail!("the rules with switches, or their tests, do not compile\n{others}");
        }
        Ok(blamed)
    }

    /// Whose switch an error is in: by its main place, else by another one.
    fn blame(&self, message: &Value) -> Result<Vec<(u64, bool)>> {
        let spans = message["spans"].as_array().into_iter().flatten();
        let (main, others): (Vec<_>, Vec<_>) = spans.partition(|span| span["is_primary"] == true);
        for span in main.into_iter().chain(others) {
            // In a macro of others, the place where it is used.
            let mut span = span;
            while !span["file_name"]
                .as_str()
                .is_some_and(|file| file.starts_with(SOURCES))
            {
                span = &span["expansion"]["span"];
                if span.is_null() {
                    break;
                }
            }
            let (Some(file), Some(start), Some(end)) = (
                span["file_name"].as_str(),
                span["byte_start"].as_u64(),
                span["byte_end"].as_u64(),
            ) else {
                continue;
            };
            let text = std::fs::read_to_string(self.dir.join(file))?;
            let place = usize::try_from(start)?..usize::try_from(end)?;
            let found = innermost(&text, &place);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The test programs with a mutant that has no switch; `None` if it does not compile.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn alone(&self, mutant: &Mutant) -> Result<Option<Vec<Program>>> {
        let file = format!("{SOURCES}{}", mutant.file);
        let source = std::fs::read_to_string(self.workspace.root.join(&file))?;
        let span = &mutant.value["span"];
        let (Some(start), Some(end)) = (place(&source, &span["start"]), place(&source, &span["end"])) else {
            bail!("{}: there is no such place", mutant.name);
        };
        let replacement = mutant.value["replacement"].as_str().unwrap_or_default();
        // The file as it is but for this mutant: what else has switches rests on nothing in it.
        let text = format!("{}{replacement} {}", &source[..start], &source[end..]);
        std::fs::write(self.dir.join(&file), text)?;
        match self.build()? {
            Built::Programs(programs) => Ok(Some(programs)),
            Built::Not(_) => Ok(None),
        }
    }

    /// Takes such a mutant away; the switches come back with the next run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn restore(&self, mutant: &Mutant) -> Result<()> {
        let file = format!("{SOURCES}{}", mutant.file);
        copy(&self.workspace.root.join(&file), &self.dir.join(&file))
    }
}

/// Copies what is another file.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let content = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|there| there == content) {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(to, content).with_context(|| format!("writing {}", to.display()))
}

/// The byte at which a line and a column are, both from 1.
fn place(source: &str, at: &Value) -> Option<usize> {
    let line = usize::try_from(at["line"].as_u64()?).ok()?.checked_sub(1)?;
    let column = usize::try_from(at["column"].as_u64()?).ok()?.checked_sub(1)?;
    let begin: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = source.get(begin..)?;
    let within = rest
        .char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .nth(column)?;
    Some(begin + within)
}

/// What stands between marks (`examples/switches.rs` sets them).
struct Region {
    range: Range<usize>,
    numbers: Vec<u64>,
    /// Of one mutant alone, or of a switch with the operands.
    is_its_own: bool,
}

/// The mutants of the innermost marks around this place, or else of those that its lines have.
fn innermost(text: &str, place: &Range<usize>) -> Vec<(u64, bool)> {
    let regions = regions(text);
    let around = regions
        .iter()
        .filter(|region| region.range.start <= place.start && place.end <= region.range.end)
        .min_by_key(|region| region.range.len());
    if let Some(region) = around {
        return region
            .numbers
            .iter()
            .map(|number| (*number, region.is_its_own))
            .collect();
    }
    let begin = text
        .get(..place.start)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let end = text.get(place.end..).and_then(|behind| behind.find('\n'));
    let end = end.map_or(text.len(), |at| place.end + at);
    let beside = regions
        .iter()
        .filter(|region| region.range.start < end && begin < region.range.end);
    beside
        .flat_map(|region| region.numbers.iter().map(|number| (*number, false)))
        .collect()
}

fn regions(text: &str) -> Vec<Region> {
    let mut found = Vec::new();
    let mut open: Vec<(usize, Vec<u64>)> = Vec::new();
    let mut at = 0;
    while let Some(begin) = text[at..].find("/*").map(|found| at + found) {
        let Some(end) = text[begin..].find("*/").map(|found| begin + found) else {
            break;
        };
        let mark = &text[begin + 2..end];
        at = end + 2;
        let numbers =
            |mark: &str| -> Option<Vec<u64>> { mark.split(',').map(|number| number.parse().ok()).collect() };
        if let Some(numbers) = mark.strip_prefix(['<', '[']).and_then(numbers) {
            open.push((at, numbers));
        } else if mark.strip_suffix(['>', ']']).and_then(numbers).is_some()
            && let Some((from, numbers)) = open.pop()
        {
            found.push(Region {
                range: from..begin,
                numbers,
                is_its_own: mark.ends_with('>'),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_belongs_to_the_innermost_marks_around_it() {
        let text = "a\n/*[1,2*/(match (&(x), &(/*[3*/y/*3]*/)) { /*<1*/bad/*1>*/ })/*1,2]*/\nb\n";
        let at = |word: &str| {
            let begin = text.find(word).unwrap();
            innermost(text, &(begin..begin + word.len()))
        };
        assert_eq!(at("bad"), [(1, true)]);
        assert_eq!(at("y"), [(3, false)]);
        assert_eq!(at("x"), [(1, false), (2, false)]);
        assert_eq!(
            at("/*[1,2*/(match"),
            [(3, false), (1, false), (1, false), (2, false)]
        );
        assert!(at("b\n").is_empty());
    }

    #[test]
    fn a_place_is_counted_in_characters() {
        let source = "one\n\u{e4}b\n";
        let at = |line, column| place(source, &serde_json::json!({ "line": line, "column": column }));
        assert_eq!((at(1, 1), at(2, 2), at(2, 3)), (Some(0), Some(6), Some(7)));
        assert_eq!(at(2, 9), None);
    }
}
