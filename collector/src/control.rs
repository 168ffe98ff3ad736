//! The daemon's local socket: one JSON line asked, one JSON line answered, and the evidence behind it.
//!
//! Root only: it lies with mode 0600 in `run_dir`.

use crate::bpf;
use crate::config;
use crate::deliver::sink::Sinks;
use crate::request::{Handover, RequestError};
use crate::service::Handle;
use crate::status::Status;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// A question is never longer.
const MAX_LINE: u64 = 4096;

/// Where the socket is.
pub fn socket(run_dir: &Path) -> PathBuf {
    config::control_socket(run_dir)
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
enum Question {
    /// Evidence for a nonce.
    Evidence {
        #[serde(with = "cgpath_evidence::serde_bytes_hex")]
        nonce: Vec<u8>,
    },
    /// How the daemon fares.
    Status,
    /// That it hands over to the program at this path, which is its own, if both understand the eBPF programs
    /// that run.
    Handover {
        program: PathBuf,
        #[serde(with = "cgpath_evidence::serde_bytes_hex")]
        interface: [u8; 32],
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
enum Answer {
    /// This many bytes of evidence follow.
    Evidence { length: u64 },
    /// How the daemon fares.
    Status(Box<Status>),
    /// To what it hands over.
    Handover(Handover),
    /// It did not work.
    Error { message: String },
}

/// Makes the socket, in place of one that a dead daemon left; one on which somebody listens stays.
///
/// # Errors
/// If it cannot be made.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    local_socket(&socket(run_dir))
}

/// A socket at `path` that root alone may use, in place of one that nobody has any more; another's stays, and
/// so does what is no socket.
pub(crate) fn local_socket(path: &Path) -> io::Result<UnixListener> {
    let stays = |kind, why: &str| Err(io::Error::new(kind, format!("{} {why}", path.display())));
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return stays(io::ErrorKind::AlreadyExists, "is there and is no socket");
        }
        Ok(_) if is_left_over(path)? => std::fs::remove_file(path)?,
        Ok(_) => return stays(io::ErrorKind::AddrInUse, "is another's, who has it open"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether nobody has the socket at `path` open: the kernel refuses to connect to such a one alone. Asking
/// waits for nobody, not even where the queue of another is full.
fn is_left_over(path: &Path) -> io::Result<bool> {
    use nix::sys::socket::{connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asker = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let asked = connect(asker.as_raw_fd(), &UnixAddr::new(path)?);
    Ok(asked == Err(Errno::ECONNREFUSED))
}

/// Answers on the socket until the task is dropped.
pub async fn serve(listener: UnixListener, handle: Handle, sinks: Arc<Sinks>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (handle, sinks) = (handle.clone(), Arc::clone(&sinks));
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, handle, &sinks).await {
                        tracing::debug!(%error, "a local request broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the local socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// How the daemon fares, its sinks with it.
///
/// # Errors
/// As [`Handle::status`].
pub async fn status(handle: &Handle, sinks: &Sinks) -> Result<Status, RequestError> {
    let status = handle.status().await?;
    Ok(Status {
        sinks: sinks.status(),
        ..status
    })
}

async fn answer(stream: UnixStream, handle: Handle, sinks: &Sinks) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(read.take(MAX_LINE))
        .read_until(b'\n', &mut line)
        .await?;
    let mut body = None;
    let answer = match serde_json::from_slice::<Question>(&line) {
        Err(e) => Answer::Error {
            message: format!("not a question: {e}"),
        },
        Ok(Question::Status) => match status(&handle, sinks).await {
            Ok(status) => Answer::Status(Box::new(status)),
            Err(e) => Answer::Error {
                message: e.to_string(),
            },
        },
        Ok(Question::Handover { program, interface }) => match handle.hand_over(program, interface).await {
            Ok(handover) => Answer::Handover(handover),
            Err(e) => Answer::Error {
                message: e.to_string(),
            },
        },
        Ok(Question::Evidence { nonce }) => match handle.evidence(nonce).await {
            Ok(evidence) => {
                let length = evidence.len;
                body = Some(evidence.file);
                Answer::Evidence { length }
            }
            Err(e) => Answer::Error {
                message: e.to_string(),
            },
        },
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    if let Some(file) = body {
        tokio::io::copy(&mut tokio::fs::File::from_std(file), &mut write).await?;
    }
    write.shutdown().await
}

/// Why the running daemon gave no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No daemon listens.
    #[error("no daemon listens on {0}; its log and `cgpathd check` say why")]
    NotRunning(PathBuf),
    /// The conversation failed.
    #[error("asking the daemon at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// Sends a question; gives the answer and what follows it.
fn ask(run_dir: &Path, question: &Question) -> Result<(Answer, BufReader<StdStream>), ClientError> {
    let path = socket(run_dir);
    let io = |source| ClientError::Io {
        path: path.clone(),
        source,
    };
    let stream = match StdStream::connect(&path) {
        Ok(stream) => stream,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(ClientError::NotRunning(path));
        }
        Err(e) => return Err(io(e)),
    };
    let mut question = serde_json::to_vec(question).map_err(|e| io(e.into()))?;
    question.push(b'\n');
    (&stream).write_all(&question).map_err(io)?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    reader
        .by_ref()
        .take(1 << 20)
        .read_until(b'\n', &mut line)
        .map_err(io)?;
    match serde_json::from_slice(&line).map_err(|e| io(e.into()))? {
        Answer::Error { message } => Err(ClientError::Refused(message)),
        answer => Ok((answer, reader)),
    }
}

/// Asks the running daemon for evidence and writes it to `out`; gives its length in bytes.
///
/// # Errors
/// See [`ClientError`].
pub fn ask_evidence(run_dir: &Path, nonce: &[u8], out: &mut impl Write) -> Result<u64, ClientError> {
    let io = |source: io::Error| ClientError::Io {
        path: socket(run_dir),
        source,
    };
    let (answer, reader) = ask(
        run_dir,
        &Question::Evidence {
            nonce: nonce.to_vec(),
        },
    )?;
    let Answer::Evidence { length } = answer else {
        return Err(io(io::ErrorKind::InvalidData.into()));
    };
    let copied = io::copy(&mut reader.take(length), out).map_err(io)?;
    if copied == length {
        Ok(length)
    } else {
        Err(io(io::ErrorKind::UnexpectedEof.into()))
    }
}

/// Asks the running daemon how it fares.
///
/// # Errors
/// See [`ClientError`].
pub fn ask_status(run_dir: &Path) -> Result<Status, ClientError> {
    match ask(run_dir, &Question::Status)?.0 {
        Answer::Status(status) => Ok(*status),
        _ => Err(ClientError::Io {
            path: socket(run_dir),
            source: io::ErrorKind::InvalidData.into(),
        }),
    }
}

/// Asks the running daemon to hand over to the program at `program`, which is this one.
///
/// # Errors
/// See [`ClientError`].
pub fn ask_handover(run_dir: &Path, program: &Path) -> Result<Handover, ClientError> {
    let question = Question::Handover {
        program: program.to_owned(),
        interface: bpf::interface(),
    };
    match ask(run_dir, &question)?.0 {
        Answer::Handover(handover) => Ok(handover),
        _ => Err(ClientError::Io {
            path: socket(run_dir),
            source: io::ErrorKind::InvalidData.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_is_asked_for_and_answered_in_one_line_each() {
        let question = Question::Handover {
            program: "/usr/sbin/cgpathd".into(),
            interface: bpf::interface(),
        };
        let line = serde_json::to_string(&question).unwrap();
        assert!(line.len() as u64 <= MAX_LINE && !line.contains('\n'), "{line}");
        let Question::Handover { program, interface } = serde_json::from_str(&line).unwrap() else {
            panic!("{line}")
        };
        assert_eq!(
            (program, interface),
            ("/usr/sbin/cgpathd".into(), bpf::interface())
        );
        let handover = Handover {
            checkpoint: 7,
            program: cgpath_evidence::Bank::Sha256.hash(&[b"a program"]),
            is_itself: false,
        };
        let line = serde_json::to_string(&Answer::Handover(handover.clone())).unwrap();
        let Answer::Handover(read) = serde_json::from_str(&line).unwrap() else {
            panic!("{line}")
        };
        assert_eq!(read, handover);
    }
}
