//! The listener: TLS connections with bounds on their number, their age and their silence.
//!
//! TLS is rustls with *ring*. Where a CA for clients is given, a client that shows a certificate must show a
//! good one of it; who has to show one, and with what name, `http` says. Evidence is authentic by its quote
//! in any case. Not here: what requests mean.

pub mod certificate;
pub(crate) mod counts;

use crate::listener::certificate::Current;
use crate::listener::counts::{Counted, Counts};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Connections at one time, where the system lets us have so many files.
const CONNECTIONS: usize = 16_384;
/// Files that are for others than connections.
const OTHER_FILES: u64 = 512;
/// Connections at one time from one peer, see [`Peers::group`].
const PER_PEER: usize = 32;
/// How long a TLS handshake may take.
#[cfg(not(test))]
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So long that only who gives way is closed, however busy the machine is.
#[cfg(test)]
const HANDSHAKE: Duration = Duration::from_secs(600);
/// How long a request's head may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(30);
/// How long a connection may be used.
const AGE: Duration = Duration::from_secs(900);
/// How long requests in progress may take once the service is asked to end.
const GRACE: Duration = Duration::from_secs(10);

/// Who is at the other end; an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The DNS names of the certificate that was shown at the other end, in lower case; an extension of each
/// request. `None`: none was shown.
#[derive(Debug, Clone, Default)]
pub struct Shown(pub Option<Arc<[String]>>);

impl Shown {
    fn of(connection: &rustls::ServerConnection) -> Shown {
        let Some(certificate) = connection.peer_certificates().and_then(<[_]>::first) else {
            return Shown(None);
        };
        // It was checked in the handshake, so it can be read.
        let names = webpki::EndEntityCert::try_from(certificate).map(|certificate| {
            certificate
                .valid_dns_names()
                .map(str::to_ascii_lowercase)
                .collect()
        });
        Shown(Some(names.unwrap_or_default()))
    }

    /// Whether a certificate for exactly this name was shown. A wildcard pattern does not count as a name.
    pub fn is(&self, name: &str) -> bool {
        let names = self.0.as_deref().unwrap_or_default();
        names.iter().any(|n| *n == name.to_ascii_lowercase())
    }
}

/// Why the server's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("{path}: {why}")]
    Pem {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        why: rustls::pki_types::pem::Error,
    },
    /// The CA of clients' certificates cannot be used.
    #[error("{path}: {why}")]
    ClientCa {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        why: String,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("the server's certificate: {0}")]
    Certificate(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3 with the certificate and the key of these PEM files, which may be replaced; `client_ca`
/// says whose certificates clients may show.
///
/// # Errors
/// [`TlsError`].
pub fn config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<(rustls::ServerConfig, Arc<Current>), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let current = Arc::new(Current::read(certificate, key, Arc::clone(&provider))?);
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(clients(path, provider)?),
    };
    let shown: Arc<dyn rustls::server::ResolvesServerCert> = Arc::clone(&current) as _;
    let mut config = builder.with_cert_resolver(shown);
    if client_ca.is_some() {
        // A session that goes on does not look at the certificate again, which may have expired.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    }
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, current))
}

/// Certificates of this CA are good, and so is none.
fn clients(path: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let wrong = |why: String| TlsError::ClientCa {
        path: path.to_owned(),
        why,
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|e| wrong(e.to_string()))
}

/// What peers have at one time, each up to a limit. This machine has none: a proxy on it speaks for many.
#[derive(Debug)]
pub struct Peers(Arc<Counts<IpAddr>>);

impl Peers {
    /// Up to `limit` for each peer.
    pub fn new(limit: usize) -> Peers {
        Peers(Counts::new(limit))
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
    pub fn count(&self, address: IpAddr) -> Option<Counted<IpAddr>> {
        let group = Peers::group(address);
        self.0.count(group, group.is_loopback())
    }
}

/// Connections, each until its task ends. One that waits for its other end (a handshake, a request's head or
/// its body) gives way to a new one when there are too many, the one that has waited longest first: a client
/// that dribbles bytes waits long, and a node that sends its round does not.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    state: Mutex<Open>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Open {
    /// Ids rise, so the first one has waited longest.
    waiting: BTreeMap<u64, AbortHandle>,
    /// Of all.
    count: usize,
    next: u64,
}

impl Connections {
    /// Up to `limit`.
    fn new(limit: usize) -> Arc<Connections> {
        Arc::new(Connections {
            limit,
            state: Mutex::default(),
            left: Notify::new(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more: ends who waited longest, and where nobody waits, waits itself.
    async fn room(&self) {
        loop {
            let left = self.left.notified();
            let oldest = {
                let mut open = self.open();
                if open.count < self.limit {
                    return;
                }
                open.waiting.pop_first()
            };
            if let Some((_, oldest)) = oldest {
                oldest.abort();
            }
            // It ends when it is polled next.
            let _ = tokio::time::timeout(Duration::from_millis(100), left).await;
        }
    }
}

/// One connection; an extension of each request on it.
#[derive(Debug)]
pub struct Connection {
    all: Arc<Connections>,
    task: Mutex<(u64, Option<AbortHandle>)>,
}

impl Connection {
    fn new(all: &Arc<Connections>) -> Arc<Connection> {
        let mut open = all.open();
        open.count += 1;
        open.next += 1;
        let id = open.next;
        drop(open);
        Arc::new(Connection {
            all: Arc::clone(all),
            task: Mutex::new((id, None)),
        })
    }

    /// One of its own.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn alone() -> Arc<Connection> {
        Connection::new(&Connections::new(1))
    }

    fn task(&self) -> MutexGuard<'_, (u64, Option<AbortHandle>)> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it waits for its other end; `handle` ends it.
    fn begin(&self, handle: AbortHandle) {
        let mut task = self.task();
        let mut open = self.all.open();
        open.waiting.insert(task.0, handle.clone());
        task.1 = Some(handle);
    }

    /// It is being answered until what this gives is dropped: it does not give way.
    pub fn answering(self: &Arc<Connection>) -> Answering {
        let task = self.task();
        self.all.open().waiting.remove(&task.0);
        Answering(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let id = self.task().0;
        let mut open = self.all.open();
        open.waiting.remove(&id);
        open.count -= 1;
        self.all.left.notify_one();
    }
}

/// A connection that is being answered.
#[derive(Debug)]
pub struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut task = self.0.task();
        let mut open = self.0.all.open();
        open.next += 1;
        task.0 = open.next;
        if let Some(handle) = &task.1 {
            open.waiting.insert(task.0, handle.clone());
        }
    }
}

/// How many connections there may be: as many as the system gives us files for. Asks it for all that it would
/// give.
///
/// # Errors
/// Those of the system, and too few files for anything.
pub fn connections() -> std::io::Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = (CONNECTIONS as u64 + OTHER_FILES).min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    let files = soft.max(wanted);
    let limit = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    if limit == 0 {
        let why =
            format!("{files} open files are allowed, more than {OTHER_FILES} are needed (LimitNOFILE=)");
        return Err(std::io::Error::other(why));
    }
    Ok(limit.min(CONNECTIONS))
}

/// How requests are read.
pub fn http() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024);
    builder
}

/// Serves `app` until `stop`, then lets requests in progress end for [`GRACE`].
pub async fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    app: Router,
    limit: usize,
    stop: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Connections::new(limit);
    let peers = Peers::new(PER_PEER);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let accepted = listener.accept().await;
            connections.room().await;
            accepted
        };
        let accepted = tokio::select! {
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
        let app = app.clone();
        let watcher = graceful.watcher();
        let connection = Connection::new(&connections);
        let mine = Arc::clone(&connection);
        let task = tokio::spawn(async move {
            let _counted = counted;
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
            let shown = Shown::of(stream.get_ref().1);
            let app = app
                .layer(axum::Extension(Peer(address)))
                .layer(axum::Extension(mine))
                .layer(axum::Extension(shown));
            let service = TowerToHyperService::new(app);
            let connection = http().serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(AGE, watcher.watch(connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(peer = %address, %error, "connection ended"),
                Err(_) => tracing::debug!(peer = %address, "connection was open for too long"),
            }
        });
        connection.begin(task.abort_handle());
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
        assert_eq!(peers.0.len(), 0);
        let local: Vec<_> = (0..2 * PER_PEER)
            .map(|_| peers.count("127.0.0.1".parse().unwrap()).unwrap())
            .collect();
        drop(local);
        let v6 = |t: &str| Peers::group(t.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    }

    /// Bytes that are no request, for as long as the other side stands it.
    async fn idle(address: std::net::SocketAddr) -> tokio::net::TcpStream {
        tokio::net::TcpStream::connect(address).await.unwrap()
    }

    #[tokio::test]
    async fn when_there_are_too_many_who_waited_longest_gives_way_and_whoever_is_answered_does_not() {
        use axum::routing::get;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        const LIMIT: usize = 16;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("v");
        let now = time::OffsetDateTime::now_utc();
        crate::setup::init(&dir, &["localhost".to_owned()], now).unwrap();
        let (tls, _) = config(&dir.join("server.pem"), &dir.join("server.key"), None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (go, wait) = tokio::sync::watch::channel(false);
        let (begin, mut begun) = tokio::sync::watch::channel(false);
        let slow = |axum::Extension(connection): axum::Extension<Arc<Connection>>| async move {
            let _answering = connection.answering();
            let _ = begin.send(true);
            let mut wait = wait.clone();
            let _ = wait.wait_for(|go| *go).await;
            "slow"
        };
        let app = Router::new()
            .route("/slow", get(slow))
            .route("/", get(|| async { "quick" }));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, tls, app, LIMIT, async {
            let _ = stopped.await;
        }));

        let roots = CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap();
        let mut store = rustls::RootCertStore::empty();
        store.add(roots).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let ask = |path: &'static str| {
            let connector = connector.clone();
            async move {
                let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
                let mut stream = connector.connect(name, idle(address).await).await.unwrap();
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer).await;
                answer
            }
        };
        let answered = tokio::spawn(ask("/slow"));
        begun.wait_for(|begun| *begun).await.unwrap();
        let mut others = vec![idle(address).await];
        for _ in 0..4 * LIMIT {
            others.push(idle(address).await);
        }
        // The service has no room left; a request is answered all the same, and the one in progress goes on.
        for _ in 0..4 {
            assert!(ask("/").await.ends_with("quick"));
        }
        let mut closed = [0];
        let first = tokio::time::timeout(Duration::from_secs(180), others[0].read(&mut closed)).await;
        assert!(
            matches!(first, Ok(Ok(0) | Err(_))),
            "who waited longest is still there: {first:?}"
        );
        go.send(true).unwrap();
        assert!(answered.await.unwrap().ends_with("slow"));
        drop(others);
        stop.send(()).unwrap();
        server.await.unwrap();
    }
}
