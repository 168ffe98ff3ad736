//! Real pods in a guest: containerd with runc, images made here, CRI as a kubelet speaks it; or the same
//! cgroups, overlays and processes without a runtime.
//!
//! Promises: pods have Kubernetes-shaped cgroups; containerd runs in a cgroup of the host's part of the tree;
//! whatever the runtime refuses is an error with the end of its log. Not here: which pods a scenario has.

use crate::host;
use crate::image;
use crate::oci::{self, Image};
use crate::vm::{PATIENCE, Process, Vm, VmBuilder};
use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use vm_protocol::spec::{Container, Cri, Executed, Mount, Pod, Root, RunningPod, Workload};

/// The image of every pod's sandbox.
pub const PAUSE_IMAGE: &str = "localhost/ima-cgpath/pause:1";

/// The path of the sandbox' program in its image.
pub const PAUSE_PATH: &str = "/pause";

/// Where systemd would have put containerd.
const CGROUP: &str = "/system.slice/containerd.service";
const CONFIG: &str = "/etc/containerd/config.toml";
const LOG: &str = "/var/log/containerd.log";
const IMAGES: &str = "/var/lib/images.tar";

/// containerd's configuration: a Debian node's, less the plugins that need devices of their own and delay the
/// start.
pub fn containerd_config() -> String {
    format!(
        r#"version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

/// The sandbox' image.
pub fn pause_image() -> Image {
    Image::new(PAUSE_IMAGE)
        .program(PAUSE_PATH, &vm_protocol::elf::pause("sandbox"))
        .entrypoint(&[PAUSE_PATH])
}

/// What runs the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// containerd and runc, through CRI.
    Containerd,
    /// None: cgroups and overlays made by hand, for quick rounds.
    Bare,
}

/// The container runtime of a guest.
pub struct Pods<'vm> {
    vm: &'vm Vm,
    /// `None` where there is no runtime.
    daemon: Option<Process<'vm>>,
}

/// A pod that runs, with what it was made from.
#[derive(Debug, Clone)]
pub struct Running {
    /// What it was made from.
    pub pod: Pod,
    /// What the runtime answered.
    pub ids: RunningPod,
}

impl Running {
    /// The id of the container of this name.
    fn id(&self, container: &str) -> Result<&String> {
        let at = self.pod.containers.iter().position(|c| c.name == container);
        at.and_then(|at| self.ids.containers.get(at))
            .with_context(|| format!("pod {} has no container {container}", self.pod.name))
    }
}

/// Adds to a guest's disk what `runtime` needs there: its configuration and the images.
///
/// # Errors
/// When the images cannot be packed.
pub fn prepare(builder: VmBuilder, runtime: Runtime, images: &[&Image], scratch: &Path) -> Result<VmBuilder> {
    match runtime {
        Runtime::Containerd => {
            let tar = scratch.join("images.tar");
            let pause = pause_image();
            let mut all = vec![&pause];
            all.extend(images);
            oci::write_layout(&all, &tar)?;
            Ok(builder
                .bytes(CONFIG, containerd_config(), 0o644)
                .file(IMAGES, tar, 0o644))
        }
        Runtime::Bare => {
            let dir = scratch.join("images");
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            for image in images {
                image.unpack(&dir.join(directory_name(image.name())))?;
            }
            let shim = host::guest_binary()?;
            Ok(builder.tree(BARE_IMAGES, dir).file(BARE_RUNTIME, shim, 0o755))
        }
    }
}

/// Where images lie in a guest without a container runtime.
const BARE_IMAGES: &str = "/var/lib/bare/images";
/// Where its pods write.
const BARE_PODS: &str = "/var/lib/bare/pods";

/// The program that stands in for a container runtime where there is none; a policy must name it among its
/// runtimes.
pub const BARE_RUNTIME: &str = "/usr/libexec/bare-runtime";

fn directory_name(image: &str) -> String {
    image.replace(['/', ':'], "_")
}

impl<'vm> Pods<'vm> {
    /// Starts what runs the pods, in a guest that [`prepare`] had a hand in, and waits until `images` can be
    /// used.
    ///
    /// # Errors
    /// When it does not come up or refuses an image.
    pub fn start(vm: &'vm Vm, runtime: Runtime, images: &[&Image]) -> Result<Pods<'vm>> {
        if runtime == Runtime::Bare {
            return Ok(Pods { vm, daemon: None });
        }
        let daemon = vm
            .command(&["containerd", "--config", CONFIG, "--log-level", "warn"])
            .cgroup(CGROUP)
            .spawn(LOG)?;
        let pods = Pods {
            vm,
            daemon: Some(daemon),
        };
        let mut expected: Vec<String> = images.iter().map(|image| image.name().to_owned()).collect();
        expected.push(PAUSE_IMAGE.to_owned());
        pods.ask(&Cri::Import {
            tar: IMAGES.to_owned(),
            expected,
        })?;
        Ok(pods)
    }

    /// Runs a pod; its containers were started when this returns.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn run(&self, pod: &Pod) -> Result<Running> {
        let ids = if self.daemon.is_some() {
            let answer = self.ask(&Cri::Run(pod.clone()))?;
            serde_json::from_slice(&answer).context("the answer to a started pod")?
        } else {
            self.run_bare(pod)?
        };
        ensure!(
            ids.containers.len() == pod.containers.len(),
            "the runtime started other containers than asked"
        );
        Ok(Running {
            pod: pod.clone(),
            ids,
        })
    }

    /// Runs a command in the container named `container`. Its failure is not an error here.
    ///
    /// # Errors
    /// When there is no such container or the runtime refuses.
    pub fn exec(&self, running: &Running, container: &str, command: &[&str]) -> Result<Executed> {
        let id = running.id(container)?;
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let answer = if self.daemon.is_some() {
            self.ask(&Cri::Exec {
                container: id.clone(),
                command,
            })?
        } else {
            let pid = self.bare_pid(id)?;
            let cgroup = format!("{}/{id}", running.pod.cgroup_parent);
            let work = Workload::Enter {
                pid,
                cgroup,
                argv: command,
            };
            let text = serde_json::to_string(&work)?;
            self.vm
                .command(&[BARE_RUNTIME, "workload", text.as_str()])
                .timeout(PATIENCE)
                .run()?
                .check()?
                .stdout
        };
        serde_json::from_slice(&answer).context("the answer to an executed command")
    }

    /// The process id of a container's first process, where no runtime knows it.
    ///
    /// # Errors
    /// When there is no such container, or a runtime has it.
    pub fn pid(&self, running: &Running, container: &str) -> Result<u32> {
        ensure!(self.daemon.is_none(), "containerd alone knows its containers");
        self.bare_pid(running.id(container)?)
    }

    fn bare_pid(&self, id: &str) -> Result<u32> {
        let text = self.vm.get_text(&format!("{BARE_PODS}/{id}/pid"))?;
        text.trim().parse().context("a process id")
    }

    /// As [`Pods::exec`], for a command that must succeed; gives its standard output.
    ///
    /// # Errors
    /// As [`Pods::exec`], and when the command fails, with what it said.
    pub fn must(&self, running: &Running, container: &str, command: &[&str]) -> Result<String> {
        let done = self.exec(running, container, command)?;
        ensure!(
            done.code == 0,
            "`{}` in pod {} exited with {}: {}{}",
            command.join(" "),
            running.pod.name,
            done.code,
            done.stdout,
            done.stderr
        );
        Ok(done.stdout)
    }

    /// Stops a pod and removes it; its cgroups go as well.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn remove(&self, running: &Running) -> Result<()> {
        if self.daemon.is_some() {
            return self
                .ask(&Cri::Remove {
                    sandbox: running.ids.sandbox.clone(),
                })
                .map(drop);
        }
        for id in &running.ids.containers {
            let cgroup = format!("{}/{id}", running.pod.cgroup_parent);
            // A process may end by itself before it is killed. The cgroup can be removed when its last
            // process was waited for; until then the kernel says EBUSY.
            self.vm.sh(&format!(
                "for p in $(cat /sys/fs/cgroup{cgroup}/cgroup.procs); do kill -9 $p 2>/dev/null || true; done
                 n=0; until rmdir /sys/fs/cgroup{cgroup}; do n=$((n+1)); [ $n -lt 5000 ]; sleep 0.1; done
                 rm -r {BARE_PODS}/{id}"
            ))?;
        }
        self.vm
            .sh(&format!("rmdir /sys/fs/cgroup{}", running.pod.cgroup_parent))
            .map(drop)
    }

    fn run_bare(&self, pod: &Pod) -> Result<RunningPod> {
        let mut containers = Vec::new();
        for container in &pod.containers {
            // An id of the form that runtimes give.
            let id = hex::encode(Sha256::digest(format!("{}/{}", pod.uid, container.name)));
            let state = format!("{BARE_PODS}/{id}");
            let work = Workload::Contain {
                cgroup: format!("{}/{id}", pod.cgroup_parent),
                argv: container.command.clone(),
                root: Some(Root {
                    lower: format!("{BARE_IMAGES}/{}", directory_name(&container.image)),
                    state: state.clone(),
                    mounts: container.mounts.clone(),
                }),
            };
            let text = serde_json::to_string(&work)?;
            let log = format!("{state}.log");
            let shim = self
                .vm
                .command(&[BARE_RUNTIME, "workload", text.as_str()])
                .cgroup("/system.slice/bare-runtime.service")
                .spawn(&log)?;
            let begin = Instant::now();
            while !self
                .vm
                .get_text(&format!("{state}/pid"))
                .is_ok_and(|text| text.ends_with('\n'))
            {
                if begin.elapsed() > PATIENCE || shim.wait(Duration::ZERO)?.is_some() {
                    bail!(
                        "container {} of pod {} did not start: {}",
                        container.name,
                        pod.name,
                        shim.log()?
                    );
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            containers.push(id);
        }
        Ok(RunningPod {
            sandbox: String::new(),
            containers,
        })
    }

    fn ask(&self, request: &Cri) -> Result<Vec<u8>> {
        let text = serde_json::to_string(request)?;
        let output = self
            .vm
            .command(&["guest", "cri", text.as_str()])
            .timeout(PATIENCE)
            .run()?;
        match output.check() {
            Ok(output) => Ok(output.stdout),
            Err(error) => {
                let log = self
                    .daemon
                    .as_ref()
                    .and_then(|daemon| daemon.log().ok())
                    .unwrap_or_default();
                Err(error.context(format!("containerd's log ends with:\n{}", host::tail(&log, 12))))
            }
        }
    }
}

/// A container of a pod; `command` may be empty for the image's own.
pub fn container(name: &str, image: &Image, command: &[&str]) -> Container {
    Container {
        name: name.to_owned(),
        image: image.name().to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        mounts: Vec::new(),
    }
}

/// A directory of the host in a container, at the same path, read-only.
pub fn host_path(path: &str) -> Mount {
    Mount {
        host: path.to_owned(),
        container: path.to_owned(),
        read_only: true,
    }
}

/// What runc runs and maps while it sets a container up: itself and what it is linked with, by their real
/// paths in the guest's root file system.
pub(crate) fn runc_files(root: &Path) -> Result<Vec<String>> {
    const RUNC: &str = "/usr/sbin/runc";
    const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
    const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
    // Links are followed as the guest would: some lead to absolute paths.
    let real = |guest: &str| image::resolve(root, guest);
    let inside = |path: &Path| -> Result<String> {
        let inside = path.strip_prefix(root).ok().and_then(Path::to_str);
        Ok(format!(
            "/{}",
            inside.with_context(|| format!("{} is not in the guest's root", path.display()))?
        ))
    };
    // The guest's own loader lists what it would map; nothing of runc runs.
    let (runc, loader) = (real(RUNC)?, real(LOADER)?);
    let mut list = Command::new(&loader);
    list.arg("--library-path")
        .arg(real(LIBRARIES)?)
        .arg("--list")
        .arg(&runc);
    let listed = host::output(&mut list)?;
    let mut files = vec![inside(&runc)?, inside(&loader)?];
    for line in String::from_utf8_lossy(&listed).lines() {
        // `libc.so.6 => /path/libc.so.6 (0x…)`; the vDSO has no arrow.
        if let Some(path) = line
            .split_once("=> ")
            .and_then(|(_, rest)| rest.split(" (").next())
        {
            let file = inside(&real(&inside(Path::new(path))?)?)?;
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}
