//! One exchange with the verifier: a nonce, or evidence for a verdict, over HTTPS.
//!
//! Promises: the server is authenticated by one CA; evidence goes the way by which its nonce came while that
//! is open. Not here: what the answers mean (see [`super::answer`]), when to try again (see [`super::run`]).

use super::answer::parse_nonce;
use super::body::FileBody;
use crate::config::Verifier;
use crate::request::RequestError;
use crate::sync::lock;
use bytes::Bytes;
use cgpath_evidence::Cursor;
use cgpath_net::{Endpoint, NetError, Tls};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, header};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Answers of the verifier are read no further.
const MAX_ANSWER: usize = 16 << 20;

/// Why nothing was delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// It cannot be reached, or the connection broke.
    #[error("verifier {0}")]
    Net(#[from] NetError),
    /// It took too long.
    #[error("verifier {authority} did not answer within {seconds} s")]
    Timeout {
        /// Host and port.
        authority: String,
        /// The limit.
        seconds: u64,
    },
    /// The verifier refused.
    #[error("verifier {authority} answered {status}: {message}")]
    Refused {
        /// Host and port.
        authority: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The verifier's answer is not what it should be.
    #[error("verifier {authority}: its answer cannot be understood: {why}")]
    Answer {
        /// Host and port.
        authority: String,
        /// Why not.
        why: String,
    },
    /// The evidence that was made cannot be read again.
    #[error("the file of the evidence: {0}")]
    File(std::io::Error),
    /// No evidence could be made.
    #[error(transparent)]
    Evidence(#[from] RequestError),
}

impl PushError {
    /// Whether the verifier cannot use a part of evidence and wants the whole.
    pub(super) fn wants_everything(&self) -> bool {
        // 409 is also what a node gets that is stopped: there is nothing to be sent then.
        matches!(self, PushError::Refused { status: 409, message, .. }
            if !message.contains(r#""kind":"stopped""#))
    }
}

/// A verifier, as configured.
pub struct Client {
    /// Its path is what stands before `/v1`.
    endpoint: Endpoint,
    node: String,
    timeout: Duration,
    /// Whether what it says of pods is acted upon.
    decides: bool,
    progress: Arc<Progress>,
    /// The connection by which the last nonce came: evidence goes the same way.
    open: Mutex<Option<SendRequest<Sent>>>,
}

/// How rounds with a verifier fare.
#[derive(Debug, Default)]
pub struct Progress(std::sync::Mutex<(u64, Option<String>)>);

impl Progress {
    /// Rounds that were delivered since the start, and why the last one was not.
    pub fn get(&self) -> (u64, Option<String>) {
        lock(&self.0).clone()
    }

    pub(super) fn delivered(&self) {
        let mut rounds = lock(&self.0);
        *rounds = (rounds.0.saturating_add(1), None);
    }

    pub(super) fn failed(&self, error: &PushError) {
        lock(&self.0).1 = Some(error.to_string());
    }
}

type Sent = BoxBody<Bytes, std::io::Error>;

impl Client {
    /// Reads URL, CA and the node's own certificate.
    ///
    /// # Errors
    /// [`NetError::Url`], [`NetError::Ca`], [`NetError::Identity`].
    pub fn new(config: &Verifier, node: &str) -> Result<Client, NetError> {
        let tls = Tls {
            identity: (&config.client_certificate, &config.client_key),
            ..Tls::http1(&config.ca)
        };
        Ok(Client {
            endpoint: Endpoint::https(&config.url, tls)?,
            node: node.to_owned(),
            timeout: Duration::from_secs(config.timeout),
            decides: true,
            progress: Arc::default(),
            open: Mutex::new(None),
        })
    }

    /// Whether its verdicts deny anything on this node.
    pub(super) fn decides(&self) -> bool {
        self.decides
    }

    /// How rounds with it fare.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The same for a verifier whose verdicts deny nothing on this node.
    #[must_use]
    pub fn observing(self) -> Client {
        Client {
            decides: false,
            ..self
        }
    }

    /// One nonce from the verifier, by a new connection, and how far it follows this node.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn nonce(&self) -> Result<(Vec<u8>, Option<Cursor>), PushError> {
        *self.open.lock().await = None;
        let answer = self.post("nonce", None).await?;
        parse_nonce(&answer).map_err(|why| PushError::Answer {
            authority: self.authority(),
            why,
        })
    }

    /// Delivers evidence, by the nonce's connection if that is still open; gives the verdict as the verifier
    /// sent it.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn deliver(&self, evidence: File, len: u64) -> Result<Vec<u8>, PushError> {
        self.post("evidence", Some((&evidence, len))).await
    }

    async fn post(&self, what: &str, file: Option<(&File, u64)>) -> Result<Vec<u8>, PushError> {
        let work = async {
            let open = self.open.lock().await.take();
            if let Some(sender) = open {
                match self.exchange(sender, what, file).await {
                    // It was closed meanwhile, perhaps after it took everything: evidence that comes twice
                    // counts once.
                    Err(PushError::Net(NetError::Http { .. })) => {}
                    done => return done,
                }
            }
            self.exchange(self.endpoint.connect().await?, what, file).await
        };
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| {
                Err(PushError::Timeout {
                    authority: self.authority(),
                    seconds: self.timeout.as_secs(),
                })
            })
    }

    async fn exchange(
        &self,
        mut sender: SendRequest<Sent>,
        what: &str,
        file: Option<(&File, u64)>,
    ) -> Result<Vec<u8>, PushError> {
        let http = |source| PushError::Net(self.endpoint.broken(source));
        let answer = |why: String| PushError::Answer {
            authority: self.authority(),
            why,
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v1/nodes/{}/{what}", self.endpoint.base(), self.node))
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("cgpathd/", env!("CARGO_PKG_VERSION")));
        let body = match file {
            Some((file, left)) => {
                request = request
                    .header(header::CONTENT_TYPE, "application/cbor")
                    .header(header::CONTENT_LENGTH, left);
                FileBody::new(file, left).map_err(PushError::File)?.boxed()
            }
            None => {
                request = request.header(header::CONTENT_LENGTH, 0);
                Empty::new().map_err(|never| match never {}).boxed()
            }
        };
        let request = request.body(body).map_err(|e| answer(e.to_string()))?;
        sender.ready().await.map_err(http)?;
        let response = sender.send_request(request).await.map_err(http)?;
        let (status, body) = self
            .endpoint
            .read(response, MAX_ANSWER)
            .await
            .map_err(|e| answer(e.to_string()))?;
        if status.is_success() {
            // Evidence ends a round: until the next one the verifier has better use for a connection.
            if file.is_none() {
                *self.open.lock().await = Some(sender);
            }
            return Ok(body.to_vec());
        }
        let message: String = String::from_utf8_lossy(&body).chars().take(500).collect();
        Err(PushError::Refused {
            authority: self.authority(),
            status: status.as_u16(),
            message,
        })
    }

    fn authority(&self) -> String {
        self.endpoint.authority().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_testkit::Authority;
    use std::path::PathBuf;

    #[test]
    fn a_refused_part_is_answered_with_everything_and_a_stopped_node_sends_nothing_more_than_before() {
        let refused = |status, kind: &str| PushError::Refused {
            authority: "v".into(),
            status,
            message: format!(r#"{{"error":"…","kind":"{kind}"}}"#),
        };
        for kind in [
            "nothing-kept",
            "rebooted",
            "kexec",
            "round-repeated",
            "round-lost",
            "other-position",
        ] {
            assert!(refused(409, kind).wants_everything(), "{kind}");
        }
        assert!(!refused(409, "stopped").wants_everything());
        assert!(!refused(503, "busy").wants_everything());
    }

    #[test]
    fn a_ca_that_is_absent_or_empty_is_named() {
        let mut config = Verifier {
            url: "https://verifier.example:8443/base/".into(),
            ca: "/nonexistent/ca.pem".into(),
            ..Verifier::default()
        };
        assert!(matches!(Client::new(&config, "n"), Err(NetError::Ca { .. })));
        let empty = tempfile::NamedTempFile::new().unwrap();
        config.ca = empty.path().to_owned();
        assert!(matches!(Client::new(&config, "n"), Err(NetError::Ca { .. })));
        config.url = "https://".into();
        assert!(matches!(Client::new(&config, "n"), Err(NetError::Url { .. })));
    }

    /// Takes one request of a client that has a certificate of `authority`; gives the address.
    async fn serve(authority: &Authority) -> std::net::SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let tls = authority.issue("localhost").server(Some(authority));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await else {
                return;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let body = format!("{{\"nonce\":\"{}\"}}", "07".repeat(32));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        });
        address
    }

    #[tokio::test]
    async fn a_verifier_that_wants_a_certificate_gets_the_configured_one() {
        let authority = Authority::new();
        let own = authority.issue("worker-1");
        for shown in [true, false] {
            let address = serve(&authority).await;
            let mut config = Verifier {
                url: format!("https://localhost:{}", address.port()),
                ca: authority.ca(),
                ..Verifier::default()
            };
            if shown {
                config.client_certificate.clone_from(&own.certificate);
                config.client_key.clone_from(&own.key);
            }
            let nonce = Client::new(&config, "worker-1").unwrap().nonce().await;
            if shown {
                assert_eq!(nonce.unwrap().0, [7; 32]);
            } else {
                assert!(
                    matches!(
                        nonce,
                        Err(PushError::Net(NetError::Connect { .. } | NetError::Http { .. }))
                    ),
                    "{nonce:?}"
                );
            }
        }
    }

    #[test]
    fn a_certificate_without_its_key_or_with_anothers_is_named() {
        let authority = Authority::new();
        let pem = authority.issue("worker-1").certificate;
        let other = authority.issue("worker-2").key;
        for (certificate, key) in [
            (pem.clone(), PathBuf::new()),
            (PathBuf::new(), other.clone()),
            (pem.clone(), other.clone()),
            (authority.dir().join("absent"), other.clone()),
            (other, pem),
        ] {
            let config = Verifier {
                url: "https://localhost".into(),
                ca: authority.ca(),
                client_certificate: certificate,
                client_key: key,
                ..Verifier::default()
            };
            let error = Client::new(&config, "worker-1").err().unwrap();
            assert!(matches!(error, NetError::Identity { .. }), "{error}");
        }
    }
}
