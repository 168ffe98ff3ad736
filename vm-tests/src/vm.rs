//! A guest: a stock kernel with IMA, a software TPM of its own, a disk of its own, and a way to run commands in it.
//!
//! Promises: nothing is left running or lying about when a [`Vm`] is dropped or its process dies (unless it is to be
//! kept); guests share no state; every wait has a limit, and what fails shows the end of the guest's console. Not here:
//! what tests do in a guest.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use vm_protocol::{Body, Op};
pub use vm_protocol::{Exit, Hello, Stream};

use crate::channel::{Answers, Channel};
use crate::host;
use crate::image::{self, Addition, Stage};
use crate::kernel::{self, Kernel, Stock};
use crate::qemu::{self, Hardware, Machine};
use crate::root;
use crate::uki;

/// Time until the guest must have greeted. Under TCG on a busy machine a boot takes up to a minute.
const BOOT: Duration = Duration::from_secs(300);

/// Time for a command unless it asks for another.
const COMMAND: Duration = Duration::from_secs(120);

/// Time for small operations, and added to a command's own time for its answer to arrive.
const ANSWER: Duration = Duration::from_secs(60);

/// Output kept of each stream of a command.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// The longest file that [`Vm::get`] takes.
const FILE_LIMIT: u64 = 256 << 20;

/// The EFI system partition, in a guest's directory.
const PARTITION: &str = "esp.img";

/// IMA's kernel parameters unless a test asks for others.
pub const IMA: &str = "ima_policy=tcb ima_template=ima-ng ima_hash=sha256";

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
    stock: Stock,
    kernel: Option<Kernel>,
    cgroup: CgroupMode,
    ima: String,
    kernel_args: Vec<String>,
    memory_mib: u32,
    cpus: u32,
    disk_mib: u32,
    persistent: bool,
    keep: bool,
    packages: Vec<&'static str>,
    root: Option<PathBuf>,
    additions: Vec<Addition>,
    firmware: bool,
}

impl VmBuilder {
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

    /// UEFI firmware loads the kernel from a disk, as a unified kernel image, and measures what it does. Default: QEMU puts
    /// the kernel into memory.
    #[must_use]
    pub fn firmware(mut self, yes: bool) -> Self {
        self.firmware = yes;
        self
    }

    /// More packages in the root file system, which is made at first use: see [`root::with`].
    #[must_use]
    pub fn packages(mut self, names: &[&'static str]) -> Self {
        self.packages.extend(names);
        self
    }

    /// This directory is the root file system, as it was [staged](VmBuilder::stage) and changed since. It is not written to;
    /// all in it is root's in the guest.
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

    /// Puts the guest's root file system together as a directory, just as it will be when the guest boots: for
    /// reference values that are computed before.
    ///
    /// # Errors
    /// When something is missing on this machine.
    pub fn stage(&self) -> Result<Stage> {
        image::stage(&self.recipe()?.borrow())
    }

    /// Makes the unified kernel image that the firmware will load: for reference values that are computed before.
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

    fn command_line(&self) -> String {
        let mut command_line = format!(
            "console=ttyS0 quiet panic=-1 root=/dev/nvme0n1 rw init=/usr/sbin/guest {} {}={}",
            self.ima,
            vm_protocol::CGROUP_PARAMETER,
            self.cgroup.name()
        );
        for more in self.kernel_args.iter().filter(|more| !more.is_empty()) {
            let _ = write!(command_line, " {more}");
        }
        command_line
    }

    fn recipe(&self) -> Result<OwnedRecipe> {
        let mut additions = vec![
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
        ];
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

    /// Makes the disk, starts TPM and machine, and waits until the guest takes commands.
    ///
    /// # Errors
    /// When something is missing on this machine, or the guest does not come up in time: with its console's end.
    pub fn start(self) -> Result<Vm> {
        let recipe = self.recipe()?;
        let dir = VmDir::new(self.keep)?;
        let disk = dir.path.join("disk.img");
        host::step("making the guest's disk", || image::make(&recipe.borrow(), &disk))?;
        let kernel = recipe.kernel;
        let command_line = self.command_line();
        if self.firmware {
            host::step("making the guest's EFI system partition", || {
                let image = dir.path.join("uki.efi");
                uki::image(&kernel.image(), &command_line, &image)?;
                uki::partition(&image, &dir.path.join(PARTITION))
            })?;
        }
        let mut vm = Vm {
            builder: self,
            kernel: Some(kernel),
            command_line,
            dir,
            machine: None,
            channel: None,
            hello: Hello::default(),
            boot_time: Duration::ZERO,
        };
        vm.boot()?;
        Ok(vm)
    }
}

/// What a guest's image is made from.
struct OwnedRecipe {
    root: PathBuf,
    kernel: Kernel,
    additions: Vec<Addition>,
    size_mib: u32,
    journal: bool,
}

impl OwnedRecipe {
    fn borrow(&self) -> image::Recipe<'_> {
        image::Recipe {
            root: &self.root,
            kernel: &self.kernel,
            additions: &self.additions,
            size_mib: self.size_mib,
            journal: self.journal,
        }
    }
}

/// A guest that is up.
pub struct Vm {
    builder: VmBuilder,
    kernel: Option<Kernel>,
    command_line: String,
    // Order matters at the end: first the connection, then the processes, then their directory.
    channel: Option<Channel>,
    machine: Option<Machine>,
    dir: VmDir,
    hello: Hello,
    boot_time: Duration,
}

impl Vm {
    /// Describes a guest with a stock kernel of this series.
    pub fn builder(stock: Stock) -> VmBuilder {
        VmBuilder {
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
        }
    }

    /// Connects to a guest that was started with [`VmBuilder::keep`], by its directory.
    ///
    /// # Errors
    /// When no guest runs there, or another process talks to it.
    pub fn attach(dir: &Path) -> Result<Self> {
        let (channel, _greeting) = Channel::connect(&dir.join(qemu::CHANNEL))
            .with_context(|| format!("hint: no guest runs in {}", dir.display()))?;
        let mut vm = Self {
            builder: Self::builder(Stock::V6_12).keep(true),
            kernel: None,
            command_line: String::new(),
            channel: Some(channel),
            machine: None,
            dir: VmDir {
                path: dir.to_path_buf(),
                keep: true,
                cleaner: None,
            },
            hello: Hello::default(),
            boot_time: Duration::ZERO,
        };
        let answers = vm.ask(Op::Hello)?;
        match answers.next(Instant::now() + ANSWER)? {
            Some(Body::Hello(hello)) => vm.hello = hello,
            Some(other) => bail!("the guest answered {other:?} to a greeting"),
            None => bail!(
                "no answer within {} s; hint: another process may be talking to it",
                ANSWER.as_secs()
            ),
        }
        Ok(vm)
    }

    /// What the guest's init said when it was ready.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Time from QEMU's start until the guest took commands.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The kernel that it runs; `None` after [`Vm::attach`].
    pub fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// The guest's directory: console, logs, TPM state, disk.
    pub fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// QEMU's process id; `None` after [`Vm::attach`].
    pub fn pid(&self) -> Option<u32> {
        self.machine.as_ref().map(Machine::pid)
    }

    /// The software TPM's process id; `None` after [`Vm::attach`].
    pub fn tpm_pid(&self) -> Option<u32> {
        self.machine.as_ref().map(Machine::tpm_pid)
    }

    /// All that the guest's console showed so far.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.path.join(qemu::CONSOLE)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs a command to its end. Its failure is not an error here: see [`Output::check`].
    ///
    /// # Errors
    /// When it cannot be started, or the guest does not answer.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        self.command(argv).run()
    }

    /// Runs a shell script to its end and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said, or the guest does not answer.
    pub fn sh(&self, script: &str) -> Result<String> {
        Ok(self.run(&["/bin/sh", "-ec", script])?.check()?.text())
    }

    /// Describes a command.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> Command<'_> {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        Command {
            vm: self,
            command: vm_protocol::Command {
                argv,
                ..Default::default()
            },
            stdin: Vec::new(),
            timeout: COMMAND,
            limit: OUTPUT_LIMIT,
        }
    }

    /// Writes a file; missing directories are made, and a file that is there is replaced by rename.
    ///
    /// # Errors
    /// When the guest cannot write it, or does not answer.
    pub fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut offset = 0;
        loop {
            let end = content.len().min(offset + vm_protocol::CHUNK);
            let op = Op::Put {
                path: path.to_owned(),
                mode,
                offset: offset as u64,
                bytes: vm_protocol::Bytes(content[offset..end].to_vec()),
                last: end == content.len(),
            };
            self.done(op, ANSWER)
                .with_context(|| format!("putting {path} into the guest"))?;
            if end == content.len() {
                return Ok(());
            }
            offset = end;
        }
    }

    /// Reads a file, in the guest in one go.
    ///
    /// # Errors
    /// When the guest cannot read it, or does not answer.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let attempt = || {
            let answers = self.ask(Op::Get {
                path: path.to_owned(),
                limit: FILE_LIMIT,
            })?;
            let mut content = Vec::new();
            loop {
                // The limit is for each part: a long file takes its time.
                match self.answer(&answers, Instant::now() + ANSWER)? {
                    Body::Data { bytes, .. } => content.extend_from_slice(&bytes.0),
                    Body::Done => return Ok(content),
                    other => bail!("unexpected answer {other:?}"),
                }
            }
        };
        attempt().with_context(|| format!("getting {path} from the guest"))
    }

    /// Reads a text file.
    ///
    /// # Errors
    /// As [`Vm::get`].
    pub fn get_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.get(path)?).into_owned())
    }

    /// Runs a command on a terminal: `output` is called with what it shows, `input` gives what is typed.
    ///
    /// # Errors
    /// When it cannot be started, or the guest goes away.
    pub fn terminal<S: AsRef<str>>(
        &self,
        argv: &[S],
        size: (u16, u16),
        input: std::sync::mpsc::Receiver<Vec<u8>>,
        mut output: impl FnMut(&[u8]),
    ) -> Result<Exit> {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        let mut command = vm_protocol::Command {
            argv,
            ..Default::default()
        };
        if let Ok(term) = std::env::var("TERM") {
            command.env.push(("TERM".to_owned(), term));
        }
        let answers = self.ask(Op::Terminal {
            command,
            rows: size.0,
            columns: size.1,
        })?;
        let id = answers.id;
        std::thread::scope(|scope| {
            // What was typed is sent by a thread of its own, so that output keeps coming meanwhile.
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    let Ok(bytes) = input.recv_timeout(Duration::from_millis(100)) else {
                        continue;
                    };
                    for part in bytes.chunks(vm_protocol::CHUNK) {
                        let op = Op::Type {
                            of: id,
                            bytes: vm_protocol::Bytes(part.to_vec()),
                        };
                        // The guest went away: the loop below says so.
                        if self.done(op, ANSWER).is_err() {
                            return;
                        }
                    }
                }
            });
            let result = loop {
                match answers.next(Instant::now() + Duration::from_secs(3600)) {
                    Ok(Some(Body::Data { bytes, .. })) => output(&bytes.0),
                    Ok(Some(Body::Exit(exit))) => break Ok(exit),
                    Ok(Some(other)) => break Err(anyhow!("unexpected answer {other:?}")),
                    Ok(None) => {}
                    Err(error) => break Err(error),
                }
            };
            drop(stop);
            result
        })
    }

    /// Reboots: the TPM keeps its state and sees a reset; the disk is as it was at first unless it is persistent.
    ///
    /// # Errors
    /// When the guest does not come up again in time.
    pub fn reboot(&mut self) -> Result<()> {
        // No answer comes; QEMU's end is the sign.
        let _answers = self.ask(Op::Reboot)?;
        self.restart(true)
    }

    /// Cuts the power and starts again: no shutdown, no sync.
    ///
    /// # Errors
    /// When the guest does not come up again in time.
    pub fn power_cycle(&mut self) -> Result<()> {
        self.restart(false)
    }

    /// Jumps into the kernel that was loaded for it: the machine, its TPM and its disk go on as they are.
    ///
    /// # Errors
    /// When no kernel was loaded, or the new one does not come up in time.
    pub fn kexec(&mut self) -> Result<()> {
        let channel = self.channel.as_ref().context("the guest is not up")?;
        // QEMU's end of the channel stays connected, so the new guest greets on the same connection.
        let greeting = channel.greeting();
        let _answers = self.ask(Op::Kexec)?;
        let up = host::step("starting another kernel by kexec", || {
            self.answer(&greeting, Instant::now() + BOOT)
        });
        match up? {
            Body::Hello(hello) => self.hello = hello,
            other => bail!("the guest answered {other:?} in place of a greeting"),
        }
        Ok(())
    }

    /// Powers off in order and removes all that belongs to the guest.
    ///
    /// # Errors
    /// When it does not power off by itself; it is gone then all the same.
    pub fn power_off(mut self) -> Result<()> {
        const TIME: Duration = Duration::from_secs(60);
        let _answers = self.ask(Op::PowerOff)?;
        let by_itself = match &mut self.machine {
            Some(machine) => machine.wait(TIME)?,
            None => self.dir.wait_for_owner(TIME),
        };
        if !by_itself {
            return Err(self.with_console(anyhow!("the guest did not power off within {} s", TIME.as_secs())));
        }
        self.dir.keep = false;
        Ok(())
    }

    fn restart(&mut self, in_order: bool) -> Result<()> {
        let mut machine = self
            .machine
            .take()
            .context("only the process that started a guest can restart it")?;
        let time = if in_order {
            Duration::from_secs(60)
        } else {
            Duration::ZERO
        };
        let by_itself = machine.wait(time)?;
        drop(machine);
        self.channel = None;
        if in_order && !by_itself {
            return Err(self.with_console(anyhow!("the guest did not go down within 60 s")));
        }
        self.boot()
    }

    fn boot(&mut self) -> Result<()> {
        let kernel = self.kernel.as_ref().context("no kernel is known")?.image();
        let partition = self.dir.path.join(PARTITION);
        let started = Instant::now();
        let mut machine = Machine::start(&Hardware {
            dir: &self.dir.path,
            boot: if self.builder.firmware {
                qemu::Boot::Firmware {
                    partition: &partition,
                }
            } else {
                qemu::Boot::Direct {
                    kernel: &kernel,
                    command_line: &self.command_line,
                }
            },
            disk: &self.dir.path.join("disk.img"),
            memory_mib: self.builder.memory_mib,
            cpus: self.builder.cpus,
            persistent: self.builder.persistent,
            keep: self.builder.keep,
        })?;
        self.dir.record(machine.pid())?;
        let up = host::step(&format!("booting Linux {}", self.builder.stock), || {
            self.wait_for_greeting(&mut machine)
        });
        self.machine = Some(machine);
        match up {
            Ok((channel, hello)) => {
                self.channel = Some(channel);
                self.hello = hello;
                self.boot_time = started.elapsed();
                Ok(())
            }
            Err(error) => {
                let error = self.with_console(error);
                if let Some(machine) = &mut self.machine {
                    // Also for a guest to be kept: one that does not come up is of no use.
                    machine.wait(Duration::ZERO)?;
                }
                Err(error)
            }
        }
    }

    fn wait_for_greeting(&self, machine: &mut Machine) -> Result<(Channel, Hello)> {
        let deadline = Instant::now() + BOOT;
        let socket = self.dir.path.join(qemu::CHANNEL);
        let mut connected: Option<(Channel, Answers)> = None;
        loop {
            if let Some(status) = machine.ended()? {
                let said = std::fs::read_to_string(self.dir.path.join("qemu.log")).unwrap_or_default();
                let hint = match host::accelerator().as_str() {
                    "kvm" => "\nhint: if KVM does not work here: CGPATH_ACCEL=tcg",
                    _ => "",
                };
                bail!(
                    "QEMU ended before the guest was up ({status})\n{}{hint}",
                    host::tail(&said, 10)
                );
            }
            if Instant::now() > deadline {
                bail!("the guest was not up after {} s", BOOT.as_secs());
            }
            let Some((channel, greeting)) = connected.take() else {
                std::thread::sleep(Duration::from_millis(20));
                connected = Channel::connect(&socket).ok();
                continue;
            };
            match greeting.next(Instant::now() + Duration::from_millis(200)) {
                Ok(Some(Body::Hello(hello))) => {
                    if hello.version != vm_protocol::VERSION {
                        bail!(
                            "the guest speaks version {} of the channel, not {}; hint: cargo xtask build",
                            hello.version,
                            vm_protocol::VERSION
                        );
                    }
                    return Ok((channel, hello));
                }
                Ok(_) => connected = Some((channel, greeting)),
                // QEMU closed the connection: its end is seen at the top.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn ask(&self, op: Op) -> Result<Answers> {
        match &self.channel {
            Some(channel) => channel.ask(op).map_err(|error| self.with_console(error)),
            None => bail!("the guest is not up"),
        }
    }

    fn answer(&self, answers: &Answers, deadline: Instant) -> Result<Body> {
        match answers.next(deadline) {
            Ok(Some(body)) => Ok(body),
            Ok(None) => Err(self.with_console(anyhow!("the guest did not answer in time"))),
            // Only a guest that is gone makes its console interesting; a failed operation says what is wrong.
            Err(error) if error.to_string() == "the guest is gone" => Err(self.with_console(error)),
            Err(error) => Err(error),
        }
    }

    fn done(&self, op: Op, time: Duration) -> Result<()> {
        let answers = self.ask(op)?;
        match self.answer(&answers, Instant::now() + time)? {
            Body::Done => Ok(()),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn with_console(&self, error: anyhow::Error) -> anyhow::Error {
        let console = self.console();
        error.context(format!(
            "the guest's console ended with:\n{}",
            host::tail(&console, 25)
        ))
    }
}

/// A command to run in a guest.
pub struct Command<'vm> {
    vm: &'vm Vm,
    command: vm_protocol::Command,
    stdin: Vec<u8>,
    timeout: Duration,
    limit: u64,
}

impl<'vm> Command<'vm> {
    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Passes this on its standard input (of [`Command::run`]): at most 128 KiB.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets its working directory.
    #[must_use]
    pub fn cwd(mut self, directory: &str) -> Self {
        self.command.cwd = Some(directory.to_owned());
        self
    }

    /// Puts it into this control group (made when missing), in every hierarchy, before it is executed.
    #[must_use]
    pub fn cgroup(mut self, path: &str) -> Self {
        self.command.cgroup = Some(path.to_owned());
        self
    }

    /// After this time [`Command::run`] kills it. Default: 2 minutes.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, its time is up, or the guest does not answer. Its own failure is in the [`Output`].
    pub fn run(self) -> Result<Output> {
        let argv = self.command.argv.join(" ");
        let timeout = self.timeout;
        let mut output = Output {
            argv,
            ..Output::default()
        };
        let exit = self.stream(|stream, bytes| match stream {
            Stream::Out => output.stdout.extend_from_slice(bytes),
            Stream::Err => output.stderr.extend_from_slice(bytes),
        })?;
        output.exit = exit;
        if output.exit.timed_out {
            bail!(
                "`{}` was killed in the guest after {} s\n{}",
                output.argv,
                timeout.as_secs(),
                output.said()
            );
        }
        Ok(output)
    }

    /// Runs it to its end and passes on what it prints as it comes.
    ///
    /// # Errors
    /// When it cannot be started, or the guest does not answer. Whether it failed or its time was up is in the [`Exit`].
    pub fn stream(self, mut take: impl FnMut(Stream, &[u8])) -> Result<Exit> {
        if self.stdin.len() > vm_protocol::MAX_STDIN {
            bail!(
                "{} bytes of standard input are too many; hint: put them into a file first",
                self.stdin.len()
            );
        }
        let argv = self.command.argv.join(" ");
        let attempt = || {
            let answers = self.vm.ask(Op::Run {
                command: self.command,
                stdin: vm_protocol::Bytes(self.stdin),
                timeout_ms: millis(self.timeout),
                limit: self.limit,
            })?;
            let deadline = Instant::now() + self.timeout + ANSWER;
            loop {
                match self.vm.answer(&answers, deadline)? {
                    Body::Data { stream, bytes } => take(stream, &bytes.0),
                    Body::Exit(exit) => return Ok(exit),
                    other => bail!("unexpected answer {other:?}"),
                }
            }
        };
        attempt().with_context(|| format!("running `{argv}` in the guest"))
    }

    /// Starts it in the background; what it prints is appended to the guest's file `log`.
    ///
    /// # Errors
    /// When it cannot be started, or the guest does not answer.
    pub fn spawn(self, log: &str) -> Result<Process<'vm>> {
        let argv = self.command.argv.join(" ");
        let attempt = || {
            let answers = self.vm.ask(Op::Spawn {
                command: self.command,
                log: log.to_owned(),
            })?;
            match self.vm.answer(&answers, Instant::now() + ANSWER)? {
                Body::Started { pid } => Ok(pid),
                other => bail!("unexpected answer {other:?}"),
            }
        };
        let pid = attempt().with_context(|| format!("starting `{argv}` in the guest"))?;
        Ok(Process {
            vm: self.vm,
            pid,
            log: log.to_owned(),
        })
    }
}

/// A process that runs in the background of a guest. Dropping this value leaves it running.
pub struct Process<'vm> {
    vm: &'vm Vm,
    pid: i32,
    log: String,
}

impl Process<'_> {
    /// Its process id in the guest.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// As [`Vm::get`].
    pub fn log(&self) -> Result<String> {
        self.vm.get_text(&self.log)
    }

    /// Sends a signal to it and its children.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal_group(&self, signal: i32) -> Result<()> {
        self.vm.done(
            Op::Signal {
                pid: self.pid,
                signal,
                group: true,
            },
            ANSWER,
        )
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.vm.done(
            Op::Signal {
                pid: self.pid,
                signal,
                group: false,
            },
            ANSWER,
        )
    }

    /// How it ended; `None` when it is still running after this time.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn wait(&self, time: Duration) -> Result<Option<Exit>> {
        let answers = self.vm.ask(Op::Wait {
            pid: self.pid,
            timeout_ms: millis(time),
        })?;
        match self.vm.answer(&answers, Instant::now() + time + ANSWER)? {
            Body::Exit(exit) if exit.timed_out => Ok(None),
            Body::Exit(exit) => Ok(Some(exit)),
            other => bail!("unexpected answer {other:?}"),
        }
    }
}

/// How a command ended and what it said.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The command line.
    pub argv: String,
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.exit.code == Some(0)
    }

    /// The exit status; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.exit.code
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Takes any end but exit status 0, or cut output, as an error.
    ///
    /// # Errors
    /// When the command failed: with how it ended and what it said.
    pub fn check(self) -> Result<Self> {
        if self.exit.truncated {
            bail!("`{}` printed more than is kept", self.argv);
        }
        if self.success() {
            return Ok(self);
        }
        let how = match (self.exit.code, self.exit.signal) {
            (Some(code), _) => format!("exited with {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        bail!("`{}` {how} in the guest\n{}", self.argv, self.said());
    }

    fn said(&self) -> String {
        let said = format!("{}\n{}", self.text(), self.errors());
        host::tail(&said, 20)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Where guests have their directories: `CGPATH_VM_DIR`, or in memory where there is plenty (an image is some hundred
/// MB, and waiting for a disk is most of a start), else on disk.
fn guests_dir() -> PathBuf {
    const PLENTY: u64 = 6 << 30;
    if let Some(dir) = std::env::var_os("CGPATH_VM_DIR") {
        return dir.into();
    }
    let shared_memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(shared_memory).map_or(0, |stat| {
        stat.blocks_available().saturating_mul(stat.fragment_size())
    });
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0);
    if room >= PLENTY && available.saturating_mul(1024) >= PLENTY {
        shared_memory.to_path_buf()
    } else {
        PathBuf::from("/var/tmp")
    }
}

/// A guest's directory. It goes away with this value, or with this process, unless the guest is kept.
struct VmDir {
    path: PathBuf,
    keep: bool,
    /// Waits for this process' end in order to remove the directory.
    cleaner: Option<Child>,
}

const PREFIX: &str = "cgpath-vm-";

impl VmDir {
    fn new(keep: bool) -> Result<Self> {
        let guests = guests_dir();
        for place in [guests.as_path(), Path::new("/dev/shm"), Path::new("/var/tmp")] {
            sweep(place);
        }
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&guests)
            .with_context(|| format!("making a directory in {}", guests.display()))?;
        let mut dir = Self {
            path: dir.keep(),
            keep,
            cleaner: None,
        };
        dir.record(std::process::id())?;
        if !keep {
            dir.cleaner = Some(dir.start_cleaner()?);
        }
        Ok(dir)
    }

    /// Starts a shell that reads until this process closes its end of a pipe, by whatever death, and then removes the
    /// directory: a disk in memory must not outlive Ctrl-C.
    fn start_cleaner(&self) -> Result<Child> {
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", "read -r _; sleep 1; rm -rf -- \"$0\""])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's foreground group, which Ctrl-C ends.
            .process_group(0);
        command.spawn().context("starting /bin/sh")
    }

    /// Whether the process that this directory belongs to ended within this time.
    fn wait_for_owner(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let Some(owner) = owner(&self.path) else {
            return true;
        };
        while Path::new("/proc").join(owner.to_string()).exists() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Notes the process without which this directory is litter.
    fn record(&self, pid: u32) -> Result<()> {
        let pid = if self.keep { pid } else { std::process::id() };
        let path = self.path.join("owner");
        std::fs::write(&path, pid.to_string()).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for VmDir {
    fn drop(&mut self) {
        if !self.keep {
            // What stays is removed by the next `sweep`.
            let _ = std::fs::remove_dir_all(&self.path);
        }
        if let Some(mut cleaner) = self.cleaner.take() {
            // There is nothing left for it to do; it may have ended.
            let _ = cleaner.kill();
            let _ = cleaner.wait();
        }
    }
}

/// The process without which a guest's directory is litter.
fn owner(dir: &Path) -> Option<u32> {
    std::fs::read_to_string(dir.join("owner")).ok()?.parse().ok()
}

/// Removes directories of guests whose process died before it could.
fn sweep(guests: &Path) {
    let Ok(entries) = std::fs::read_dir(guests) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let owner = owner(&entry.path());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another user's directory stays, as it should.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
