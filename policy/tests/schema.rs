//! The committed JSON Schemas are the ones that the types give.
//! `UPDATE_SCHEMA=1 cargo test -p cgpath-policy schema` writes them anew.

use std::path::Path;

fn is_up_to_date(name: &str, schema: &serde_json::Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference").join(name);
    let wanted = serde_json::to_string_pretty(schema).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert!(
        found == wanted,
        "{name} is out of date: run UPDATE_SCHEMA=1 cargo test -p cgpath-policy schema"
    );
}

#[test]
fn the_committed_schema_of_a_node_policy_is_up_to_date() {
    is_up_to_date("node-policy.schema.json", &cgpath_policy::schema::node_policy());
}

#[test]
fn the_committed_schema_of_workloads_is_up_to_date() {
    is_up_to_date("workloads.schema.json", &cgpath_policy::schema::workloads());
}

#[test]
fn the_committed_schema_of_a_tenants_policy_is_up_to_date() {
    is_up_to_date(
        "tenant-policy.schema.json",
        &cgpath_policy::schema::tenant_policy(),
    );
}

#[test]
fn the_committed_schema_of_a_reference_file_is_up_to_date() {
    is_up_to_date("reference.schema.json", &cgpath_policy::schema::reference());
}

/// The keys of a schema's object, those of parts as `part.key`; of items of a list only the list.
fn keys(schema: &serde_json::Value, object: &serde_json::Value, before: &str, all: &mut Vec<String>) {
    let named = object["$ref"].as_str().and_then(|name| name.strip_prefix('#'));
    let object = named.and_then(|name| schema.pointer(name)).unwrap_or(object);
    for part in ["anyOf", "oneOf", "allOf"] {
        for other in object[part].as_array().into_iter().flatten() {
            keys(schema, other, before, all);
        }
    }
    for (key, of) in object["properties"].as_object().into_iter().flatten() {
        let count = all.len();
        keys(schema, of, &format!("{before}{key}."), all);
        if all.len() == count {
            all.push(format!("{before}{key}"));
        }
    }
}

/// Under this heading of the readme is a row for each key of the schema; `one` of them.
fn all_keys_stand_under(heading: &str, schema: &serde_json::Value, least: usize, one: &str) {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let mut all = Vec::new();
    keys(schema, schema, "", &mut all);
    assert!(all.len() >= least && all.contains(&one.to_owned()), "{all:?}");
    let section = readme.lines().skip_while(|line| *line != heading).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows: String = section.filter(|line| line.starts_with("| `")).collect();
    let missing: Vec<&String> = all
        .iter()
        .filter(|key| !rows.contains(&format!("`{key}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "policy/README.md does not describe {missing:?}"
    );
}

#[test]
fn every_key_of_a_node_policy_stands_in_the_readme() {
    let heading = "## Node policy: one YAML file for each node";
    let schema = cgpath_policy::schema::node_policy();
    all_keys_stand_under(heading, &schema, 26, "guard.at-least");
}

#[test]
fn every_key_of_workloads_stands_in_the_readme() {
    let heading = "## Workloads: one YAML file for many nodes";
    let schema = cgpath_policy::schema::workloads();
    all_keys_stand_under(heading, &schema, 4, "unknown-pods");
}

#[test]
fn every_key_of_a_tenants_policy_stands_in_the_readme() {
    let heading = "## A tenant's policy: one YAML file for one pod";
    let schema = cgpath_policy::schema::tenant_policy();
    all_keys_stand_under(heading, &schema, 11, "permit-violations");
}
