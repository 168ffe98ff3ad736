//! SHA-256 of bytes in the kernel's memory (FIPS 180-4, section 6.2).
//!
//! The kernel offers programs no hash of memory, so it is computed here, block by block with `bpf_loop`: its
//! body is verified once, however many blocks there are. Promises: bounded by the length that is given; what
//! cannot be read gives no digest. All of it lies on the stack, since programs of two tasks can interleave on
//! one processor. Not here: what the bytes are.

use crate::kernel;
use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_loop, bpf_probe_read_kernel},
};

/// Bytes of a block.
const BLOCK: u64 = 64;

/// What the first state is.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// How far a hash is; the loop's body has only this.
#[repr(C)]
struct Hasher {
    state: [u32; 8],
    address: u64,
    size: u64,
    /// How many blocks there are, the padding's included.
    blocks: u64,
    /// Not 0 once a read failed.
    failed: i64,
}

/// Writes the digest of so many bytes at this address, as it is in memory. Gives whether there is one.
///
/// At most 2^29 bytes: `bpf_loop` goes round 2^23 times.
#[inline(always)]
pub fn hash(address: u64, size: u64, digest: &mut [u64; 4]) -> bool {
    // Behind the bytes come one of 0x80, zeros, and eight of the length in bits.
    let blocks = (size + 8) / BLOCK + 1;
    let mut hasher = Hasher {
        state: [0; 8],
        address,
        size,
        blocks,
        failed: 0,
    };
    for (i, word) in INITIAL.into_iter().enumerate() {
        // SAFETY: in bounds. One by one, so that the compiler makes no map of constants of them.
        unsafe { (&raw mut hasher.state[i]).write_volatile(word) };
    }
    let body = block as unsafe extern "C" fn(u64, *mut Hasher) -> u64;
    // SAFETY: the body gets the pointer that is given here, to what lives as long as the call.
    let done = unsafe { bpf_loop(blocks as u32, body as *mut c_void, (&raw mut hasher).cast(), 0) };
    let state = &raw const hasher.state;
    for (i, word) in digest.iter_mut().enumerate() {
        // SAFETY: in bounds of the state, which the body wrote through a pointer.
        let (first, second) = unsafe {
            (
                (&raw const (*state)[2 * i]).read_volatile(),
                (&raw const (*state)[2 * i + 1]).read_volatile(),
            )
        };
        *word = u64::from(first.to_be()) | u64::from(second.to_be()) << 32;
    }
    // SAFETY: as above.
    let failed = unsafe { (&raw const hasher.failed).read_volatile() };
    done == blocks as i64 && failed == 0
}

/// Constants of the rounds.
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// One round. The names of the state's words move by one from round to round, not their values.
macro_rules! round {
    ($a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident, $word:expr, $n:expr) => {
        let s = $e.rotate_right(6) ^ $e.rotate_right(11) ^ $e.rotate_right(25);
        let chosen = $g ^ ($e & ($f ^ $g));
        $h = $h
            .wrapping_add(s)
            .wrapping_add(chosen)
            .wrapping_add(K[$n])
            .wrapping_add($word);
        $d = $d.wrapping_add($h);
        let s = $a.rotate_right(2) ^ $a.rotate_right(13) ^ $a.rotate_right(22);
        let most = ($a & $b) | ($c & ($a | $b));
        $h = $h.wrapping_add(s).wrapping_add(most);
    };
}

/// Eight rounds from number `$n` on, after which each name stands for the word that it began with.
macro_rules! rounds {
    ($w:ident, $n:expr, $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
        round!($a, $b, $c, $d, $e, $f, $g, $h, $w($n), $n);
        round!($h, $a, $b, $c, $d, $e, $f, $g, $w($n + 1), $n + 1);
        round!($g, $h, $a, $b, $c, $d, $e, $f, $w($n + 2), $n + 2);
        round!($f, $g, $h, $a, $b, $c, $d, $e, $w($n + 3), $n + 3);
        round!($e, $f, $g, $h, $a, $b, $c, $d, $w($n + 4), $n + 4);
        round!($d, $e, $f, $g, $h, $a, $b, $c, $w($n + 5), $n + 5);
        round!($c, $d, $e, $f, $g, $h, $a, $b, $w($n + 6), $n + 6);
        round!($b, $c, $d, $e, $f, $g, $h, $a, $w($n + 7), $n + 7);
    };
}

/// The body of the loop: takes one block. Gives 0, which is to go on.
///
/// # Safety
/// `hasher` is the one of the loop.
unsafe extern "C" fn block(index: u64, hasher: *mut Hasher) -> u64 {
    let mut words = [0u32; 16];
    let w = &raw mut words;
    // SAFETY: fields of the hasher; words of the block. The latter stay in memory, and are read and written
    // there, so that they need no second place on the stack.
    unsafe {
        let (at, size) = (index * BLOCK, (&raw const (*hasher).size).read_volatile());
        let from = (&raw const (*hasher).address).read_volatile() + at;
        kernel::zero(w.cast::<[u64; 8]>());
        let mut failed = (&raw const (*hasher).failed).read_volatile();
        if at + BLOCK <= size {
            failed |= bpf_probe_read_kernel(w.cast(), BLOCK as u32, from as *const c_void);
        } else {
            let eights = w.cast::<u64>();
            if at <= size {
                let left = kernel::below_block(size - at);
                failed |= bpf_probe_read_kernel(w.cast(), left as u32, from as *const c_void);
                // Behind the last byte. Without a branch, so that the verifier walks what follows once; and a
                // place on the stack that is no constant would cost it all that it knows of the rest.
                let end = 0x80 << (8 * (left % 8));
                for n in 0..8 {
                    let eight = eights.add(n);
                    let is_there = kernel::differ(left / 8, n as u64).wrapping_sub(1);
                    eight.write_volatile(eight.read_volatile() | end & is_there);
                }
            }
            let blocks = (&raw const (*hasher).blocks).read_volatile();
            let is_last = kernel::differ(index + 1, blocks).wrapping_sub(1);
            let last = eights.add(7);
            last.write_volatile(last.read_volatile() | (size * 8).to_be() & is_last);
        }
        (&raw mut (*hasher).failed).write_volatile(failed);
        compress(&raw mut (*hasher).state, w);
    }
    0
}

/// # Safety
/// Both can be read and written; the words are as they were in memory.
#[inline(always)]
unsafe fn compress(state: *mut [u32; 8], words: *mut [u32; 16]) {
    let first = state.cast_const().cast::<u32>();
    // SAFETY: as the caller promises; in bounds.
    let of_state = |n: usize| unsafe { first.add(n).read_volatile() };
    let get = |n: usize| {
        // SAFETY: as the caller promises; in bounds.
        unsafe { (&raw const (*words)[n % 16]).read_volatile() }
    };
    let put = |n: usize, word: u32| {
        // SAFETY: as the caller promises; in bounds.
        unsafe { (&raw mut (*words)[n % 16]).write_volatile(word) };
        word
    };
    let given = |n: usize| put(n, get(n).to_be());
    let made = |n: usize| {
        let (near, far) = (get(n + 14), get(n + 1));
        let near = near.rotate_right(17) ^ near.rotate_right(19) ^ near >> 10;
        let far = far.rotate_right(7) ^ far.rotate_right(18) ^ far >> 3;
        put(
            n,
            get(n)
                .wrapping_add(far)
                .wrapping_add(get(n + 9))
                .wrapping_add(near),
        )
    };
    let (mut a, mut b, mut c, mut d) = (of_state(0), of_state(1), of_state(2), of_state(3));
    let (mut e, mut f, mut g, mut h) = (of_state(4), of_state(5), of_state(6), of_state(7));
    rounds!(given, 0, a, b, c, d, e, f, g, h);
    rounds!(given, 8, a, b, c, d, e, f, g, h);
    rounds!(made, 16, a, b, c, d, e, f, g, h);
    rounds!(made, 24, a, b, c, d, e, f, g, h);
    rounds!(made, 32, a, b, c, d, e, f, g, h);
    rounds!(made, 40, a, b, c, d, e, f, g, h);
    rounds!(made, 48, a, b, c, d, e, f, g, h);
    rounds!(made, 56, a, b, c, d, e, f, g, h);
    for (n, word) in [a, b, c, d, e, f, g, h].into_iter().enumerate() {
        // SAFETY: as the caller promises; in bounds.
        unsafe {
            let at = &raw mut (*state)[n];
            at.write_volatile(at.read_volatile().wrapping_add(word));
        }
    }
}
