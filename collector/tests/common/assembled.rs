//! What an assembly of the test machine is, written.

use super::machine::BOOT_ID;
use cgpath_evidence::td::TdEvidence;
use cgpath_evidence::{Boot, Cursor, Quote, Tier};
use cgpathd::store::{Assembly, Header};
use std::io::Read as _;

/// What an assembly is with an empty quote: whether a delta, its bytes, and the cursor behind them.
pub fn written(assembly: Assembly, td: Option<TdEvidence>) -> (bool, Vec<u8>, Cursor) {
    let header = Header {
        tier: Tier::Bpf,
        node: "node".into(),
        boot_id: BOOT_ID,
        kernel: String::new(),
        pods: vec![],
        quote: Quote {
            attest: vec![],
            signature: vec![],
            ak: vec![],
        }
        .into(),
        boot: Boot {
            registers: vec![],
            log: None,
            command_line: None,
        },
        td,
    };
    let mut made = assembly.write(&header).unwrap();
    let mut bytes = Vec::new();
    made.file.read_to_end(&mut bytes).unwrap();
    (made.is_delta, bytes, made.reached.unwrap())
}
