//! HTTPS requests to other services: whom to trust, where to, one connection at a time.
//!
//! Promises: a server's certificate is checked against the CAs of one PEM file and no others; plain HTTP only
//! where the caller asks for it by name ([`Endpoint::http_or_https`]); no answer is read beyond a limit
//! ([`Endpoint::read`]). Not here: what is asked, how often, time limits (an answer is read for as long as
//! the caller waits).
//!
//! # One request
//!
//! ```no_run
//! use cgpath_net::{Endpoint, Tls};
//! use http_body_util::Empty;
//! use hyper::{Request, body::Bytes};
//! use std::path::Path;
//!
//! # async fn ask() -> Result<(), Box<dyn std::error::Error>> {
//! let tls = Tls::http1(Path::new("verifier-ca.pem"));
//! let verifier = Endpoint::https("https://verifier.example:8443/healthz", tls)?;
//! let mut connection = verifier.connect::<Empty<Bytes>>().await?;
//! let request = Request::get(verifier.path()).header("host", verifier.authority()).body(Empty::new())?;
//! let response = connection.send_request(request).await.map_err(|error| verifier.broken(error))?;
//! let (status, body) = verifier.read(response, 64 * 1024).await?;
//! println!("{status}: {} bytes", body.len());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rand_core::{OsRng, RngCore as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why a service cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The URL cannot be used.
    #[error("URL {url:?}: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// Why not.
        why: String,
    },
    /// The file of CAs cannot be used.
    #[error("CA certificate {path}: {why}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The client's own certificate or key cannot be used.
    #[error("client certificate and key: {path}: {why}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No connection.
    #[error("{authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why, with what TLS says.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("{authority}: {source}")]
    Http {
        /// Host and port.
        authority: String,
        /// Why.
        source: hyper::Error,
    },
    /// An answer is longer than it may be, or ends early.
    #[error("{authority}: its answer cannot be read: {why}")]
    Answer {
        /// Host and port.
        authority: String,
        /// Why not.
        why: String,
    },
}

/// Whom a client trusts and who it is.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'a> {
    /// PEM file of the CAs that a server's certificate must come from.
    pub ca: &'a Path,
    /// PEM files of the client's own certificate chain and of its key; both empty where it has none.
    pub identity: (&'a Path, &'a Path),
    /// The application protocol to offer (ALPN, RFC 7301); none where it is empty.
    pub protocol: &'a [u8],
}

impl<'a> Tls<'a> {
    /// HTTP/1.1 over TLS with the CAs in `ca`, and no certificate of the client's own.
    pub fn http1(ca: &'a Path) -> Tls<'a> {
        Tls {
            ca,
            identity: (Path::new(""), Path::new("")),
            protocol: b"http/1.1",
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// [`NetError::Ca`], [`NetError::Identity`].
    pub fn connector(self) -> Result<TlsConnector, NetError> {
        let broken = |why: String| NetError::Ca {
            path: self.ca.to_owned(),
            why,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.ca).map_err(|e| broken(e.to_string()))? {
            let certificate = certificate.map_err(|e| broken(e.to_string()))?;
            roots.add(certificate).map_err(|e| broken(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(broken("holds no certificate in PEM form".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| broken(e.to_string()))?
            .with_root_certificates(roots);
        let (certificate, key) = self.identity;
        let mut tls = match identity(certificate, key)? {
            None => tls.with_no_client_auth(),
            Some((chain, private)) => {
                tls.with_client_auth_cert(chain, private)
                    .map_err(|e| NetError::Identity {
                        path: certificate.to_owned(),
                        why: e.to_string(),
                    })?
            }
        };
        if !self.protocol.is_empty() {
            tls.alpn_protocols = vec![self.protocol.to_vec()];
        }
        Ok(TlsConnector::from(Arc::new(tls)))
    }
}

/// The certificate that the client shows, with its key; `None` where neither is named.
fn identity(
    certificate: &Path,
    key: &Path,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, NetError> {
    let wrong = |path: &Path, why: String| NetError::Identity {
        path: path.to_owned(),
        why,
    };
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => {}
        (true, false) => return Err(wrong(key, "a key with no certificate".into())),
        (false, true) => return Err(wrong(certificate, "a certificate with no key".into())),
    }
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "holds no certificate in PEM form".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e.to_string()))?;
    Ok(Some((chain, private)))
}

/// A service that answers requests.
#[derive(Clone)]
pub struct Endpoint {
    /// None for plain HTTP.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({}{})", self.authority, self.path)
    }
}

impl Endpoint {
    /// What an `https://` URL names.
    ///
    /// # Errors
    /// [`NetError::Url`], also for any other scheme, a user or a password in it; [`NetError::Ca`],
    /// [`NetError::Identity`].
    pub fn https(url: &str, tls: Tls<'_>) -> Result<Endpoint, NetError> {
        Endpoint::new(url, tls, false)
    }

    /// The same, or what an `http://` URL names: for services whose answers nobody has to believe.
    ///
    /// # Errors
    /// As [`Endpoint::https`].
    pub fn http_or_https(url: &str, tls: Tls<'_>) -> Result<Endpoint, NetError> {
        Endpoint::new(url, tls, true)
    }

    fn new(url: &str, tls: Tls<'_>, may_be_plain: bool) -> Result<Endpoint, NetError> {
        let bad = |why: &str| NetError::Url {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| bad("is none"))?;
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("holds a user or a password"));
        }
        // An IPv6 address stands in brackets in a URL and nowhere else.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let (tls, port) = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.to_owned()).map_err(|e| bad(&e.to_string()))?;
                (Some((tls.connector()?, name)), 443)
            }
            Some("http") if may_be_plain => (None, 80),
            _ if may_be_plain => return Err(bad("begins with neither https:// nor http://")),
            _ => return Err(bad("does not begin with https://")),
        };
        Ok(Endpoint {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(port),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Host and port, as in the URL.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query of the URL, at least `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path as a prefix of others: without a slash at its end.
    pub fn base(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// A new connection; it ends with what it gives.
    ///
    /// # Errors
    /// [`NetError::Connect`], [`NetError::Http`].
    pub async fn connect<B>(&self) -> Result<SendRequest<B>, NetError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connect = |source| NetError::Connect {
            authority: self.authority.clone(),
            source,
        };
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(connect)?;
        match &self.tls {
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), tcp).await.map_err(connect)?;
                self.over(stream).await
            }
            None => self.over(tcp).await,
        }
    }

    async fn over<B, S>(&self, stream: S) -> Result<SendRequest<B>, NetError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.broken(source))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The error of a connection that broke.
    pub fn broken(&self, source: hyper::Error) -> NetError {
        NetError::Http {
            authority: self.authority.clone(),
            source,
        }
    }

    /// Status and body of an answer of at most `limit` bytes.
    ///
    /// # Errors
    /// [`NetError::Answer`] where it is longer, or ends early.
    pub async fn read(
        &self,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), NetError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|e| NetError::Answer {
            authority: self.authority.clone(),
            why: e.to_string(),
        })?;
        Ok((status, body.to_bytes()))
    }
}

/// The pause before the next try after `failures` of them: `first`, doubled each time up to `longest`, with
/// up to a quarter more or less by chance, so that a fleet does not come back all at once.
pub fn pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    let mut random = [0];
    OsRng.fill_bytes(&mut random);
    backoff(first, longest, failures, random[0])
}

/// The same with a chance of 0 to 255.
fn backoff(first: Duration, longest: Duration, failures: u32, random: u8) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(longest) * (192 + u32::from(random) / 2) / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_testkit::Authority;

    #[test]
    fn pauses_grow_to_a_limit_and_are_never_none() {
        let pause = |failures, random| {
            backoff(
                Duration::from_millis(500),
                Duration::from_secs(60),
                failures,
                random,
            )
        };
        assert!((375..=625).contains(&pause(1, 128).as_millis()));
        assert_eq!(pause(0, 128), pause(1, 128));
        assert!(pause(3, 0) > pause(1, 255));
        for failures in [10, 1000, u32::MAX] {
            assert!((45..=75).contains(&pause(failures, 255).as_secs()));
        }
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_vary_by_a_quarter() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)] {
            let base = Duration::from_secs(seconds);
            for random in [0, 128, 255] {
                let pause = backoff(first, longest, failures, random);
                assert!(
                    pause >= base * 3 / 4 && pause <= base * 5 / 4,
                    "{failures} {random}: {pause:?}"
                );
            }
        }
    }

    #[test]
    fn a_url_must_be_https_unless_plain_http_is_asked_for() {
        let authority = Authority::new();
        let ca = authority.ca();
        let tls = Tls::http1(&ca);
        for url in [
            "http://v:1",
            "ftp://v",
            "v:1",
            "not a url",
            "https://user:word@v",
            "/path",
        ] {
            let error = Endpoint::https(url, tls).unwrap_err();
            assert!(matches!(error, NetError::Url { .. }), "{url}: {error}");
        }
        assert!(Endpoint::http_or_https("ftp://v", tls).is_err());
        let plain = Endpoint::http_or_https("http://v", Tls::http1(Path::new(""))).unwrap();
        assert_eq!((plain.port, plain.tls.is_none()), (80, true));
        let v6 = Endpoint::https("https://[::1]:8443/base/?a=1", tls).unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 8443));
        assert_eq!((v6.authority(), v6.path()), ("[::1]:8443", "/base/?a=1"));
        let based = Endpoint::https("https://v/base/", tls).unwrap();
        assert_eq!((based.port, based.base()), (443, "/base"));
        assert_eq!(Endpoint::https("https://v", tls).unwrap().base(), "");
    }

    #[test]
    fn files_that_hold_nothing_of_use_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (good, client) = (authority.ca(), authority.issue("client"));
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for path in [&empty, &dir.path().join("absent.pem")] {
            let error = Tls::http1(path).connector().map(|_| ()).unwrap_err();
            assert!(
                matches!(&error, NetError::Ca { path: named, .. } if named == path),
                "{error}"
            );
        }
        let (certificate, key, none) = (&*client.certificate, &*client.key, Path::new(""));
        let shown = |identity| {
            Tls {
                identity,
                ..Tls::http1(&good)
            }
            .connector()
            .map(|_| ())
        };
        assert!(shown((certificate, key)).is_ok());
        for identity in [
            (certificate, none),
            (none, key),
            (&*empty, key),
            (certificate, &*empty),
        ] {
            assert!(
                matches!(shown(identity), Err(NetError::Identity { .. })),
                "{identity:?}"
            );
        }
    }
}
