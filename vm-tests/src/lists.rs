//! A guest's measurement list and the register that belongs to it, and what our replay says of them.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::{PATIENCE, Vm, host};

/// Where the kernel shows its lists.
pub const LISTS: &str = "/sys/kernel/security/ima";

/// PCR 10 of a bank as lower-case hex, and the binary list that belongs to it: nothing was added between two
/// looks at the register.
///
/// # Errors
/// When the list grows all the time, or cannot be read.
pub fn at_rest(vm: &Vm, bank: &str) -> Result<(String, Vec<u8>)> {
    let register = format!("/sys/class/tpm/tpm0/pcr-{bank}/10");
    // A list for each bank is there from 6.10 on; the data of its entries are the same in all.
    let mut list = format!("{LISTS}/binary_runtime_measurements_{bank}");
    if vm.command(&["/usr/bin/test", "-e", &list]).run()?.code() != Some(0) {
        list = format!("{LISTS}/binary_runtime_measurements");
    }
    let begin = Instant::now();
    loop {
        let before = vm.get_text(&register)?;
        let bytes = vm.get(&list)?;
        if vm.get_text(&register)? == before {
            return Ok((before.trim().to_lowercase(), bytes));
        }
        ensure!(begin.elapsed() < PATIENCE, "the list does not come to rest");
    }
}

/// What `cgpath log replay --json` says of a list in a file.
///
/// # Errors
/// When it cannot be run or says nothing.
pub fn replay(list: &Path) -> Result<serde_json::Value> {
    let mut command = Command::new(host::built_binary("cgpath")?);
    let output = command.args(["log", "replay", "--json"]).arg(list).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("cgpath log replay said: {said}"))
}

/// The value that a replay ends with for PCR 10 of a bank.
///
/// # Errors
/// As [`replay`].
pub fn replayed(list: &[u8], bank: &str) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("list");
    std::fs::write(&file, list)?;
    let value = &replay(&file)?["pcrs"]["10"][bank];
    Ok(value
        .as_str()
        .with_context(|| format!("no bank {bank}"))?
        .to_owned())
}
