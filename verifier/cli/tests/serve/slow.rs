//! Ten thousand connections that dribble bytes: an honest node's rounds go on, and memory stays within
//! bounds.

use super::site::{Client, Site, busy};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Connections, in all.
const SLOW: usize = 10_000;
/// Of these, so many complete a handshake, and then dribble a request's head or its body.
const HANDSHAKES: usize = 600;
const THREADS: usize = 4;
/// Rounds of the honest node while they are there.
const ROUNDS: usize = 20;
/// What the service may have in memory, KiB.
const MEMORY: u64 = 512 * 1024;

/// The files that this test needs, or an error that says what is missing.
fn raise_files(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= wanted,
        "this test needs {wanted} open files and the hard limit is {hard}: ulimit -Hn {wanted}"
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
}

/// One slow connection: what comes next is sent byte by byte, without an end.
enum Slow {
    /// The first bytes of a handshake.
    Raw(TcpStream, usize),
    /// A request within TLS.
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

/// A record of a handshake that announces 512 bytes, of which a few come.
const HELLO: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc];

impl Slow {
    fn open(client: &Client, kind: usize) -> std::io::Result<Slow> {
        if kind == 0 {
            let socket = TcpStream::connect(client.address)?;
            return Ok(Slow::Raw(socket, 0));
        }
        let mut stream = client.open()?;
        let head: &[u8] = if kind == 1 {
            b"GET /healthz HTTP/1.1\r\nX-Slow: "
        } else {
            b"POST /v1/nodes/worker-1/evidence HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        };
        stream.write_all(head)?;
        Ok(Slow::Tls(Box::new(stream)))
    }

    /// One more byte.
    fn dribble(&mut self) -> std::io::Result<()> {
        match self {
            Slow::Raw(socket, sent) => {
                *sent += 1;
                let byte = HELLO.get(*sent - 1).copied().unwrap_or(0);
                socket.write_all(&[byte])
            }
            Slow::Tls(stream) => stream.write_all(b"x"),
        }
    }
}

/// The highest amount of memory that the process ever had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sockets of the service that are connected, by /proc.
fn connected(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let is_socket = |entry: std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    files
        .filter_map(Result::ok)
        .map(is_socket)
        .filter(|is| *is)
        .count()
}

#[test]
fn ten_thousand_connections_that_dribble_bytes_stop_no_honest_nodes_round() {
    raise_files(SLOW as u64 + 1000);
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&[]);
    let pid = server.pid();
    let (stop, open, opened) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let kinds = Arc::new(
        (0..SLOW)
            .map(|n| if n < HANDSHAKES { 1 + n % 2 } else { 0 })
            .collect::<Vec<usize>>(),
    );
    let attack = |thread: usize, client: &Client| {
        let mut mine: Vec<(usize, Option<Slow>)> = kinds
            .iter()
            .skip(thread)
            .step_by(THREADS)
            .map(|kind| (*kind, None))
            .collect();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            for (kind, slot) in &mut mine {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match slot {
                    // The service closed it: another one in its place.
                    Some(slow) => {
                        if slow.dribble().is_err() {
                            open.fetch_sub(1, Ordering::Relaxed);
                            *slot = None;
                        }
                    }
                    None => {
                        if let Ok(slow) = Slow::open(client, *kind) {
                            open.fetch_add(1, Ordering::Relaxed);
                            opened.fetch_add(1, Ordering::Relaxed);
                            *slot = Some(slow);
                        }
                    }
                }
            }
            std::thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (attack, client) = (&attack, client.clone());
            scope.spawn(move || attack(thread, &client));
        }
        let begun = Instant::now();
        while open.load(Ordering::Relaxed) < SLOW * 95 / 100 {
            assert!(
                begun.elapsed() < Duration::from_secs(300),
                "{open:?} connections stand"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        let (mut took, mut most) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            most = most.max(connected(pid));
            let begun = Instant::now();
            // An answer that does not come in the time of a client fails here.
            let nonce = client.nonce("worker-1").unwrap();
            let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
            assert_eq!(answer.json()["trusted"], true, "{}", answer.text());
            took.push(begun.elapsed());
            std::thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, Ordering::Relaxed);
        took.sort_unstable();
        let (memory, count) = (peak(pid), opened.load(Ordering::Relaxed));
        println!(
            "{count} slow connections, at most {most} at one time; {ROUNDS} rounds, median {:?}, longest \
             {:?}; {} MiB at most",
            took[ROUNDS / 2],
            took[ROUNDS - 1],
            memory / 1024
        );
        // The service ends those whose handshake takes too long, and they come again.
        assert!(
            count >= SLOW && most >= SLOW / 5,
            "{count} connections, at most {most} at one time"
        );
        assert!(memory < MEMORY, "{memory} KiB");
    });
    drop(server);
}
