//! Changes of verdicts: sent to webhooks and to the journal at least once, and listed for readers who may see
//! them.

use super::site::{Answer, Client, Server, Site, busy, cgpath, ok};
use cgpath_testkit::monitoring;
use cgpath_testkit::port::Port;
use cgpath_testkit::python::python;
use cgpath_testkit::{Actor, Node, pod, sha256};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(180);

/// One request that a receiver got.
#[derive(Debug, Clone)]
struct Delivery {
    signature: String,
    content_type: String,
    body: Vec<u8>,
}

impl Delivery {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn sequence(&self) -> u64 {
        self.json()["sequence"].as_str().unwrap().parse().unwrap()
    }
}

/// Takes deliveries over HTTPS and gives the answers that were set; 204 once none is left, and for status 0
/// no answer at all.
struct Hook {
    deliveries: Receiver<Delivery>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl Hook {
    fn start(site: &Site, address: SocketAddr, answers: &[u16]) -> Hook {
        let listener = TcpListener::bind(address).unwrap();
        let answers = Arc::new(Mutex::new(answers.to_vec()));
        let (sender, deliveries) = channel();
        let tls = Arc::new(site.server_config());
        let shared = Arc::clone(&answers);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
                let stream = rustls::StreamOwned::new(connection, socket.unwrap());
                let (sender, answers) = (sender.clone(), Arc::clone(&shared));
                std::thread::spawn(move || Hook::requests(stream, &sender, &answers));
            }
        });
        Hook { deliveries, answers }
    }

    /// One connection; it may carry several requests.
    fn requests(stream: impl Read + Write, sender: &Sender<Delivery>, answers: &Mutex<Vec<u16>>) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if !matches!(stream.read_line(&mut head), Ok(1..)) {
                    return;
                }
            }
            let field = |name: &str| {
                let lines = head.lines().filter_map(|line| line.split_once(": "));
                let mut found = lines
                    .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v);
                found.next_back().unwrap_or_default().to_owned()
            };
            assert!(head.starts_with("POST /changes?for=me HTTP/1.1\r\n"), "{head}");
            let mut body = vec![0; field("content-length").parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let status = {
                let mut answers = answers.lock().unwrap();
                if answers.is_empty() {
                    204
                } else {
                    answers.remove(0)
                }
            };
            let delivery = Delivery {
                signature: field("cgpath-signature"),
                content_type: field("content-type"),
                body,
            };
            if sender.send(delivery).is_err() {
                return;
            }
            if status == 0 {
                std::thread::sleep(WAIT);
                return;
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn next(&self) -> Delivery {
        self.deliveries.recv_timeout(WAIT).expect("nothing was delivered")
    }

    fn none(&self) {
        let more = self.deliveries.recv_timeout(Duration::from_secs(3));
        assert!(more.is_err(), "{more:?}");
    }
}

fn url(address: SocketAddr) -> String {
    format!("https://localhost:{}/changes?for=me", address.port())
}

fn serve(site: &Site, hook: SocketAddr, more: &[&str]) -> (Server, Client) {
    let (url, ca) = (url(hook), site.ca());
    let args = ["--webhook", &url, "--webhook-ca", ca.to_str().unwrap()];
    site.serve(&[&args, more].concat())
}

fn round(client: &Client, node: &mut Node) -> Value {
    let nonce = client.nonce("worker-1").unwrap();
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn tamper(node: &mut Node) {
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"replaced"));
}

/// `cgpath event` on a delivery.
fn check(site: &Site, delivery: &Delivery) -> (Option<i32>, Value) {
    let body = site.path("delivery");
    std::fs::write(&body, &delivery.body).unwrap();
    let (key, state) = (site.store().join("verdict.pub.pem"), site.path("taken.json"));
    let output = cgpath(&[
        "event".as_ref(),
        body.as_os_str(),
        "--signature".as_ref(),
        delivery.signature.as_ref(),
        "--key".as_ref(),
        key.as_os_str(),
        "--state".as_ref(),
        state.as_os_str(),
        "--json".as_ref(),
    ]);
    let said = if output.stdout.is_empty() {
        &output.stderr
    } else {
        &output.stdout
    };
    (output.status.code(), serde_json::from_slice(said).unwrap())
}

#[test]
fn each_change_is_delivered_once_in_order_and_a_replay_of_it_is_refused() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there yet.
    let port = Port::new();
    let address = port.address();
    let hook = Hook::start(&site, address, &[]);
    let (server, client) = serve(&site, address, &[]);
    round(&client, &mut node);
    // The node and its four pods have a first verdict.
    let first: Vec<Delivery> = (0..5).map(|_| hook.next()).collect();
    for (n, delivery) in (1..).zip(&first) {
        assert_eq!(delivery.sequence(), n);
        assert_eq!(
            delivery.content_type,
            "application/cloudevents+json; charset=utf-8"
        );
        let event = delivery.json();
        assert_eq!(event["type"], "ima-cgpath.verdict.changed");
        assert_eq!(event["data"]["new"], "trusted");
        assert!(event["data"].get("old").is_none(), "{event}");
        assert_eq!(check(&site, delivery).0, Some(0));
    }
    // Nothing changes, nothing is sent.
    round(&client, &mut node);
    hook.none();
    tamper(&mut node);
    round(&client, &mut node);
    let delivery = hook.next();
    let event = delivery.json();
    assert_eq!(event["subject"], format!("worker-1/pods/{}", pod(4)));
    let data = &event["data"];
    assert_eq!(
        (&data["old"], &data["new"], &data["rules"]),
        (&"trusted".into(), &"untrusted".into(), &serde_json::json!(["V9"]))
    );
    assert_eq!(check(&site, &delivery).0, Some(0));
    hook.none();

    for replayed in first.iter().chain([&delivery]) {
        let (code, said) = check(&site, replayed);
        assert_eq!((code, &said["replayed"]), (Some(1), &true.into()), "{said}");
    }
    let mut altered = delivery.clone();
    altered.body = String::from_utf8(altered.body)
        .unwrap()
        .replace("untrusted", "trusted")
        .into();
    assert_eq!(check(&site, &altered).0, Some(1));

    // jwcrypto, which nobody here wrote, takes the signature, and refuses it over another body.
    let script = "
import json, sys
from jwcrypto import jwk, jws
key = jwk.JWK.from_pem(open(sys.argv[1], 'rb').read())
body = open(sys.argv[2], 'rb').read()
for good, payload in ((True, body), (False, body + b' ')):
    token = jws.JWS()
    token.deserialize(sys.argv[3])
    try:
        token.verify(key, detached_payload=payload)
        assert good
    except jws.InvalidJWSSignature:
        assert not good
print(token.jose_header['alg'], token.jose_header['typ'], json.loads(body)['specversion'])
";
    std::fs::write(site.path("delivery"), &delivery.body).unwrap();
    let output = Command::new(python())
        .args(["-c", script])
        .arg(site.store().join("verdict.pub.pem"))
        .arg(site.path("delivery"))
        .arg(&delivery.signature)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "ES256 cgpath-event+jws 1.0\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_receiver_that_is_down_or_answers_500_gets_everything_in_order_once_it_is_well() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there yet.
    let port = Port::new();
    let address = port.address();
    let (_server, client) = serve(&site, address, &[]);
    round(&client, &mut node);
    tamper(&mut node);
    // No round waits for a webhook: none of its events is delivered when it is answered.
    round(&client, &mut node);
    let metrics = client.get("/metrics").text();
    assert!(
        metrics.contains(&format!(
            "cgpath_webhook_waiting_events{{webhook=\"localhost:{}\"}} 6",
            address.port()
        )),
        "{metrics}"
    );
    let hook = Hook::start(&site, address, &[500, 503, 302, 204, 500]);
    let got: Vec<u64> = (0..10).map(|_| hook.next().sequence()).collect();
    assert_eq!(got, [1, 1, 1, 1, 2, 2, 3, 4, 5, 6]);
    assert!(hook.answers.lock().unwrap().is_empty());
    hook.none();
    let metrics = client.get("/metrics").text();
    assert!(
        metrics.contains("cgpath_webhook_waiting_events{") && metrics.contains("\"} 0"),
        "{metrics}"
    );
}

#[test]
fn each_metric_and_label_that_alerts_and_dashboard_name_is_served() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there: what waits for it is served, too.
    let port = Port::new();
    let (_server, client) = serve(&site, port.address(), &[]);
    tamper(&mut node);
    round(&client, &mut node);
    let served = client.get("/metrics").text();
    assert_eq!(monitoring::not_served("cgpath_", &served), Vec::<String>::new());
    let without = served.replace("cgpath_node_failures{", "cgpath_other{");
    let missing = monitoring::not_served("cgpath_", &without);
    assert!(!missing.is_empty(), "{served}");
}

#[test]
fn a_service_killed_between_verdict_and_delivery_delivers_after_its_restart() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there yet.
    let port = Port::new();
    let address = port.address();
    // Killed with nobody there, and then with a receiver that took an event and had not answered yet.
    let (server, client) = serve(&site, address, &[]);
    round(&client, &mut node);
    server.kill();
    let hook = Hook::start(&site, address, &[204, 0]);
    let (server, _client) = serve(&site, address, &[]);
    let before = [hook.next(), hook.next()];
    server.kill();
    let (_server, _client) = serve(&site, address, &[]);
    let after: Vec<Delivery> = (0..4).map(|_| hook.next()).collect();
    assert_eq!(before.each_ref().map(Delivery::sequence), [1, 2]);
    assert_eq!(
        after.iter().map(Delivery::sequence).collect::<Vec<_>>(),
        [2, 3, 4, 5]
    );
    assert_eq!(before[1].json()["id"], after[0].json()["id"]);
    // A receiver that took it does not take it again.
    for (delivery, code) in [(&before[0], 0), (&before[1], 0), (&after[0], 1), (&after[1], 0)] {
        assert_eq!(check(&site, delivery).0, Some(code));
    }
    hook.none();
}

#[test]
fn what_does_not_fit_the_queue_is_dropped_and_one_event_says_so() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there yet.
    let port = Port::new();
    let address = port.address();
    let (_server, client) = serve(&site, address, &["--webhook-queue", "2"]);
    round(&client, &mut node);
    let hook = Hook::start(&site, address, &[]);
    let dropped = hook.next();
    let event = dropped.json();
    assert_eq!(event["type"], "ima-cgpath.events.dropped");
    assert_eq!(event["data"], serde_json::json!({"first": 1, "last": 3}));
    assert_eq!(check(&site, &dropped).0, Some(0));
    let rest = [hook.next(), hook.next()];
    assert_eq!(rest.each_ref().map(Delivery::sequence), [4, 5]);
    for delivery in &rest {
        let (code, said) = check(&site, delivery);
        assert_eq!((code, &said["missing"]), (Some(0), &Value::Null), "{said}");
    }
    hook.none();
    let metrics = client.get("/metrics").text();
    let line = metrics
        .lines()
        .find(|l| l.starts_with("cgpath_webhook_dropped_events{"));
    assert!(line.unwrap().ends_with(" 3"), "{metrics}");
}

#[test]
fn a_webhook_with_a_certificate_of_another_ca_gets_nothing_and_plain_http_is_refused() {
    let (site, other) = (Site::new(), Site::new());
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there yet.
    let port = Port::new();
    let address = port.address();
    let hook = Hook::start(&other, address, &[]);
    let (_server, client) = serve(&site, address, &[]);
    round(&client, &mut node);
    hook.none();
    for wrong in ["http://localhost/x", "localhost", "https://me:secret@localhost/"] {
        let store = site.path("elsewhere");
        ok(&["serve".as_ref(), "--init".as_ref(), store.as_os_str()]);
        let (store, ca) = (store.to_str().unwrap().to_owned(), site.ca());
        let args = [
            "serve",
            &store,
            "--json",
            "--webhook",
            wrong,
            "--webhook-ca",
            ca.to_str().unwrap(),
        ];
        assert_eq!(super::site::fails(&args)["kind"], "webhook", "{wrong}");
        std::fs::remove_dir_all(store).unwrap();
    }
}

#[test]
fn a_verdict_that_was_reappraised_is_a_change_too() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    // Nobody listens there yet.
    let port = Port::new();
    let address = port.address();
    let hook = Hook::start(&site, address, &[]);
    let (_server, client) = serve(&site, address, &[]);
    tamper(&mut node);
    let verdict = round(&client, &mut node);
    for _ in 0..5 {
        hook.next();
    }
    let mut verdict: cgpath_appraisal::Verdict = serde_json::from_value(verdict).unwrap();
    let finding = verdict.pods.remove(3).findings.remove(0);
    ok(&site.node(&[
        "accept",
        "worker-1",
        &cgpath_appraisal::accept::id(&finding),
        "--reason",
        "known",
        "--until",
        "1h",
    ]));
    let event = hook.next().json();
    assert_eq!(event["data"]["old"], "untrusted");
    assert_eq!(event["data"]["new"], "trusted");
    assert!(
        event["data"]["cause"].as_str().unwrap().starts_with("accept"),
        "{event}"
    );
    hook.none();
}

const RED: &str = "the red tenant's token";
const BLUE: &str = "the blue tenant's token";
const OPERATOR: &str = "the operator's own token";

#[test]
fn revocations_are_listed_from_a_cursor_on_and_a_tenant_sees_none_of_another() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let digest = |token: &str| hex::encode(sha256(token.as_bytes()).bytes());
    let readers = site.path("readers.yaml");
    let text = format!(
        "readers:\n\
         - name: red\n  \
         token-sha256: {}\n  \
         pods: [{}]\n\
         - name: blue\n  \
         token-sha256: {}\n  \
         pods: [{}]\n",
        digest(RED),
        pod(1),
        digest(BLUE),
        pod(4)
    );
    std::fs::write(&readers, text).unwrap();
    let (_server, client) = site.serve(&["--read-token", OPERATOR, "--readers", readers.to_str().unwrap()]);
    let ask = |token: &str, query: &str| -> Answer {
        let header = format!("Authorization: Bearer {token}\r\n");
        let path = format!("/v1/revocations{query}");
        client.send("GET", &path, &header, b"").unwrap()
    };
    assert_eq!(client.get("/v1/revocations").status, 401);
    round(&client, &mut node);
    for token in [OPERATOR, RED, BLUE] {
        let none = ask(token, "").json();
        assert_eq!(none, serde_json::json!({"revocations": [], "more": false}));
    }
    tamper(&mut node);
    round(&client, &mut node);
    let all = ask(OPERATOR, "").json();
    assert_eq!(all["revocations"].as_array().unwrap().len(), 1);
    let one = &all["revocations"][0];
    assert_eq!(
        (&one["node"], &one["pod"], &one["new"], &one["number"]),
        (
            &"worker-1".into(),
            &pod(4).to_string().into(),
            &"untrusted".into(),
            &6.into()
        )
    );
    let blue = ask(BLUE, "").json();
    assert_eq!(blue["revocations"][0]["id"], one["id"]);
    assert!(blue["revocations"][0].get("number").is_none(), "{blue}");
    assert_eq!(
        ask(RED, "").json(),
        serde_json::json!({"revocations": [], "more": false})
    );

    // The node itself turns untrusted: a reader who has a pod there learns that, and not why.
    node.execute(
        &Actor::host("/sbin/init"),
        "/usr/bin/rootkit",
        &sha256(b"rootkit"),
    );
    round(&client, &mut node);
    let cursor = blue["next"].as_str().unwrap();
    for token in [RED, BLUE] {
        let query = if token == BLUE {
            format!("?since={cursor}")
        } else {
            String::new()
        };
        let listed = ask(token, &query).json();
        let listed = listed["revocations"].as_array().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0]["node"], listed[0].get("pod")),
            (&"worker-1".into(), None)
        );
        assert!(listed[0].get("rules").is_none(), "{listed:?}");
    }
    let more = ask(OPERATOR, &format!("?since={cursor}")).json();
    assert_eq!(more["revocations"][0]["rules"], serde_json::json!(["V11"]));
    let last = more["next"].as_str().unwrap();
    let end = ask(OPERATOR, &format!("?since={last}")).json();
    assert_eq!(
        end,
        serde_json::json!({"revocations": [], "next": last, "more": false})
    );
    let first = ask(OPERATOR, "?limit=1").json();
    assert_eq!((&first["more"], &first["next"]), (&true.into(), &one["id"]));

    // A cursor of somebody else's change is as one that never was.
    let foreign = ask(RED, &format!("?since={cursor}"));
    let never = ask(RED, "?since=00112233445566778899aabbccddeeff");
    assert_eq!((foreign.status, foreign.text()), (410, never.text()));
    assert_eq!(never.status, 410);
    assert_eq!(ask(RED, "?before=1").kind(), (400, "query".into()));
}

/// `cgpath serve` in a mount namespace whose /run has this folder as the journal's, or no journal.
fn with_journal(site: &Site, journal: Option<&Path>, log: &Path) -> (Server, Client) {
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs run /run && if [ -n \"$1\" ]; then mkdir -p /run/systemd/journal && \
                  mount --bind \"$1\" /run/systemd/journal; fi && shift && exec \"$@\"";
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(journal.unwrap_or(Path::new("")));
    command.arg(env!("CARGO_BIN_EXE_cgpath"));
    command.stderr(std::fs::File::create(log).unwrap());
    let server = Server::spawn(command, &site.store(), &[]);
    let client = Client::new(&site.ca(), server.address);
    (server, client)
}

#[test]
fn each_change_is_an_entry_of_the_journal_also_after_kill_9() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let folder = site.path("journal");
    std::fs::create_dir(&folder).unwrap();
    let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let entry = || {
        let mut bytes = [0; 8192];
        let n = socket.recv(&mut bytes).expect("no entry");
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    };
    let log = site.path("log");
    let (server, client) = with_journal(&site, Some(&folder), &log);
    round(&client, &mut node);
    for n in 1..=5 {
        let entry = entry();
        assert!(entry.contains(&format!("CGPATH_NUMBER={n}\n")), "{entry}");
    }
    tamper(&mut node);
    round(&client, &mut node);
    let said = entry();
    for line in [
        "MESSAGE_ID=6c1d83f0b54e4a0f9d2c7a51e8f3b964",
        "SYSLOG_IDENTIFIER=cgpath-audit",
        "PRIORITY=4",
        "CGPATH_NUMBER=6",
        "CGPATH_NODE=worker-1",
        &format!("CGPATH_POD={}", pod(4)),
        "CGPATH_OLD=trusted",
        "CGPATH_NEW=untrusted",
        "CGPATH_RULES=V9",
        "CGPATH_CAUSE=evidence",
    ] {
        assert!(said.lines().any(|l| l == line), "{line} is missing: {said}");
    }
    server.kill();
    // With no journal the log has the entry, and says why.
    let (server, client) = with_journal(&site, None, &log);
    node.execute(
        &Actor::host("/sbin/init"),
        "/usr/bin/rootkit",
        &sha256(b"rootkit"),
    );
    round(&client, &mut node);
    let until = Instant::now() + WAIT;
    loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("the journal cannot be written")
            && text.contains("audit: node worker-1: was trusted, is untrusted")
        {
            break;
        }
        assert!(Instant::now() < until, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.kill();
}
