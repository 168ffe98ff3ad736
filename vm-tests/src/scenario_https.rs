//! The little HTTPS that scenarios need to talk to `cgpath serve` on this machine: one request, one answer.
//!
//! Promises: only the given CA is trusted; an answer has a bounded length and time. Not here: reuse of
//! connections, redirects, chunks (HTTP/1.0 has none of them).

use crate::PATIENCE;
use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// Bytes of an answer at most.
const LIMIT: u64 = 64 << 20;

/// A client of one server on this machine.
#[derive(Clone)]
pub struct Client {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

/// What the server said.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON, where the status is 200.
    ///
    /// # Errors
    /// For another status, with what the server said; for a body that is not JSON of this form.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(
            self.status == 200,
            "the verifier answered {}: {text}",
            self.status
        );
        serde_json::from_slice(&self.body).with_context(|| format!("the verifier's answer: {text:.300}"))
    }
}

impl Client {
    /// For the server on `port` whose certificate `ca` (PEM) signed.
    ///
    /// # Errors
    /// When the CA's file cannot be read.
    pub fn new(port: u16, ca: &Path) -> Result<Client> {
        let mut roots = rustls::RootCertStore::empty();
        let certificate =
            CertificateDer::from_pem_file(ca).with_context(|| format!("cannot read {}", ca.display()))?;
        roots.add(certificate).context("the verifier's CA")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Client {
            port,
            tls: Arc::new(tls),
        })
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// When the server cannot be reached or its answer is not HTTP. A status that is an error is not one
    /// here.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path, &[])
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answer> {
        self.ask("POST", path, body)
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        self.exchange(method, path, body)
            .with_context(|| format!("{method} {path} to the verifier"))
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).context("cannot connect")?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let tls = rustls::ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from("localhost")?)?;
        let mut stream = rustls::StreamOwned::new(tls, tcp);
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.take(LIMIT).read_to_end(&mut answer) {
            // Some servers close without saying so in TLS; the length below tells whether all is there.
            Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(e).context("reading the answer");
            }
            _ => {}
        }
        parse(&answer)
    }
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the answer's head does not end")?;
    let head = std::str::from_utf8(&answer[..end]).context("the answer's head is not text")?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("the answer does not begin with an HTTP status")?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) if length != body.len() => bail!("{} bytes of {length} arrived", body.len()),
        Some(_) => Ok(Answer {
            status,
            body: body.to_vec(),
        }),
        None => bail!("the answer does not say how long it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_off_is_not_taken_for_a_whole_one() {
        let whole = b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\n{\"a\"";
        assert_eq!(parse(whole).unwrap().status, 200);
        for n in 0..whole.len() {
            assert!(parse(&whole[..n]).is_err(), "cut at {n}");
        }
    }
}
