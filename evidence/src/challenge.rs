//! Nonces of tenants' own: one nonce of a verifier commits to those that were asked for, and shows each of
//! them to be answered.
//!
//! Pure. A verifier's nonce has [`COMMITMENT`] at a fixed place, and an [`Opening`] shows what it commits to.
//! Promise: who draws a challenge at random and sees it opened knows that the nonce was made after that, and
//! needs nobody's word for it. Not here: how a nonce is made and known again (see `cgpath-service`), when a
//! challenge is taken (see there), what a quote says (see `tpm`).

use crate::{Bank, Error, Result, merkle::Hash};
use core::ops::Range;

/// Bytes of a verifier's nonce. Another nonce commits to nothing.
pub const NONCE_LEN: usize = 32;
/// Where the commitment stands in it.
pub const COMMITMENT: Range<usize> = 4..20;
/// Bytes of a commitment: SHA-256, cut. A second opening of a nonce that was there before takes 2^128 tries.
pub const COMMITMENT_LEN: usize = 16;
/// An opening never has more challenges.
pub const MAX_CHALLENGES: usize = 128;

/// What is hashed before an opening's bytes.
const LABEL: &[u8] = b"ima-cgpath challenges v1";
/// A salt, a challenge's digest.
const ITEM: usize = 32;

/// What a nonce commits to: a salt of the verifier's, then SHA-256 of each challenge, 32 bytes each.
///
/// The salt keeps the nonce new for the verifier, too: no asker knows it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening(Vec<u8>);

/// SHA-256 of a challenge, as an opening has it.
pub fn digest(challenge: &[u8]) -> Hash {
    sha256(&[challenge])
}

fn sha256(parts: &[&[u8]]) -> Hash {
    Hash::try_from(Bank::Sha256.hash(parts).bytes()).expect("SHA-256 has 32 bytes")
}

impl Opening {
    /// An opening of the challenges with these digests, at most [`MAX_CHALLENGES`]: those beyond are left
    /// out.
    pub fn new(salt: [u8; ITEM], digests: impl IntoIterator<Item = Hash>) -> Opening {
        let mut bytes = salt.to_vec();
        digests
            .into_iter()
            .take(MAX_CHALLENGES)
            .for_each(|digest| bytes.extend(digest));
        Opening(bytes)
    }

    /// # Errors
    /// [`Error::Malformed`] for what is no salt with 1 to [`MAX_CHALLENGES`] digests.
    pub fn from_bytes(bytes: &[u8]) -> Result<Opening> {
        let len = bytes.len();
        let (items, rest) = (len / ITEM, len % ITEM);
        if rest == 0 && (2..=1 + MAX_CHALLENGES).contains(&items) {
            return Ok(Opening(bytes.to_vec()));
        }
        let wanted = format!("a salt and 1 to {MAX_CHALLENGES} digests, {ITEM} bytes each");
        Err(Error::malformed(
            0,
            format!("an opening of {len} bytes, not {wanted}"),
        ))
    }

    /// The salt and the digests.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many challenges there are.
    pub fn challenges(&self) -> usize {
        (self.0.len() / ITEM).saturating_sub(1)
    }

    /// What a nonce has at [`COMMITMENT`]: SHA-256 over a label and the opening's bytes, its first 16 bytes.
    pub fn commitment(&self) -> [u8; COMMITMENT_LEN] {
        let hash = sha256(&[LABEL, &self.0]);
        core::array::from_fn(|at| hash[at])
    }

    /// Whether this challenge is among them.
    pub fn holds(&self, challenge: &[u8]) -> bool {
        let wanted = digest(challenge);
        self.0.chunks_exact(ITEM).skip(1).any(|digest| digest == wanted)
    }

    /// Whether who answered `nonce` answered this challenge with it.
    pub fn is_answered_by(&self, nonce: &[u8], challenge: &[u8]) -> bool {
        nonce.len() == NONCE_LEN && nonce[COMMITMENT] == self.commitment() && self.holds(challenge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        Opening::new([7; 32], [digest(b"mine"), digest(b"another's")])
    }

    fn nonce(commitment: [u8; COMMITMENT_LEN]) -> Vec<u8> {
        [&[1; 4][..], &commitment, &[2; 12]].concat()
    }

    #[test]
    fn a_nonce_answers_what_it_commits_to_and_nothing_else() {
        let (opening, nonce) = (opening(), nonce(opening().commitment()));
        assert!(opening.is_answered_by(&nonce, b"mine") && opening.is_answered_by(&nonce, b"another's"));
        assert!(!opening.is_answered_by(&nonce, b"a third one's"));
        // The salt is no challenge, and a digest is not what it is of.
        assert!(!Opening::new(digest(b"salt"), [digest(b"mine")]).holds(b"salt"));
        assert!(!opening.holds(&digest(b"mine")));
        for bit in 0..COMMITMENT_LEN * 8 {
            let mut other = nonce.clone();
            other[COMMITMENT.start + bit / 8] ^= 1 << (bit % 8);
            assert!(!opening.is_answered_by(&other, b"mine"), "bit {bit}");
        }
        assert!(!opening.is_answered_by(&nonce[..31], b"mine"));
        assert!(!opening.is_answered_by(&[&nonce[..], &[0]].concat(), b"mine"));
        assert!(!opening.is_answered_by(b"", b"mine"));
    }

    #[test]
    fn every_byte_of_an_opening_counts() {
        let nonce = nonce(opening().commitment());
        for at in 0..opening().as_bytes().len() {
            let mut bytes = opening().as_bytes().to_vec();
            bytes[at] ^= 1;
            let other = Opening::from_bytes(&bytes).unwrap();
            assert!(!other.is_answered_by(&nonce, b"mine"), "byte {at}");
        }
        let swapped = Opening::new([7; 32], [digest(b"another's"), digest(b"mine")]);
        assert!(swapped.holds(b"mine") && !swapped.is_answered_by(&nonce, b"mine"));
    }

    #[test]
    fn an_opening_has_a_salt_and_a_bounded_number_of_digests() {
        assert_eq!(Opening::from_bytes(opening().as_bytes()), Ok(opening()));
        assert_eq!(opening().challenges(), 2);
        for len in [0, 1, 31, 32, 63, 65, 32 * (MAX_CHALLENGES + 2)] {
            assert!(Opening::from_bytes(&vec![0; len]).is_err(), "{len}");
        }
        let most = Opening::new([0; 32], (0..=MAX_CHALLENGES).map(|n| digest(&n.to_be_bytes())));
        assert_eq!(most.challenges(), MAX_CHALLENGES);
        assert_eq!(Opening::from_bytes(most.as_bytes()), Ok(most));
    }
}
