//! What a guest does as PID 1: mounts, the IMA policy, control groups, modules, network, and reaping.
//!
//! Promises: the IMA policy is loaded before anything else is executed; a step that fails is reported to the
//! host in the greeting, never hidden; processes are reaped here only when their parents are gone, since
//! commands are started by a child process (`channel`) that waits for its own. Not here: the commands.

#![allow(unsafe_code, reason = "PID 1 forks")]

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, fork};
use vm_protocol::Hello;

use crate::{channel, initrd};

/// `PATH` of everything that is started in a guest.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Modules that guests need: overlay for containers, loop for the checkpoints' file system, network card, and
/// the port of the command channel.
const MODULES: &[&str] = &["overlay", "loop", "virtio_pci", "virtio_net", "virtio_console"];

/// Seconds since the kernel's start.
pub(crate) fn uptime() -> f64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}

/// Runs as PID 1; ends only with the machine.
pub(crate) fn run() -> ! {
    if Path::new(vm_protocol::INITRD_MODULES).is_dir() {
        let error = initrd::run();
        eprintln!("guest: from the initramfs to the root file system: {error:#}");
        shut_down(RebootMode::RB_POWER_OFF);
    }
    let mut init = Init {
        hello: Hello {
            version: vm_protocol::VERSION,
            init_started: uptime(),
            ..Hello::default()
        },
    };
    init.mount_first();
    init.load_ima_policy();
    init.mount_rest();
    init.mount_cgroups();
    init.set_hostname();
    init.load_modules();
    init.start_network();
    init.hello.kernel = init.line("/proc/sys/kernel/osrelease");
    init.hello.boot_id = init.line("/proc/sys/kernel/random/boot_id");
    for failure in &init.hello.failures {
        eprintln!("guest: {failure}");
    }
    // SAFETY: no other thread has been started, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let error = channel::serve(init.hello);
            eprintln!("guest: the command channel ended: {error}");
            std::process::exit(1);
        }
        Ok(ForkResult::Parent { child }) => loop {
            match wait() {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == child => {
                    eprintln!("guest: nothing more can be asked of this guest; it powers off");
                    shut_down(RebootMode::RB_POWER_OFF);
                }
                // An orphan is gone; or the wait was interrupted.
                _ => {}
            }
        },
        Err(error) => {
            eprintln!("guest: fork: {error}");
            shut_down(RebootMode::RB_POWER_OFF);
        }
    }
}

/// Serves the command channel under another init, which has mounted what it wants; ends only with the
/// channel.
pub(crate) fn agent() -> ! {
    let mut init = Init {
        hello: Hello {
            version: vm_protocol::VERSION,
            init_started: uptime(),
            cgroup: "v2".to_owned(),
            ..Hello::default()
        },
    };
    init.load_modules();
    init.start_network();
    init.hello.kernel = init.line("/proc/sys/kernel/osrelease");
    init.hello.boot_id = init.line("/proc/sys/kernel/random/boot_id");
    let error = channel::serve(init.hello);
    eprintln!("guest: the command channel ended: {error}");
    std::process::exit(1);
}

/// Ends all processes, writes everything to disk, and powers off, reboots or starts the kernel that was
/// loaded.
pub(crate) fn shut_down(mode: RebootMode) -> ! {
    use nix::sys::signal::{Signal, kill};
    let everyone = nix::unistd::Pid::from_raw(-1);
    // That nobody is left to be ended is no error here, nor below.
    let _ = kill(everyone, Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(200));
    let _ = kill(everyone, Signal::SIGKILL);
    nix::unistd::sync();
    // A file system that stays writable was synced above.
    let _ = mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        None::<&str>,
    );
    let Err(error) = reboot(mode);
    eprintln!("guest: reboot: {error}");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

struct Init {
    hello: Hello,
}

impl Init {
    fn failed(&mut self, what: &str, why: impl std::fmt::Display) {
        self.hello.failures.push(format!("{what}: {why}"));
    }

    fn mount(&mut self, source: &str, target: &str, kind: &str, flags: MsFlags, options: &str) {
        if let Err(error) = fs::create_dir_all(target) {
            self.failed(&format!("making {target}"), error);
        }
        let options = (!options.is_empty()).then_some(options);
        match mount(Some(source), target, Some(kind), flags, options) {
            // The kernel mounts devtmpfs by itself.
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(error) => self.failed(&format!("mounting {kind} on {target}"), error),
        }
    }

    fn line(&mut self, path: &str) -> String {
        match fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                self.failed(&format!("reading {path}"), error);
                String::new()
            }
        }
    }

    fn parameter(&mut self, name: &str) -> Option<String> {
        let line = self.line("/proc/cmdline");
        line.split_whitespace()
            .find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    /// What loading the policy needs.
    fn mount_first(&mut self) {
        let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        self.mount("proc", "/proc", "proc", restricted, "");
        self.mount("sysfs", "/sys", "sysfs", restricted, "");
        self.mount("securityfs", "/sys/kernel/security", "securityfs", restricted, "");
        self.mount("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755");
    }

    /// By path: the kernel reads the file itself then, and measures it.
    fn load_ima_policy(&mut self) {
        let path = self
            .parameter(vm_protocol::IMA_POLICY_PARAMETER)
            .unwrap_or_else(|| vm_protocol::IMA_POLICY_PATH.to_owned());
        if !Path::new(&path).exists() {
            return;
        }
        let interface = "/sys/kernel/security/ima/policy";
        match fs::OpenOptions::new()
            .write(true)
            .open(interface)
            .and_then(|mut file| file.write_all(path.as_bytes()))
        {
            Ok(()) => self.hello.ima_policy = Some(path),
            Err(error) => self.failed(&format!("loading the IMA policy {path}"), error),
        }
    }

    fn mount_rest(&mut self) {
        let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let memory = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        self.mount(
            "devpts",
            "/dev/pts",
            "devpts",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            "gid=5,mode=620,ptmxmode=666",
        );
        self.mount("tmpfs", "/dev/shm", "tmpfs", memory, "mode=1777");
        self.mount("bpf", "/sys/fs/bpf", "bpf", restricted, "mode=700");
        self.mount("tracefs", "/sys/kernel/tracing", "tracefs", restricted, "");
        self.mount("tmpfs", "/run", "tmpfs", memory, "mode=755");
        self.mount("tmpfs", "/tmp", "tmpfs", memory, "mode=1777");
        for (link, target) in [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
        ] {
            match symlink(target, link) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    self.failed(&format!("linking {link}"), error)
                }
                _ => {}
            }
        }
        if let Err(error) = fs::create_dir_all("/run/lock") {
            self.failed("making /run/lock", error);
        }
    }

    fn mount_cgroups(&mut self) {
        let mode = self
            .parameter(vm_protocol::CGROUP_PARAMETER)
            .unwrap_or_else(|| "v2".to_owned());
        match mode.as_str() {
            "v2" => self.mount_unified(CGROUPS, true),
            "v1" | "hybrid" => {
                let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                self.mount("tmpfs", CGROUPS, "tmpfs", restricted, "mode=755");
                for controller in self.controllers() {
                    self.mount_v1(&controller, &controller);
                }
                self.mount_v1("systemd", "none,name=systemd");
                // New groups of processors start with their parent's, else nothing could enter them.
                let clone = format!("{CGROUPS}/cpuset/cgroup.clone_children");
                if Path::new(&clone).exists()
                    && let Err(error) = fs::write(&clone, "1")
                {
                    self.failed(&clone, error);
                }
                if mode == "hybrid" {
                    self.mount_unified(&format!("{CGROUPS}/unified"), false);
                }
            }
            other => self.failed(
                vm_protocol::CGROUP_PARAMETER,
                format!("`{other}` is none of v2, v1, hybrid"),
            ),
        }
        self.hello.cgroup = mode;
    }

    fn mount_v1(&mut self, name: &str, options: &str) {
        let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let target = format!("{CGROUPS}/{name}");
        let result = fs::create_dir_all(&target)
            .map_err(|error| error.to_string())
            .and_then(|()| {
                match mount(
                    Some("cgroup"),
                    target.as_str(),
                    Some("cgroup"),
                    restricted,
                    Some(options),
                ) {
                    // Newer kernels may offer memory and cpuset to version 2 only.
                    Err(nix::Error::EINVAL) => fs::remove_dir(&target).map_err(|error| error.to_string()),
                    other => other.map_err(|error| error.to_string()),
                }
            });
        if let Err(error) = result {
            self.failed(&format!("mounting {target}"), error);
        }
    }

    fn mount_unified(&mut self, target: &str, delegate_controllers: bool) {
        let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        self.mount(
            "cgroup2",
            target,
            "cgroup2",
            restricted,
            "nsdelegate,memory_recursiveprot",
        );
        if delegate_controllers {
            let available = self.line(&format!("{target}/cgroup.controllers"));
            for controller in available.split_whitespace() {
                if let Err(error) = fs::write(
                    format!("{target}/cgroup.subtree_control"),
                    format!("+{controller}"),
                ) {
                    self.failed(&format!("passing the controller {controller} on"), error);
                }
            }
        }
    }

    /// The version 1 controllers of this kernel.
    fn controllers(&mut self) -> Vec<String> {
        let table = match fs::read_to_string("/proc/cgroups") {
            Ok(table) => table,
            Err(error) => {
                self.failed("reading /proc/cgroups", error);
                return Vec::new();
            }
        };
        table
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields.len() == 4 && fields[3] == "1").then(|| fields[0].to_owned())
            })
            .collect()
    }

    fn set_hostname(&mut self) {
        let name = self.line("/etc/hostname");
        if let Err(error) = nix::unistd::sethostname(&name) {
            self.failed("setting the host name", error);
        }
    }

    fn load_modules(&mut self) {
        self.execute("modprobe", &["-a"], MODULES, "");
    }

    /// Addresses of QEMU's user-mode network: the host answers at 10.0.2.2.
    fn start_network(&mut self) {
        let deadline = Instant::now() + channel::PATIENCE;
        while !Path::new("/sys/class/net/eth0").exists() {
            if Instant::now() > deadline {
                self.failed("network", "eth0 did not appear");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let commands = "link set lo up\n\
            address add 10.0.2.15/24 dev eth0\n\
            link set eth0 up\n\
            route add default via 10.0.2.2\n";
        self.execute("ip", &["-batch", "-"], &[], commands);
    }

    fn execute(&mut self, program: &str, options: &[&str], arguments: &[&str], input: &str) {
        let run = || {
            let mut child = Command::new(program)
                .args(options)
                .args(arguments)
                .env_clear()
                .env("PATH", PATH)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes())?;
            }
            child.wait_with_output()
        };
        match run() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
                    .trim()
                    .replace('\n', "; ");
                self.failed(program, format!("{}: {said}", output.status));
            }
            Err(error) => self.failed(program, error),
        }
    }
}
