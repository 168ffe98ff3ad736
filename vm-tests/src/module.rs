//! The kernel module that gives a guest the user-space interfaces of a TDX guest, built once for each kernel.
//!
//! Promises: it is compiled by the suite that the kernel is from, in a root file system that is gone
//! afterwards, so that nothing is installed on this machine; the cache is keyed by kernel, source and
//! recipe. Not here: what the module does (`vm-tests/tdx`), loading it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use sha2::Digest as _;

use crate::host;
use crate::kernel::{self, Kernel};
use crate::root;

/// Raised when the recipe below changes what comes out.
const RECIPE: u32 = 1;

/// The module's name.
pub const TDX: &str = "cgpath_tdx_test";

/// The suite whose compiler built the stock kernels that show a trust domain's registers (6.16 and newer),
/// with their headers in its backports.
const SUITE: &str = "trixie";

/// Where modules of a guest's own lie, below `/usr/lib/modules/RELEASE`.
const EXTRA: &str = "extra";

/// Where the module belongs in a guest with this kernel.
pub fn guest_path(kernel: &Kernel) -> String {
    format!("/usr/lib/modules/{}/{EXTRA}/{TDX}.ko", kernel.release)
}

/// The module for this kernel, a stock one.
///
/// # Errors
/// When the kernel is none of the stock ones that have the interfaces, mmdebstrap is missing, or it does not
/// compile.
pub fn tdx(kernel: &Kernel) -> Result<PathBuf> {
    if !kernel.release.contains("+deb13-cloud-amd64") {
        bail!(
            "the test's TDX module is built for stock kernels of {SUITE} and its backports, not for {}",
            kernel.release
        );
    }
    let _lock = host::lock_cache("modules")?;
    let source = host::workspace_root().join("vm-tests/tdx");
    let files = ["Kbuild".to_owned(), format!("{TDX}.c")].map(|name| source.join(name));
    let mut key = sha2::Sha256::new();
    key.update(format!(
        "{RECIPE}\n{SUITE}\n{} {}\n",
        kernel.package, kernel.version
    ));
    for file in &files {
        key.update(host::sha256_file(file)?);
    }
    let key = hex::encode(key.finalize());
    let dir = host::cache_dir()?
        .join("modules")
        .join(format!("{}-{}", kernel.release, &key[..16]));
    let module = dir.join(format!("{TDX}.ko"));
    if module.is_file() {
        return Ok(module);
    }
    let part = PathBuf::from(format!("{}.part", dir.display()));
    if part.exists() {
        std::fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    }
    std::fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    host::step(
        &format!("compiling {TDX} for {} (about 2 minutes, once)", kernel.release),
        || compile(kernel, &files, &part),
    )?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    std::fs::rename(&part, &dir).with_context(|| format!("putting {} in place", dir.display()))?;
    Ok(module)
}

/// Has mmdebstrap make a root file system with the kernel's headers, compile there, and leave the module in
/// `to`.
fn compile(kernel: &Kernel, files: &[PathBuf], to: &std::path::Path) -> Result<()> {
    let mirror = kernel::mirror()?;
    let release = &kernel.release;
    let shown = |path: &std::path::Path| format!("'{}'", path.display());
    let sources: Vec<String> = files.iter().map(|file| shown(file)).collect();
    let mut command = root::mmdebstrap("apt", &format!("binutils,make,linux-headers-{release}"))?;
    command
        .arg("--format=null")
        .arg("--customize-hook=mkdir -p \"$1/module\"")
        .arg(format!("--customize-hook=copy-in {} /module", sources.join(" ")))
        .arg(format!(
            "--customize-hook=chroot \"$1\" sh -c '[ -e /proc/self ] || mount -t proc proc /proc; \
             exec make -C /usr/src/linux-headers-{release} M=/module modules'"
        ))
        .arg(format!(
            "--customize-hook=copy-out /module/{TDX}.ko {}",
            shown(to)
        ))
        .args([SUITE, "/dev/null"]);
    for suite in [SUITE.to_owned(), format!("{SUITE}-backports")] {
        command.arg(format!("deb {mirror} {suite} main"));
    }
    host::output(&mut command).map(drop)
}
