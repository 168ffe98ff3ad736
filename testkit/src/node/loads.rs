//! What is loaded: our programs, and what the kernel is handed as bytes.
//!
//! Promise: records as our programs make them. Not here: what a verifier says of them.

use super::Node;
use crate::Actor;
use cgpath_evidence::{EventKind, FileHash, Load, Loaded, Record};

impl Node {
    /// Our programs are loaded behind the list as it is, of which they saw nothing, and seal checkpoint 0.
    pub fn load_again(&mut self) {
        self.checkpoints.clear();
        self.waiting.clear();
        self.seq = 0;
        self.boot_len = self.list.len() as u64;
        self.seal(None);
    }

    /// Our programs record that the kernel was handed something as bytes, with this hash of them.
    pub fn record_load(&mut self, actor: &Actor, what: Loaded, hash: FileHash) {
        let record = self.record(actor, EventKind::Load, b"");
        let size = if what == Loaded::Module { 4711 } else { 0 };
        self.waiting.push((
            actor.key(),
            Record {
                hash: Some(hash),
                load: Some(Box::new(Load { what, size })),
                dev: 0,
                ino: 0,
                ..record
            },
        ));
    }
}
