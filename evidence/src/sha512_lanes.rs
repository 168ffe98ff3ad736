//! SHA-384 and SHA-512 of many messages at once.
//!
//! Promises: the same digests as [`Bank::hash`], whatever the processor. Messages of equally many blocks are
//! hashed side by side, one in each lane of the vector registers, and SHA-384 and SHA-512 of one message
//! share its schedule. Safe code over arrays, which the compiler turns into vector instructions for the
//! processor that is found at run time.
//! Not here: hashes of one message (see [`Bank::hash_into`]); SHA-1 and SHA-256, for which processors have
//! instructions that are faster than lanes.
//!
//! Source: FIPS 180-4, sections 4.1.3, 4.2.3, 5.1.2, 5.3.4, 5.3.5 and 6.4.

use crate::Bank;
use crate::digest::initial;

/// Messages that are hashed side by side.
const LANES: usize = 8;
const BLOCK_LEN: usize = 128;
const ROUNDS: usize = 80;

/// Longer messages are better hashed alone: few have as many blocks, and lanes would stay empty.
const MAX_BLOCKS: usize = 8;

/// One word of each message.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Words([u64; LANES]);

impl Words {
    const ZERO: Words = Words([0; LANES]);

    #[inline(always)]
    fn map(self, f: impl Fn(u64) -> u64) -> Words {
        let mut out = [0; LANES];
        for (out, word) in out.iter_mut().zip(self.0) {
            *out = f(word);
        }
        Words(out)
    }

    #[inline(always)]
    fn zip(self, other: Words, f: impl Fn(u64, u64) -> u64) -> Words {
        let mut out = self.0;
        for (out, word) in out.iter_mut().zip(other.0) {
            *out = f(*out, word);
        }
        Words(out)
    }

    #[inline(always)]
    fn add(self, other: Words) -> Words {
        self.zip(other, u64::wrapping_add)
    }

    /// Bits of `a` where `self` has a one, of `b` where it has a zero.
    #[inline(always)]
    fn choose(self, a: Words, b: Words) -> Words {
        // The same as (s & a) ^ (!s & b).
        self.zip(a.zip(b, |a, b| a ^ b), |s, differs| s & differs)
            .zip(b, |kept, b| kept ^ b)
    }

    #[inline(always)]
    fn majority(self, a: Words, b: Words) -> Words {
        // The same as (s & a) ^ (s & b) ^ (a & b).
        let either = a.zip(b, |a, b| a | b).zip(self, |either, s| either & s);
        a.zip(b, |a, b| a & b).zip(either, |both, either| both | either)
    }
}

/// Blocks of a message of `len` bytes with its padding.
const fn blocks(len: usize) -> usize {
    (len + 1 + 16).div_ceil(BLOCK_LEN)
}

/// Block `n` of a message with its padding.
#[inline(always)]
fn block(message: &[u8], n: usize) -> [u8; BLOCK_LEN] {
    let rest = message.get(n * BLOCK_LEN..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk() {
        return *whole;
    }
    let mut block = [0; BLOCK_LEN];
    block[..rest.len()].copy_from_slice(rest);
    if n * BLOCK_LEN <= message.len() {
        block[rest.len()] = 0x80;
    }
    if n + 1 == blocks(message.len()) {
        let bits = message.len() as u128 * 8;
        block[BLOCK_LEN - 16..].copy_from_slice(&bits.to_be_bytes());
    }
    block
}

/// Messages of `count` blocks each.
struct Group<'a> {
    messages: [&'a [u8]; LANES],
    count: usize,
}

impl pulp::WithSimd for Group<'_> {
    /// The states of SHA-384 and of SHA-512.
    type Output = [[Words; 8]; 2];

    // Inlined, as all that it calls is, into a function that is compiled for the processor's instructions.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
        let mut states = [initial::SHA384, initial::SHA512].map(|iv| iv.map(|word| Words([word; LANES])));
        let mut schedule = [Words::ZERO; ROUNDS];
        for n in 0..self.count {
            for (lane, message) in self.messages.iter().enumerate() {
                let block = block(message, n);
                for (words, bytes) in schedule.iter_mut().zip(block.as_chunks().0) {
                    words.0[lane] = u64::from_be_bytes(*bytes);
                }
            }
            for t in 16..ROUNDS {
                let s0 = schedule[t - 15].map(|w| w.rotate_right(1) ^ w.rotate_right(8) ^ (w >> 7));
                let s1 = schedule[t - 2].map(|w| w.rotate_right(19) ^ w.rotate_right(61) ^ (w >> 6));
                schedule[t] = schedule[t - 16].add(s0).add(schedule[t - 7].add(s1));
            }
            for state in &mut states {
                rounds(state, &schedule);
            }
        }
        states
    }
}

#[inline(always)]
fn rounds(state: &mut [Words; 8], schedule: &[Words; ROUNDS]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (words, k) in schedule.iter().zip(K) {
        let s1 = e.map(|w| w.rotate_right(14) ^ w.rotate_right(18) ^ w.rotate_right(41));
        let t1 = h
            .add(s1)
            .add(e.choose(f, g).add(words.map(|w| w.wrapping_add(k))));
        let s0 = a.map(|w| w.rotate_right(28) ^ w.rotate_right(34) ^ w.rotate_right(39));
        let t2 = s0.add(a.majority(b, c));
        (h, g, f, e) = (g, f, e, d.add(t1));
        (d, c, b, a) = (c, b, a, t1.add(t2));
    }
    for (old, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *old = old.add(new);
    }
}

/// Computes SHA-384 and SHA-512 of each message and gives them to `each` with what the message came with, in
/// any order: digests in the first bytes, zeros behind them. Messages that are better hashed alone are left
/// out.
pub(crate) fn sha384_and_sha512(
    messages: &[(usize, &[u8])],
    mut each: impl FnMut(usize, [u8; Bank::MAX_LEN], [u8; Bank::MAX_LEN]),
) {
    let processor = pulp::Arch::new();
    if cfg!(not(target_arch = "x86_64")) || matches!(processor, pulp::Arch::Scalar) {
        return;
    }
    for count in 1..=MAX_BLOCKS {
        let mut group = [&[][..]; LANES];
        let mut names = [0; LANES];
        let mut filled = 0;
        let mut rest = messages
            .iter()
            .filter(|(_, message)| blocks(message.len()) == count);
        loop {
            let next = rest.next();
            if let Some((name, message)) = next {
                (names[filled], group[filled]) = (*name, message);
                filled += 1;
            }
            // Where fewer than half of the lanes would be filled, one by one is as fast; what else is left
            // over in the lanes of the last group is hashed again, for nothing.
            if filled == LANES || (next.is_none() && filled >= LANES / 2) {
                let first = group[0];
                group[filled..].fill(first);
                let [short, long] = processor.dispatch(Group {
                    messages: group,
                    count,
                });
                for (lane, name) in names[..filled].iter().enumerate() {
                    each(
                        *name,
                        digest(&short, lane, Bank::Sha384),
                        digest(&long, lane, Bank::Sha512),
                    );
                }
                filled = 0;
            }
            if next.is_none() {
                break;
            }
        }
    }
}

fn digest(state: &[Words; 8], lane: usize, bank: Bank) -> [u8; Bank::MAX_LEN] {
    let mut out = [0; Bank::MAX_LEN];
    for (bytes, words) in out[..bank.len()].as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = words.0[lane].to_be_bytes();
    }
    out
}

/// Fractions of the cube roots of the first eighty primes.
const K: [u64; 80] = [
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
    0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538,
    0x59f1_11f1_b605_d019,
    0x923f_82a4_af19_4f9b,
    0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242,
    0x1283_5b01_4570_6fbe,
    0x2431_85be_4ee4_b28c,
    0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f,
    0x80de_b1fe_3b16_96b1,
    0x9bdc_06a7_25c7_1235,
    0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2,
    0xefbe_4786_384f_25e3,
    0x0fc1_9dc6_8b8c_d5b5,
    0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275,
    0x4a74_84aa_6ea6_e483,
    0x5cb0_a9dc_bd41_fbd4,
    0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab,
    0xa831_c66d_2db4_3210,
    0xb003_27c8_98fb_213f,
    0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2,
    0xd5a7_9147_930a_a725,
    0x06ca_6351_e003_826f,
    0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc,
    0x2e1b_2138_5c26_c926,
    0x4d2c_6dfc_5ac4_2aed,
    0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de,
    0x766a_0abb_3c77_b2a8,
    0x81c2_c92e_47ed_aee6,
    0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364,
    0xa81a_664b_bc42_3001,
    0xc24b_8b70_d0f8_9791,
    0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218,
    0xd699_0624_5565_a910,
    0xf40e_3585_5771_202a,
    0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8,
    0x1e37_6c08_5141_ab53,
    0x2748_774c_df8e_eb99,
    0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63,
    0x4ed8_aa4a_e341_8acb,
    0x5b9c_ca4f_7763_e373,
    0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc,
    0x78a5_636f_4317_2f60,
    0x84c8_7814_a1f0_ab72,
    0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28,
    0xa450_6ceb_de82_bde9,
    0xbef9_a3f7_b2c6_7915,
    0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c,
    0xd186_b8c7_21c0_c207,
    0xeada_7dd6_cde0_eb1e,
    0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba,
    0x0a63_7dc5_a2c8_98a6,
    0x113f_9804_bef9_0dae,
    0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84,
    0x32ca_ab7b_40c7_2493,
    0x3c9e_be0a_15c9_bebc,
    0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6,
    0x597f_299c_fc65_7e2a,
    0x5fcb_6fab_3ad6_faec,
    0x6c44_198c_4a47_5817,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_length_have_the_digests_that_they_have_alone() {
        // Nine of each length, so that lanes are full and left over; up to where messages are hashed alone.
        let lens: Vec<usize> = (0..1200).flat_map(|n| [n; 9]).collect();
        let bytes: Vec<u8> = (0..2400u32).map(|n| (n * n % 251) as u8).collect();
        let messages: Vec<(usize, &[u8])> = lens
            .iter()
            .enumerate()
            .map(|(n, len)| (n, &bytes[n % 1000..][..*len]))
            .collect();
        let mut done = 0;
        sha384_and_sha512(&messages, |index, short, long| {
            done += 1;
            let message = [messages[index].1];
            let (mut a, mut b) = ([0; Bank::MAX_LEN], [0; Bank::MAX_LEN]);
            Bank::Sha384.hash_into(&message, &mut a);
            Bank::Sha512.hash_into(&message, &mut b);
            assert_eq!((a, b), (short, long), "{} bytes", message[0].len());
        });
        let vectors = cfg!(target_arch = "x86_64") && !matches!(pulp::Arch::new(), pulp::Arch::Scalar);
        assert_eq!(done > 8000, vectors, "{done}");
    }
}
