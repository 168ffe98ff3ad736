//! Archives for systems without dpkg: `cgpath` linked statically, `cgpathd` with the TPM's libraries beside
//! it.
//!
//! Promises: an archive is tried where it was unpacked, before it is given out; of each library there is its
//! package's copyright file, and its package stands in the bill of materials; so it is of the C library
//! inside of a static program. Not here: that of `cgpathd`, which is the system's (glibc of the release that
//! it was built on, or newer).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::bill::{self, Bills};
use super::{Compression, Release, copy, lay, packages, portable, size, sums};
use crate::workspace::{Workspace, emptied};
use crate::{build, shell};

/// Part of every system that has glibc.
const OF_THE_SYSTEM: &[&str] = &["linux-vdso.", "ld-linux", "libc.", "libm.", "libgcc_s."];

/// What loads a TCTI by its name finds it here: nothing is linked with it.
const TCTI: &str = "libtss2-tcti-device.so.0";

/// What is inside of a program that is linked statically and comes from no crate.
const INSIDE: [&str; 2] = ["libc.a", "libgcc_eh.a"];

/// The project's own licences.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

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

/// Makes both archives; gives their directory. `programs` are those that [`portable`] takes.
pub fn make(workspace: &Workspace, bills: &Bills, programs: Option<&Path>) -> Result<PathBuf> {
    let out = packages(workspace).join("tar");
    emptied(&out)?;
    let work = out.join("work");
    let built = portable(workspace, programs, &work)?;
    let [tools, collector] = pack(workspace, bills, &built, &out, Compression::Small)?;
    try_tools(&tools)?;
    try_collector(&collector)?;
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    sums(&out)?;
    Ok(out)
}

/// Both archives, of the tools and of the collector; gives where each was unpacked again and found whole,
/// below `work` in `out`. Neither program is run.
pub fn pack(
    workspace: &Workspace,
    bills: &Bills,
    built: &Path,
    out: &Path,
    compression: Compression,
) -> Result<[PathBuf; 2]> {
    let release = Release::of(workspace)?;
    let work = out.join("work");
    let source = work.join("source");
    lay(workspace, &release, bills, built, &source)?;
    let trees = work.join("trees");
    let tools = format!("ima-cgpath-tools-{}-x86_64", release.full);
    let collector = format!("ima-cgpath-collector-{}-x86_64", release.full);
    plant(workspace, &source, TOOLS, &trees.join(&tools))?;
    plant(workspace, &source, COLLECTOR, &trees.join(&collector))?;
    let inside = inside(&trees.join(&tools).join(TOOLS[0].1))?;
    bill::bring(&inside, &trees.join(&tools).join("cgpath.cdx.json"))?;
    let brought = libraries(&built.join("cgpathd"), &trees.join(&collector))?;
    let unpacked = work.join("unpacked");
    std::fs::create_dir_all(&unpacked)?;
    for name in [&tools, &collector] {
        archive(&trees, name, &release, out, compression)?;
        let file = out.join(format!("{name}.tar.gz"));
        size(name, &file)?;
        let mut tar = Command::new("tar");
        shell::output(tar.arg("-xzf").arg(&file).arg("-C").arg(&unpacked))?;
    }
    let both = [unpacked.join(tools), unpacked.join(collector)];
    whole(&both[0], TOOLS, inside.iter().map(bill::Debian::licence))?;
    whole(&both[1], COLLECTOR, brought.iter().flat_map(Library::places))?;
    Ok(both)
}

/// Whether an archive that was unpacked has what it should have, with what was brought along.
fn whole(tree: &Path, content: &[(&str, &str)], brought: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    let mut wanted: Vec<PathBuf> = content.iter().map(|(_, place)| place.into()).collect();
    wanted.extend(LICENCES.map(PathBuf::from));
    wanted.extend(brought);
    for place in wanted {
        let path = tree.join(&place);
        let is_there = match path.metadata() {
            Ok(found) if found.is_dir() => !super::names(&path)?.is_empty(),
            Ok(found) => found.len() > 0,
            Err(_) => false,
        };
        if !is_there {
            bail!("the archive has no {}", place.display());
        }
    }
    Ok(())
}

/// Copies what is in an archive to `tree`, with the project's licences, and strips the program.
fn plant(workspace: &Workspace, source: &Path, content: &[(&str, &str)], tree: &Path) -> Result<()> {
    for (path, place) in content {
        copy(&source.join(path), &tree.join(place))?;
    }
    for licence in LICENCES {
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

/// A library that comes along.
#[derive(Debug)]
struct Library {
    /// As it is linked.
    name: String,
    /// Its package.
    owner: bill::Debian,
}

impl Library {
    /// Where it is in the archive, and where its package's copyright file is.
    fn places(&self) -> [PathBuf; 2] {
        [Path::new(build::BUNDLED).join(&self.name), self.owner.licence()]
    }
}

/// What ldd(1) lists of a program; nothing where it fails, as it does of a static one.
fn listed(program: &Path) -> Result<String> {
    let mut ldd = Command::new("ldd");
    let output = ldd.arg(program).output().context("starting ldd")?;
    if !output.status.success() {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether ldd(1) finds no library that a program is linked with: it fails, or says so of one that can be
/// loaded anywhere.
fn is_static(program: &Path) -> Result<bool> {
    Ok(lists_nothing(&listed(program)?))
}

fn lists_nothing(listed: &str) -> bool {
    linked(listed).is_empty() && of_the_system(listed).is_empty()
}

/// The packages of what is inside of a program, where it is linked statically.
fn inside(program: &Path) -> Result<BTreeSet<bill::Debian>> {
    if !is_static(program)? {
        return Ok(BTreeSet::new());
    }
    INSIDE
        .iter()
        .map(|name| {
            // The linker that links it knows.
            let said = shell::output(Command::new("cc").arg(format!("-print-file-name={name}")))?;
            let path = Path::new(said.trim());
            let real = path
                .canonicalize()
                .with_context(|| format!("looking for {}", path.display()))?;
            bill::Debian::of(&real)
        })
        .collect()
}

/// The loader and the C library of a program, by the paths at which it finds them; none of a static one.
pub fn system_of(program: &Path) -> Result<Vec<PathBuf>> {
    Ok(of_the_system(&listed(program)?))
}

/// The same, of what ldd(1) lists.
fn of_the_system(listed: &str) -> Vec<PathBuf> {
    listed
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let found = line.split_once(" => ").map_or(line, |(_, found)| found);
            let path = Path::new(found.split(" (").next()?);
            let name = path.file_name()?.to_str()?;
            let of_the_system = OF_THE_SYSTEM.iter().any(|begin| name.starts_with(begin));
            (of_the_system && path.is_absolute()).then(|| path.to_owned())
        })
        .collect()
}

/// Copies the libraries that no system need have, each with its package's copyright file, and names their
/// packages in the program's bill of materials.
fn libraries(program: &Path, tree: &Path) -> Result<Vec<Library>> {
    let mut found = linked(&shell::output(Command::new("ldd").arg(program))?);
    let loader = found
        .iter()
        .find(|(name, _)| name.starts_with("libtss2-tctildr."))
        .context("cgpathd is not linked with libtss2-tctildr")?;
    let tcti = loader.1.with_file_name(TCTI);
    found.extend(linked(&shell::output(Command::new("ldd").arg(&tcti))?));
    found.push((TCTI.to_owned(), tcti));
    let mut brought: Vec<Library> = Vec::new();
    for (name, path) in found {
        let real = path
            .canonicalize()
            .with_context(|| format!("{name} at {}", path.display()))?;
        copy(&real, &tree.join(build::BUNDLED).join(&name))?;
        brought.push(Library {
            owner: bill::Debian::of(&real)?,
            name,
        });
    }
    let owners: BTreeSet<bill::Debian> = brought.iter().map(|library| library.owner.clone()).collect();
    bill::bring(&owners, &tree.join("cgpathd.cdx.json"))?;
    Ok(brought)
}

/// An archive of a directory.
fn archive(trees: &Path, name: &str, release: &Release, out: &Path, compression: Compression) -> Result<()> {
    let file = out.join(format!("{name}.tar"));
    let mut options = ROOTS.to_vec();
    options.push("--create");
    tar(release, trees, &[name], &options, &file)?;
    gzip(&file, compression)?;
    Ok(())
}

/// Everything is root's, and others may read it.
pub const ROOTS: &[&str] = &["--owner=0", "--group=0", "--mode=u=rwX,go=rX"];

/// Makes an archive of entries of a directory, or adds them to it: the same bytes for the same content.
pub fn tar(release: &Release, dir: &Path, entries: &[&str], options: &[&str], file: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--format=ustar", "--numeric-owner"])
        .args(options)
        .arg(format!("--mtime=@{}", release.epoch))
        .arg("--file")
        .arg(file)
        .arg("-C")
        .arg(dir)
        .args(entries);
    shell::output(&mut tar)?;
    Ok(())
}

/// Packs a file, which is replaced; gives the new one. The same bytes for the same content.
pub fn gzip(file: &Path, compression: Compression) -> Result<PathBuf> {
    let level = match compression {
        Compression::Small => "--best",
        Compression::Quick => "--fast",
    };
    let mut gzip = Command::new("gzip");
    shell::output(gzip.args(["--no-name", level, "--force"]).arg(file))?;
    let mut packed = file.as_os_str().to_owned();
    packed.push(".gz");
    Ok(packed.into())
}

fn try_tools(tree: &Path) -> Result<()> {
    let program = tree.join("bin/cgpath");
    if !is_static(&program)? {
        bail!("{} is not linked statically", program.display());
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
        assert!(lists_nothing("\tstatically linked\n") && !lists_nothing(listed));
        let c_library_alone = listed.lines().nth(4).unwrap();
        assert!(!lists_nothing(c_library_alone), "{c_library_alone}");
        let own = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(of_the_system(listed), own.map(PathBuf::from));
    }

    #[test]
    fn an_archive_without_a_library_its_licence_or_a_file_is_not_whole() {
        let tree = std::env::temp_dir().join(format!("xtask-tarball-{}", std::process::id()));
        emptied(&tree).unwrap();
        let content = [("bin/cgpathd", "sbin/cgpathd"), ("policy/ima", "share/ima")];
        let owner = bill::Debian {
            name: "libtss2-esys-3.0.2-0".to_owned(),
            version: "3.2.1-3".to_owned(),
            architecture: "amd64".to_owned(),
        };
        let brought = [Library {
            name: "libtss2-esys.so.0".to_owned(),
            owner,
        }];
        let places = [
            "sbin/cgpathd",
            "share/ima/policy",
            "LICENSE-APACHE",
            "LICENSE-MIT",
            "lib/ima-cgpath/libtss2-esys.so.0",
            "licences/libtss2-esys-3.0.2-0.txt",
        ];
        let fill = || {
            for place in places {
                let path = tree.join(place);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "something").unwrap();
            }
        };
        fill();
        let whole = || whole(&tree, &content, brought.iter().flat_map(Library::places));
        whole().unwrap();
        for place in places {
            std::fs::remove_file(tree.join(place)).unwrap();
            assert!(whole().is_err(), "{place}");
            std::fs::write(tree.join(place), "").unwrap();
            let is_listed = place != "share/ima/policy";
            assert_eq!(whole().is_err(), is_listed, "{place}");
            fill();
        }
        std::fs::remove_dir_all(&tree).unwrap();
    }
}
