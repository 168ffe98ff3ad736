//! Rows about the kernel, its security modules and PID 1: whether the programs can be loaded and attached,
//! and the policy loaded. Pure.

use super::assess::{absent, row};
use super::facts::{Facts, Unknown};
use super::{Row, State};
use crate::bpf::{DIRECT_CALLS_HINT, lsm_parameter};
use crate::config::Config;
use std::path::Path;

/// Capabilities that the daemon needs: name and bit. include/uapi/linux/capability.h.
const CAPABILITIES: [(&str, u32); 5] = [
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

pub(super) fn kernel(facts: &Facts) -> Row {
    let release = match &facts.release {
        Ok(release) => release,
        Err(why) => return absent("kernel", why),
    };
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 1) => row("kernel", State::Ok, release),
        // Distributions bring features back to older kernels, so that what is there decides: the rows below.
        (Some(_), Some(_)) => row(
            "kernel",
            State::Warn,
            format!(
                "{release}: older than 6.1, the oldest that was tried; the rows below say whether it has all"
            ),
        ),
        _ => row("kernel", State::Skip, format!("{release:?} is not understood")),
    }
}

pub(super) fn architecture(facts: &Facts) -> Row {
    match facts.architecture.as_deref() {
        Ok("x86_64") => row("architecture", State::Ok, "x86_64"),
        Ok("aarch64") => row(
            "architecture",
            State::Warn,
            "aarch64: it should work and was not tried",
        ),
        Ok(other) => row("architecture", State::Fail, format!("{other}; x86_64 is needed"))
            .remedy("attest this node by the kernel tier (kernel-patches/README.md)"),
        Err(why) => absent("architecture", why),
    }
}

pub(super) fn privileges(facts: &Facts) -> Row {
    let held = match &facts.capabilities {
        Ok(held) => *held,
        Err(why) => return absent("privileges", why),
    };
    let lacks: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| held & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if lacks.is_empty() {
        return row("privileges", State::Ok, "all capabilities that are needed");
    }
    row("privileges", State::Fail, format!("lacks {}", lacks.join(" "))).remedy("sudo cgpathd check")
}

pub(super) fn btf(facts: &Facts) -> Row {
    match &facts.hooks_missing {
        Ok(missing) if missing.is_empty() => types(facts),
        Ok(missing) => row(
            "btf",
            State::Fail,
            format!("the kernel's BTF lacks {}", missing.join(" ")),
        )
        .reboot("use a kernel with CONFIG_IMA, CONFIG_BPF_LSM and CONFIG_CGROUPS"),
        Err(why @ Unknown::Absent(_)) => absent("btf", why)
            .reboot("use a kernel with CONFIG_DEBUG_INFO_BTF (stock distribution kernels have it)"),
        Err(why) => absent("btf", why),
    }
}

fn types(facts: &Facts) -> Row {
    match &facts.types_missing {
        Ok(None) => row("btf", State::Ok, "/sys/kernel/btf/vmlinux"),
        Ok(Some(what)) => row("btf", State::Fail, what)
            .reboot("use a kernel of 6.1 to 7.3 (docs/nodes.md says which distributions have one)"),
        Err(why) => absent("btf", why),
    }
}

/// Without it the node works; verifiers do not know what containers' files are, and refuse them by default.
pub(super) fn overlay(facts: &Facts) -> Row {
    const ID: &str = "overlay";
    match facts.overlay {
        Ok(true) => row(ID, State::Ok, "the files of layers are known"),
        Ok(false) => row(
            ID,
            State::Warn,
            "the types of overlayfs are not there, so that files of layers are not known: verifiers refuse \
             files of overlays",
        )
        .remedy("modprobe overlay, before cgpathd starts for the first time in this boot"),
        Err(ref why) => absent(ID, why),
    }
}

pub(super) fn hook(facts: &Facts) -> Row {
    const ID: &str = "hook";
    let name = "ima_add_template_entry";
    if facts.direct_calls == Ok(false) {
        return row(
            ID,
            State::Fail,
            "this kernel cannot call eBPF programs from its functions: attaching them ends with error 524",
        )
        .reboot(format!("use another kernel: {DIRECT_CALLS_HINT}"));
    }
    if let Ok(value) = facts.ftrace.as_deref()
        && value != "1"
    {
        return row(
            ID,
            State::Fail,
            format!("kernel.ftrace_enabled is {value}: no function can be hooked"),
        )
        .remedy("sysctl -w kernel.ftrace_enabled=1");
    }
    match &facts.traceable {
        Ok(true) => row(ID, State::Ok, format!("{name} can be traced")),
        Ok(false) => row(
            ID,
            State::Fail,
            format!("{name} is not among the functions that can be traced"),
        )
        .reboot("use a kernel with CONFIG_IMA, CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE"),
        // Tracefs is only how to see it; BTF and ftrace_enabled say the most of it.
        Err(Unknown::Absent(_)) if facts.ftrace.is_ok() => row(
            ID,
            State::Warn,
            format!("tracefs is not mounted, so whether {name} can be traced is not shown"),
        )
        .remedy("mount -t tracefs tracefs /sys/kernel/tracing"),
        Err(why) => absent(ID, why),
    }
}

pub(super) fn jit(facts: &Facts) -> Row {
    match facts.jit.as_deref() {
        Ok("0") => row(
            "bpf-jit",
            State::Fail,
            "net.core.bpf_jit_enable is 0: trampolines need the compiler",
        )
        .remedy("sysctl -w net.core.bpf_jit_enable=1"),
        Ok(value) => row(
            "bpf-jit",
            State::Ok,
            format!("net.core.bpf_jit_enable is {value}"),
        ),
        Err(why) => absent("bpf-jit", why),
    }
}

const MOUNT_SECURITYFS: &str = "mount -t securityfs securityfs /sys/kernel/security";

pub(super) fn bpf_lsm(facts: &Facts) -> Row {
    match &facts.lsm {
        Ok(active) if active.iter().any(|m| m == "bpf") => row("bpf-lsm", State::Ok, active.join(",")),
        Ok(active) => {
            let active = active.join(",");
            row("bpf-lsm", State::Fail, format!("bpf is not active: {active}")).reboot(format!(
                "add {} to the kernel's command line",
                lsm_parameter(&active)
            ))
        }
        Err(why @ Unknown::Absent(_)) => absent("bpf-lsm", why).remedy(MOUNT_SECURITYFS),
        Err(why) => absent("bpf-lsm", why),
    }
}

pub(super) fn lockdown(facts: &Facts) -> Row {
    match facts.lockdown.as_deref() {
        Ok("confidentiality") => row(
            "lockdown",
            State::Fail,
            "confidentiality: eBPF programs may not read kernel memory",
        )
        .reboot("boot with lockdown=integrity"),
        Ok(mode) => row("lockdown", State::Ok, mode),
        Err(Unknown::Absent(_)) => row("lockdown", State::Ok, "none (not built into this kernel)"),
        Err(why) => absent("lockdown", why),
    }
}

/// Whether a policy has been loaded by its path in this boot.
fn policy_was_loaded(facts: &Facts) -> bool {
    facts.list.as_ref().is_ok_and(|list| !list.policies.is_empty())
}

/// LoadPin lets the kernel read files of one file system only, the first that it read a file of. An IMA
/// policy that is loaded by its path is such a file. security/loadpin/loadpin.c, `loadpin_read_file`.
pub(super) fn loadpin(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "loadpin";
    let policy = config.ima.policy.display();
    match (&facts.lsm, &facts.loadpin, &facts.policy_mount) {
        (Ok(active), ..) if !active.iter().any(|module| module == "loadpin") => {
            row(ID, State::Ok, "not active")
        }
        (Err(why @ Unknown::Absent(_)), ..) => absent(ID, why).remedy(MOUNT_SECURITYFS),
        (Err(why), ..) => absent(ID, why),
        (_, Ok(false), _) => row(ID, State::Ok, "active and not enforced"),
        _ if policy_was_loaded(facts) => row(ID, State::Ok, format!("enforced; {policy} was loaded")),
        (_, _, Ok(mount)) if mount == Path::new("/") => row(
            ID,
            State::Warn,
            format!("enforced, and {policy} was not loaded; it is on the root file system"),
        )
        .remedy("dmesg | grep LoadPin"),
        (_, Ok(true), Ok(mount)) => row(
            ID,
            State::Fail,
            format!(
                "enforced, and {policy} is on {}, not on the root file system: the kernel refuses to load it",
                mount.display()
            ),
        )
        .reboot(
            "put the policy on the root file system, or add loadpin.enforce=0 to the kernel's command line",
        ),
        (_, Err(why), _) | (_, _, Err(why)) => absent(ID, why),
    }
}

/// systemd loads the policy as the first thing that it does, if it was built to.
pub(super) fn systemd(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "systemd-ima";
    let policy = config.ima.policy.display();
    match (&facts.init, &facts.systemd_ima) {
        (Ok(init), _) if init != "systemd" => {
            row(ID, State::Ok, format!("PID 1 is {init}: it has to load {policy}"))
        }
        (Ok(_), Ok(true)) => row(ID, State::Ok, "systemd was built with +IMA"),
        (Ok(_), Ok(false)) if policy_was_loaded(facts) => row(
            ID,
            State::Ok,
            format!("systemd was built with -IMA; something else loaded {policy}"),
        ),
        (Ok(_), Ok(false)) => row(
            ID,
            State::Fail,
            format!("systemd was built with -IMA: it does not load {policy}"),
        )
        .reboot(format!(
            "have the initramfs run this in the new root: echo {policy} > /sys/kernel/security/ima/policy"
        )),
        (Err(why), _) | (_, Err(why)) => absent(ID, why),
    }
}

pub(super) fn bpffs(facts: &Facts, config: &Config) -> Row {
    let dir = config.bpf.pin_dir.display();
    match &facts.pins {
        Ok((kind, at)) if kind == "bpf" => row("bpffs", State::Ok, format!("mounted at {}", at.display())),
        Ok(_) if config.bpf.pin_dir.starts_with("/sys/fs/bpf") => row(
            "bpffs",
            State::Warn,
            "not mounted at /sys/fs/bpf; cgpathd will mount it",
        )
        .remedy("mount -t bpf bpf /sys/fs/bpf"),
        Ok((kind, at)) => row(
            "bpffs",
            State::Fail,
            format!("{dir} is on {kind} ({})", at.display()),
        )
        .remedy("set bpf.pin_dir to a directory below /sys/fs/bpf"),
        Err(why) => absent("bpffs", why),
    }
}
