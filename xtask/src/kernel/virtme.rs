//! virtme-ng: boots a kernel on this machine's own root file system. From `PATH`, or from the package index
//! into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;
use crate::workspace::{Workspace, find_program};

/// Its version; older ones want a kernel with loadable modules.
const VERSION: &str = "1.42";

/// The program `vng`, installed into the cache when it is nowhere.
///
/// # Errors
/// When there is no Python to install it with, or no package index.
pub fn provide(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = find_program("vng") {
        return Ok(path);
    }
    let home = workspace.cache.join(format!("tools/virtme-ng-{VERSION}"));
    let ready = home.join("ready");
    if !ready.is_file() {
        shell::heading("virtme-ng, into the cache (once)");
        shell::output(Command::new("python3").args(["-m", "venv"]).arg(&home))
            .context("no Python environment; hint: apt-get install python3-venv")?;
        let mut pip = Command::new(home.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.arg(format!("virtme-ng=={VERSION}"));
        shell::output(&mut pip).context("virtme-ng cannot be installed")?;
        std::fs::write(&ready, "")?;
    }
    Ok(home.join("bin/vng"))
}
