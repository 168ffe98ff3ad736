//! Debian packages, made by debhelper from `deploy/debian`.
//!
//! Promises: nothing is compiled here; dependencies are what dpkg-shlibdeps finds, by the names of Debian 12
//! and of 13; lintian has nothing to say. Not here: what maintainer scripts do (`deploy/debian`).

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::bill::Bills;
use super::{Compression, PROGRAMS, Release, copy, lay, names, size, sums};
use crate::kernel::{MAIL, NAME};
use crate::shell;
use crate::workspace::{Workspace, emptied, find_program};

/// The units, and under which name debhelper takes them.
const UNITS: [(&str, &str); 2] = [
    ("cgpathd.service", "ima-cgpath-collector.cgpathd.service"),
    ("cgpath.service", "ima-cgpath-verifier.cgpath.service"),
];

/// Packs the programs of a directory into `out`, which then holds nothing else, and lists what it made with
/// its checksums.
pub fn pack(
    workspace: &Workspace,
    bills: &Bills,
    programs: &Path,
    out: &Path,
    compression: Compression,
) -> Result<()> {
    for tool in ["dh", "dpkg-deb"] {
        if find_program(tool).is_none() {
            bail!("`{tool}` is not there; hint: apt-get install debhelper");
        }
    }
    let release = Release::of(workspace)?;
    emptied(out)?;
    // debhelper puts packages beside the source.
    let source = out.join("source");
    lay(workspace, &release, bills, programs, &source)?;
    copy(&workspace.root.join("deploy/debian"), &source.join("debian"))?;
    for (unit, name) in UNITS {
        copy(
            &workspace.root.join("deploy").join(unit),
            &source.join("debian").join(name),
        )?;
    }
    let rules = source.join("debian/rules");
    std::fs::set_permissions(&rules, std::fs::Permissions::from_mode(0o755))?;
    let changelog = format!(
        "ima-cgpath ({}) unstable; urgency=medium\n\n  \
         * See CHANGELOG.md of the source.\n\n \
         -- {NAME} <{MAIL}>  {}\n",
        release.full,
        release.date("+%a, %d %b %Y %H:%M:%S +0000")?
    );
    std::fs::write(source.join("debian/changelog"), changelog)?;
    let mut make = Command::new(&rules);
    make.current_dir(&source)
        .arg("binary")
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
        .env("DEB_RULES_REQUIRES_ROOT", "no")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env_remove("DEB_BUILD_OPTIONS");
    if compression == Compression::Quick {
        make.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    }
    shell::output(&mut make)?;
    for (name, package, path) in [
        ("cgpath", "ima-cgpath-tools", "usr/bin/cgpath"),
        ("cgpathd", "ima-cgpath-collector", "usr/sbin/cgpathd"),
    ] {
        size(&format!("{name} as built"), &programs.join(name))?;
        size(
            &format!("{name} stripped"),
            &source.join("debian").join(package).join(path),
        )?;
    }
    for (name, _) in PROGRAMS {
        let bill = format!("{name}.cdx.json");
        copy(&source.join(&bill), &out.join(&bill))?;
    }
    std::fs::remove_dir_all(&source).with_context(|| format!("removing {}", source.display()))?;
    for name in debs(out)? {
        size(&name, &out.join(&name))?;
    }
    sums(out)
}

/// The names of the packages in a directory.
fn debs(dir: &Path) -> Result<Vec<String>> {
    let found = names(dir)?.into_iter().filter(|name| name.ends_with(".deb"));
    Ok(found.collect())
}

/// What lintian has against the packages of a directory is an error, and so is a TPM library by the name that
/// one release alone gives it.
pub fn check(dir: &Path) -> Result<()> {
    if find_program("lintian").is_none() {
        bail!(
            "`lintian` is not there: the packages are made and not looked at; hint: apt-get install lintian"
        );
    }
    let mut lintian = Command::new("lintian");
    lintian
        .current_dir(dir)
        // Root is what packages are made by in a container, and nothing of theirs is run.
        .arg("--allow-root")
        .args([
            "--no-cfg",
            "--fail-on",
            "error,warning",
            "--tag-display-limit",
            "0",
        ])
        .args(debs(dir)?);
    let output = lintian.output().context("starting lintian")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.trim().is_empty() {
        bail!(
            "lintian ({}):\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for name in debs(dir)? {
        let mut field = Command::new("dpkg-deb");
        let depends = shell::output(field.arg("--field").arg(dir.join(&name)).arg("Depends"))?;
        if let Some(only) = of_one_release(&depends) {
            bail!(
                "{name} depends on `{only}`; hint: name Debian 12's and 13's in deploy/debian/shlibs.local"
            );
        }
    }
    Ok(())
}

/// A dependency on a TPM library that has no alternative: its packages are called otherwise in Debian 13 than
/// in 12.
fn of_one_release(depends: &str) -> Option<&str> {
    let mut clauses = depends.split(',').map(str::trim);
    clauses.find(|clause| clause.starts_with("libtss2-") && !clause.contains(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_library_that_one_release_alone_has_is_found() {
        let both = "libc6 (>= 2.34), libtss2-mu0 | libtss2-mu-4.0.1-0t64, libgcc-s1 (>= 4.2)";
        assert_eq!(of_one_release(both), None);
        let one = "libc6 (>= 2.34), libtss2-sys1 (>= 3.2.0), libtss2-mu0 | libtss2-mu-4.0.1-0t64";
        assert_eq!(of_one_release(one), Some("libtss2-sys1 (>= 3.2.0)"));
    }
}
