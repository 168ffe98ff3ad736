//! Builds the eBPF object into the library if `CGPATH_BPF_OBJECT` names one.

use std::env;
use std::fs;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=CGPATH_BPF_OBJECT");
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("object.rs");
    let text = match env::var_os("CGPATH_BPF_OBJECT").filter(|v| !v.is_empty()) {
        Some(path) => {
            let path = Path::new(&path);
            println!("cargo::rerun-if-changed={}", path.display());
            let path = match path.canonicalize() {
                Ok(path) => path,
                Err(e) => {
                    println!(
                        "cargo::error=CGPATH_BPF_OBJECT={}: {e} (`cargo xtask ebpf` makes it)",
                        path.display()
                    );
                    return;
                }
            };
            format!("Some(include_bytes!({path:?}))")
        }
        None => "None".to_owned(),
    };
    fs::write(&out, text).expect("OUT_DIR can be written");
}
