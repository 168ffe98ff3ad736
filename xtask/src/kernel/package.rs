//! Installable packages: the patched source with the distribution's own configuration, as Debian packages of
//! an image and its headers.
//!
//! Promises: nothing of the distribution's configuration is changed but what `config/package.config` names,
//! and, where a list of modules is given, the modules that are not on it. Packages are found again by a key
//! of all that went in.
//! Not here: installing them (`vm-tests/tests/guests/kernel_package.rs` does, in a guest).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::bases::{Base, patches_dir};
use super::build::{Tree, builds, compiler, not_held, settings};
use super::source::{apply, config_package, fetch, series_digest, sha256, source_name, version};
use crate::shell;
use crate::workspace::Workspace;

/// Raised when what is made from a source, or kept of a build, changes.
const RECIPE: u32 = 1;

/// The distribution's kernel that is packaged unless another is named: the one for virtual machines.
pub const USUAL_FLAVOUR: &str = "cloud-amd64";

/// What is packaged.
pub struct Wanted {
    /// The distribution's flavour: `cloud-amd64`, `amd64`.
    pub flavour: String,
    /// What `lsmod` prints where the packages are to run: no other module is built.
    pub modules: Option<PathBuf>,
    /// One more fragment.
    pub config: Option<PathBuf>,
}

/// Makes the packages, or finds them made; gives the directory with them.
pub fn package(workspace: &Workspace, base: &Base, wanted: &Wanted) -> Result<PathBuf> {
    let (_, version) = version(workspace, base)?;
    let mut changes = settings(&patches_dir(workspace).join("config/package.config"))?;
    if let Some(file) = &wanted.config {
        changes.push_str(&settings(file)?);
    }
    let modules = match &wanted.modules {
        Some(file) => loaded(file)?,
        None => String::new(),
    };
    let compiler = compiler()?;
    let series_digest = series_digest(workspace, base)?;
    let flavour = &wanted.flavour;
    let inputs = format!(
        "{RECIPE}\n{version}\n{flavour}\n{series_digest}\n{compiler}\n{changes}\n{}\n{modules}",
        wanted.modules.is_some()
    );
    let key = sha256(inputs.as_bytes())?;
    let home = workspace.cache.join("kernel-packages").join(format!(
        "{}-{flavour}-{}",
        base.series,
        key.get(..16).unwrap_or(&key)
    ));
    if home.is_dir() {
        return Ok(home);
    }
    let source = fetch(workspace, base)?;
    apply(workspace, base, &source)?;
    let work = builds(workspace).join(format!(
        "{}-{flavour}-package",
        source_name(base, &source.version)
    ));
    let tree = Tree {
        source: &source,
        out: work.join("build"),
    };
    configure(&tree, &distribution(workspace, base, flavour)?, &changes, flavour)?;
    if wanted.modules.is_some() {
        let list = work.join("lsmod");
        std::fs::write(&list, &modules)?;
        shell::output(
            tree.make()
                .arg(format!("LSMOD={}", list.display()))
                .arg("localmodconfig"),
        )?;
        check(&tree, &changes)?;
    }
    for old in packages(&work)? {
        std::fs::remove_file(&old).with_context(|| format!("removing {}", old.display()))?;
    }
    let mut make = tree.make();
    make.arg("bindeb-pkg")
        .env("KDEB_PKGVERSION", format!("{version}+cgpath{RECIPE}"))
        .env("KDEB_CHANGELOG_DIST", "unstable")
        .env("KDEB_COMPRESS", "xz")
        .env("DEBFULLNAME", super::source::NAME)
        .env("DEBEMAIL", super::source::MAIL)
        .env("DEB_BUILD_PROFILES", "pkg.linux-upstream.nokerneldbg");
    shell::run(&format!("Packages of {} ({flavour})", source.version), &mut make)?;
    let part = PathBuf::from(format!("{}.part", home.display()));
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    }
    std::fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let made = packages(&work)?;
    for kind in ["linux-image-", "linux-headers-"] {
        let of_kind = made.iter().find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(kind) && !name.contains("-dbg_")
        });
        let file = of_kind.with_context(|| format!("no {kind}* package in {}", work.display()))?;
        let to = part.join(file.file_name().unwrap_or_default());
        std::fs::copy(file, &to).with_context(|| format!("copying {}", file.display()))?;
    }
    std::fs::rename(&part, &home).with_context(|| format!("putting {} in place", home.display()))?;
    Ok(home)
}

/// The modules that a list in `lsmod`'s form names, in that form again, without what differs from moment to
/// moment.
fn loaded(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let names = names_of(&text);
    if names.is_empty() {
        bail!(
            "{} names no module; hint: lsmod >FILE where the packages are to run",
            file.display()
        );
    }
    let lines = names.iter().map(|name| format!("{name} 1 0\n"));
    Ok(std::iter::once("Module Size Used by\n".to_owned())
        .chain(lines)
        .collect())
}

fn names_of(lsmod: &str) -> Vec<&str> {
    let lines = lsmod.lines().filter(|line| !line.starts_with("Module "));
    let mut names: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The distribution's configuration of a flavour, from the package that has them all.
fn distribution(workspace: &Workspace, base: &Base, flavour: &str) -> Result<String> {
    let dir = config_package(workspace, base)?;
    let mut flavours = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(name) = name
            .strip_prefix("config.amd64_none_")
            .and_then(|name| name.strip_suffix(".xz"))
        else {
            continue;
        };
        if name == flavour {
            return shell::output(Command::new("xz").args(["--decompress", "--stdout"]).arg(&path));
        }
        flavours.push(name.to_owned());
    }
    flavours.sort();
    bail!(
        "no flavour `{flavour}` of {}; there are {}",
        base.kernel(),
        flavours.join(", ")
    )
}

fn configure(tree: &Tree<'_>, distribution: &str, changes: &str, flavour: &str) -> Result<()> {
    std::fs::create_dir_all(&tree.out).with_context(|| format!("making {}", tree.out.display()))?;
    let config = tree.out.join(".config");
    // Of two lines for one option the last one counts.
    std::fs::write(
        &config,
        format!("{distribution}\n{changes}CONFIG_LOCALVERSION=\"-ima-cgpath-{flavour}\"\n"),
    )?;
    shell::output(tree.make().arg("olddefconfig").stderr(Stdio::null()))?;
    check(tree, changes)
}

fn check(tree: &Tree<'_>, changes: &str) -> Result<()> {
    let missing = not_held(changes, &std::fs::read_to_string(tree.out.join(".config"))?);
    if !missing.is_empty() {
        bail!(
            "the distribution's configuration cannot have {}",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The Debian packages in a directory.
fn packages(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        found.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|end| end == "deb")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_from_lsmod_without_their_sizes_and_users() {
        let text = "Module                  Size  Used by\n\
            loop 40960 0\n\
            failover 12288 1 net_failover\n\
            loop 1 0\n\n";
        assert_eq!(names_of(text), ["failover", "loop"]);
    }
}
