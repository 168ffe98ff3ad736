//! Commands that the TPM is too busy for are tried again.
//!
//! Promise: about half a minute in all, then the TPM's own answer. Not here: opening the TPM anew (see
//! [`super::thread`]).

use std::time::Duration;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;

/// How often a command that the TPM was too busy for is tried again.
const TRIES: u32 = 8;

/// Pause before the second try; doubled each time, so that all tries together last about half a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

fn is_busy(error: &tss_esapi::Error) -> bool {
    let tss_esapi::Error::Tss2Error(code) = error else {
        return false;
    };
    matches!(
        code.kind(),
        Some(
            Kind::Retry
                | Kind::Yielded
                | Kind::Testing
                | Kind::Canceled
                | Kind::ObjectMemory
                | Kind::SessionMemory
                | Kind::Memory
                | Kind::ObjectHandles
                | Kind::SessionHandles
                | Kind::NvRate
        )
    )
}

/// Does `f` again, with growing pauses, as long as the TPM says that it is busy.
pub(super) fn retried<T>(mut f: impl FnMut() -> Result<T, tss_esapi::Error>) -> Result<T, tss_esapi::Error> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match f() {
            Err(e) if is_busy(&e) => {
                tracing::debug!(error = %e, "TPM is busy");
                std::thread::sleep(pause);
                pause *= 2;
            }
            done => return done,
        }
    }
    f()
}
