//! Writes a measurement list of any length to standard output: `make_list ENTRIES [ascii]`.
//!
//! Promises: the same bytes for the same arguments, on every machine. Entries are of the template ima-ng with
//! right SHA-1 digests, as in `binary_runtime_measurements` on a little-endian machine; paths have 12 to 75
//! bytes, as those of libraries and programs have.

use cgpath_evidence::Bank;
use std::io::{self, BufWriter, Write};

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let entries = args.next().and_then(|n| n.parse::<u64>().ok());
    let ascii = args.next().is_some_and(|form| form == "ascii");
    let Some(entries) = entries else {
        return Err(io::Error::other("usage: make_list ENTRIES [ascii]"));
    };
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for index in 0..entries {
        let mut digest = [0; 32];
        for bytes in digest.as_chunks_mut().0 {
            *bytes = random.next().to_le_bytes();
        }
        let path = path(index, &mut random);
        let mut data = Vec::with_capacity(160);
        for field in [
            &[&b"sha256:\0"[..], &digest].concat(),
            &[path.as_bytes(), &[0]].concat(),
        ] {
            data.extend((field.len() as u32).to_le_bytes());
            data.extend(field);
        }
        let claimed = Bank::Sha1.hash(&[&data]);
        if ascii {
            let (claimed, digest) = (hex::encode(claimed.bytes()), hex::encode(digest));
            writeln!(out, "10 {claimed} ima-ng sha256:{digest} {path}")?;
        } else {
            out.write_all(&10u32.to_le_bytes())?;
            out.write_all(claimed.bytes())?;
            out.write_all(&6u32.to_le_bytes())?;
            out.write_all(b"ima-ng")?;
            out.write_all(&(data.len() as u32).to_le_bytes())?;
            out.write_all(&data)?;
        }
    }
    out.flush()
}

/// An absolute path that no other index has.
fn path(index: u64, random: &mut Random) -> String {
    let len = 12 + (random.next() % 64) as usize;
    let mut path = format!("/{index:x}");
    while path.len() < len {
        let word = random.next();
        path.push(if word.is_multiple_of(7) {
            '/'
        } else {
            char::from(b'a' + (word >> 8) as u8 % 26)
        });
    }
    path
}

/// xorshift64*: Marsaglia, "Xorshift RNGs" (2003), with Vigna's multiplier.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
