//! What the configuration means to the parts of the daemon: orders of the eBPF programs, options of the TPM,
//! the node's name.
//!
//! Not here: what the parts do with it.

use super::{AnchorKind, Config, ConfigError, EnforceMode, FailClosedMode, TPM};
use crate::bpf::Orders;
use crate::tpm;
use std::time::Duration;

impl Config {
    /// What the eBPF programs are to do about others.
    pub fn orders(&self) -> Orders {
        Orders {
            guard: self.guard.mode,
            tpm: self.guard.tpm,
            untrusted: self.enforce.mode == EnforceMode::UntrustedPods,
            untrusted_mappings: self.enforce.mappings,
            untrusted_lapse: Duration::from_secs(self.enforce.lapse),
            loss: self.fail_closed.mode == FailClosedMode::Pods,
            loss_lapse: Duration::from_secs(self.fail_closed.lapse),
            budget: crate::bpf::Budget {
                burst: self.budget.burst,
                per_second: self.budget.per_second,
                entries: self.budget.entries,
            }
            .within(self.bpf.ring_bytes),
        }
    }

    /// What the node calls itself: the key `node`, or the host name.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if neither gives a name that fits into a URL's path.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        let name = if self.node.is_empty() {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_owned()
        } else {
            self.node.clone()
        };
        let fits = !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !name.starts_with('.');
        if fits {
            Ok(name)
        } else {
            Err(ConfigError::Value {
                key: "node",
                why: format!("{name:?} is not a node name (letters, digits, '-', '_', '.'; at most 253)"),
            })
        }
    }

    /// What is needed to reach the TPM and to make the attestation key.
    ///
    /// # Errors
    /// As [`Config::endorsement_auth`].
    pub fn tpm_options(&self) -> Result<tpm::TpmOptions, ConfigError> {
        Ok(tpm::TpmOptions {
            tcti: self.tpm.tcti.clone(),
            key: self.tpm.key,
            bank: self.tpm.bank,
            endorsement_auth: self.endorsement_auth()?,
        })
    }

    /// Whether the TPM signs for the node.
    pub fn has_tpm(&self) -> bool {
        self.quote.by.iter().any(|by| by == TPM)
    }

    /// The provider of configfs-tsm that signs for the node; `None` where none does.
    pub fn provider(&self) -> Option<&str> {
        self.quote.by.iter().map(String::as_str).find(|by| *by != TPM)
    }

    /// Whether checkpoints are anchored in PCR 10.
    pub fn anchors_in_pcr10(&self) -> bool {
        self.anchor.to.contains(&AnchorKind::Pcr10)
    }

    /// The RTMR in which checkpoints are anchored; `None` where they are not.
    pub fn anchor_rtmr(&self) -> Option<u8> {
        self.anchor
            .to
            .contains(&AnchorKind::Rtmr)
            .then_some(self.anchor.rtmr)
    }

    /// The bytes of `tpm.endorsement_auth`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for hex that is none and [`ConfigError::Read`] for a file that cannot be read.
    fn endorsement_auth(&self) -> Result<Vec<u8>, ConfigError> {
        let text = &self.tpm.endorsement_auth;
        if let Some(digits) = text.strip_prefix("hex:") {
            return hex::decode(digits).map_err(|e| ConfigError::Value {
                key: "tpm.endorsement_auth",
                why: e.to_string(),
            });
        }
        if let Some(path) = text.strip_prefix("file:") {
            return std::fs::read(path).map_err(|source| ConfigError::Read {
                path: path.into(),
                source,
            });
        }
        Ok(text.clone().into_bytes())
    }
}
