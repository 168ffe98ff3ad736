//! A node under attestation, whole: reference values, policy and verifier on this machine, collector and pods
//! in a guest.
//!
//! Promises: reference values come from files outside of the guest, before it boots; evidence travels over
//! the guest's network to a real `cgpath serve`; every round that is looked at began after what it is to show
//! had happened. Not here: what a scenario expects (see `demo` and the tests), how a verdict is reached (see
//! `cgpath-appraisal`).

use crate::domain::Domain;
use crate::host;
use crate::kernel::{Kernel, Stock};
use crate::oci::{self, Image};
use crate::pods::{self, BARE_RUNTIME, Runtime};
use crate::scenario_https::Client;
use crate::turn;
use crate::vm::{CgroupMode, PATIENCE, Process, Vm, VmBuilder};
use anyhow::{Context as _, Result, bail, ensure};
use cgpath_appraisal::{Rule, Verdict};
use cgpath_evidence::{Checkpoint, Evidence, EvidenceDelta, SealedCheckpoint, Tier};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vm_protocol::spec::Workload;

/// The node's name, at the verifier and in its own configuration.
pub const NODE: &str = "guest";
/// Where the collector lies in the guest.
pub const COLLECTOR: &str = "/usr/sbin/cgpathd";
/// Where its log goes.
pub const COLLECTOR_LOG: &str = "/var/log/cgpathd.log";
/// Its cgroup, as systemd would name it.
pub const COLLECTOR_CGROUP: &str = "/system.slice/cgpathd.service";
/// Its configuration.
pub const CONFIG: &str = "/etc/ima-cgpath/cgpathd.toml";
const CA: &str = "/etc/ima-cgpath/verifier-ca.pem";
/// The programs that it loads.
pub const BPF_OBJECT: &str = "/usr/lib/ima-cgpath/ima-cgpath.bpf.o";
/// The cgroup of workloads that ask for none of their own.
pub const WORKLOADS: &str = "/system.slice/workload.service";
/// IMA's kernel parameters where the kernel writes the tags itself.
pub const TAGGED_IMA: &str = "ima_policy=tcb ima_template=ima-cgpath ima_hash=sha256";
/// The host, as QEMU's user network shows it to a guest.
const HOST: &str = "10.0.2.2";

/// How long a workload may take: thousands of executions on a machine that does something else as well.
const WORK: Duration = Duration::from_secs(1200);

/// Time for one round under TCG on a machine with other work to do: a guest that got a tenth of a core had no
/// first verdict after 180 s.
const ROUND: Duration = Duration::from_secs(600);

/// A pod that the policy knows.
#[derive(Debug, Clone)]
pub struct KnownPod {
    /// UID with dashes, lower case.
    pub uid: String,
    /// `namespace/name`, for people.
    pub name: String,
    /// Names of the images whose files it may run.
    pub images: Vec<String>,
    /// Files and directories of the guest's root (as they are before it boots) that are mounted into it, at
    /// the same path, and may be run there.
    pub host_paths: Vec<String>,
}

/// What a node is to be.
pub struct Plan {
    /// The kernel.
    pub stock: Stock,
    /// A kernel with our series in its place; its boot then chooses our template.
    pub patched: Option<Kernel>,
    /// More kernel parameters.
    pub kernel_args: String,
    /// How cgroups are mounted.
    pub cgroup: CgroupMode,
    /// What runs the pods.
    pub runtime: Runtime,
    /// All images that are in the guest.
    pub images: Vec<Image>,
    /// The pods of the policy.
    pub pods: Vec<KnownPod>,
    /// More packages of the guest's root file system. One that is not the usual one is made at first use, and
    /// no snapshot of another test has it: such a guest boots.
    pub packages: Vec<&'static str>,
    /// More files of the guest: path, content, mode.
    pub files: Vec<(String, Vec<u8>, u32)>,
    /// The collector's settings on its command line, `section.key=value` each.
    pub settings: Vec<String>,
    /// Tables for the end of the collector's configuration, TOML.
    pub config: String,
    /// Lines for the end of the node's policy.
    pub policy: String,
    /// The guest outlives this process.
    pub keep: bool,
    /// What is written to its disk survives a reboot.
    pub persistent: bool,
    /// UEFI firmware starts it from a disk, and the policy says what it must have measured: see
    /// [`Plan::is_measured`].
    pub firmware: bool,
    /// Kernel parameters that the policy does not know of.
    pub smuggled_args: String,
    /// The guest is restored from a snapshot of a booted one: see [`VmBuilder::restored`].
    pub restored: bool,
    /// It is a trust domain whose checkpoints extend RTMR 3; its kernel is
    /// [`crate::domain::STOCK`].
    pub domain: Option<Domain>,
}

impl Plan {
    /// A node of `stock` with nothing in it.
    pub fn new(stock: Stock) -> Plan {
        Plan {
            stock,
            patched: None,
            kernel_args: String::new(),
            cgroup: CgroupMode::V2,
            runtime: Runtime::Bare,
            images: Vec::new(),
            pods: Vec::new(),
            packages: Vec::new(),
            files: Vec::new(),
            settings: Vec::new(),
            config: String::new(),
            policy: String::new(),
            keep: false,
            persistent: false,
            firmware: false,
            smuggled_args: String::new(),
            restored: false,
            domain: None,
        }
    }

    /// The same, but of a guest that is restored from a snapshot: for tests of which booting is no part.
    pub fn restored(stock: Stock) -> Plan {
        Plan {
            restored: true,
            ..Plan::new(stock)
        }
    }

    /// Whether firmware could start this node and its kernel measure its command line: a kernel with an EFI
    /// stub of 6.12 or newer. Patched ones are built without EFI.
    pub fn is_measured(&self) -> bool {
        self.firmware && self.patched.is_none() && self.domain.is_none() && self.stock != Stock::V6_1
    }
}

/// The verifier's side, made before the guest boots.
pub struct Site {
    dir: PathBuf,
    cgpath: PathBuf,
    port: u16,
    /// Nobody else gets the port, whether the server runs or not.
    _reserved: host::Port,
    /// `None` while it is stopped.
    server: Mutex<Option<Server>>,
    client: Client,
}

/// `cgpath serve`, ended with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One kept verdict and the evidence behind it.
pub struct Round {
    /// The store's number for it.
    pub id: i64,
    /// The verdict as the verifier gave it.
    pub json: String,
    /// The same, read.
    pub verdict: Verdict,
    /// The evidence's file.
    pub file: PathBuf,
}

impl Round {
    /// The evidence itself.
    ///
    /// # Errors
    /// When the file cannot be read as evidence.
    pub fn evidence(&self) -> Result<Evidence> {
        let bytes = std::fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        Evidence::from_cbor(&bytes).with_context(|| format!("evidence in {}", self.file.display()))
    }
}

impl Round {
    /// The checkpoints of the evidence, the first one first.
    ///
    /// # Errors
    /// When the evidence, or one of them, cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let evidence = self.evidence()?;
        let read = |file: &Vec<u8>| Ok(SealedCheckpoint::from_file(file)?.checkpoint);
        evidence.checkpoints.iter().map(read).collect()
    }

    /// Findings that fail by a rule of quotes, lists, chains, records, losses and counters: those that
    /// programs which no policy knows cannot set off.
    pub fn broken(&self) -> Vec<String> {
        use Rule::{Absent, Chain, Coverage, History, Losses, Quote, Records, Template};
        let of_interest = [Quote, Coverage, Template, Chain, Records, Losses, History, Absent];
        self.verdict
            .failures()
            .filter(|f| of_interest.contains(&f.rule))
            .map(ToString::to_string)
            .collect()
    }
}

#[derive(serde::Deserialize)]
struct Stored {
    id: i64,
    evidence: String,
    verdict: Box<serde_json::value::RawValue>,
}

impl Site {
    /// Makes CA, store and an empty directory for policies in `dir`, and starts `cgpath serve` on a free port
    /// of this machine.
    ///
    /// # Errors
    /// When `cgpath` was not built or does not come up.
    pub fn start(dir: &Path) -> Result<Site> {
        let cgpath = host::built_binary("cgpath")?;
        let dir = std::path::absolute(dir)?;
        std::fs::create_dir_all(dir.join("policy")).with_context(|| format!("making {}", dir.display()))?;
        let store = dir.join("verifier");
        let reserved = host::Port::reserve()?;
        let port = reserved.number();
        host::output(Command::new(&cgpath).args(["serve", "--init"]).arg(&store).args([
            "--name",
            HOST,
            "--name",
            "localhost",
        ]))?;
        let client = Client::new(port, &store.join("ca.pem"))?;
        let site = Site {
            dir,
            cgpath,
            port,
            _reserved: reserved,
            server: Mutex::new(None),
            client,
        };
        site.start_server()?;
        Ok(site)
    }

    /// Starts `cgpath serve` where it does not run, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_server(&self) -> Result<()> {
        let mut running = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return Ok(());
        }
        let log = self.dir.join("serve.log");
        let output = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&log)
            .with_context(|| format!("making {}", log.display()))?;
        let child = Command::new(&self.cgpath)
            .args(["serve", "--store"])
            .arg(self.store())
            .args([
                "--listen",
                &format!("127.0.0.1:{}", self.port),
                "--stale-after",
                "10",
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", self.cgpath.display()))?;
        let mut server = Server(child);
        let begin = Instant::now();
        loop {
            match self.client.get("/healthz") {
                Ok(answer) if answer.status == 200 => break,
                other => {
                    let ended = server.0.try_wait()?;
                    if ended.is_some() || begin.elapsed() > PATIENCE {
                        let said = std::fs::read_to_string(&log).unwrap_or_default();
                        let last = other
                            .map_or_else(|error| format!("{error:#}"), |a| format!("status {}", a.status));
                        bail!(
                            "cgpath serve did not come up ({last}):\n{}",
                            host::tail(&said, 10)
                        );
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        *running = Some(server);
        Ok(())
    }

    /// Ends `cgpath serve` with no warning.
    pub fn stop_server(&self) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The directory that everything is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The verifier's store.
    pub fn store(&self) -> PathBuf {
        self.dir.join("verifier")
    }

    /// The node's policy file.
    pub fn policy_file(&self) -> PathBuf {
        self.dir.join("policy/node.yaml")
    }

    /// The node's attestation key, after it was enrolled.
    pub fn key_file(&self) -> PathBuf {
        self.dir.join("guest.ak")
    }

    /// The address at which the verifier's page is shown.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/", self.port)
    }

    /// The process id of `cgpath serve`, if it runs.
    pub fn server_pid(&self) -> Option<u32> {
        let running = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|server| server.0.id())
    }

    /// Lets `cgpath serve` go on after this process.
    pub fn leave_running(self) {
        std::mem::forget(self.server);
    }

    /// Requests to the verifier.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `cgpath` with these arguments, to be run.
    pub fn cgpath<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.cgpath);
        command.args(arguments);
        command
    }

    /// The last rounds of the node, the newest first.
    fn history(&self, limit: u32) -> Result<Vec<Stored>> {
        #[derive(serde::Deserialize)]
        struct History {
            verdicts: Vec<Stored>,
        }
        let answer = self
            .client
            .get(&format!("/v1/nodes/{NODE}/history?limit={limit}"))?;
        Ok(answer.json::<History>()?.verdicts)
    }

    /// The newest round, if there is one.
    ///
    /// # Errors
    /// When the verifier does not answer or its answer is not what is expected.
    pub fn last(&self) -> Result<Option<Round>> {
        self.history(1)?
            .pop()
            .map(|stored| self.round(stored))
            .transpose()
    }

    fn round(&self, stored: Stored) -> Result<Round> {
        let json = stored.verdict.get().to_owned();
        let verdict = serde_json::from_str(&json).context("the verdict's form")?;
        Ok(Round {
            id: stored.id,
            json,
            verdict,
            file: self.whole(&stored.evidence)?,
        })
    }

    /// The file with all evidence of a round. The store keeps a round that was sent as a delta as it came,
    /// behind another file that the delta names; put together it lies beside the store.
    fn whole(&self, name: &str) -> Result<PathBuf> {
        /// The store keeps no longer chain of deltas.
        const MAX_DELTAS: usize = 64;
        let stored = |name: &str| self.store().join("evidence").join(format!("{name}.cbor"));
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
        let mut bytes = read(&stored(name))?;
        let mut deltas = Vec::new();
        while EvidenceDelta::is_delta(&bytes) {
            ensure!(
                deltas.len() <= MAX_DELTAS,
                "{name} stands behind more than {MAX_DELTAS} parts"
            );
            let delta = EvidenceDelta::from_cbor(&bytes).with_context(|| format!("a part of {name}"))?;
            bytes = read(&stored(&hex::encode(delta.from.base)))?;
            deltas.push(delta);
        }
        if deltas.is_empty() {
            return Ok(stored(name));
        }
        let mut evidence = Evidence::from_cbor(&bytes).with_context(|| format!("what {name} follows"))?;
        for delta in deltas.into_iter().rev() {
            evidence = delta.join(evidence)?;
        }
        let dir = self.dir.join("whole");
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join(format!("{name}.cbor"));
        std::fs::write(&path, evidence.to_cbor()).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Makes the reference values and the policy of `plan`, all from files on this machine: `root` is the
    /// guest's root file system as it will be, `image` the unified kernel image that firmware will start.
    ///
    /// # Errors
    /// When `cgpath policy` refuses something.
    pub fn make_policy(&self, plan: &Plan, root: &Path, image: Option<&Path>) -> Result<()> {
        let dir = self.dir.join("policy");
        host::step("computing reference values of the root file system", || {
            let mut command = self.cgpath(&["policy", "from-rootfs"]);
            command.arg(root).arg("-o").arg(dir.join("host.json"));
            host::output(&mut command).map(drop)
        })?;
        let pause = pods::pause_image();
        let tar = |name: &str| dir.join(format!("{}.tar", file_name(name)));
        for image in plan.images.iter().chain([&pause]) {
            oci::write_layout(&[image], &tar(image.name()))?;
        }
        let from_image = |image: &str, mounts: &[String]| {
            let name = mounts
                .iter()
                .fold(file_name(image), |name, mount| name + &file_name(mount));
            let name = format!("{name}.json");
            // Many pods have one image.
            if dir.join(&name).is_file() {
                return Ok(name);
            }
            let mut command = self.cgpath(&["policy", "from-image"]);
            command.arg(tar(image)).arg("-o").arg(dir.join(&name));
            for mount in mounts {
                let host = root.join(mount.trim_start_matches('/'));
                command.arg("--mount").arg(format!("{}={mount}", host.display()));
            }
            host::output(&mut command).map(|_| name)
        };
        let mut yaml = policy_head(plan, root, &from_image(pause.name(), &[])?)?;
        yaml.push_str(if plan.pods.is_empty() {
            "pods: []\n"
        } else {
            "pods:\n"
        });
        for pod in &plan.pods {
            let references: Result<Vec<String>> = pod
                .images
                .iter()
                .map(|image| from_image(image, &pod.host_paths))
                .collect();
            let _ = writeln!(yaml, "  - uid: {}\n    name: {}", pod.uid, pod.name);
            let _ = writeln!(yaml, "    references: [{}]", references?.join(", "));
        }
        yaml.push_str(&plan.policy);
        match (image, &plan.domain) {
            (_, Some(domain)) => yaml.push_str(&domain.policy()),
            (Some(image), None) => {
                let mut command = self.cgpath(&["policy", "from-uki"]);
                let boot = host::output(command.arg(image))?;
                yaml.push_str(&String::from_utf8(boot).context("the output of cgpath policy from-uki")?);
            }
            (None, None) => yaml.push_str("dangerous-boot-not-judged: true\n"),
        }
        let path = self.policy_file();
        std::fs::write(&path, yaml).with_context(|| format!("writing {}", path.display()))?;
        host::output(self.cgpath(&["policy", "check"]).arg(&path)).map(drop)
    }

    /// Adds to a guest's disk what the collector needs there.
    ///
    /// # Errors
    /// When something was not built.
    pub fn add_collector(&self, builder: VmBuilder, plan: &Plan) -> Result<VmBuilder> {
        let mut config = format!(
            "node = \"{NODE}\"\n\
             [verifier]\n\
             url = \"https://{HOST}:{}\"\n\
             ca = \"{CA}\"\n\
             interval = 1\n\
             [bpf]\n\
             object = \"{BPF_OBJECT}\"\n",
            self.port
        );
        if !plan.settings.is_empty() {
            config.push_str("# Others are set on the command line.\n");
        }
        config.push_str(&plan.config);
        config.push_str(plan.domain.as_ref().map_or("", Domain::config));
        Ok(builder
            .file(COLLECTOR, host::stripped(&host::built_binary("cgpathd")?)?, 0o755)
            .file(BPF_OBJECT, host::bpf_object()?, 0o644)
            .file(CA, self.store().join("ca.pem"), 0o644)
            .bytes(CONFIG, config, 0o644)
            .ima_policy(ima_policy()))
    }

    /// Enrols the guest's attestation key, as a person does: the key by its file, the policy by its file.
    ///
    /// # Errors
    /// When the collector or the verifier refuses.
    pub fn enrol(&self, vm: &Vm) -> Result<()> {
        let mut command = self.cgpath(&["node", "add", NODE, "--ak"]);
        command
            .arg(self.attestation_key(vm)?)
            .arg("--policy")
            .arg(self.policy_file())
            .arg("--store")
            .arg(self.store());
        host::output(&mut command).map(drop)
    }

    /// The file of the guest's attestation key, out of the guest.
    ///
    /// # Errors
    /// When the collector gives none.
    pub fn attestation_key(&self, vm: &Vm) -> Result<PathBuf> {
        vm.command(&[COLLECTOR, "ak", "-o", "/run/guest.ak"])
            .run()?
            .check()?;
        let key = self.key_file();
        std::fs::write(&key, vm.get("/run/guest.ak")?)
            .with_context(|| format!("writing {}", key.display()))?;
        Ok(key)
    }

    /// Waits for a round that began after this call: the second one from now, since the first may be under
    /// way.
    ///
    /// # Errors
    /// When none arrives in time, with the end of the collector's log.
    pub fn fresh(&self, vm: &Vm) -> Result<Round> {
        self.newest_of(2, vm)
    }

    /// Waits for so many rounds that end after this call, and gives the last of them.
    ///
    /// # Errors
    /// When they do not arrive in time, with the end of the collector's log.
    fn newest_of(&self, rounds: u32, vm: &Vm) -> Result<Round> {
        let seen = self.last()?.map_or(0, |round| round.id);
        let begin = Instant::now();
        loop {
            let newer: Vec<Stored> = self
                .history(rounds)?
                .into_iter()
                .filter(|stored| stored.id > seen)
                .collect();
            if newer.len() >= rounds as usize
                && let Some(newest) = newer.into_iter().next()
            {
                return self.round(newest);
            }
            if begin.elapsed() > ROUND {
                let log = vm.get_text(COLLECTOR_LOG).unwrap_or_default();
                let served = std::fs::read_to_string(self.dir.join("serve.log")).unwrap_or_default();
                bail!(
                    "no new verdict within {} s; cgpathd wrote:\n{}\ncgpath serve wrote:\n{}",
                    ROUND.as_secs(),
                    host::tail(&log, 15),
                    host::tail(&served, 8)
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The IMA policy that guests load: the recommended one that is shipped.
pub fn ima_policy() -> PathBuf {
    host::workspace_root().join("policy/ima/recommended")
}

fn file_name(name: &str) -> String {
    name.replace(['/', ':'], "_")
}

fn sha256(path: &Path) -> Result<String> {
    Ok(format!("sha256:{}", host::sha256_file(path)?))
}

fn policy_head(plan: &Plan, root: &Path, pause: &str) -> Result<String> {
    let (tier, template) = match plan.patched {
        Some(_) => (Tier::Kernel, "ima-cgpath"),
        None => (Tier::Bpf, "ima-ng"),
    };
    let anchor = plan.domain.as_ref().map_or("banks: [sha256]", Domain::anchors);
    let mut yaml = format!(
        "version: 1
node: {NODE}
accept:
  tiers: [{tier}]
  templates: [{template}, ima-buf]
  {anchor}
  bpf-objects: [\"{}\"]
  ima-policies: [\"{}\"]
  collector: {COLLECTOR}
host:
  references: [host.json]
sandbox:
  references: [{pause}]
",
        sha256(&host::bpf_object()?)?,
        sha256(&ima_policy())?,
    );
    match plan.runtime {
        Runtime::Containerd => {
            let _ = writeln!(yaml, "runtime-files: [{}]", pods::runc_files(root)?.join(", "));
        }
        Runtime::Bare => {
            let _ = writeln!(yaml, "runtimes: [{BARE_RUNTIME}]");
        }
    }
    Ok(yaml)
}

/// Starts the collector in a guest.
///
/// # Errors
/// When it cannot be started; that it ends soon after is not seen here.
pub fn start_collector<'vm>(vm: &'vm Vm, plan: &Plan) -> Result<Process<'vm>> {
    let mut argv = vec![COLLECTOR.to_owned()];
    for setting in &plan.settings {
        argv.extend(["--set".to_owned(), setting.clone()]);
    }
    argv.push("run".to_owned());
    vm.command(&argv).cgroup(COLLECTOR_CGROUP).spawn(COLLECTOR_LOG)
}

/// A node that is up: its guest and its verifier.
pub struct Node {
    /// The verifier's side.
    pub site: Site,
    /// The guest.
    pub vm: Vm,
    /// What it was made from.
    pub plan: Plan,
}

impl Node {
    /// Makes reference values and policy, then boots the guest, or restores it. The collector is not started.
    ///
    /// # Errors
    /// When something is missing on this machine or the guest does not come up.
    pub fn boot(plan: Plan, dir: &Path) -> Result<Node> {
        let _turn = turn::take();
        let site = Site::start(dir)?;
        let mut builder = Vm::builder(plan.stock)
            .packages(&plan.packages)
            .kernel_args(&plan.kernel_args)
            .cgroup(plan.cgroup)
            .keep(plan.keep)
            .persistent(plan.persistent)
            .restored(plan.restored)
            .firmware(plan.is_measured());
        if let Some(kernel) = &plan.patched {
            builder = builder.kernel(kernel.clone()).ima(TAGGED_IMA);
        }
        if let Some(domain) = &plan.domain {
            builder = Domain::prepare(builder)?;
            // A restored guest has the TPM of its snapshot. Nothing of this node uses it.
            builder = if domain.beside_tpm || plan.restored {
                builder
            } else {
                builder.without_tpm()
            };
        }
        builder = site.add_collector(builder, &plan)?;
        let scratch = tempfile::tempdir().context("making a temporary directory")?;
        let images: Vec<&Image> = plan.images.iter().collect();
        builder = pods::prepare(builder, plan.runtime, &images, scratch.path())?;
        for (path, content, mode) in &plan.files {
            builder = builder.bytes(path, content.clone(), *mode);
        }
        let root = builder.stage()?;
        let image = plan.is_measured().then(|| scratch.path().join("guest.efi"));
        if let Some(image) = &image {
            builder.unified_kernel_image(image)?;
        }
        site.make_policy(&plan, root.path(), image.as_deref())?;
        drop(root);
        let vm = builder.kernel_args(&plan.smuggled_args).start()?;
        ensure!(
            vm.hello().failures.is_empty(),
            "the guest's init: {}",
            vm.hello().failures.join("; ")
        );
        if let Some(domain) = &plan.domain {
            domain.start(&vm)?;
        }
        Ok(Node { site, vm, plan })
    }

    /// Enrols the node, starts the collector and waits for the first verdict.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn start_collector(&self) -> Result<(Process<'_>, Round)> {
        match &self.plan.domain {
            Some(domain) => domain.enrol(&self.site, &self.vm)?,
            None => self.site.enrol(&self.vm)?,
        }
        let process = start_collector(&self.vm, &self.plan)?;
        let begin = Instant::now();
        loop {
            if let Some(round) = self.site.last()? {
                return Ok((process, round));
            }
            if let Some(exit) = process.wait(Duration::ZERO)? {
                bail!("cgpathd ended ({exit:?}):\n{}", host::tail(&process.log()?, 15));
            }
            if begin.elapsed() > ROUND {
                bail!(
                    "no verdict within {} s:\n{}",
                    ROUND.as_secs(),
                    host::tail(&process.log()?, 15)
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a workload to its end and gives what it wrote down.
    ///
    /// # Errors
    /// When it fails, with what it said, or answers something else than a `T`.
    pub fn work<T: serde::de::DeserializeOwned>(&self, workload: &Workload) -> Result<T> {
        let text = serde_json::to_string(workload)?;
        let command = self
            .vm
            .command(&["guest", "workload", text.as_str()])
            .timeout(WORK);
        let output = command.cgroup(WORKLOADS).run()?.check()?;
        // A workload with nothing to write down says nothing.
        let answer: &[u8] = if output.stdout.is_empty() {
            b"null"
        } else {
            &output.stdout
        };
        serde_json::from_slice(answer).with_context(|| format!("the answer of {text}"))
    }

    /// See [`Site::fresh`].
    ///
    /// # Errors
    /// As there.
    pub fn fresh(&self) -> Result<Round> {
        self.site.fresh(&self.vm)
    }

    /// Waits for the next round that ends; it may have begun before this call.
    ///
    /// # Errors
    /// As [`Site::fresh`].
    pub fn next(&self) -> Result<Round> {
        self.site.newest_of(1, &self.vm)
    }
}
