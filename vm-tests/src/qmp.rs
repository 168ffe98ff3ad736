//! QEMU's monitor, as far as a snapshot needs it: commands and their answers as lines of JSON over a socket.
//!
//! Promise: an answer that says `error` is an error here. Not here: what the commands are for (`snapshot`).
//! Source: QEMU, docs/interop/qmp-spec.rst.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::PATIENCE;

/// A connection to a monitor.
pub(crate) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// Connects and agrees on capabilities: none.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut monitor = Self(BufReader::new(stream));
        let greeting = monitor.line()?;
        if greeting["QMP"].is_null() {
            bail!("QEMU's monitor greets with {greeting}");
        }
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Gives a command and waits for what it returns.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = serde_json::to_vec(&json!({ "execute": command, "arguments": arguments }))?;
        line.push(b'\n');
        self.0
            .get_mut()
            .write_all(&line)
            .with_context(|| format!("telling QEMU: {command}"))?;
        loop {
            let mut answer = self
                .line()
                .with_context(|| format!("QEMU's answer to {command}"))?;
            if !answer["error"].is_null() {
                bail!("QEMU refuses {command}: {}", answer["error"]["desc"]);
            }
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
            // An event.
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
