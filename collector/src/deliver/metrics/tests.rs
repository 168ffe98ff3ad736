//! Tests of the endpoint, each with a place of its own.

use super::*;
use cgpath_testkit::port::Port;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// How long anything may take before a test says that it does not come.
const PATIENCE: Duration = Duration::from_secs(120);

const SOON: Duration = Duration::from_millis(20);

/// A daemon that has just started.
fn status() -> Status {
    serde_json::from_value(serde_json::json!({
        "checkpoint": 7, "list_len": 85, "records": 92, "unjoined": 0, "lost": 0, "stalled": false,
        "protection": {"guard": "off", "tpm": "off", "enforce": false, "fail_closed": false},
        "denied": 0, "partitions": [],
    }))
    .unwrap()
}

fn limits() -> Limits {
    Limits {
        connections: 2,
        age: PATIENCE,
        answer: PATIENCE,
        again: SOON,
    }
}

/// A place that nobody has, for as long as the port is there.
fn free() -> (Port, ListenAt) {
    let port = Port::new();
    let at = ListenAt::Loopback(port.address());
    (port, at)
}

fn start(at: &ListenAt, limits: Limits) -> JoinHandle<()> {
    tokio::spawn(run_within(
        at.clone(),
        || std::future::ready(Some(status())),
        limits,
    ))
}

async fn connect(at: &ListenAt) -> io::Result<Box<dyn Stream>> {
    Ok(match at {
        ListenAt::Loopback(address) => Box::new(TcpStream::connect(address).await?),
        ListenAt::Socket(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// The answer to `head`, or why there is none.
async fn asked(at: &ListenAt, head: &str) -> io::Result<String> {
    let mut stream = connect(at).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";

/// The first answer to a scrape, however often it must be tried.
async fn scraped(at: &ListenAt) -> String {
    let tried = async {
        loop {
            match asked(at, SCRAPE).await {
                Ok(answer) if !answer.is_empty() => return answer,
                _ => tokio::time::sleep(SOON).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.expect("no answer")
}

#[tokio::test]
async fn a_scrape_gets_the_figures_and_nothing_else_is_answered() {
    let (_port, at) = free();
    let task = start(&at, limits());
    let answer = scraped(&at).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = format!("content-type: {}", status::CONTENT_TYPE);
    assert!(head.lines().any(|line| line == kind), "{head}");
    assert_eq!(body, status::metrics(Some(&status())).unwrap());
    let long = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(2 * HEAD));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
    for (head, code) in [
        ("GET / HTTP/1.1\r\nHost: here\r\n\r\n", " 404 "),
        ("GET /metrics/x HTTP/1.1\r\nHost: here\r\n\r\n", " 404 "),
        (
            "POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n",
            " 405 ",
        ),
        ("DELETE /metrics HTTP/1.1\r\nHost: here\r\n\r\n", " 405 "),
        (long.as_str(), " 431 "),
        (many.as_str(), " 431 "),
        ("\u{1}\r\n\r\n", " 400 "),
    ] {
        // Where it is closed before all was read, the answer may be lost.
        if let Ok(answer) = asked(&at, head).await {
            let first = answer.lines().next().unwrap_or(code);
            assert!(first.contains(code), "{code}: {first}");
        }
    }
    // Two questions in one connection: the first one is answered.
    let both = asked(&at, &SCRAPE.repeat(2)).await.unwrap();
    assert_eq!(both.matches("HTTP/1.1 ").count(), 1, "{both}");
    task.abort();
}

#[tokio::test]
async fn the_engine_is_asked_once_a_second_however_many_scrape() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let ask = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Some(status()))
    };
    let figures = Figures::new(ask, PATIENCE);
    let begin = Instant::now();
    let first = figures.text(move || begin).await.unwrap();
    for ms in [0, 1, 999] {
        let now = begin + Duration::from_millis(ms);
        assert_eq!(figures.text(move || now).await.unwrap(), first);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    figures.text(move || begin + YOUNG).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_has_the_engine_asked_no_more_often() {
    let asked = Arc::new(AtomicUsize::new(0));
    let may_answer = Arc::new(Semaphore::new(0));
    let (counted, gate) = (Arc::clone(&asked), Arc::clone(&may_answer));
    let ask = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire_owned().await.unwrap().forget();
            Some(status())
        }
    };
    let figures = Figures::new(ask, PATIENCE);
    let begin = Instant::now();
    for _ in 0..100 {
        // Dropped while it waits, as hyper drops it when the connection ends.
        tokio::select! {
            biased;
            _ = figures.text(move || begin) => panic!("the engine has not answered"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    may_answer.add_permits(1);
    let text = figures.text(move || begin).await.unwrap();
    assert_eq!(text, status::metrics(Some(&status())).unwrap());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_down() {
    for patience in [Duration::ZERO, PATIENCE] {
        let ask = move || async move {
            match patience {
                Duration::ZERO => std::future::pending().await,
                _ => None,
            }
        };
        let text = Figures::new(ask, patience).text(Instant::now).await.unwrap();
        assert_eq!(text, status::metrics(None).unwrap());
    }
}

#[tokio::test]
async fn connections_that_say_nothing_give_way() {
    let (_port, at) = free();
    let limits = Limits {
        age: Duration::from_millis(200),
        ..limits()
    };
    let task = start(&at, limits);
    scraped(&at).await;
    let mut silent = Vec::new();
    for _ in 0..3 * limits.connections {
        silent.push(connect(&at).await.unwrap());
    }
    assert!(scraped(&at).await.contains("cgpathd_up 1"));
    for mut stream in silent {
        // Each is closed without a word.
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
        let _ = ended.await.expect("it is open for ever");
        assert!(answer.is_empty());
    }
    task.abort();
}

#[tokio::test]
async fn a_port_that_another_has_is_taken_when_it_is_free() {
    let (port, at) = free();
    let other = std::net::TcpListener::bind(port.address()).unwrap();
    let task = start(&at, limits());
    // The first try is over, and nothing ended.
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished());
    drop(other);
    assert!(scraped(&at).await.contains("cgpathd_up 1"));
    task.abort();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_local_socket_is_roots_alone_and_replaces_a_dead_one_and_nothing_else() {
    use nix::sys::socket::{Backlog, listen};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.sock");
    let at = ListenAt::Socket(path.clone());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let task = start(&at, limits());
    assert!(scraped(&at).await.contains("cgpathd_up 1"));
    assert_eq!(mode(&path), 0o600);
    task.abort();

    let file = dir.path().join("a-file");
    std::fs::write(&file, "precious").unwrap();
    let refused = control::local_socket(&file).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{refused}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let others = dir.path().join("another's.sock");
    let other = UnixListener::bind(&others).unwrap();
    let refused = control::local_socket(&others).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{refused}");
    // Not even one whose queue is full, here with who asked before, and where asking could wait for ever.
    listen(&other, Backlog::new(0).unwrap()).unwrap();
    let refused = control::local_socket(&others).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{refused}");
    drop(other);
    control::local_socket(&others).unwrap();

    let datagrams = dir.path().join("datagrams.sock");
    let log = UnixDatagram::bind(&datagrams).unwrap();
    let refused = control::local_socket(&datagrams).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{refused}");
    UnixDatagram::unbound()
        .unwrap()
        .send_to(b"x", &datagrams)
        .unwrap();
    drop(log);
}
