//! A small deterministic mutator: the same seed gives the same inputs on every machine.

/// xorshift64*: fast, good enough, no dependency.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Any seed will do.
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, or 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.bits() >> 16) as usize % bound
        }
    }
}

/// Numbers that length fields go wrong with.
const NUMBERS: [u32; 14] = [
    0,
    1,
    2,
    19,
    20,
    31,
    63,
    64,
    255,
    256,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];

/// Inputs never grow beyond this.
pub const MAX_LEN: usize = 64 * 1024;

/// Changes `data` in one to eight places, now and then with a piece of `other`.
pub fn mutate(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(8) {
        let at = random.below(data.len() + 1);
        let len = random.below(16) + 1;
        match random.below(10) {
            0 => flip(data, at, random),
            1 => set(data, at, &[random.bits() as u8]),
            2 => {
                let number = NUMBERS[random.below(NUMBERS.len())];
                let small = (number as u16).to_le_bytes();
                match random.below(4) {
                    0 => set(data, at, &number.to_le_bytes()),
                    1 => set(data, at, &number.to_be_bytes()),
                    2 => set(data, at, &small),
                    _ => set(data, at, &[small[1], small[0]]),
                }
            }
            3 => data.truncate(at),
            4 => {
                let end = (at + len).min(data.len());
                data.drain(at..end);
            }
            5 => {
                let bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
                data.splice(at..at, bytes);
            }
            6 => {
                // A piece of itself once more: repeated entries, nested structures.
                let from = random.below(data.len() + 1);
                let end = (from + random.below(256)).min(data.len());
                let piece = data[from..end].to_vec();
                data.splice(at..at, piece);
            }
            7 => {
                let from = random.below(other.len() + 1);
                let end = (from + random.below(256)).min(other.len());
                data.splice(at..at, other[from..end].iter().copied());
            }
            8 => {
                let byte = [0, 0xff, b' ', b'\n', b':', b'|', b'/', b'"'][random.below(8)];
                set(data, at, &[byte]);
            }
            _ => {
                if let Some(byte) = data.get_mut(at) {
                    *byte = byte.wrapping_add(if random.bits() & 1 == 0 { 1 } else { 0xff });
                }
            }
        }
        data.truncate(MAX_LEN);
    }
}

fn flip(data: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = data.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn set(data: &mut [u8], at: usize, bytes: &[u8]) {
    for (slot, byte) in data.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}
