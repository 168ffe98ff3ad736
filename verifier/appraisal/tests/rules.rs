//! Must-fail tests: one interference for each property, by the number of the rule that must notice it.
//!
//! Each starts from a node that is trusted and ends in a verdict that is not, for the reason that is meant.

use cgpath_appraisal::{
    Context, ExpectedNonce, Finding, NodeState, PinnedKey, Rule, Severity, State, Subject, Unusable, Verdict,
    appraise,
};
use cgpath_evidence::{
    Bank, Digest, Entry, EventKind, Evidence, FileHash, GuardAction, GuardMode, Losses, PartitionKey,
    PodLoss, SealedCheckpoint, Tier,
};
use cgpath_policy::Policy;
use cgpath_testkit::{
    Actor, AttestationKey, COLLECTOR, GOOD_ATTRIBUTES, IMA_POLICY, KeyKind, Measurement, Node, pod, sha256,
    tpm,
};

const NONCE: &[u8] = b"the nonce of this request";
const NEXT: &[u8] = b"the nonce of the next one";

/// Pods 1 to 4 and the host have run what they may.
fn busy() -> Node {
    Node::busy(KeyKind::EcdsaP256)
}

fn judge(node: &Node, evidence: &Evidence) -> Verdict {
    appraise(evidence, &node.policy(), &node.context(NONCE, None)).unwrap()
}

fn judge_next(node: &Node, evidence: &Evidence, before: &NodeState) -> Verdict {
    appraise(
        evidence,
        &node.policy(),
        &node.context(NEXT, Some(before.clone())),
    )
    .unwrap()
}

/// A first round that is trusted, and what to remember of it.
fn first_round(node: &mut Node) -> NodeState {
    let evidence = node.attest(NONCE);
    let verdict = judge(node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    verdict.state.unwrap()
}

#[track_caller]
fn fails(verdict: &Verdict, rule: Rule, words: &str) -> Finding {
    let found = verdict
        .failures()
        .find(|f| f.rule == rule && f.text.contains(words))
        .cloned();
    assert!(!verdict.trusted, "trusted though {rule} must fail:\n{verdict}");
    found.unwrap_or_else(|| panic!("no failure of {rule} that says {words:?}:\n{verdict}"))
}

/// The node fails and so does every pod: nothing of the evidence is to be believed.
#[track_caller]
fn disbelieved(verdict: &Verdict, rule: Rule, words: &str) -> Finding {
    let finding = fails(verdict, rule, words);
    assert_eq!(verdict.node.state, State::Untrusted);
    assert!(
        verdict.pods.iter().all(|p| p.state != State::Trusted),
        "{verdict}"
    );
    assert!(
        verdict.state.is_none(),
        "what is not believed must not be remembered"
    );
    finding
}

/// The pods' states in the order of their UIDs.
fn states(verdict: &Verdict) -> Vec<State> {
    verdict.pods.iter().map(|p| p.state).collect()
}

mod v1_quote {
    use super::*;

    #[test]
    fn a_nonce_of_another_request_is_refused() {
        let mut node = busy();
        let evidence = node.attest(b"the nonce of another one");
        disbelieved(&judge(&node, &evidence), Rule::Quote, "not made for this request");
        fails(&judge(&node, &evidence), Rule::Chain, "not made for this request");
    }

    #[test]
    fn evidence_that_was_good_once_is_not_good_for_the_next_nonce() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let state = judge(&node, &evidence).state.unwrap();
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::Quote,
            "not made for this request",
        );
    }

    #[test]
    fn another_key_than_the_pinned_one_is_refused_with_both_fingerprints() {
        let mut node = busy();
        let context = node.context(NONCE, None);
        let expected = hex::encode(node.ak.name());
        node.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
        let evidence = node.attest(NONCE);
        let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
        let finding = disbelieved(&verdict, Rule::Quote, "another key");
        assert_eq!(finding.found, Some(hex::encode(node.ak.name())));
        assert_eq!(finding.expected, [expected]);
    }

    #[test]
    fn a_key_pinned_by_its_name_is_as_good_as_the_key_itself_and_another_name_is_not() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let mut context = node.context(NONCE, None);
        context.key = PinnedKey::from_fingerprint(&hex::encode(node.ak.name())).unwrap();
        assert!(appraise(&evidence, &node.policy(), &context).unwrap().trusted);
        context.key = PinnedKey::Name(AttestationKey::new(KeyKind::EcdsaP256, 2).name());
        disbelieved(
            &appraise(&evidence, &node.policy(), &context).unwrap(),
            Rule::Quote,
            "another key",
        );
    }

    #[test]
    fn each_attribute_that_an_attestation_key_needs_is_needed() {
        let needed = [
            (1, "fixedTPM"),
            (4, "fixedParent"),
            (5, "sensitiveDataOrigin"),
            (16, "restricted"),
            (18, "sign"),
        ];
        for (bit, name) in needed {
            let mut node = busy();
            node.ak.attributes = GOOD_ATTRIBUTES & !(1 << bit);
            let evidence = node.attest(NONCE);
            disbelieved(&judge(&node, &evidence), Rule::Quote, name);
        }
    }

    #[test]
    fn a_key_that_also_decrypts_is_refused() {
        let mut node = busy();
        node.ak.attributes |= 1 << 17;
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Quote, "decrypt");
    }

    #[test]
    fn a_signature_over_something_else_is_refused_whatever_the_scheme() {
        for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048, KeyKind::Rsapss2048] {
            let mut node = Node::boot(kind);
            let mut evidence = node.attest(NONCE);
            tpm(&mut evidence.quote).signature = node.ak.sign(b"something else");
            disbelieved(&judge(&node, &evidence), Rule::Quote, "signature");
        }
    }

    #[test]
    fn a_signature_by_another_scheme_than_the_keys_own_is_refused() {
        let mut node = Node::boot(KeyKind::Rsassa2048);
        let mut evidence = node.attest(NONCE);
        let quote = tpm(&mut evidence.quote);
        quote.signature = AttestationKey::new(KeyKind::Rsapss2048, 1).sign(&quote.attest);
        disbelieved(&judge(&node, &evidence), Rule::Quote, "scheme");
    }

    #[test]
    fn a_structure_that_no_tpm_made_is_no_quote_though_the_key_signed_it() {
        for change in [
            |a: &mut cgpath_testkit::Attest| a.magic = 0,
            |a: &mut cgpath_testkit::Attest| a.kind = 0x8017,
        ] {
            let mut node = busy();
            node.seal(Some(NONCE));
            let quote = node.quote_with(NONCE, change);
            let evidence = node.evidence(quote);
            disbelieved(&judge(&node, &evidence), Rule::Quote, "not a TPM's quote");
        }
    }

    #[test]
    fn a_quote_of_other_registers_than_pcr_10_is_refused() {
        for registers in [vec![], vec![11], vec![10, 11]] {
            let mut node = busy();
            node.seal(Some(NONCE));
            let quote = node.quote_with(NONCE, |a| a.selection = vec![(Bank::Sha256, registers.clone())]);
            let evidence = node.evidence(quote);
            disbelieved(&judge(&node, &evidence), Rule::Quote, "PCR 10");
        }
    }

    #[test]
    fn trust_on_first_use_is_repeated_and_is_for_the_first_use_only() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let mut context = node.context(NONCE, None);
        context.key = PinnedKey::DangerousTofu;
        let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
        assert!(verdict.trusted);
        assert!(verdict.dangerous.contains(&"dangerous-tofu".to_owned()));
        assert!(verdict.to_string().contains("DANGEROUS: dangerous-tofu"));

        node.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
        let evidence = node.attest(NEXT);
        let context = Context {
            key: PinnedKey::DangerousTofu,
            ..node.context(NEXT, verdict.state)
        };
        disbelieved(
            &appraise(&evidence, &node.policy(), &context).unwrap(),
            Rule::Quote,
            "another key",
        );
    }

    #[test]
    fn evidence_without_a_nonce_is_taken_only_with_the_dangerous_key_which_is_repeated() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let context = Context {
            nonce: ExpectedNonce::DangerousNone,
            ..node.context(NONCE, None)
        };
        let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
        assert!(verdict.trusted && verdict.dangerous.contains(&"dangerous-no-nonce".to_owned()));
    }

    #[test]
    fn questions_that_make_no_sense_are_unusable() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let ask = |change: &dyn Fn(&mut Context)| {
            let mut context = node.context(NONCE, None);
            change(&mut context);
            appraise(&evidence, &node.policy(), &context).unwrap_err()
        };
        assert!(matches!(
            ask(&|c| c.node = "other".into()),
            Unusable::OtherNode { .. }
        ));
        assert!(matches!(
            ask(&|c| c.nonce = ExpectedNonce::Value(vec![1; 7])),
            Unusable::Nonce { len: 7 }
        ));
        assert!(matches!(
            ask(&|c| c.nonce = ExpectedNonce::Value(vec![1; 65])),
            Unusable::Nonce { len: 65 }
        ));
        assert!(matches!(
            ask(&|c| c.key = PinnedKey::Public(vec![1, 2])),
            Unusable::PinnedKey(_)
        ));
        assert!(matches!(
            ask(&|c| c.key = PinnedKey::Name(vec![0, 0x0b])),
            Unusable::PinnedKey(_)
        ));
    }
}

mod v2_list {
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
        disbelieved(&judge(&node, &evidence), Rule::Coverage, "");
        let mut evidence = node.evidence(evidence.quote);
        evidence.list[5] = Measurement::ima_ng(b"/usr/bin/tool", &sha256(b"other")).to_entry();
        disbelieved(&judge(&node, &evidence), Rule::Coverage, "no prefix");
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
            &judge(&node, &evidence),
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
            disbelieved(&judge(&node, &evidence), Rule::Coverage, "no prefix");
        }
        disbelieved(&judge(&node, &doubled), Rule::Coverage, "extend-lost");
    }

    #[test]
    fn an_entry_listed_but_never_extended_is_named() {
        let mut node = busy();
        node.never_extended.insert(6);
        let evidence = node.attest(NONCE);
        let finding = disbelieved(&judge(&node, &evidence), Rule::Coverage, "extend-lost");
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
        disbelieved(&judge(&node, &evidence), Rule::Coverage, "no prefix");
    }

    #[test]
    fn a_list_ahead_of_the_quote_is_fine_and_what_is_ahead_is_not_covered() {
        let mut node = busy();
        node.seal(Some(NONCE));
        let quote = node.quote(NONCE);
        node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/evil", &sha256(b"evil"));
        let evidence = node.evidence(quote);
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(verdict.node.covered + 1, verdict.node.entries);
    }

    #[test]
    fn a_bank_that_the_policy_wants_must_be_quoted() {
        let mut node = busy();
        node.accept_banks = "[sha256, sha384]".into();
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Coverage, "sha384");
        let mut node = busy();
        node.accept_banks = "[sha256, sha384]".into();
        node.banks = vec![Bank::Sha384, Bank::Sha1, Bank::Sha256];
        let evidence = node.attest(NONCE);
        assert!(judge(&node, &evidence).trusted);
    }

    #[test]
    fn a_padded_bank_is_recognised_and_the_policy_decides() {
        let mut node = busy();
        node.banks = vec![Bank::Sha256, Bank::Sha512];
        node.accept_banks = "[sha512]".into();
        node.padded.insert(Bank::Sha512);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        disbelieved(&verdict, Rule::Coverage, "padded SHA-1 in the bank sha512");
        assert!(
            verdict.node.anchor.contains("sha512, padded sha1"),
            "{}",
            verdict.node.anchor
        );
        node.extra_policy += "padded-banks: report\n";
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert!(verdict.relaxations.contains(&"padded-banks: report".to_owned()));
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
        disbelieved(&judge(&node, &evidence), Rule::Coverage, "not quoted");
    }

    #[test]
    fn a_zeroed_digest_makes_no_violation() {
        let mut node = busy();
        let mut evidence = node.attest(NONCE);
        let Entry::Full(record) = &mut evidence.list[6] else {
            panic!()
        };
        record[4..24].fill(0);
        disbelieved(&judge(&node, &evidence), Rule::Coverage, "");
    }
}

mod v3_template {
    use super::*;

    #[test]
    fn a_relabelled_template_is_refused_though_it_replays() {
        let mut node = busy();
        let mut evidence = node.attest(NONCE);
        let Entry::Full(record) = &mut evidence.list[6] else {
            panic!()
        };
        // A field list of the same shape: same data, same digest, another name.
        let name = b"d-ng|n-ng";
        let mut relabelled = record[..24].to_vec();
        relabelled.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        relabelled.extend(name);
        relabelled.extend(&record[24 + 4 + "ima-ng".len()..]);
        *record = relabelled;
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.covered, verdict.node.entries, "it replays");
        let finding = disbelieved(&verdict, Rule::Template, "not one that the policy pins");
        assert_eq!(finding.index, Some(6));
    }

    #[test]
    fn a_redacted_entry_is_not_enough_to_judge_a_node_by() {
        let mut node = busy();
        let mut evidence = node.attest(NONCE);
        evidence.list[6] = Entry::Opaque {
            pcr: 10,
            digests: vec![node.list[6].digest(Bank::Sha1), node.list[6].digest(Bank::Sha256)],
        };
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.covered, verdict.node.entries, "it replays");
        disbelieved(&verdict, Rule::Template, "redacted");
    }

    #[test]
    fn the_kernel_tier_can_not_be_claimed_for_a_list_without_its_template() {
        let mut node = busy();
        node.accept_templates = "[ima-ng]".into();
        let mut evidence = node.attest(NONCE);
        evidence.tier = Tier::Kernel;
        node.tier = Tier::Kernel;
        disbelieved(&judge(&node, &evidence), Rule::Template, "claims the kernel tier");
    }
}

mod v4_checkpoints {
    use super::*;

    /// Two checkpoints without a nonce between checkpoint 0 and the last one.
    fn long() -> Node {
        let mut node = busy();
        node.seal(None);
        node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
        node.seal(None);
        node
    }

    #[test]
    fn a_dropped_a_doubled_and_a_reordered_checkpoint_are_refused() {
        let mut node = long();
        let good = node.attest(NONCE);
        assert!(judge(&node, &good).trusted);
        let mut dropped = good.clone();
        dropped.checkpoints.remove(1);
        let mut doubled = good.clone();
        doubled.checkpoints.insert(1, good.checkpoints[1].clone());
        let mut reordered = good.clone();
        reordered.checkpoints.swap(1, 2);
        for evidence in [dropped, doubled, reordered] {
            disbelieved(&judge(&node, &evidence), Rule::Chain, "numbered");
        }
        let mut without_last = good.clone();
        without_last.checkpoints.pop();
        disbelieved(
            &judge(&node, &without_last),
            Rule::Chain,
            "not made for this request",
        );
        let mut without_first = good;
        without_first.checkpoints.remove(0);
        disbelieved(&judge(&node, &without_first), Rule::Chain, "key");
    }

    #[test]
    fn a_fork_shows_the_second_file_of_one_number() {
        let mut node = busy();
        let fork = SealedCheckpoint::seal(node.draft(Some(b"some other nonce")), &node.signing);
        node.seal(None);
        node.anchor(&fork);
        let evidence = node.attest(NONCE);
        let finding = disbelieved(&judge(&node, &evidence), Rule::Chain, "forked");
        assert!(finding.path.unwrap().ends_with(b"/checkpoint/1"));
    }

    #[test]
    fn a_checkpoint_that_was_swapped_after_it_was_measured_is_refused() {
        let mut node = long();
        let mut evidence = node.attest(NONCE);
        let mut other = node.checkpoints[1].checkpoint.clone();
        other.starts = 9;
        evidence.checkpoints[1] = SealedCheckpoint::seal(other, &node.signing).file;
        let verdict = judge(&node, &evidence);
        disbelieved(&verdict, Rule::Chain, "does not stand in the covered part");
        fails(&verdict, Rule::Chain, "as its predecessor");
    }

    #[test]
    fn a_checkpoint_that_another_key_signed_is_refused() {
        let mut node = busy();
        node.signing = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let evidence = node.attest(NONCE);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Chain,
            "not signed by the key of checkpoint 0",
        );
    }

    #[test]
    fn a_last_checkpoint_with_no_nonce_or_another_is_refused() {
        for nonce in [None, Some(&b"another nonce"[..])] {
            let mut node = busy();
            node.seal(nonce);
            let quote = node.quote(NONCE);
            let evidence = node.evidence(quote);
            disbelieved(&judge(&node, &evidence), Rule::Chain, "not made for this request");
        }
    }

    #[test]
    fn a_last_checkpoint_that_the_quote_does_not_cover_is_refused() {
        let mut node = busy();
        let quote = node.quote(NONCE);
        node.seal(Some(NONCE));
        let evidence = node.evidence(quote);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Chain,
            "does not stand in the covered part",
        );
    }

    #[test]
    fn a_frozen_register_fails_since_the_new_checkpoint_is_not_in_it() {
        let mut node = busy();
        let state = first_round(&mut node);
        let frozen = node.list.len();
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        node.seal(Some(NEXT));
        node.never_extended.extend(frozen..node.list.len());
        let quote = node.quote(NEXT);
        let evidence = node.evidence(quote);
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::Chain,
            "does not stand in the covered part",
        );
    }

    #[test]
    fn checkpoints_are_the_collectors_and_nobody_elses() {
        for actor in [Actor::host("/usr/bin/tool"), Actor::pod(pod(1), COLLECTOR)] {
            let mut node = busy();
            for (key, record) in std::mem::take(&mut node.waiting) {
                node.sealed.entry(key).or_default().push(record);
            }
            let sealed = SealedCheckpoint::seal(node.draft(None), &node.signing);
            node.measure(
                &actor,
                format!("{}1", cgpath_evidence::checkpoint::DIRECTORY),
                &sha256(&sealed.file),
            );
            node.checkpoints.push(sealed);
            let evidence = node.attest(NONCE);
            disbelieved(
                &judge(&node, &evidence),
                Rule::Chain,
                "not read into the list by the collector",
            );
        }
    }

    #[test]
    fn a_checkpoint_shaped_entry_of_a_pod_is_charged_to_that_pod_alone() {
        let mut node = busy();
        let path = format!("{}1", cgpath_evidence::checkpoint::DIRECTORY);
        node.measure(
            &Actor::pod(pod(2), "/bin/app"),
            &path,
            &sha256(b"not a checkpoint"),
        );
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
        );
    }

    #[test]
    fn totals_that_go_back_are_refused() {
        type Change = fn(&mut cgpath_evidence::Checkpoint);
        let changes: [(Change, &str); 7] = [
            (|c| c.list_len = 1, "length of the list"),
            (|c| c.settled = 0, "settled"),
            (|c| c.records = 0, "records"),
            (|c| c.executions = 0, "executions"),
            (|c| c.last_seq = 0, "last sequence number"),
            (|c| c.partitions = 0, "partitions"),
            (|c| c.starts = 0, "starts"),
        ];
        for (change, words) in changes {
            let mut node = long();
            node.seal_with(Some(NONCE), change);
            let quote = node.quote(NONCE);
            let evidence = node.evidence(quote);
            disbelieved(
                &judge(&node, &evidence),
                Rule::Chain,
                &format!("{words} went back"),
            );
        }
    }

    #[test]
    fn losses_that_shrink_are_refused_each_by_its_name() {
        type Change = fn(&mut Losses);
        let kinds: [(Change, &str); 4] = [
            (|l| l.reserve = 1, "reserve"),
            (|l| l.recursion = 1, "recursion"),
            (|l| l.read = 1, "read"),
            (|l| l.spool = 1, "spool"),
        ];
        for (lose, words) in kinds {
            let mut node = busy();
            node.extra_policy += "tolerance: {lost: 5}\n";
            lose(&mut node.losses);
            node.seal(None);
            node.losses = Losses::default();
            let evidence = node.attest(NONCE);
            disbelieved(
                &judge(&node, &evidence),
                Rule::Chain,
                &format!("losses ({words}) went back"),
            );
        }
    }

    #[test]
    fn what_checkpoint_0_fixed_stays_fixed() {
        type Change = fn(&mut cgpath_evidence::Checkpoint);
        let changes: [(Change, &str); 5] = [
            (|c| c.boot_len += 1, "changes what checkpoint 0 fixed"),
            (
                |c| c.hierarchy = "v1:pids".into(),
                "changes what checkpoint 0 fixed",
            ),
            (|c| c.key = Some(vec![2; 33]), "what only checkpoint 0 may"),
            (|c| c.predating = vec![pod(9)], "what only checkpoint 0 may"),
            (|c| c.boot_id = [9; 16], "of another boot"),
        ];
        for (change, words) in changes {
            let mut node = busy();
            node.seal_with(Some(NONCE), change);
            let quote = node.quote(NONCE);
            let evidence = node.evidence(quote);
            disbelieved(&judge(&node, &evidence), Rule::Chain, words);
        }
    }

    #[test]
    fn checkpoint_0_can_not_call_more_of_the_boot_than_there_was() {
        let mut node = busy();
        node.checkpoints.clear();
        node.boot_len = 1_000;
        node.seal(Some(NONCE));
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Chain,
            "older than the load than the list had",
        );
    }

    #[test]
    fn a_checkpoint_that_claims_a_longer_list_than_where_it_stands_is_refused() {
        let mut node = busy();
        node.seal_with(Some(NONCE), |c| c.list_len += 1_000);
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Chain,
            "longer than where it stands",
        );
    }

    #[test]
    fn the_chain_goes_on_from_the_last_round() {
        let mut node = busy();
        let state = first_round(&mut node);
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        let evidence = node.attest(NEXT);
        let verdict = judge_next(&node, &evidence, &state);
        assert!(verdict.trusted, "{verdict}");

        let mut other = state.clone();
        other.checkpoint.as_mut().unwrap().digest = [3; 32];
        disbelieved(
            &judge_next(&node, &evidence, &other),
            Rule::Chain,
            "another one than the one seen before",
        );
        let mut ahead = state.clone();
        ahead.checkpoint.as_mut().unwrap().number = 100;
        disbelieved(&judge_next(&node, &evidence, &ahead), Rule::Chain, "is gone");
        let mut further = state.clone();
        further.covered = 1_000;
        disbelieved(
            &judge_next(&node, &evidence, &further),
            Rule::Chain,
            "covers less",
        );
        let mut rewritten = state;
        rewritten.pcrs = vec![sha256(b"another history")];
        disbelieved(
            &judge_next(&node, &evidence, &rewritten),
            Rule::Chain,
            "is another one now",
        );
    }

    #[test]
    fn evidence_without_a_new_checkpoint_is_refused_even_without_a_nonce() {
        let mut node = busy();
        let state = first_round(&mut node);
        let quote = node.quote(NEXT);
        let evidence = node.evidence(quote);
        let context = Context {
            nonce: ExpectedNonce::DangerousNone,
            ..node.context(NEXT, Some(state))
        };
        disbelieved(
            &appraise(&evidence, &node.policy(), &context).unwrap(),
            Rule::Chain,
            "no checkpoint was made since",
        );
    }
}

mod v5_records {
    use super::*;

    #[test]
    fn a_dropped_altered_doubled_reordered_or_added_record_is_refused() {
        let mut node = busy();
        let good = node.attest(NONCE);
        let at = good.partitions.iter().position(|p| p.records.len() >= 3).unwrap();
        type Change = fn(&mut Vec<cgpath_evidence::Record>);
        let changes: [Change; 5] = [
            |r| {
                r.remove(1);
            },
            |r| r[1].uid = 1000,
            |r| r.insert(1, r[1].clone()),
            |r| r.swap(0, 1),
            |r| {
                r.push(cgpath_evidence::Record {
                    seq: 1,
                    ..r[0].clone()
                })
            },
        ];
        for change in changes {
            let mut evidence = good.clone();
            change(&mut evidence.partitions[at].records);
            disbelieved(&judge(&node, &evidence), Rule::Records, "partitions root");
        }
    }

    #[test]
    fn a_record_moved_to_another_pod_is_refused_even_if_the_collector_sealed_it_there() {
        let mut node = busy();
        let good = node.attest(NONCE);
        let mut moved = good.clone();
        let from = moved
            .partitions
            .iter()
            .position(|p| p.key == PartitionKey::Pod(pod(3)))
            .unwrap();
        let to = moved
            .partitions
            .iter()
            .position(|p| p.key == PartitionKey::Pod(pod(4)))
            .unwrap();
        let record = moved.partitions[from].records.remove(0);
        moved.partitions[to].records.push(record);
        disbelieved(&judge(&node, &moved), Rule::Records, "partitions root");

        let mut node = busy();
        for (key, _) in &mut node.waiting {
            if *key == PartitionKey::Pod(pod(3)) {
                *key = PartitionKey::Pod(pod(4));
            }
        }
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Records, "its cgroup is that of");
    }

    #[test]
    fn a_dropped_a_doubled_and_an_empty_partition_are_refused() {
        let mut node = busy();
        let good = node.attest(NONCE);
        let mut dropped = good.clone();
        dropped.partitions.remove(1);
        disbelieved(&judge(&node, &dropped), Rule::Records, "partitions root");
        let mut doubled = good.clone();
        doubled.partitions.insert(1, good.partitions[1].clone());
        disbelieved(&judge(&node, &doubled), Rule::Records, "twice");
        let mut empty = good;
        empty.partitions.push(cgpath_evidence::PartitionLog {
            key: PartitionKey::Unattributed,
            records: vec![],
        });
        disbelieved(&judge(&node, &empty), Rule::Records, "without a record");
    }

    #[test]
    fn the_boot_partition_holds_no_records() {
        let mut node = busy();
        for (key, _) in node
            .waiting
            .iter_mut()
            .filter(|(key, _)| *key == PartitionKey::Host)
        {
            *key = PartitionKey::Boot;
        }
        let evidence = node.attest(NONCE);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Records,
            "boot partition holds records",
        );
    }

    #[test]
    fn counts_that_are_not_those_of_the_records_are_refused() {
        type Change = fn(&mut cgpath_evidence::Checkpoint);
        let changes: [(Change, &str); 3] = [
            (|c| c.records += 1, "the records"),
            (|c| c.executions += 1, "the executions"),
            (|c| c.partitions += 1, "the partitions"),
        ];
        for (change, words) in changes {
            let mut node = busy();
            node.seal_with(Some(NONCE), change);
            let quote = node.quote(NONCE);
            let evidence = node.evidence(quote);
            disbelieved(&judge(&node, &evidence), Rule::Records, words);
        }
    }

    #[test]
    fn a_sequence_number_counts_once_and_within_what_was_handed_out() {
        let mut node = busy();
        let first = node.waiting[1].1.seq;
        node.waiting[2].1.seq = first;
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Records, "given twice");
        for seq in [0, 1_000_000] {
            let mut node = busy();
            node.waiting[2].1.seq = seq;
            let evidence = node.attest(NONCE);
            disbelieved(
                &judge(&node, &evidence),
                Rule::Records,
                "not one that the last checkpoint knows",
            );
        }
    }

    #[test]
    fn an_entry_whose_record_was_dropped_before_sealing_is_unattributed() {
        let mut node = busy();
        let dropped = node
            .waiting
            .iter()
            .position(|(_, r)| r.kind == EventKind::Entry && r.path == b"/usr/bin/tool")
            .unwrap();
        node.waiting.remove(dropped);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.unattributed, 1);
        let finding = disbelieved(&verdict, Rule::Records, "nobody knows who caused it");
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Unattributed));
        fails(&verdict, Rule::Records, "settled has no record");
    }

    /// A node with one entry that has no record and of which the collector does not claim otherwise.
    fn with_one_unattributed(node: &mut Node, path: &str, content: &Digest) -> Evidence {
        let at = node.list.len() as u64;
        node.list.push(Measurement::ima_ng(path.as_bytes(), content));
        node.seal_with(None, |c| c.settled = at);
        node.seal_with(Some(NONCE), |c| c.settled = at);
        let quote = node.quote(NONCE);
        node.evidence(quote)
    }

    #[test]
    fn unattributed_entries_are_tolerated_as_far_as_the_policy_says_and_judged_as_the_hosts() {
        let mut node = busy();
        let evidence = with_one_unattributed(&mut node, "/usr/bin/runc", &sha256(b"/usr/bin/runc"));
        disbelieved(
            &judge(&node, &evidence),
            Rule::Records,
            "nobody knows who caused it",
        );
        node.extra_policy += "tolerance: {unattributed: 1}\n";
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(verdict.node.unattributed, 1);

        let mut node = busy();
        node.extra_policy += "tolerance: {unattributed: 1}\n";
        let evidence = with_one_unattributed(&mut node, "/usr/bin/runc", &sha256(b"another runc"));
        fails(
            &judge(&node, &evidence),
            Rule::Host,
            "not the one that the policy accepts",
        );
    }

    #[test]
    fn an_entry_may_wait_for_its_record_for_one_checkpoint_and_not_for_two() {
        let mut node = busy();
        let at = node.list.len() as u64;
        node.list
            .push(Measurement::ima_ng(b"/usr/bin/runc", &sha256(b"/usr/bin/runc")));
        node.seal_with(Some(NONCE), |c| c.settled = at);
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(verdict.node.pending, 2, "that entry and the checkpoint's own");

        node.seal_with(Some(NEXT), |c| c.settled = at);
        let quote = node.quote(NEXT);
        let evidence = node.evidence(quote);
        disbelieved(
            &judge_next(&node, &evidence, &verdict.state.unwrap()),
            Rule::Records,
            "nobody knows who caused it",
        );
    }

    #[test]
    fn a_record_whose_entry_is_not_in_the_list_is_refused() {
        let mut node = busy();
        let ghost = Measurement::ima_ng(b"/bin/app", &sha256(b"ghost"));
        node.record_entry(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &ghost, 0);
        let evidence = node.attest(NONCE);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Records,
            "does not stand in the covered part",
        );
    }

    #[test]
    fn a_record_without_digests_or_with_those_of_two_entries_joins_nothing() {
        let mut node = busy();
        for (_, record) in node
            .waiting
            .iter_mut()
            .filter(|(_, r)| r.path == b"/usr/bin/tool")
        {
            record.digests.clear();
        }
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Records, "no template digest");

        let mut node = busy();
        let other = node.list[1].digest(Bank::Sha256);
        for (_, record) in node
            .waiting
            .iter_mut()
            .filter(|(_, r)| r.path == b"/usr/bin/tool")
        {
            if let Some(digest) = record.digests.get_mut(1) {
                *digest = other.clone();
            }
        }
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Records, "not those of one entry");
    }

    #[test]
    fn one_entry_can_not_have_been_added_twice() {
        let mut node = busy();
        let entry = node
            .list
            .iter()
            .find(|m| m.data.ends_with(b"/usr/bin/tool\0"))
            .unwrap()
            .clone();
        node.record_entry(&Actor::host("/sbin/init"), "/usr/bin/tool", &entry, 0);
        let evidence = node.attest(NONCE);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Records,
            "put the same entry into the list",
        );
    }

    #[test]
    fn an_entry_with_records_of_refused_adds_only_still_lacks_the_one_that_added_it() {
        let mut node = busy();
        for (_, record) in node
            .waiting
            .iter_mut()
            .filter(|(_, r)| r.kind == EventKind::Entry && r.path == b"/usr/bin/tool")
        {
            record.ret = -17;
        }
        let evidence = node.attest(NONCE);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Records,
            "nobody knows who caused it",
        );
    }

    #[test]
    fn an_entry_that_the_kernel_failed_to_add_makes_its_pod_untrusted_and_no_other() {
        let mut node = busy();
        let ghost = Measurement::ima_ng(b"/bin/app", &sha256(b"ghost"));
        node.record_entry(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &ghost, -12);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        fails(&verdict, Rule::Records, "could not add");
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Trusted, State::Untrusted, State::Trusted]
        );
    }

    #[test]
    fn a_record_with_no_cgroup_is_nobodys_and_never_the_hosts() {
        let mut node = busy();
        node.execute_good(&Actor::lost("/sbin/init"), "/usr/bin/runc");
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        disbelieved(&verdict, Rule::Records, "cgroup is not known");
        assert_eq!(
            verdict.node.unattributed, 2,
            "the entry's record and the execution's"
        );
    }

    #[test]
    fn what_was_sealed_before_the_last_round_can_not_be_sealed_anew_with_other_content() {
        let mut node = busy();
        let state = first_round(&mut node);
        // The collector itself rewrites history: everything it signs from now on agrees with itself.
        let records = node.sealed.get_mut(&PartitionKey::Pod(pod(4))).unwrap();
        records[1].hash = Some(FileHash::Measured(sha256(b"harmless")));
        let evidence = node.attest(NEXT);
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::Records,
            "sealed were altered",
        );

        let mut node = busy();
        let state = first_round(&mut node);
        node.sealed.get_mut(&PartitionKey::Pod(pod(4))).unwrap().pop();
        node.seal_with(Some(NEXT), |c| {
            c.records += 1;
            c.executions += 1;
        });
        let quote = node.quote(NEXT);
        let evidence = node.evidence(quote);
        disbelieved(&judge_next(&node, &evidence, &state), Rule::Records, "shrank");
    }
}

mod v6_losses {
    use super::*;

    #[test]
    fn each_kind_of_loss_counts_and_the_tolerance_is_the_policys() {
        type Change = fn(&mut Losses);
        let kinds: [Change; 4] = [
            |l| l.reserve = 2,
            |l| l.recursion = 2,
            |l| l.read = 2,
            |l| l.spool = 2,
        ];
        for lose in kinds {
            let mut node = busy();
            lose(&mut node.losses);
            let evidence = node.attest(NONCE);
            let verdict = judge(&node, &evidence);
            disbelieved(&verdict, Rule::Losses, "2 record(s) were lost");
            assert_eq!(verdict.node.lost, 2);
            node.extra_policy = "dangerous-boot-not-judged: true\ntolerance: {lost: 1}\n".into();
            disbelieved(&judge(&node, &evidence), Rule::Losses, "were lost");
            node.extra_policy = "dangerous-boot-not-judged: true\ntolerance: {lost: 2}\n".into();
            let verdict = judge(&node, &evidence);
            assert!(verdict.trusted, "{verdict}");
            assert!(
                verdict
                    .node
                    .findings
                    .iter()
                    .any(|f| f.severity == Severity::Tolerated && f.rule == Rule::Losses)
            );
        }
    }

    fn noise(mappings: u64) -> PodLoss {
        PodLoss {
            executions: 3,
            mappings,
            denials: 1,
            repeats: 5,
            first_ns: 61_005_000_000,
            last_ns: 62_000_000_000,
        }
    }

    #[test]
    fn what_a_pod_lost_by_its_own_noise_is_the_pods_alone_until_it_ends_whatever_is_tolerated() {
        let mut node = busy();
        let noisy = Actor::pod(pod(2), "/bin/app");
        node.record_pod_loss(&noisy, noise(10));
        let first = node.attest(NONCE);
        let before = judge(&node, &first).state.unwrap();
        // The later record holds, and is reported once.
        node.record_pod_loss(&noisy, noise(200));
        node.execute_good(&noisy, "/bin/app");
        for policy in ["", "tolerance: {lost: 1000000, unattributed: 1000}\n"] {
            node.extra_policy = format!("dangerous-boot-not-judged: true\n{policy}");
            let evidence = node.clone().attest(NEXT);
            let verdict = judge_next(&node, &evidence, &before);
            let finding = fails(&verdict, Rule::Losses, "more than its budget");
            assert_eq!(finding.subject, Subject::Partition(PartitionKey::Pod(pod(2))));
            let found = finding.found.unwrap();
            assert!(
                found.contains("3 executions, 200 mappings, 1 denials, 5 entries")
                    && found.contains("61.005 s"),
                "{found}"
            );
            assert_eq!(verdict.failures().count(), 1, "{verdict}");
            assert_eq!((verdict.node.state, verdict.node.lost), (State::Trusted, 0));
            for found in &verdict.pods {
                let is_it = found.uid == pod(2);
                let wanted = if is_it { State::Untrusted } else { State::Trusted };
                assert_eq!((found.state, found.charged), (wanted, is_it), "{verdict}");
            }
        }
        assert!(!cgpath_appraisal::accept::is_acceptable(Rule::Losses));
    }

    #[test]
    fn a_loss_for_a_budget_that_is_no_pods_or_is_half_told_is_the_nodes() {
        for actor in [Actor::host("/usr/bin/tool"), Actor::lost("/bin/app")] {
            let mut node = busy();
            node.record_pod_loss(&actor, noise(1));
            let evidence = node.attest(NONCE);
            disbelieved(&judge(&node, &evidence), Rule::Losses, "outside of all pods");
        }
        let mut node = busy();
        node.record_pod_loss(&Actor::pod(pod(2), "/bin/app"), noise(1));
        node.waiting.last_mut().unwrap().1.pod_loss = None;
        let evidence = node.attest(NONCE);
        disbelieved(
            &judge(&node, &evidence),
            Rule::Losses,
            "does not say what was lost",
        );
        let mut node = busy();
        node.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
        node.waiting.last_mut().unwrap().1.pod_loss = Some(noise(1));
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Losses, "of another kind");
    }

    #[test]
    fn hidden_losses_break_the_signature() {
        let mut node = busy();
        node.losses.reserve = 5;
        let mut evidence = node.attest(NONCE);
        let last = evidence.checkpoints.last_mut().unwrap();
        // Map key 10, losses, of which key 0 is 5.
        let at = last
            .windows(4)
            .position(|w| w == [0x0a, 0xa4, 0x00, 0x05])
            .unwrap();
        last[at + 3] = 0;
        let verdict = judge(&node, &evidence);
        disbelieved(&verdict, Rule::Chain, "not signed");
        fails(&verdict, Rule::Chain, "does not stand in the covered part");
    }

    #[test]
    fn a_blind_checkpoint_fails_also_when_a_later_one_sees_again() {
        let mut node = busy();
        node.blind = true;
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Losses, "checkpoint 1 is blind");
        node.blind = false;
        let evidence = node.attest(NEXT);
        let verdict = appraise(&evidence, &node.policy(), &node.context(NEXT, None)).unwrap();
        disbelieved(&verdict, Rule::Losses, "checkpoint 1 is blind");
    }
}

mod v7_history {
    use super::*;

    #[test]
    fn a_reboot_is_accepted_with_the_chain_starting_anew() {
        let mut node = busy();
        let state = first_round(&mut node);
        node.reboot();
        let evidence = node.attest(NEXT);
        let verdict = judge_next(&node, &evidence, &state);
        assert!(verdict.trusted, "{verdict}");
        assert!(verdict.node.notes.iter().any(|n| n.contains("rebooted")));
    }

    #[test]
    fn a_tpm_that_was_reset_sooner_than_a_machine_reboots_is_refused_unless_the_policy_says_how_fast_it_is() {
        let mut node = busy();
        let state = first_round(&mut node);
        node.reboot();
        for (seconds, min, is_good) in [
            (9, "", false),
            (10, "", true),
            (0, "min-reboot: 0\n", true),
            (60, "min-reboot: 61\n", false),
        ] {
            let mut node = node.clone();
            node.now = state.time + seconds;
            node.extra_policy += min;
            let evidence = node.attest(NEXT);
            let verdict = judge_next(&node, &evidence, &state);
            if is_good {
                assert!(verdict.trusted, "{verdict}");
            } else {
                disbelieved(&verdict, Rule::History, "sooner than the machine can reboot");
            }
        }
    }

    /// A TPM that was reset by itself cannot be distinguished, after a wait, from a machine that rebooted.
    #[test]
    fn limit_a_tpm_that_is_reset_by_itself_and_fed_again_is_a_reboot_once_that_time_has_passed() {
        let mut node = busy();
        let state = first_round(&mut node);
        // The old kernel goes on, and hides what it ran: the new list begins as that of a real boot does.
        node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/hidden", &sha256(b"hidden"));
        node.reboot();
        let evidence = node.attest(NEXT);
        assert!(judge_next(&node, &evidence, &state).trusted);
    }

    #[test]
    fn evidence_of_the_boot_before_is_refused_after_a_reboot() {
        let mut node = busy();
        let mut old = node.clone();
        let _ = first_round(&mut node);
        node.reboot();
        let evidence = node.attest(NONCE);
        let state = judge(&node, &evidence).state.unwrap();
        old.clock = node.clock + 1;
        let evidence = old.attest(NEXT);
        disbelieved(
            &judge_next(&old, &evidence, &state),
            Rule::History,
            "reset counter went back",
        );
    }

    #[test]
    fn a_restart_counter_or_a_clock_that_goes_back_is_refused() {
        let mut node = busy();
        node.restart_count = 5;
        let state = first_round(&mut node);
        node.restart_count = 4;
        let evidence = node.attest(NEXT);
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::History,
            "restart counter went back",
        );

        let mut node = busy();
        let state = first_round(&mut node);
        node.clock -= 10_000;
        let evidence = node.attest(NEXT);
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::History,
            "clock went back",
        );
    }

    #[test]
    fn a_clock_may_lose_what_a_tpm_can_lose_at_an_unorderly_shutdown_and_no_more() {
        let go_back = |by: u64, safe: bool| {
            let mut node = busy();
            node.clock = 100_000_000;
            let state = first_round(&mut node);
            node.reboot();
            node.clock = state.clock_ms - by;
            node.seal(Some(NEXT));
            let quote = node.quote_with(NEXT, |a| {
                a.clock = state.clock_ms - by;
                a.safe = safe;
            });
            let evidence = node.evidence(quote);
            judge_next(&node, &evidence, &state)
        };
        let verdict = go_back(1 << 22, false);
        assert!(verdict.trusted, "{verdict}");
        disbelieved(&go_back((1 << 22) + 1, false), Rule::History, "clock went back");
        disbelieved(&go_back(1, true), Rule::History, "clock went back");
    }

    #[test]
    fn counters_that_a_tpm_obfuscates_are_compared_by_their_difference() {
        let mut node = busy();
        node.reset_count = u32::MAX;
        node.restart_count = u32::MAX;
        let state = first_round(&mut node);
        node.reset_count = 0;
        node.now += 60;
        node.boot_id = [2; 16];
        node.load();
        let evidence = node.attest(NEXT);
        let verdict = judge_next(&node, &evidence, &state);
        assert!(verdict.trusted, "{verdict}");
    }

    #[test]
    fn a_reset_without_a_new_boot_id_is_refused() {
        let mut node = busy();
        let state = first_round(&mut node);
        node.reset_count += 1;
        let evidence = node.attest(NEXT);
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::History,
            "boot id is still the same",
        );
    }

    /// The list goes on in the new kernel, which adds its own boot_aggregate.
    fn kexec(node: &mut Node, carry: bool) {
        let list = node.list.clone();
        let resets = node.reset_count;
        node.reboot();
        node.reset_count = resets;
        if carry {
            let boot: Vec<Measurement> = node
                .list
                .drain(..)
                .take(usize::try_from(node.boot_len).unwrap())
                .collect();
            node.list = list;
            node.list.push(Measurement::ima_ng(
                b"boot_aggregate",
                &sha256(b"pcrs of the new kernel"),
            ));
            node.list.extend(
                boot.into_iter()
                    .filter(|m| !node.list.contains(m))
                    .collect::<Vec<_>>(),
            );
            node.boot_len = node.list.len() as u64;
            node.waiting.clear();
            node.checkpoints.clear();
            node.seq = 0;
            node.seal(None);
        }
    }

    #[test]
    fn a_new_boot_id_without_a_reset_is_refused_unless_the_policy_allows_kexec() {
        let mut node = busy();
        // What pods ran before stands in the new boot's part of the list, so the host must know it.
        let pods: Vec<_> = node.pod_files.values().cloned().collect();
        for (path, digests) in pods.into_iter().flatten() {
            node.host_files.entry(path).or_default().extend(digests);
        }
        let state = first_round(&mut node);
        kexec(&mut node, true);
        let evidence = node.attest(NEXT);
        disbelieved(&judge_next(&node, &evidence, &state), Rule::History, "kexec");
        node.extra_policy += "kexec: allow\n";
        let verdict = judge_next(&node, &evidence, &state);
        assert!(verdict.trusted, "{verdict}");
        assert!(verdict.node.notes.iter().any(|n| n.contains("kexec")));
    }

    #[test]
    fn a_kexec_that_does_not_carry_the_list_over_is_refused_even_where_kexec_is_allowed() {
        let mut node = busy();
        node.extra_policy += "kexec: allow\n";
        let state = first_round(&mut node);
        kexec(&mut node, false);
        let evidence = node.attest(NEXT);
        let verdict = judge_next(&node, &evidence, &state);
        disbelieved(&verdict, Rule::Chain, "");
    }

    #[test]
    fn a_state_of_another_key_is_not_compared_away() {
        let mut node = busy();
        let mut state = first_round(&mut node);
        state.ak_name = AttestationKey::new(KeyKind::EcdsaP256, 2).name();
        let evidence = node.attest(NEXT);
        disbelieved(
            &judge_next(&node, &evidence, &state),
            Rule::History,
            "another attestation key",
        );
    }
}

mod v8_pods {
    use super::*;

    #[test]
    fn an_unknown_pod_makes_the_node_untrusted_by_name_and_leaves_the_others() {
        let mut node = busy();
        node.execute(&Actor::pod(pod(5), "/bin/app"), "/bin/app", &sha256(b"1/bin/app"));
        node.pods = vec![cgpath_evidence::PodInfo {
            uid: pod(5),
            namespace: "default".into(),
            name: "stranger".into(),
        }];
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.state, State::Untrusted);
        let finding = fails(&verdict, Rule::KnownPods, &pod(5).to_string());
        assert_eq!(finding.subject, Subject::Node);
        assert!(finding.text.contains("default/stranger"));
        assert_eq!(verdict.pod(pod(5)).unwrap().state, State::Unknown);
        assert_eq!(states(&verdict)[..4], [State::Trusted; 4]);
        assert!(verdict.state.is_some(), "the evidence itself is believed");
    }

    /// Pod 1 was there before the collector.
    fn with_predating() -> Node {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.predating = vec![pod(1)];
        node.load();
        node
    }

    #[test]
    fn a_pod_older_than_the_collector_is_neither_trusted_nor_failed_unless_the_policy_says() {
        for (key, expected) in [
            ("", State::PredatesCollector),
            ("predating-pods: report\n", State::PredatesCollector),
            ("predating-pods: trust\n", State::Trusted),
            ("predating-pods: untrust\n", State::Untrusted),
        ] {
            let mut node = with_predating();
            node.extra_policy += key;
            node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
            let evidence = node.attest(NONCE);
            let verdict = judge(&node, &evidence);
            assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
            assert_eq!(verdict.pod(pod(1)).unwrap().state, expected, "{key}");
            assert_eq!(verdict.trusted, expected == State::Trusted);
        }
    }

    #[test]
    fn a_pod_older_than_the_collector_shows_even_if_it_did_nothing_since() {
        let mut node = with_predating();
        let evidence = node.attest(NONCE);
        assert_eq!(
            judge(&node, &evidence).pod(pod(1)).unwrap().state,
            State::PredatesCollector
        );
    }

    #[test]
    fn a_pod_older_than_the_collector_that_no_policy_knows_is_unknown_all_the_same() {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.predating = vec![pod(9)];
        node.load();
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::KnownPods, &pod(9).to_string());
    }

    #[test]
    fn a_pod_older_than_the_collector_still_fails_for_what_it_ran_since() {
        let mut node = with_predating();
        node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
        let evidence = node.attest(NONCE);
        assert_eq!(
            judge(&node, &evidence).pod(pod(1)).unwrap().state,
            State::Untrusted
        );
    }
}

mod v9_pods_files {
    use super::*;

    #[test]
    fn a_tampered_pod_is_named_with_path_and_hashes_and_leaves_the_others_and_the_node_trusted() {
        let mut node = busy();
        let found = sha256(b"tampered");
        node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &found);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Trusted, State::Trusted, State::Untrusted]
        );
        let finding = fails(&verdict, Rule::PodContents, "not the one that the policy accepts");
        assert_eq!(finding.path.as_deref(), Some(&b"/bin/app"[..]));
        assert_eq!(finding.found, Some(found.to_string()));
        assert_eq!(finding.expected, [sha256(b"4/bin/app").to_string()]);
        let table = verdict.to_string();
        assert!(
            table.contains("/bin/app") && table.contains(&found.to_string()),
            "{table}"
        );
        assert!(verdict.state.is_some());
    }

    #[test]
    fn two_pods_of_one_image_both_show_every_file_though_ima_lists_it_once() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        let files = |n| -> Vec<Vec<u8>> {
            verdict
                .pod(pod(n))
                .unwrap()
                .files
                .iter()
                .map(|f| f.path.clone())
                .collect()
        };
        assert_eq!(files(1), files(2));
        assert_eq!(files(1), [b"/bin/app".to_vec(), b"/lib/libc.so".to_vec()]);
        let listed = node
            .list
            .iter()
            .filter(|m| m.data.ends_with(b"/bin/app\0"))
            .count();
        assert_eq!(listed, 3, "four pods, three contents");
    }

    #[test]
    fn one_entry_is_judged_for_each_pod_that_used_it() {
        let mut node = busy();
        // Good for pod 1, whose entry stands first; pod 3 has no such file.
        node.execute(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &sha256(b"1/bin/app"));
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Trusted, State::Untrusted, State::Trusted]
        );
    }

    #[test]
    fn an_execution_without_an_entry_is_judged_by_its_own_hash() {
        for kind in [
            EventKind::Execution,
            EventKind::Script,
            EventKind::Mapping,
            EventKind::LateMapping,
        ] {
            let mut node = busy();
            let actor = Actor::pod(pod(3), "/bin/app");
            node.record_execution(&actor, kind, "/bin/app", FileHash::Measured(sha256(b"3/bin/app")));
            let good = node.clone().attest(NONCE);
            assert!(judge(&node, &good).trusted);
            node.record_execution(&actor, kind, "/bin/app", FileHash::Measured(sha256(b"1/bin/app")));
            let evidence = node.attest(NONCE);
            let verdict = judge(&node, &evidence);
            assert_eq!(
                verdict.pod(pod(3)).unwrap().state,
                State::Untrusted,
                "{kind:?}\n{verdict}"
            );
            assert_eq!(verdict.node.state, State::Trusted);
        }
    }

    #[test]
    fn what_was_executed_without_a_hash_or_with_half_a_path_is_not_trusted() {
        let mut node = busy();
        node.record_execution(
            &Actor::pod(pod(3), "/bin/app"),
            EventKind::LateMapping,
            "/bin/app",
            FileHash::Unhashed(-95),
        );
        let evidence = node.attest(NONCE);
        assert_eq!(
            fails(&judge(&node, &evidence), Rule::PodContents, "no hash")
                .found
                .unwrap(),
            "no hash, error -95"
        );

        let mut node = busy();
        node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
        node.waiting.last_mut().unwrap().1.path_cut = true;
        let evidence = node.attest(NONCE);
        fails(
            &judge(&node, &evidence),
            Rule::PodContents,
            "could not be read whole",
        );
    }

    #[test]
    fn a_file_that_no_reference_has_is_refused_and_where_its_content_belongs_is_said() {
        let mut node = busy();
        node.execute(&Actor::pod(pod(3), "/bin/app"), "/tmp/app", &sha256(b"3/bin/app"));
        let evidence = node.attest(NONCE);
        let finding = fails(
            &judge(&node, &evidence),
            Rule::PodContents,
            "no reference value has a file at this path",
        );
        assert_eq!(finding.expected, ["this content at /bin/app"]);
    }

    #[test]
    fn a_suspect_record_never_lets_its_pod_be_trusted_whatever_it_ran() {
        let mut node = busy();
        node.execute_good(&Actor::intruder(pod(3), "/bin/app"), "/bin/app");
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        let finding = fails(&verdict, Rule::PodContents, "suspect");
        assert_eq!(finding.found.as_deref(), Some("process /bin/app"));
        assert_eq!(verdict.node.suspect, 2);
        assert_eq!(verdict.node.state, State::Trusted);
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Trusted, State::Untrusted, State::Trusted]
        );
    }

    #[test]
    fn an_empty_ancestry_is_suspect() {
        let mut node = busy();
        node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
        node.waiting.last_mut().unwrap().1.ancestry.clear();
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::PodContents, "suspect");
    }

    #[test]
    fn verdicts_that_rest_on_learned_values_say_so() {
        let mut node = busy();
        node.learned = true;
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted && verdict.learned && verdict.pods.iter().all(|p| p.learned));
        assert!(verdict.to_string().contains("LEARNED"));
    }
}

mod v10_boot {
    use super::*;

    #[test]
    fn the_boot_is_passed_over_only_with_the_dangerous_key_which_every_output_repeats() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted);
        assert!(verdict.to_string().contains("boot: not judged"));
        assert!(
            verdict
                .to_string()
                .contains("DANGEROUS: dangerous-boot-not-judged")
        );
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(json["node"]["boot"], "not judged");
        assert_eq!(json["dangerous"][0], "dangerous-boot-not-judged");
        for without in ["", "dangerous-boot-not-judged: false\n"] {
            node.extra_policy = without.into();
            let verdict = judge(&node, &evidence);
            disbelieved(&verdict, Rule::Boot, "boot log is not judged");
            assert_eq!(verdict.node.state, State::Untrusted);
            assert!(verdict.dangerous.is_empty());
        }
    }
}

mod v11_host {
    use super::*;

    /// A node that boots with `change` made to its files' contents first.
    fn boot_with(path: &str, content: Option<&[u8]>) -> Node {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.list.clear();
        node.checkpoints.clear();
        node.waiting.clear();
        node.seq = 0;
        node.list
            .push(Measurement::ima_ng(b"boot_aggregate", &sha256(b"pcrs 0 to 9")));
        for file in ["/sbin/init", IMA_POLICY, COLLECTOR] {
            let content = if file == path {
                content
            } else {
                Some(file.as_bytes())
            };
            if let Some(content) = content {
                node.list
                    .push(Measurement::ima_ng(file.as_bytes(), &sha256(content)));
            }
        }
        node.boot_len = node.list.len() as u64;
        node.seal(None);
        node
    }

    #[test]
    fn the_collector_must_stand_in_the_list_with_an_accepted_hash() {
        for content in [None, Some(&b"another collector"[..])] {
            let mut node = boot_with(COLLECTOR, content);
            let evidence = node.attest(NONCE);
            fails(&judge(&node, &evidence), Rule::Host, "collector's executable");
        }
    }

    #[test]
    fn an_accepted_ima_policy_must_stand_in_the_list() {
        for content in [None, Some(&b"another policy"[..])] {
            let mut node = boot_with(IMA_POLICY, content);
            let evidence = node.attest(NONCE);
            fails(&judge(&node, &evidence), Rule::Host, "no accepted IMA policy");
        }
    }

    #[test]
    fn what_stands_in_the_list_only_after_checkpoint_1_is_too_late() {
        for path in [COLLECTOR, IMA_POLICY] {
            let mut node = boot_with(path, None);
            node.seal(None);
            node.measure(&Actor::host("/sbin/init"), path, &sha256(path.as_bytes()));
            let evidence = node.attest(NONCE);
            fails(&judge(&node, &evidence), Rule::Host, "before checkpoint 1");
        }
    }

    #[test]
    fn what_ran_before_the_load_and_on_the_host_is_appraised() {
        let mut node = boot_with("/sbin/init", Some(b"another init"));
        let evidence = node.attest(NONCE);
        let finding = fails(
            &judge(&node, &evidence),
            Rule::Host,
            "not the one that the policy accepts",
        );
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Boot));

        let mut node = busy();
        node.execute(
            &Actor::host("/sbin/init"),
            "/usr/bin/tool",
            &sha256(b"another tool"),
        );
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        let finding = fails(&verdict, Rule::Host, "not the one that the policy accepts");
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Host));
        assert_eq!(verdict.node.state, State::Untrusted);
    }

    #[test]
    fn only_the_lists_first_entry_may_be_the_boot_aggregate() {
        let mut node = busy();
        node.measure(&Actor::host("/sbin/init"), "boot_aggregate", &sha256(b"anything"));
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::Host, "no reference value");
    }

    #[test]
    fn the_loaded_programs_and_the_stated_ima_policy_must_be_accepted_ones() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        let yaml = |line: &str| {
            node.policy_yaml()
                .replace("  collector:", &format!("  {line}\n  collector:"))
        };
        let policy = |line: &str| {
            Policy::load("policy.yaml", yaml(line).as_bytes(), |name| {
                node.reference(name).ok_or_else(String::new)
            })
            .unwrap()
        };
        let object = Digest::new(Bank::Sha256, &[9; 32]).unwrap();
        let good = policy(&format!("bpf-objects: [\"{object}\"]"));
        assert!(
            appraise(&evidence, &good, &node.context(NONCE, None))
                .unwrap()
                .trusted
        );
        let other = policy(&format!("bpf-objects: [\"{}\"]", sha256(b"other")));
        fails(
            &appraise(&evidence, &other, &node.context(NONCE, None)).unwrap(),
            Rule::Host,
            "BPF object",
        );

        node.seal_with(Some(NONCE), |c| c.ima_policy = Some([8; 32]));
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        fails(
            &judge(&node, &evidence),
            Rule::Host,
            "IMA policy is not an accepted one",
        );
    }
}

mod v12_violations {
    use super::*;

    #[test]
    fn a_violation_makes_the_partition_that_its_record_names_untrusted_and_no_other() {
        let mut node = busy();
        node.violate(&Actor::pod(pod(2), "/bin/app"), "/var/log/a file with spaces");
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        let finding = fails(&verdict, Rule::Violations, "written while it was measured");
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Pod(pod(2))));
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
        );
    }

    #[test]
    fn a_violation_on_the_host_makes_the_node_untrusted_unless_the_policy_permits_the_path() {
        let mut node = busy();
        node.violate(&Actor::host("/sbin/init"), "/var/log/journal/x");
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        fails(&verdict, Rule::Violations, "written while it was measured");
        assert_eq!(verdict.node.state, State::Untrusted);
        node.extra_policy += "violations: {permit: ['/var/log/**']}\n";
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
    }

    #[test]
    fn a_violation_with_no_record_makes_the_node_untrusted_even_where_its_path_is_permitted() {
        let mut node = busy();
        node.extra_policy += "violations: {permit: ['/var/log/**']}\n";
        node.list.push(Measurement::violation(b"/var/log/x"));
        node.seal(None);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        fails(&verdict, Rule::Violations, "has no record");
        assert_eq!(verdict.node.state, State::Untrusted);
    }

    #[test]
    fn a_violation_record_with_no_violation_in_the_list_makes_the_node_untrusted() {
        let mut node = busy();
        node.violate(&Actor::pod(pod(2), "/bin/app"), "/data");
        node.list.pop();
        let evidence = node.attest(NONCE);
        fails(
            &judge(&node, &evidence),
            Rule::Violations,
            "does not stand in the list",
        );
    }

    #[test]
    fn violations_of_one_file_are_counted_one_by_one() {
        let mut node = busy();
        node.violate(&Actor::pod(pod(2), "/bin/app"), "/data");
        node.list.push(Measurement::violation(b"/data"));
        node.seal(None);
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::Violations, "has no record");
    }

    #[test]
    fn a_violation_before_the_load_is_the_nodes_unless_permitted() {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.checkpoints.clear();
        node.waiting.clear();
        node.seq = 0;
        node.list.truncate(usize::try_from(node.boot_len).unwrap());
        node.list.push(Measurement::violation(b"/run/x"));
        node.boot_len += 1;
        node.seal(None);
        let evidence = node.attest(NONCE);
        let finding = fails(
            &judge(&node, &evidence),
            Rule::Violations,
            "written while it was measured",
        );
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Boot));
        node.extra_policy += "violations: {permit: ['/run/*']}\n";
        assert!(judge(&node, &evidence).trusted);
    }
}

mod v14_guard {
    use super::*;

    const AGAINST_US: [GuardAction; 12] = [
        GuardAction::MapOpened,
        GuardAction::MapRead,
        GuardAction::ProgramOpened,
        GuardAction::LinkOpened,
        GuardAction::LinkChanged,
        GuardAction::PinRemoved,
        GuardAction::PinRenamed,
        GuardAction::DirectoryRemoved,
        GuardAction::Unmounted,
        GuardAction::Traced,
        GuardAction::TpmUnbound,
        GuardAction::FtraceOpened,
    ];

    #[test]
    fn whoever_touches_the_collectors_parts_makes_the_node_untrusted_and_is_named() {
        for action in AGAINST_US {
            for is_denied in [false, true] {
                let mut node = busy();
                node.record_guard(&Actor::host("/usr/bin/rm"), action, "link_executed", is_denied);
                let evidence = node.attest(NONCE);
                let verdict = judge(&node, &evidence);
                let words = if is_denied { ": denied" } else { ": not denied" };
                let finding = fails(&verdict, Rule::Guard, words);
                assert_eq!(finding.subject, Subject::Node);
                assert_eq!(finding.path.as_deref(), Some(&b"link_executed"[..]));
                let found = finding.found.unwrap();
                for part in [
                    "/usr/bin/rm < /sbin/init",
                    "/system.slice/some.service",
                    "pid 1000",
                    "uid 0",
                ] {
                    assert!(found.contains(part), "{action:?}: {found}");
                }
                assert_eq!(verdict.node.state, State::Untrusted);
                assert_eq!(states(&verdict), [State::Trusted; 4], "the pods did nothing");
            }
        }
    }

    #[test]
    fn a_pod_that_touches_them_makes_the_node_untrusted_and_is_named() {
        for action in AGAINST_US {
            let mut node = busy();
            node.record_guard(&Actor::pod(pod(2), "/bin/app"), action, "", false);
            let evidence = node.attest(NONCE);
            let verdict = judge(&node, &evidence);
            let finding = fails(&verdict, Rule::Guard, ": not denied");
            assert_eq!((finding.subject, finding.path), (Subject::Node, None));
            assert!(finding.found.unwrap().contains(&pod(2).to_string()));
            assert_eq!(verdict.node.state, State::Untrusted);
        }
    }

    #[test]
    fn what_was_denied_to_a_pod_is_the_pods_alone() {
        for action in AGAINST_US {
            let mut node = busy();
            node.record_guard(&Actor::pod(pod(2), "/bin/app"), action, "x", true);
            let evidence = node.attest(NONCE);
            let verdict = judge(&node, &evidence);
            let finding = fails(&verdict, Rule::Guard, ": denied");
            assert_eq!(finding.subject, Subject::Partition(PartitionKey::Pod(pod(2))));
            assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
            for found in &verdict.pods {
                let is_it = found.uid == pod(2);
                assert_eq!(found.state == State::Untrusted, is_it, "{verdict}");
                assert_eq!(found.state == State::Trusted, !is_it, "{verdict}");
            }
        }
    }

    #[test]
    fn who_is_charged_with_something_of_its_own_is_told_though_the_node_is_not_believed() {
        let mut node = busy();
        let verdict = judge(&node, &node.clone().attest(NONCE));
        assert!(verdict.node.believed && verdict.pods.iter().all(|p| !p.charged));
        node.record_guard(&Actor::pod(pod(2), "/bin/app"), GuardAction::Traced, "", true);
        let is_charged = |verdict: &Verdict| {
            for found in &verdict.pods {
                assert_eq!(found.charged, found.uid == pod(2), "{verdict}");
            }
        };
        let verdict = judge(&node, &node.clone().attest(NONCE));
        assert!(verdict.node.believed, "{verdict}");
        is_charged(&verdict);
        node.losses.reserve = 1;
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert!(!verdict.node.believed, "{verdict}");
        assert!(verdict.pods.iter().all(|p| p.state == State::Untrusted));
        is_charged(&verdict);
    }

    #[test]
    fn an_outcome_that_the_programs_do_not_write_is_no_denial() {
        for ret in [1, -13, i32::MIN] {
            let mut node = busy();
            node.record_guard(&Actor::pod(pod(2), "/bin/app"), GuardAction::Traced, "", true);
            node.waiting.last_mut().unwrap().1.ret = ret;
            let evidence = node.attest(NONCE);
            let finding = fails(&judge(&node, &evidence), Rule::Guard, "not denied");
            assert_eq!(finding.subject, Subject::Node);
        }
    }

    #[test]
    fn what_the_policy_tolerates_is_shown_and_nothing_else_is() {
        for action in AGAINST_US {
            let mut node = busy();
            node.extra_policy += &format!("guard: {{tolerate: [{}]}}\n", action.name());
            node.record_guard(&Actor::host("/usr/bin/tool"), action, "x", false);
            let verdict = judge(&node, &node.clone().attest(NONCE));
            assert!(verdict.trusted, "{action:?}\n{verdict}");
            let shown = verdict
                .node
                .findings
                .iter()
                .find(|f| f.rule == Rule::Guard)
                .unwrap();
            assert_eq!(shown.severity, Severity::Tolerated);
            assert!(
                verdict
                    .relaxations
                    .contains(&format!("guard.tolerate: {}", action.name()))
            );
            let other = AGAINST_US[(AGAINST_US.iter().position(|a| *a == action).unwrap() + 1) % 12];
            node.record_guard(&Actor::host("/usr/bin/tool"), other, "x", false);
            let evidence = node.attest(NONCE);
            fails(&judge(&node, &evidence), Rule::Guard, "not denied");
        }
    }

    #[test]
    fn others_at_the_tpm_are_shown_unless_the_policy_does_not_want_them() {
        let mut node = busy();
        node.record_guard(
            &Actor::host("/usr/bin/tool"),
            GuardAction::TpmOpened,
            "tpmrm0",
            false,
        );
        let verdict = judge(&node, &node.clone().attest(NONCE));
        assert!(verdict.trusted, "{verdict}");
        let shown = verdict
            .node
            .findings
            .iter()
            .find(|f| f.rule == Rule::Guard)
            .unwrap();
        assert_eq!(shown.severity, Severity::Note);
        node.extra_policy += "guard: {tpm-opened: untrust}\n";
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::Guard, "opened the TPM");
    }

    #[test]
    fn a_denied_execution_is_told_of_its_pod_and_held_against_nobody() {
        for action in [
            GuardAction::ExecutionDenied,
            GuardAction::MappingDenied,
            GuardAction::ExecutionDeniedOnLoss,
            GuardAction::ExecutionDeniedOnEntries,
            GuardAction::MappingDeniedOnEntries,
        ] {
            let mut node = busy();
            node.record_guard(&Actor::pod(pod(2), "/bin/app"), action, "/bin/evil", true);
            let verdict = judge(&node, &node.clone().attest(NONCE));
            assert!(verdict.trusted, "{verdict}");
            let told = &verdict.pod(pod(2)).unwrap().findings;
            assert!(
                told.iter()
                    .any(|f| f.rule == Rule::Guard && f.severity == Severity::Note),
                "{told:?}"
            );
            // The programs never do this to the host: what says so was not made by them.
            node.record_guard(&Actor::host("/usr/bin/tool"), action, "/bin/tool", true);
            let evidence = node.attest(NONCE);
            fails(&judge(&node, &evidence), Rule::Guard, "outside of all pods");
        }
    }

    #[test]
    fn a_checkpoint_that_states_less_than_the_policy_wants_is_refused() {
        let states = |mode| {
            move |c: &mut cgpath_evidence::Checkpoint| {
                c.protection = c
                    .protection
                    .map(|p| cgpath_evidence::Protection { guard: mode, ..p })
            }
        };
        for (wanted, stated, good) in [
            ("off", GuardMode::Off, true),
            ("record", GuardMode::Off, false),
            ("record", GuardMode::Record, true),
            ("record", GuardMode::Deny, true),
            ("deny", GuardMode::Record, false),
        ] {
            let mut node = busy();
            node.extra_policy += &format!("guard: {{at-least: {wanted}}}\n");
            // Switched for one checkpoint only, and back.
            node.protection.guard = GuardMode::Deny;
            node.seal_with(None, states(stated));
            let evidence = node.attest(NONCE);
            let verdict = judge(&node, &evidence);
            if good {
                assert!(verdict.trusted, "{wanted}, {stated:?}\n{verdict}");
            } else {
                let finding = fails(&verdict, Rule::Guard, "guarded less than the policy wants");
                assert_eq!(finding.expected, [format!("at least {wanted}")]);
            }
        }
        let mut node = busy();
        node.seal_with(None, |c| c.protection = None);
        let evidence = node.attest(NONCE);
        let finding = fails(&judge(&node, &evidence), Rule::Guard, "guarded less");
        assert_eq!(finding.found.as_deref(), Some("guard.mode nothing"));
    }

    #[test]
    fn records_that_only_half_belong_to_the_guard_are_refused() {
        let mut node = busy();
        node.record_guard(
            &Actor::host("/usr/bin/tool"),
            GuardAction::TpmOpened,
            "tpm0",
            false,
        );
        node.waiting.last_mut().unwrap().1.guard = None;
        let evidence = node.attest(NONCE);
        fails(
            &judge(&node, &evidence),
            Rule::Guard,
            "does not say what was done",
        );

        let mut node = busy();
        node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
        let guard = cgpath_evidence::Guard {
            action: GuardAction::TpmOpened,
            object: 0,
        };
        node.waiting.last_mut().unwrap().1.guard = Some(guard);
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::Guard, "another kind");
    }
}

mod v13_absence {
    use super::*;

    #[test]
    fn a_tier_that_the_policy_does_not_accept_is_refused() {
        let mut node = busy();
        let evidence = node.attest(NONCE);
        node.tier = Tier::Kernel;
        disbelieved(
            &judge(&node, &evidence),
            Rule::Absent,
            "does not accept this tier",
        );
    }

    #[test]
    fn evidence_without_one_of_its_parts_is_never_trusted() {
        type Remove = fn(&mut Evidence);
        let parts: [(&str, Remove); 9] = [
            ("the attestation", |e| tpm(&mut e.quote).attest.clear()),
            ("the signature", |e| tpm(&mut e.quote).signature.clear()),
            ("the key", |e| tpm(&mut e.quote).ak.clear()),
            ("the list", |e| e.list.clear()),
            ("the checkpoints", |e| e.checkpoints.clear()),
            ("the partitions", |e| e.partitions.clear()),
            ("the boot id", |e| e.boot_id = [0; 16]),
            ("a checkpoint's bytes", |e| e.checkpoints[0].clear()),
            ("an entry's bytes", |e| e.list[2] = Entry::Full(vec![])),
        ];
        for (what, remove) in parts {
            let mut node = busy();
            let mut evidence = node.attest(NONCE);
            remove(&mut evidence);
            let verdict = judge(&node, &evidence);
            assert!(!verdict.trusted, "trusted without {what}");
            assert_eq!(verdict.node.state, State::Untrusted, "without {what}");
            assert!(
                verdict.pods.iter().all(|p| p.state != State::Trusted),
                "without {what}"
            );
        }
    }

    #[test]
    fn evidence_without_one_of_its_fields_can_not_be_read() {
        let mut node = busy();
        let mut evidence = node.attest(NONCE);
        // What waits for the next seal may be absent.
        evidence.unsealed.clear();
        let bytes = evidence.to_cbor();
        // A map of ten: each pair is taken out in turn.
        assert_eq!(bytes[0], 0xaa);
        let mut pairs = Vec::new();
        let mut decoder = minicbor::Decoder::new(&bytes[1..]);
        for _ in 0..10 {
            let start = decoder.position() + 1;
            decoder.skip().unwrap();
            decoder.skip().unwrap();
            pairs.push(start..decoder.position() + 1);
        }
        for (field, pair) in pairs.into_iter().enumerate() {
            let mut without = vec![0xa9];
            without.extend(&bytes[1..pair.start]);
            without.extend(&bytes[pair.end..]);
            assert!(
                Evidence::from_cbor(&without).is_err(),
                "field {field} is absent and nobody noticed"
            );
        }
    }

    #[test]
    fn another_version_is_unusable() {
        let mut node = busy();
        let mut evidence = node.attest(NONCE);
        evidence.version = 2;
        let answer = appraise(&evidence, &node.policy(), &node.context(NONCE, None));
        assert_eq!(answer.unwrap_err(), Unusable::Version(2));
    }
}

mod kernel_tier {
    use super::*;

    fn tagged() -> Node {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.tier = Tier::Kernel;
        node.accept_templates = "[ima-cgpath]".into();
        node.list.clear();
        node.waiting.clear();
        let kernel = Actor {
            cgroup: Some(b"/".to_vec()),
            exes: vec![b"swapper/0".to_vec()],
        };
        node.measure(&kernel, "boot_aggregate", &sha256(b"pcrs 0 to 9"));
        for path in ["/sbin/init", IMA_POLICY, COLLECTOR] {
            node.measure(&Actor::host("/sbin/init"), path, &sha256(path.as_bytes()));
        }
        for n in 1..=4 {
            node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
        }
        node
    }

    #[test]
    fn entries_are_partitioned_by_their_own_path_and_the_verdict_rests_on_what_is_attested() {
        let mut node = tagged();
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(verdict.pods.len(), 4);
        assert!(
            verdict
                .pods
                .iter()
                .all(|p| p.provenance == cgpath_evidence::Provenance::Attested)
        );
    }

    #[test]
    fn a_tampered_an_unknown_and_a_suspect_pod_are_found() {
        let mut node = tagged();
        node.execute(&Actor::pod(pod(2), "/bin/app"), "/bin/app", &sha256(b"evil"));
        node.execute_good(&Actor::intruder(pod(3), "/bin/app"), "/lib/libc.so");
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Untrusted, State::Untrusted, State::Trusted]
        );
        node.execute(&Actor::pod(pod(7), "/bin/app"), "/bin/app", &sha256(b"1/bin/app"));
        let evidence = node.attest(NONCE);
        fails(&judge(&node, &evidence), Rule::KnownPods, &pod(7).to_string());
    }

    #[test]
    fn what_the_kernel_escaped_in_a_tag_is_read_as_it_was() {
        let mut node = tagged();
        let nested = Actor {
            cgroup: Some(format!("/kubepods/pod{}/a b:c\\d", pod(2)).into_bytes()),
            exes: vec![
                b"/opt/my app".to_vec(),
                b"/usr/bin/containerd-shim-runc-v2".to_vec(),
            ],
        };
        node.measure(&nested, "/bin/app", &sha256(b"evil"));
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
        );
        assert!(verdict.pods.iter().all(|pod| pod.suspect == 0), "{verdict}");
    }

    #[test]
    fn an_entry_without_a_cgroup_path_is_unattributed() {
        let mut node = tagged();
        node.measure(
            &Actor::lost("/sbin/init"),
            "/usr/bin/tool",
            &sha256(b"/usr/bin/tool"),
        );
        let evidence = node.attest(NONCE);
        disbelieved(&judge(&node, &evidence), Rule::Records, "no usable cgroup path");
    }

    #[test]
    fn a_violation_names_nobody_so_the_node_answers_for_it() {
        let mut node = tagged();
        let mut violation = Measurement::ima_cgpath("x", "/", b"/data", &Digest::zero(Bank::Sha256));
        violation.violation = true;
        node.list.push(violation);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        fails(&verdict, Rule::Violations, "written while it was measured");
        assert_eq!(verdict.node.state, State::Untrusted);
    }

    #[test]
    fn where_records_come_along_both_must_agree_on_whose_an_entry_is() {
        let mut node = tagged();
        node.checkpoints.clear();
        node.seq = 0;
        node.boot_len = 4;
        for (_, record) in &node.waiting {
            assert!(record.seq > 0);
        }
        let records: Vec<_> = node.waiting.drain(..).skip(4).collect();
        node.waiting = records;
        node.seq = node.waiting.iter().map(|(_, r)| r.seq).max().unwrap();
        let mut swapped = node.clone();
        let with_records = |node: &mut Node| {
            node.seal(Some(NONCE));
            let quote = node.quote(NONCE);
            let kernel = node.evidence(quote.clone());
            node.tier = Tier::Bpf;
            let bpf = node.evidence(quote);
            node.tier = Tier::Kernel;
            Evidence {
                tier: Tier::Kernel,
                partitions: bpf.partitions,
                checkpoints: bpf.checkpoints,
                ..kernel
            }
        };
        let evidence = with_records(&mut node);
        let verdict = judge(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert!(
            verdict
                .pods
                .iter()
                .all(|p| p.provenance == cgpath_evidence::Provenance::Attested)
        );

        for (key, record) in &mut swapped.waiting {
            if *key == PartitionKey::Pod(pod(3)) {
                *key = PartitionKey::Host;
                record.cgroup = Some(b"/system.slice".to_vec());
            }
        }
        let evidence = with_records(&mut swapped);
        disbelieved(
            &judge(&swapped, &evidence),
            Rule::Records,
            "disagree on whose it is",
        );
    }
}

mod output {
    use super::*;

    #[test]
    fn the_json_shape_is_the_documented_one_and_is_read_back() {
        let mut node = busy();
        node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"tampered"));
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        let json = serde_json::to_value(&verdict).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let top = [
            "accepted",
            "dangerous",
            "learned",
            "node",
            "pods",
            "policy",
            "relaxations",
            "start",
            "time",
            "trusted",
            "version",
        ];
        assert_eq!(keys(&json), top);
        let node = [
            "anchor",
            "believed",
            "boot",
            "boot_entries",
            "boot_id",
            "checkpoint",
            "checkpoint_sha256",
            "covered",
            "entries",
            "excluded",
            "executions",
            "filehash_err",
            "findings",
            "fnf",
            "kernel",
            "key",
            "lost",
            "name",
            "notes",
            "pending",
            "records",
            "state",
            "suspect",
            "tier",
            "unattributed",
        ];
        assert_eq!(keys(&json["node"]), node);
        let pod = [
            "charged",
            "entries",
            "excluded",
            "executions",
            "filehash_err",
            "files",
            "findings",
            "fnf",
            "learned",
            "name",
            "provenance",
            "state",
            "suspect",
            "uid",
        ];
        assert_eq!(keys(&json["pods"][3]), pod);
        assert_eq!(
            keys(&json["pods"][3]["files"][0]),
            ["accepted", "digest", "entries", "executions", "path"]
        );
        let finding = [
            "expected",
            "found",
            "index",
            "path",
            "provenance",
            "rule",
            "seq",
            "severity",
            "subject",
            "text",
        ];
        assert_eq!(keys(&json["pods"][3]["findings"][0]), finding);
        let read: Verdict = serde_json::from_value(json).unwrap();
        assert_eq!(
            read,
            Verdict {
                state: None,
                ..verdict
            }
        );
    }

    #[test]
    fn what_others_chose_can_not_command_the_readers_terminal() {
        let mut node = busy();
        let nasty = "\u{1b}[2J\u{202e}";
        node.execute(&Actor::pod(pod(5), nasty), format!("/{nasty}"), &sha256(b"x"));
        node.execute(
            &Actor::intruder(pod(4), nasty),
            format!("/{nasty}"),
            &sha256(b"x"),
        );
        node.pods = vec![cgpath_evidence::PodInfo {
            uid: pod(5),
            namespace: nasty.into(),
            name: nasty.into(),
        }];
        let mut evidence = node.attest(NONCE);
        evidence.node = nasty.into();
        let table = judge(&node, &evidence).to_string();
        assert!(table.contains("[2J"), "{table:?}");
        assert!(
            !table.contains('\u{1b}') && !table.contains('\u{202e}'),
            "{table:?}"
        );
    }

    #[test]
    fn a_flood_of_findings_is_cut_and_said_and_changes_no_verdict() {
        let mut node = busy();
        for n in 0..600 {
            node.execute(
                &Actor::pod(pod(4), "/bin/app"),
                format!("/tmp/{n}"),
                &sha256(b"x"),
            );
        }
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence);
        let found = &verdict.pod(pod(4)).unwrap().findings;
        assert_eq!(found.len(), cgpath_appraisal::MAX_FINDINGS + 1);
        assert!(
            found.last().unwrap().text.contains("500 more"),
            "{:?}",
            found.last()
        );
        assert_eq!(
            states(&verdict),
            [State::Trusted, State::Trusted, State::Trusted, State::Untrusted]
        );
    }

    #[test]
    fn files_of_pods_older_than_the_collector_may_stand_in_the_boots_part_of_the_list() {
        let boot = |predating: Vec<cgpath_evidence::PodUid>| {
            let mut node = Node::boot(KeyKind::EcdsaP256);
            node.predating = predating;
            node.checkpoints.clear();
            node.waiting.clear();
            node.seq = 0;
            node.list.truncate(usize::try_from(node.boot_len).unwrap());
            node.list
                .push(Measurement::ima_ng(b"/bin/app", &sha256(b"3/bin/app")));
            node.boot_len += 1;
            node.seal(None);
            let evidence = node.attest(NONCE);
            judge(&node, &evidence)
        };
        assert_eq!(boot(vec![pod(3)]).node.state, State::Trusted);
        fails(&boot(vec![pod(4)]), Rule::Host, "no reference value");
        fails(&boot(vec![]), Rule::Host, "no reference value");
    }
}
