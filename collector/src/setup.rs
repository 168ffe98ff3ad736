//! Prepares a node: configuration, IMA policy, the loop module at boot, the systemd unit, the kernel's
//! command line; and undoes it.
//!
//! Nothing that is there already is overwritten, and only what is still as it was made here is removed. What
//! a package brought stays the package's.

mod boot_loader;

use crate::anchor::key::{self, KeyError};
use crate::anchor::{AnchorError, ima};
use crate::bpf;
use crate::config::{Config, DEFAULT_PATH, EXAMPLE};
use crate::control;
use boot_loader::BootLoader;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// The IMA policy that is installed where there is none.
const IMA_POLICY: &str = include_str!("../../policy/ima/recommended");

/// The systemd unit.
pub(crate) const UNIT: &str = include_str!("../../deploy/cgpathd.service");

/// Where the unit lies that is made here.
pub(crate) const UNIT_PATH: &str = "/etc/systemd/system/cgpathd.service";

/// Where it lies when a package brought it.
pub(crate) const PACKAGED_UNIT: &str = "/usr/lib/systemd/system/cgpathd.service";

/// What loads the module `loop` at boot.
pub(crate) const MODULES: &str = include_str!("../../deploy/modules-load.d/cgpathd.conf");

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
    /// The kernel keeps programs of which no pin is left.
    #[error("{}", still_loaded(.0))]
    StillLoaded(BTreeSet<u32>),
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
    /// Where a package has it.
    packaged: Option<&'static str>,
}

impl Item {
    /// The file that a package of this node brought for it, there or in another place.
    fn packaged_at(&self, root: &Path) -> Option<PathBuf> {
        let file = at(root, self.packaged?);
        (at(root, PACKAGED_UNIT).is_file() && file.is_file()).then_some(file)
    }
}

/// Where a path of the node is below its root.
fn at(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn items(root: &Path, config: &Config, boot_loaders: &[BootLoader]) -> Vec<Item> {
    let at = |path: &Path| at(root, path);
    let mut items = vec![
        Item {
            path: at(Path::new(DEFAULT_PATH)),
            content: EXAMPLE,
            why: "the configuration, every key with its default",
            needs: None,
            packaged: Some(DEFAULT_PATH),
        },
        Item {
            path: at(&config.ima.policy),
            content: IMA_POLICY,
            why: "the IMA policy; systemd loads it by path at the next boot",
            needs: None,
            packaged: None,
        },
        Item {
            path: at(Path::new("/etc/modules-load.d/cgpathd.conf")),
            content: MODULES,
            why: "the loop module at boot",
            needs: Some("/etc/modules-load.d"),
            packaged: Some("/usr/lib/modules-load.d/cgpathd.conf"),
        },
        Item {
            path: at(Path::new(UNIT_PATH)),
            content: UNIT,
            why: "the systemd unit; enable it with: systemctl enable cgpathd",
            needs: Some("/etc/systemd/system"),
            packaged: Some(PACKAGED_UNIT),
        },
    ];
    let drop_ins = boot_loaders
        .iter()
        .filter(|loader| !loader.is_set)
        .filter_map(|loader| loader.drop_in);
    items.extend(drop_ins.map(|(path, content)| Item {
        path: at(Path::new(path)),
        content,
        why: "the kernel's command line",
        needs: None,
        packaged: None,
    }));
    items
}

/// Does, or with `dry_run` only describes, what a node needs; gives one line for each step.
///
/// `root` is `/` but in tests.
///
/// # Errors
/// See [`SetupError`]; what was done before stays.
pub fn install(root: &Path, config: &Config, dry_run: bool) -> Result<String, SetupError> {
    let mut out = String::new();
    let boot_loaders = boot_loader::found(root);
    for item in items(root, config, &boot_loaders) {
        let path = item.path.display();
        if let Some(packaged) = item.packaged_at(root) {
            let at = packaged.display();
            line(&mut out, format_args!("is there  {at}: the package's"));
            if item.path != packaged && item.path.exists() {
                let why = format_args!("{path} is used in its place; hint: remove it");
                line(&mut out, format_args!("note      {why}"));
            }
            continue;
        }
        if let Some(needs) = item.needs
            && !at(root, needs).is_dir()
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
        && !at(root, program).is_file()
    {
        line(
            &mut out,
            format_args!("to do     put cgpathd at {program}, which the unit starts: nothing is there"),
        );
    }
    command_line(&boot_loaders, &mut out);
    line(&mut out, format_args!("then      cgpathd check"));
    Ok(out)
}

/// What the kernel needs at its next boot: the IMA policy, and what has the boot loader give it the word.
/// Paths of the node, and contents.
pub(crate) fn for_the_kernel(root: &Path, config: &Config) -> Vec<(PathBuf, &'static str)> {
    let loaders = boot_loader::found(root);
    let unset = loaders.iter().filter(|loader| !loader.is_set);
    let drop_ins = unset.filter_map(|loader| loader.drop_in);
    let policy = std::iter::once((config.ima.policy.clone(), IMA_POLICY));
    policy
        .chain(drop_ins.map(|(path, content)| (path.into(), content)))
        .collect()
}

/// What a person has to do for the kernel's command line, a line for each.
pub(crate) fn left_to_do(root: &Path) -> String {
    let mut out = String::new();
    command_line(&boot_loader::found(root), &mut out);
    out
}

/// What is left to do for the kernel's command line. Not by what this kernel was given: the root may be that
/// of a node which has not booted yet.
fn command_line(boot_loaders: &[BootLoader], out: &mut String) {
    let word = boot_loader::WORD;
    for loader in boot_loaders {
        let name = loader.name;
        if loader.is_set {
            line(out, format_args!("is there  {word} in the settings of {name}"));
        } else {
            let add = &loader.add;
            line(
                out,
                format_args!("to do     {name}: {add}; the kernel gets {word} at the next boot"),
            );
        }
    }
    if boot_loaders.is_empty() {
        line(
            out,
            format_args!(
                "to do     add {word} to the kernel's command line: there is no boot loader that is known \
                 here"
            ),
        );
    }
}

/// Takes the programs down; gives whether any were pinned. The daemon must not run: it would have nothing to
/// read.
///
/// # Errors
/// [`SetupError::Running`]; [`SetupError::Bpf`] if a pin cannot be removed; [`SetupError::StillLoaded`] if
/// the kernel keeps the programs though all are.
pub fn unload(config: &Config) -> Result<bool, SetupError> {
    if control::ask_status(&config.run_dir).is_ok() {
        return Err(SetupError::Running);
    }
    match bpf::unload(&config.bpf.pin_dir)? {
        None => Ok(false),
        Some(left) if left.is_empty() => Ok(true),
        Some(left) => Err(SetupError::StillLoaded(left)),
    }
}

fn still_loaded(left: &BTreeSet<u32>) -> String {
    let ids: Vec<String> = left.iter().map(u32::to_string).collect();
    format!(
        "the pins are removed, and {} s later the kernel still has some of the programs (ids {}): another \
         process holds them, or the kernel is late; they may still run",
        bpf::UNLOAD_PATIENCE.as_secs(),
        ids.join(" ")
    )
}

/// Undoes it: unloads the programs, unmounts, removes what [`install`] made and nobody changed.
///
/// # Errors
/// See [`SetupError`].
pub fn remove(root: &Path, config: &Config, dry_run: bool) -> Result<String, SetupError> {
    let mut out = String::new();
    if !dry_run && control::ask_status(&config.run_dir).is_ok() {
        return Err(SetupError::Running);
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut left = BTreeSet::new();
    if !dry_run {
        left = bpf::unload(&config.bpf.pin_dir)?.unwrap_or_default();
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
    if !left.is_empty() {
        line(&mut out, format_args!("but      {}", still_loaded(&left)));
    }
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
    let boot_loaders = boot_loader::found(root);
    // Of a unit that somebody wrote the link stays, too: it is started by it.
    let mut links = at(root, PACKAGED_UNIT).is_file();
    let mut reload = false;
    for item in items(root, config, &boot_loaders) {
        let path = item.path.display();
        if item
            .packaged_at(root)
            .is_some_and(|packaged| packaged == item.path)
        {
            line(&mut out, format_args!("kept     {path}: the package's"));
            continue;
        }
        match std::fs::read(&item.path) {
            Ok(found) if found == item.content.as_bytes() => {
                remove(&item.path)?;
                line(&mut out, format_args!("{verb}  {path}"));
                // The directory may have been made here; one that has more in it stays.
                if let Some(dir) = item.path.parent().filter(|_| item.needs.is_none() && !dry_run) {
                    let _ = std::fs::remove_dir(dir);
                }
                links |= item.content == UNIT;
                reload |= item.content == UNIT;
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
    for link in unit_links(root).filter(|_| links) {
        remove(&link)?;
        line(&mut out, format_args!("{verb}  {}", link.display()));
        reload = true;
    }
    if reload {
        line(&mut out, format_args!("then     systemctl daemon-reload"));
    }
    for loader in &boot_loaders {
        if loader.is_set || loader.drop_in.is_some() {
            line(
                &mut out,
                format_args!("then     {}: {}", loader.name, loader.undo),
            );
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

    /// Paths that nothing else uses: remove looks at the programs and mounts of this machine, too.
    fn below(root: &Path) -> Config {
        Config {
            run_dir: root.join("run"),
            bpf: crate::config::Bpf {
                pin_dir: root.join("pins"),
                ..crate::config::Bpf::default()
            },
            ..Config::default()
        }
    }

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
        let config = below(root.path());
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
    fn what_a_package_brought_is_kept_and_the_boot_loaders_own_file_is_made_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let config = below(root.path());
        let put = |path: &str, content: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        put("usr/sbin/cgpathd", "");
        put("usr/sbin/update-grub", "");
        put("usr/lib/systemd/system/cgpathd.service", UNIT);
        put("usr/lib/modules-load.d/cgpathd.conf", MODULES);
        put("etc/ima-cgpath/cgpathd.toml", EXAMPLE);
        std::fs::create_dir_all(root.path().join("etc/modules-load.d")).unwrap();
        let wants = root.path().join("etc/systemd/system/multi-user.target.wants");
        std::fs::create_dir_all(&wants).unwrap();

        let text = install(root.path(), &config, false).unwrap();
        let made: Vec<&str> = text.lines().filter(|line| line.starts_with("made")).collect();
        assert_eq!(made.len(), 2, "{text}");
        assert!(
            made[0].contains("etc/ima/ima-policy") && made[1].contains("etc/default/grub.d/"),
            "{text}"
        );
        assert!(text.contains("to do     GRUB: run: update-grub"), "{text}");
        assert!(!root.path().join("etc/systemd/system/cgpathd.service").exists());

        let link = wants.join("cgpathd.service");
        std::os::unix::fs::symlink(PACKAGED_UNIT, &link).unwrap();
        let text = remove(root.path(), &config, false).unwrap();
        for gone in ["etc/ima", "etc/default/grub.d"] {
            assert!(!root.path().join(gone).exists(), "{gone}: {text}");
        }
        assert!(
            !link.is_symlink() && text.contains("then     GRUB: run: update-grub"),
            "{text}"
        );
        for kept in [
            "etc/ima-cgpath/cgpathd.toml",
            "usr/lib/systemd/system/cgpathd.service",
        ] {
            assert!(root.path().join(kept).exists(), "{kept}: {text}");
        }
    }

    #[test]
    fn a_unit_that_setup_made_before_the_package_came_is_named_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let config = below(root.path());
        let own = root.path().join("etc/systemd/system/cgpathd.service");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        install(root.path(), &config, false).unwrap();
        let packaged = root.path().join("usr/lib/systemd/system/cgpathd.service");
        std::fs::create_dir_all(packaged.parent().unwrap()).unwrap();
        std::fs::write(&packaged, UNIT).unwrap();
        let text = install(root.path(), &config, false).unwrap();
        assert!(
            text.contains("etc/systemd/system/cgpathd.service is used in its place"),
            "{text}"
        );
        remove(root.path(), &config, false).unwrap();
        assert!(!own.exists() && packaged.exists());
    }

    #[test]
    fn the_page_on_operation_has_each_capability_and_port_of_the_units() {
        use std::collections::BTreeSet;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = std::fs::read_to_string(root.join("docs/operate.md")).unwrap();
        let verifier = std::fs::read_to_string(root.join("deploy/cgpath.service")).unwrap();
        let rows = |unit: &str| {
            let begin = format!("| `{unit}` | ");
            let found = page.lines().filter_map(move |line| line.strip_prefix(&begin));
            found.map(|row| row.split(" | ").next().unwrap_or_default().to_owned())
        };
        let named = |unit: &str| -> BTreeSet<String> {
            let spans = rows(unit).flat_map(|row| row.split('`').map(str::to_owned).collect::<Vec<_>>());
            spans.filter(|span| span.starts_with("CAP_")).collect()
        };
        let has: BTreeSet<String> = unit_words("CapabilityBoundingSet").map(str::to_owned).collect();
        assert!(!has.is_empty());
        assert_eq!(named("cgpathd"), has);
        assert!(verifier.lines().any(|line| line == "CapabilityBoundingSet="));
        assert!(named("cgpath").is_empty() && rows("cgpath").any(|row| row.contains("no capability")));
        // Nothing of the collector listens beyond the machine.
        assert!(!UNIT.contains("ListenStream") && rows("cgpathd").any(|row| row.starts_with("no port")));
        assert!(EXAMPLE.contains("\nlisten = \"\"\n") && EXAMPLE.contains("\"127.0.0.1:9464\""));
        assert!(rows("cgpathd").any(|row| row.contains("a port of the loopback, TCP")));
        let listen = verifier
            .lines()
            .find(|line| line.starts_with("ExecStart="))
            .unwrap();
        let port = listen
            .rsplit_once("--listen [::]:")
            .unwrap()
            .1
            .split(' ')
            .next()
            .unwrap();
        assert!(
            rows("cgpath").any(|row| row.contains(&format!("port {port}"))),
            "{port}"
        );
        for (unit, text) in [("cgpathd", UNIT), ("cgpath", verifier.as_str())] {
            let state = text
                .lines()
                .find_map(|line| line.strip_prefix("StateDirectory="))
                .unwrap();
            assert!(
                rows(unit).any(|row| row.contains(&format!("/var/lib/{state}"))),
                "{unit}"
            );
        }
    }

    #[test]
    fn the_installed_policy_has_the_rule_that_anchors_checkpoints() {
        assert!(has_checkpoint_rule(IMA_POLICY.as_bytes()));
        assert!(!has_checkpoint_rule(
            b"# measure func=FILE_CHECK fsuuid=1ca09a17-0000-4000-8000-c9a7c9a7c9a7\n"
        ));
    }
}
