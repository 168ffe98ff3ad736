//! Building: a configuration from the fragments, an image from the source, and the key by which it is found
//! again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::bases::{Base, patches_dir};
use super::source::{Source, apply, fetch, series_digest, sha256, source_name, version};
use crate::shell;
use crate::workspace::{Workspace, find_program};

/// Raised when what is made from a source, or kept of a build, changes.
const RECIPE: u32 = 1;

/// The self-test's source, in the patched tree.
const SELFTEST: &str = "tools/testing/selftests/ima/cgpath.c";

/// What is built besides the small kernel for guests.
#[derive(Default)]
pub struct Variant {
    pub debug: bool,
    pub config: Option<PathBuf>,
}

/// The fragments of a variant, one after the other; a base may have one of its own.
pub fn fragments(workspace: &Workspace, base: &Base, variant: &Variant) -> Result<String> {
    let dir = patches_dir(workspace).join("config");
    // Without type information for eBPF a kernel compiles in half the time; what looks for errors needs none.
    let others: &[&str] = if variant.debug {
        &["debug"]
    } else {
        &["bpf", "virtme"]
    };
    let names = ["base", "tpm"].into_iter().chain(others.iter().copied());
    let mut files: Vec<PathBuf> = names.map(|name| dir.join(format!("{name}.config"))).collect();
    files.extend(Some(dir.join(format!("{}.config", base.kernel()))).filter(|file| file.is_file()));
    files.extend(variant.config.clone());
    let mut text = String::new();
    for file in files {
        text.push_str(&settings(&file)?);
    }
    Ok(text)
}

/// The settings of a fragment, a line each: what its comments say changes no kernel.
pub fn settings(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let settings = text.lines().filter(|line| line.contains("CONFIG_"));
    Ok(settings.flat_map(|line| [line, "\n"]).collect())
}

/// The C compiler, as it names itself.
pub fn compiler() -> Result<String> {
    let text = shell::output(Command::new("gcc").arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A place where a source is compiled.
pub struct Tree<'a> {
    pub source: &'a Source,
    pub out: PathBuf,
}

impl Tree<'_> {
    pub fn make(&self) -> Command {
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
    pub fn configure(&self, fragments: &str) -> Result<()> {
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
pub fn not_held(fragments: &str, config: &str) -> Vec<String> {
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

pub fn builds(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("kernel-build")
}

/// Builds a kernel, or finds it built; gives the directory with the image.
pub fn build(workspace: &Workspace, base: &Base, variant: &Variant) -> Result<PathBuf> {
    let (_, version) = version(workspace, base)?;
    let fragments = fragments(workspace, base, variant)?;
    let compiler = compiler()?;
    let series_digest = series_digest(workspace, base)?;
    let key = sha256(format!("{RECIPE}\n{version}\n{series_digest}\n{compiler}\n{fragments}").as_bytes())?;
    let home = workspace
        .cache
        .join("kernels")
        .join(format!("ima-cgpath-{}", base.series))
        .join(key.get(..16).unwrap_or(&key));
    if home.join("ready.json").is_file() {
        return Ok(home);
    }
    let source = fetch(workspace, base)?;
    apply(workspace, base, &source)?;
    let tree = tree(workspace, base, &source, variant);
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
    selftest(&source, &part.join("selftest/cgpath"))?;
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

/// Builds the kernel for guests in another place, from nothing, and compares the image with the one that is
/// kept.
pub fn again(workspace: &Workspace, base: &Base) -> Result<()> {
    let variant = Variant::default();
    let kept = build(workspace, base, &variant)?;
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(kept.join("ready.json"))?)?;
    let source = fetch(workspace, base)?;
    apply(workspace, base, &source)?;
    let first = tree(workspace, base, &source, &variant);
    let tree = Tree {
        source: &source,
        out: PathBuf::from(format!("{}-again", first.out.display())),
    };
    if tree.out.exists() {
        std::fs::remove_dir_all(&tree.out).with_context(|| format!("removing {}", tree.out.display()))?;
    }
    tree.configure(&fragments(workspace, base, &variant)?)?;
    shell::run(
        &format!("Kernel {} once more", source.version),
        tree.make().arg("bzImage"),
    )?;
    let second = sha256(&std::fs::read(tree.out.join("arch/x86/boot/bzImage"))?)?;
    println!(
        "{} {}\n{second} once more",
        ready["sha256"].as_str().unwrap_or_default(),
        base.series
    );
    if ready["sha256"] != second.as_str() {
        bail!(
            "two builds of one key differ; the second one is kept in {}",
            tree.out.display()
        );
    }
    std::fs::remove_dir_all(&tree.out).with_context(|| format!("removing {}", tree.out.display()))
}

/// Compiles the self-test of the patched tree for a guest; every warning is an error.
pub fn selftest(source: &Source, to: &Path) -> Result<()> {
    let mut command = Command::new("gcc");
    command
        .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(to)
        .arg(source.dir.join(SELFTEST));
    shell::output(&mut command)
        .map(drop)
        .context("compiling the self-test")
}

/// The place for a variant: another series, and other fragments, are compiled on top of what is there.
pub fn tree<'a>(workspace: &Workspace, base: &Base, source: &'a Source, variant: &Variant) -> Tree<'a> {
    let mut name = source_name(base, &source.version);
    if variant.debug {
        name.push_str("-debug");
    }
    if variant.config.is_some() {
        name.push_str("-config");
    }
    Tree {
        source,
        out: builds(workspace).join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
