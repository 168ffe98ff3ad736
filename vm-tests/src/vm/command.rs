//! Commands in a guest: to their end, or in the background.
//!
//! Promises: every wait has a limit; output beyond what is kept is an error for callers that check. Not here:
//! the connection.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use vm_protocol::{Body, Exit, Op, Stream};

use super::{ANSWER, PATIENCE, Vm};
use crate::host;

/// Output kept of each stream of a command.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// A command to run in a guest.
pub struct Command<'vm> {
    vm: &'vm Vm,
    command: vm_protocol::Command,
    stdin: Vec<u8>,
    timeout: Duration,
    limit: u64,
}

impl<'vm> Command<'vm> {
    pub(super) fn new<S: AsRef<str>>(vm: &'vm Vm, argv: &[S]) -> Self {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        Self {
            vm,
            command: vm_protocol::Command {
                argv,
                ..Default::default()
            },
            stdin: Vec::new(),
            timeout: PATIENCE,
            limit: OUTPUT_LIMIT,
        }
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Passes this on its standard input (of [`Command::run`]): at most 128 KiB.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets its working directory.
    #[must_use]
    pub fn cwd(mut self, directory: &str) -> Self {
        self.command.cwd = Some(directory.to_owned());
        self
    }

    /// Puts it into this control group (made when missing), in every hierarchy, before it is executed.
    #[must_use]
    pub fn cgroup(mut self, path: &str) -> Self {
        self.command.cgroup = Some(path.to_owned());
        self
    }

    /// After this time [`Command::run`] kills it. Default: [`PATIENCE`].
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, its time is up, or the guest does not answer. Its own failure is in the
    /// [`Output`].
    pub fn run(self) -> Result<Output> {
        let argv = self.command.argv.join(" ");
        let timeout = self.timeout;
        let mut output = Output {
            argv,
            ..Output::default()
        };
        let exit = self.stream(|stream, bytes| match stream {
            Stream::Out => output.stdout.extend_from_slice(bytes),
            Stream::Err => output.stderr.extend_from_slice(bytes),
        })?;
        output.exit = exit;
        if output.exit.timed_out {
            bail!(
                "`{}` was killed in the guest after {} s\n{}",
                output.argv,
                timeout.as_secs(),
                output.said()
            );
        }
        Ok(output)
    }

    /// Runs it to its end and passes on what it prints as it comes.
    ///
    /// # Errors
    /// When it cannot be started, or the guest does not answer. Whether it failed or its time was up is in
    /// the [`Exit`].
    pub fn stream(self, mut take: impl FnMut(Stream, &[u8])) -> Result<Exit> {
        if self.stdin.len() > vm_protocol::MAX_STDIN {
            bail!(
                "{} bytes of standard input are too many; hint: put them into a file first",
                self.stdin.len()
            );
        }
        let argv = self.command.argv.join(" ");
        let attempt = || {
            let answers = self.vm.ask(Op::Run {
                command: self.command,
                stdin: vm_protocol::Bytes(self.stdin),
                timeout_ms: millis(self.timeout),
                limit: self.limit,
            })?;
            let deadline = Instant::now() + self.timeout + ANSWER;
            loop {
                match self.vm.answer(&answers, deadline)? {
                    Body::Data { stream, bytes } => take(stream, &bytes.0),
                    Body::Exit(exit) => return Ok(exit),
                    other => bail!("unexpected answer {other:?}"),
                }
            }
        };
        attempt().with_context(|| format!("running `{argv}` in the guest"))
    }

    /// Starts it in the background; what it prints is appended to the guest's file `log`.
    ///
    /// # Errors
    /// When it cannot be started, or the guest does not answer.
    pub fn spawn(self, log: &str) -> Result<Process<'vm>> {
        let argv = self.command.argv.join(" ");
        let attempt = || {
            let answers = self.vm.ask(Op::Spawn {
                command: self.command,
                log: log.to_owned(),
            })?;
            match self.vm.answer(&answers, Instant::now() + ANSWER)? {
                Body::Started { pid } => Ok(pid),
                other => bail!("unexpected answer {other:?}"),
            }
        };
        let pid = attempt().with_context(|| format!("starting `{argv}` in the guest"))?;
        Ok(Process {
            vm: self.vm,
            pid,
            log: log.to_owned(),
        })
    }
}

/// A process that runs in the background of a guest. Dropping this value leaves it running.
pub struct Process<'vm> {
    vm: &'vm Vm,
    pid: i32,
    log: String,
}

impl Process<'_> {
    /// Its process id in the guest.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// As [`Vm::get`].
    pub fn log(&self) -> Result<String> {
        self.vm.get_text(&self.log)
    }

    /// Sends a signal to it and its children.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal_group(&self, signal: i32) -> Result<()> {
        self.vm.done(
            Op::Signal {
                pid: self.pid,
                signal,
                group: true,
            },
            ANSWER,
        )
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.vm.done(
            Op::Signal {
                pid: self.pid,
                signal,
                group: false,
            },
            ANSWER,
        )
    }

    /// Waits for its end, which comes by itself or was brought about.
    ///
    /// # Errors
    /// When it does not end, with what it said last, or the guest does not answer.
    pub fn ended(&self) -> Result<Exit> {
        match self.wait(PATIENCE)? {
            Some(exit) => Ok(exit),
            None => bail!(
                "process {} does not end; it wrote:\n{}",
                self.pid,
                host::tail(&self.log()?, 15)
            ),
        }
    }

    /// How it ended; `None` when it is still running after this time.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn wait(&self, time: Duration) -> Result<Option<Exit>> {
        let answers = self.vm.ask(Op::Wait {
            pid: self.pid,
            timeout_ms: millis(time),
        })?;
        match self.vm.answer(&answers, Instant::now() + time + ANSWER)? {
            Body::Exit(exit) if exit.timed_out => Ok(None),
            Body::Exit(exit) => Ok(Some(exit)),
            other => bail!("unexpected answer {other:?}"),
        }
    }
}

/// How a command ended and what it said.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The command line.
    pub argv: String,
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.exit.code == Some(0)
    }

    /// The exit status; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.exit.code
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Takes any end but exit status 0, or cut output, as an error.
    ///
    /// # Errors
    /// When the command failed: with how it ended and what it said.
    pub fn check(self) -> Result<Self> {
        if self.exit.truncated {
            bail!("`{}` printed more than is kept", self.argv);
        }
        if self.success() {
            return Ok(self);
        }
        let how = match (self.exit.code, self.exit.signal) {
            (Some(code), _) => format!("exited with {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        bail!("`{}` {how} in the guest\n{}", self.argv, self.said());
    }

    fn said(&self) -> String {
        let said = format!("{}\n{}", self.text(), self.errors());
        host::tail(&said, 20)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
