//! Nothing but the hash extensions of a replay, the lower bound of any: `bare_chains EXTENSIONS [BANK…]`.
//!
//! Each bank's register is extended that many times; the banks named run one after the other on one thread,
//! the others on a second one. Without names the program measures each chain shortly and prints the split
//! that ends first.

use cgpath_evidence::Bank;
use std::time::{Duration, Instant};

fn main() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let count = args.next().and_then(|n| n.parse::<u64>().ok());
    let Some(count) = count else {
        return Err("usage: bare_chains EXTENSIONS [BANK…]".to_owned());
    };
    let named: Option<Vec<Bank>> = args.map(|name| Bank::from_name(&name)).collect();
    let Some(first) = named else {
        return Err("banks: sha1, sha256, sha384, sha512".to_owned());
    };
    if first.is_empty() {
        println!("{}", best_split(count).join(" "));
        return Ok(());
    }
    let second: Vec<Bank> = Bank::ALL
        .into_iter()
        .filter(|bank| !first.contains(bank))
        .collect();
    let run = |banks: &[Bank]| -> Vec<(Bank, u8)> {
        banks.iter().map(|bank| (*bank, chain(*bank, count))).collect()
    };
    let values = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&second));
        let mut values = run(&first);
        values.extend(other.join().unwrap_or_default());
        values
    });
    // Printed, so that no compiler leaves the work out.
    for (bank, byte) in values {
        println!("{bank} {byte:02x}");
    }
    Ok(())
}

/// The first byte of a register that was extended so often.
fn chain(bank: Bank, count: u64) -> u8 {
    let mut register = [0; Bank::MAX_LEN];
    let mut digest = [0x5a; Bank::MAX_LEN];
    for n in 0..count {
        digest[..8].copy_from_slice(&n.to_le_bytes());
        bank.extend_register(&mut register, &digest);
    }
    register[0]
}

/// The banks of one thread, so that the longer of the two takes as little time as can be.
fn best_split(count: u64) -> Vec<&'static str> {
    let sample = (count / 20).max(1000);
    let times = Bank::ALL.map(|bank| {
        let started = Instant::now();
        std::hint::black_box(chain(bank, sample));
        started.elapsed()
    });
    let on = |split: usize, side: bool| -> Duration {
        let of_side = |(n, time): (usize, &Duration)| ((split >> n & 1 == 1) == side).then_some(*time);
        times.iter().enumerate().filter_map(of_side).sum()
    };
    // The last bank is always on the first thread: the other half are the same splits again.
    let best = (8..16).min_by_key(|split| on(*split, true).max(on(*split, false)));
    let split = best.unwrap_or(8);
    let named = Bank::ALL.iter().enumerate().filter(|(n, _)| split >> n & 1 == 1);
    named.map(|(_, bank)| bank.name()).collect()
}
