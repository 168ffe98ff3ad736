//! From facts to rows, each with a state and what to do.
//!
//! Promise: pure. Not here: how facts are had (see [`super::facts`]), the rows of the kernel itself (see
//! [`super::kernel`]).

use super::facts::{DaemonFacts, Fact, Facts, ListFacts, Probed, Unknown};
use super::{Row, State, anchors, kernel};
use crate::config::{Config, EnforceMode, FailClosedMode, SinkKind};
use crate::status::guard_mode;
use crate::tpm::KeyKind;
use cgpath_evidence::{Bank, GuardMode, ima_policy};

/// The line that other verifiers must exclude, since checkpoints change at each attestation.
pub const EXCLUDE: &str = "^/run/ima-cgpath/checkpoint/[0-9]+$";

/// Templates that carry a file's path and hash with its algorithm.
const TEMPLATES: [&str; 6] = [
    "ima-cgpath",
    "ima-ng",
    "ima-ngv2",
    "ima-sig",
    "ima-sigv2",
    "ima-modsig",
];

const SETUP: &str = "cgpathd setup, then add ima_policy=tcb to the kernel's command line";

pub(super) fn row(id: &'static str, state: State, found: impl Into<String>) -> Row {
    Row {
        id,
        state,
        found: found.into(),
        remedy: None,
        needs_reboot: false,
    }
}

impl Row {
    pub(super) fn remedy(mut self, text: impl Into<String>) -> Row {
        self.remedy = Some(text.into());
        self
    }

    pub(super) fn reboot(mut self, text: impl Into<String>) -> Row {
        self.needs_reboot = true;
        self.remedy(text)
    }
}

/// A row for a fact that could not be had: it failed where it is absent, else it could not be found out.
pub(super) fn absent(id: &'static str, why: &Unknown) -> Row {
    match why {
        Unknown::Absent(_) => row(id, State::Fail, why.to_string()),
        Unknown::Denied(_) => row(id, State::Skip, why.to_string()).remedy("sudo cgpathd check"),
        Unknown::Failed(_) => row(id, State::Skip, why.to_string()),
    }
}

/// All rows, in the order in which to mend what is not met.
pub fn assess(facts: &Facts, config: &Config) -> Vec<Row> {
    let with_tpm = |row| anchors::with_tpm(config, row);
    vec![
        kernel::kernel(facts),
        kernel::architecture(facts),
        kernel::privileges(facts),
        kernel::btf(facts),
        kernel::overlay(facts),
        kernel::hook(facts),
        kernel::jit(facts),
        kernel::bpf_lsm(facts),
        kernel::lockdown(facts),
        kernel::loadpin(facts, config),
        kernel::systemd(facts, config),
        kernel::bpffs(facts, config),
        ima(facts, config),
        template(facts),
        ima_policy(facts),
        policy_file(facts, config),
        with_tpm(checkpoint_rule(facts)),
        with_tpm(checkpoint_files(facts)),
        with_tpm(tpm_device(facts, config)),
        with_tpm(pcr_banks(facts, config)),
        with_tpm(tpm_authorisation(facts, config)),
        with_tpm(tpm_handles(facts)),
        with_tpm(attestation_key(facts, config)),
        anchors::rtmr(facts, config),
        anchors::report(facts, config),
        cgroup(facts),
        runtimes(facts),
        agents(facts),
        secure_boot(facts),
        guard(config),
        daemon(facts),
    ]
}

/// What the running daemon has met already in this boot.
fn daemon(facts: &Facts) -> Row {
    const ID: &str = "daemon";
    match &facts.daemon {
        // The list has a checkpoint of this boot, and what recorded for it is gone: the daemon refuses to
        // start.
        Ok(None)
            if facts.pinned == Ok(false)
                && facts.list.as_ref().is_ok_and(|list| list.checkpoint.is_some()) =>
        {
            row(
                ID,
                State::Fail,
                "does not run, and the eBPF programs were unloaded since this boot's first checkpoint: this \
                 boot cannot be attested any more",
            )
            .reboot("reboot; until then cgpathd refuses to start")
        }
        Ok(None) => row(ID, State::Ok, "does not run"),
        Ok(Some(DaemonFacts {
            blind: Some(number), ..
        })) => row(
            ID,
            State::Fail,
            format!(
                "checkpoint {number} was sealed blind, the programs may have been off: verifiers refuse \
                this boot (V6)"
            ),
        )
        .reboot("find out who detached the programs (cgpathd unload, another tool), then reboot"),
        Ok(Some(DaemonFacts { stalled: true, .. })) => row(
            ID,
            State::Fail,
            "the disk takes no more records; they wait in the kernel's ring, which fills up",
        )
        .remedy("make room in state_dir"),
        Ok(Some(DaemonFacts { lost, .. })) if *lost > 0 => row(
            ID,
            State::Warn,
            format!("runs; {lost} records of this boot were lost, which verifiers count (V6)"),
        )
        .reboot("raise bpf.ring_bytes if that happens again; a reboot begins anew"),
        Ok(Some(_)) => row(ID, State::Ok, "runs"),
        Err(why) => absent(ID, why),
    }
}

/// What the configuration makes the programs do about others. That the hooks are there is in the row `btf`.
fn guard(config: &Config) -> Row {
    const ID: &str = "guard";
    let enforces = config.enforce.mode != EnforceMode::Off;
    let found = format!(
        "guard.mode {}, guard.tpm {}, enforce {}, fail_closed {}",
        guard_mode(config.guard.mode),
        guard_mode(config.guard.tpm),
        if enforces { "on" } else { "off" },
        if config.fail_closed.mode == FailClosedMode::Off {
            "off"
        } else {
            "on"
        },
    );
    if config.guard.mode == GuardMode::Off {
        return row(
            ID,
            State::Warn,
            format!("{found}: verifiers want at least guard.mode record"),
        )
        .remedy("set guard.mode to \"record\" or \"deny\"");
    }
    if enforces && config.verifier.url.is_empty() {
        return row(
            ID,
            State::Warn,
            format!("{found}: no verdict will say whom to deny executions"),
        )
        .remedy("set verifier.url");
    }
    row(ID, State::Ok, found)
}

fn list<'a>(id: &'static str, facts: &'a Facts) -> Result<&'a ListFacts, Row> {
    facts.list.as_ref().map_err(|why| match why {
        Unknown::Absent(_) => absent(id, why)
            .remedy("mount -t securityfs securityfs /sys/kernel/security; or use a kernel with CONFIG_IMA"),
        why => absent(id, why),
    })
}

fn ima(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "ima";
    let list = match list(ID, facts) {
        Ok(list) => list,
        Err(row) => return row,
    };
    let other: Vec<String> = list
        .pcrs
        .iter()
        .filter(|p| **p != 10)
        .map(u32::to_string)
        .collect();
    match list.boot_aggregate {
        None => row(
            ID,
            State::Fail,
            format!(
                "{} entries and no boot_aggregate: IMA does not measure",
                list.entries
            ),
        )
        .reboot(format!("{SETUP} (and remove ima=off, if it is there)")),
        Some(false) if !config.anchors_in_pcr10() => row(
            ID,
            State::Ok,
            format!(
                "{} entries, which extend no PCR: checkpoints bind them",
                list.entries
            ),
        ),
        Some(false) if facts.has_no_tpm() => row(
            ID,
            State::Fail,
            "boot_aggregate is zero: there was no TPM when IMA started",
        )
        .reboot("see the row tpm"),
        Some(false) => row(
            ID,
            State::Fail,
            "boot_aggregate is zero: IMA found no TPM when it started, and there is one now: its driver came \
             too late",
        )
        .reboot("use a kernel with the TPM's driver built in (CONFIG_TCG_TIS=y, CONFIG_TCG_CRB=y)"),
        Some(true) if !other.is_empty() => row(
            ID,
            State::Fail,
            format!("entries extend PCR {}, not 10 alone", other.join(", ")),
        )
        .reboot("remove pcr= from the IMA policy"),
        Some(true) => row(ID, State::Ok, format!("{} entries", list.entries)),
    }
}

fn template(facts: &Facts) -> Row {
    const ID: &str = "template";
    let list = match list(ID, facts) {
        Ok(list) => list,
        Err(row) => return row,
    };
    let asked = facts
        .command_line
        .as_deref()
        .unwrap_or_default()
        .split_whitespace();
    let asked = asked
        .filter_map(|word| word.strip_prefix("ima_template="))
        .next_back();
    match (&list.last_file, asked) {
        (Some((template, algorithm)), _) if TEMPLATES.contains(&template.as_str()) => {
            let found = format!("{template}, {algorithm}; pin it in the node policy (accept.templates)");
            if algorithm == "sha256" {
                return row(ID, State::Ok, found);
            }
            row(
                ID,
                State::Warn,
                format!("{found}; reference values must have this algorithm"),
            )
            .reboot("add ima_hash=sha256 to the kernel's command line")
        }
        (Some((template, _)), _) => row(
            ID,
            State::Fail,
            format!("{template} does not carry a file's path and hash"),
        )
        .reboot("add ima_template=ima-ng to the kernel's command line"),
        (None, Some(asked)) => row(
            ID,
            State::Warn,
            format!("no entry of a file yet; the command line says {asked}"),
        ),
        (None, None) => row(
            ID,
            State::Warn,
            "no entry of a file yet, so that its template is not seen",
        ),
    }
}

/// The text of the rules in force: as the kernel shows them, or of the file that was loaded by path, if it is
/// still the one whose hash the kernel measured.
fn rules(facts: &Facts) -> Option<Result<Vec<ima_policy::Rule>, String>> {
    let parse = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        ima_policy::parse(&text).map_err(|e| e.to_string())
    };
    if let Ok(bytes) = &facts.rules
        && !bytes.is_empty()
    {
        return Some(parse(bytes));
    }
    let (Ok(file), Ok(list)) = (&facts.policy_file, &facts.list) else {
        return None;
    };
    let loaded = list.policies.last()?;
    (loaded.bank().hash(&[file]) == *loaded).then(|| parse(file))
}

fn ima_policy(facts: &Facts) -> Row {
    const ID: &str = "ima-policy";
    let probes = match &facts.probes {
        Ok(probes) => probes,
        Err(why @ Unknown::Absent(_)) => return absent(ID, why).reboot(SETUP),
        Err(why) => return absent(ID, why),
    };
    let not: Vec<&str> = [(&probes.run, "executed"), (&probes.map, "mapped executable")]
        .into_iter()
        .filter(|(probed, _)| **probed == Probed::NotMeasured)
        .map(|(_, what)| what)
        .collect();
    if !not.is_empty() {
        return row(
            ID,
            State::Fail,
            format!("a fresh file that is {} is not measured", not.join(" or ")),
        )
        .reboot(SETUP);
    }
    for probed in [&probes.run, &probes.map] {
        if let Probed::Impossible(why) = probed {
            return row(ID, State::Skip, format!("could not be probed: {why}"));
        }
    }
    let measured = "fresh files are measured when they are executed and mapped";
    match rules(facts) {
        Some(Ok(rules)) => {
            let missing = ima_policy::missing(&rules);
            if missing.is_empty() {
                return row(
                    ID,
                    State::Ok,
                    format!("{measured}; every rule that is needed is in force"),
                );
            }
            let lines = missing.join("; ");
            row(
                ID,
                State::Fail,
                format!("{measured}; {} rules are missing", missing.len()),
            )
            .reboot(format!("add to the IMA policy: {lines}"))
        }
        Some(Err(why)) => row(
            ID,
            State::Warn,
            format!("{measured}; the rules in force are not understood: {why}"),
        ),
        None => row(
            ID,
            State::Warn,
            format!("{measured}; the rules for modules, firmware and kexec are not shown by this kernel"),
        )
        .reboot(SETUP),
    }
}

fn policy_file(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "ima-policy-file";
    let list = match list(ID, facts) {
        Ok(list) => list,
        Err(row) => return row,
    };
    let path = config.ima.policy.display();
    let Some(loaded) = list.policies.last() else {
        return row(
            ID,
            State::Fail,
            format!("no entry says that {path} was loaded, so that verifiers do not know the rules"),
        )
        .reboot(SETUP);
    };
    match &facts.policy_file {
        Ok(file) if loaded.bank().hash(&[file]) == *loaded => {
            row(ID, State::Ok, format!("{path} was loaded by path: {loaded}"))
        }
        Ok(_) => row(
            ID,
            State::Warn,
            format!("{path} was changed since it was loaded ({loaded})"),
        )
        .reboot("reboot, so that the new one is loaded; add its sha256 to accept.ima-policies"),
        Err(why) => row(ID, State::Warn, format!("loaded as {loaded}; now: {why}")).remedy("cgpathd setup"),
    }
}

fn checkpoint_rule(facts: &Facts) -> Row {
    const ID: &str = "checkpoint-rule";
    let list = match list(ID, facts) {
        Ok(list) => list,
        Err(row) => return row,
    };
    let rule = format!(
        "measure func=FILE_CHECK mask=^MAY_READ fsuuid={}",
        cgpath_evidence::checkpoint::FS_UUID
    );
    let add = format!("add to the IMA policy: {rule}");
    if let Some(number) = list.checkpoint {
        return row(ID, State::Ok, format!("checkpoint {number} was measured"));
    }
    if let Some(Ok(rules)) = rules(facts) {
        return if ima_policy::missing(&rules).contains(&rule) {
            row(
                ID,
                State::Fail,
                "the rule that measures checkpoints is not in force",
            )
            .reboot(add)
        } else {
            row(ID, State::Ok, "the rule is in force; no checkpoint was made yet")
        };
    }
    match facts.checkpoints_mounted {
        Ok(true) => row(ID, State::Fail, "checkpoints are written and none was measured").reboot(add),
        Ok(false) => row(
            ID,
            State::Skip,
            "the rules in force are not shown and no checkpoint was made yet",
        )
        .remedy("start cgpathd, then check again"),
        Err(ref why) => absent(ID, why),
    }
}

fn checkpoint_files(facts: &Facts) -> Row {
    const ID: &str = "checkpoint-files";
    let mut lacks: Vec<&str> = facts.tools_missing.clone();
    if !facts.loop_devices {
        lacks.push("loop devices");
    }
    if lacks.is_empty() {
        return row(ID, State::Ok, "loop devices and mke2fs are there");
    }
    let remedy = match (facts.tools_missing.is_empty(), facts.loop_devices) {
        (true, _) => "install the kernel's module `loop`",
        (false, true) => "apt-get install e2fsprogs mount",
        (false, false) => "apt-get install e2fsprogs mount, and the kernel's module `loop`",
    };
    row(ID, State::Fail, format!("not there: {}", lacks.join(", "))).remedy(remedy)
}

fn tpm_device(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "tpm";
    if let Ok(version) = facts.tpm_version.as_deref()
        && version != "2"
    {
        return row(
            ID,
            State::Fail,
            format!("the TPM is of version {version}; 2 is needed"),
        )
        .reboot("switch the TPM to 2.0 in the firmware's setup, if it can");
    }
    let tcti = &config.tpm.tcti;
    match (&facts.tpm, &facts.tpm_version) {
        (Ok(tpm), _) => row(ID, State::Ok, format!("{} at {tcti}", tpm.name)),
        (Err(why), Ok(_)) => row(
            ID,
            State::Fail,
            format!("there is one and it cannot be used: {why}"),
        )
        .remedy("apt-get install libtss2-tcti-device0; set tpm.tcti; stop what else holds it"),
        (Err(why), Err(_)) => row(ID, State::Fail, why.clone())
            .reboot("switch the TPM on in the firmware's setup, or give the guest one"),
    }
}

fn banks(banks: &[Bank]) -> String {
    let names: Vec<&str> = banks.iter().map(|b| b.name()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

fn pcr_banks(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "pcr-banks";
    let found = match (&facts.tpm, &facts.kernel_banks) {
        (Ok(tpm), _) => &tpm.banks,
        (Err(_), Ok(found)) => found,
        (Err(_), Err(_)) if facts.has_no_tpm() => return row(ID, State::Skip, "there is no TPM"),
        (Err(_), Err(why)) => return absent(ID, why),
    };
    let wanted = config.tpm.bank;
    if found.contains(&wanted) {
        return row(ID, State::Ok, format!("{}; {wanted} is quoted", banks(found)));
    }
    row(
        ID,
        State::Fail,
        format!("{wanted} is not allocated: {}", banks(found)),
    )
    .reboot(format!(
        "tpm2_pcrallocate {wanted}:all (or set tpm.bank to one that is there)"
    ))
}

fn tpm_authorisation(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "tpm-authorisation";
    let tpm = match &facts.tpm {
        Ok(tpm) => tpm,
        Err(_) => return row(ID, State::Skip, "the TPM could not be asked"),
    };
    let owner = if tpm.owner_auth {
        "owned by somebody (it stays so)"
    } else {
        "no owner"
    };
    if tpm.in_lockout {
        return row(
            ID,
            State::Warn,
            format!("{owner}; in lockout after wrong authorisations"),
        )
        .remedy("tpm2_dictionarylockout -c (needs the lockout authorisation)");
    }
    if tpm.endorsement_auth && config.tpm.endorsement_auth.is_empty() {
        return row(
            ID,
            State::Fail,
            format!("{owner}; the endorsement hierarchy has an authorisation"),
        )
        .remedy("set tpm.endorsement_auth = \"file:/path\" in /etc/ima-cgpath/cgpathd.toml");
    }
    let endorsement = if tpm.endorsement_auth {
        "configured"
    } else {
        "not set"
    };
    row(
        ID,
        State::Ok,
        format!("{owner}; endorsement authorisation {endorsement}"),
    )
}

fn tpm_handles(facts: &Facts) -> Row {
    const ID: &str = "tpm-handles";
    match &facts.tpm {
        Ok(tpm) => {
            let (used, free) = tpm.persistent;
            let found = format!("{used} persistent handles in use, room for {free} more");
            if free == 0 {
                return row(
                    ID,
                    State::Warn,
                    format!("{found}; none is needed: the key is made anew at each start"),
                );
            }
            row(ID, State::Ok, found)
        }
        Err(_) => row(ID, State::Skip, "the TPM could not be asked"),
    }
}

fn attestation_key(facts: &Facts, config: &Config) -> Row {
    const ID: &str = "attestation-key";
    let mut sinks = config.sink.iter();
    if let Some(sink) = sinks.find(|sink| sink.kind == SinkKind::KeylimePush)
        && config.tpm.key != KeyKind::Rsa2048
    {
        return row(
            ID,
            State::Fail,
            format!(
                "the sink {} is a keylime-push, and Keylime opens sessions for RSA keys \
                alone",
                sink.name
            ),
        )
        .remedy(
            "set tpm.key = \"rsa-2048\"; that is another key: enrol it again with your verifier (cgpathd ak \
             -o FILE, there cgpath node add NODE --ak FILE --policy FILE --replace)",
        );
    }
    match facts.tpm.as_ref().map(|tpm| &tpm.key) {
        Ok(Ok(fingerprint)) => row(ID, State::Ok, fingerprint),
        Ok(Err(why)) => row(ID, State::Fail, why).remedy("see the key tpm.* that is named"),
        Err(_) => row(ID, State::Skip, "the TPM could not be asked"),
    }
}

fn cgroup(facts: &Facts) -> Row {
    match &facts.cgroup {
        Ok(found) => row("cgroup", State::Ok, found),
        Err(why) => row("cgroup", State::Fail, why)
            .remedy("mount -t cgroup2 cgroup2 /sys/fs/cgroup, or set cgroup.hierarchy"),
    }
}

fn joined(found: &std::collections::BTreeSet<String>) -> String {
    found.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn runtimes(facts: &Facts) -> Row {
    const ID: &str = "container-runtimes";
    match &facts.runtimes {
        Ok(found) if found.is_empty() => row(
            ID,
            State::Warn,
            "none found: everything will be charged to the host",
        )
        .remedy("start the container runtime, or name it in runtimes.names"),
        Ok(found) => row(ID, State::Ok, joined(found)),
        Err(why) => absent(ID, why),
    }
}

fn agents(facts: &Facts) -> Row {
    const ID: &str = "other-agents";
    match &facts.agents {
        Ok(found) if found.is_empty() => row(ID, State::Ok, "none found"),
        Ok(found) => row(ID, State::Warn, joined(found)).remedy(format!(
            "add exactly this line to its runtime policy's excludes: {EXCLUDE}"
        )),
        Err(why) => absent(ID, why),
    }
}

fn secure_boot(facts: &Facts) -> Row {
    const ID: &str = "secure-boot";
    let known: &Fact<Option<bool>> = &facts.secure_boot;
    match known {
        Ok(Some(true)) => row(ID, State::Ok, "on"),
        Ok(Some(false)) => row(
            ID,
            State::Warn,
            "off: the kernel's signature is not checked at boot",
        )
        .reboot("switch Secure Boot on in the firmware's setup"),
        Ok(None) => row(
            ID,
            State::Warn,
            "no UEFI: nothing checks the kernel's signature at boot",
        ),
        Err(Unknown::Absent(_)) => row(ID, State::Warn, "this UEFI has no Secure Boot"),
        Err(why) => absent(ID, why),
    }
}
