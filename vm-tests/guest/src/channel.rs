//! The guest's end of the command channel: reads requests from a virtio port and carries them out.
//!
//! Promises: each request is answered by a thread of its own, so that a long one holds up no other; what a
//! command prints is kept within the limit that the request states; no request can end this process. Not
//! here: the messages (`vm-protocol`), what a guest is before it takes commands (`init`).

#![allow(unsafe_code, reason = "what is done between fork and exec")]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::RebootMode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vm_protocol::{Body, Bytes, CHUNK, Exit, Hello, MAX_LINE, MAX_STDIN, Op, Reply, Request, Stream};

use crate::init::{self, PATH};
use crate::restored;

const PORTS: &str = "/sys/class/virtio-ports";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Time for what comes by itself: less than the host gives a command, so that a guest can say what it waited
/// for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// How long output is waited for after a command ended and its pipes are empty: a background child may hold
/// its end of a pipe for ever. What the command itself wrote is in a pipe by then, or was taken out of it.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// And how long at most: a background child may go on writing.
const MOST_LAST_OUTPUT: Duration = Duration::from_secs(300);

type Error = Box<dyn std::error::Error>;

/// Greets and serves; returns only when the port cannot be used.
pub(crate) fn serve(mut hello: Hello) -> Error {
    let port = match open() {
        Ok(port) => port,
        Err(error) => return error,
    };
    let writer = match port.try_clone() {
        Ok(writer) => writer,
        Err(error) => return error.into(),
    };
    hello.ready = init::uptime();
    let server = Arc::new(Server {
        port: Mutex::new(writer),
        hello: hello.clone(),
        was_restored: AtomicBool::new(false),
        children: Mutex::default(),
        terminals: Mutex::default(),
    });
    server.send(0, Body::Hello(hello));
    let mut reader = BufReader::with_capacity(CHUNK, port);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE as u64).read_until(b'\n', &mut line) {
            // No host is connected. The next one may come at any time: a guest can be kept.
            Ok(0) => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            Ok(_) => {}
            Err(error) => return error.into(),
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                eprintln!("guest: not a request ({error})");
                continue;
            }
        };
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            let id = request.id;
            if let Err(error) = server.carry_out(id, request.op) {
                server.send(
                    id,
                    Body::Failed {
                        why: error.to_string(),
                    },
                );
            }
        });
    }
}

/// Opens the port that the host named for us; ports are numbered in the order in which devices were found.
fn open() -> Result<File, Error> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for entry in fs::read_dir(PORTS).into_iter().flatten() {
            let entry = entry?;
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == vm_protocol::PORT {
                let device = Path::new("/dev").join(entry.file_name());
                let port = OpenOptions::new().read(true).write(true).open(&device);
                return port.map_err(|error| format!("{}: {error}", device.display()).into());
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("no port named {} in {PORTS}", vm_protocol::PORT).into())
}

/// A background process' end, once it is known.
type Ending = Arc<(Mutex<Option<Exit>>, Condvar)>;

struct Server {
    port: Mutex<File>,
    hello: Hello,
    was_restored: AtomicBool,
    children: Mutex<HashMap<i32, Ending>>,
    terminals: Mutex<HashMap<u64, File>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn send(&self, id: u64, body: Body) {
        let result = vm_protocol::line(&Reply { id, body })
            .map_err(std::io::Error::from)
            .and_then(|line| locked(&self.port).write_all(&line));
        if let Err(error) = result {
            eprintln!("guest: answering request {id}: {error}");
        }
    }

    fn greet(&self, id: u64) {
        let hello = Hello {
            restored: self.was_restored.load(Ordering::SeqCst),
            ..self.hello.clone()
        };
        self.send(id, Body::Hello(hello));
    }

    fn carry_out(self: &Arc<Self>, id: u64, op: Op) -> Result<(), Error> {
        match op {
            Op::Hello => self.greet(id),
            Op::Restored { now_ns, entropy } => {
                restored::take_up(now_ns, &entropy.0).map_err(|error| format!("{error:#}"))?;
                self.was_restored.store(true, Ordering::SeqCst);
                self.greet(id);
            }
            Op::Run {
                command,
                stdin,
                timeout_ms,
                limit,
            } => {
                let exit = self.run(id, &command, stdin.0, Duration::from_millis(timeout_ms), limit)?;
                self.send(id, Body::Exit(exit));
            }
            Op::Spawn { command, log } => {
                let pid = self.start(&command, &log)?;
                self.send(id, Body::Started { pid });
            }
            Op::Signal { pid, signal, group } => {
                self.known(pid)?;
                let target = Pid::from_raw(if group { -pid } else { pid });
                kill(target, Signal::try_from(signal)?).map_err(|error| format!("process {pid}: {error}"))?;
                self.send(id, Body::Done);
            }
            Op::Wait { pid, timeout_ms } => {
                let ending = self.known(pid)?;
                let exit = locked(&ending.0);
                let (exit, _) = ending
                    .1
                    .wait_timeout_while(exit, Duration::from_millis(timeout_ms), |exit| exit.is_none())
                    .unwrap_or_else(PoisonError::into_inner);
                let exit = exit.clone().unwrap_or(Exit {
                    timed_out: true,
                    ..Exit::default()
                });
                self.send(id, Body::Exit(exit));
            }
            Op::Put {
                path,
                mode,
                offset,
                bytes,
                last,
            } => {
                put(&path, mode, offset, &bytes.0, last).map_err(|error| format!("{path}: {error}"))?;
                self.send(id, Body::Done);
            }
            Op::Get { path, limit } => {
                let content = get(&path, limit).map_err(|error| format!("{path}: {error}"))?;
                for part in content.chunks(CHUNK) {
                    self.send(
                        id,
                        Body::Data {
                            stream: Stream::Out,
                            bytes: Bytes(part.to_vec()),
                        },
                    );
                }
                self.send(id, Body::Done);
            }
            Op::Terminal {
                command,
                rows,
                columns,
            } => {
                let exit = self.terminal(id, &command, rows, columns)?;
                self.send(id, Body::Exit(exit));
            }
            Op::Type { of, bytes } => {
                let terminal = locked(&self.terminals).get(&of).map(File::try_clone);
                let mut terminal = terminal.ok_or_else(|| format!("request {of} has no terminal"))??;
                terminal.write_all(&bytes.0)?;
                self.send(id, Body::Done);
            }
            Op::PowerOff => init::shut_down(RebootMode::RB_POWER_OFF),
            Op::Reboot => init::shut_down(RebootMode::RB_AUTOBOOT),
            Op::Kexec => init::shut_down(RebootMode::RB_KEXEC),
        }
        Ok(())
    }

    fn known(&self, pid: i32) -> Result<Ending, Error> {
        let ending = locked(&self.children).get(&pid).map(Arc::clone);
        ending.ok_or_else(|| format!("process {pid} was not started by this channel").into())
    }

    fn run(
        self: &Arc<Self>,
        id: u64,
        wanted: &vm_protocol::Command,
        stdin: Vec<u8>,
        timeout: Duration,
        limit: u64,
    ) -> Result<Exit, Error> {
        if stdin.len() > MAX_STDIN {
            return Err("too much standard input".into());
        }
        let mut command = prepare(wanted)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command, wanted)?;
        if let Some(mut pipe) = child.stdin.take() {
            // A command that does not read its input is not at fault.
            std::thread::spawn(move || drop(pipe.write_all(&stdin)));
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (finished, streams) = mpsc::channel();
        let mut unfinished = Vec::new();
        let under_way = Arc::new(AtomicUsize::new(0));
        let outputs = [
            (Stream::Out, child.stdout.take().map(OwnedFd::from)),
            (Stream::Err, child.stderr.take().map(OwnedFd::from)),
        ];
        for (stream, pipe) in outputs {
            let Some(pipe) = pipe else { continue };
            unfinished.push((stream, pipe.try_clone()?));
            let (server, ended, finished) = (Arc::clone(self), Arc::clone(&ended), finished.clone());
            let under_way = Arc::clone(&under_way);
            std::thread::spawn(move || {
                let truncated = server.forward(id, stream, File::from(pipe), limit, &ended, &under_way);
                // Nobody waits any more for a pipe that a background child holds.
                let _ = finished.send((stream, truncated));
            });
        }
        let (status, timed_out) = wait(&mut child, timeout)?;
        let mut exit = Exit {
            timed_out,
            ..exit_of(status)
        };
        let deadline = Instant::now() + MOST_LAST_OUTPUT;
        while !unfinished.is_empty() {
            match streams.recv_timeout(LAST_OUTPUT) {
                Ok((stream, truncated)) => {
                    exit.truncated |= truncated;
                    unfinished.retain(|(of, _)| *of != stream);
                }
                // What was written is sent, however slowly: also where its thread has not run since. In this
                // order: a thread counts before it takes something out.
                Err(_)
                    if unfinished.iter().any(|(_, pipe)| is_ready(pipe))
                        || under_way.load(Ordering::SeqCst) > 0 =>
                {
                    if Instant::now() > deadline {
                        exit.truncated = true;
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        ended.store(true, Ordering::SeqCst);
        Ok(exit)
    }

    /// Sends what comes out of a pipe; returns whether some was dropped.
    /// `under_way` is above zero while there is something in the pipe, or on its way out of it.
    fn forward(
        &self,
        id: u64,
        stream: Stream,
        mut pipe: File,
        limit: u64,
        ended: &AtomicBool,
        under_way: &AtomicUsize,
    ) -> bool {
        let mut buffer = vec![0; CHUNK];
        let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut truncated = false;
        loop {
            // What fails here fails below, where it is distinguished.
            let _ = poll(
                &mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)],
                PollTimeout::NONE,
            );
            under_way.fetch_add(1, Ordering::SeqCst);
            let read = pipe.read(&mut buffer);
            let goes_on = match read {
                Ok(0) => false,
                Ok(_) if ended.load(Ordering::SeqCst) => false,
                Ok(count) => {
                    let kept = count.min(left);
                    truncated |= kept < count;
                    left -= kept;
                    if kept > 0 {
                        let bytes = Bytes(buffer[..kept].to_vec());
                        self.send(id, Body::Data { stream, bytes });
                    }
                    true
                }
                // A terminal whose last user is gone gives EIO.
                Err(error) => error.kind() == std::io::ErrorKind::Interrupted,
            };
            under_way.fetch_sub(1, Ordering::SeqCst);
            if !goes_on {
                return truncated;
            }
        }
    }

    fn start(self: &Arc<Self>, wanted: &vm_protocol::Command, log: &str) -> Result<i32, Error> {
        if let Some(directory) = Path::new(log).parent() {
            fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| format!("{log}: {error}"))?;
        let mut command = prepare(wanted)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = spawn(&mut command, wanted)?;
        let pid = child.id().cast_signed();
        let ending = Ending::default();
        locked(&self.children).insert(pid, Arc::clone(&ending));
        std::thread::spawn(move || {
            let exit = child.wait().map_or_else(|_| Exit::default(), exit_of);
            *locked(&ending.0) = Some(exit);
            ending.1.notify_all();
        });
        Ok(pid)
    }

    fn terminal(
        &self,
        id: u64,
        wanted: &vm_protocol::Command,
        rows: u16,
        columns: u16,
    ) -> Result<Exit, Error> {
        let size = nix::pty::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = nix::pty::openpty(Some(&size), None)?;
        let (master, slave) = (File::from(pair.master), File::from(pair.slave));
        let mut command = prepare(wanted)?;
        command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave.try_clone()?);
        // The command leads a session of its own (see `prepare`): its standard input becomes that session's
        // terminal.
        let terminal = slave.as_raw_fd();
        // SAFETY: runs between fork and exec: one system call on a descriptor that is open, no allocation.
        unsafe {
            command.pre_exec(move || {
                nix::libc::ioctl(terminal, nix::libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let mut child = spawn(&mut command, wanted)?;
        drop(command);
        drop(slave);
        locked(&self.terminals).insert(id, master.try_clone()?);
        self.forward(
            id,
            Stream::Out,
            master,
            u64::MAX,
            &AtomicBool::new(false),
            &AtomicUsize::new(0),
        );
        locked(&self.terminals).remove(&id);
        Ok(exit_of(child.wait()?))
    }
}

/// A command with its environment, directory and control group, in a session of its own.
fn prepare(wanted: &vm_protocol::Command) -> Result<Command, Error> {
    let program = wanted.argv.first().ok_or("no command")?;
    let mut command = Command::new(program);
    command
        .args(&wanted.argv[1..])
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")])
        .envs(wanted.env.iter().map(|(name, value)| (name, value)))
        .current_dir(wanted.cwd.as_deref().unwrap_or("/"));
    let groups: Vec<File> = match &wanted.cgroup {
        Some(cgroup) => enter(cgroup)?,
        None => Vec::new(),
    };
    // SAFETY: runs between fork and exec: system calls on descriptors that are open, no allocation.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            for group in &groups {
                // "0" is the process that writes.
                nix::unistd::write(group, b"0")?;
            }
            Ok(())
        });
    }
    Ok(command)
}

fn spawn(command: &mut Command, wanted: &vm_protocol::Command) -> Result<Child, Error> {
    command.spawn().map_err(|error| {
        let cgroup = wanted
            .cgroup
            .as_ref()
            .map(|cgroup| format!(" in {cgroup}"))
            .unwrap_or_default();
        format!("starting {}{cgroup}: {error}", wanted.argv.join(" ")).into()
    })
}

/// Opens `cgroup.procs` of a control group in every hierarchy, making the group when it is missing.
fn enter(cgroup: &str) -> Result<Vec<File>, Error> {
    if !cgroup.starts_with('/') || cgroup.split('/').any(|part| part == "..") {
        return Err(format!("`{cgroup}` is not the absolute path of a control group").into());
    }
    let mut roots = Vec::new();
    if Path::new(CGROUPS).join("cgroup.procs").exists() {
        roots.push(PathBuf::from(CGROUPS));
    } else {
        for entry in fs::read_dir(CGROUPS)? {
            let path = entry?.path();
            if path.join("cgroup.procs").exists() {
                roots.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for root in roots {
        let group = root.join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let procs = group.join("cgroup.procs");
        let file = OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(|error| format!("{}: {error}", procs.display()))?;
        files.push(file);
    }
    Ok(files)
}

/// Whether a pipe has something to read, be it its end.
fn is_ready(pipe: &OwnedFd) -> bool {
    let mut pipes = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut pipes, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Waits for a command; kills its process group when its time is up.
fn wait(child: &mut Child, timeout: Duration) -> Result<(ExitStatus, bool), Error> {
    let deadline = Instant::now() + timeout;
    let group = Pid::from_raw(-child.id().cast_signed());
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if Instant::now() >= deadline {
            // It may have ended this very moment.
            let _ = kill(group, Signal::SIGKILL);
            return Ok((child.wait()?, true));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    Exit {
        code: status.code(),
        signal: status.signal(),
        ..Exit::default()
    }
}

fn put(path: &str, mode: u32, offset: u64, bytes: &[u8], last: bool) -> Result<(), Error> {
    let target = Path::new(path);
    let name = target.file_name().ok_or("not the name of a file")?;
    let directory = target.parent().ok_or("not an absolute path")?;
    let part = directory.join(format!(".{}.part", name.to_string_lossy()));
    if offset == 0 {
        fs::create_dir_all(directory)?;
        if part.exists() {
            fs::remove_file(&part)?;
        }
    }
    let mut file = OpenOptions::new().create(offset == 0).append(true).open(&part)?;
    let length = file.metadata()?.len();
    if length != offset {
        return Err(format!("a part for offset {offset} came when {length} bytes were there").into());
    }
    file.write_all(bytes)?;
    if last {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        drop(file);
        fs::rename(&part, target)?;
    }
    Ok(())
}

fn get(path: &str, limit: u64) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(format!("longer than {limit} bytes").into());
    }
    Ok(content)
}
