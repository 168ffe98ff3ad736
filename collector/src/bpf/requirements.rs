//! What the kernel must have been booted with so that the programs can be loaded and are called.
//!
//! Promise: what is missing is an error that says how to boot. Not here: what the kernel's types must have
//! (see `layout`), checks for people (`check`).

use super::{Error, Result, load::io_error};
use std::{fs, io, path::Path};

/// # Errors
/// [`Error::Missing`], [`Error::Refused`]; [`Error::Io`] where it cannot be seen.
pub(super) fn check() -> Result<()> {
    lsm()?;
    lockdown()
}

/// Without `bpf` among the active security modules, its programs load and attach but are never called.
fn lsm() -> Result<()> {
    let path = Path::new("/sys/kernel/security/lsm");
    let list = fs::read_to_string(path).map_err(io_error("read (is securityfs mounted?)", path))?;
    if list.trim().split(',').any(|m| m == "bpf") {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("active security module bpf (active: {})", list.trim()),
        hint: format!(
            "boot with {} on the kernel's command line",
            lsm_parameter(list.trim())
        ),
    })
}

/// Lockdown of kind `confidentiality` refuses programs the helpers that read kernel memory, which the
/// kernel's verifier tells as an unknown helper.
fn lockdown() -> Result<()> {
    let path = Path::new("/sys/kernel/security/lockdown");
    match fs::read_to_string(path) {
        Ok(modes) if modes.contains("[confidentiality]") => Err(Error::Refused {
            what: "lockdown=confidentiality is in force: eBPF programs may not read kernel memory".to_owned(),
            hint: "boot with lockdown=integrity on the kernel's command line".to_owned(),
        }),
        // A kernel without lockdown has no such file.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("read", path)(error)),
        _ => Ok(()),
    }
}

/// The kernel parameter that makes `bpf` active, for what /sys/kernel/security/lsm shows now.
///
/// `integrity` keeps IMA's state of each inode. Before it became part of IMA it registered no hooks, so that
/// the file never names it, and a kernel of that age panics at the first measured file if `lsm=` leaves it
/// out (`integrity_inode_get` in security/integrity/iint.c, 6.1). Where IMA is itself a module (`ima` is
/// active) the name is not needed; a name that a kernel does not know is ignored (`ordered_lsm_parse` in
/// security/security.c).
pub fn lsm_parameter(active: &str) -> String {
    let mut modules: Vec<&str> = active.split(',').filter(|module| !module.is_empty()).collect();
    let needs_integrity = !modules.contains(&"ima");
    for (module, needed) in [("integrity", needs_integrity), ("bpf", true)] {
        if needed && !modules.contains(&module) {
            modules.push(module);
        }
    }
    format!("lsm={}", modules.join(","))
}

#[cfg(test)]
mod tests {
    use super::lsm_parameter;

    #[test]
    fn integrity_is_kept_for_kernels_that_do_not_list_it_and_panic_without() {
        for (active, parameter) in [
            // 6.1: IMA works, and neither it nor `integrity` is listed.
            (
                "lockdown,capability,landlock,yama,apparmor",
                "lsm=lockdown,capability,landlock,yama,apparmor,integrity,bpf",
            ),
            ("capability", "lsm=capability,integrity,bpf"),
            ("", "lsm=integrity,bpf"),
            // 6.8 and newer: IMA is a module of its own and always active.
            (
                "lockdown,capability,apparmor,ima,evm",
                "lsm=lockdown,capability,apparmor,ima,evm,bpf",
            ),
            // Nothing twice, nothing in another order.
            ("capability,integrity,yama", "lsm=capability,integrity,yama,bpf"),
            ("capability,bpf,yama", "lsm=capability,bpf,yama,integrity"),
            ("capability,integrity,bpf", "lsm=capability,integrity,bpf"),
            ("capability,bpf,ima", "lsm=capability,bpf,ima"),
        ] {
            assert_eq!(lsm_parameter(active), parameter);
        }
    }
}
