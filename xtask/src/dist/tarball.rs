//! Archives for systems without dpkg: `cgpath` linked statically, `cgpathd` with the TPM's libraries beside
//! it.
//!
//! Promises: an archive is tried where it was unpacked, before it is given out; of each library there is its
//! package's copyright file. Not here: the C library, which `cgpathd` takes from the system (glibc of the
//! release that it was built on, or newer).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::bill::Bills;
use super::{Release, copy, lay, packages, size, sums};
use crate::workspace::{Workspace, emptied};
use crate::{build, shell};

/// Part of every system that has glibc.
const OF_THE_SYSTEM: &[&str] = &["linux-vdso.", "ld-linux", "libc.", "libm.", "libgcc_s."];

/// What loads a TCTI by its name finds it here: nothing is linked with it.
const TCTI: &str = "libtss2-tcti-device.so.0";

/// What is in each archive, by its place in what both kinds of packages are made of, and by its place in the
/// archive. The program comes first.
const TOOLS: &[(&str, &str)] = &[
    ("bin/cgpath", "bin/cgpath"),
    ("man/man1", "share/man/man1"),
    (
        "completions/bash/cgpath",
        "share/bash-completion/completions/cgpath",
    ),
    ("completions/zsh/_cgpath", "share/zsh/site-functions/_cgpath"),
    (
        "completions/fish/cgpath.fish",
        "share/fish/vendor_completions.d/cgpath.fish",
    ),
    ("policy/node", "share/ima-cgpath/policy"),
    ("policy/reference", "share/ima-cgpath/schemas"),
    (
        "deploy/prometheus/alerts.yml",
        "share/ima-cgpath/prometheus/alerts.yml",
    ),
    (
        "deploy/grafana/ima-cgpath.json",
        "share/ima-cgpath/grafana/ima-cgpath.json",
    ),
    ("deploy/cgpath.service", "share/ima-cgpath/cgpath.service"),
    ("cgpath.cdx.json", "cgpath.cdx.json"),
    ("cgpath-licences.txt", "cgpath-licences.txt"),
];
const COLLECTOR: &[(&str, &str)] = &[
    ("bin/cgpathd", "sbin/cgpathd"),
    ("man/man8", "share/man/man8"),
    (
        "completions/bash/cgpathd",
        "share/bash-completion/completions/cgpathd",
    ),
    ("completions/zsh/_cgpathd", "share/zsh/site-functions/_cgpathd"),
    (
        "completions/fish/cgpathd.fish",
        "share/fish/vendor_completions.d/cgpathd.fish",
    ),
    ("policy/ima", "share/ima-cgpath/ima"),
    ("cgpathd.cdx.json", "cgpathd.cdx.json"),
    ("cgpathd-licences.txt", "cgpathd-licences.txt"),
];

/// Makes both archives; gives their directory. `programs` are some that [`build::portable`] built before.
pub fn make(workspace: &Workspace, bills: &Bills, programs: Option<&Path>) -> Result<PathBuf> {
    let release = Release::of(workspace)?;
    let out = packages(workspace).join("tar");
    emptied(&out)?;
    let work = out.join("work");
    let built = match programs {
        Some(dir) => dir.to_owned(),
        None => {
            let dir = work.join("built");
            build::portable(workspace, &dir)?;
            dir
        }
    };
    let source = work.join("source");
    lay(workspace, &release, bills, &built, &source)?;
    let tools = format!("ima-cgpath-tools-{}-x86_64", release.full);
    let collector = format!("ima-cgpath-collector-{}-x86_64", release.full);
    plant(workspace, &source, TOOLS, &work.join(&tools))?;
    let tree = work.join(&collector);
    plant(workspace, &source, COLLECTOR, &tree)?;
    libraries(&built.join("cgpathd"), &tree)?;
    for name in [&tools, &collector] {
        archive(&work, name, &release, &out)?;
        size(name, &out.join(format!("{name}.tar.gz")))?;
    }
    try_tools(&work.join(&tools))?;
    try_collector(&work.join(&collector))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    sums(&out)?;
    Ok(out)
}

/// Copies what is in an archive to `tree`, with the project's licences, and strips the program.
fn plant(workspace: &Workspace, source: &Path, content: &[(&str, &str)], tree: &Path) -> Result<()> {
    for (path, place) in content {
        copy(&source.join(path), &tree.join(place))?;
    }
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&workspace.root.join(licence), &tree.join(licence))?;
    }
    let (_, program) = content.first().context("an archive has a program")?;
    strip(&tree.join(program))
}

fn strip(program: &Path) -> Result<()> {
    size("as built", program)?;
    shell::output(Command::new("strip").arg(program))?;
    size("stripped", program)
}

/// The libraries that a program is linked with, and where the loader finds them: a line of ldd(1) is
/// `name => path (address)`.
fn linked(listed: &str) -> Vec<(String, PathBuf)> {
    listed
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(" => ")?;
            let path = rest.split(" (").next()?;
            let of_the_system = OF_THE_SYSTEM.iter().any(|begin| name.starts_with(begin));
            (!of_the_system).then(|| (name.to_owned(), PathBuf::from(path)))
        })
        .collect()
}

/// Copies the libraries that no system need have, each with its package's copyright file.
fn libraries(program: &Path, tree: &Path) -> Result<()> {
    let mut found = linked(&shell::output(Command::new("ldd").arg(program))?);
    let loader = found
        .iter()
        .find(|(name, _)| name.starts_with("libtss2-tctildr."))
        .context("cgpathd is not linked with libtss2-tctildr")?;
    let tcti = loader.1.with_file_name(TCTI);
    found.extend(linked(&shell::output(Command::new("ldd").arg(&tcti))?));
    found.push((TCTI.to_owned(), tcti));
    let mut owners: BTreeSet<String> = BTreeSet::new();
    for (name, path) in found {
        let real = path
            .canonicalize()
            .with_context(|| format!("{name} at {}", path.display()))?;
        copy(&real, &tree.join(build::BUNDLED).join(&name))?;
        // dpkg may know the file by a path through /lib.
        let file = real
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let listed = shell::output(
            Command::new("dpkg-query")
                .arg("--search")
                .arg(format!("*/{file}")),
        )?;
        let owner = listed.split(':').next().unwrap_or_default().trim().to_owned();
        owners.insert(owner);
    }
    for owner in owners {
        let copyright = Path::new("/usr/share/doc").join(&owner).join("copyright");
        copy(&copyright, &tree.join("licences").join(format!("{owner}.txt")))
            .with_context(|| format!("the licence of {owner}"))?;
    }
    Ok(())
}

/// An archive of a directory, the same bytes for the same content.
fn archive(work: &Path, name: &str, release: &Release, out: &Path) -> Result<()> {
    let file = out.join(format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--format=ustar", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX"])
        .arg(format!("--mtime=@{}", release.epoch))
        .arg("--file")
        .arg(&file)
        .arg("-C")
        .arg(work)
        .arg(name);
    shell::output(&mut tar)?;
    shell::output(
        Command::new("gzip")
            .args(["--no-name", "--best", "--force"])
            .arg(&file),
    )?;
    Ok(())
}

fn try_tools(tree: &Path) -> Result<()> {
    let program = tree.join("bin/cgpath");
    let mut ldd = Command::new("ldd");
    let output = ldd.arg(&program).output().context("starting ldd")?;
    if output.status.success() {
        bail!(
            "{} is not linked statically:\n{}",
            program.display(),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    shell::output(Command::new(&program).arg("--version"))?;
    Ok(())
}

/// Everything that was brought along is what the loader takes, and the TCTI too.
fn try_collector(tree: &Path) -> Result<()> {
    let program = tree.join("sbin/cgpathd");
    let tree = tree.canonicalize()?;
    for (name, path) in linked(&shell::output(Command::new("ldd").arg(&program))?) {
        if !path.canonicalize()?.starts_with(&tree) {
            bail!("{name} is taken from {}, not from the archive", path.display());
        }
    }
    // It fails, for there is no such device, and the loader has said by then where it found the TCTI.
    let mut ak = Command::new(&program);
    ak.args(["--set", "tpm.tcti=device:/dev/null", "ak", "-o", "/dev/null"])
        .env("LD_DEBUG", "files");
    let said = ak.output().context("starting cgpathd")?.stderr;
    let said = String::from_utf8_lossy(&said);
    let wanted = format!("sbin/../{}/{TCTI}", build::BUNDLED);
    let is_taken = |line: &str| line.contains("calling init: ") && line.ends_with(&wanted);
    if !said.lines().any(is_taken) {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(TCTI)).collect();
        bail!("the TCTI is not taken from the archive:\n{}", lines.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_system_has_is_not_brought_along() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibtss2-esys.so.0 => /lib/x86_64-linux-gnu/libtss2-esys.so.0 (0x00007f6b9356b000)\n\
            \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f6b9354b000)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f6b9346b000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6b93289000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f6b94d5a000)\n\
            \tlibcrypto.so.3 => /lib/x86_64-linux-gnu/libcrypto.so.3 (0x00007f6b92e00000)\n";
        let names: Vec<String> = linked(listed).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["libtss2-esys.so.0", "libcrypto.so.3"]);
        assert_eq!(linked("\tstatically linked\n"), []);
    }
}
