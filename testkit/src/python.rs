//! Where the programs of others are that tests run.

use std::path::{Path, PathBuf};

/// Python with schemathesis, as `cargo xtask test` makes it; what is not there fails.
pub fn schemathesis() -> PathBuf {
    find(
        "CGPATH_SCHEMATHESIS",
        "schemathesis-4.32.5",
        "schemathesis 4.32.5",
    )
}

/// Python with evidence-api, as `cargo xtask test` makes it; what is not there fails.
pub fn evidence_api() -> PathBuf {
    find("CGPATH_EVIDENCE_API", "evidence-api-0.5.0", "evidence-api 0.5.0")
}

/// Python with Keylime, jsonschema and decoders from PyPI, as `cargo xtask test` makes it; what is not there
/// fails.
pub fn python() -> PathBuf {
    find(
        "CGPATH_PYTHON",
        "foreign-1",
        "Keylime, jsonschema, cbor2, pycose and jwcrypto",
    )
}

fn find(variable: &str, environment: &str, packages: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let cache = std::env::var_os("CGPATH_CACHE").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))
            .map(|home| home.join("ima-cgpath"))
    });
    let python = cache.unwrap().join("tools").join(environment).join("bin/python");
    assert!(
        python.is_file(),
        "no {}: `cargo xtask test` makes it; or name a Python with {packages} in {variable}",
        python.display()
    );
    python
}
