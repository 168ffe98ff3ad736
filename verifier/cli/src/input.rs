//! What several subcommands read: evidence, attestation keys, and files within bounds; and how files are
//! replaced.
//!
//! Not here: policies (see `policy`), measurement lists (see `log`).

use crate::output::{Failure, escape};
use cgpath_appraisal::{Collateral, MAX_COLLATERAL_LEN, PinnedKey};
use cgpath_evidence::{Evidence, evidence::MAX_JSON_LEN, merkle::Hash};
use cgpath_service::files::{bounded, read_bounded};
use p256::{SecretKey, ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A key's file is never longer than this many bytes.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// A file's bytes, or those of standard input for `-`: at most one more than `limit`, so that what reads them
/// refuses them.
///
/// # Errors
/// What cannot be read.
pub fn file_or_stdin(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if path == Path::new("-") {
        bounded(io::stdin().lock(), limit)
    } else {
        read_bounded(path, limit)
    }
}

/// Evidence from a file, as CBOR or as JSON; `-` reads standard input.
///
/// # Errors
/// What cannot be read, or is not evidence.
pub fn evidence(path: &Path) -> Result<Evidence, Failure> {
    let bytes = file_or_stdin(path, MAX_JSON_LEN as u64).map_err(|e| Failure::input(path, &e))?;
    let read = if bytes.first() == Some(&b'{') {
        Evidence::from_json(&bytes)
    } else {
        Evidence::from_cbor(&bytes)
    };
    read.map_err(|e| {
        Failure::decode(&escape(path.as_os_str().as_encoded_bytes()), &e)
            .hint("give the file as `cgpathd once -o FILE` or `cgpath serve` wrote it")
    })
}

/// An attestation key as `--ak` takes it: a file, or the key's fingerprint.
///
/// # Errors
/// What is neither.
pub fn attestation_key(given: &str) -> Result<PinnedKey, Failure> {
    if given.len() == 68 && given.bytes().all(|b| b.is_ascii_hexdigit()) {
        return PinnedKey::from_fingerprint(given).map_err(|e| Failure::new("key", format!("--ak: {e}")));
    }
    let path = Path::new(given);
    let bytes = read_bounded(path, MAX_KEY_FILE).map_err(|e| {
        Failure::file(path, &e)
            .hint("--ak takes a public key's file, or its fingerprint: 68 hex digits that begin with 000b")
    })?;
    PinnedKey::from_public(&bytes).map_err(|e| {
        Failure::new("key", format!("{}: {e}", escape(given.as_bytes()))).hint(
            "`cgpathd ak -o FILE` on the node writes its key; `tpm2_readpublic -o` does, too, with `-f \
                pem` in PEM",
        )
    })
}

/// The fingerprint of a trust domain's node's key.
///
/// # Errors
/// What is not 64 hex digits.
pub fn node_key(given: &str) -> Result<Hash, Failure> {
    let bytes = hex::decode(given.trim()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        Failure::new("key", "--node-key: not 64 hex digits")
            .hint("it is the SHA-256 of the key's SEC1 compressed point; `cgpathd` shows it")
    })
}

/// Files of collateral.
///
/// # Errors
/// What cannot be read, or is none.
pub fn collateral(files: &[PathBuf]) -> Result<Vec<Collateral>, Failure> {
    let read = |path: &PathBuf| {
        let bytes = read_bounded(path, MAX_COLLATERAL_LEN as u64).map_err(|e| Failure::file(path, &e))?;
        Collateral::from_json(&bytes).map_err(|e| {
            let path = escape(path.as_os_str().as_encoded_bytes());
            Failure::new(
                "collateral",
                format!("{path}: {}", escape(e.to_string().as_bytes())),
            )
        })
    };
    files.iter().map(read).collect()
}

/// Now, in unix seconds.
///
/// # Errors
/// When the clock is before 1970.
pub fn now() -> Result<u64, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since
        .map(|d| d.as_secs())
        .map_err(|_| Failure::new("clock", "this machine's clock is before 1970").hint("set the clock"))
}

/// Refuses what is no file's name, before anything is done that would be in vain.
///
/// # Errors
/// `-` and a directory.
pub fn check_output(path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") {
        return Err(
            Failure::new("usage", "this cannot be written to standard output (`-`)")
                .hint("name a file; `./-` is one of that name"),
        );
    }
    if path.is_dir() {
        return Err(Failure::file(path, &io::ErrorKind::IsADirectory.into()));
    }
    Ok(())
}

/// Writes a whole file or nothing. Commands that take `-` for standard output have looked for it before.
///
/// # Errors
/// What cannot be written; a link, or what is no file, in the place of the file that is written first
/// (`PATH.new`).
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    check_output(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What a run that was interrupted left. A link stays: nothing is written to where it leads.
    if std::fs::symlink_metadata(&beside).is_ok_and(|left| left.is_file()) {
        std::fs::remove_file(&beside).map_err(|e| Failure::file(&beside, &e))?;
    }
    let mut file = File::create_new(&beside).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Failure::file(&beside, &e),
        _ => Failure::file(path, &e),
    })?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|e| {
        // The first error is the one that counts.
        let _ = std::fs::remove_file(&beside);
        Failure::file(path, &e)
    })
}

/// A P-256 private key in PEM.
///
/// # Errors
/// What cannot be read, or is none.
pub fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let bytes = read_bounded(path, MAX_KEY_FILE).map_err(|e| Failure::file(path, &e))?;
    let text = core::str::from_utf8(&bytes).unwrap_or_default();
    let key = SecretKey::from_pkcs8_pem(text)
        .ok()
        .or_else(|| SecretKey::from_sec1_pem(text).ok());
    key.map(SigningKey::from).ok_or_else(|| {
        Failure::new(
            "key",
            format!(
                "{}: not a P-256 private key in PEM",
                escape(path.as_os_str().as_encoded_bytes())
            ),
        )
        .hint("make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`")
    })
}
