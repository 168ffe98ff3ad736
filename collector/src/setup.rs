//! Prepares a node: configuration, IMA policy, the loop module at boot, the systemd unit; and undoes it.
//!
//! Nothing that is there already is overwritten, and only what is still as it was made here is removed.

use crate::anchor::key::{self, KeyError};
use crate::anchor::{AnchorError, ima};
use crate::bpf;
use crate::config::{Config, DEFAULT_PATH, EXAMPLE};
use crate::control;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// The IMA policy that is installed where there is none.
const IMA_POLICY: &str = include_str!("../../policy/ima/recommended");

/// The systemd unit.
const UNIT: &str = include_str!("../../deploy/cgpathd.service");

/// Where the unit lies.
const UNIT_PATH: &str = "/etc/systemd/system/cgpathd.service";

/// The values of a key of the unit, each word by itself.
fn unit_words(key: &str) -> impl Iterator<Item = &'static str> {
    let value = move |line: &'static str| line.strip_prefix(key)?.strip_prefix('=');
    UNIT.lines().filter_map(value).flat_map(str::split_whitespace)
}

/// The links by which `systemctl enable` has the unit started.
fn unit_links(root: &Path) -> impl Iterator<Item = PathBuf> {
    let units = root.join("etc/systemd/system");
    unit_words("WantedBy")
        .map(move |target| units.join(format!("{target}.wants/cgpathd.service")))
        .filter(|link| link.is_symlink())
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file operation failed.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The daemon runs.
    #[error("cgpathd runs: stop it first (systemctl disable --now cgpathd)")]
    Running,
    /// The programs.
    #[error(transparent)]
    Bpf(#[from] bpf::Error),
    /// The file system of checkpoints.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The checkpoint key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A file that setup makes.
struct Item {
    path: PathBuf,
    content: &'static str,
    why: &'static str,
    /// It is only made where this directory is there.
    needs: Option<&'static str>,
}

fn items(root: &Path, config: &Config) -> Vec<Item> {
    let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    vec![
        Item {
            path: at(Path::new(DEFAULT_PATH)),
            content: EXAMPLE,
            why: "the configuration, every key with its default",
            needs: None,
        },
        Item {
            path: at(&config.ima.policy),
            content: IMA_POLICY,
            why: "the IMA policy; systemd loads it by path at the next boot",
            needs: None,
        },
        Item {
            path: at(Path::new("/etc/modules-load.d/cgpathd.conf")),
            content: "# For the file system of checkpoint files.\nloop\n",
            why: "the loop module at boot",
            needs: Some("/etc/modules-load.d"),
        },
        Item {
            path: at(Path::new(UNIT_PATH)),
            content: UNIT,
            why: "the systemd unit; enable it with: systemctl enable cgpathd",
            needs: Some("/etc/systemd/system"),
        },
    ]
}

/// Does, or with `dry_run` only describes, what a node needs; gives one line for each step.
///
/// `root` is `/` but in tests.
///
/// # Errors
/// See [`SetupError`]; what was done before stays.
pub fn install(root: &Path, config: &Config, dry_run: bool) -> Result<String, SetupError> {
    let mut out = String::new();
    for item in items(root, config) {
        let path = item.path.display();
        if let Some(needs) = item.needs
            && !root.join(needs.trim_start_matches('/')).is_dir()
        {
            line(&mut out, format_args!("left out  {path}: there is no {needs}"));
            continue;
        }
        match std::fs::read(&item.path) {
            Ok(found) if found == item.content.as_bytes() => line(&mut out, format_args!("is there  {path}")),
            Ok(found) => {
                line(
                    &mut out,
                    format_args!("kept      {path}: it is there and differs from ours"),
                );
                if item.path.ends_with("ima-policy") && !has_checkpoint_rule(&found) {
                    let uuid = cgpath_evidence::checkpoint::FS_UUID;
                    let rule = format_args!("measure func=FILE_CHECK mask=^MAY_READ fsuuid={uuid}");
                    line(&mut out, format_args!("          it needs this line: {rule}"));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !dry_run {
                    write(&item.path, item.content)?;
                }
                let verb = if dry_run { "would make" } else { "made     " };
                line(&mut out, format_args!("{verb} {path}: {}", item.why));
            }
            Err(source) => {
                return Err(SetupError::Io {
                    path: item.path.clone(),
                    what: "read",
                    source,
                });
            }
        }
    }
    if let Some(program) = unit_words("ExecStart").next()
        && !root.join(program.trim_start_matches('/')).is_file()
    {
        line(
            &mut out,
            format_args!("to do     put cgpathd at {program}, which the unit starts: nothing is there"),
        );
    }
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if !cmdline.split_whitespace().any(|word| word == "ima_policy=tcb") {
        line(
            &mut out,
            format_args!(
                "to do     add ima_policy=tcb to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then \
             update-grub), so that the IMA policy itself is measured; needs a reboot"
            ),
        );
    }
    line(&mut out, format_args!("then      cgpathd check"));
    Ok(out)
}

/// Takes the programs down. The daemon must not run: it would have nothing to read.
///
/// # Errors
/// [`SetupError::Running`]; [`SetupError::Bpf`] if a pin cannot be removed.
pub fn unload(config: &Config) -> Result<(), SetupError> {
    if control::ask_status(&config.run_dir).is_ok() {
        return Err(SetupError::Running);
    }
    Ok(bpf::unload(&config.bpf.pin_dir)?)
}

/// Undoes it: unloads the programs, unmounts, removes what [`install`] made and nobody changed.
///
/// # Errors
/// See [`SetupError`].
pub fn remove(root: &Path, config: &Config, dry_run: bool) -> Result<String, SetupError> {
    let mut out = String::new();
    if control::ask_status(&config.run_dir).is_ok() {
        return Err(SetupError::Running);
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    if !dry_run {
        bpf::unload(&config.bpf.pin_dir)?;
        ima::unmount(&config.run_dir)?;
        key::remove(&config.run_dir)?;
    }
    line(
        &mut out,
        format_args!(
            "{verb}  the eBPF programs pinned in {}",
            config.bpf.pin_dir.display()
        ),
    );
    line(
        &mut out,
        format_args!("{verb}  the file system of checkpoint files and this boot's checkpoint key"),
    );
    let remove = |path: &Path| match dry_run {
        true => Ok(()),
        false => std::fs::remove_file(path).map_err(|source| SetupError::Io {
            path: path.to_owned(),
            what: "remove",
            source,
        }),
    };
    for item in items(root, config) {
        let path = item.path.display();
        match std::fs::read(&item.path) {
            Ok(found) if found == item.content.as_bytes() => {
                remove(&item.path)?;
                line(&mut out, format_args!("{verb}  {path}"));
                if item.content == UNIT {
                    for link in unit_links(root) {
                        remove(&link)?;
                        line(&mut out, format_args!("{verb}  {}", link.display()));
                    }
                    line(&mut out, format_args!("then     systemctl daemon-reload"));
                }
            }
            Ok(_) => line(&mut out, format_args!("kept     {path}: it was changed")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(SetupError::Io {
                    path: item.path.clone(),
                    what: "read",
                    source,
                });
            }
        }
    }
    line(
        &mut out,
        format_args!(
            "kept     {}: records of past boots; remove by hand",
            config.state_dir.display()
        ),
    );
    line(
        &mut out,
        format_args!("note     this boot cannot be attested any more; the next one can"),
    );
    Ok(out)
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = writeln!(out, "{text}");
}

fn write(path: &Path, content: &str) -> Result<(), SetupError> {
    let error = |what| {
        move |source| SetupError::Io {
            path: path.to_owned(),
            what,
            source,
        }
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(error("make the directory of"))?;
    }
    std::fs::write(path, content).map_err(error("write"))
}

/// Whether a policy file has the rule that measures checkpoint files.
fn has_checkpoint_rule(policy: &[u8]) -> bool {
    let fsuuid = format!("fsuuid={}", cgpath_evidence::checkpoint::FS_UUID);
    String::from_utf8_lossy(policy).lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first() == Some(&"measure")
            && words.contains(&fsuuid.as_str())
            && words.contains(&"func=FILE_CHECK")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_makes_what_is_absent_keeps_what_is_there_and_remove_undoes_it() {
        let root = tempfile::tempdir().unwrap();
        let config = Config::default();
        std::fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
        let unit = root.path().join("etc/systemd/system/cgpathd.service");
        let text = install(root.path(), &config, true).unwrap();
        assert!(text.contains("would make") && !unit.exists());
        let text = install(root.path(), &config, false).unwrap();
        assert!(text.contains("left out") && unit.exists(), "{text}");
        let policy = root.path().join("etc/ima/ima-policy");
        std::fs::write(&policy, "measure func=BPRM_CHECK\n").unwrap();
        let text = install(root.path(), &config, false).unwrap();
        assert!(
            text.contains("kept") && text.contains("it needs this line: measure func=FILE_CHECK"),
            "{text}"
        );
        assert_eq!(
            std::fs::read_to_string(&policy).unwrap(),
            "measure func=BPRM_CHECK\n"
        );
    }

    #[test]
    fn setup_says_that_the_program_is_absent_and_remove_takes_the_units_link_and_the_key_along() {
        let root = tempfile::tempdir().unwrap();
        // Paths that nothing else uses: remove looks at the programs and mounts of this machine, too.
        let config = Config {
            run_dir: root.path().join("run"),
            bpf: crate::config::Bpf {
                pin_dir: root.path().join("pins"),
                ..crate::config::Bpf::default()
            },
            ..Config::default()
        };
        let units = root.path().join("etc/systemd/system");
        std::fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
        let text = install(root.path(), &config, false).unwrap();
        assert!(
            text.contains("to do     put cgpathd at /usr/sbin/cgpathd"),
            "{text}"
        );
        std::fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        std::fs::write(root.path().join("usr/sbin/cgpathd"), "").unwrap();
        let text = install(root.path(), &config, false).unwrap();
        assert!(!text.contains("put cgpathd"), "{text}");

        let state = config.run_dir.join("state");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("checkpoint.key"), [1; 32]).unwrap();
        let link = units.join("multi-user.target.wants/cgpathd.service");
        std::os::unix::fs::symlink(UNIT_PATH, &link).unwrap();
        let text = remove(root.path(), &config, true).unwrap();
        assert!(
            text.contains("multi-user.target.wants") && link.is_symlink() && state.exists(),
            "{text}"
        );
        remove(root.path(), &config, false).unwrap();
        assert!(!link.is_symlink() && !units.join("cgpathd.service").exists());
        assert!(
            !state.exists(),
            "a key that signs nothing any more is not left behind"
        );
        remove(root.path(), &config, false).unwrap();
    }

    #[test]
    fn the_installed_policy_has_the_rule_that_anchors_checkpoints() {
        assert!(has_checkpoint_rule(IMA_POLICY.as_bytes()));
        assert!(!has_checkpoint_rule(
            b"# measure func=FILE_CHECK fsuuid=1ca09a17-0000-4000-8000-c9a7c9a7c9a7\n"
        ));
    }
}
