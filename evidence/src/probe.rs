//! The files that `cgpathd check` executes and maps to find out whether IMA measures them.
//!
//! What a probe leaves in the measurement list stays until the next boot. So that it costs no node its trust,
//! the contents are fixed and harmless and the verifier accepts exactly them, at exactly these paths.

use crate::Digest;

/// The file that is executed. Not below /run: that is often mounted without the right to execute.
pub const RUN_PATH: &str = "/var/lib/ima-cgpath/probe/run";
/// The file that is mapped executable.
pub const MAP_PATH: &str = "/var/lib/ima-cgpath/probe/map";

/// A content seen before in a boot leaves no second entry, so there are several; never more than this in one
/// boot.
pub const CONTENTS: u32 = 64;

/// The content of the probe with this number, from 0; a script that does nothing.
pub fn content(number: u32) -> Vec<u8> {
    format!("#!/bin/true\n# Probe {number} of `cgpathd check`: it does nothing, and verifiers accept it.\n")
        .into_bytes()
}

/// The number of the probe that has this path and content; `None` if it is none.
pub fn number(path: &[u8], digest: &Digest) -> Option<u32> {
    let is_probe = path == RUN_PATH.as_bytes() || path == MAP_PATH.as_bytes();
    is_probe.then(|| (0..CONTENTS).find(|n| digest.bank().hash(&[&content(*n)]) == *digest))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bank;

    #[test]
    fn a_probe_is_known_by_path_and_content_together() {
        for bank in Bank::ALL {
            for n in [0, 1, CONTENTS - 1] {
                assert_eq!(number(RUN_PATH.as_bytes(), &bank.hash(&[&content(n)])), Some(n));
                assert_eq!(number(MAP_PATH.as_bytes(), &bank.hash(&[&content(n)])), Some(n));
            }
            assert_eq!(
                number(RUN_PATH.as_bytes(), &bank.hash(&[&content(CONTENTS)])),
                None
            );
            assert_eq!(number(b"/tmp/run", &bank.hash(&[&content(0)])), None);
        }
    }
}
