//! Values that have the right type and cannot work.
//!
//! Promise: pure; each refusal names the key. Not here: whether a path or a host is there.

use super::{Config, ConfigError, EnforceMode, Sink, SinkFormat, SinkKind, TPM};
use cgpath_evidence::td::{MAX_PROVIDER_LEN, PROVIDER_TDX};
use std::path::Path;

/// Sinks at most: each asks the TPM for quotes of its own.
const MAX_SINKS: usize = 8;

/// Both values of `[budget]`.
const BUDGET: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// Seconds that an interval or a timeout may have, a week at most: the clock must be able to hold the sum.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=604_800;

/// Seconds that a seal waits for records of which none comes. A round can wait twelve times as long, and its
/// nonce lives for 300 seconds.
const DRAIN: std::ops::RangeInclusive<u64> = 1..=20;

/// Seconds that a lapse may have: long enough to be restarted in, and never for ever.
const LAPSE: std::ops::RangeInclusive<u64> = 10..=86_400;

/// The pods' root itself is looked up by no program, so a path of one component would exempt nobody.
fn is_cgroup_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    path.starts_with('/')
        && (2..=cgpath_ebpf_common::MAX_POD_LEVEL).contains(&parts.len())
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
}

/// Whether Keylime takes it for an agent's id. Source: keylime/common/validators.py, and the column's length.
fn is_agent_id(id: &str) -> bool {
    id.len() <= 80
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Config {
    /// What cannot work.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let bad = |key, why: String| Err(ConfigError::Value { key, why });
        if self.keep_boots == 0 {
            return bad(
                "keep_boots",
                "must be at least 1: this boot's directory is needed".into(),
            );
        }
        for (key, path) in [
            ("state_dir", &self.state_dir),
            ("run_dir", &self.run_dir),
            ("bpf.pin_dir", &self.bpf.pin_dir),
        ] {
            if !path.is_absolute() {
                return bad(key, format!("{} is not an absolute path", path.display()));
            }
        }
        if !self.bpf.ring_bytes.is_power_of_two() || self.bpf.ring_bytes < 64 << 10 {
            return bad(
                "bpf.ring_bytes",
                format!("{} is not a power of two of at least 65536", self.bpf.ring_bytes),
            );
        }
        if self.bpf.max_hash_mib == 0 {
            return bad("bpf.max_hash_mib", "0 MiB: nothing could be hashed".into());
        }
        self.validate_anchors()?;
        let url = &self.verifier.url;
        if !url.is_empty() && !url.starts_with("https://") {
            return bad("verifier.url", format!("{url:?} does not begin with https://"));
        }
        let socket = self.runtimes.cri_socket();
        if socket.is_some_and(|path| !path.is_absolute()) {
            let why = format!("{:?} is not unix:///PATH", self.runtimes.cri);
            return bad("runtimes.cri", why);
        }
        if let Some(sink) = self
            .sink
            .iter()
            .find(|sink| sink.is_by_name() && socket.is_none())
        {
            let why = format!(
                "sink {} selects pods by names, which the runtime tells: set runtimes.cri",
                sink.name
            );
            return bad("sink", why);
        }
        if let Err(why) = self.metrics.place_beside(&self.run_dir) {
            return bad("metrics.listen", why);
        }
        if self.sink.len() > MAX_SINKS {
            return bad(
                "sink",
                format!("{} of them, at most {MAX_SINKS}", self.sink.len()),
            );
        }
        for (n, sink) in self.sink.iter().enumerate() {
            if let Err(why) = sink.validate() {
                return bad("sink", why);
            }
            if self.sink[..n].iter().any(|other| other.name == sink.name) {
                return bad("sink", format!("two are named {}", sink.name));
            }
        }
        if self.seal.keep_files < 2 {
            return bad(
                "seal.keep_files",
                "must be at least 2: the last one and the one being made".into(),
            );
        }
        for (key, seconds, range) in [
            ("verifier.interval", self.verifier.interval, SECONDS),
            ("verifier.timeout", self.verifier.timeout, SECONDS),
            ("verifier.max_backoff", self.verifier.max_backoff, SECONDS),
            ("seal.drain_timeout", self.seal.drain_timeout, DRAIN),
            ("enforce.lapse", self.enforce.lapse, LAPSE),
            ("fail_closed.lapse", self.fail_closed.lapse, LAPSE),
        ] {
            if !range.contains(&seconds) {
                let why = format!("{seconds} seconds: not from {} to {}", range.start(), range.end());
                return bad(key, why);
            }
        }
        for (key, value) in [
            ("budget.burst", self.budget.burst),
            ("budget.per_second", self.budget.per_second),
        ] {
            if !BUDGET.contains(&value) {
                let why = format!("{value} is not from {} to {}", BUDGET.start(), BUDGET.end());
                return bad(key, why);
            }
        }
        if self.budget.entries != 0 && self.enforce.mode == EnforceMode::Off {
            let why = "executions are denied beyond it, which enforce.mode must allow: set that \
                to \"untrusted-pods\"";
            return bad("budget.entries", why.into());
        }
        for (key, exempt) in [
            ("enforce.exempt", &self.enforce.exempt),
            ("fail_closed.exempt", &self.fail_closed.exempt),
        ] {
            if let Some(path) = exempt.iter().find(|path| !is_cgroup_path(path)) {
                let most = cgpath_ebpf_common::MAX_POD_LEVEL;
                return bad(
                    key,
                    format!("{path:?} is not a cgroup's path: absolute, no \"..\", 2 to {most} components"),
                );
            }
        }
        let h = &self.cgroup.hierarchy;
        let v1 = h
            .strip_prefix("v1:")
            .is_some_and(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        if h != "auto" && h != "v2" && !v1 {
            return bad(
                "cgroup.hierarchy",
                format!("{h:?} is none of \"auto\", \"v2\", \"v1:CONTROLLER\""),
            );
        }
        Ok(())
    }

    /// Anchors and quotes that cannot work, together or each by itself.
    fn validate_anchors(&self) -> Result<(), ConfigError> {
        let bad = |key, why: &str| {
            let why = why.to_owned();
            Err(ConfigError::Value { key, why })
        };
        let (to, by) = (&self.anchor.to, &self.quote.by);
        if to.is_empty() || (1..to.len()).any(|n| to[..n].contains(&to[n])) {
            return bad("anchor.to", "\"pcr10\", \"rtmr\" or both, each once");
        }
        if !matches!(self.anchor.rtmr, 2 | 3) {
            return bad("anchor.rtmr", "2 or 3: firmware and kernel extend 0 and 1");
        }
        let is_name = |name: &String| {
            (1..=MAX_PROVIDER_LEN).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        let providers = by.iter().filter(|by| *by != TPM).count();
        if by.is_empty() || providers > 1 || by.len() - providers > 1 || !by.iter().all(is_name) {
            return bad(
                "quote.by",
                "\"tpm\", one provider of configfs-tsm such as \"tdx_guest\", or both, each once",
            );
        }
        if self.anchors_in_pcr10() != self.has_tpm() {
            return bad(
                "quote.by",
                "\"tpm\" signs PCR 10: it is there where anchor.to has \"pcr10\", and only there",
            );
        }
        let is_td = self.provider() == Some(PROVIDER_TDX);
        if self.anchor_rtmr().is_some() != is_td {
            return bad(
                "quote.by",
                "\"tdx_guest\" signs the registers: it is there where anchor.to has \"rtmr\", and only there",
            );
        }
        for (key, path) in [
            ("anchor.registers", &self.anchor.registers),
            ("quote.reports", &self.quote.reports),
        ] {
            if !path.is_absolute() {
                return bad(key, "must be an absolute path");
            }
        }
        for (key, path) in [
            ("anchor.other_log", &self.anchor.other_log),
            ("quote.node_key", &self.quote.node_key),
        ] {
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                return bad(key, "must be an absolute path, or empty");
            }
        }
        if !(1..=600).contains(&self.quote.timeout) {
            return bad("quote.timeout", "must be from 1 to 600 seconds");
        }
        if !self.has_tpm() && self.sink.iter().any(|sink| sink.kind == SinkKind::KeylimePush) {
            return bad(
                "sink",
                "Keylime takes quotes of a TPM: a keylime-push needs \"tpm\" in quote.by",
            );
        }
        Ok(())
    }
}

impl Sink {
    /// What cannot work.
    fn validate(&self) -> Result<(), String> {
        let name = &self.name;
        let fits = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !fits {
            return Err(format!(
                "{name:?} is not a sink's name (letters, digits, '-', '_'; at most 64)"
            ));
        }
        let why = match self.kind {
            SinkKind::Verifier if !self.to.starts_with("https://") => "`to` must begin with https://",
            SinkKind::KeylimePush if !self.to.starts_with("https://") => "`to` must begin with https://",
            SinkKind::KeylimePush
                if !["https://", "http://"]
                    .iter()
                    .any(|scheme| self.registrar.starts_with(scheme)) =>
            {
                "`registrar` must begin with https:// or http://"
            }
            // Keylime takes a certificate of its CA for an administrator's.
            SinkKind::KeylimePush
                if !self.client_certificate.as_os_str().is_empty()
                    || !self.client_key.as_os_str().is_empty() =>
            {
                "an agent of Keylime shows no certificate: leave `client_certificate` and `client_key` out"
            }
            SinkKind::KeylimePush if !is_agent_id(&self.agent) => {
                "`agent`: letters, digits, '-', '_', '.'; at most 80"
            }
            SinkKind::Verifier | SinkKind::KeylimePush
                if self.is_of_pods() || self.format != SinkFormat::Evidence =>
            {
                "a verifier takes evidence of the whole node"
            }
            _ if self.kind != SinkKind::KeylimePush
                && !(self.registrar.is_empty() && self.agent.is_empty()) =>
            {
                "`registrar` and `agent` are for keylime-push"
            }
            SinkKind::File | SinkKind::Unix if !Path::new(&self.to).is_absolute() => {
                "`to` must be an absolute path"
            }
            SinkKind::Tls
                if self
                    .to
                    .rsplit_once(':')
                    .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) =>
            {
                "`to` must be HOST:PORT"
            }
            _ if self.is_of_pods() && self.format != SinkFormat::Evidence => {
                "pods are sent as bundles: leave `format` out"
            }
            _ if [self.spool, self.keep, self.whole_every].contains(&0) => {
                "spool, keep and whole_every must be at least 1"
            }
            _ if [self.interval, self.timeout]
                .iter()
                .any(|seconds| !SECONDS.contains(seconds)) =>
            {
                "interval and timeout are 1 to 604800 seconds"
            }
            _ if [self.spool, self.keep].iter().any(|mib| *mib > 1 << 24) => {
                "spool and keep: at most 16777216 MiB"
            }
            _ => match self
                .pods
                .iter()
                .find(|uid| cgpath_evidence::PodUid::parse(uid.as_bytes()).is_none())
            {
                Some(uid) => return Err(format!("sink {name}: {uid:?} is not a pod's UID")),
                None => return Ok(()),
            },
        };
        Err(format!("sink {name}: {why}"))
    }
}
