//! What a guest is to be: kernel, hardware, and what its disk has beside the root file system.
//!
//! Promise: what [`VmBuilder::stage`] shows is what the guest will have. Not here: a guest that runs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{IMA, Vm};
use crate::host;
use crate::image::{self, Addition, Stage};
use crate::kernel::{self, Kernel, Stock};
use crate::{root, turn, uki};

/// How a guest mounts its control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// One version 2 hierarchy at /sys/fs/cgroup.
    #[default]
    V2,
    /// Version 1 hierarchies only.
    V1,
    /// Version 1 hierarchies with controllers, and an empty version 2 one at /sys/fs/cgroup/unified.
    Hybrid,
}

impl CgroupMode {
    fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
        }
    }
}

impl std::str::FromStr for CgroupMode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match [Self::V2, Self::V1, Self::Hybrid]
            .into_iter()
            .find(|mode| mode.name() == text)
        {
            Some(mode) => Ok(mode),
            None => bail!("no cgroup mode `{text}`; there are v2, v1 and hybrid"),
        }
    }
}

/// What a guest is to be; [`VmBuilder::start`] boots it.
#[derive(Clone, Debug)]
pub struct VmBuilder {
    pub(super) stock: Stock,
    pub(super) kernel: Option<Kernel>,
    pub(super) cgroup: CgroupMode,
    pub(super) ima: String,
    pub(super) kernel_args: Vec<String>,
    pub(super) memory_mib: u32,
    pub(super) cpus: u32,
    pub(super) disk_mib: u32,
    pub(super) persistent: bool,
    pub(super) keep: bool,
    pub(super) packages: Vec<&'static str>,
    root: Option<PathBuf>,
    pub(super) additions: Vec<Addition>,
    pub(super) firmware: bool,
    pub(super) tpm: bool,
    pub(super) restored: bool,
}

impl VmBuilder {
    /// What a guest with a stock kernel of this series is unless something else is said.
    pub(super) fn new(stock: Stock) -> Self {
        Self {
            stock,
            kernel: None,
            cgroup: CgroupMode::default(),
            ima: IMA.to_owned(),
            kernel_args: Vec::new(),
            memory_mib: 1536,
            cpus: 2,
            disk_mib: 2048,
            persistent: false,
            keep: false,
            packages: Vec::new(),
            root: None,
            additions: Vec::new(),
            firmware: false,
            tpm: true,
            restored: false,
        }
    }

    /// The guest is restored from a snapshot of one that has booted, in place of being booted: for tests of
    /// which booting is no part (see the module `vm` for the rule). What is added to its disk comes to be
    /// there after its boot, but for an IMA policy.
    #[must_use]
    pub fn restored(mut self, yes: bool) -> Self {
        self.restored = yes;
        self
    }

    /// How the control groups are mounted. Default: version 2.
    #[must_use]
    pub fn cgroup(mut self, mode: CgroupMode) -> Self {
        self.cgroup = mode;
        self
    }

    /// IMA's kernel parameters in place of [`IMA`].
    #[must_use]
    pub fn ima(mut self, parameters: &str) -> Self {
        parameters.clone_into(&mut self.ima);
        self
    }

    /// A kernel in place of the stock one: see [`kernel::built`].
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// More kernel parameters.
    #[must_use]
    pub fn kernel_args(mut self, parameters: &str) -> Self {
        self.kernel_args.push(parameters.to_owned());
        self
    }

    /// Memory in MiB. Default: 1536.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Processors. Default: 2.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Size of the disk in MiB (a sparse file). Default: 2048.
    #[must_use]
    pub fn disk_mib(mut self, mib: u32) -> Self {
        self.disk_mib = mib;
        self
    }

    /// What is written to the disk is still there after [`Vm::reboot`]. Default: it is not.
    #[must_use]
    pub fn persistent(mut self, yes: bool) -> Self {
        self.persistent = yes;
        self
    }

    /// The guest goes on when its [`Vm`] is dropped and this process ends; [`Vm::attach`] finds it again.
    #[must_use]
    pub fn keep(mut self, yes: bool) -> Self {
        self.keep = yes;
        self
    }

    /// UEFI firmware loads the kernel from a disk, as a unified kernel image, and measures what it does.
    /// Default: QEMU puts the kernel into memory.
    #[must_use]
    pub fn firmware(mut self, yes: bool) -> Self {
        self.firmware = yes;
        self
    }

    /// The machine has no TPM: IMA extends none then.
    #[must_use]
    pub fn without_tpm(mut self) -> Self {
        self.tpm = false;
        self
    }

    /// More packages in the root file system, which is made at first use: see [`root::with`].
    #[must_use]
    pub fn packages(mut self, names: &[&'static str]) -> Self {
        self.packages.extend(names);
        self
    }

    /// This directory is the root file system, as it was [staged](VmBuilder::stage) and changed since. It is
    /// not written to; all in it is root's in the guest.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Adds a copy of the file `host`.
    #[must_use]
    pub fn file(mut self, guest: &str, host: impl Into<PathBuf>, mode: u32) -> Self {
        self.additions.push(Addition::File {
            guest: guest.to_owned(),
            host: host.into(),
            mode,
        });
        self
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn bytes(mut self, guest: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.additions.push(Addition::Bytes {
            guest: guest.to_owned(),
            content: content.into(),
            mode,
        });
        self
    }

    /// Adds a copy of the directory `host` with all that is in it.
    #[must_use]
    pub fn tree(mut self, guest: &str, host: impl Into<PathBuf>) -> Self {
        self.additions.push(Addition::Tree {
            guest: guest.to_owned(),
            host: host.into(),
        });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(mut self, guest: &str, target: &str) -> Self {
        self.additions.push(Addition::Link {
            guest: guest.to_owned(),
            target: target.to_owned(),
        });
        self
    }

    /// Adds an empty directory.
    #[must_use]
    pub fn directory(mut self, guest: &str, mode: u32) -> Self {
        self.additions.push(Addition::Directory {
            guest: guest.to_owned(),
            mode,
        });
        self
    }

    /// Adds an IMA policy where init looks for it: it is loaded, by its path, before anything else runs.
    #[must_use]
    pub fn ima_policy(self, host: impl Into<PathBuf>) -> Self {
        self.file(vm_protocol::IMA_POLICY_PATH, host, 0o644)
    }

    /// Puts the guest's root file system together as a directory, just as it will be when the guest boots:
    /// for reference values that are computed before.
    ///
    /// # Errors
    /// When something is missing on this machine.
    pub fn stage(&self) -> Result<Stage> {
        image::stage(&self.recipe()?.borrow())
    }

    /// Makes the unified kernel image that the firmware will load: for reference values that are computed
    /// before.
    ///
    /// # Errors
    /// When something is missing on this machine.
    pub fn unified_kernel_image(&self, output: &Path) -> Result<()> {
        uki::image(&self.wanted_kernel()?.image(), &self.command_line(), output)
    }

    fn wanted_kernel(&self) -> Result<Kernel> {
        match &self.kernel {
            Some(kernel) => Ok(kernel.clone()),
            None => kernel::stock(self.stock),
        }
    }

    pub(super) fn command_line(&self) -> String {
        // With no root named the kernel takes a tmpfs for the initramfs: IMA's built-in policy measures what
        // root reads of a ramfs (the modules), and nothing of a tmpfs but what is executed.
        let start = if self.restored {
            "rdinit=/usr/sbin/guest"
        } else {
            "root=/dev/nvme0n1 rw"
        };
        let mut command_line = format!(
            "console=ttyS0 quiet panic=-1 {start} init=/usr/sbin/guest {} {}={}",
            self.ima,
            vm_protocol::CGROUP_PARAMETER,
            self.cgroup.name()
        );
        for more in self.kernel_args.iter().filter(|more| !more.is_empty()) {
            let _ = write!(command_line, " {more}");
        }
        command_line
    }

    /// What every guest has.
    fn usual_additions() -> Result<Vec<Addition>> {
        Ok(vec![
            Addition::File {
                guest: "/usr/sbin/guest".to_owned(),
                host: host::guest_binary()?,
                mode: 0o755,
            },
            Addition::Bytes {
                guest: "/etc/hosts".to_owned(),
                content: b"127.0.0.1 localhost guest\n10.0.2.2 verifier\n".to_vec(),
                mode: 0o644,
            },
            Addition::Bytes {
                guest: "/etc/hostname".to_owned(),
                content: b"guest\n".to_vec(),
                mode: 0o644,
            },
            Addition::Bytes {
                guest: "/etc/resolv.conf".to_owned(),
                content: b"nameserver 10.0.2.3\n".to_vec(),
                mode: 0o644,
            },
        ])
    }

    /// Whether it must be there when the guest boots, whatever comes later.
    fn is_for_boot(addition: &Addition) -> bool {
        addition.guest() == vm_protocol::IMA_POLICY_PATH
    }

    /// What a snapshot's guest lacks of what this one is to have.
    pub(super) fn later_additions(&self) -> Vec<Addition> {
        let later = self
            .additions
            .iter()
            .filter(|addition| !Self::is_for_boot(addition));
        later.cloned().collect()
    }

    /// What a guest is made from that is restored, or that is booted for it to be saved.
    pub(super) fn recipe_for_boot(&self) -> Result<OwnedRecipe> {
        let mut recipe = self.recipe()?;
        recipe.additions = Self::usual_additions()?;
        let early = self
            .additions
            .iter()
            .filter(|addition| Self::is_for_boot(addition));
        recipe.additions.extend(early.cloned());
        Ok(recipe)
    }

    pub(super) fn recipe(&self) -> Result<OwnedRecipe> {
        let mut additions = Self::usual_additions()?;
        additions.extend(self.additions.iter().cloned());
        Ok(OwnedRecipe {
            root: match &self.root {
                Some(root) => root.clone(),
                None => root::with(&self.packages)?,
            },
            kernel: self.wanted_kernel()?,
            additions,
            size_mib: self.disk_mib,
            journal: self.persistent,
        })
    }

    /// Makes the disk, starts TPM and machine, and waits until the guest takes commands: in its turn, where
    /// others run.
    ///
    /// # Errors
    /// When something is missing on this machine, or the guest does not come up in time: with its console's
    /// end.
    pub fn start(mut self) -> Result<Vm> {
        let turn = turn::take();
        if self.restored {
            let own_boot = [
                ("a kernel of its own", self.kernel.is_some()),
                ("firmware", self.firmware),
                ("no TPM", !self.tpm),
                ("a disk that outlives a reset", self.persistent),
                ("keep", self.keep),
            ];
            if let Some((what, _)) = own_boot.iter().find(|(_, wanted)| *wanted) {
                bail!("a guest with {what} boots for itself; hint: leave out restored(true)");
            }
            match Vm::restore(&self, &turn) {
                Ok(vm) => return Ok(vm),
                Err(error) => eprintln!("no guest could be restored, one is booted in its place: {error:#}"),
            }
            self.restored = false;
        }
        Vm::boot_first(self, turn)
    }
}

/// What a guest's image is made from.
pub(super) struct OwnedRecipe {
    root: PathBuf,
    pub(super) kernel: Kernel,
    additions: Vec<Addition>,
    size_mib: u32,
    journal: bool,
}

impl OwnedRecipe {
    pub(super) fn borrow(&self) -> image::Recipe<'_> {
        image::Recipe {
            root: &self.root,
            kernel: &self.kernel,
            additions: &self.additions,
            size_mib: self.size_mib,
            journal: self.journal,
        }
    }
}
