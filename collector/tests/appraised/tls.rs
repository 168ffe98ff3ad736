//! `tls` and `verifier` sinks: who is believed, what waits while nobody is, and what arrives then.

use super::node::{Arrived, Engine, config, sink, stop, until};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_evidence::Evidence;
use cgpath_testkit::Authority;
use cgpath_testkit::port::Port;
use cgpathd::config::{Sink, SinkKind};
use cgpathd::deliver::sink::Sinks;
use cgpathd::runtime::Names;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Accepts clients that show a certificate of `ours`. Its own certificate is for `name`.
fn acceptor(ours: &Authority, name: &str) -> TlsAcceptor {
    TlsAcceptor::from(ours.issue(name).server(Some(ours)))
}

/// Acknowledges every line of every connection that is let in, until it has `messages`.
fn receiver(listener: TcpListener, acceptor: TlsAcceptor, messages: usize) -> JoinHandle<Vec<Arrived>> {
    tokio::spawn(async move {
        let mut all = Vec::new();
        while all.len() < messages {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while all.len() < messages && stream.read_line(&mut line).await.is_ok_and(|n| n > 0) {
                let mut header: serde_json::Value = serde_json::from_str(&line).unwrap();
                let payload = header.as_object_mut().unwrap().remove("payload").unwrap();
                let payload = STANDARD.decode(payload.as_str().unwrap()).unwrap();
                stream
                    .write_all(format!("{}\n", header["sequence"]).as_bytes())
                    .await
                    .unwrap();
                all.push(Arrived::new(header, payload));
                line.clear();
            }
        }
        all
    })
}

#[tokio::test]
async fn a_far_side_with_another_ca_or_name_or_that_is_shown_no_certificate_gets_nothing_and_all_of_it_waits()
{
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::named("ours");
    let others = Authority::named("others");
    let own = ours.issue("worker-1");
    let foreign = others.issue("worker-2");
    let port = Port::new();
    let address = port.address();
    let good = Sink {
        ca: ours.ca(),
        client_certificate: own.certificate,
        client_key: own.key,
        ..sink("far", SinkKind::Tls, &format!("localhost:{}", address.port()))
    };
    let names = Names::default();
    let engine = Engine::new(&names);
    // What is wrong, with the sink as it stands then and who is at the far side.
    let wrong = [
        (
            "another CA",
            Sink {
                ca: others.ca(),
                ..good.clone()
            },
            "localhost",
        ),
        ("another name", good.clone(), "elsewhere.example"),
        (
            "no certificate",
            Sink {
                client_certificate: PathBuf::new(),
                client_key: PathBuf::new(),
                ..good.clone()
            },
            "localhost",
        ),
        (
            "another's certificate",
            Sink {
                client_certificate: foreign.certificate,
                client_key: foreign.key,
                ..good.clone()
            },
            "localhost",
        ),
    ];
    let mut waited = 0;
    for (what, sink, name) in wrong {
        let listener = TcpListener::bind(address).await.unwrap();
        let far = receiver(listener, acceptor(&ours, name), 1);
        let sinks = Sinks::open(&config(dir.path(), vec![sink]), "n", &names).unwrap();
        let (running, stopped) = watch::channel(false);
        sinks.start("n", &engine, &stopped);
        let status = until(&sinks, |all| all[0].error.is_some() && all[0].waiting > waited).await;
        assert_eq!(status[0].delivered, 0, "{what}: {status:#?}");
        waited = status[0].waiting;
        far.abort();
        let _ = far.await;
        // Tasks of this turn end before the next one opens the spool.
        stop(running, stopped).await;
        waited = waited.max(sinks.status()[0].waiting);
    }

    let listener = TcpListener::bind(address).await.unwrap();
    let far = receiver(listener, acceptor(&ours, "localhost"), waited as usize);
    let sinks = Sinks::open(&config(dir.path(), vec![good]), "n", &names).unwrap();
    let (_stop, stopped) = watch::channel(false);
    sinks.start("n", &engine, &stopped);
    let arrived = far.await.unwrap();
    let numbers: Vec<u64> = arrived
        .iter()
        .map(|arrived| arrived.header["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers,
        (0..waited).collect::<Vec<_>>(),
        "all that waited, in order"
    );
    let mut kept = Evidence::from_cbor(&arrived[0].payload).unwrap();
    for (n, arrived) in arrived.iter().enumerate() {
        if n > 0 {
            kept = cgpath_evidence::EvidenceDelta::from_cbor(&arrived.payload)
                .unwrap()
                .join(kept)
                .unwrap();
        }
        assert!(engine.verdict(&kept, &arrived.nonce()).trusted, "message {n}");
    }
}

/// One request of HTTP, its body last.
async fn request<S: tokio::io::AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

#[tokio::test]
async fn a_second_verifier_asks_with_nonces_of_its_own_and_status_says_how_it_fares() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::named("ours");
    let own = ours.issue("worker-1");
    let names = Names::default();
    let engine = Engine::new(&names);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let good = Sink {
        ca: ours.ca(),
        client_certificate: own.certificate,
        client_key: own.key,
        ..sink("second", SinkKind::Verifier, &format!("https://localhost:{port}"))
    };
    let silent = Port::new();
    let nobody = Sink {
        to: format!("https://localhost:{}", silent.number()),
        name: "nobody".to_owned(),
        ..good.clone()
    };
    let sinks = Sinks::open(&config(dir.path(), vec![good, nobody]), "worker-1", &names).unwrap();
    let (_stop, stopped) = watch::channel(false);
    sinks.attest(&engine, &stopped);
    let acceptor = acceptor(&ours, "localhost");
    for round in 0..3u8 {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(acceptor.accept(tcp).await.unwrap());
        let (head, _) = request(&mut stream).await.unwrap();
        assert!(head.starts_with("POST /v1/nodes/worker-1/nonce "), "{head}");
        let nonce = [round + 1; 32];
        let answer = format!("{{\"nonce\":\"{}\"}}", hex::encode(nonce));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (head, body) = request(&mut stream).await.unwrap();
        assert!(head.starts_with("POST /v1/nodes/worker-1/evidence "), "{head}");
        let verdict = engine.verdict(&Evidence::from_cbor(&body).unwrap(), &nonce);
        assert!(verdict.trusted, "{verdict}");
        let answer = serde_json::to_string(&verdict).unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    let status = until(&sinks, |all| all[0].delivered >= 3 && all[1].error.is_some()).await;
    assert_eq!(
        status
            .iter()
            .map(|s| (s.name.as_str(), s.kind.as_str()))
            .collect::<Vec<_>>(),
        [("second", "verifier"), ("nobody", "verifier")]
    );
    assert_eq!((&status[0].error, status[1].delivered), (&None, 0));
}
