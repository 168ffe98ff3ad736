//! Python environments with programs of others, made in the cache at first use.
//!
//! Promise: versions are pinned, so that a test says with which ones it passed. Not here: what is done with them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;
use crate::world::World;

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

/// Decoders that read our exports. pycose 1.1 does not know the types of cbor2 6.
const DECODERS: &[&str] = &["cbor2==5.9.0", "pycose==1.1.0", "jwcrypto==1.6.1"];

/// Python with Keylime.
///
/// # Errors
/// When it cannot be installed.
pub fn keylime(world: &World) -> Result<PathBuf> {
    environment(world, &format!("keylime-{KEYLIME_VERSION}"), &[])
}

/// Python with Keylime and the decoders that read our exports. The name changes with the packages; tests look for it.
///
/// # Errors
/// When it cannot be installed.
pub fn foreign(world: &World) -> Result<PathBuf> {
    environment(world, "foreign-1", DECODERS)
}

fn environment(world: &World, name: &str, more: &[&str]) -> Result<PathBuf> {
    let home = world.cache.join("tools").join(name);
    let python = home.join("bin/python");
    let ready = home.join("ready");
    if !ready.is_file() {
        shell::heading(&format!("{name}, into the cache (once)"));
        shell::output(Command::new("python3").args(["-m", "venv"]).arg(&home))
            .context("no Python environment (package python3-venv)")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.arg(format!("keylime=={KEYLIME_VERSION}"))
            .args(KEYLIME_NEEDS)
            .args(more);
        shell::output(&mut pip).context("the packages cannot be installed from PyPI")?;
        std::fs::write(&ready, "")?;
    }
    Ok(python)
}
