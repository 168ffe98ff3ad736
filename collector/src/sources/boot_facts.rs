//! What the kernel shows of the time before IMA began: the firmware's event log and the command line.
//!
//! Promise: what is not there is absent, never empty, and the log says why; nothing longer than its limit is
//! held. Not here: what is in the log (see `cgpath_evidence::boot`).

use cgpath_evidence::boot::MAX_LOG_LEN;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The log of the TPM that the kernel uses. Source: drivers/char/tpm/eventlog/common.c.
const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// The log of a trust domain's firmware. Source: drivers/acpi/sysfs.c, `acpi_table_data_init`.
const CCEL: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// The kernel's command line, with a newline at its end.
const COMMAND_LINE: &str = "/proc/cmdline";
/// A command line is never longer than this many bytes. COMMAND_LINE_SIZE is 2,048 on x86.
const MAX_COMMAND_LINE: usize = 64 * 1024;

/// None of them changes while the system runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootFacts {
    /// `binary_bios_measurements`.
    pub log: Option<Vec<u8>>,
    /// The log of a trust domain's firmware.
    pub ccel: Option<Vec<u8>>,
    /// `/proc/cmdline` without its newline.
    pub command_line: Option<Vec<u8>>,
}

impl BootFacts {
    /// Reads the logs that belong to what signs for the node, and the command line. What cannot be read is
    /// absent, with a warning.
    pub fn read(has_tpm: bool, has_td: bool) -> BootFacts {
        let log = has_tpm.then_some(Path::new(LOG));
        let ccel = has_td.then_some(Path::new(CCEL));
        BootFacts::read_from(log, ccel, Path::new(COMMAND_LINE))
    }

    fn read_from(log: Option<&Path>, ccel: Option<&Path>, command_line: &Path) -> BootFacts {
        let whole = |path: &Path, consequence| {
            let log = or_warn(path, bounded(path, MAX_LOG_LEN), consequence);
            // A kernel without a log from its firmware shows no file, or an empty one.
            log.filter(|log| !log.is_empty())
        };
        let log = log.and_then(|log| whole(log, "the evidence states that there is no boot log"));
        let ccel =
            ccel.and_then(|ccel| whole(ccel, "the evidence states no log of the trust domain's firmware"));
        let line = or_warn(
            command_line,
            bounded(command_line, MAX_COMMAND_LINE),
            "the evidence does not tell the command line",
        );
        let line = line.map(|mut line| {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            line
        });
        BootFacts {
            log,
            ccel,
            command_line: line,
        }
    }
}

fn or_warn(path: &Path, read: io::Result<Vec<u8>>, consequence: &str) -> Option<Vec<u8>> {
    read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "{consequence}"))
        .ok()
}

fn bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_empty_or_too_long_is_stated_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        let (log, line) = (dir.path().join("log"), dir.path().join("line"));
        assert_eq!(
            BootFacts::read_from(Some(&log), None, &line),
            BootFacts::default()
        );
        std::fs::write(&log, b"").unwrap();
        std::fs::write(&line, b"quiet\n").unwrap();
        let facts = BootFacts::read_from(Some(&log), None, &line);
        assert_eq!((facts.log, facts.command_line), (None, Some(b"quiet".to_vec())));
        std::fs::write(&log, b"log").unwrap();
        let facts = BootFacts::read_from(None, Some(&log), &line);
        assert_eq!((facts.log, facts.ccel), (None, Some(b"log".to_vec())));
        std::fs::write(&line, vec![b'x'; MAX_COMMAND_LINE + 1]).unwrap();
        let facts = BootFacts::read_from(Some(&log), None, &line);
        assert_eq!((facts.log, facts.command_line), (Some(b"log".to_vec()), None));
    }
}
