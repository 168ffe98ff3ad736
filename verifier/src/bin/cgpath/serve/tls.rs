//! The listener: TLS connections with bounds on their number, their age and their silence.
//!
//! Certificates are of TLS with *ring*. No client certificate is asked for: evidence is authentic by its quote.
//! Not here: what requests mean (see `http`).

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at one time.
const CONNECTIONS: usize = 512;
/// Connections at one time from one peer, see [`Peers::group`].
const PER_PEER: usize = 32;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request's head may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(30);
/// How long a connection may be used.
const AGE: Duration = Duration::from_secs(900);
/// How long requests in progress may take once the service is told to end.
const GRACE: Duration = Duration::from_secs(10);

/// Who is at the other end; an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Why the server's certificate can not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file can not be read.
    #[error("{path}: {why}")]
    Pem {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        why: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("the server's certificate: {0}")]
    Certificate(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3 with the certificate and the key of these PEM files.
///
/// # Errors
/// [`TlsError`].
pub fn config(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |why| TlsError::Pem { path, why }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What peers have at one time, each up to a limit. This machine has none: a proxy on it speaks for many.
#[derive(Debug)]
pub struct Peers {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One thing that a peer has, until this is dropped.
#[derive(Debug)]
pub struct Counted {
    peers: Arc<Peers>,
    group: IpAddr,
}

impl Peers {
    /// Up to `limit` for each peer.
    pub fn new(limit: usize) -> Arc<Peers> {
        Arc::new(Peers {
            limit,
            counts: Mutex::default(),
        })
    }

    /// One customer's network counts as one peer: a /64 in IPv6 (RFC 6177), an address in IPv4.
    fn group(address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                octets[8..].fill(0);
                if v6.is_loopback() {
                    address
                } else {
                    Ipv6Addr::from(octets).into()
                }
            }
            v4 => v4,
        }
    }

    /// Counts one more; `None` if the peer has enough.
    pub fn count(self: &Arc<Peers>, address: IpAddr) -> Option<Counted> {
        let group = Peers::group(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let n = counts.entry(group).or_insert(0);
        if *n >= self.limit && !group.is_loopback() {
            return None;
        }
        *n += 1;
        Some(Counted {
            peers: Arc::clone(self),
            group,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = counts.get_mut(&self.group) {
            *n -= 1;
            if *n == 0 {
                counts.remove(&self.group);
            }
        }
    }
}

/// Serves `app` until `stop`, then lets requests in progress end for [`GRACE`].
pub async fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    app: Router,
    stop: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let peers = Peers::new(PER_PEER);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            // Taken before the connection is accepted: what does not fit waits in the kernel's queue.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as no file descriptors left: it passes, and asking again at once would spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(counted) = peers.count(address.ip()) else {
            tracing::warn!(peer = %address, "too many connections from this peer: closed");
            continue;
        };
        // Answers are single writes that should not wait for more; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        let acceptor = acceptor.clone();
        let service = TowerToHyperService::new(app.clone().layer(axum::Extension(Peer(address))));
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let (_slot, _counted) = (slot, counted);
            let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(peer = %address, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(peer = %address, "TLS handshake took too long");
                    return;
                }
            };
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(AGE, watcher.watch(connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(peer = %address, %error, "connection ended"),
                Err(_) => tracing::debug!(peer = %address, "connection was open for too long"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests in progress did not end in time and are given up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_can_not_take_all_connections_and_gives_back_what_it_had() {
        let peers = Peers::new(PER_PEER);
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let held: Vec<_> = (0..PER_PEER).map(|_| peers.count(one).unwrap()).collect();
        assert!(peers.count(one).is_none());
        assert!(peers.count("::ffff:192.0.2.1".parse().unwrap()).is_none());
        assert!(peers.count("192.0.2.2".parse().unwrap()).is_some());
        drop(held);
        assert!(peers.count(one).is_some());
        assert_eq!(peers.counts.lock().unwrap().len(), 0);
        let local: Vec<_> = (0..2 * PER_PEER)
            .map(|_| peers.count("127.0.0.1".parse().unwrap()).unwrap())
            .collect();
        drop(local);
        let v6 = |t: &str| Peers::group(t.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    }
}
