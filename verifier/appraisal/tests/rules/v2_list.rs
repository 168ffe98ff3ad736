//! V2: the list and the registers that it replays to.

use super::*;

#[test]
fn an_altered_entry_is_found_by_its_index() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    let Entry::Full(record) = &mut evidence.list[5] else {
        panic!()
    };
    *record.last_mut().unwrap() = b'x';
    record.push(0);
    disbelieved(&appraised(&node, &evidence), Rule::Coverage, "");
    let mut evidence = node.evidence(evidence.quote);
    evidence.list[5] = Measurement::ima_ng(b"/usr/bin/tool", &sha256(b"other")).to_entry();
    disbelieved(&appraised(&node, &evidence), Rule::Coverage, "no prefix");
}

#[test]
fn an_entry_that_shows_another_digest_than_its_own_is_refused_though_it_replays() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    let Entry::Full(record) = &mut evidence.list[5] else {
        panic!()
    };
    record[4] ^= 1;
    let finding = disbelieved(
        &appraised(&node, &evidence),
        Rule::Coverage,
        "not that of the entry's own bytes",
    );
    assert_eq!(finding.index, Some(5));
}

#[test]
fn dropped_reordered_and_doubled_entries_are_refused() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let mut dropped = good.clone();
    dropped.list.remove(6);
    let mut reordered = good.clone();
    reordered.list.swap(6, 7);
    let mut doubled = good.clone();
    doubled.list.insert(6, good.list[6].clone());
    for evidence in [dropped, reordered] {
        disbelieved(&appraised(&node, &evidence), Rule::Coverage, "no prefix");
    }
    disbelieved(&appraised(&node, &doubled), Rule::Coverage, "extend-lost");
}

#[test]
fn an_entry_listed_but_never_extended_is_named() {
    let mut node = busy();
    node.never_extended.insert(6);
    let evidence = node.attest(NONCE);
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Coverage, "extend-lost");
    assert_eq!(finding.index, Some(6));
}

#[test]
fn extends_that_are_not_in_the_list_are_refused() {
    let mut node = busy();
    node.seal(Some(NONCE));
    let list = node.list.clone();
    node.list
        .insert(6, Measurement::ima_ng(b"/secret", &sha256(b"secret")));
    let quote = node.quote(NONCE);
    node.list = list;
    let evidence = node.evidence(quote);
    disbelieved(&appraised(&node, &evidence), Rule::Coverage, "no prefix");
}

#[test]
fn a_list_ahead_of_the_quote_is_fine_and_what_is_ahead_is_not_covered() {
    let mut node = busy();
    node.seal(Some(NONCE));
    let quote = node.quote(NONCE);
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/evil", &sha256(b"evil"));
    let evidence = node.evidence(quote);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.covered + 1, verdict.node.entries);
}

#[test]
fn a_bank_that_the_policy_wants_must_be_quoted() {
    let mut node = busy();
    node.accept_banks = "[sha256, sha384]".into();
    let evidence = node.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Coverage, "sha384");
    let mut node = busy();
    node.accept_banks = "[sha256, sha384]".into();
    node.banks = vec![Bank::Sha384, Bank::Sha1, Bank::Sha256];
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted);
    // The third one is named, and fails nothing.
    let also = verdict
        .node
        .findings
        .iter()
        .filter(|f| f.text.contains("also quoted"));
    let also: Vec<&str> = also.map(|finding| finding.text.as_str()).collect();
    assert!(
        matches!(also.as_slice(), [one] if one.contains("bank sha1,")),
        "{also:?}"
    );
}

#[test]
fn a_padded_bank_is_recognised_and_the_policy_decides() {
    let mut node = busy();
    node.banks = vec![Bank::Sha256, Bank::Sha512];
    node.accept_banks = "[sha512]".into();
    node.padded.insert(Bank::Sha512);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Coverage, "padded SHA-1 in the bank sha512");
    assert!(
        verdict.node.anchor.contains("sha512, padded sha1"),
        "{}",
        verdict.node.anchor
    );
    node.extra_policy += "padded-banks: report\n";
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert!(verdict.relaxations.contains(&"padded-banks: report".to_owned()));
}

/// Before Linux 5.8 all banks but SHA-1 had a padded SHA-1, also for a violation.
#[test]
fn what_an_old_kernel_extends_for_a_violation_is_recognised_as_padded() {
    let mut node = busy();
    node.banks = vec![Bank::Sha1, Bank::Sha256];
    node.padded.insert(Bank::Sha256);
    node.extra_policy += "padded-banks: report\nviolations: {permit: ['/var/log/**']}\n";
    node.violate(&Actor::host("/sbin/init"), "/var/log/wtmp");
    node.seal(Some(NONCE));
    let list = node.list.clone();
    let quoted = |bank: Bank, of_violation: &[u8]| {
        list.iter().fold(Digest::zero(bank), |pcr, entry| {
            let mut bytes = match entry.violation {
                true => of_violation.to_vec(),
                false => entry.digest(Bank::Sha1).bytes().to_vec(),
            };
            bytes.resize(bank.len(), 0);
            pcr.extend(&Digest::new(bank, &bytes).unwrap())
        })
    };
    let ones = [0xff; 32];
    let mut appraised = |of_violation: &[u8]| {
        let values = [
            quoted(Bank::Sha1, &ones[..20]),
            quoted(Bank::Sha256, of_violation),
        ];
        let quote = node.quote_with(NONCE, |attest| {
            let digest = Bank::Sha256.hash(&[values[0].bytes(), values[1].bytes()]);
            attest.pcr_digest = digest.bytes().to_vec();
        });
        let evidence = node.evidence(quote);
        super::appraised(&node, &evidence)
    };
    for ones in [&ones[..20], &ones] {
        let verdict = appraised(ones);
        assert!(verdict.trusted, "{verdict}");
        assert!(
            verdict.node.anchor.contains("sha256, padded sha1"),
            "{}",
            verdict.node.anchor
        );
    }
    disbelieved(&appraised(&ones[..21]), Rule::Coverage, "no prefix");
}

#[test]
fn an_entry_of_a_register_that_is_not_quoted_is_refused() {
    let mut node = busy();
    let at = node.list.len();
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/runc");
    let evidence = {
        node.list[at].pcr = 11;
        for (_, record) in &mut node.waiting {
            if record.path == b"/usr/bin/runc" && record.kind == EventKind::Entry {
                record.pcr = 11;
            }
        }
        node.seal(Some(NONCE));
        // Only what extends PCR 10 is in the quoted value.
        node.never_extended.insert(at);
        let quote = node.quote(NONCE);
        node.evidence(quote)
    };
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Coverage, "not quoted");
    assert_eq!(finding.index, Some(at as u64));
}

#[test]
fn a_zeroed_digest_makes_no_violation() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    let Entry::Full(record) = &mut evidence.list[6] else {
        panic!()
    };
    record[4..24].fill(0);
    disbelieved(&appraised(&node, &evidence), Rule::Coverage, "");
}
