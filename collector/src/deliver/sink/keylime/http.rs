//! One request with a JSON body to a registrar or a verifier, over a connection of its own.
//!
//! Promise: nothing is read beyond a limit, and nothing takes longer than the time given.

use super::KeylimeError;
use bytes::Bytes;
use cgpath_net::{Endpoint, NetError, Tls};
use http_body_util::Full;
use hyper::{Method, Request, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// Answers are read no further, beyond what they may repeat of the request.
const MAX_ANSWER: usize = 1 << 20;

/// A service of Keylime.
pub(super) struct Service {
    /// `registrar` or `verifier`, for errors.
    what: &'static str,
    /// Its path is what stands before the API's.
    endpoint: Endpoint,
    timeout: Duration,
}

/// One request.
pub(super) struct Ask<'a, B> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) media: &'static str,
    pub(super) token: Option<&'a str>,
    pub(super) body: &'a B,
}

impl Service {
    /// Reads URL and CA. Plain HTTP is for the registrar alone: what it is sent is public, and what it
    /// answers can be read by the TPM alone.
    ///
    /// # Errors
    /// [`KeylimeError::Net`].
    pub(super) fn new(
        what: &'static str,
        url: &str,
        ca: &Path,
        timeout: Duration,
    ) -> Result<Service, KeylimeError> {
        let tls = Tls::http1(ca);
        let endpoint = match what {
            "registrar" => Endpoint::http_or_https(url, tls),
            _ => Endpoint::https(url, tls),
        };
        Ok(Service {
            what,
            endpoint: endpoint.map_err(|source| KeylimeError::Net { what, source })?,
            timeout,
        })
    }

    /// Sends `ask` and reads the answer.
    ///
    /// # Errors
    /// [`KeylimeError::Refused`] for any status but 2xx; also no connection, no answer in time, or one that
    /// is not what it should be.
    pub(super) async fn send<B: Serialize, A: DeserializeOwned>(
        &self,
        ask: Ask<'_, B>,
    ) -> Result<A, KeylimeError> {
        let body = serde_json::to_vec(ask.body).map_err(|e| self.answer(e))?;
        let limit = MAX_ANSWER.saturating_add(body.len().saturating_mul(2));
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.endpoint.base(), ask.path))
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("cgpathd/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, ask.media)
            .header(header::CONTENT_TYPE, ask.media);
        if let Some(token) = ask.token {
            let mut value = header::HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| self.answer("its token has bytes that no header can have"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.answer(e))?;
        tokio::time::timeout(self.timeout, self.exchange(request, limit))
            .await
            .unwrap_or_else(|_| {
                Err(KeylimeError::Timeout {
                    what: self.what,
                    seconds: self.timeout.as_secs(),
                })
            })
            .and_then(|answer| serde_json::from_slice(&answer).map_err(|e| self.answer(e)))
    }

    /// An answer that cannot be understood.
    pub(super) fn answer(&self, why: impl ToString) -> KeylimeError {
        KeylimeError::Answer {
            what: self.what,
            why: why.to_string(),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, limit: usize) -> Result<Bytes, KeylimeError> {
        let net = |source: NetError| KeylimeError::Net {
            what: self.what,
            source,
        };
        let mut sender = self.endpoint.connect().await.map_err(net)?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|source| net(self.endpoint.broken(source)))?;
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let (status, body) = self
            .endpoint
            .read(response, limit)
            .await
            .map_err(|e| self.answer(e))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(KeylimeError::Refused {
            what: self.what,
            status: status.as_u16(),
            message: String::from_utf8_lossy(&body).chars().take(500).collect(),
            retry_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Seconds that are enough on any machine.
    const PATIENCE: u64 = 180;

    /// What becomes of a request that is answered so and may take so many seconds.
    async fn answered(answer: Vec<u8>, seconds: u64) -> Result<Value, KeylimeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"POST /base/path HTTP/1.1\r\n"));
            // The client may have read enough before all is sent.
            let _ = stream.write_all(&answer).await;
            let _ = stream.read(&mut request).await;
        });
        let service = Service::new("registrar", &url, Path::new(""), Duration::from_secs(seconds)).unwrap();
        let ask = Ask {
            method: Method::POST,
            path: "/path",
            media: "application/json",
            token: None,
            body: &json!({}),
        };
        let result = service.send(ask).await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_limit_and_waited_for_to_its_time() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        assert_eq!(answered(text.into(), PATIENCE).await.unwrap(), json!({"a": 1}));

        let mut long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 3 << 20).into_bytes();
        long.resize(long.len() + (3 << 20), b' ');
        let error = answered(long, PATIENCE).await.unwrap_err();
        assert!(matches!(error, KeylimeError::Answer { .. }), "{error}");
        assert!(error.to_string().contains("limit"), "{error}");

        let error = answered("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into(), 2).await;
        assert!(
            matches!(error, Err(KeylimeError::Timeout { seconds: 2, .. })),
            "{error:?}"
        );
        let error = answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[}".into(), PATIENCE).await;
        assert!(matches!(error, Err(KeylimeError::Answer { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_status_its_words_and_the_pause_that_it_asks_for() {
        let text = "HTTP/1.1 429 Slow\r\nretry-after: 17\r\ncontent-length: 4\r\n\r\nslow";
        let error = answered(text.into(), PATIENCE).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(17));
        assert_eq!(error.to_string(), "the registrar answered 429: slow");
    }

    #[test]
    fn only_a_registrar_may_be_without_tls() {
        let new = |what, url| Service::new(what, url, Path::new(""), Duration::from_secs(1)).map(|_| ());
        assert!(new("registrar", "http://r:8890").is_ok());
        for (what, url) in [
            ("verifier", "http://v:8881"),
            ("registrar", "ftp://r"),
            ("registrar", "no url"),
            ("registrar", "https://r"),
        ] {
            assert!(new(what, url).is_err(), "{url}");
        }
    }
}
