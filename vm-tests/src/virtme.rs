//! A guest of virtme-ng: a kernel of ours on this machine's own root file system, with a software TPM.
//!
//! Promises: what the guest writes outside of the shared directory is forgotten; nothing is left running when
//! a run ends or its time is over. Not here: kernels that cannot be booted so (stock ones have 9p as a
//! module), tests.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::host;
use crate::kernel::Kernel;
use crate::qemu::{self, Guard};
use crate::turn;

/// Names in the shared directory.
const SCRIPT: &str = "inside";
const STATUS: &str = "status";

/// How a run in a guest ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status of the script.
    pub code: i32,
    /// What the script printed.
    pub output: String,
}

/// Boots a kernel under the program `vng` and runs a script of `/bin/sh` in it as root; `shared` is the same
/// directory inside.
///
/// # Errors
/// When virtme-ng is not there, or the guest does not come to the script's end in this time: with what it
/// said.
pub fn run(
    vng: &Path,
    kernel: &Kernel,
    ima: &str,
    script: &str,
    shared: &Path,
    time: Duration,
) -> Result<Ran> {
    let _turn = turn::take();
    let begin = Instant::now();
    let own = tempfile::tempdir().context("making a temporary directory")?;
    let _tpm = Guard(Some(qemu::start_tpm(own.path(), false)?));
    let inside = shared.join(SCRIPT);
    let (output, status) = (shared.join("output"), shared.join(STATUS));
    for old in [&output, &status] {
        if old.exists() {
            std::fs::remove_file(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    let text = format!(
        "#!/bin/sh\n(\n{script}\n) >{} 2>&1 </dev/null\necho $? >{}\nsync\n",
        qemu::quoted(&output),
        qemu::quoted(&status)
    );
    std::fs::write(&inside, text).with_context(|| format!("writing {}", inside.display()))?;
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(vng);
    command
        .arg("--run")
        .arg(kernel.image())
        // With one processor QEMU 7.2's emulation does not patch code under another one's feet.
        .args(["--cpus", "1", "--memory", "1G", "--user", "root"])
        .args(["--disable-microvm", "--force-9p", "--disable-monitor"])
        .arg("--rwdir")
        .arg(shared)
        .arg("--cwd")
        .arg(shared)
        .args(["--append", ima])
        .arg(format!(
            "--qemu-opts=-cpu max -chardev socket,id=tpm,path={} -tpmdev emulator,id=tpm0,chardev=tpm \
             -device tpm-crb,tpmdev=tpm0",
            qemu::escaped(&own.path().join("tpm.sock"))
        ));
    if host::accelerator() != "kvm" {
        command.arg("--disable-kvm");
    }
    command.arg("--exec").arg(qemu::quoted(&inside));
    // vng starts the program virtme-run, which lies beside it.
    let mut paths: Vec<PathBuf> = vng.parent().map(Path::to_path_buf).into_iter().collect();
    paths.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    command.env("PATH", std::env::join_paths(paths)?);
    let log = own.path().join("vng.log");
    let mut child = qemu::launch(command, &log, false).context("starting vng")?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let ended = loop {
        if let Some(ended) = child.try_wait().context("asking for vng's end")? {
            break Some(ended);
        }
        if begin.elapsed() > time {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    // vng's children are in its group; that there are none left is what is wanted.
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
    let said = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    let Some(ended) = ended else {
        bail!(
            "the guest of vng did not end in {} s:\n{}",
            time.as_secs(),
            host::tail(&said, 30)
        );
    };
    let code = std::fs::read_to_string(&status).ok();
    let Some(code) = code.and_then(|text| text.trim().parse().ok()) else {
        bail!(
            "the guest of vng ended ({ended}) before the script did:\n{}",
            host::tail(&said, 30)
        );
    };
    let output = std::fs::read(&output).with_context(|| format!("reading {}", output.display()))?;
    Ok(Ran {
        code,
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}
