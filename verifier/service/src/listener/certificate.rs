//! The certificate that the service shows: read from its files at the start, and again whenever another one
//! is there.
//!
//! Promises: a certificate that runs out, or a name that is added, needs no restart; a pair of files that do
//! not go together, as it is for a moment while both are replaced, changes nothing. Not here: how
//! certificates are made (see `setup`).

use crate::listener::TlsError;
use crate::setup;
use crate::store::Store;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use time::OffsetDateTime;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is asked whether the certificate runs out, in looks: each hour.
const RENEW: u32 = 1800;

/// See the module.
#[derive(Debug)]
pub struct Current {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    pair: RwLock<Arc<CertifiedKey>>,
}

/// What tells that a file is another than before.
type Stamp = Option<(u64, u64, i64, i64)>;
/// Those of certificate and key.
type Stamps = (Stamp, Stamp);

fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |why| TlsError::Pem { path, why }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}

impl Current {
    /// Certificate and key of these PEM files.
    ///
    /// # Errors
    /// [`TlsError::Pem`], [`TlsError::Certificate`].
    pub fn read(certificate: &Path, key: &Path, provider: Arc<CryptoProvider>) -> Result<Current, TlsError> {
        let pair = read(certificate, key, &provider)?;
        Ok(Current {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            pair: RwLock::new(Arc::new(pair)),
            provider,
        })
    }

    /// Reads the files again.
    fn again(&self) -> Result<(), TlsError> {
        let pair = read(&self.certificate, &self.key, &self.provider)?;
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
        Ok(())
    }

    /// Follows the files, and makes the certificate anew before it runs out, for as long as the service runs.
    pub async fn keep(self: Arc<Current>, store: Arc<Store>) {
        let mut known = self.stamps();
        let mut looks = 0_u32;
        loop {
            tokio::time::sleep(LOOK).await;
            looks = (looks + 1) % RENEW;
            let asked = (looks == 0).then(OffsetDateTime::now_utc);
            tokio::task::block_in_place(|| self.look(&store, &mut known, asked));
        }
    }

    /// One look: makes the certificate anew if it soon runs out at the time `asked`, and shows what is in
    /// the files if that is not what is `known`.
    fn look(&self, store: &Store, known: &mut Stamps, asked: Option<OffsetDateTime>) {
        if let Some(now) = asked
            && let Err(error) = setup::renew(store, now)
        {
            tracing::error!(%error, "the server's certificate cannot be made anew");
        }
        let stamps = self.stamps();
        if stamps == *known {
            return;
        }
        match self.again() {
            Ok(()) => {
                *known = stamps;
                tracing::info!("another certificate is shown from now on");
            }
            // Perhaps the other file follows.
            Err(error) => tracing::warn!(%error, "the new certificate is not shown"),
        }
    }

    fn stamps(&self) -> Stamps {
        (stamp(&self.certificate), stamp(&self.key))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.pair.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_runs_out_is_shown_anew_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("v");
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        setup::init(&dir, &["v.example".to_owned()], at(1_800_000_000)).unwrap();
        let store = Store::open(&dir).unwrap();
        let (certificate, key) = (dir.join(setup::SERVER), dir.join(setup::SERVER_KEY));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = Current::read(&certificate, &key, provider).unwrap();
        let shown = || current.pair.read().unwrap().cert.clone();
        let first = shown();
        let due = setup::not_after(&store).unwrap().unwrap() - setup::RENEW_DAYS * 86_400;
        let mut known = current.stamps();
        for asked in [None, Some(at(due - 1))] {
            current.look(&store, &mut known, asked);
            assert_eq!(shown(), first);
        }
        current.look(&store, &mut known, Some(at(due)));
        let second = shown();
        assert_ne!(second, first);
        let in_file = CertificateDer::pem_file_iter(&certificate).unwrap();
        assert_eq!(second, in_file.collect::<Result<Vec<_>, _>>().unwrap());
        current.look(&store, &mut known, Some(at(due)));
        assert_eq!(shown(), second);
    }
}
