//! JSON Schemas (draft 2020-12) of the policy files and of the reference file, generated from the types that
//! read them.
//!
//! They are committed under `policy/reference/`; a test compares.

/// The schema of a node policy (YAML is JSON's superset: editors check YAML with it).
pub fn node_policy() -> serde_json::Value {
    schemars::schema_for!(crate::NodePolicy).to_value()
}

/// The schema of the workload part of a policy.
pub fn workloads() -> serde_json::Value {
    schemars::schema_for!(crate::WorkloadsFile).to_value()
}

/// The schema of a tenant's policy.
pub fn tenant_policy() -> serde_json::Value {
    schemars::schema_for!(crate::lookup::TenantPolicy).to_value()
}

/// The schema of a reference file.
pub fn reference() -> serde_json::Value {
    schemars::schema_for!(crate::reference::ReferenceFile).to_value()
}
