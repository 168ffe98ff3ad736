//! Looking at a series patch by patch: whether it applies, how it is written, what compilers and sparse say
//! of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::bases::{Base, own_patches, series};
use super::build::{Tree, Variant, compiler, fragments, selftest, tree};
use super::source::{Source, am, applied_mark, fetch, reset, series_digest, sha256, version};
use crate::shell;
use crate::workspace::Workspace;

/// The directory that is compiled after each patch.
const IMA: &str = "security/integrity/ima/";

/// Raised when the check looks at more, or otherwise.
const RECIPE: u32 = 1;

/// Where it is written down that a series passed: named by a key of the source, the series, what checkpatch
/// is not asked, the configuration and the tools.
pub fn passed_mark(workspace: &Workspace, base: &Base) -> Result<PathBuf> {
    let (_, version) = version(workspace, base)?;
    let fragments = fragments(workspace, base, &Variant::default())?;
    let sparse = shell::output(Command::new("sparse").arg("--version"))?;
    let inputs = format!(
        "{RECIPE}\n{version}\n{}\n{}\n{:?}\n{}\n{fragments}",
        series_digest(workspace, base)?,
        compiler()?,
        base.accepted,
        sparse.trim(),
    );
    let key = sha256(inputs.as_bytes())?;
    let name = format!("{}-{}", base.series, key.get(..16).unwrap_or(&key));
    Ok(workspace.cache.join("kernel-checks").join(name))
}

/// Applies a series patch by patch; each must be clean and must compile without a warning that was not there
/// before.
pub fn check(workspace: &Workspace, base: &Base) -> Result<()> {
    let source = fetch(workspace, base)?;
    let digest = series_digest(workspace, base)?;
    shell::heading(&format!("Series for {} on {}", base.series, source.version));
    reset(workspace, base, &source)?;
    let variant = Variant::default();
    let tree = tree(workspace, base, &source, &variant);
    tree.configure(&fragments(workspace, base, &variant)?)?;
    shell::run("What compiling needs", tree.make().arg("prepare"))?;
    let patches = own_patches(workspace, base)?;
    for earlier in series(workspace, base)?
        .iter()
        .filter(|patch| !patches.contains(patch))
    {
        am(&source, earlier)?;
    }
    // What was compiled before is not warned about again: everything is to be compiled once without these
    // patches.
    let objects = tree.out.join(IMA);
    if objects.exists() {
        std::fs::remove_dir_all(&objects).with_context(|| format!("removing {}", objects.display()))?;
    }
    let before = warnings(&tree)?;
    let mut faults = Vec::new();
    for (index, patch) in patches.iter().enumerate() {
        let name = patch
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        am(&source, patch)?;
        let style = checkpatch(base, &source, patch)?;
        let new: Vec<String> = warnings(&tree)?.difference(&before).cloned().collect();
        println!(
            "{} {}/{} {name}: {style}, {} new warnings at W=1 and of sparse",
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
    selftest(&source, &tree.out.join("selftest"))?;
    println!(
        "{}: {} warnings of {IMA} without these patches",
        base.series,
        before.len()
    );
    if !faults.is_empty() {
        bail!("series for {}:\n  {}", base.series, faults.join("\n  "));
    }
    std::fs::write(applied_mark(&source), digest)?;
    Ok(())
}

/// What checkpatch counts in a patch that it finds nothing in.
const CLEAN: &str = "0 errors, 0 warnings, 0 checks";

/// What checkpatch counts, and what it found on standard error.
fn checkpatch(base: &Base, source: &Source, patch: &Path) -> Result<String> {
    let output = Command::new("perl")
        .current_dir(&source.dir)
        .arg("scripts/checkpatch.pl")
        .args(["--strict", "--no-color"])
        .args(base.accepted.iter().flat_map(|names| ["--ignore", names]))
        .arg(patch)
        // Debian's source has no LICENSES directory, without which the check of licence names in git's tree
        // breaks.
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

/// Compiles IMA with more warnings than usual and lets sparse read it, unchanged files too; line numbers are
/// left out, since patches move lines.
fn warnings(tree: &Tree<'_>) -> Result<BTreeSet<String>> {
    let output = tree
        .make()
        .args(["W=1", "C=2", IMA])
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
    // sparse's errors do not end a compilation.
    let tells = |line: &&str| line.contains("warning:") || line.contains("error:");
    for line in said.lines().filter(tells) {
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
