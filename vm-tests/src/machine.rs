//! What this machine has, looked up in one place for guests' programs and for `xtask`.
//!
//! `xtask` uses no crate of ours and takes this file by its path, so that it needs `std` alone.
//! Not here: what follows from it.

use std::path::Path;
use std::process::Command;

/// What there is of KVM. There are machines with a /dev/kvm that emulates most of the processor and cannot
/// boot a stock kernel: it takes both.
pub(crate) struct Kvm {
    /// /dev/kvm can be opened.
    pub(crate) openable: bool,
    /// The processor has virtualisation.
    pub(crate) hardware: bool,
}

/// Looks for KVM.
pub(crate) fn kvm() -> Kvm {
    let mut options = std::fs::File::options();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    Kvm {
        openable: options.read(true).write(true).open("/dev/kvm").is_ok(),
        hardware: flags
            .is_some_and(|flags| flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"))),
    }
}

/// Debian's archive, for package lists of our own.
pub(crate) struct Archive {
    /// By which apt checks it.
    pub(crate) keyring: &'static str,
    /// Where it is, without a slash at the end.
    pub(crate) address: String,
}

/// The archive that `CGPATH_MIRROR` names, or that this machine takes Debian's packages from.
///
/// # Errors
/// What there is none of, with a hint.
pub(crate) fn debian_archive() -> Result<Archive, String> {
    let keyrings = [
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "/usr/share/keyrings/debian-archive-keyring.pgp",
    ];
    let keyring = keyrings.into_iter().find(|path| Path::new(path).is_file());
    let keyring =
        keyring.ok_or("no keyring of Debian's archive; hint: apt-get install debian-archive-keyring")?;
    let address = match std::env::var("CGPATH_MIRROR") {
        Ok(mirror) => mirror,
        Err(_) => {
            let mut command = Command::new("apt-get");
            command.args(["indextargets", "--format", "$(REPO_URI)", "Label: Debian"]);
            let output = command.output().map_err(|error| format!("apt-get: {error}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let first = text.lines().map(str::trim).find(|line| !line.is_empty());
            first
                .ok_or("apt knows no source of Debian's; hint: set CGPATH_MIRROR to one")?
                .to_owned()
        }
    };
    Ok(Archive {
        keyring,
        address: address.trim_end_matches('/').to_owned(),
    })
}
