//! What unauthenticated clients cost the service in memory, and what they learn.

use super::site::{Server, Site, busy};
use cgpath_evidence::Evidence;
use cgpath_testkit::{AttestationKey, KeyKind, tpm};

/// Bytes of each hostile body.
const LEN: usize = 8 << 20;

/// Bytes of memory that the process held at most.
fn peak(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: usize = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kib * 1024
}

/// This evidence with a great many checkpoints of no bytes: one byte each here, a `Vec` each once decoded.
fn stuffed(mut evidence: Evidence) -> Vec<u8> {
    (evidence.list, evidence.checkpoints, evidence.partitions) = (vec![], vec![], vec![]);
    let bytes = evidence.to_cbor();
    // Keys 5, 6 and 7, each with an empty array.
    let fields = [5, 0x80, 6, 0x80, 7, 0x80];
    let at = bytes
        .windows(fields.len())
        .position(|window| window == fields)
        .unwrap()
        + 3;
    let count = u32::try_from(LEN).unwrap();
    let checkpoints = [&[0x9a][..], &count.to_be_bytes(), &vec![0x40; LEN]].concat();
    [&bytes[..at], &checkpoints, &bytes[at + 1..]].concat()
}

#[test]
fn a_body_of_tiny_items_costs_no_more_than_its_bytes_whoever_sends_it() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&[]);
    let nonce = client.nonce("worker-1").unwrap();
    let good = node.attest(&nonce);
    // What the service takes for itself, TLS and a first answer included.
    assert_eq!(client.submit("worker-1", b"").unwrap().status, 400);
    let before = peak(&server);

    // No key, another key, the node's key over another nonce, the node's name alone.
    let mut nobody = good.clone();
    let quote = tpm(&mut nobody.quote);
    (quote.attest, quote.signature) = (vec![1], vec![1]);
    let mut other = node.clone();
    other.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let mut forged = other.attest(&nonce);
    tpm(&mut forged.quote).ak = node.ak.public();
    for (body, kind) in [
        (stuffed(nobody), "quote"),
        (stuffed(other.attest(&nonce)), "unknown-key"),
        (stuffed(node.clone().attest(&[7; 32])), "nonce"),
        (stuffed(forged), "quote"),
    ] {
        let answer = client.submit("worker-1", &body).unwrap();
        assert_eq!(answer.kind(), (403, kind.to_owned()), "{}", answer.text());
    }
    let strangers = peak(&server) - before;
    assert!(
        strangers < LEN,
        "strangers' bodies of {LEN} bytes cost {strangers}"
    );

    // Who has the key pays for what is kept while it arrives, and no more: it is refused before it is
    // decoded.
    let answer = client.submit("worker-1", &stuffed(good)).unwrap();
    assert_eq!(answer.kind(), (400, "malformed".to_owned()));
    assert!(answer.text().contains("too small items"), "{}", answer.text());
    let own = peak(&server) - before;
    assert!(own < 4 * LEN, "a body of {LEN} bytes costs {own}");
    println!("bodies of {LEN} bytes cost: strangers' {strangers}, the node's own {own}");
}

/// Published against a peer: a challenge that the answering side could leave out.
#[test]
fn evidence_without_a_nonce_that_was_given_for_it_is_refused() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    site.enrol(&busy(), "worker-2");
    let (_server, client) = site.serve(&[]);
    let given = client.nonce("worker-1").unwrap();
    let mut almost = given.clone();
    *almost.last_mut().unwrap() ^= 1;
    let mut later = given.clone();
    // The time at which it ends, which is part of it.
    later[0] = 0xff;
    let mut long = given.clone();
    long.push(0);
    for (what, nonce) in [
        ("none", vec![]),
        ("a byte", vec![0]),
        ("zeros", vec![0; 32]),
        ("the first half of a good one", given[..16].to_vec()),
        ("a good one with a byte more", long),
        ("one that was altered", almost),
        ("one whose end was altered", later),
        ("another node's", client.nonce("worker-2").unwrap()),
    ] {
        let answer = client
            .submit("worker-1", &node.clone().attest(&nonce).to_cbor())
            .unwrap();
        assert_eq!(
            answer.kind(),
            (403, "nonce".to_owned()),
            "{what}: {}",
            answer.text()
        );
    }
    // A quote with no nonce beside a checkpoint with a good one, and the other way round.
    let (good, none) = (node.clone().attest(&given), node.clone().attest(&[]));
    let mut quoted_without = good.clone();
    quoted_without.quote = none.quote.clone();
    let answer = client.submit("worker-1", &quoted_without.to_cbor()).unwrap();
    assert_eq!(answer.kind(), (403, "nonce".to_owned()));
    let mut sealed_without = none;
    sealed_without.quote = good.quote;
    let answer = client.submit("worker-1", &sealed_without.to_cbor()).unwrap();
    assert_ne!(answer.json()["trusted"], true, "{}", answer.text());
    let fresh = client.nonce("worker-1").unwrap();
    let answer = client.submit("worker-1", &node.attest(&fresh).to_cbor()).unwrap();
    assert_eq!(answer.json()["trusted"], true, "{}", answer.text());
}

#[test]
fn with_read_token_always_this_machine_needs_the_token_that_is_in_the_store() {
    let site = Site::new();
    site.enrol(&busy(), "worker-1");
    let file = site.store().join("read.token");
    let (server, client) = site.serve(&[]);
    assert_eq!(client.get("/v1/nodes").status, 200);
    assert!(!file.exists());
    drop(server);
    let mut first = String::new();
    for _ in 0..2 {
        let (_server, client) = site.serve(&["--read-token-always"]);
        assert_eq!(client.get("/v1/nodes").status, 401);
        let token = std::fs::read_to_string(&file).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let header = format!("Authorization: Bearer {}\r\n", token.trim());
        assert_eq!(client.send("GET", "/v1/nodes", &header, b"").unwrap().status, 200);
        // Nodes need none, and the same is good after a restart.
        assert!(client.nonce("worker-1").is_ok());
        assert!(first.is_empty() || first == token);
        first = token;
    }
    // A token that was given is the one that counts.
    let (_server, client) = site.serve(&["--read-token-always", "--read-token", "0123456789abcdef"]);
    let header = "Authorization: Bearer 0123456789abcdef\r\n";
    assert_eq!(client.send("GET", "/v1/nodes", header, b"").unwrap().status, 200);
    let header = format!("Authorization: Bearer {}\r\n", first.trim());
    assert_eq!(client.send("GET", "/v1/nodes", &header, b"").unwrap().status, 401);
    // The unit for the service asks for it.
    let unit = include_str!("../../../../deploy/cgpath.service");
    assert!(unit.contains("--read-token-always"));
}

#[test]
fn a_path_of_4_000_bytes_is_whole_for_programs_and_short_for_people() {
    use cgpath_testkit::{Actor, pod, sha256};
    let path = format!("/{}/end", "Z".repeat(4_000));
    let mut node = busy();
    node.execute(&Actor::pod(pod(4), &path), &path, &sha256(b"other"));
    let site = Site::new();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let nonce = client.nonce("worker-1").unwrap();
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    let verdict: cgpath_appraisal::Verdict = serde_json::from_slice(&answer.body).unwrap();
    let own = verdict.pod(pod(4)).unwrap();
    assert!(own.fnf.iter().any(|file| file.path == path.as_bytes()));
    let of_path = |f: &&cgpath_appraisal::Finding| f.path.as_deref() == Some(path.as_bytes());
    assert!(own.findings.iter().filter(of_path).count() > 0, "{verdict}");
    for line in verdict.to_string().lines() {
        assert!(line.matches('Z').count() <= 200, "{line}");
    }
    let named = format!("ZZZ/end ({} bytes, sha256 ", path.len());
    assert!(verdict.to_string().contains(&named), "{verdict}");
    for finding in verdict.pods.iter().flat_map(|pod| &pod.findings) {
        let texts = finding
            .expected
            .iter()
            .chain(&finding.found)
            .chain([&finding.text]);
        for text in texts {
            assert!(text.matches('Z').count() <= 200, "{text}");
        }
    }
}
