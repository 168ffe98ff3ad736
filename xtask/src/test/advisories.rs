//! Advisories about the packages that are used, from a snapshot of the RustSec database beside the
//! repository.
//!
//! Promises: nothing is fetched; an advisory that `deny.toml` does not name with its reason fails; without
//! the snapshot the check is skipped and says so. Not here: licences, bans and sources, which need no
//! database.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::tally::Count;
use crate::shell;
use crate::workspace::Workspace;

/// The snapshot, beside the repository.
const SNAPSHOT: &str = "../shared/advisory-db.tar.gz";

/// Where cargo-deny keeps a database: the last part of its address and a hash of the address.
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// Checks the lock files of these manifests with `tool`, a cargo-deny.
///
/// # Errors
/// When there is an advisory, or the snapshot cannot be read.
pub fn check(workspace: &Workspace, tool: &Path, manifests: &[&str]) -> Result<Count> {
    let snapshot = workspace.root.join(SNAPSHOT);
    if !snapshot.is_file() {
        println!("SKIPPED: no {SNAPSHOT} beside the repository");
        return Ok(Count::without_data());
    }
    let folder = workspace.target.join("advisories");
    let database = folder.join(DATABASE);
    if database.exists() {
        std::fs::remove_dir_all(&database).with_context(|| format!("removing {}", database.display()))?;
    }
    std::fs::create_dir_all(&database).with_context(|| format!("making {}", database.display()))?;
    let mut unpack = Command::new("tar");
    shell::output(unpack.arg("-xzf").arg(&snapshot).arg("-C").arg(&database))?;
    if !database.join("crates").is_dir() {
        bail!("{}: it has no folder `crates`", snapshot.display());
    }
    // cargo-deny takes a repository of git alone, and asks for the date of its last commit.
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "--all"],
        &[
            "-c",
            "user.name=snapshot",
            "-c",
            "user.email=snapshot@localhost",
            "-c",
            "commit.gpgsign=false",
            "commit",
            "--quiet",
            "--message=snapshot",
        ],
    ] {
        shell::output(Command::new("git").arg("-C").arg(&database).args(arguments))?;
    }
    let config = folder.join("deny.toml");
    let text = std::fs::read_to_string(workspace.root.join("deny.toml")).context("reading deny.toml")?;
    std::fs::write(&config, with_database(&text, &folder)?)
        .with_context(|| format!("writing {}", config.display()))?;
    for manifest in manifests {
        let mut command = Command::new(tool);
        command.current_dir(&workspace.root).args([
            "--manifest-path",
            manifest,
            "--all-features",
            "--locked",
            "--offline",
        ]);
        command.arg("--config").arg(&config).args(["check", "advisories"]);
        shell::run(&format!("advisories, {manifest}"), &mut command)?;
    }
    Ok(Count::one())
}

/// The configuration with the folder of the database.
fn with_database(text: &str, folder: &Path) -> Result<String> {
    const TABLE: &str = "\n[advisories]\n";
    let folder = folder
        .to_str()
        .context("the target directory's path is not UTF-8")?;
    if !text.contains(TABLE) {
        bail!("deny.toml: it has no table [advisories]");
    }
    Ok(text.replacen(TABLE, &format!("{TABLE}db-path = {folder:?}\n"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_named_in_its_own_table() {
        let text = include_str!("../../../deny.toml");
        let config = with_database(text, Path::new("/some/where")).unwrap();
        assert!(config.contains("\n[advisories]\ndb-path = \"/some/where\"\n"));
        assert_eq!(config.len(), text.len() + "db-path = \"/some/where\"\n".len());
        assert!(with_database("[bans]\n", Path::new("/x")).is_err());
    }
}
