//! Rounds that send what is new: taken, refused by name, put together again, re-appraised.

use super::site::{Answer, Client, Site, appraised, busy, cgpath, ok};
use cgpath_appraisal::Verdict;
use cgpath_evidence::{Cursor, Evidence, EvidenceDelta};
use cgpath_testkit::{Actor, Node, delta_after, pod, sha256, tpm};
use serde_json::Value;

/// A nonce and the cursor that came with it.
fn asked(client: &Client) -> (Vec<u8>, Option<Cursor>) {
    let answer = client
        .send("POST", "/v1/nodes/worker-1/nonce", "", b"")
        .unwrap()
        .json();
    let cursor = answer.get("position").cloned();
    let cursor = cursor.map(|cursor| serde_json::from_value(cursor).unwrap());
    (hex::decode(answer["nonce"].as_str().unwrap()).unwrap(), cursor)
}

fn verdict(answer: &Answer) -> Verdict {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A round with all evidence.
pub(super) fn whole(client: &Client, node: &mut Node) -> (Verdict, Evidence) {
    let evidence = node.attest(&asked(client).0);
    let answer = client.submit("worker-1", &evidence.to_cbor()).unwrap();
    (verdict(&answer), evidence)
}

/// A round with what is new since `kept`; gives it, too.
pub(super) fn next(client: &Client, node: &mut Node, kept: &Evidence) -> (Verdict, Evidence, Vec<u8>) {
    let (nonce, cursor) = asked(client);
    let evidence = node.attest(&nonce);
    let delta = delta_after(&evidence, kept, cursor.expect("a position")).to_cbor();
    let answer = client.submit("worker-1", &delta).unwrap();
    (verdict(&answer), evidence, delta)
}

fn run(node: &mut Node, n: u8) {
    node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
}

#[test]
fn rounds_send_what_is_new_and_the_store_has_the_whole_of_each() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (server, client) = site.serve(&[]);
    assert_eq!(asked(&client).1, None, "nothing is kept yet");
    let (_, mut last) = whole(&client, &mut node);
    let (mut in_parts, mut wholes) = (0, 0);
    // More rounds than one chain of deltas holds.
    for n in 0..70u8 {
        run(&mut node, 1 + n % 4);
        let (verdict, evidence, delta) = next(&client, &mut node, &last);
        assert!(verdict.trusted, "{verdict}");
        let size = evidence.to_cbor().len();
        assert!(delta.len() < size / 2 || n < 8, "{} of {size}", delta.len());
        let kept = client.get("/v1/nodes/worker-1/verdict").json();
        let sha256 = kept["evidence"].as_str().unwrap();
        let file = std::fs::read(site.store().join(format!("evidence/{sha256}.cbor"))).unwrap();
        // Now and then the whole of it is kept.
        if file == delta {
            in_parts += 1;
        } else {
            assert_eq!(file, evidence.to_cbor(), "round {n}");
            assert!((31..64).contains(&in_parts), "{in_parts} in round {n}");
            (in_parts, wholes) = (0, wholes + 1);
        }
        last = evidence;
    }
    assert!(wholes > 0);
    // What is not in memory is put together from the disk.
    assert_eq!(server.terminate(), Some(0));
    let (_server, client) = site.serve(&["--follow-memory", "0"]);
    run(&mut node, 2);
    let (verdict, ..) = next(&client, &mut node, &last);
    assert!(verdict.trusted, "{verdict}");

    // Re-appraised, without asking the node: by a policy that wants what pod 4 does not run.
    let mut stricter = node.clone();
    stricter
        .pod_files
        .insert(pod(4), [(b"/bin/app".to_vec(), [sha256(b"other")].into())].into());
    let policy = site.policy(&stricter, "worker-1");
    let out = cgpath(&site.node(&["policy", "worker-1", policy.to_str().unwrap()]));
    let report: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    assert_eq!(report["rejudged"], 72, "{report}");
    assert_eq!(report["trusted"], false);
    let (_, shown) = appraised(&site.node(&["show", "worker-1"]));
    assert_eq!(
        shown["last"]["verdict"]["pods"][3]["state"], "untrusted",
        "{shown}"
    );
}

#[test]
fn a_round_that_does_not_follow_is_refused_by_name_and_changes_nothing() {
    let site = Site::new();
    let mut node = busy();
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let (_, first) = whole(&client, &mut node);
    let before = asked(&client).1.unwrap();
    run(&mut node, 1);
    let (verdict_of_second, second, delta) = next(&client, &mut node, &first);
    let after = asked(&client).1.unwrap();

    // The same once more, and the same cursor with a new nonce.
    assert_eq!(
        client.submit("worker-1", &delta).unwrap().kind(),
        (403, "nonce".into())
    );
    let mut send = |kept: &Evidence, from: &Cursor, change: &dyn Fn(&mut EvidenceDelta)| {
        let (nonce, _) = asked(&client);
        let mut delta = delta_after(&node.attest(&nonce), kept, from.clone());
        change(&mut delta);
        client.submit("worker-1", &delta.to_cbor()).unwrap().kind()
    };
    assert_eq!(send(&first, &before, &|_| {}), (409, "round-repeated".into()));
    let refused = |kind: &str| (409, kind.to_owned());
    assert_eq!(
        send(&second, &after, &|delta| delta.from.base = [3; 32]),
        refused("other-position")
    );
    assert_eq!(
        send(&second, &after, &|delta| delta.from.checkpoint += 1),
        refused("round-lost")
    );
    assert_eq!(
        send(&second, &after, &|delta| delta.boot_id = [9; 16]),
        refused("kexec")
    );
    assert_eq!(
        send(&second, &after, &|delta| delta.from.entries += 1),
        refused("other-position")
    );
    assert_eq!(
        send(&second, &after, &|delta| tpm(&mut delta.quote).signature[20] ^= 1),
        (403, "quote".into())
    );
    let last = client.get("/v1/nodes/worker-1/verdict").json();
    assert_eq!(
        last["verdict"]["node"]["checkpoint"],
        verdict_of_second.node.checkpoint.unwrap()
    );

    // Entries left out: it follows, and does not hold. Nothing is built on it.
    let (nonce, cursor) = asked(&client);
    assert_eq!(cursor, Some(after.clone()));
    let mut delta = delta_after(&node.attest(&nonce), &second, after.clone());
    delta.list.remove(0);
    let skipped = verdict(&client.submit("worker-1", &delta.to_cbor()).unwrap());
    assert!(!skipped.trusted);
    assert!(skipped.to_string().contains("came with this one"), "{skipped}");
    assert_eq!(asked(&client).1, Some(after));
    let (third, ..) = next(&client, &mut node, &second);
    assert!(third.trusted, "{third}");
}

#[test]
fn everything_is_sent_again_on_demand_and_after_a_reboot() {
    let site = Site::new();
    let mut node = busy();
    // This machine reboots at once.
    node.extra_policy += "min-reboot: 0\n";
    site.enrol(&node, "worker-1");
    let (_server, client) = site.serve(&[]);
    let (_, first) = whole(&client, &mut node);
    let cursor = asked(&client).1.unwrap();
    ok(&site.node(&["resync", "worker-1"]));
    let (nonce, none) = asked(&client);
    assert_eq!(none, None);
    let delta = delta_after(&node.attest(&nonce), &first, cursor).to_cbor();
    assert_eq!(
        client.submit("worker-1", &delta).unwrap().kind(),
        (409, "nothing-kept".into())
    );
    let (again, kept) = whole(&client, &mut node);
    assert!(again.trusted, "{again}");

    node.reboot();
    let (nonce, cursor) = asked(&client);
    let evidence = node.attest(&nonce);
    let delta = delta_after(&evidence, &kept, cursor.unwrap()).to_cbor();
    assert_eq!(
        client.submit("worker-1", &delta).unwrap().kind(),
        (409, "rebooted".into())
    );
    let (rebooted, _) = whole(&client, &mut node);
    assert!(rebooted.trusted, "{rebooted}");
    assert!(
        rebooted.to_string().contains("rebooted since the last evidence"),
        "{rebooted}"
    );

    // A list whose beginning was taken away on the node, and is kept here.
    run(&mut node, 3);
    let whole = node.attest(&asked(&client).0);
    let mut evidence = whole.clone();
    evidence.list.drain(..3);
    let cut = verdict(&client.submit("worker-1", &evidence.to_cbor()).unwrap());
    assert!(cut.trusted, "{cut}");
    assert!(
        cut.to_string().contains("the list was cut: its first 3 entries"),
        "{cut}"
    );
    run(&mut node, 4);
    let (after, ..) = next(&client, &mut node, &whole);
    assert!(after.trusted, "{after}");
}
