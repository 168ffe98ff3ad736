//! Nonces of readers' own, which wait for the node's next round and are answered in it together.
//!
//! Promises: how many wait for a node is bounded and shared out among readers; who asks for a nonce in a
//! node's name uses up nothing, since the same one is given until it is answered or half its time is over.
//! All is in memory: after a restart readers ask again. Not here: who may ask (see `api::read`), what an
//! opening shows (see `cgpath_evidence::challenge`).

use crate::api::readers::ReaderId;
use crate::nonce::{LEN, Nonces, random};
use cgpath_evidence::PodUid;
use cgpath_evidence::challenge::{MAX_CHALLENGES, Opening, digest};
use cgpath_evidence::merkle::Hash;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long a challenge waits for a round, in seconds.
const WAIT: u64 = 600;
/// So many answered openings of a node are kept for streams that are behind.
const ANSWERED: usize = 8;

/// One that somebody asked for.
#[derive(Debug, Clone, Copy)]
struct Challenge {
    reader: ReaderId,
    pod: PodUid,
    digest: Hash,
    /// Until when it waits, in unix seconds.
    until: u64,
}

/// A nonce that was given to the node.
#[derive(Debug)]
struct Given {
    nonce: [u8; LEN],
    expires: u64,
    opening: Opening,
    challenges: Vec<Challenge>,
}

#[derive(Debug, Default)]
struct OfNode {
    waiting: Vec<Challenge>,
    /// Given and good, the newest last.
    given: Vec<Given>,
    /// The newest last.
    answered: VecDeque<Given>,
}

/// What readers asked for, of each node that is enrolled.
#[derive(Debug, Default)]
pub struct Challenges {
    nodes: Mutex<HashMap<String, OfNode>>,
}

/// A reader's share of what may wait for a node, where there are so many readers.
fn share(readers: usize) -> usize {
    (MAX_CHALLENGES / readers.max(1)).max(1)
}

impl Challenges {
    fn nodes(&self) -> MutexGuard<'_, HashMap<String, OfNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `challenge` wait for the next round of `node`, which must be enrolled; until when, in unix
    /// seconds. `None` where the reader's share, of `readers`, is used up, or too much waits in all.
    pub fn ask(
        &self,
        node: &str,
        (reader, readers): (ReaderId, usize),
        pod: PodUid,
        challenge: &[u8],
        now: u64,
    ) -> Option<u64> {
        let mut nodes = self.nodes();
        let waiting = &mut nodes.entry(node.to_owned()).or_default().waiting;
        waiting.retain(|waits| now < waits.until);
        let (digest, until) = (digest(challenge), now.saturating_add(WAIT));
        let same = |waits: &&mut Challenge| (waits.reader, waits.pod, waits.digest) == (reader, pod, digest);
        if let Some(waits) = waiting.iter_mut().find(same) {
            waits.until = until;
            return Some(until);
        }
        let own = waiting.iter().filter(|waits| waits.reader == reader).count();
        if waiting.len() >= MAX_CHALLENGES || own >= share(readers) {
            return None;
        }
        waiting.push(Challenge {
            reader,
            pod,
            digest,
            until,
        });
        Some(until)
    }

    /// The nonce for the next round of `node` and when it expires, in unix seconds: one that commits to what
    /// waits, where something does.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn nonce(&self, nonces: &Nonces, node: &str, now: u64) -> Result<([u8; LEN], u64), rand_core::Error> {
        let mut nodes = self.nodes();
        let Some(of) = nodes.get_mut(node) else {
            return nonces.make(node, now, None);
        };
        of.given.retain(|given| now < given.expires);
        if let Some(newest) = of.given.last() {
            if newest.expires - now > nonces.lifetime() / 2 {
                return Ok((newest.nonce, newest.expires));
            }
            // It may come to nothing: what it commits to waits again.
            for challenge in &newest.challenges {
                if of.waiting.iter().all(|waits| waits.digest != challenge.digest) {
                    of.waiting.push(*challenge);
                }
            }
        }
        of.waiting.retain(|waits| now < waits.until);
        if of.waiting.is_empty() {
            if of.given.is_empty() && of.answered.is_empty() {
                nodes.remove(node);
            }
            return nonces.make(node, now, None);
        }
        let taken = of.waiting.len().min(MAX_CHALLENGES);
        let digests = of.waiting.iter().take(taken).map(|waits| waits.digest);
        let opening = Opening::new(random()?, digests);
        let (nonce, expires) = nonces.make(node, now, Some(opening.commitment()))?;
        of.given.push(Given {
            nonce,
            expires,
            opening,
            challenges: of.waiting.drain(..taken).collect(),
        });
        Ok((nonce, expires))
    }

    /// The node answered `nonce`, and the verdict is kept.
    pub fn answered(&self, node: &str, nonce: &[u8]) {
        let mut nodes = self.nodes();
        let Some(of) = nodes.get_mut(node) else { return };
        let Some(at) = of.given.iter().position(|given| given.nonce == nonce) else {
            return;
        };
        let given = of.given.remove(at);
        let is_of = |digest: Hash| given.challenges.iter().any(|answered| answered.digest == digest);
        of.waiting.retain(|waits| !is_of(waits.digest));
        of.answered.push_back(given);
        if of.answered.len() > ANSWERED {
            of.answered.pop_front();
        }
    }

    /// What `nonce`, which the node answered, commits to, where somebody asked about this pod: an
    /// [`Opening`]'s bytes.
    pub fn opening(&self, node: &str, nonce: &[u8], pod: PodUid) -> Option<Vec<u8>> {
        let nodes = self.nodes();
        let of = nodes.get(node)?;
        // A verdict is kept before it is said here that it is.
        let mut all = of.answered.iter().chain(&of.given);
        let found = all.find(|given| given.nonce == nonce)?;
        let is_asked = found.challenges.iter().any(|challenge| challenge.pod == pod);
        is_asked.then(|| found.opening.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: PodUid = PodUid([1; 16]);
    const OTHER: PodUid = PodUid([2; 16]);
    /// The only reader.
    const ONE: (ReaderId, usize) = (ReaderId::LOCAL, 1);

    fn nonces() -> Nonces {
        Nonces::new([1; 32], 300)
    }

    fn opened(all: &Challenges, nonce: &[u8], pod: PodUid) -> Option<Opening> {
        let bytes = all.opening("n", nonce, pod)?;
        Some(Opening::from_bytes(&bytes).unwrap())
    }

    #[test]
    fn what_waits_is_in_the_next_nonce_and_opened_to_those_who_asked() {
        let (all, nonces) = (Challenges::default(), nonces());
        assert_eq!(all.ask("n", ONE, POD, b"mine", 1000), Some(1600));
        assert!(all.ask("n", ONE, OTHER, b"another's", 1000).is_some());
        let (nonce, expires) = all.nonce(&nonces, "n", 1001).unwrap();
        assert_eq!(nonces.check("n", &nonce, 1002), Ok(expires));
        for (pod, challenge) in [(POD, &b"mine"[..]), (OTHER, b"another's")] {
            let opening = opened(&all, &nonce, pod).unwrap();
            assert!(opening.is_answered_by(&nonce, challenge));
        }
        assert_eq!(opened(&all, &nonce, PodUid([3; 16])), None);
        assert_eq!(all.opening("m", &nonce, POD), None);
        // Other nodes, and the rounds after it, have nothing of it.
        let (other, _) = all.nonce(&nonces, "m", 1001).unwrap();
        assert_eq!(all.opening("m", &other, POD), None);
        all.answered("n", &nonce);
        let (later, _) = all.nonce(&nonces, "n", 1002).unwrap();
        assert_ne!(later, nonce);
        assert_eq!(opened(&all, &later, POD), None);
        assert!(opened(&all, &nonce, POD).is_some(), "streams may be behind");
    }

    #[test]
    fn strangers_who_ask_for_nonces_get_the_same_one_and_use_nothing_up() {
        let (all, nonces) = (Challenges::default(), nonces());
        all.ask("n", ONE, POD, b"mine", 1000).unwrap();
        let (nonce, _) = all.nonce(&nonces, "n", 1000).unwrap();
        for second in 0..150 {
            assert_eq!(all.nonce(&nonces, "n", 1000 + second).unwrap().0, nonce);
        }
        // Half of its time is over: another one answers the same, and the first is still good.
        let (second, _) = all.nonce(&nonces, "n", 1150).unwrap();
        assert_ne!(second, nonce);
        for given in [&nonce, &second] {
            assert!(opened(&all, given, POD).unwrap().is_answered_by(given, b"mine"));
        }
        for _ in 0..1000 {
            all.nonce(&nonces, "n", 1151).unwrap();
            all.nonce(&nonces, "nobody", 1151).unwrap();
        }
        let nodes = all.nodes();
        assert_eq!((nodes.len(), nodes["n"].given.len()), (1, 2));
    }

    #[test]
    fn what_came_to_nothing_waits_again_and_ends_with_its_time() {
        let (all, nonces) = (Challenges::default(), nonces());
        all.ask("n", ONE, POD, b"mine", 1000).unwrap();
        let mut last = None;
        for now in [1000, 1200, 1400, 1590] {
            let (nonce, _) = all.nonce(&nonces, "n", now).unwrap();
            assert!(opened(&all, &nonce, POD).is_some(), "{now}");
            assert_ne!(Some(nonce), last);
            last = Some(nonce);
        }
        let (nonce, _) = all.nonce(&nonces, "n", 1890).unwrap();
        assert_eq!(opened(&all, &nonce, POD), None);
        assert!(all.nodes().is_empty());
    }

    #[test]
    fn no_reader_takes_more_than_its_share_and_asking_again_takes_nothing() {
        let all = Challenges::default();
        for n in 0..MAX_CHALLENGES / 2 {
            for _ in 0..2 {
                let asked = all.ask("n", (ReaderId::LOCAL, 2), POD, &n.to_be_bytes(), 1000);
                assert!(asked.is_some(), "{n}");
            }
        }
        assert_eq!(all.ask("n", (ReaderId::LOCAL, 2), POD, b"more", 1000), None);
        assert!(all.ask("m", (ReaderId::LOCAL, 2), POD, b"more", 1000).is_some());
        // Where there are more readers than places, each has one, as long as there are.
        assert_eq!(share(1000), 1);
        // They go with their time.
        assert!(all.ask("n", (ReaderId::LOCAL, 2), POD, b"more", 1600).is_some());
    }

    #[test]
    fn answered_openings_are_kept_for_a_while_only() {
        let (all, nonces) = (Challenges::default(), nonces());
        let answer = |now: u64| {
            all.ask("n", ONE, POD, &now.to_be_bytes(), now).unwrap();
            let (nonce, _) = all.nonce(&nonces, "n", now).unwrap();
            all.answered("n", &nonce);
            nonce
        };
        let given: Vec<[u8; LEN]> = (1000..).take(ANSWERED + 1).map(answer).collect();
        assert_eq!(opened(&all, &given[0], POD), None);
        assert!(given[1..].iter().all(|nonce| opened(&all, nonce, POD).is_some()));
    }
}
