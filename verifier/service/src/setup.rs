//! The service's directory: certificate authority, server certificate, keys, store.
//!
//! ```text
//! DIR/ca.pem ca.key          the certificate authority; nodes trust it and nothing else
//! DIR/server.pem server.key  the server's certificate, made anew from the CA before it runs out
//! DIR/verdict.key verdict.pub.pem   P-256, signs verdicts
//! DIR/nonce.key              recognises nonces
//! DIR/store.db evidence/     see `store`
//! ```
//! Directories are 0700 and files 0600. Nothing is overwritten. Not here: TLS itself (see `listener`).

use crate::store::{Store, StoreError, lock_file, private_file, sync_dir};
use p256::ecdsa::SigningKey;
use p256::pkcs8::DecodePrivateKey;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// The CA's certificate.
pub const CA: &str = "ca.pem";
/// The CA's key.
pub const CA_KEY: &str = "ca.key";
/// The server's certificate.
pub const SERVER: &str = "server.pem";
/// The server's key.
pub const SERVER_KEY: &str = "server.key";
/// The key that signs verdicts.
pub const VERDICT_KEY: &str = "verdict.key";
/// Its public half, for those who check verdicts.
pub const VERDICT_PUBLIC: &str = "verdict.pub.pem";
/// The key that recognises nonces.
pub const NONCE_KEY: &str = "nonce.key";
/// The token that `--read-token-always` made.
pub const READ_TOKEN: &str = "read.token";

const CA_DAYS: i64 = 3650;
const SERVER_DAYS: i64 = 365;
/// The server's certificate is made anew when it is good for less than this.
pub(crate) const RENEW_DAYS: i64 = 60;
/// Clocks of nodes may be behind by this.
const SKEW: Duration = Duration::days(1);

/// Why the directory could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Something is there already.
    #[error("{0} is there already and is not overwritten")]
    Exists(PathBuf),
    /// A store is there already.
    #[error("{0} holds a store already, which is left as it is")]
    Complete(PathBuf),
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name cannot stand in a certificate.
    #[error("{0:?} is neither a host name nor an IP address")]
    Name(String),
    /// The certificate library refused.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SetupError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> SetupError {
        let path = path.to_owned();
        move |error| match error.kind() {
            io::ErrorKind::AlreadyExists => SetupError::Exists(path),
            _ => SetupError::Io { path, error },
        }
    }
}

/// The names of a server's certificate: this machine as it calls itself, and as others call it, which is its
/// host name where none are given.
pub fn names(given: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for name in given {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if given.is_empty()
        && let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname")
    {
        let host = host.trim().to_ascii_lowercase();
        if san(&host).is_ok() && !names.contains(&host) {
            names.push(host);
        }
    }
    names
}

fn san(name: &str) -> Result<SanType, SetupError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // A last label of digits alone would be taken for a mistyped address (WHATWG URL, "ends in a number").
    let numeric_end = name
        .rsplit('.')
        .next()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || !name.split('.').all(label) || numeric_end {
        return Err(SetupError::Name(name.to_owned()));
    }
    let dns = name
        .to_ascii_lowercase()
        .try_into()
        .map_err(|_| SetupError::Name(name.to_owned()))?;
    Ok(SanType::DnsName(dns))
}

fn ca_params(now: OffsetDateTime) -> Result<CertificateParams, SetupError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "ima-cgpath verifier CA");
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(CA_DAYS);
    Ok(params)
}

/// A new server certificate for `names`, signed by `ca`: certificate and key as PEM, and its last second.
fn server_certificate(
    ca: &Issuer<'_, &KeyPair>,
    names: &[String],
    now: OffsetDateTime,
) -> Result<(String, String, i64), SetupError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
    params
        .distinguished_name
        .push(DnType::CommonName, "ima-cgpath verifier");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(SERVER_DAYS);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((
        certificate.pem(),
        key.serialize_pem(),
        params.not_after.unix_timestamp(),
    ))
}

/// The last value that is written when a store is made: until when its certificate is good, in unix seconds.
const NOT_AFTER: &str = "server-not-after";

/// Makes the directory's content. `dir` is made if it is not there; if it is, it must be empty.
///
/// # Errors
/// [`SetupError`]; [`SetupError::Complete`] if a store is there, [`SetupError::Exists`] if anything else is.
pub fn init(dir: &Path, names: &[String], now: OffsetDateTime) -> Result<(), SetupError> {
    // Names first: a mistake in one leaves nothing behind.
    for name in names {
        san(name)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(dir).map_err(SetupError::io(dir))?;
            if let Some(entry) = entries.next() {
                if Store::is_in(dir, NOT_AFTER) {
                    return Err(SetupError::Complete(dir.to_owned()));
                }
                return Err(SetupError::Exists(entry.map_err(SetupError::io(dir))?.path()));
            }
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(SetupError::io(dir))?;
        }
        other => other.map_err(SetupError::io(dir))?,
    }
    let write = |name: &str, bytes: &[u8]| write_private(&dir.join(name), bytes);

    let params = ca_params(now)?;
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca = params.self_signed(&ca_key)?;
    write(CA_KEY, ca_key.serialize_pem().as_bytes())?;
    write(CA, ca.pem().as_bytes())?;
    let (pem, key, not_after) = server_certificate(&Issuer::new(params, &ca_key), names, now)?;
    write(SERVER_KEY, key.as_bytes())?;
    write(SERVER, pem.as_bytes())?;
    let verdict_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write(VERDICT_KEY, verdict_key.serialize_pem().as_bytes())?;
    write(VERDICT_PUBLIC, verdict_key.public_key_pem().as_bytes())?;
    let nonce_key: [u8; crate::nonce::KEY_LEN] = random()?;
    write(NONCE_KEY, format!("{}\n", hex::encode(nonce_key)).as_bytes())?;
    let store = Store::create(dir)?;
    store.set_meta("server-names", &names.join("\n"))?;
    store.set_meta(NOT_AFTER, &not_after.to_string())?;
    sync_dir(dir)?;
    Ok(())
}

/// Makes the server's certificate anew if it will soon run out; says whether it did.
///
/// # Errors
/// [`SetupError`].
pub fn renew(store: &Store, now: OffsetDateTime) -> Result<bool, SetupError> {
    let _lock = lock(store.dir())?;
    let not_after =
        not_after(store)?.ok_or_else(|| absent(store, "how long the server's certificate is good"))?;
    if now.unix_timestamp() < not_after - RENEW_DAYS * 86_400 {
        return Ok(false);
    }
    make(store, &server_names(store)?, now)?;
    Ok(true)
}

/// Adds names to the server's certificate, which is made anew; gives all of them. A service that runs shows
/// it from then on.
///
/// # Errors
/// [`SetupError`]; [`SetupError::Name`] changes nothing.
pub fn add_names(store: &Store, added: &[String], now: OffsetDateTime) -> Result<Vec<String>, SetupError> {
    let _lock = lock(store.dir())?;
    let mut names = server_names(store)?;
    for name in added {
        san(name)?;
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    store.set_meta("server-names", &names.join("\n"))?;
    make(store, &names, now)?;
    Ok(names)
}

/// Until when the server's certificate is good, in unix seconds.
///
/// # Errors
/// Those of the store.
pub fn not_after(store: &Store) -> Result<Option<i64>, StoreError> {
    Ok(store.meta(NOT_AFTER)?.and_then(|text| text.parse().ok()))
}

fn absent(store: &Store, what: &str) -> SetupError {
    SetupError::Content {
        path: store.dir().to_owned(),
        why: format!("the store does not say {what}; was `cgpath serve --init` interrupted?"),
    }
}

fn server_names(store: &Store) -> Result<Vec<String>, SetupError> {
    let names = store
        .meta("server-names")?
        .ok_or_else(|| absent(store, "the server's names"))?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Held while a certificate is made: the service and a command may make one at the same time.
fn lock(dir: &Path) -> Result<fs::File, SetupError> {
    let path = dir.join("certificate.lock");
    let file = lock_file(&path).map_err(SetupError::io(&path))?;
    file.lock().map_err(SetupError::io(&path))?;
    Ok(file)
}

/// Makes the server's certificate for these names and puts it in place of the one that is there.
fn make(store: &Store, names: &[String], now: OffsetDateTime) -> Result<(), SetupError> {
    let dir = store.dir();
    let path = dir.join(CA_KEY);
    let pem = fs::read_to_string(&path).map_err(SetupError::io(&path))?;
    let ca_key = KeyPair::from_pem(&pem).map_err(|e| SetupError::Content {
        path,
        why: format!("not a key in PEM: {e}"),
    })?;
    // The issuer's name and key identifier follow from these parameters and the key; its dates are not used.
    let (pem, key, not_after) = server_certificate(&Issuer::new(ca_params(now)?, &ca_key), names, now)?;
    // A crash between the two leaves a pair that does not fit; the next start sees that and makes both anew.
    store.set_meta(NOT_AFTER, "0")?;
    replace_private(&dir.join(SERVER_KEY), key.as_bytes())?;
    replace_private(&dir.join(SERVER), pem.as_bytes())?;
    sync_dir(dir)?;
    store.set_meta(NOT_AFTER, &not_after.to_string())?;
    Ok(())
}

/// The key that recognises nonces.
///
/// # Errors
/// [`SetupError`].
pub fn nonce_key(dir: &Path) -> Result<[u8; crate::nonce::KEY_LEN], SetupError> {
    let path = dir.join(NONCE_KEY);
    let text = fs::read_to_string(&path).map_err(SetupError::io(&path))?;
    let mut key = [0; crate::nonce::KEY_LEN];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|e| SetupError::Content {
        path,
        why: format!("not a key in hex: {e}"),
    })?;
    Ok(key)
}

/// The key that signs verdicts.
///
/// # Errors
/// [`SetupError`].
pub fn verdict_key(dir: &Path) -> Result<SigningKey, SetupError> {
    let path = dir.join(VERDICT_KEY);
    let text = fs::read_to_string(&path).map_err(SetupError::io(&path))?;
    SigningKey::from_pkcs8_pem(&text).map_err(|e| SetupError::Content {
        path,
        why: format!("not a P-256 key in PEM: {e}"),
    })
}

fn random<const N: usize>() -> Result<[u8; N], SetupError> {
    use rand_core::{OsRng, RngCore};
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|e| SetupError::Io {
        path: "random numbers".into(),
        error: io::Error::other(e),
    })?;
    Ok(bytes)
}

/// A token for reading that nobody chose: made at the first time, and the same from then on.
///
/// # Errors
/// [`SetupError`]; [`SetupError::Content`] for a file that holds no token.
pub fn read_token(dir: &Path) -> Result<String, SetupError> {
    let path = dir.join(READ_TOKEN);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() >= 16 => return Ok(text.trim().to_owned()),
        Ok(_) => {
            let why = "shorter than 16 characters; remove it, and another one is made".to_owned();
            return Err(SetupError::Content { path, why });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(SetupError::Io { path, error }),
    }
    let token = hex::encode(random::<16>()?);
    write_private(&path, format!("{token}\n").as_bytes())?;
    sync_dir(dir)?;
    Ok(token)
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SetupError> {
    let write = || {
        let mut file = private_file(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(SetupError::io(path))
}

fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), SetupError> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(SetupError::Io { path: new, error });
        }
        _ => {}
    }
    write_private(&new, bytes)?;
    fs::rename(&new, path).map_err(SetupError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    #[test]
    fn everything_made_is_private_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("v");
        init(&dir, &names(&[]), now()).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
        }
        let before = fs::read(dir.join(CA_KEY)).unwrap();
        // What else the service or a person put there does not hide that it is a store.
        for other in [None, Some("certificate.lock"), Some("a-note")] {
            if let Some(other) = other {
                fs::write(dir.join(other), b"").unwrap();
            }
            let error = init(&dir, &names(&[]), now()).unwrap_err();
            assert!(
                matches!(&error, SetupError::Complete(found) if *found == dir),
                "{error}"
            );
        }
        assert_eq!(fs::read(dir.join(CA_KEY)).unwrap(), before);
        assert_eq!(nonce_key(&dir).unwrap().len(), 32);
        verdict_key(&dir).unwrap();
    }

    #[test]
    fn what_an_interrupted_init_left_is_no_store() {
        // A key that is kept elsewhere makes it no less a store, nor does a database that cannot be read.
        type Change = fn(&Path);
        let changes: [(Change, bool); 4] = [
            (|dir| fs::remove_file(dir.join("store.db")).unwrap(), false),
            (|dir| fs::write(dir.join("store.db"), b"").unwrap(), false),
            (|dir| fs::remove_file(dir.join(CA_KEY)).unwrap(), true),
            (|dir| fs::write(dir.join("store.db"), [7; 4096]).unwrap(), true),
        ];
        for (n, (change, is_store)) in changes.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("v");
            init(&dir, &names(&[]), now()).unwrap();
            change(&dir);
            let error = init(&dir, &names(&[]), now()).unwrap_err();
            let said = matches!(error, SetupError::Complete(_));
            assert!(
                said == is_store && (said || matches!(error, SetupError::Exists(_))),
                "{n}: {error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("v");
        init(&dir, &names(&[]), now()).unwrap();
        // Cut before the last value is written.
        Store::open(&dir).unwrap().set_meta(NOT_AFTER, "").unwrap();
        let error = init(&dir, &names(&[]), now()).unwrap_err();
        assert!(matches!(error, SetupError::Exists(_)), "{error}");
    }

    #[test]
    fn a_bad_name_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("v");
        for bad in ["", "a b", "-a", "a..b", "1.2.3.4.5", "a/b", "ä", "https://a"] {
            assert!(
                matches!(init(&dir, &[bad.to_owned()], now()), Err(SetupError::Name(_))),
                "{bad}"
            );
            assert!(!dir.exists());
        }
    }

    #[test]
    fn the_server_certificate_is_made_anew_before_it_runs_out_and_not_sooner() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("v");
        init(&dir, &["v.example".to_owned()], now()).unwrap();
        let store = Store::open(&dir).unwrap();
        let read = || fs::read(dir.join(SERVER)).unwrap();
        let first = read();
        assert!(!renew(&store, now() + Duration::days(SERVER_DAYS - RENEW_DAYS - 1)).unwrap());
        assert_eq!(read(), first);
        let later = now() + Duration::days(SERVER_DAYS - RENEW_DAYS + 1);
        assert!(renew(&store, later).unwrap());
        assert_ne!(read(), first);
        assert!(!renew(&store, later).unwrap());
    }
}
