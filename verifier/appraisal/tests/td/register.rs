//! V2 and V4 where a register binds the list: what it shows, and what it cannot.

use super::*;
use cgpath_evidence::boot::EventType;
use cgpath_evidence::td::{checkpoint_digest, log};
use cgpath_evidence::{Bank, Entry, SealedCheckpoint};
use cgpath_testkit::{IMA_POLICY, Measurement, sha256};

/// What it is called, and what is done to the list.
type Change = (&'static str, fn(&mut Vec<Entry>));

#[test]
fn an_entry_that_is_altered_removed_added_swapped_or_relabelled_is_found_by_the_lists_running_value() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let changes: [Change; 6] = [
        ("removed", |list| drop(list.remove(5))),
        ("added", |list| list.insert(5, list[4].clone())),
        ("swapped", |list| list.swap(5, 6)),
        ("altered", |list| {
            list[5] = Measurement::ima_ng(b"/usr/bin/tool", &sha256(b"other")).to_entry();
        }),
        ("relabelled", |list| {
            let Entry::Full(record) = &mut list[5] else {
                panic!()
            };
            let at = record.windows(6).position(|w| w == b"ima-ng").unwrap();
            record[at + 5] = b'h';
        }),
        ("cut", |list| list.truncate(list.len() - 1)),
    ];
    for (what, change) in changes {
        let mut evidence = good.clone();
        change(&mut evidence.list);
        let words = if what == "cut" || what == "removed" {
            "the list ends before"
        } else {
            "not the one that checkpoint"
        };
        let verdict = appraised(&node, &evidence);
        assert!(!verdict.trusted, "{what}: {verdict}");
        disbelieved(&verdict, Rule::Coverage, words);
    }
}

/// What nothing but its bytes binds: of a violation a template digest covers nothing.
#[test]
fn what_a_violation_says_is_bound_too() {
    let mut node = busy();
    node.extra_policy += "violations: { permit: ['/var/log/*'] }\n";
    node.violate(&Actor::host("/sbin/init"), "/var/log/some");
    let good = node.attest(NONCE);
    let verdict = appraised(&node, &good);
    assert!(verdict.trusted, "{verdict}");
    let mut evidence = good;
    let at = evidence.list.len() - 1;
    evidence.list[at] = Measurement::violation(b"/var/log/othe").to_entry();
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Coverage,
        "not the one that checkpoint",
    );
}

/// The limit of a register that the kernel itself does not extend.
#[test]
fn root_takes_an_entry_out_before_the_next_checkpoint() {
    let mut node = busy();
    let state = first_round(&mut node);
    // Executed, listed, and taken out with its records before a checkpoint bound it.
    let (len, waiting) = (node.list.len(), node.waiting.len());
    node.execute(
        &Actor::host("/sbin/init"),
        "/usr/bin/rootkit",
        &sha256(b"rootkit"),
    );
    node.list.truncate(len);
    node.waiting.truncate(waiting);
    node.seq -= 2;
    node.td.as_mut().unwrap().boottime += 50_000_000_000;
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    // Nothing shows it. The verdict says for how long nothing could have.
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.td.unwrap().unbound_ms, Some(51_000));
    // A checkpoint later it shows.
    let mut node = busy();
    node.execute(
        &Actor::host("/sbin/init"),
        "/usr/bin/rootkit",
        &sha256(b"rootkit"),
    );
    let mut evidence = node.attest(NONCE);
    evidence.list.pop();
    assert!(!appraised(&node, &evidence).node.believed);
}

#[test]
fn entries_behind_the_last_checkpoint_are_appraised_and_vouch_for_nothing() {
    let mut node = busy();
    node.seal(Some(NONCE));
    let quotes = node.quotes(NONCE);
    let before = node.evidence(quotes.clone());
    // Content that somebody may have.
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/containerd");
    let verdict = appraised(&node, &node.evidence(quotes.clone()));
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.td.as_ref().unwrap().unbound_entries, 1);
    assert_eq!(verdict.state.unwrap().covered, before.list.len() as u64);
    // Content that nobody may have, with its record and without.
    let mut named = node.clone();
    named.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/evil", &sha256(b"evil"));
    let verdict = appraised(&node, &named.evidence(quotes.clone()));
    assert!(!verdict.trusted && verdict.node.believed, "{verdict}");
    assert_eq!(verdict.pod(pod(2)).unwrap().state, State::Untrusted);
    assert_eq!(verdict.pod(pod(1)).unwrap().state, State::Trusted);
    let mut evidence = node.evidence(quotes.clone());
    evidence
        .list
        .push(Measurement::ima_ng(b"/bin/evil", &sha256(b"evil")).to_entry());
    let verdict = appraised(&node, &evidence);
    assert!(!verdict.trusted, "{verdict}");
    // Another template.
    let mut evidence = node.evidence(quotes);
    let Some(Entry::Full(record)) = evidence.list.last_mut() else {
        panic!()
    };
    let at = record.windows(6).position(|w| w == b"ima-ng").unwrap();
    record[at + 5] = b'h';
    disbelieved(&appraised(&node, &evidence), Rule::Template, "template");
}

#[test]
fn a_foundation_that_stands_only_behind_the_last_checkpoint_is_none() {
    let mut node = busy();
    let at = node.list.iter().position(|entry| {
        entry.to_entry()
            == Measurement::ima_ng(IMA_POLICY.as_bytes(), &sha256(IMA_POLICY.as_bytes())).to_entry()
    });
    let policy = node.list.remove(at.unwrap());
    let td = node.td.as_mut().unwrap();
    td.boot();
    node.checkpoints.clear();
    node.sealed.clear();
    node.waiting.clear();
    node.seq = 0;
    node.boot_len = node.list.len() as u64;
    node.seal(Some(NONCE));
    let quotes = node.quotes(NONCE);
    node.list.push(policy);
    let verdict = appraised(&node, &node.evidence(quotes));
    let mut failures = verdict.failures();
    assert!(
        failures.any(|f| f.rule == Rule::Host && f.text.contains("no accepted IMA policy")),
        "{verdict}"
    );
    // Nor is one that was listed behind checkpoint 1, with a record and bound by a later one.
    node.list.pop();
    node.seal(None);
    let content = sha256(IMA_POLICY.as_bytes());
    node.measure(&Actor::host("/sbin/init"), IMA_POLICY, &content);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    let mut failures = verdict.failures();
    assert!(
        failures.any(|f| f.rule == Rule::Host && f.text.contains("before checkpoint 1")),
        "{verdict}"
    );
}

#[test]
fn a_register_that_somebody_else_extended_is_refused_logged_or_not() {
    let mut node = busy();
    node.td.as_mut().unwrap().write(&[7; 48]);
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "extended by somebody else",
    );
    // Logged as the agent logs it.
    let mut node = busy();
    node.td.as_mut().unwrap().agent("domain operation content");
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Chain, "shared-register");
    assert!(
        !verdict.failures().any(|f| f.text.contains("does not lead to")),
        "{verdict}"
    );
    // Named by the policy, by its form or by its digest.
    let agent = log::read(&evidence.td.as_ref().unwrap().register_log).unwrap();
    let digest = agent
        .flatten()
        .find(|event| event.checkpoint().is_none())
        .unwrap()
        .digest;
    for named in [
        "  rtmr-writers: [attestation-agent]\n".to_owned(),
        format!("  rtmr-extensions: ['sha384:{}']\n", hex::encode(digest)),
    ] {
        let mut node = node.clone();
        node.td.as_mut().unwrap().policy += &named;
        let verdict = appraised(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert!(
            verdict.relaxations.iter().any(|r| r.starts_with("tdx.rtmr-")),
            "{:?}",
            verdict.relaxations
        );
    }
    // The agent's form with another digest is not the agent's; nor is another tag, or another kind of event.
    let (form, tag) = (b"LEAA\x01\0\0\0x", EventType::EVENT_TAG);
    let of = |data: &[u8]| -> [u8; 48] { Bank::Sha384.hash(&[data]).bytes().try_into().unwrap() };
    for (kind, digest, data, is_agents) in [
        (tag, of(form), form, true),
        (tag, [7; 48], form, false),
        (tag, of(b"LEAB\x01\0\0\0x"), b"LEAB\x01\0\0\0x", false),
        (EventType(7), of(form), form, false),
    ] {
        let mut node = busy();
        let td = node.td.as_mut().unwrap();
        td.policy += "  rtmr-writers: [attestation-agent]\n";
        log::append(&mut td.log, 3, kind, &digest, data);
        td.write(&digest);
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        assert_eq!(verdict.trusted, is_agents, "{verdict}");
        if !is_agents {
            disbelieved(&verdict, Rule::Chain, "shared-register");
        }
    }
}

#[test]
fn extensions_by_strangers_are_named_as_far_as_a_reader_reads_and_counted_beyond() {
    for (many, more) in [
        (8, None),
        (9, Some("1 more extension")),
        (12, Some("4 more extension")),
    ] {
        let mut node = busy();
        (0..many).for_each(|n| node.td.as_mut().unwrap().agent(&format!("content {n}")));
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        let named = verdict.failures().filter(|f| f.text.contains("shared-register"));
        assert_eq!(named.count(), 8, "{verdict}");
        let counted = verdict.failures().find(|f| f.text.contains("more extension"));
        let is_it = |finding: &Finding| more.is_some_and(|more| finding.text.starts_with(more));
        assert_eq!(counted.is_some(), more.is_some(), "{verdict}");
        assert!(counted.is_none_or(is_it), "{verdict}");
    }
}

#[test]
fn a_redacted_entry_is_bound_by_nothing_and_named_by_its_index() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    evidence.list[5] = Entry::Opaque {
        pcr: 10,
        digests: vec![node.list[5].digest(Bank::Sha1), node.list[5].digest(Bank::Sha256)],
        hash: None,
    };
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Coverage, "a redacted entry");
    assert_eq!(finding.index, Some(5));
}

#[test]
fn a_log_without_its_extension_and_an_extension_without_its_log_are_refused() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let last = good.checkpoints.len() as u64 - 1;
    let whole = good.td.as_ref().unwrap().register_log.clone();
    let end = log::end_of(&whole, last - 1).unwrap().unwrap();
    let with = |register_log: Vec<u8>| {
        let mut evidence = good.clone();
        evidence.td.as_mut().unwrap().register_log = register_log;
        appraised(&node, &evidence)
    };
    // Without the last one; with it twice; in another order; with nothing; with what cannot be read.
    let verdict = with(whole[..end].to_vec());
    disbelieved(&verdict, Rule::Chain, "never extended the register");
    disbelieved(&verdict, Rule::Chain, "does not lead to");
    let twice = [&whole[..], &whole[end..]].concat();
    disbelieved(&with(twice), Rule::Chain, "not the next one");
    let swapped = [&whole[end..], &whole[..end]].concat();
    disbelieved(&with(swapped), Rule::Chain, "not the next one");
    disbelieved(&with(Vec::new()), Rule::Chain, "never extended the register");
    disbelieved(&with(whole[..end + 9].to_vec()), Rule::Chain, "cannot be read");
    // Another file's digest under its number, and an extension of another register.
    let mut other = whole[..end].to_vec();
    log::append_checkpoint(&mut other, 3, last, &checkpoint_digest(b"another file"));
    disbelieved(&with(other), Rule::Chain, "another file");
    let mut other = whole.clone();
    log::append_checkpoint(&mut other, 2, last, &[0; 48]);
    disbelieved(&with(other), Rule::Chain, "another register");
    // No log at all.
    let mut evidence = good.clone();
    evidence.td = None;
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "no log of the register",
    );
    // A checkpoint that was never written, and none at all.
    let mut evidence = good.clone();
    evidence.checkpoints.pop();
    assert!(!appraised(&node, &evidence).node.believed);
    let mut evidence = good;
    evidence.checkpoints.clear();
    assert!(!appraised(&node, &evidence).node.believed);
}

#[test]
fn what_the_register_held_before_checkpoint_0_is_the_policys_to_accept() {
    let mut domain = domain();
    domain.write(&[0x0e; 48]);
    domain.origin = domain.body.rtmrs[3];
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
    // Booting anew sets registers back; the operator's key is measured after that.
    let td = node.td.as_mut().unwrap();
    td.boot();
    td.write(&[0x0e; 48]);
    td.origin = td.body.rtmrs[3];
    node.load();
    run(&mut node);
    let evidence = node.attest(NONCE);
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Chain, "before checkpoint 0");
    let origin = format!("sha384:{}", hex::encode(node.td.as_ref().unwrap().origin));
    assert_eq!(finding.found.as_ref(), Some(&origin));
    node.td.as_mut().unwrap().policy += &format!("  rtmr-origin: ['{origin}']\n");
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert!(
        verdict
            .relaxations
            .contains(&format!("tdx.rtmr-origin: {origin}"))
    );
    // An origin that only the checkpoint claims.
    let mut node = busy();
    let td = node.td.as_mut().unwrap();
    td.boot();
    td.origin = [0x0e; 48];
    td.policy += &format!("  rtmr-origin: ['sha384:{}']\n", "0e".repeat(48));
    node.load();
    run(&mut node);
    let evidence = node.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Chain, "does not lead to");
}

#[test]
fn checkpoints_that_bind_nothing_or_go_back_in_time_are_refused() {
    let sealed = |change: fn(&mut cgpath_evidence::Checkpoint)| {
        let mut node = busy();
        node.seal_with(None, change);
        let evidence = node.attest(NONCE);
        appraised(&node, &evidence)
    };
    disbelieved(&sealed(|c| c.binding = None), Rule::Chain, "no running value");
    disbelieved(
        &sealed(|c| c.binding.as_mut().unwrap().sealed_ns = 1),
        Rule::Chain,
        "went back",
    );
    // A clock may stand still.
    let mut node = busy();
    let boottime = node.checkpoints[0].checkpoint.binding.as_ref().unwrap().sealed_ns;
    node.seal_with(None, |c| c.binding.as_mut().unwrap().sealed_ns = boottime);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    let origin = sealed(|c| {
        c.binding.as_mut().unwrap().origin = Some(cgpath_evidence::td::Origin {
            register: 3,
            value: [0; 48],
            node_key: [2; 33],
        });
    });
    disbelieved(&origin, Rule::Chain, "only checkpoint 0 may");
    // Of another register than the policy's anchor.
    let mut domain = domain();
    domain.rtmr = 2;
    domain.boot();
    let mut node = busy_in(domain, false);
    let evidence = node.attest(NONCE);
    node.td.as_mut().unwrap().rtmr = 3;
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "another register than the policy's anchor",
    );
}

#[test]
fn what_was_bound_before_is_the_same_in_the_next_round_and_never_less() {
    let mut node = busy();
    let state = first_round(&mut node);
    let earlier = node.clone();
    run(&mut node);
    let good = node.attest(NEXT);
    assert!(appraised_next(&node, &good, &state).trusted);
    // Another list was bound up to there.
    let mut past = state.clone();
    past.td.as_mut().unwrap().list[0] ^= 1;
    let verdict = appraised_next(&node, &good, &past);
    disbelieved(&verdict, Rule::Chain, "bound before");
    // A round of before, with its own nonce.
    let mut replayed = earlier;
    let evidence = replayed.attest(NEXT);
    let later = appraised_next(&node, &good, &state).state.unwrap();
    let context = Context {
        previous: Some(later),
        ..node.context(NEXT, None)
    };
    assert!(!appraise_in(&node, &evidence, &context).node.believed);
    assert!(SealedCheckpoint::from_file(&evidence.checkpoints[0]).is_ok());
}
