//! Every decoder as a function of bytes that must not panic, hang or take memory beyond what it was given.
//!
//! The same targets run in three ways: over the committed corpus, under a deterministic mutator in plain
//! tests (`tests/targets.rs`), and under libFuzzer (`libfuzzer/`, with `cargo xtask soak --step libfuzzer` or
//! `cargo fuzz`). A target also checks what must hold of anything that decodes: that it encodes to the same
//! bytes, or that chunks do not matter.
//!
//! # Every target over the same bytes
//!
//! ```no_run
//! for target in fuzz::all() {
//!     println!("{}: {} seeds", target.name, (target.seeds)().len());
//!     (target.run)(b"neither evidence nor a policy");
//! }
//! ```
#![forbid(unsafe_code)]

pub mod mutate;
pub mod seeds;
pub mod targets;

/// A decoder under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of the target, of its corpus directory and of its libFuzzer binary.
    pub name: &'static str,
    /// Runs it; panics if what must hold does not.
    pub run: fn(&[u8]),
    /// Inputs to begin with, by name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Calls the macro `$with` with the names of the targets, each a function in [`targets`] and in [`seeds`].
#[macro_export]
macro_rules! for_each_target {
    ($with:ident) => {
        $with! {
            list_any list_binary list_ascii list_entry
            evidence_cbor evidence_json evidence_part record_cbor checkpoint_file partition_key
            tenant_cbor partition_proof ear_token
            tpm_attest tpm_signature tpm_public tpm_pcr_selection tpm_pcr_blob
            td_quote td_register_log td_ccel td_collateral
            boot_log cgroup_path policy_node policy_reference policy_corim ima_policy
        }
    };
}

/// The same for the targets that need the collector.
#[macro_export]
macro_rules! for_each_collector_target {
    ($with:ident) => {
        $with! {
            collector_record collector_spool collector_config answer_nonce answer_verdict
        }
    };
}

/// The same for the target that needs the verifier's service.
#[macro_export]
macro_rules! for_each_service_target {
    ($with:ident) => {
        $with! {
            serve_request
        }
    };
}

macro_rules! table {
    ($($name:ident)*) => {
        [$(Target { name: stringify!($name), run: targets::$name, seeds: seeds::$name }),*]
    };
}

/// All targets.
pub fn all() -> Vec<Target> {
    let all = Vec::from(for_each_target!(table));
    #[cfg(feature = "collector")]
    let all = [all, Vec::from(for_each_collector_target!(table))].concat();
    #[cfg(feature = "service")]
    let all = [all, Vec::from(for_each_service_target!(table))].concat();
    all
}
