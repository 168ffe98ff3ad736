//! The processes behind a guest: one software TPM and one QEMU, started and ended by their process ids.
//!
//! Promises: both die with the process that started them, however it ends (unless they are to be kept); the
//! TPM's state lies in the guest's own directory. Not here: what is on the disk, what is said to the guest.

#![allow(unsafe_code, reason = "what is done between fork and exec")]

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{PATIENCE, host};

/// How a machine is put together.
pub(crate) struct Hardware<'a> {
    pub dir: &'a Path,
    pub boot: Boot<'a>,
    pub disk: &'a Path,
    pub memory_mib: u32,
    pub cpus: u32,
    /// Whether it has a TPM.
    pub tpm: bool,
    /// Writes go to the disk file (else they are forgotten at the end).
    pub persistent: bool,
    /// The processes outlive this one.
    pub keep: bool,
    /// QEMU can save it and restore it: other disks, for it saves none of NVMe.
    pub saved: Option<Saved<'a>>,
}

/// What a machine that can be saved and restored has in addition.
#[derive(Clone, Copy)]
pub(crate) struct Saved<'a> {
    /// Has the modules for the disks.
    pub initrd: &'a Path,
    /// The second disk, read-only.
    pub additions: &'a Path,
    /// What it is restored from; `None` boots it, and has a monitor at [`MONITOR`].
    pub state: Option<&'a Path>,
}

/// What starts the kernel.
pub(crate) enum Boot<'a> {
    /// QEMU puts it into memory; its firmware measures nothing of it.
    Direct { kernel: &'a Path, command_line: &'a str },
    /// UEFI firmware loads it from this EFI system partition, and measures it.
    Firmware { partition: &'a Path },
}

/// Names of files in a guest's directory.
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const CHANNEL: &str = "channel.sock";
pub(crate) const MONITOR: &str = "monitor.sock";

/// UEFI firmware with support for TPM 2.0, of Debian's package ovmf.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its variables before the first boot.
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// A machine that runs.
pub(crate) struct Machine {
    qemu: Child,
    swtpm: Option<Child>,
    keep: bool,
}

impl Machine {
    pub(crate) fn start(hardware: &Hardware<'_>) -> Result<Self> {
        let dir = hardware.dir;
        let swtpm = if hardware.tpm {
            Some(start_tpm(dir, hardware.keep)?)
        } else {
            None
        };
        // From here on an early return must not leave the TPM running.
        let mut guard = Guard(swtpm);
        let mut command = Command::new(host::tool("qemu-system-x86_64", "qemu-system-x86")?);
        let mut accelerator = host::accelerator();
        if accelerator == "tcg" {
            // Of QEMU 7.2's threads, one executes what it translated before the kernel patched itself in
            // another: `Oops: int3` at boot, seen with 6.12 and 7.3. One thread emulates two processors no
            // slower.
            accelerator.push_str(",thread=single");
        }
        let snapshot = if hardware.persistent { "off" } else { "on" };
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args([
                "-machine",
                "q35,vmport=off",
                "-accel",
                &accelerator,
                "-cpu",
                "max",
            ])
            .args([
                "-smp",
                &hardware.cpus.to_string(),
                "-m",
                &hardware.memory_mib.to_string(),
            ])
            .args(start_of(hardware)?)
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=none,id=disk,snapshot={snapshot}",
                escaped(hardware.disk)
            ))
            .args(disks_of(hardware))
            .args(tpm_of(hardware))
            .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,path={},append=on",
                escaped(&dir.join(CONSOLE))
            ))
            .args(["-serial", "chardev:console"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=channel,path={},server=on,wait=off",
                escaped(&dir.join(CHANNEL))
            ))
            .args(["-device", "virtio-serial-pci", "-device"])
            .arg(format!(
                "virtserialport,chardev=channel,name={}",
                vm_protocol::PORT
            ))
            .env("TMPDIR", dir);
        let qemu = launch(command, &dir.join("qemu.log"), hardware.keep).context("starting QEMU")?;
        let swtpm = guard.0.take();
        Ok(Self {
            qemu,
            swtpm,
            keep: hardware.keep,
        })
    }

    /// The QEMU process.
    pub(crate) fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// The software TPM's process, if it has one.
    pub(crate) fn tpm_pid(&self) -> Option<u32> {
        self.swtpm.as_ref().map(Child::id)
    }

    /// Whether QEMU ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.qemu.try_wait().context("asking for QEMU's end")
    }

    /// Waits for both processes to end by themselves; kills them when they do not.
    ///
    /// Returns whether QEMU ended by itself.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<bool> {
        let deadline = Instant::now() + time;
        let mut by_itself = true;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                by_itself = false;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        end(&mut self.qemu, Duration::ZERO);
        // It ends when QEMU closes the connection, after it wrote its state.
        if let Some(swtpm) = &mut self.swtpm {
            end(swtpm, Duration::from_secs(60));
        }
        Ok(by_itself)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.keep {
            end(&mut self.qemu, Duration::ZERO);
            if let Some(swtpm) = &mut self.swtpm {
                end(swtpm, Duration::from_secs(2));
            }
        }
    }
}

/// The arguments for the TPM.
fn tpm_of(hardware: &Hardware<'_>) -> Vec<String> {
    if !hardware.tpm {
        return Vec::new();
    }
    vec![
        "-chardev".to_owned(),
        format!("socket,id=tpm,path={}", escaped(&hardware.dir.join("tpm.sock"))),
        "-tpmdev".to_owned(),
        "emulator,id=tpm0,chardev=tpm".to_owned(),
        "-device".to_owned(),
        "tpm-crb,tpmdev=tpm0".to_owned(),
    ]
}

/// The arguments for what the disk is attached to, and for restoring.
fn disks_of(hardware: &Hardware<'_>) -> Vec<OsString> {
    let Some(saved) = hardware.saved else {
        return ["-device", "nvme,drive=disk,serial=root"]
            .map(OsString::from)
            .to_vec();
    };
    let mut arguments: Vec<OsString> = vec![
        "-initrd".into(),
        saved.initrd.into(),
        "-device".into(),
        "virtio-blk-pci,drive=disk".into(),
        "-drive".into(),
        format!(
            "file={},format=raw,if=none,id=additions,readonly=on",
            escaped(saved.additions)
        )
        .into(),
        "-device".into(),
        "virtio-blk-pci,drive=additions".into(),
    ];
    match saved.state {
        // By a program: QEMU 7.2 reads no file by itself.
        Some(state) => arguments.extend(["-incoming".into(), format!("exec:cat {}", quoted(state)).into()]),
        None => arguments.extend([
            "-qmp".into(),
            format!("unix:{},server=on,wait=off", escaped(&hardware.dir.join(MONITOR))).into(),
        ]),
    }
    arguments
}

/// A path as one word of a shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// The arguments that tell QEMU what starts the kernel.
fn start_of(hardware: &Hardware<'_>) -> Result<Vec<OsString>> {
    let partition = match hardware.boot {
        Boot::Direct { kernel, command_line } => {
            return Ok(vec![
                "-kernel".into(),
                kernel.into(),
                "-append".into(),
                command_line.into(),
            ]);
        }
        Boot::Firmware { partition } => partition,
    };
    let firmware = host::existing(OVMF_CODE.into(), "apt-get install ovmf")?;
    // Its variables are its own, and outlive a reset as on a machine.
    let variables = hardware.dir.join("variables.fd");
    if !variables.exists() {
        let template = host::existing(OVMF_VARIABLES.into(), "apt-get install ovmf")?;
        std::fs::copy(&template, &variables).with_context(|| format!("copying {}", template.display()))?;
    }
    let drive = |path: &Path, options: &str| format!("file={},format=raw,{options}", escaped(path));
    let arguments = [
        "-drive".to_owned(),
        drive(&firmware, "if=pflash,unit=0,readonly=on"),
        "-drive".to_owned(),
        drive(&variables, "if=pflash,unit=1"),
        "-drive".to_owned(),
        drive(partition, "if=none,id=esp,readonly=on"),
        "-device".to_owned(),
        "virtio-blk-pci,drive=esp,bootindex=0".to_owned(),
    ];
    Ok(arguments.map(OsString::from).to_vec())
}

/// Ends a process when it is dropped.
pub(crate) struct Guard(pub(crate) Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child, Duration::ZERO);
        }
    }
}

/// Waits for a child, then asks it to end, then kills it.
fn end(child: &mut Child, patience: Duration) {
    let mut deadline = Instant::now() + patience;
    let mut asked = false;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            // Ended, or not ours to wait for any more.
            Ok(Some(_)) | Err(_) => return,
        }
        if Instant::now() >= deadline {
            if asked {
                // Both fail only when it is gone already.
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            terminate(child.id());
            asked = true;
            deadline = Instant::now() + Duration::from_secs(3);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks a process to end; one that is gone is what was wanted.
pub(crate) fn terminate(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// A software TPM whose state, log and socket (`tpm.sock`) lie in a directory.
pub(crate) fn start_tpm(dir: &Path, keep: bool) -> Result<Child> {
    let state = dir.join("tpm");
    std::fs::create_dir_all(&state).with_context(|| format!("making {}", state.display()))?;
    let socket = dir.join("tpm.sock");
    if socket.exists() {
        std::fs::remove_file(&socket).with_context(|| format!("removing the old {}", socket.display()))?;
    }
    let mut command = Command::new(host::tool("swtpm", "swtpm")?);
    command
        .args(["socket", "--tpm2", "--terminate", "--flags", "startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={},mode=0600", state.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()));
    let log = dir.join("swtpm.log");
    let mut child = launch(command, &log, keep).context("starting the software TPM")?;
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        let ended = child.try_wait().context("asking for swtpm's end")?;
        if ended.is_some() || Instant::now() > deadline {
            end(&mut child, Duration::ZERO);
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the software TPM did not come up:\n{}", host::tail(&said, 10));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// A comma ends an option's value in QEMU; doubled it is a comma.
pub(crate) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

type Launch = (Command, bool, mpsc::Sender<std::io::Result<Child>>);

/// Starts a child in a process group of its own, from one thread that lives as long as this process.
///
/// The kernel kills the child when the *thread* that made it ends: a test's own thread would be the wrong
/// one.
pub(crate) fn launch(mut command: Command, log: &Path, keep: bool) -> Result<Child> {
    static LAUNCHER: OnceLock<mpsc::Sender<Launch>> = OnceLock::new();
    let output = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let launcher = LAUNCHER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Launch>();
        std::thread::spawn(move || {
            for (mut command, keep, answer) in requests {
                if !keep {
                    let parent = std::process::id();
                    // SAFETY: between fork and exec only two system calls are made, both async-signal-safe,
                    // and no memory is allocated.
                    unsafe {
                        command.pre_exec(move || {
                            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                            // The parent may have died before the line above.
                            if nix::unistd::getppid().as_raw().cast_unsigned() != parent {
                                return Err(std::io::ErrorKind::BrokenPipe.into());
                            }
                            Ok(())
                        });
                    }
                }
                // Nobody waits for the answer only if the asking thread is gone, and then the child is of no
                // use.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    let program = PathBuf::from(command.get_program());
    launcher
        .send((command, keep, answer))
        .ok()
        .context("the launching thread is gone")?;
    child
        .recv()
        .context("the launching thread is gone")?
        .with_context(|| format!("starting {}", program.display()))
}
