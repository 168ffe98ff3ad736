//! Which mutant is on. Put into the mutated crate by `xtask/examples/switches.rs`; not built from here.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

enum Mode {
    /// The source as it is.
    None,
    One(u32),
    /// Notes in a file which switches are come by.
    Noting(std::fs::File, Vec<AtomicBool>),
}

static MODE: OnceLock<Mode> = OnceLock::new();

pub(crate) fn on(number: u32) -> bool {
    match MODE.get_or_init(mode) {
        Mode::None => false,
        Mode::One(one) => *one == number,
        Mode::Noting(file, seen) => {
            if let Some(seen) = seen.get(number as usize)
                && !seen.load(Ordering::Relaxed)
                && !seen.swap(true, Ordering::Relaxed)
            {
                let line = format!("{number}\n");
                (&*file).write_all(line.as_bytes()).expect("the notes");
            }
            false
        }
    }
}

fn mode() -> Mode {
    if let Ok(number) = std::env::var("CGPATH_MUTANT") {
        return Mode::One(number.parse().expect("CGPATH_MUTANT"));
    }
    let Some(path) = std::env::var_os("CGPATH_MUTANTS_SEEN") else {
        return Mode::None;
    };
    let file = std::fs::File::options().create(true).append(true).open(path);
    let seen = (0..1 << 16).map(|_| AtomicBool::new(false)).collect();
    Mode::Noting(file.expect("CGPATH_MUTANTS_SEEN"), seen)
}
