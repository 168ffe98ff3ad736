//! The host's end of a guest's command channel.
//!
//! Promises: any number of threads may have requests under way; when the guest goes away, every one of them
//! learns it at once. Not here: what requests mean (`vm`), the messages themselves (`vm-protocol`).

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use vm_protocol::{Body, Op, Reply, Request};

use crate::PATIENCE;

type Waiting = Arc<Mutex<HashMap<u64, mpsc::Sender<Body>>>>;

/// The `id` under which a guest greets.
const GREETING: u64 = 0;

/// A connection to a guest's command channel.
pub(crate) struct Channel {
    writer: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU64,
}

/// The answers to one request.
pub(crate) struct Answers {
    pub id: u64,
    bodies: mpsc::Receiver<Body>,
    waiting: Waiting,
}

impl Answers {
    /// The next part; `None` when the time is up.
    ///
    /// # Errors
    /// When the guest went away, or says that the request failed.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Option<Body>> {
        match self
            .bodies
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(Body::Failed { why }) => bail!("{why}"),
            Ok(body) => Ok(Some(body)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the guest is gone"),
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        locked(&self.waiting).remove(&self.id);
    }
}

impl Channel {
    /// Connects, and gives the channel together with the greeting to come.
    pub(crate) fn connect(socket: &Path) -> Result<(Self, Answers)> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let reader = stream.try_clone()?;
        let waiting = Waiting::default();
        let (sender, bodies) = mpsc::channel();
        locked(&waiting).insert(GREETING, sender);
        let answers = Answers {
            id: GREETING,
            bodies,
            waiting: Arc::clone(&waiting),
        };
        // Two processes may talk to a guest that is kept, one after the other: old answers must find no new
        // request.
        let first = u64::from(std::process::id()) << 24;
        std::thread::spawn({
            let waiting = Arc::clone(&waiting);
            move || read(reader, &waiting)
        });
        Ok((
            Self {
                writer: Mutex::new(stream),
                waiting,
                next: AtomicU64::new(first),
            },
            answers,
        ))
    }

    /// The greeting of a guest that starts anew behind the same connection.
    pub(crate) fn greeting(&self) -> Answers {
        self.wait_for(GREETING)
    }

    fn wait_for(&self, id: u64) -> Answers {
        let (sender, bodies) = mpsc::channel();
        locked(&self.waiting).insert(id, sender);
        Answers {
            id,
            bodies,
            waiting: Arc::clone(&self.waiting),
        }
    }

    /// Sends a request.
    pub(crate) fn ask(&self, op: Op) -> Result<Answers> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let answers = self.wait_for(id);
        let line = vm_protocol::line(&Request { id, op })?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer
            .write_all(&line)
            .context("writing to the guest's channel")?;
        Ok(answers)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Ends the reading thread; a socket that is closed already has ended it.
        let _ = writer.shutdown(std::net::Shutdown::Both);
    }
}

fn locked(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, mpsc::Sender<Body>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands each answer to the caller that waits for it, until the connection ends.
fn read(stream: UnixStream, waiting: &Waiting) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(vm_protocol::MAX_LINE as u64)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        // Firmware and a booting kernel may leave bytes on the port; they are not answers.
        let Ok(reply) = serde_json::from_slice::<Reply>(&line) else {
            continue;
        };
        if let Some(sender) = locked(waiting).get(&reply.id) {
            // This fails if the caller has stopped waiting: nobody misses the answer.
            let _ = sender.send(reply.body);
        }
    }
    locked(waiting).clear();
}
