//! What is asked of the host's systemd: by D-Bus, over its own socket, without a program of the host's.
//!
//! Promises: bounded in time and memory; only the few methods that are needed. The socket asks for the user
//! root and no capability. A program of the host's that ran in a pod would be measured as the pod's: hence
//! no systemctl. Not here: what is started (see [`super`]).
//! Source: D-Bus specification, *Message Protocol*, *Authentication Protocol*; org.freedesktop.systemd1(5).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The manager's own socket, for root alone.
pub const SOCKET: &str = "run/systemd/private";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A longer message is refused, in bytes.
const MAX: usize = 1 << 20;

const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// It cannot be reached.
    #[error("the host's systemd cannot be reached at /{SOCKET}: {0}")]
    Io(#[from] io::Error),
    /// It does not take this user for root.
    #[error("the host's systemd refuses this user: {0}")]
    Refused(String),
    /// Its answer is none.
    #[error("an answer of the host's systemd: byte {offset}: {why}")]
    Malformed {
        /// Where.
        offset: usize,
        /// Why.
        why: &'static str,
    },
    /// It answers with an error.
    #[error("the host's systemd: {name}: {text}")]
    Failed {
        /// Of the error.
        name: String,
        /// For people.
        text: String,
    },
    /// A job ended otherwise than done.
    #[error("{unit}: {result}; on the host, journalctl -u {unit} says why")]
    Job {
        /// Of which unit.
        unit: String,
        /// How it ended.
        result: String,
    },
}

/// A connection.
#[derive(Debug)]
pub struct Systemd {
    stream: UnixStream,
    serial: u32,
}

impl Systemd {
    /// Connects to the systemd of the host whose root directory is `root`.
    ///
    /// # Errors
    /// [`SystemdError::Io`], [`SystemdError::Refused`].
    pub fn connect(root: &Path) -> Result<Self, SystemdError> {
        Self::over(UnixStream::connect(root.join(SOCKET))?)
    }

    fn over(mut stream: UnixStream) -> Result<Self, SystemdError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let uid = nix::unistd::geteuid().to_string();
        // All at once, and a message only after the answer: systemd reads past one that comes with BEGIN.
        stream.write_all(format!("\0AUTH EXTERNAL {}\r\nBEGIN\r\n", hex::encode(uid)).as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.extend(byte);
            if line.len() > 512 {
                return Err(SystemdError::Malformed {
                    offset: line.len(),
                    why: "a line without an end",
                });
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(SystemdError::Refused(
                String::from_utf8_lossy(&line).trim_end().to_owned(),
            ));
        }
        Ok(Self { stream, serial: 0 })
    }

    /// Has it read its units anew.
    ///
    /// # Errors
    /// See [`SystemdError`].
    pub fn reload(&mut self) -> Result<(), SystemdError> {
        self.call(MANAGER, "Reload", &[]).map(drop)
    }

    /// Has it start, stop or restart (`StartUnit`, `StopUnit`, `RestartUnit`) a unit, and waits for the end
    /// of the job.
    ///
    /// # Errors
    /// See [`SystemdError`]; [`SystemdError::Job`] where it was not done.
    pub fn job(&mut self, method: &str, unit: &str, patience: Duration) -> Result<(), SystemdError> {
        let body = self.call(MANAGER, method, &[unit, "replace"])?;
        let job = Reader::of(&body).string()?;
        let until = Instant::now() + patience;
        loop {
            let message = self.next(until)?;
            if message.kind != SIGNAL || message.member != "JobRemoved" {
                continue;
            }
            let mut reader = Reader::of(&message.body);
            let (_, path, unit, result) = (
                reader.u32()?,
                reader.string()?,
                reader.string()?,
                reader.string()?,
            );
            match (path == job, result.as_str()) {
                (false, _) => {}
                (true, "done") => return Ok(()),
                (true, _) => return Err(SystemdError::Job { unit, result }),
            }
        }
    }

    /// Calls a method whose arguments are strings; gives the body of the answer.
    fn call(&mut self, at: (&str, &str), member: &str, arguments: &[&str]) -> Result<Vec<u8>, SystemdError> {
        self.serial += 1;
        self.stream
            .write_all(&message(self.serial, at, member, arguments))?;
        let until = Instant::now() + PATIENCE;
        loop {
            // Signals come in between, of each unit where all are read anew.
            let message = self.next(until)?;
            match message.kind {
                RETURN if message.to == Some(self.serial) => return Ok(message.body),
                ERROR if message.to == Some(self.serial) => {
                    let text = Reader::of(&message.body).string().unwrap_or_default();
                    return Err(SystemdError::Failed {
                        name: message.error,
                        text,
                    });
                }
                _ => {}
            }
        }
    }

    /// The next message, until then.
    fn next(&mut self, until: Instant) -> Result<Message, SystemdError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SystemdError::Io(io::ErrorKind::TimedOut.into()));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if head[0] != b'l' {
            return Err(SystemdError::Malformed {
                offset: 0,
                why: "not little-endian",
            });
        }
        let mut reader = Reader { bytes: &head, at: 4 };
        let (body, _, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
        if body > MAX || fields > MAX {
            return Err(SystemdError::Malformed {
                offset: 4,
                why: "too long",
            });
        }
        let begin = 16 + fields.next_multiple_of(8);
        let mut whole = head.to_vec();
        whole.resize(begin + body, 0);
        self.stream.read_exact(&mut whole[16..])?;
        let mut message = Message {
            kind: head[1],
            body: whole.split_off(begin),
            ..Message::default()
        };
        let mut reader = Reader {
            bytes: &whole[..16 + fields],
            at: 16,
        };
        while reader.at < reader.bytes.len() {
            reader.align(8);
            let code = reader.byte()?;
            match (code, reader.signature()?.as_str()) {
                (5, "u") => message.to = Some(reader.u32()?),
                (4, "s") => message.error = reader.string()?,
                (3, "s") => message.member = reader.string()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.u32()?),
                _ => {
                    return Err(SystemdError::Malformed {
                        offset: reader.at,
                        why: "a field of no known kind",
                    });
                }
            }
        }
        Ok(message)
    }
}

/// Kinds of messages.
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A message, as far as it counts here.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    /// The call that it answers.
    to: Option<u32>,
    member: String,
    error: String,
    body: Vec<u8>,
}

/// A method call.
fn message(serial: u32, (path, interface): (&str, &str), member: &str, arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        string(&mut body, argument);
    }
    let mut fields = Vec::new();
    let mut field = |code: u8, kind: u8, text: &str| {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([code, 1, kind, 0]);
        match kind {
            b'g' => {
                fields.push(text.len() as u8);
                fields.extend(text.as_bytes());
                fields.push(0);
            }
            _ => string(&mut fields, text),
        }
    };
    field(1, b'o', path);
    field(3, b's', member);
    field(2, b's', interface);
    field(6, b's', "org.freedesktop.systemd1");
    if !arguments.is_empty() {
        field(8, b'g', &"s".repeat(arguments.len()));
    }
    let mut out = vec![b'l', 1, 0, 1];
    for number in [body.len() as u32, serial, fields.len() as u32] {
        out.extend(number.to_le_bytes());
    }
    out.extend(fields);
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(body);
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

/// Reads values of a message; `at` counts from its begin, or from that of its body.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&[u8], SystemdError> {
        let offset = self.at;
        let taken = offset
            .checked_add(count)
            .and_then(|end| self.bytes.get(offset..end));
        self.at = offset.saturating_add(count);
        taken.ok_or(SystemdError::Malformed {
            offset,
            why: "it ends too soon",
        })
    }

    fn byte(&mut self) -> Result<u8, SystemdError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn u32(&mut self) -> Result<u32, SystemdError> {
        self.align(4);
        let offset = self.at;
        let bytes: Result<[u8; 4], _> = self.take(4)?.try_into();
        bytes
            .map(u32::from_le_bytes)
            .map_err(|_| SystemdError::Malformed {
                offset,
                why: "it ends too soon",
            })
    }

    fn text(&mut self, count: usize) -> Result<String, SystemdError> {
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn string(&mut self) -> Result<String, SystemdError> {
        let count = self.u32()? as usize;
        self.text(count)
    }

    fn signature(&mut self) -> Result<String, SystemdError> {
        let count = usize::from(self.byte()?);
        self.text(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemctl 252 sends for `systemctl start nonesuch.service`.
    const CALL: &str = "\
        6c0100012400000001000000a000000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64\
        310000000000000003017300090000005374617274556e69740000000000000002017300200000006f72672e66726565\
        6465736b746f702e73797374656d64312e4d616e61676572000000000000000006017300180000006f72672e66726565\
        6465736b746f702e73797374656d643100000000000000000801670002737300100000006e6f6e65737563682e736572\
        7669636500000000070000007265706c61636500";

    /// What systemd 252 answers to it.
    const NO_SUCH_UNIT: &str = "\
        6c030101250000000100000067000000050175000100000004017300230000006f72672e667265656465736b746f702e\
        73797374656d64312e4e6f53756368556e6974000000000007017300180000006f72672e667265656465736b746f702e\
        73797374656d64310000000000000000080167000173000020000000556e6974206e6f6e65737563682e736572766963\
        65206e6f7420666f756e642e00";

    /// What it answers to the start of `basic.target`, and what it says when that is done.
    const JOB: &str = "\
        6c020101250000000300000037000000050175000100000007017300180000006f72672e667265656465736b746f702e\
        73797374656d6431000000000000000008016700016f0000200000002f6f72672f667265656465736b746f702f737973\
        74656d64312f6a6f622f313500";
    const JOB_REMOVED: &str = "\
        6c0401014900000004000000a200000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64\
        310000000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e61676572\
        0000000000000000030173000a0000004a6f6252656d6f76656400000000000007017300180000006f72672e66726565\
        6465736b746f702e73797374656d643100000000000000000801670004756f7373000000000000000f00000020000000\
        2f6f72672f667265656465736b746f702f73797374656d64312f6a6f622f3135000000000c00000062617369632e7461\
        726765740000000004000000646f6e6500";

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// A job whose other side gives these answers and hangs up.
    fn asked(answers: &[&[u8]]) -> Result<(), SystemdError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(b"OK 89f554aa008f400f949b51e1464ae76c\r\n")
            .unwrap();
        let mut systemd = Systemd::over(ours).unwrap();
        theirs.write_all(&answers.concat()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        systemd.job("StartUnit", "nonesuch.service", PATIENCE)
    }

    #[test]
    fn a_call_has_the_bytes_that_systemctl_sends() {
        assert_eq!(
            message(1, MANAGER, "StartUnit", &["nonesuch.service", "replace"]),
            bytes(CALL)
        );
    }

    #[test]
    fn a_job_is_over_when_systemd_says_so_and_how_it_ended() {
        let (job, removed) = (bytes(JOB), bytes(JOB_REMOVED));
        asked(&[&removed, &job, &removed]).unwrap();
        let failed = asked(&[&bytes(NO_SUCH_UNIT)]);
        assert!(
            matches!(&failed, Err(SystemdError::Failed { name, text })
                if name == "org.freedesktop.systemd1.NoSuchUnit"
                    && text == "Unit nonesuch.service not found."),
            "{failed:?}"
        );
        let mut failed = removed.clone();
        let at = failed.len() - 5;
        failed[at..at + 4].copy_from_slice(b"skip");
        let ended = asked(&[&job, &failed]);
        assert!(
            matches!(&ended, Err(SystemdError::Job { result, .. }) if result == "skip"),
            "{ended:?}"
        );
        // Another job's end is not this one's.
        let mut other = removed;
        let at = other.windows(2).rposition(|two| two == b"15").unwrap();
        other[at] = b'2';
        assert!(matches!(asked(&[&job, &other]), Err(SystemdError::Io(_))));
    }

    #[test]
    fn an_answer_that_is_cut_or_too_long_is_an_error() {
        let job = bytes(JOB);
        for end in 0..job.len() {
            assert!(asked(&[&job[..end]]).is_err(), "{end}");
        }
        for at in [4, 12] {
            let mut long = job.clone();
            long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(matches!(
                asked(&[&long]),
                Err(SystemdError::Malformed { why: "too long", .. })
            ));
        }
        let mut big = job.clone();
        big[0] = b'B';
        assert!(matches!(
            asked(&[&big]),
            Err(SystemdError::Malformed { offset: 0, .. })
        ));
        // Each byte of the fields, changed: an error or another meaning, never a panic.
        for at in 16..job.len() {
            for other in [0, 1, 0x7f, 0xff] {
                let mut changed = job.clone();
                changed[at] = other;
                let _ = asked(&[&changed]);
            }
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        assert!(matches!(Systemd::over(ours), Err(SystemdError::Refused(_))));
    }
}
