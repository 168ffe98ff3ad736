//! Public data that nobody here wrote, at `../shared/vectors` beside the repository, for the tests of every
//! crate.
//!
//! Promise: a clone alone is enough, and says what it skips; where `CGPATH_REQUIRE_VECTORS=1`, nothing is
//! skipped.

use std::path::{Path, PathBuf};

/// The folder with these data. Where there is none, the test that asks ends and counts as skipped.
pub fn vectors() -> Option<PathBuf> {
    // A crate of the repository may lie at any depth.
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = above.find(|folder| folder.join("rust-toolchain.toml").is_file());
    let folder = root.expect("the repository's root").join("../shared/vectors");
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var_os("CGPATH_REQUIRE_VECTORS").is_some_and(|value| value == "1");
    assert!(
        !required,
        "no {}, and CGPATH_REQUIRE_VECTORS=1 says that it is there",
        folder.display()
    );
    // `cargo xtask test` counts a test that prints this line as skipped.
    println!("SKIPPED: no ../shared/vectors beside the repository");
    None
}

/// A file of it, by its path there.
pub fn vector(name: &str) -> Option<Vec<u8>> {
    let path = vectors()?.join(name);
    Some(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}
