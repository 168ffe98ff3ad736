//! Nodes without a TPM: enrolled by the key of their trust domain, appraised with the store's collateral.

use super::rounds::{next, whole};
use super::site::{Site, cgpath, fails, ok};
use cgpath_appraisal::{Rule, Verdict};
use cgpath_evidence::td::{node_key_hash, prove_possession, public_node_key};
use cgpath_testkit::td::{Platform, TrustDomain};
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use p256::ecdsa::SigningKey;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 3600;

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs()
}

fn domain(machine: &str, key: u8) -> TrustDomain {
    let mut domain = TrustDomain::new(Platform::new("a test's root", machine));
    domain.key = SigningKey::from_slice(&[key; 32]).unwrap();
    domain
}

/// A node in this domain on which all four pods of its policy ran.
fn busy(domain: TrustDomain) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
    run(&mut node);
    node
}

fn run(node: &mut Node) {
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    for n in 1..=4 {
        node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
    }
}

fn fingerprint(node: &Node) -> String {
    hex::encode(node_key_hash(&public_node_key(&node.td.as_ref().unwrap().key)))
}

/// Enrols `node` as worker-1.
fn enrol(site: &Site, node: &Node) {
    let policy = site.policy(node, "worker-1");
    let (key, policy) = (fingerprint(node), policy.to_str().unwrap());
    ok(&site.node(&["add", "worker-1", "--node-key", &key, "--policy", policy]));
}

/// Collateral of the node's platform, issued so long ago, in the store.
fn collateral(site: &Site, node: &Node, age: u64) -> PathBuf {
    let folder = site.store().join("collateral");
    std::fs::create_dir_all(&folder).unwrap();
    let platform = &node.td.as_ref().unwrap().platform;
    let file = folder.join("platform.json");
    std::fs::write(&file, platform.collateral_json(now() - age, |_, _| ())).unwrap();
    file
}

fn breaks_v1(verdict: &Verdict) -> bool {
    verdict.failures().any(|finding| finding.rule == Rule::Quote)
}

#[test]
fn a_node_without_a_tpm_is_enrolled_by_its_domains_key_and_each_round_after_the_first_sends_what_is_new() {
    let site = Site::new();
    let mut node = busy(domain("host 1", 7));
    enrol(&site, &node);
    collateral(&site, &node, DAY);
    let (server, client) = site.serve(&[]);
    let (verdict, mut last) = whole(&client, &mut node);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.anchor, "RTMR 3");
    for _ in 0..3 {
        run(&mut node);
        let (verdict, evidence, delta) = next(&client, &mut node, &last);
        assert!(verdict.trusted, "{verdict}");
        assert!(delta.len() < evidence.to_cbor().len());
        last = evidence;
    }
    assert_eq!(server.terminate(), Some(0));
    // What is not in memory is put together from the disk.
    let (_server, client) = site.serve(&["--follow-memory", "0"]);
    run(&mut node);
    let (verdict, ..) = next(&client, &mut node, &last);
    assert!(verdict.trusted, "{verdict}");
    let shown = ok(&[
        "verify".as_ref(),
        "--node".as_ref(),
        "worker-1".as_ref(),
        "--store".as_ref(),
        site.store().as_os_str(),
    ]);
    assert!(shown.contains("RTMR 3"), "{shown}");
    // The page and a report name it, too.
    let report = site.path("report.html");
    let of_store = ["--node", "worker-1", "--store", site.store().to_str().unwrap()].map(str::to_owned);
    let args = ["report", "-o", report.to_str().unwrap()].map(str::to_owned);
    ok(&[&args[..], &of_store].concat());
    for page in [client.get("/").text(), std::fs::read_to_string(report).unwrap()] {
        assert!(page.replace('\u{202f}', " ").contains("RTMR 3"), "{page}");
    }
    // So does what a finding rests on.
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/other", &sha256(b"other"));
    let (verdict, ..) = whole(&client, &mut node);
    assert!(!verdict.trusted, "{verdict}");
    let explain = |words: &[String]| {
        let output = cgpath(&[&["explain".to_owned()], words, &of_store[..]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = explain(&[]);
    let id = listed.split_whitespace().next().unwrap().to_owned();
    let explained = explain(&[id]);
    for text in [
        "/bin/other",
        "RTMR 3 after checkpoint ",
        "MRTD ",
        &fingerprint(&node),
    ] {
        assert!(explained.contains(text), "{text}: {explained}");
    }
    assert!(!explained.contains("cannot be read"), "{explained}");
}

#[test]
fn collateral_that_comes_goes_or_is_none_is_seen_at_once() {
    let site = Site::new();
    let mut node = busy(domain("host 1", 7));
    enrol(&site, &node);
    let (_server, client) = site.serve(&[]);
    assert!(breaks_v1(&whole(&client, &mut node).0));
    let file = collateral(&site, &node, DAY);
    let (verdict, _) = whole(&client, &mut node);
    assert!(!breaks_v1(&verdict), "{verdict}");
    collateral(&site, &node, 31 * DAY);
    assert!(breaks_v1(&whole(&client, &mut node).0), "its time is over");
    // One that cannot be read does not keep another from being used.
    collateral(&site, &node, DAY);
    std::fs::write(file.with_file_name("another.json"), b"{}").unwrap();
    let (verdict, _) = whole(&client, &mut node);
    assert!(!breaks_v1(&verdict), "{verdict}");
    std::fs::remove_file(file).unwrap();
    assert!(breaks_v1(&whole(&client, &mut node).0));
}

#[test]
fn who_has_not_the_pinned_key_is_refused_by_the_head_and_changes_nothing() {
    let site = Site::new();
    let mut node = busy(domain("host 1", 7));
    enrol(&site, &node);
    collateral(&site, &node, DAY);
    let (_server, client) = site.serve(&[]);
    whole(&client, &mut node);
    let kept = client.get("/v1/nodes/worker-1/verdict").json();
    let send = |evidence: &cgpath_evidence::Evidence| {
        let answer = client.submit("worker-1", &evidence.to_cbor()).unwrap();
        answer.kind()
    };
    // A healthy domain of the same image, to which the nonce was relayed.
    let mut healthy = busy(domain("host 1", 8));
    let relayed = healthy.attest(&client.nonce("worker-1").unwrap());
    assert_eq!(send(&relayed), (403, "unknown-key".to_owned()));
    // The same with the other node's key named, and signed by its own.
    let nonce = client.nonce("worker-1").unwrap();
    let mut forged = healthy.attest(&nonce);
    let mut quote = forged.quote.td.clone().unwrap();
    quote.node_key = public_node_key(&node.td.as_ref().unwrap().key);
    let report_data = quote.report_data(&[]);
    let td = healthy.td.as_ref().unwrap();
    quote.outblob = td.platform.quote(&td.report(report_data));
    quote.possession = prove_possession(&td.key, &report_data);
    forged.quote.td = Some(quote);
    assert_eq!(send(&forged), (403, "quote".to_owned()));
    // A TPM's quote is none of a trust domain.
    let mut with_tpm = super::busy();
    let other = with_tpm.attest(&client.nonce("worker-1").unwrap());
    assert_eq!(send(&other), (403, "quote".to_owned()));
    // An old nonce.
    let nonce = client.nonce("worker-1").unwrap();
    let evidence = node.attest(&nonce);
    assert_eq!(
        client.submit("worker-1", &evidence.to_cbor()).unwrap().status,
        200
    );
    assert_eq!(send(&evidence), (403, "nonce".to_owned()));
    let after = client.get("/v1/nodes/worker-1/history?limit=10").json();
    assert_eq!(after["verdicts"].as_array().unwrap().len(), 2, "{after}");
    assert_ne!(client.get("/v1/nodes/worker-1/verdict").json(), kept);
}

#[test]
fn with_a_key_per_boot_a_domain_is_known_by_its_measurements_and_its_platform() {
    let site = Site::new();
    let mut per_boot = domain("host 1", 7);
    per_boot.policy += &format!(
        "  key: per-boot\n  platforms: ['{}']\n",
        hex::encode(per_boot.platform.id)
    );
    let mut node = busy(per_boot.clone());
    enrol(&site, &node);
    collateral(&site, &node, DAY);
    let (_server, client) = site.serve(&[]);
    let (verdict, _) = whole(&client, &mut node);
    assert!(verdict.trusted, "{verdict}");
    // Another boot with a key of its own.
    node.td.as_mut().unwrap().key = SigningKey::from_slice(&[9; 32]).unwrap();
    node.reboot();
    run(&mut node);
    let (verdict, _) = whole(&client, &mut node);
    assert!(!breaks_v1(&verdict), "{verdict}");
    // A copy of its disk on another host.
    let mut copy = busy(TrustDomain {
        policy: per_boot.policy.clone(),
        ..domain("host 2", 9)
    });
    let evidence = copy.attest(&client.nonce("worker-1").unwrap());
    let answer = client.submit("worker-1", &evidence.to_cbor()).unwrap();
    assert_eq!(answer.kind(), (403, "quote".to_owned()));
}

#[test]
fn a_policy_and_the_keys_of_a_node_go_together() {
    let site = Site::new();
    let node = busy(domain("host 1", 7));
    let of_domain = site.policy(&node, "worker-1");
    let of_tpm = site.policy(&super::busy(), "worker-2");
    let key = fingerprint(&node);
    let ak = hex::encode(cgpath_appraisal::key_name(&node.ak.public()).unwrap());
    for (name, policy, flag, key, named) in [
        ("worker-1", &of_domain, "--ak", ak.as_str(), "--node-key"),
        ("worker-2", &of_tpm, "--node-key", key.as_str(), "--ak"),
        ("worker-1", &of_domain, "--node-key", &key[1..], "64 hex digits"),
    ] {
        let error = fails(&site.node(&["add", name, flag, key, "--policy", policy.to_str().unwrap()]));
        assert!(error["error"].as_str().unwrap().contains(named), "{error}");
    }
}
