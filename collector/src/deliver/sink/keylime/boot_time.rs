//! When this boot began, stated the same way as long as it lasts.
//!
//! Promise: the clock may be set meanwhile, and the collector may end and come again: Keylime tells boots
//! apart by this time and takes none that lies before the last, so what was stated first is kept.

use super::KeylimeError;
use crate::sources::boot_facts::BootFacts;
use crate::sources::system;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// The facts of this boot that an attestation carries.
#[derive(Debug, Clone)]
pub struct Boot {
    /// See [`super::wire::SystemInfo::boot_time`].
    pub time: String,
    /// What the firmware left.
    pub facts: Arc<BootFacts>,
}

#[derive(Serialize, Deserialize)]
struct Stated {
    boot_id: String,
    boot_time: String,
}

impl Boot {
    /// Of the running kernel; what is stated is kept in `dir`.
    ///
    /// # Errors
    /// [`KeylimeError::BootTime`].
    pub(super) fn read(dir: &Path) -> Result<Boot, KeylimeError> {
        let path = dir.join("boot.json");
        let time = system::boot_id().and_then(|(_, id)| {
            let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            stated(&path, &id, began.saturating_sub(system::now()))
        });
        Ok(Boot {
            time: time.map_err(|source| KeylimeError::BootTime { path, source })?,
            facts: Arc::new(BootFacts::read(true, false)),
        })
    }
}

/// What was stated of boot `id`, or `began` (since 1970) if nothing was.
fn stated(path: &Path, id: &str, began: Duration) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => {
            let stated: Stated = serde_json::from_slice(&bytes)?;
            if stated.boot_id == id {
                return Ok(stated.boot_time);
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let boot_time = text(began);
    let stated = Stated {
        boot_id: id.to_owned(),
        boot_time,
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let partial = path.with_extension("part");
    fs::write(&partial, serde_json::to_vec(&stated)?)?;
    fs::File::open(&partial)?.sync_all()?;
    fs::rename(&partial, path)?;
    Ok(stated.boot_time)
}

/// RFC 3339 in UTC, whole seconds.
fn text(since_1970: Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or_default();
    let t = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (month, day) = (u8::from(t.month()), t.day());
    let (hour, minute, second) = t.to_hms();
    format!(
        "{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z",
        t.year()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_keeps_its_time_and_another_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sink/boot.json");
        let first = Duration::from_secs(1_743_595_971);
        assert_eq!(stated(&path, "a", first).unwrap(), "2025-04-02T12:12:51Z");
        let later = first + Duration::from_secs(3600);
        assert_eq!(stated(&path, "a", later).unwrap(), "2025-04-02T12:12:51Z");
        assert_eq!(stated(&path, "b", later).unwrap(), "2025-04-02T13:12:51Z");
        fs::write(&path, "{").unwrap();
        assert!(stated(&path, "b", later).is_err());
    }
}
