//! Hands one message to a sink: a pair of files, or a line that must be acknowledged.
//!
//! A line is the header's JSON with `payload` (base64) and ends with a newline; the sink answers with the
//! number and a newline once the message is safe. What was not acknowledged is sent again.

use super::queue::{Header, Waiting};
use crate::config::Sink;
use crate::deliver::stream::Stream;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_net::{NetError, Tls};
use rustls::pki_types::ServerName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// An acknowledgement is never longer.
const MAX_ANSWER: u64 = 64;

/// A connection that stays open from one message to the next.
pub(super) type Open = Option<BufReader<Box<dyn Stream>>>;

/// Where messages go.
pub(super) enum Target {
    File {
        dir: PathBuf,
        keep: u64,
    },
    Unix {
        path: PathBuf,
    },
    Tls {
        tls: Box<TlsConnector>,
        name: ServerName<'static>,
        address: String,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    header: &'a Header,
    payload: String,
}

impl Target {
    /// Of a `file` sink.
    pub(super) fn file(sink: &Sink) -> Target {
        Target::File {
            dir: sink.to.clone().into(),
            keep: sink.keep << 20,
        }
    }

    /// Of a `unix` sink.
    pub(super) fn unix(sink: &Sink) -> Target {
        Target::Unix {
            path: sink.to.clone().into(),
        }
    }

    /// Of a `tls` sink.
    ///
    /// # Errors
    /// A CA, a certificate or a key that cannot be used; an address without a host's name.
    pub(super) fn tls(sink: &Sink) -> Result<Target, NetError> {
        let host = sink
            .to
            .rsplit_once(':')
            .map_or(sink.to.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = Tls {
            ca: &sink.ca,
            identity: (&sink.client_certificate, &sink.client_key),
            protocol: b"",
        };
        Ok(Target::Tls {
            tls: Box::new(tls.connector()?),
            name: ServerName::try_from(host).map_err(|e| NetError::Url {
                url: sink.to.clone(),
                why: e.to_string(),
            })?,
            address: sink.to.clone(),
        })
    }

    /// Hands over one message; when this returns it is safe there.
    pub(super) async fn deliver(&self, message: &Waiting, open: &mut Open) -> io::Result<()> {
        let path = message.path.clone();
        if let Target::File { dir, keep } = self {
            let (dir, keep) = (dir.clone(), *keep);
            return tokio::task::spawn_blocking(move || to_directory(&path, &dir, keep))
                .await
                .map_err(io::Error::other)?;
        }
        let line = tokio::task::spawn_blocking(move || line(&path))
            .await
            .map_err(io::Error::other)??;
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => BufReader::new(self.connect().await?),
        };
        stream.write_all(&line).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        (&mut stream)
            .take(MAX_ANSWER)
            .read_until(b'\n', &mut answer)
            .await?;
        let expected = format!("{}\n", message.sequence);
        if answer != expected.as_bytes() {
            let text = String::from_utf8_lossy(&answer).trim_end().to_owned();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "it answered {text:?} to message {}, and not with the number alone",
                    message.sequence
                ),
            ));
        }
        *open = Some(stream);
        Ok(())
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Target::Unix { path } => Box::new(UnixStream::connect(path).await?),
            Target::Tls { tls, name, address } => {
                let tcp = TcpStream::connect(address.as_str()).await?;
                Box::new(tls.connect(name.clone(), tcp).await?)
            }
            Target::File { .. } => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

/// Header and payload of a message.
fn read(path: &Path) -> io::Result<(Header, Vec<u8>)> {
    let mut bytes = fs::read(path)?;
    let end = bytes
        .iter()
        .position(|b| *b == b'\n')
        .ok_or(io::ErrorKind::InvalidData)?;
    let header = serde_json::from_slice(&bytes[..end])?;
    bytes.drain(..=end);
    Ok((header, bytes))
}

fn line(path: &Path) -> io::Result<Vec<u8>> {
    let (header, payload) = read(path)?;
    let mut line = serde_json::to_vec(&Line {
        header: &header,
        payload: STANDARD.encode(payload),
    })?;
    line.push(b'\n');
    Ok(line)
}

/// `NUMBER-FORMAT.cbor` and `NUMBER-FORMAT.json`; the payload is whole before its header is there.
fn to_directory(path: &Path, dir: &Path, keep: u64) -> io::Result<()> {
    let (header, payload) = read(path)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = format!("{:016x}-{}", header.sequence, header.format);
    let mut line = serde_json::to_vec(&header)?;
    line.push(b'\n');
    for (extension, bytes) in [("cbor", &payload), ("json", &line)] {
        let partial = dir.join(format!(".{name}.{extension}"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, dir.join(format!("{name}.{extension}")))?;
    }
    fs::File::open(dir)?.sync_all()?;
    rotate(dir, keep)
}

/// Removes the oldest messages until the others have at most `keep` bytes; the newest stays in any case.
fn rotate(dir: &Path, keep: u64) -> io::Result<()> {
    let mut messages: BTreeMap<u64, (Vec<String>, u64)> = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .get(..16)
            .and_then(|number| u64::from_str_radix(number, 16).ok());
        if let Some(number) = number
            && (name.ends_with(".cbor") || name.ends_with(".json"))
        {
            let (names, bytes) = messages.entry(number).or_default();
            names.push(name);
            *bytes += entry.metadata()?.len();
        }
    }
    let mut total = 0u64;
    for (n, (mut names, bytes)) in messages.into_values().rev().enumerate() {
        total = total.saturating_add(bytes);
        if n > 0 && total > keep {
            // The header first: where there is one, its payload is there.
            names.sort_unstable_by(|a, b| b.cmp(a));
            for name in names {
                fs::remove_file(dir.join(name))?;
            }
        }
    }
    Ok(())
}
