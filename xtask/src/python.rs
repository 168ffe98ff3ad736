//! Python environments with programs of others, made in the cache at first use.
//!
//! Promise: versions are pinned, so that a test says with which ones it passed. Not here: what is done with
//! them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;
use crate::workspace::Workspace;

/// Keylime's version.
pub const KEYLIME_VERSION: &str = "7.14.3";

/// What Keylime imports; the package itself declares nothing.
const KEYLIME_NEEDS: &[&str] = &[
    "cryptography",
    "tornado",
    "pyzmq",
    "pyyaml",
    "requests",
    "sqlalchemy",
    "alembic",
    "packaging",
    "psutil",
    "lark",
    "pyasn1",
    "pyasn1-modules",
    "jinja2",
    "jsonschema",
];

/// What asks the service for everything that its OpenAPI document allows, and for what it does not.
pub const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// What reads TD quotes, reports and logs as we do.
pub const EVIDENCE_API: &str = "evidence-api==0.5.0";

/// Decoders that read our exports. pycose 1.1 does not know the types of cbor2 6.
const DECODERS: &[&str] = &["cbor2==5.9.0", "pycose==1.1.0", "jwcrypto==1.6.1"];

/// Python with Keylime.
///
/// # Errors
/// When it cannot be installed.
pub fn keylime(workspace: &Workspace) -> Result<PathBuf> {
    environment(
        workspace,
        &format!("keylime-{KEYLIME_VERSION}"),
        &with_keylime(&[]),
    )
}

/// Python with Keylime and the decoders that read our exports. The name changes with the packages; tests look
/// for it.
///
/// # Errors
/// When it cannot be installed.
pub fn foreign(workspace: &Workspace) -> Result<PathBuf> {
    environment(workspace, "foreign-1", &with_keylime(DECODERS))
}

/// Python with schemathesis; tests look for it by this name, too.
///
/// # Errors
/// When it cannot be installed.
pub fn schemathesis(workspace: &Workspace) -> Result<PathBuf> {
    let packages = [SCHEMATHESIS, "cbor2==5.9.0"].map(str::to_owned);
    environment(workspace, &SCHEMATHESIS.replace("==", "-"), &packages)
}

/// Python with evidence-api; tests look for it by this name, too.
///
/// # Errors
/// When it cannot be installed.
pub fn evidence_api(workspace: &Workspace) -> Result<PathBuf> {
    environment(
        workspace,
        &EVIDENCE_API.replace("==", "-"),
        &[EVIDENCE_API.to_owned()],
    )
}

fn with_keylime(more: &[&str]) -> Vec<String> {
    let others = KEYLIME_NEEDS
        .iter()
        .chain(more)
        .map(|package| (*package).to_owned());
    std::iter::once(format!("keylime=={KEYLIME_VERSION}"))
        .chain(others)
        .collect()
}

fn environment(workspace: &Workspace, name: &str, packages: &[String]) -> Result<PathBuf> {
    let home = workspace.cache.join("tools").join(name);
    let python = home.join("bin/python");
    let ready = home.join("ready");
    if !ready.is_file() {
        shell::heading(&format!("{name}, into the cache (once)"));
        shell::output(Command::new("python3").args(["-m", "venv"]).arg(&home))
            .context("no Python environment (package python3-venv)")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(packages);
        shell::output(&mut pip).context("the packages cannot be installed from PyPI")?;
        std::fs::write(&ready, "")?;
    }
    Ok(python)
}
