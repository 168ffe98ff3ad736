//! The command channel between a test's host side (`vm-tests`) and its guest (`guest`).
//!
//! One JSON object a line, both ways, over a virtio port of the guest. The host sends [`Request`]s and tells
//! them apart by `id`; the guest answers each with any number of [`Body::Data`] and then exactly one of the
//! other bodies. Replies to different requests may interleave. Not here: what the operations do (`guest`),
//! the port.
//!
//! # A request, as it is sent
//!
//! ```
//! use vm_protocol::{Op, Request};
//!
//! let line = serde_json::to_string(&Request { id: 1, op: Op::Hello })?;
//! assert_eq!(line, r#"{"id":1,"op":"hello"}"#);
//! let read: Request = serde_json::from_str(&line)?;
//! assert!(read.id == 1 && matches!(read.op, Op::Hello));
//! # Ok::<(), serde_json::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod elf;
pub mod spec;

use serde::{Deserialize, Serialize};

/// Raised whenever a guest and a host of different builds would misunderstand each other.
pub const VERSION: u32 = 3;

/// The name of the virtio port that carries the channel.
pub const PORT: &str = "cgpath";

/// Payload bytes in one line at most, so that answers to other requests get their turn in between.
pub const CHUNK: usize = 32 * 1024;

/// The longest line that either side accepts, in bytes. Anything longer is not ours.
pub const MAX_LINE: usize = 1 << 20;

/// Bytes of standard input that can travel inside a request. More goes into a file first.
pub const MAX_STDIN: usize = 128 * 1024;

/// The kernel parameter by which the host tells the guest's init how to mount the control groups.
pub const CGROUP_PARAMETER: &str = "cgpath.cgroup";

/// The kernel parameter with the guest path of the IMA policy that init loads first.
pub const IMA_POLICY_PARAMETER: &str = "cgpath.ima_policy";

/// Where init looks for an IMA policy unless [`IMA_POLICY_PARAMETER`] says otherwise.
pub const IMA_POLICY_PATH: &str = "/etc/ima/ima-policy";

/// The directory of an initramfs with the modules that the root file system's disk needs, as plain ELF files:
/// they are loaded in the order of their names. A root file system has none.
pub const INITRD_MODULES: &str = "/initrd-modules";

/// The root file system's disk, where an initramfs mounts it.
pub const ROOT_DEVICE: &str = "/dev/vda";

/// The disk of a guest that can be restored whose content is another one after it: a tar archive, or nothing
/// but zeros.
pub const ADDITIONS_DEVICE: &str = "/dev/vdb";

/// Bytes as base64 text in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&text)
            .map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// What the host wants done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host, not 0, not in use.
    pub id: u64,
    /// The operation.
    pub op: Op,
}

/// The operations of a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Who are you: answered by [`Body::Hello`].
    Hello,
    /// You were restored from a snapshot just now: set the clock, stir the random numbers, unpack what is on
    /// [`ADDITIONS_DEVICE`]. Answered by [`Body::Hello`].
    Restored {
        /// The time, in nanoseconds since 1970.
        now_ns: u64,
        /// Added to the kernel's own, which every guest of the snapshot shares; at least 32 bytes.
        entropy: Bytes,
    },
    /// Run a command to its end: output as data, then [`Body::Exit`].
    Run {
        /// The command.
        command: Command,
        /// Passed on standard input, at most [`MAX_STDIN`] bytes.
        stdin: Bytes,
        /// After this time the command's process group is killed.
        timeout_ms: u64,
        /// Output kept of each stream, in bytes; what follows is read and dropped.
        limit: u64,
    },
    /// Start a command in the background: [`Body::Started`].
    Spawn {
        /// The command.
        command: Command,
        /// Both output streams are appended to this file.
        log: String,
    },
    /// Send a signal to a process group that `Spawn` made: [`Body::Done`].
    Signal {
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
        /// The whole group (the command and its children), or the process alone.
        group: bool,
    },
    /// Wait for the end of a process that `Spawn` made: [`Body::Exit`].
    Wait {
        /// The process.
        pid: i32,
        /// Give up after this time (`timed_out` is then set, and nothing was killed).
        timeout_ms: u64,
    },
    /// Write a part of a file: [`Body::Done`]. The last part puts it in place, by rename.
    Put {
        /// Where it goes. Missing directories are made.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Where this part starts; 0 begins anew.
        offset: u64,
        /// This part, at most [`CHUNK`] bytes.
        bytes: Bytes,
        /// This was the last part.
        last: bool,
    },
    /// Read a file from its start, in one go (lists of IMA are consistent only so): data, then
    /// [`Body::Done`].
    Get {
        /// The file.
        path: String,
        /// Refuse files longer than this, in bytes.
        limit: u64,
    },
    /// Start a command on a terminal of its own: data as it comes, at its end [`Body::Exit`].
    Terminal {
        /// The command.
        command: Command,
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        columns: u16,
    },
    /// Input for the terminal of request `of`: [`Body::Done`].
    Type {
        /// The `id` of the `Terminal` request.
        of: u64,
        /// What was typed.
        bytes: Bytes,
    },
    /// Sync, unmount, power off. No answer.
    PowerOff,
    /// Sync, unmount, reboot. No answer.
    Reboot,
    /// Sync, unmount, jump into the kernel that was loaded for it. No answer.
    Kexec,
}

/// A command to start in the guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Command {
    /// Program (looked up in `PATH` unless it has a slash) and arguments.
    pub argv: Vec<String>,
    /// Added to init's environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<String>,
    /// A control group such as `/system.slice/x`, entered (made when missing) in every hierarchy before exec.
    pub cgroup: Option<String>,
}

/// An answer, or a part of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The request's; 0 for the greeting that nobody asked for.
    pub id: u64,
    /// What happened.
    pub body: Body,
}

/// What a guest answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The guest is up.
    Hello(Hello),
    /// A part of an output stream or of a file.
    Data {
        /// Which stream.
        stream: Stream,
        /// The next bytes.
        bytes: Bytes,
    },
    /// A background process is running.
    Started {
        /// Its process id, which is its process group too.
        pid: i32,
    },
    /// A command ended.
    Exit(Exit),
    /// Done.
    Done,
    /// Not done.
    Failed {
        /// What went wrong, with the path or the command in it.
        why: String,
    },
}

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, a file's content, or a terminal.
    Out,
    /// Standard error.
    Err,
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit status, where it exited.
    pub code: Option<i32>,
    /// The signal, where one ended it.
    pub signal: Option<i32>,
    /// It was killed (`Run`) or is still running (`Wait`) since its time was up.
    pub timed_out: bool,
    /// Output beyond the limit was dropped.
    pub truncated: bool,
}

/// What init found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the guest.
    pub version: u32,
    /// `uname -r`.
    pub kernel: String,
    /// This boot's id, as the kernel prints it.
    pub boot_id: String,
    /// Seconds after the kernel's start at which init began.
    pub init_started: f64,
    /// Seconds after the kernel's start at which the channel was ready.
    pub ready: f64,
    /// How the control groups are mounted: `v2`, `v1` or `hybrid`.
    pub cgroup: String,
    /// The IMA policy file that init loaded, if there was one.
    pub ima_policy: Option<String>,
    /// The guest was restored from a snapshot after it had booted: other guests have the same boot id, and
    /// had the same memory and TPM.
    pub restored: bool,
    /// Steps of init that failed, as text. A host must look at this: nothing is hidden.
    pub failures: Vec<String>,
}

/// Writes `message` as one line, with its newline.
///
/// # Errors
/// When the message cannot be written as JSON (never for the types of this crate).
pub fn line(message: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
