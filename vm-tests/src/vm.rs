//! A guest: a stock kernel with IMA, a software TPM of its own, a disk of its own, and a way to run commands
//! in it.
//!
//! Promises: nothing is left running or lying about when a [`Vm`] is dropped or its process dies (unless it
//! is to be kept); guests share no state; every wait has a limit, and what fails shows the end of the guest's
//! console. Not here: what tests do in a guest.
//!
//! **Booted or restored.** A guest boots unless [`VmBuilder::restored`] is said. Restored guests of one
//! kernel have the same boot id, TPM (seeds, keys, reset counter), measured boot, addresses in memory and
//! list up to that instant, and differ in clock, random numbers and files. So a test boots its guest if it is
//! about any of: boot, its time and its reference values, firmware, kernel parameters, how control groups are
//! mounted, resets and kexec (rule V7), boot ids, keys, nonces, the TPM's identity, or files that must be on
//! the disk before init runs. A restored guest cannot be restarted.

mod builder;
mod command;
mod dir;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use rand_core::RngCore as _;
use vm_protocol::{Body, Op};
pub use vm_protocol::{Exit, Hello, Stream};

pub use builder::{CgroupMode, VmBuilder};
pub use command::{Command, Output, Process};

use crate::channel::{Answers, Channel};
use crate::host;
use crate::image;
use crate::kernel::{Kernel, Stock};
use crate::qemu::{self, Hardware, Machine, Saved};
use crate::snapshot::{ADDITIONS_BYTES, Parts, Snapshot, Wanted};
use crate::turn::{self, Turn};
use crate::uki;
use dir::VmDir;

/// What is waited for comes by itself, on a machine at a tenth of its speed, too: only a hang takes longer.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Time until a guest that is restored must have greeted. One that does not is booted anew.
const RESTORE: Duration = Duration::from_secs(300);

/// Time for small operations, and added to a command's own time for its answer to arrive.
const ANSWER: Duration = Duration::from_secs(300);

/// The longest file that [`Vm::get`] takes.
const FILE_LIMIT: u64 = 256 << 20;

/// The disk of a guest that boots, in its directory.
const DISK: &str = "disk.img";

/// The EFI system partition, in a guest's directory.
const PARTITION: &str = "esp.img";

/// IMA's kernel parameters unless a test asks for others.
pub const IMA: &str = "ima_policy=tcb ima_template=ima-ng ima_hash=sha256";

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
    // Others begin when all of it is gone.
    _turn: Turn,
}

impl Vm {
    /// Describes a guest with a stock kernel of this series.
    pub fn builder(stock: Stock) -> VmBuilder {
        VmBuilder::new(stock)
    }

    /// Connects to a guest that was started with [`VmBuilder::keep`], by its directory.
    ///
    /// # Errors
    /// When no guest runs there, or another process talks to it.
    pub fn attach(dir: &Path) -> Result<Self> {
        let (channel, _greeting) = Channel::connect(&dir.join(qemu::CHANNEL))
            .with_context(|| format!("hint: no guest runs in {}", dir.display()))?;
        let builder = Self::builder(Stock::V6_12).keep(true);
        let mut vm = Self::off(builder, None, String::new(), VmDir::kept(dir), turn::take());
        vm.channel = Some(channel);
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

    /// One that does not run yet.
    fn off(builder: VmBuilder, kernel: Option<Kernel>, command_line: String, dir: VmDir, turn: Turn) -> Self {
        Self {
            builder,
            kernel,
            command_line,
            channel: None,
            machine: None,
            dir,
            hello: Hello::default(),
            boot_time: Duration::ZERO,
            _turn: turn,
        }
    }

    /// Makes the disk and boots it for the first time.
    fn boot_first(builder: VmBuilder, turn: Turn) -> Result<Self> {
        let recipe = builder.recipe()?;
        let dir = VmDir::new(builder.keep)?;
        let disk = dir.path.join(DISK);
        host::step("making the guest's disk", || image::make(&recipe.borrow(), &disk))?;
        let kernel = recipe.kernel;
        let command_line = builder.command_line();
        if builder.firmware {
            host::step("making the guest's EFI system partition", || {
                let image = dir.path.join("uki.efi");
                uki::image(&kernel.image(), &command_line, &image)?;
                uki::partition(&image, &dir.path.join(PARTITION))
            })?;
        }
        let mut vm = Self::off(builder, Some(kernel), command_line, dir, turn);
        vm.boot(&vm.dir.path.join(DISK), None)?;
        Ok(vm)
    }

    /// Restores a guest from its snapshot, which is made where there is none. One that is broken is made once
    /// more.
    fn restore(builder: &VmBuilder, turn: &Turn) -> Result<Self> {
        let recipe = builder.recipe_for_boot()?;
        let command_line = builder.command_line();
        let off = |builder: VmBuilder| -> Result<Self> {
            let kernel = Some(recipe.kernel.clone());
            let dir = VmDir::new(false)?;
            Ok(Self::off(
                builder,
                kernel,
                command_line.clone(),
                dir,
                turn.clone(),
            ))
        };
        let mut vm = off(builder.clone())?;
        let wanted = Wanted {
            recipe: recipe.borrow(),
            command_line: &command_line,
            memory_mib: builder.memory_mib,
            cpus: builder.cpus,
        };
        let to_save = |parts: &Parts<'_>| {
            let mut saved = off(builder.clone().persistent(true))?;
            let hardware = Saved {
                initrd: parts.initrd,
                additions: parts.additions,
                state: None,
            };
            saved.boot(parts.disk, Some(hardware))?;
            Ok(saved)
        };
        let additions = vm.dir.path.join("additions.img");
        image::archive(&builder.later_additions(), &additions, ADDITIONS_BYTES)?;
        let snapshot = Snapshot::provide(&wanted, to_save)?;
        if let Err(error) = vm.resume(&snapshot, &additions) {
            eprintln!("a snapshot cannot be restored and is made again: {error:#}");
            snapshot.discard()?;
            vm.resume(&Snapshot::provide(&wanted, to_save)?, &additions)?;
        }
        Ok(vm)
    }

    /// Starts a machine with the state of a snapshot, and tells the guest what it cannot know.
    fn resume(&mut self, snapshot: &Snapshot, additions: &Path) -> Result<()> {
        let (initrd, state) = (snapshot.initrd(), snapshot.state());
        let saved = Saved {
            initrd: &initrd,
            additions,
            state: Some(&state),
        };
        self.boot(&snapshot.disk(), Some(saved))
    }

    /// Connects to a guest that goes on where it was saved, and takes its greeting.
    fn wake(&self, machine: &mut Machine) -> Result<(Channel, Hello)> {
        let deadline = Instant::now() + RESTORE;
        let channel = loop {
            self.is_running(machine)?;
            if let Ok((channel, _)) = Channel::connect(&self.dir.path.join(qemu::CHANNEL)) {
                break channel;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut greeting = |op: Op| -> Result<Hello> {
            let answers = channel.ask(op)?;
            loop {
                self.is_running(machine)?;
                match answers.next(Instant::now() + Duration::from_millis(200)) {
                    Ok(Some(Body::Hello(hello))) => return Ok(hello),
                    Ok(Some(other)) => bail!("the guest answered {other:?} in place of a greeting"),
                    Ok(None) if Instant::now() > deadline => {
                        bail!("the guest did not go on within {} s", RESTORE.as_secs())
                    }
                    Ok(None) => {}
                    Err(error) => return Err(error),
                }
            }
        };
        // Once it answers it runs, and the time that it is sent then is right.
        greeting(Op::Hello)?;
        let mut entropy = [0; 64];
        rand_core::OsRng.fill_bytes(&mut entropy);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let hello = greeting(Op::Restored {
            now_ns: u64::try_from(now.as_nanos())?,
            entropy: vm_protocol::Bytes(entropy.to_vec()),
        })?;
        Ok((channel, hello))
    }

    /// What the guest's init said when it was ready.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Time from QEMU's start until the guest took commands: booted, or restored.
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

    /// The software TPM's process id; `None` after [`Vm::attach`], and without a TPM.
    pub fn tpm_pid(&self) -> Option<u32> {
        self.machine.as_ref().and_then(Machine::tpm_pid)
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
        Command::new(self, argv)
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

    /// From its next start on the machine has a TPM, or none.
    pub fn set_tpm(&mut self, yes: bool) {
        self.builder.tpm = yes;
    }

    /// Reboots: the TPM keeps its state and sees a reset; the disk is as it was at first unless it is
    /// persistent.
    ///
    /// # Errors
    /// When the guest does not come up again in time.
    pub fn reboot(&mut self) -> Result<()> {
        self.refuse_if_restored()?;
        // No answer comes; QEMU's end is the sign.
        let _answers = self.ask(Op::Reboot)?;
        self.restart(true)
    }

    /// Cuts the power and starts again: no shutdown, no sync.
    ///
    /// # Errors
    /// When the guest does not come up again in time.
    pub fn power_cycle(&mut self) -> Result<()> {
        self.refuse_if_restored()?;
        self.restart(false)
    }

    /// Jumps into the kernel that was loaded for it: the machine, its TPM and its disk go on as they are.
    ///
    /// # Errors
    /// When no kernel was loaded, or the new one does not come up in time.
    pub fn kexec(&mut self) -> Result<()> {
        self.refuse_if_restored()?;
        let channel = self.channel.as_ref().context("the guest is not up")?;
        // QEMU's end of the channel stays connected, so the new guest greets on the same connection.
        let greeting = channel.greeting();
        let _answers = self.ask(Op::Kexec)?;
        let up = host::step("starting another kernel by kexec", || {
            self.answer(&greeting, Instant::now() + PATIENCE)
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
        let _answers = self.ask(Op::PowerOff)?;
        let by_itself = match &mut self.machine {
            Some(machine) => machine.wait(PATIENCE)?,
            None => self.dir.wait_for_owner(PATIENCE),
        };
        if !by_itself {
            let seconds = PATIENCE.as_secs();
            return Err(self.with_console(anyhow!("the guest did not power off within {seconds} s")));
        }
        self.dir.keep = false;
        Ok(())
    }

    /// There is no disk of its own to start from, and what it would show is what it never did.
    fn refuse_if_restored(&self) -> Result<()> {
        if self.hello.restored {
            bail!(
                "a guest that was restored starts no second time; hint: a test that does so boots its guest"
            );
        }
        Ok(())
    }

    /// Waits until QEMU has ended by itself.
    pub(crate) fn wait_for_end(&mut self, time: Duration) -> Result<()> {
        let machine = self
            .machine
            .as_mut()
            .context("the guest's processes are not known")?;
        if !machine.wait(time)? {
            bail!("QEMU did not end within {} s", time.as_secs());
        }
        Ok(())
    }

    fn restart(&mut self, in_order: bool) -> Result<()> {
        let mut machine = self
            .machine
            .take()
            .context("only the process that started a guest can restart it")?;
        let time = if in_order { PATIENCE } else { Duration::ZERO };
        let by_itself = machine.wait(time)?;
        drop(machine);
        self.channel = None;
        if in_order && !by_itself {
            let seconds = PATIENCE.as_secs();
            return Err(self.with_console(anyhow!("the guest did not go down within {seconds} s")));
        }
        self.boot(&self.dir.path.join(DISK), None)
    }

    fn boot(&mut self, disk: &Path, saved: Option<Saved<'_>>) -> Result<()> {
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
            disk,
            memory_mib: self.builder.memory_mib,
            cpus: self.builder.cpus,
            tpm: self.builder.tpm,
            persistent: self.builder.persistent,
            keep: self.builder.keep,
            saved,
        })?;
        self.dir.record(machine.pid())?;
        let is_restored = saved.is_some_and(|saved| saved.state.is_some());
        let what = if is_restored {
            "restoring a guest of"
        } else {
            "booting"
        };
        let up = host::step(&format!("{what} Linux {}", self.builder.stock), || {
            if is_restored {
                self.wake(&mut machine)
            } else {
                self.wait_for_greeting(&mut machine)
            }
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

    /// Takes QEMU's end as an error.
    fn is_running(&self, machine: &mut Machine) -> Result<()> {
        let Some(status) = machine.ended()? else {
            return Ok(());
        };
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

    fn wait_for_greeting(&self, machine: &mut Machine) -> Result<(Channel, Hello)> {
        let deadline = Instant::now() + PATIENCE;
        let socket = self.dir.path.join(qemu::CHANNEL);
        let mut connected: Option<(Channel, Answers)> = None;
        loop {
            self.is_running(machine)?;
            if Instant::now() > deadline {
                bail!("the guest was not up after {} s", PATIENCE.as_secs());
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
