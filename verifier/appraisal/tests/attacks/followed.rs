//! What a verifier says that has followed a node is what it says of everything at once, also where the
//! question changes.

use super::{Life, Round, busy, conclude};
use cgpath_appraisal::{Context, ExpectedNonce, PinnedKey, Rule, appraise};
use cgpath_evidence::{EventKind, PodInfo};
use cgpath_testkit::{Actor, Measurement, Node, pod, sha256, tpm};
use p256::ecdsa::SigningKey;

fn named(node: &mut Node, name: &str) {
    node.pods = vec![PodInfo {
        uid: pod(9),
        namespace: "default".into(),
        name: name.into(),
    }];
}

#[test]
fn a_pod_that_nobody_knows_is_called_what_the_runtime_calls_it_now() {
    let mut life = Life::begin(busy());
    named(&mut life.node, "one");
    life.node
        .execute(&Actor::pod(pod(9), "/bin/any"), "/bin/any", &sha256(b"any"));
    life.round();
    named(&mut life.node, "two");
    let round = life.round();
    let mut wrong = Vec::from_iter(round.differs());
    for (way, verdict) in round.appraised.verdicts() {
        let mut named = verdict
            .failures()
            .filter(|finding| finding.rule == Rule::KnownPods);
        if named.all(|finding| !finding.text.contains("default/two")) {
            wrong.push(format!("{way} does not name default/two"));
        }
    }
    conclude("told-name", &wrong);
}

/// A round whose question `change` makes another one.
fn asked(life: &mut Life, change: impl FnOnce(&mut Context)) -> Result<Round, String> {
    let mut context = life.context();
    change(&mut context);
    let nonce = match &context.nonce {
        ExpectedNonce::Value(nonce) => nonce.clone(),
        ExpectedNonce::DangerousNone => Vec::new(),
    };
    let evidence = life.node.attest(&nonce);
    let appraised = life.ways.appraise(&evidence, &life.node.policy(), &context, &[]);
    life.rounds += 1;
    appraised.map_err(|why| why.to_string()).map(|appraised| Round {
        number: life.rounds,
        appraised,
        tenants: Vec::new(),
    })
}

#[test]
fn trust_on_first_use_is_repeated_whenever_it_begins() {
    let mut life = Life::begin(busy());
    let round = asked(&mut life, |context| context.key = PinnedKey::DangerousTofu).unwrap();
    let mut wrong = Vec::from_iter(round.differs());
    for (way, verdict) in round.appraised.verdicts() {
        if !verdict.dangerous.contains(&"dangerous-tofu".to_owned()) {
            wrong.push(format!("{way} does not repeat dangerous-tofu"));
        }
    }
    conclude("tofu-later", &wrong);
}

/// What gives no verdict when all is sent gives none when it is followed.
#[test]
fn a_question_that_makes_no_sense_has_no_verdict() {
    let mut wrong = Vec::new();
    for len in [0, 1, 7, 65] {
        let mut life = Life::begin(busy());
        let short = |context: &mut Context| context.nonce = ExpectedNonce::Value(vec![b'x'; len]);
        wrong.extend(no_verdict(&format!("a nonce of {len} bytes"), &mut life, short));
    }
    let mut life = Life::begin(busy());
    let other = |context: &mut Context| context.node = "worker-2".into();
    wrong.extend(no_verdict("another node's policy", &mut life, other));
    conclude("senseless-question", &wrong);
}

fn no_verdict(what: &str, life: &mut Life, change: impl FnOnce(&mut Context)) -> Option<String> {
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| asked(life, change).is_ok()));
    match asked {
        Ok(false) => None,
        Ok(true) => Some(format!("{what}: a verdict")),
        // `Ways` refuses a followed verdict where the whole has none.
        Err(_) => Some(format!("{what}: followed")),
    }
}

/// A kexec that the policy allows is one boot's step: the rounds after it are as good as it was.
#[test]
fn the_rounds_after_an_accepted_kexec_are_trusted() {
    let mut node = busy();
    node.extra_policy += "kexec: allow\n";
    // To the kernel that was started the pods' entries are older than its collector, and the host's to answer
    // for.
    for files in node.pod_files.values() {
        for (path, digests) in files {
            node.host_files
                .entry(path.clone())
                .or_default()
                .extend(digests.iter().cloned());
        }
    }
    let mut life = Life::begin(node);
    let mut wrong = Vec::new();
    for kernel in 1..=2 {
        kexec(&mut life.node, 64 * kernel);
        for n in 0..3 {
            life.node
                .execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
            let round = life.round();
            if !round.appraised.whole.trusted {
                wrong.push(format!("round {n} after kexec {kernel} is not trusted"));
            }
            wrong.extend(round.differs());
        }
    }
    conclude("after-a-kexec", &wrong);
}

/// The host's, of a content that nobody accepts.
fn impostor(number: u64) -> Measurement {
    let path = format!("{}{number}", cgpath_evidence::checkpoint::DIRECTORY);
    Measurement::ima_ng(path.as_bytes(), &sha256(b"anything"))
}

/// Reading a content under a checkpoint's name and then starting a kernel by kexec hides nothing: what
/// measured no checkpoint in its own boot is judged by its content ever after.
#[test]
fn a_checkpoints_name_alone_hides_nothing_behind_a_kexec() {
    let mut node = busy();
    node.extra_policy += "kexec: allow\n";
    for files in node.pod_files.values().cloned().collect::<Vec<_>>() {
        node.host_files.extend(files);
    }
    let mut wrong = Vec::new();
    for (case, is_older) in [("older than the load", true), ("newer", false)] {
        let mut life = Life::begin(node.clone());
        kexec(&mut life.node, 2);
        if is_older {
            life.node.list.push(impostor(0));
            kexec(&mut life.node, 3);
        } else {
            life.round();
            let path = format!("{}70", cgpath_evidence::checkpoint::DIRECTORY);
            life.node
                .execute(&Actor::host("/bin/any"), &path, &sha256(b"anything"));
        }
        for kernel in 4..8 {
            let round = life.round();
            wrong.extend(round.differs());
            for (way, verdict) in round.appraised.verdicts() {
                if verdict.node.state == cgpath_appraisal::State::Trusted {
                    wrong.push(format!("{case}, {way}, before kexec {kernel}: trusted"));
                }
            }
            kexec(&mut life.node, kernel);
        }
    }
    conclude("a-name-behind-a-kexec", &wrong);
}

/// Nor do more of them than are remembered one by one.
#[test]
fn more_names_of_checkpoints_than_are_remembered_hide_nothing_behind_a_kexec() {
    let mut node = busy();
    node.extra_policy += "kexec: allow\n";
    let many = cgpath_appraisal::MAX_IMPOSTORS as u64 + 9;
    let begin = node.list.len();
    node.list.extend((0..many).map(|number| impostor(number + 100)));
    kexec(&mut node, 2);
    let mut state = None;
    let mut last = 0;
    for kernel in 3..5 {
        let nonce = [b'0' + kernel; 16];
        let evidence = node.attest(&nonce);
        let verdict = appraise(&evidence, &node.policy(), &node.context(&nonce, state)).unwrap();
        assert_eq!(
            verdict.node.state,
            cgpath_appraisal::State::Untrusted,
            "{verdict}"
        );
        state = verdict.state;
        assert_eq!(
            state.as_ref().unwrap().impostors.len(),
            cgpath_appraisal::MAX_IMPOSTORS
        );
        last = verdict.node.fnf.len() as u64 + verdict.node.left_out.fnf;
        kexec(&mut node, kernel);
    }
    assert!(begin > 0 && last >= many, "{last} of {many}");
}

/// The list is carried over, and the new kernel begins with its own boot_aggregate.
fn kexec(node: &mut Node, boot: u8) {
    node.boot_id = [boot; 16];
    node.signing = SigningKey::from_slice(&[boot; 32]).unwrap();
    node.list
        .push(Measurement::ima_ng(b"boot_aggregate", &sha256(b"pcrs 0 to 9")));
    node.sealed.clear();
    node.load_again();
}

/// A first evidence with one bad item in it is not believed; that its TPM was here before is not forgotten
/// for that.
#[test]
fn a_clock_that_goes_back_behind_a_disbelieved_first_round_is_seen() {
    let mut node = busy();
    let lost = Actor::lost("/bin/app");
    node.record_execution(
        &lost,
        EventKind::Mapping,
        "/bin/app",
        cgpath_evidence::FileHash::Unhashed(0),
    );
    let nonce = b"the nonce of the first round";
    let evidence = node.attest(nonce);
    let first = appraise(&evidence, &node.policy(), &node.context(nonce, None)).unwrap();
    assert!(
        !first.trusted
            && first
                .pods
                .iter()
                .all(|pod| pod.state != cgpath_appraisal::State::Trusted)
    );

    // Another boot, honest as far as one can see, by a clock that went back.
    node.reboot();
    node.reset_count -= 1;
    node.clock = 5;
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let evidence = node.attest(b"the nonce of the second");
    assert!(first.state.is_none());
    let context = node.context(b"the nonce of the second", first.first_sight);
    let second = appraise(&evidence, &node.policy(), &context).unwrap();
    let mut wrong = Vec::new();
    if second.trusted {
        wrong.push("a clock that went back is trusted".into());
    }
    if second.failures().all(|finding| finding.rule != Rule::History) {
        wrong.push("no failure of V7".into());
    }
    conclude("memory-wiped", &wrong);
}

/// That its counters are remembered is all: what comes next is judged as the first that is believed.
#[test]
fn what_follows_a_disbelieved_first_round_in_the_same_boot_is_trusted_on_its_own() {
    let mut node = busy();
    let nonce = b"the nonce of the first round";
    let mut cut = node.attest(nonce);
    cut.list.pop();
    let first = appraise(&cut, &node.policy(), &node.context(nonce, None)).unwrap();
    assert!(first.state.is_none() && first.first_sight.is_some(), "{first}");
    let evidence = node.attest(b"the nonce of the second");
    let context = node.context(b"the nonce of the second", first.first_sight);
    let second = appraise(&evidence, &node.policy(), &context).unwrap();
    assert!(second.trusted, "{second}");
    assert!(second.state.is_some_and(|state| state.believed) && second.first_sight.is_none());

    // What no node's key signed is no observation of a node.
    let mut forged = node.attest(nonce);
    tpm(&mut forged.quote).signature[20] ^= 1;
    let forged = appraise(&forged, &node.policy(), &node.context(nonce, None)).unwrap();
    assert!(forged.state.is_none() && forged.first_sight.is_none());
}

/// And what is kept of a node is kept as it was believed: nothing of disbelieved evidence but that it was
/// seen.
#[test]
fn a_disbelieved_round_moves_neither_coverage_nor_chain() {
    let mut life = Life::begin(busy());
    let before = life.ways.state.clone().unwrap();
    life.node.blind = true;
    let round = life.round();
    assert!(!round.appraised.whole.trusted);
    if let Some(state) = &round.appraised.whole.state {
        assert_eq!(state.checkpoint, before.checkpoint);
        assert_eq!((state.covered, &state.pcrs), (before.covered, &before.pcrs));
    }
}
