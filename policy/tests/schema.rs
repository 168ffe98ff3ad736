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
fn the_committed_schema_of_a_reference_file_is_up_to_date() {
    is_up_to_date("reference.schema.json", &cgpath_policy::schema::reference());
}
