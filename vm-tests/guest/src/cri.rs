//! Real pods: speaks CRI (v1) with containerd, as a kubelet does.
//!
//! Promises: every answer is one JSON object on standard output; what fails names the call and what the
//! runtime said. No CNI: pods use the node's network. Not here: starting containerd and which pods there are
//! (the host says).

use crate::channel::PATIENCE;
use anyhow::{Context as _, Result, bail};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    ImageStatusRequest, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, SecurityProfile, StartContainerRequest, StatusRequest,
    StopPodSandboxRequest,
};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use vm_protocol::spec::{Cri, Executed, Pod, RunningPod};

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Does what the first argument, a [`Cri`] as JSON, says.
///
/// # Errors
/// When the runtime cannot be reached or refuses, with what it said.
pub fn run(arguments: &[String]) -> Result<()> {
    let text = arguments.first().context("guest cri takes one request as JSON")?;
    let request: Cri = serde_json::from_str(text).with_context(|| format!("not a request: {text}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match &request {
        Cri::Import { tar, expected } => runtime.block_on(import(tar, expected)),
        Cri::Run(pod) => print(&runtime.block_on(run_pod(pod))?),
        Cri::Exec { container, command } => print(&runtime.block_on(exec(container, command))?),
        Cri::Remove { sandbox } => runtime.block_on(remove(sandbox)),
    }
}

fn print<T: serde::Serialize>(answer: &T) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

async fn channel() -> Result<Channel> {
    Endpoint::try_from(format!("unix:{SOCKET}"))?
        .timeout(PATIENCE)
        .connect()
        .await
        .with_context(|| format!("cannot connect to {SOCKET}: does containerd run?"))
}

async fn ready() -> Result<()> {
    let begin = Instant::now();
    loop {
        // Not ready before the socket answers and the runtime says so; without CNI only RuntimeReady is true.
        if let Ok(channel) = channel().await
            && let Ok(answer) = RuntimeServiceClient::new(channel)
                .status(StatusRequest { verbose: false })
                .await
        {
            let conditions = answer
                .into_inner()
                .status
                .map(|s| s.conditions)
                .unwrap_or_default();
            if conditions.iter().any(|c| c.r#type == "RuntimeReady" && c.status) {
                return Ok(());
            }
        }
        if begin.elapsed() > PATIENCE {
            bail!("containerd was not ready after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn import(tar: &str, expected: &[String]) -> Result<()> {
    ready().await?;
    let out = Command::new("ctr")
        .args(["--namespace", "k8s.io", "images", "import", tar])
        .output()
        .context("cannot execute ctr")?;
    if !out.status.success() {
        bail!(
            "ctr cannot import {tar}: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    // The CRI part hears of new images by an event, some time later.
    let mut client = ImageServiceClient::new(channel().await?);
    let begin = Instant::now();
    for image in expected {
        loop {
            let request = ImageStatusRequest {
                image: Some(image_spec(image)),
                verbose: false,
            };
            let answer = client
                .image_status(request)
                .await
                .context("ImageStatus")?
                .into_inner();
            if answer.image.is_some() {
                break;
            }
            if begin.elapsed() > PATIENCE {
                bail!("image {image} was not in {tar}, or containerd did not take it");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let pid = if pod.host_pid {
        NamespaceMode::Node
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    }
}

/// What kubelets ask for where a pod says nothing (`procMount: Default`), and not for privileged ones.
/// Source: kubernetes, pkg/securitycontext/util.go.
const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

async fn run_pod(pod: &Pod) -> Result<RunningPod> {
    let mut client = RuntimeServiceClient::new(channel().await?);
    let profile = if pod.confined {
        ProfileType::RuntimeDefault
    } else {
        ProfileType::Unconfined
    };
    let seccomp = Some(SecurityProfile {
        profile_type: profile.into(),
        ..SecurityProfile::default()
    });
    let hidden = |paths: &[&str]| -> Vec<String> {
        let wanted = paths.iter().filter(|_| !pod.privileged);
        wanted.map(|path| (*path).to_owned()).collect()
    };
    let sandbox_config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        }),
        log_directory: format!("/var/log/pods/{}_{}_{}", pod.namespace, pod.name, pod.uid),
        // The labels that kubelet sets and that everyone reads.
        labels: [
            ("io.kubernetes.pod.name", &pod.name),
            ("io.kubernetes.pod.namespace", &pod.namespace),
            ("io.kubernetes.pod.uid", &pod.uid),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: pod.cgroup_parent.clone(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                privileged: pod.privileged,
                seccomp: seccomp.clone(),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    };
    let request = RunPodSandboxRequest {
        config: Some(sandbox_config.clone()),
        runtime_handler: String::new(),
    };
    let sandbox = client
        .run_pod_sandbox(request)
        .await
        .map_err(|status| refused("RunPodSandbox", &pod.name, &status))?
        .into_inner()
        .pod_sandbox_id;
    let mut containers = Vec::new();
    for container in &pod.containers {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: container.name.clone(),
                attempt: 0,
            }),
            image: Some(image_spec(&container.image)),
            command: container.command.clone(),
            mounts: container
                .mounts
                .iter()
                .map(|m| Mount {
                    container_path: m.container.clone(),
                    host_path: m.host.clone(),
                    readonly: m.read_only,
                    ..Mount::default()
                })
                .collect(),
            log_path: format!("{}.log", container.name),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces(pod)),
                    privileged: pod.privileged,
                    seccomp: seccomp.clone(),
                    masked_paths: hidden(&MASKED_PATHS),
                    readonly_paths: hidden(&READ_ONLY_PATHS),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let what = format!("{}/{}", pod.name, container.name);
        let id = client
            .create_container(request)
            .await
            .map_err(|status| refused("CreateContainer", &what, &status))?
            .into_inner()
            .container_id;
        client
            .start_container(StartContainerRequest {
                container_id: id.clone(),
            })
            .await
            .map_err(|status| refused("StartContainer", &what, &status))?;
        containers.push(id);
    }
    Ok(RunningPod { sandbox, containers })
}

fn refused(call: &str, what: &str, status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{call} of {what}: {}", status.message())
}

async fn exec(container: &str, command: &[String]) -> Result<Executed> {
    let mut client = RuntimeServiceClient::new(channel().await?);
    let request = ExecSyncRequest {
        container_id: container.to_owned(),
        cmd: command.to_vec(),
        timeout: PATIENCE.as_secs() as i64,
    };
    let answer = client
        .exec_sync(request)
        .await
        .map_err(|status| refused("ExecSync", container, &status))?
        .into_inner();
    Ok(Executed {
        code: answer.exit_code,
        stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
    })
}

async fn remove(sandbox: &str) -> Result<()> {
    let mut client = RuntimeServiceClient::new(channel().await?);
    client
        .stop_pod_sandbox(StopPodSandboxRequest {
            pod_sandbox_id: sandbox.to_owned(),
        })
        .await
        .map_err(|status| refused("StopPodSandbox", sandbox, &status))?;
    client
        .remove_pod_sandbox(RemovePodSandboxRequest {
            pod_sandbox_id: sandbox.to_owned(),
        })
        .await
        .map_err(|status| refused("RemovePodSandbox", sandbox, &status))?;
    Ok(())
}
