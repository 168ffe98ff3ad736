//! Requests to others over HTTPS: where to, whom to trust, one connection. What webhooks and `cgpath watch` have in common.
//!
//! Promises: certificates are checked against the CAs of one file and no others; there is no way to plain HTTP.
//! Not here: what is asked, and how often.

use axum::body::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where Debian keeps the CAs that it trusts.
pub const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why somebody can not be reached.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The URL can not be used.
    #[error("URL {url:?}: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// Why not.
        why: String,
    },
    /// The file of CAs can not be used.
    #[error("CA {path}: {why}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No connection.
    #[error("{authority}: {why}")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why, with what TLS says.
        why: std::io::Error,
    },
    /// The connection broke.
    #[error("{authority}: {why}")]
    Http {
        /// Host and port.
        authority: String,
        /// Why.
        why: hyper::Error,
    },
}

/// One that answers requests.
#[derive(Clone)]
pub struct Endpoint {
    tls: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
    /// Host and port, as in the URL.
    pub authority: String,
    /// Path and query of the URL.
    pub path: String,
}

impl Endpoint {
    /// What `url` names, with the CAs in the PEM file `ca`.
    ///
    /// # Errors
    /// [`HttpsError::Url`], [`HttpsError::Ca`].
    pub fn new(url: &str, ca: &Path) -> Result<Endpoint, HttpsError> {
        let bad = |why: &str| HttpsError::Url {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| bad("is none"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("does not begin with https://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("holds a user or a password"));
        }
        // An IPv6 address stands in brackets in a URL and nowhere else.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|e| bad(&e.to_string()))?;
        let broken = |why: String| HttpsError::Ca {
            path: ca.to_owned(),
            why,
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| broken(e.to_string()))? {
            let certificate = certificate.map_err(|e| broken(e.to_string()))?;
            roots.add(certificate).map_err(|e| broken(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(broken("holds no certificate in PEM form".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| broken(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Endpoint {
            tls: TlsConnector::from(Arc::new(tls)),
            name,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(443),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// A new connection; it ends with what it gives.
    ///
    /// # Errors
    /// [`HttpsError::Connect`], [`HttpsError::Http`].
    pub async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpsError> {
        let connect = |why| HttpsError::Connect {
            authority: self.authority.clone(),
            why,
        };
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(connect)?;
        let stream = self.tls.connect(self.name.clone(), tcp).await.map_err(connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|why| self.http(why))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// An error of an open connection.
    pub fn http(&self, why: hyper::Error) -> HttpsError {
        HttpsError::Http {
            authority: self.authority.clone(),
            why,
        }
    }
}
