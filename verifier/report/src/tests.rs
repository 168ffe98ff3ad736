//! The page of a node that lives through the story of the demo, and pages of hostile and of empty evidence.

use super::*;
use cgpath_appraisal::{BootAppraisal, Finding, LeftOut, NodeVerdict, PodVerdict, Rule, SeenFile, Subject};
use cgpath_evidence::{
    Ancestor, Bank, Checkpoint, Digest, EventKind, FileHash, Losses, PartitionKey, PartitionLog, PodInfo,
    PodUid, Quote, Record, SealedCheckpoint, Tier, record::ExeSource,
};

const BOOT: [u8; 16] = [7; 16];
const START: u64 = 1_795_312_800;

fn sha256(content: &str) -> Digest {
    Bank::Sha256.hash(&[content.as_bytes()])
}

fn uid(n: u8) -> PodUid {
    PodUid([
        n ^ 0x5a,
        3,
        0x4f,
        n,
        0x11,
        0x2b,
        0x4c,
        0x88,
        n,
        1,
        2,
        3,
        4,
        5,
        6,
        n,
    ])
}

fn process(tgid: u32, exe: &str, source: ExeSource) -> Ancestor {
    Ancestor {
        tgid,
        start_ns: u64::from(tgid) * 1_000_000_000,
        exe: exe.as_bytes().to_vec(),
        dev: 1,
        ino: 2,
        source,
    }
}

fn record(seq: u64, key: PartitionKey, kind: EventKind, path: &str, content: &str) -> Record {
    let init = process(1, "/usr/lib/systemd/systemd", ExeSource::Seeded);
    let (cgroup, ancestry) = match key {
        PartitionKey::Pod(uid) => {
            let n = u32::from(uid.0[15]);
            let shim = process(100 + n, "/usr/bin/containerd-shim-runc-v2", ExeSource::Recorded);
            let shell = process(200 + n, "/bin/busybox", ExeSource::Recorded);
            let own = process(300 + n * 10 + (seq % 3) as u32, path, ExeSource::Recorded);
            (
                format!("/kubepods/burstable/pod{uid}/0f1e2d"),
                vec![own, shell, shim, init],
            )
        }
        _ => (
            "/system.slice/cron.service".to_owned(),
            vec![process(50, "/usr/sbin/cron", ExeSource::Seeded), init],
        ),
    };
    let entry = kind == EventKind::Entry;
    Record {
        seq,
        boot_ns: 12_000_000_000 + seq * 37_000_000,
        kind,
        ret: if entry && seq.is_multiple_of(5) { -17 } else { 0 },
        pcr: if entry { 10 } else { 0 },
        digests: if entry {
            vec![Bank::Sha1.hash(&[content.as_bytes()]), sha256(content)]
        } else {
            vec![]
        },
        hash: (!entry).then(|| FileHash::Measured(sha256(content))),
        path: path.as_bytes().to_vec(),
        dev: 1,
        ino: seq,
        cgroup_id: 77,
        cgroup: Some(cgroup.into_bytes()),
        pid: ancestry[0].tgid,
        uid: 0,
        mnt_ns: 1,
        pid_ns: 1,
        ancestry,
        ancestry_cut: false,
        path_cut: false,
        guard: None,
        pod_loss: None,
        identity: None,
        name: None,
        writable: false,
        load: None,
    }
}

fn checkpoint(number: u64, records: u64, asked: bool, change: impl FnOnce(&mut Checkpoint)) -> Vec<u8> {
    let mut checkpoint = Checkpoint {
        version: 1,
        boot_id: BOOT,
        number,
        previous: [0; 32],
        list_len: 400 + records,
        settled: 399 + records,
        boot_len: 380,
        records,
        executions: records / 2,
        last_seq: records,
        losses: Losses::default(),
        blind: false,
        partitions: 5,
        partitions_root: [1; 32],
        bpf_object: [2; 32],
        ima_policy: None,
        nonce_hash: asked.then_some([9; 32]),
        key: None,
        starts: 1,
        predating: vec![],
        hierarchy: "v2".to_owned(),
        protection: None,
        collectors: None,
        binding: None,
        bpf_placed: None,
    };
    change(&mut checkpoint);
    let key = p256::ecdsa::SigningKey::from_slice(&[3; 32]).unwrap();
    SealedCheckpoint::seal(checkpoint, &key).file
}

fn evidence_of(partitions: Vec<PartitionLog>, checkpoints: Vec<Vec<u8>>) -> Evidence {
    Evidence {
        version: 1,
        tier: Tier::Bpf,
        node: "worker-3".to_owned(),
        boot_id: BOOT,
        quote: Quote {
            attest: vec![],
            signature: vec![],
            ak: vec![],
        }
        .into(),
        list: vec![],
        checkpoints,
        partitions,
        pods: vec![PodInfo {
            uid: uid(1),
            namespace: "shop".to_owned(),
            name: "cart-0".to_owned(),
        }],
        kernel: "6.12.117+deb12-cloud-amd64".to_owned(),
        boot: None,
        unsealed: Vec::new(),
        in_flight: Vec::new(),
        td: None,
    }
}

fn pod_verdict(n: u8, name: Option<&str>, state: State, findings: Vec<Finding>) -> PodVerdict {
    let bad = findings.iter().find_map(|f| f.path.clone());
    let mut files = vec![
        SeenFile {
            path: b"/bin/busybox".to_vec(),
            digest: Some(sha256("busybox")),
            entries: 1,
            executions: 4,
            accepted: true,
            excluded: false,
        },
        SeenFile {
            path: b"/lib/libc.so.6".to_vec(),
            digest: Some(sha256("libc")),
            entries: 1,
            executions: 3,
            accepted: true,
            excluded: false,
        },
    ];
    if let Some(path) = bad {
        files.push(SeenFile {
            path,
            digest: Some(sha256("evil")),
            entries: 1,
            executions: 1,
            accepted: false,
            excluded: false,
        });
    }
    PodVerdict {
        uid: uid(n),
        undashed: false,
        name: name.map(str::to_owned),
        told: Some(format!("shop/{}", (b'a' + n) as char)),
        charged: state == State::Untrusted,
        state,
        entries: 6,
        executions: 8,
        suspect: 0,
        provenance: Provenance::Observed,
        learned: false,
        files,
        fnf: vec![],
        filehash_err: vec![],
        left_out: LeftOut::default(),
        excluded: 0,
        containers: vec![],
        findings,
    }
}

fn verdict(time: u64, pods: Vec<PodVerdict>, findings: Vec<Finding>, checkpoint: u64) -> Verdict {
    let untrusted = findings.iter().any(|f| f.severity == Severity::Fail);
    Verdict {
        version: 1,
        time,
        trusted: !untrusted && pods.iter().all(|p| p.state == State::Trusted),
        dangerous: vec!["dangerous-boot-not-judged".to_owned()],
        relaxations: vec![],
        policy: sha256("policy"),
        workloads: None,
        learned: false,
        node: NodeVerdict {
            td: None,
            name: "worker-3".to_owned(),
            believed: true,
            state: if untrusted {
                State::Untrusted
            } else {
                State::Trusted
            },
            tier: Tier::Bpf,
            anchor: "PCR 10 (sha256)".to_owned(),
            key: vec![0, 0xb, 1, 2, 3, 4],
            boot_id: BOOT,
            kernel: "6.12.117+deb12-cloud-amd64".to_owned(),
            entries: 1437,
            covered: 1436,
            boot_entries: 380,
            pending: 1,
            checkpoint: Some(checkpoint),
            checkpoint_sha256: None,
            records: 2214,
            executions: 901,
            unattributed: 0,
            lost: 0,
            suspect: 0,
            boot: BootAppraisal::NotAppraised,
            fnf: vec![],
            filehash_err: vec![],
            left_out: LeftOut::default(),
            excluded: 0,
            notes: vec!["first evidence of this node".to_owned()],
            findings,
        },
        pods,
        start: vec![],
        accepted: vec![],
        rejudged: None,
        first_sight: None,
        state: None,
    }
}

/// The story of the demo: all is well, then pod D runs a file that was replaced, then an unknown pod comes.
fn story() -> Vec<(Evidence, Verdict)> {
    let tampered = || {
        Finding::fail(
            Rule::PodContents,
            Subject::Partition(PartitionKey::Pod(uid(4))),
            "a file of this pod has a content that its policy does not accept",
        )
        .at_path(b"/usr/bin/ledger")
        .found(sha256("evil"))
        .expected(sha256("ledger"))
        .at_seq(41)
        .resting_on(Provenance::Observed)
    };
    let unknown = || {
        Finding::fail(
            Rule::KnownPods,
            Subject::Node,
            format!("pod {} is not in the policy", uid(5)),
        )
        .resting_on(Provenance::Observed)
    };
    (0..6u8)
        .map(|round| {
            let mut partitions = vec![];
            for n in 1..=(if round >= 4 { 5 } else { 4 }) {
                let key = PartitionKey::Pod(uid(n));
                let mut records = vec![];
                for i in 0..(4 + u64::from(round)) {
                    let seq = 10 * u64::from(n) + i;
                    let kind = [
                        EventKind::Entry,
                        EventKind::Execution,
                        EventKind::Mapping,
                        EventKind::Script,
                    ][i as usize % 4];
                    let bad = n == 4 && seq == 41;
                    let path = if bad {
                        "/usr/bin/ledger"
                    } else {
                        ["/bin/busybox", "/usr/bin/serve", "/lib/libc.so.6", "/entry.sh"][i as usize % 4]
                    };
                    records.push(record(seq, key, kind, path, if bad { "evil" } else { path }));
                }
                partitions.push(PartitionLog { key, records });
            }
            let host = (100..120)
                .map(|s| {
                    record(
                        s,
                        PartitionKey::Host,
                        EventKind::Execution,
                        "/usr/bin/date",
                        "date",
                    )
                })
                .collect();
            partitions.push(PartitionLog {
                key: PartitionKey::Host,
                records: host,
            });
            let checkpoints = (0..=(u64::from(round) * 2 + 1))
                .map(|i| {
                    checkpoint(i, i * i * 19, i % 2 == 1, |c| {
                        c.starts = if i >= 7 { 2 } else { 1 }
                    })
                })
                .collect();
            let mut pods = vec![
                pod_verdict(1, Some("shop/cart-0"), State::Trusted, vec![]),
                pod_verdict(2, Some("shop/cart-1"), State::Trusted, vec![]),
                pod_verdict(3, Some("shop/hostpath-tool"), State::PredatesCollector, vec![]),
                if round < 3 {
                    pod_verdict(4, Some("bank/ledger-0"), State::Trusted, vec![])
                } else {
                    pod_verdict(4, Some("bank/ledger-0"), State::Untrusted, vec![tampered()])
                },
            ];
            let mut findings = vec![];
            if round >= 4 {
                pods.push(pod_verdict(5, None, State::Unknown, vec![]));
                findings.push(unknown());
            }
            let time = START + u64::from(round) * 15;
            (
                evidence_of(partitions, checkpoints),
                verdict(time, pods, findings, u64::from(round) * 2 + 1),
            )
        })
        .collect()
}

fn rounds(story: &[(Evidence, Verdict)]) -> Vec<Round<'_>> {
    story
        .iter()
        .map(|(evidence, verdict)| Round {
            evidence: Some(evidence),
            verdict,
            time: verdict.time,
        })
        .collect()
}

fn page(story: &[(Evidence, Verdict)]) -> String {
    render(&rounds(story), &ReportOptions::new(START + 100))
}

/// Elements that are opened and closed alike; attributes' values cannot hold `<` or `>`.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("every < has its >");
        if tag.starts_with('!') || tag.ends_with('/') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
            continue;
        }
        let name = tag.split_whitespace().next().unwrap();
        if !["meta", "br", "link"].contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_story_of_the_demo_is_shown_and_the_page_is_well_formed() {
    let story = story();
    let page = page(&story);
    if let Some(path) = std::env::var_os("CGPATH_SAMPLE_REPORT") {
        std::fs::write(path, &page).unwrap();
    }
    assert_well_formed(&page);
    for text in [
        "Node worker-3",
        "dangerous-boot-not-judged",
        "bank/ledger-0",
        "/usr/bin/ledger",
        &sha256("evil").to_string(),
        &sha256("ledger").to_string(),
        &uid(5).to_string(),
        "already listed",
        "/usr/bin/containerd-shim-runc-v2",
        "predates collector",
        "restart",
        "round 6",
        "trusted → ",
    ] {
        assert!(page.contains(text), "{text} is missing");
    }
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let page = page(&story());
    let lower = page.to_ascii_lowercase();
    for banned in [
        "<script",
        "<link",
        "<img",
        "<iframe",
        "src=",
        "@import",
        "url(",
        "http:",
        "https:",
        "javascript:",
        "onclick",
    ] {
        assert!(!lower.contains(banned), "{banned}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn whatever_the_evidence_and_the_verdict_say_stays_text() {
    let attack = "\"'><script>alert(1)</script><a href=x onmouseover=y>\u{202e}\u{1b}[31m&lt;";
    let key = PartitionKey::Pod(uid(1));
    let mut bad = record(1, key, EventKind::Execution, attack, attack);
    bad.cgroup = Some(attack.as_bytes().to_vec());
    for ancestor in &mut bad.ancestry {
        ancestor.exe = attack.as_bytes().to_vec();
    }
    let mut raw = record(2, PartitionKey::Host, EventKind::Entry, "", "");
    raw.path = (0..=255).collect();
    let finding = Finding::fail(Rule::PodContents, Subject::Node, attack)
        .at_path(attack.as_bytes())
        .found(attack)
        .expected(attack)
        .at_seq(1);
    let mut pod = pod_verdict(1, Some(attack), State::Untrusted, vec![finding.clone()]);
    pod.told = Some(attack.to_owned());
    let mut verdict = verdict(START, vec![pod], vec![finding], 1);
    verdict.dangerous = vec![attack.to_owned()];
    verdict.relaxations = vec![attack.to_owned()];
    verdict.node.name = attack.to_owned();
    verdict.node.kernel = attack.to_owned();
    verdict.node.anchor = attack.to_owned();
    verdict.node.notes = vec![attack.to_owned()];
    let partitions = vec![
        PartitionLog {
            key,
            records: vec![bad],
        },
        PartitionLog {
            key: PartitionKey::Host,
            records: vec![raw],
        },
    ];
    let evidence = evidence_of(
        partitions,
        vec![
            checkpoint(0, 1, false, |c| c.hierarchy = attack.to_owned()),
            attack.as_bytes().to_vec(),
        ],
    );
    let page = page(&[(evidence, verdict)]);
    assert_well_formed(&page);
    assert!(
        !page.contains("<script>")
            && !page.contains("onmouseover=y>")
            && !page.contains('\u{202e}')
            && !page.contains('\u{1b}')
    );
    assert!(page.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn nothing_to_report_is_said() {
    let page = render(&[], &ReportOptions::new(START));
    assert_well_formed(&page);
    assert!(page.contains("No evidence"));
    let empty = (evidence_of(vec![], vec![]), verdict(START, vec![], vec![], 0));
    let page = render(&rounds(&[empty]), &ReportOptions::new(START));
    assert_well_formed(&page);
    assert!(page.contains("No pods were seen") && page.contains("No checkpoints"));
}

#[test]
fn what_is_left_out_is_counted_and_what_a_finding_names_is_not_left_out() {
    let key = PartitionKey::Pod(uid(1));
    let records = (0..20_000)
        .map(|i| record(i, key, EventKind::Execution, &format!("/bin/x{i}"), "x"))
        .collect();
    let finding = Finding::fail(Rule::PodContents, Subject::Partition(key), "bad").at_seq(19_999);
    let story = vec![(
        evidence_of(vec![PartitionLog { key, records }], vec![]),
        verdict(
            START,
            vec![pod_verdict(1, None, State::Untrusted, vec![finding])],
            vec![],
            0,
        ),
    )];
    let full = page(&story);
    assert!(full.contains("19\u{202f}499 more records are left out here"));
    assert!(
        full.contains("<td><code class=\"path\">/bin/x19999<")
            && !full.contains("<td><code class=\"path\">/bin/x19998<")
    );
    assert!(full.len() < 1024 * 1024, "{} bytes", full.len());
    // A thousand rounds do not make the page a thousand times as long.
    let many: Vec<Round<'_>> = rounds(&story).iter().copied().cycle().take(1000).collect();
    let long = render(&many, &ReportOptions::new(START + 100));
    assert!(
        long.contains("940 rounds left out"),
        "what is not shown is counted"
    );
    assert!(long.len() < full.len() + 200_000, "{} bytes", long.len());
}

#[test]
fn a_hostile_ancestry_neither_loops_nor_nests_without_end() {
    let key = PartitionKey::Pod(uid(1));
    // Each record hangs a new process below the last one's, and claims that the first is the last one's
    // child.
    let records = (1..5000u64)
        .map(|i| {
            let mut r = record(i, key, EventKind::Execution, "/x", "x");
            r.ancestry = vec![
                process(i as u32 + 1, "/x", ExeSource::Recorded),
                process(i as u32, "/x", ExeSource::Recorded),
                process(i as u32 + 1, "/x", ExeSource::Recorded),
            ];
            r
        })
        .collect();
    let story = [(
        evidence_of(vec![PartitionLog { key, records }], vec![]),
        verdict(
            START,
            vec![pod_verdict(1, None, State::Trusted, vec![])],
            vec![],
            0,
        ),
    )];
    let page = page(&story);
    assert_well_formed(&page);
    assert!(page.contains("more processes are left out here"));
}

#[test]
fn the_last_evidence_of_a_boot_is_enough_and_none_is_said() {
    let story = story();
    let mut some = rounds(&story);
    let last = some.len() - 1;
    for round in &mut some[..last] {
        round.evidence = None;
    }
    assert_eq!(render(&some, &ReportOptions::new(START + 100)), page(&story));
    some[last].evidence = None;
    let page = render(&some, &ReportOptions::new(START + 100));
    assert_well_formed(&page);
    assert!(page.contains("bank/ledger-0") && page.contains("The evidence is not kept any more"));
}

#[test]
fn a_change_long_ago_is_shown_among_a_thousand_rounds() {
    let story = story();
    let few = rounds(&story);
    // Nothing happens for long, then the story, then nothing happens for long.
    let mut many = vec![few[0]; 500];
    many.extend(&few);
    many.extend(vec![few[few.len() - 1]; 500]);
    let page = render(&many, &ReportOptions::new(START + 100));
    assert_well_formed(&page);
    let cells = |title: &str| page.matches(title).count();
    // Pod D became untrusted in round 504: that round and the one before it are columns.
    assert_eq!(cells("title=\"round 503: trusted\""), 4);
    assert!(cells("title=\"round 504: UNTRUSTED, V9") >= 1);
    assert_eq!(cells("title=\"round 1\u{202f}006:"), 6);
    assert!(
        page.contains("501 rounds left out") || page.contains("500 rounds left out"),
        "the quiet time is a gap"
    );
}

#[test]
fn what_the_index_says_of_a_pod_is_shown_and_where_nobody_asked_how_to_ask() {
    use cgpath_appraisal::ContainerVerdict;
    let container = ContainerVerdict {
        id: "ab".repeat(32),
        name: Some("<web>".to_owned()),
        sandbox: false,
        image: "one:1".to_owned(),
        references: vec![],
        listed: None,
        state: State::Trusted,
    };
    let named = PodVerdict {
        containers: vec![container],
        ..pod_verdict(1, Some("shop/web"), State::Trusted, vec![])
    };
    let pods = vec![named, pod_verdict(2, Some("shop/db"), State::Trusted, vec![])];
    let evidence = evidence_of(vec![], vec![]);
    let verdict = verdict(START, pods, vec![], 1);
    let rounds = [Round {
        evidence: Some(&evidence),
        verdict: &verdict,
        time: START,
    }];
    let options = ReportOptions::new(START + 100);
    let page = render(&rounds, &options);
    let ask = format!("cgpath identify --pod {} --node worker-3 --refs DIR", uid(1));
    assert!(page.contains(&ask) && page.contains("&lt;web&gt;"), "{page}");
    // Of a pod without containers nothing is offered.
    assert!(!page.contains(&format!("--pod {}", uid(2))));
    let part = |text: &str, is_clean| Identified {
        text: text.to_owned(),
        is_clean,
    };
    let parts = vec![part("all 14 files of <A>", true), part("3 others", false)];
    let page = render_identified(&rounds, &[(uid(1), parts)].into(), &options);
    assert!(!page.contains("cgpath identify"), "{page}");
    for row in [
        "<span class=\"yes\">✓</span> all 14 files of &lt;A&gt;<br>",
        "<span class=\"no\">✗</span> 3 others<br>",
    ] {
        assert!(page.contains(row), "{row}: {page}");
    }
}
