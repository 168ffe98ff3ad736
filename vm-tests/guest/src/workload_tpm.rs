//! Commands to the TPM as any other process of host root can send them, past the kernel's resource manager.
//!
//! Promises: commands go to the device as they are given and answers come back as they were read. Nothing is
//! cleaned up: what a command left in the TPM stays there until another one removes it. Not here: what the
//! commands mean.

use anyhow::{Context as _, Result};
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};

/// The bare device: objects that are made through it outlive its closing.
const DEVICE: &str = "/dev/tpm0";

/// The longest answer of the kernel's driver (TPM_BUFSIZE).
const MAX_ANSWER: usize = 4096;

/// Sends the commands (hex), one after the other; gives the answers (hex).
///
/// # Errors
/// When the device cannot be opened or a command is not hex. That a command fails is an answer, not an error.
pub fn send(commands: &[String]) -> Result<Vec<String>> {
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .with_context(|| format!("cannot open {DEVICE}"))?;
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        let command = hex::decode(command).context("a command that is not hex")?;
        device.write_all(&command).context("sending a command")?;
        let mut answer = vec![0; MAX_ANSWER];
        let n = device.read(&mut answer).context("reading an answer")?;
        answers.push(hex::encode(answer.get(..n).unwrap_or_default()));
    }
    Ok(answers)
}
