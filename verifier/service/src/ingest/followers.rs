//! Followers of nodes in memory: as many as fit, those that were of use last.
//!
//! Nothing is lost with one that does not fit: the node's next round is then appraised whole. Not here: what
//! a follower does (see `cgpath_appraisal::follow`).

use cgpath_appraisal::follow::Follower;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that followers take at most by default.
pub const MEMORY: usize = 1 << 30;

#[derive(Debug, Default)]
struct Held {
    by_node: HashMap<String, (Follower, usize, u64)>,
    bytes: usize,
    turn: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Followers {
    held: Mutex<Held>,
    limit: usize,
}

impl Default for Followers {
    fn default() -> Followers {
        Followers::new(MEMORY)
    }
}

impl Followers {
    /// Followers that take `limit` bytes at most.
    pub fn new(limit: usize) -> Followers {
        Followers {
            held: Mutex::default(),
            limit,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The follower of a node; it is not held any more, so that one which failed is not used again.
    pub fn take(&self, node: &str) -> Option<Follower> {
        let mut held = self.held();
        let (follower, bytes, _) = held.by_node.remove(node)?;
        held.bytes -= bytes;
        Some(follower)
    }

    /// Holds a follower; others that were not used for long go.
    pub fn put(&self, node: &str, follower: Follower) {
        let bytes = follower.weight();
        self.take(node);
        if bytes > self.limit {
            return;
        }
        let mut held = self.held();
        while held.bytes + bytes > self.limit {
            let Some(oldest) = held
                .by_node
                .iter()
                .min_by_key(|(_, (_, _, turn))| *turn)
                .map(|(name, _)| name.clone())
            else {
                break;
            };
            if let Some((_, bytes, _)) = held.by_node.remove(&oldest) {
                held.bytes -= bytes;
            }
        }
        held.turn += 1;
        let turn = held.turn;
        held.bytes += bytes;
        held.by_node.insert(node.to_owned(), (follower, bytes, turn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_testkit::{KeyKind, Node};

    fn follower() -> Follower {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        let evidence = node.attest(&[1; 32]);
        let (policy, context) = (node.policy(), node.context(&[1; 32], None));
        let begun = Follower::begin(&evidence, &policy, &context, &[], context.now).unwrap();
        begun.1.unwrap()
    }

    #[test]
    fn what_was_not_used_for_long_goes_first_and_the_limit_holds() {
        let one = follower().weight();
        let followers = Followers::new(2 * one + 1);
        for node in ["a", "b"] {
            followers.put(node, follower());
        }
        let a = followers.take("a").unwrap();
        followers.put("a", a);
        followers.put("c", follower());
        assert!(followers.take("b").is_none());
        assert!(followers.take("a").is_some() && followers.take("c").is_some());
        assert_eq!(followers.held().bytes, 0);
        let none = Followers::new(one - 1);
        none.put("a", follower());
        assert!(none.take("a").is_none());
    }
}
