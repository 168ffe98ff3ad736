//! Nonces that need no memory until they are answered.
//!
//! A nonce is `expires (4 bytes, big-endian unix seconds) || commitment (16) || HMAC-SHA256 over the node's
//! name and both, first 12`: the service knows its own again by the MAC. So asking for nonces, which anybody
//! can do, uses up nothing and cannot push out the nonce that an honest node waits with; and a nonce given
//! out before a crash is good after it. What was answered is remembered by the store until it expires, which
//! makes it single use. The commitment is to what readers asked for (see `challenges`); where nobody did, it
//! is random.
//! 32 bytes are what fits the qualifying data of a TPM that has SHA-256 alone (TPM2B_DATA, TPM 2.0 Part 2,
//! 10.4.3).

use cgpath_evidence::challenge::{COMMITMENT, COMMITMENT_LEN, NONCE_LEN};
use hmac::{Hmac, Mac};
use rand_core::{OsRng, RngCore};
use sha2::Sha256;

/// Bytes of a nonce.
pub const LEN: usize = NONCE_LEN;
/// Bytes of [`Nonces`]' key.
pub const KEY_LEN: usize = 32;

/// Bytes that nobody can know before.
///
/// # Errors
/// When the system gives no random numbers.
pub fn random<const N: usize>() -> Result<[u8; N], rand_core::Error> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes)
}

/// Why a nonce is not one that this service gave to this node and that is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNonce {
    /// Never given, or given to another node.
    #[error("this nonce was not given out by this verifier for this node")]
    Foreign,
    /// Its lifetime is over.
    #[error("this nonce expired {ago} s ago")]
    Expired {
        /// Seconds since.
        ago: u64,
    },
}

/// Makes nonces and knows them again.
#[derive(Clone)]
pub struct Nonces {
    key: [u8; KEY_LEN],
    /// Seconds.
    lifetime: u64,
}

impl core::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Nonces")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl Nonces {
    /// `key` is secret; nonces are good for `lifetime` seconds.
    pub fn new(key: [u8; KEY_LEN], lifetime: u64) -> Nonces {
        Nonces { key, lifetime }
    }

    fn mac(&self, node: &str, head: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(b"cgpath nonce v1");
        // The name's end is where the fixed-length rest begins: no two inputs are the same bytes.
        mac.update(node.as_bytes());
        mac.update(head);
        mac
    }

    /// For how long a nonce is good, in seconds.
    pub fn lifetime(&self) -> u64 {
        self.lifetime
    }

    /// A new nonce for `node` and when it expires, in unix seconds; with this commitment, or one to nothing.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make(
        &self,
        node: &str,
        now: u64,
        commitment: Option<[u8; COMMITMENT_LEN]>,
    ) -> Result<([u8; LEN], u64), rand_core::Error> {
        // The field ends in 2106.
        let expires = u32::try_from(now.saturating_add(self.lifetime)).unwrap_or(u32::MAX);
        let commitment = commitment.map_or_else(random, Ok)?;
        let mut nonce = [0; LEN];
        let (head, tag) = nonce.split_at_mut(COMMITMENT.end);
        head[..COMMITMENT.start].copy_from_slice(&expires.to_be_bytes());
        head[COMMITMENT].copy_from_slice(&commitment);
        let mac = self.mac(node, head).finalize().into_bytes();
        tag.copy_from_slice(&mac[..tag.len()]);
        Ok((nonce, expires.into()))
    }

    /// Whether `nonce` was made for `node` and is good at `now`; gives its expiry. Whether it was answered
    /// before is the store's knowledge.
    ///
    /// # Errors
    /// [`BadNonce`].
    pub fn check(&self, node: &str, nonce: &[u8], now: u64) -> Result<u64, BadNonce> {
        let (head, tag) = nonce.split_at_checked(COMMITMENT.end).ok_or(BadNonce::Foreign)?;
        if tag.len() != LEN - COMMITMENT.end || self.mac(node, head).verify_truncated_left(tag).is_err() {
            return Err(BadNonce::Foreign);
        }
        let expires = head[..COMMITMENT.start]
            .try_into()
            .map(u32::from_be_bytes)
            .map(u64::from)
            .map_err(|_| BadNonce::Foreign)?;
        if now >= expires {
            return Err(BadNonce::Expired { ago: now - expires });
        }
        Ok(expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_node_its_verifier_and_its_time_only() {
        let nonces = Nonces::new([1; 32], 60);
        let (nonce, expires) = nonces.make("n1", 1000, None).unwrap();
        assert_eq!(expires, 1060);
        let (committed, _) = nonces.make("n1", 1000, Some([7; 16])).unwrap();
        assert_eq!((&committed[COMMITMENT], committed.len()), (&[7; 16][..], LEN));
        assert_eq!(nonces.check("n1", &committed, 1059), Ok(1060));
        // Beyond what the field holds, it ends there.
        let (last, expires) = nonces.make("n1", u64::MAX, None).unwrap();
        assert_eq!(expires, u64::from(u32::MAX));
        assert_eq!(nonces.check("n1", &last, 1000), Ok(expires));
        assert_eq!(nonces.check("n1", &nonce, 1059), Ok(1060));
        assert_eq!(
            nonces.check("n1", &nonce, 1060),
            Err(BadNonce::Expired { ago: 0 })
        );
        assert_eq!(nonces.check("n2", &nonce, 1001), Err(BadNonce::Foreign));
        assert_eq!(
            Nonces::new([2; 32], 60).check("n1", &nonce, 1001),
            Err(BadNonce::Foreign)
        );
        assert_ne!(nonces.make("n1", 1000, None).unwrap().0, nonce);
    }

    #[test]
    fn every_changed_bit_and_every_other_length_is_foreign() {
        let nonces = Nonces::new([1; 32], 60);
        let (nonce, _) = nonces.make("n1", 1000, None).unwrap();
        for bit in 0..LEN * 8 {
            let mut other = nonce;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                nonces.check("n1", &other, 1001),
                Err(BadNonce::Foreign),
                "bit {bit}"
            );
        }
        for len in 0..LEN {
            assert_eq!(nonces.check("n1", &nonce[..len], 1001), Err(BadNonce::Foreign));
        }
        assert_eq!(
            nonces.check("n1", &[&nonce[..], &[0]].concat(), 1001),
            Err(BadNonce::Foreign)
        );
    }
}
