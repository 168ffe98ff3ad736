//! A node in a trust domain without TDX: the test's module behind the kernel's own interfaces, a quoting
//! service in the guest, and what a verifier needs to take its quotes.
//!
//! Promise: kernel, collector and verifier do what they do on a real one; what silicon, host and Intel would
//! do is the test's, and counts only where a policy says `tdx.dangerous-root`. Not here: certificates and
//! collateral (`cgpath-testkit` makes them), the module (see `module`).

use crate::kernel::{self, Stock};
use crate::scenario::{COLLECTOR, NODE, Site};
use crate::{Process, Vm, VmBuilder, host, module};
use anyhow::{Context as _, Result};
use cgpath_evidence::td;
use serde::{Deserialize, Serialize};
use vm_protocol::spec::Workload;

/// The only stock kernel here that shows a trust domain's registers.
pub const STOCK: Stock = Stock::V7_3;

/// The collector's configuration where the domain has no TPM.
pub const ALONE: &str = "[anchor]\nto = [\"rtmr\"]\n[quote]\nby = [\"tdx_guest\"]\n";

/// Where the kernel shows the registers.
pub const REGISTERS: &str = "/sys/devices/virtual/misc/tdx_guest/measurements";

/// Where the quoting service asks for what it is to sign.
pub const QUOTER: &str = "/dev/tdx_test_quoter";

/// Where its log and its process id are.
const QUOTES_LOG: &str = "/var/log/quotes.log";
const QUOTES_PID: &str = "/run/quotes.pid";

/// The directory in which the kernel shows the firmware's log, as CCEL.
const LOGS: &str = "/sys/firmware/acpi/tables/data";

/// What is outside of a trust domain, and what a policy says of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Domain {
    /// Header and TD report of each quote, 632 bytes as hex; registers and report data are filled in.
    pub head: String,
    /// The attestation key, a scalar of P-256 as hex.
    pub key: String,
    /// What stands behind a quote's signature, hex.
    pub tail: String,
    /// Lines of the policy's `tdx:`, indented by two.
    pub policy: String,
    /// A file of collateral.
    pub collateral: String,
    /// The platform's id (PPID), hex.
    pub platform: String,
    /// What firmware extends before the kernel runs: RTMR, and the digest as hex.
    pub measured: Vec<(u8, String)>,
    /// Its log as the kernel shows it, hex; empty: there is none.
    pub ccel: String,
    /// The node has a TPM, too, and both sign and vouch.
    pub beside_tpm: bool,
}

impl Domain {
    /// Adds the module for [`STOCK`], which is the builder's kernel.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(builder: VmBuilder) -> Result<VmBuilder> {
        let kernel = kernel::stock(STOCK)?;
        let module = module::tdx(&kernel)?;
        Ok(builder.file(&module::guest_path(&kernel), module, 0o644))
    }

    /// Loads the module, does what firmware would have done, and starts the quoting service.
    ///
    /// # Errors
    /// When the guest refuses.
    pub fn start(&self, vm: &Vm) -> Result<()> {
        load(vm)?;
        self.measure(vm)?;
        self.quotes(vm).map(drop)
    }

    /// Extends RTMR 0 to 2 and leaves the log where the kernel would show it.
    fn measure(&self, vm: &Vm) -> Result<()> {
        if self.ccel.is_empty() {
            return Ok(());
        }
        vm.sh(&format!("mount -t tmpfs tmpfs {LOGS}"))?;
        let log = hex::decode(&self.ccel).context("a log that is not hex")?;
        vm.put(&format!("{LOGS}/CCEL"), &log, 0o400)?;
        for (rtmr, digest) in &self.measured {
            let digest = hex::decode(digest).context("a digest that is not hex")?;
            vm.put("/run/digest", &digest, 0o600)?;
            vm.sh(&format!("head -c 48 /run/digest > {REGISTERS}/rtmr{rtmr}:sha384"))?;
        }
        Ok(())
    }

    /// Starts the quoting service; the module is loaded.
    ///
    /// # Errors
    /// When the guest refuses.
    pub fn quotes<'a>(&self, vm: &'a Vm) -> Result<Process<'a>> {
        let workload = Workload::Quotes {
            device: QUOTER.to_owned(),
            head: self.head.clone(),
            key: self.key.clone(),
            tail: self.tail.clone(),
        };
        let text = serde_json::to_string(&workload)?;
        let process = vm
            .command(&["guest", "workload", text.as_str()])
            .spawn(QUOTES_LOG)?;
        vm.put(QUOTES_PID, process.pid().to_string().as_bytes(), 0o644)?;
        Ok(process)
    }

    /// Tables of the collector's configuration.
    pub fn config(&self) -> &'static str {
        if self.beside_tpm {
            "[anchor]\nto = [\"pcr10\", \"rtmr\"]\n[quote]\nby = [\"tpm\", \"tdx_guest\"]\n"
        } else {
            ALONE
        }
    }

    /// The line of `accept` that names what vouches for the list.
    pub fn anchors(&self) -> &'static str {
        if self.beside_tpm {
            "anchors: [pcr-10, rtmr-3]\n  banks: [sha256]"
        } else {
            "anchors: [rtmr-3]"
        }
    }

    /// Lines for the end of a node's policy.
    pub fn policy(&self) -> String {
        let of_pcrs = if self.beside_tpm {
            "dangerous-boot-not-judged: true\n"
        } else {
            ""
        };
        format!("{of_pcrs}tdx:\n{}", self.policy)
    }

    /// Enrols the node by the key of its domain, and puts the collateral where the verifier looks for it.
    ///
    /// # Errors
    /// When the collector or the verifier refuses.
    pub fn enrol(&self, site: &Site, vm: &Vm) -> Result<()> {
        let folder = site.store().join("collateral");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let file = folder.join("test.json");
        std::fs::write(&file, &self.collateral).with_context(|| format!("writing {}", file.display()))?;
        let key = node_key(vm)?;
        let mut command = site.cgpath(&["node", "add", NODE, "--node-key", &key]);
        if self.beside_tpm {
            command.arg("--ak").arg(site.attestation_key(vm)?);
        }
        command
            .arg("--policy")
            .arg(site.policy_file())
            .arg("--store")
            .arg(site.store());
        host::output(&mut command).map(drop)
    }
}

/// What the node is enrolled by: the fingerprint of its key in this boot, hex.
///
/// # Errors
/// When the collector refuses, or what it gives is no key.
pub fn node_key(vm: &Vm) -> Result<String> {
    vm.command(&[COLLECTOR, "node-key", "-o", "/run/node.key"])
        .run()?
        .check()?;
    let public = vm.get("/run/node.key")?;
    let public = public
        .as_slice()
        .try_into()
        .context("a node key of another length")?;
    Ok(hex::encode(td::node_key_hash(public)))
}

/// Ends the quoting service and waits until nothing has the module's device open.
///
/// # Errors
/// When none runs.
pub fn no_quotes(vm: &Vm) -> Result<()> {
    vm.sh(&format!(
        "p=$(cat {QUOTES_PID}); kill -9 $p; while [ -e /proc/$p/fd/0 ]; do :; done; rm {QUOTES_PID}"
    ))
    .map(drop)
}

/// Loads the module and mounts configfs.
///
/// # Errors
/// When the guest refuses.
pub fn load(vm: &Vm) -> Result<()> {
    vm.sh(&format!(
        "depmod -a; modprobe {}; mount -t configfs configfs /sys/kernel/config",
        module::TDX
    ))
    .map(drop)
}
