//! Speaks to the service as a collector does: a new TLS connection for each round, with no session to resume,
//! a nonce and evidence on it.

use bytes::Bytes;
use cgpath_evidence::Cursor;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Error;

/// Where the service is.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    address: SocketAddr,
}

/// A connection to it.
pub type Connection = SendRequest<Full<Bytes>>;

/// The answer to a request for a nonce.
#[derive(Deserialize)]
pub struct Nonce {
    pub nonce: String,
    pub position: Option<Cursor>,
}

/// What counts of a verdict.
#[derive(Deserialize)]
struct Trusted {
    trusted: bool,
}

impl Client {
    /// Trusts the CA in this PEM file.
    pub fn new(ca: &Path, address: SocketAddr) -> Result<Client, Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A thousand nodes have a session each and come back after the service forgot it.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Client {
            tls: TlsConnector::from(Arc::new(tls)),
            address,
        })
    }

    pub async fn connect(&self) -> Result<Connection, Error> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn post(connection: &mut Connection, path: String, body: Bytes) -> Result<Bytes, Error> {
    let request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/cbor")
        .body(Full::new(body))?;
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(body)
}

/// Asks for a nonce.
pub async fn nonce(connection: &mut Connection, node: &str) -> Result<Nonce, Error> {
    let answer = post(connection, format!("/v1/nodes/{node}/nonce"), Bytes::new()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Hands evidence in.
///
/// # Errors
/// Also where the verdict is not `trusted`: these nodes are honest.
pub async fn submit(connection: &mut Connection, node: &str, evidence: Bytes) -> Result<(), Error> {
    let answer = post(connection, format!("/v1/nodes/{node}/evidence"), evidence).await?;
    let verdict: Trusted = serde_json::from_slice(&answer)?;
    match verdict.trusted {
        true => Ok(()),
        false => Err(format!(
            "the honest node is not trusted: {}",
            String::from_utf8_lossy(&answer)
        )
        .into()),
    }
}
