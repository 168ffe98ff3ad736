//! Delivery over HTTPS to a verifier of the test's own, and the daemon's local socket.

use cgpath_net::NetError;
use cgpath_testkit::Authority;
use cgpath_testkit::port::Port;
use cgpathd::config::Verifier;
use cgpathd::deliver::push::{Client, PushError};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Answers each connection with the next of `answers`; gives what was asked.
async fn serve(
    authority: &Authority,
    answers: Vec<String>,
) -> (SocketAddr, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
    serve_each(
        authority,
        answers.into_iter().map(|answer| vec![answer]).collect(),
    )
    .await
}

/// Answers each connection with all of the next `answers`, a request each; gives what was asked.
async fn serve_each(
    authority: &Authority,
    answers: Vec<Vec<String>>,
) -> (SocketAddr, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(authority.issue("127.0.0.1").server(None));
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answers in answers {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            for answer in answers {
                let mut request = Vec::new();
                let mut chunk = [0; 4096];
                loop {
                    let n = tls.read(&mut chunk).await.unwrap_or(0);
                    request.extend_from_slice(&chunk[..n]);
                    let text = String::from_utf8_lossy(&request).to_lowercase();
                    if let Some(end) = text.find("\r\n\r\n") {
                        let length: usize = text
                            .lines()
                            .find_map(|l| l.strip_prefix("content-length: "))
                            .map_or(0, |l| l.trim().parse().unwrap());
                        if request.len() >= end + 4 + length {
                            break;
                        }
                    }
                    if n == 0 {
                        break;
                    }
                }
                asked.push(request);
                tls.write_all(answer.as_bytes()).await.unwrap();
            }
            tls.shutdown().await.ok();
        }
        asked
    });
    (address, task)
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn client(address: SocketAddr, authority: &Authority) -> Client {
    let config = Verifier {
        url: format!("https://{address}"),
        ca: authority.ca(),
        timeout: 180,
        ..Verifier::default()
    };
    Client::new(&config, "node-1").unwrap()
}

#[tokio::test]
async fn a_nonce_is_fetched_and_evidence_is_streamed_to_it() {
    let authority = Authority::new();
    let nonce = "00112233445566778899aabbccddeeff";
    let answers = vec![
        answer("200 OK", &format!("{{\"nonce\":\"{nonce}\",\"expires\":1}}")),
        answer("200 OK", "{\"node\":{\"trust\":\"trusted\"}}"),
    ];
    let (address, asked) = serve(&authority, answers).await;
    let client = client(address, &authority);
    assert_eq!(hex::encode(client.nonce().await.unwrap().0), nonce);
    let body: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&body).unwrap();
    file.rewind().unwrap();
    assert!(
        client
            .deliver(file, body.len() as u64)
            .await
            .unwrap()
            .starts_with(b"{\"node\"")
    );
    let asked = asked.await.unwrap();
    assert!(asked[0].starts_with(b"POST /v1/nodes/node-1/nonce HTTP/1.1\r\n"));
    assert!(asked[1].starts_with(b"POST /v1/nodes/node-1/evidence HTTP/1.1\r\n"));
    assert!(asked[1].ends_with(&body));
}

#[tokio::test]
async fn nonce_and_evidence_go_by_one_connection() {
    let authority = Authority::new();
    let answers = vec![
        answer("200 OK", "{\"nonce\":\"0011223344556677\"}"),
        answer("200 OK", "{}"),
    ];
    let (address, asked) = serve_each(&authority, vec![answers]).await;
    let client = client(address, &authority);
    client.nonce().await.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"evidence").unwrap();
    // Nobody accepts a second connection.
    client.deliver(file, 8).await.unwrap();
    assert!(asked.await.unwrap()[1].ends_with(b"evidence"));
}

#[tokio::test]
async fn a_server_of_another_ca_gets_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (address, asked) = serve(&theirs, vec![answer("200 OK", "{}")]).await;
    let client = client(address, &ours);
    assert!(matches!(
        client.nonce().await,
        Err(PushError::Net(NetError::Connect { .. }))
    ));
    assert!(asked.await.unwrap().is_empty());
}

#[tokio::test]
async fn refusals_wrong_answers_silence_and_absence_are_told_apart() {
    let authority = Authority::new();
    let answers = vec![
        answer("403 Forbidden", "{\"error\":\"unknown key 000b…\"}"),
        answer("200 OK", "{\"nonce\":\"00\"}"),
        answer("200 OK", "hello"),
    ];
    let (address, _) = serve(&authority, answers).await;
    let asking = client(address, &authority);
    let refused = asking.nonce().await.unwrap_err();
    assert!(
        matches!(&refused, PushError::Refused { status: 403, message, .. } if message.contains("unknown key"))
    );
    assert!(matches!(asking.nonce().await, Err(PushError::Answer { .. })));
    assert!(matches!(asking.nonce().await, Err(PushError::Answer { .. })));

    let port = Port::new();
    let silent = TcpListener::bind(port.address()).await.unwrap();
    let config = Verifier {
        url: format!("https://{}", silent.local_addr().unwrap()),
        ca: authority.ca(),
        timeout: 1,
        ..Verifier::default()
    };
    let waiting = Client::new(&config, "n").unwrap();
    assert!(matches!(
        waiting.nonce().await,
        Err(PushError::Timeout { seconds: 1, .. })
    ));
    drop(silent);
    assert!(matches!(
        waiting.nonce().await,
        Err(PushError::Net(NetError::Connect { .. }))
    ));
}

#[test]
fn with_no_daemon_the_socket_says_so_and_a_broken_one_is_an_error() {
    use cgpathd::control::{ClientError, ask_evidence, ask_status, socket};
    let dir = tempfile::tempdir().unwrap();
    let mut out = Vec::new();
    assert!(matches!(
        ask_evidence(dir.path(), &[1; 8], &mut out),
        Err(ClientError::NotRunning(_))
    ));
    let listener = std::os::unix::net::UnixListener::bind(socket(dir.path())).unwrap();
    let server = std::thread::spawn(move || {
        for answer in [
            "{\"answer\":\"evidence\",\"length\":5}\nabc",
            "{\"answer\":\"error\",\"message\":\"no\"}\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {}
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    // Shorter than it said: not taken for whole.
    assert!(matches!(
        ask_evidence(dir.path(), &[1; 8], &mut out),
        Err(ClientError::Io { .. })
    ));
    assert!(matches!(ask_status(dir.path()), Err(ClientError::Refused(m)) if m == "no"));
    server.join().unwrap();
    // A daemon that died left its socket behind.
    assert!(matches!(ask_status(dir.path()), Err(ClientError::NotRunning(_))));
}
