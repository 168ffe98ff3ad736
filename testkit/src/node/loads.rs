//! What the kernel is handed as bytes.
//!
//! Promise: a record as our programs make it. Not here: what a verifier says of it.

use super::Node;
use crate::Actor;
use cgpath_evidence::{EventKind, FileHash, Load, Loaded, Record};

impl Node {
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
