//! A trust domain's register as the anchor: what is believed, and what must not be.
//!
//! The domain is made of software ([`cgpath_testkit::td`]): structures, chains and signatures are those of
//! real ones, under a root of the test's. What the silicon would do is not shown here.

mod boot;
mod collateral;
mod keys;
mod published;
mod quote;
mod register;
mod tenant;

use crate::ways::Ways;
use cgpath_appraisal::{
    BootAppraisal, Context, Finding, NodeState, Rule, Severity, State, Verdict, appraise,
};
use cgpath_evidence::Evidence;
use cgpath_policy::Policy;
use cgpath_testkit::td::{Platform, TrustDomain};
use cgpath_testkit::{Actor, KeyKind, Node, pod};

pub const NONCE: &[u8] = b"the nonce of this request";
pub const NEXT: &[u8] = b"the nonce of the next one";

pub fn domain() -> TrustDomain {
    TrustDomain::new(Platform::new("root", "host 1"))
}

/// Pods 1 to 4 and the host have run what they may.
pub fn busy_in(domain: TrustDomain, has_tpm: bool) -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, has_tpm);
    run(&mut node);
    node
}

pub fn run(node: &mut Node) {
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    for n in 1..=4 {
        let actor = Actor::pod(pod(n), "/bin/app");
        node.execute_good(&actor, "/bin/app");
        node.execute_good(&actor, "/lib/libc.so");
    }
}

/// Without a TPM.
pub fn busy() -> Node {
    busy_in(domain(), false)
}

pub fn appraised(node: &Node, evidence: &Evidence) -> Verdict {
    appraise_in(node, evidence, &node.context(NONCE, None))
}

pub fn appraised_next(node: &Node, evidence: &Evidence, before: &NodeState) -> Verdict {
    appraise_in(node, evidence, &node.context(NEXT, Some(before.clone())))
}

pub fn appraise_in(node: &Node, evidence: &Evidence, context: &Context) -> Verdict {
    appraise(evidence, &node.policy(), context).unwrap()
}

/// A first round that is trusted, and what to remember of it.
pub fn first_round(node: &mut Node) -> NodeState {
    let evidence = node.attest(NONCE);
    let verdict = appraised(node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    verdict.state.unwrap()
}

/// The node is not believed, because of this.
#[track_caller]
pub fn disbelieved(verdict: &Verdict, rule: Rule, words: &str) -> Finding {
    let found = verdict
        .failures()
        .find(|f| f.rule == rule && f.text.contains(words))
        .cloned();
    let found = found.unwrap_or_else(|| panic!("no failure of {rule} that says {words:?}:\n{verdict}"));
    assert!(!verdict.trusted && !verdict.node.believed, "{verdict}");
    assert!(
        verdict.pods.iter().all(|pod| pod.state != State::Trusted),
        "{verdict}"
    );
    assert!(
        verdict.state.is_none(),
        "what is not believed must not be remembered"
    );
    found
}

#[test]
fn a_register_alone_binds_the_list_and_the_verdict_says_for_how_long_nothing_did() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    assert!(evidence.quote.tpm.is_none() && evidence.td.is_some());
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.pods.len(), 4);
    assert_eq!(verdict.node.anchor, "RTMR 3");
    assert_eq!(verdict.node.boot, BootAppraisal::Trusted);
    assert_eq!(verdict.dangerous, ["tdx.dangerous-root"]);
    let td = verdict.node.td.unwrap();
    assert_eq!((td.tcb_status.as_str(), td.advisories.len()), ("UpToDate", 0));
    assert_eq!(td.platform, node.td.as_ref().unwrap().platform.id);
    // From the boot to checkpoint 0 ten seconds passed, between checkpoints one.
    assert_eq!((td.unbound_ms, td.unbound_entries), (Some(10_000), 0));
    let state = verdict.state.unwrap();
    assert_eq!(state.covered, node.list.len() as u64);
    assert!(state.ak_name.is_empty() && state.td.is_some());
}

#[test]
fn a_tpm_and_a_register_are_both_anchors_where_the_policy_names_both() {
    let mut node = busy_in(domain(), true);
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.anchor, "PCR 10 (sha256) and RTMR 3");
    assert_eq!(verdict.node.boot, BootAppraisal::NotAppraised);
    // PCR 10 binds each entry as it is listed.
    assert_eq!(verdict.node.td.unwrap().unbound_ms, None);
    let state = verdict.state.unwrap();
    assert!(!state.ak_name.is_empty() && state.td.is_some());
}

/// The policy of a node with both anchors, with this of `accept`.
fn naming(node: &Node, anchors: &str) -> Policy {
    let mut yaml = node.policy_yaml().replace("anchors: [pcr-10, rtmr-3]", anchors);
    if !anchors.contains("pcr") {
        yaml = yaml.replace("  banks: [sha256]\n", "");
        yaml = yaml.replace("\ndangerous-boot-not-judged: true\n", "\n");
    } else if !anchors.contains("rtmr") {
        yaml.truncate(yaml.find("\ntdx:").unwrap() + 1);
    }
    let reference = |name: &str| node.reference(name).ok_or_else(|| "none".to_owned());
    Policy::load("p", yaml.as_bytes(), reference).unwrap()
}

#[test]
fn fewer_anchors_than_the_policy_names_are_a_downgrade_and_more_are_said() {
    let mut node = busy_in(domain(), true);
    let good = node.attest(NONCE);
    let mut without = good.clone();
    without.quote.tpm = None;
    disbelieved(
        &appraised(&node, &without),
        Rule::Quote,
        "there is no TPM's quote",
    );
    let mut without = good.clone();
    without.quote.td = None;
    disbelieved(
        &appraised(&node, &without),
        Rule::Quote,
        "no trust domain's quote",
    );
    // A policy that names one anchor does not look at the other.
    for (anchors, words) in [
        ("anchors: [pcr-10]", "a trust domain's quote is there"),
        ("anchors: [rtmr-3]", "a TPM's quote is there"),
    ] {
        let verdict = appraise(&good, &naming(&node, anchors), &node.context(NONCE, None)).unwrap();
        assert!(verdict.trusted, "{verdict}");
        let notes = verdict.node.findings.iter();
        let mut notes = notes.filter(|finding| finding.severity == Severity::Note);
        assert!(notes.any(|note| note.text.contains(words)), "{verdict}");
    }
}

#[test]
fn rtmr_2_is_an_anchor_too_and_the_firmwares_log_leads_to_its_origin() {
    let mut domain = domain();
    domain.rtmr = 2;
    domain.boot();
    domain.policy += &format!(
        "  rtmr-origin: ['sha384:{}']\n",
        hex::encode(domain.body.rtmrs[2])
    );
    let mut node = busy_in(domain, false);
    let verdict = appraised(&node.clone(), &node.attest(NONCE));
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.node.anchor, "RTMR 2");
}

#[test]
fn a_quote_of_version_5_is_verified_like_one_of_version_4() {
    let mut domain = domain();
    domain.body.service = Some((domain.body.tee_tcb_svn, [0; 48]));
    let mut node = busy_in(domain, false);
    let evidence = node.attest(NONCE);
    assert_eq!(evidence.quote.td.as_ref().unwrap().outblob[0], 5);
    let verdict = appraised(&node, &evidence);
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn a_followed_round_of_a_trust_domain_has_the_verdict_of_the_whole() {
    // Of the last one the checkpoints' files are in the list, too, and no PCR is looked at.
    for anchors in ["rtmr-3", "pcr-10, rtmr-3", "anchors: [rtmr-3]"] {
        let (is_only, has_tpm) = (anchors.starts_with("anchors"), anchors != "rtmr-3");
        let mut node = busy_in(domain(), has_tpm);
        let mut ways = Ways::default();
        for round in 0..6 {
            let nonce = format!("the nonce of round {round}").into_bytes();
            match round {
                1 => node.td.as_mut().unwrap().policy += "  rtmr-writers: [attestation-agent]\n",
                2 => node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app"),
                3 => {
                    node.seal(None);
                    node.seal(None);
                }
                // Behind the last checkpoint, until the next one.
                4 => node.td.as_mut().unwrap().agent("domain operation content"),
                _ => run(&mut node),
            }
            node.seal(Some(&nonce));
            let quotes = node.quotes(&nonce);
            if round == 5 {
                node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/containerd");
            }
            let evidence = node.evidence(quotes);
            let context = ways.next(node.context(&nonce, None));
            let policy = if is_only {
                naming(&node, anchors)
            } else {
                node.policy()
            };
            let appraised = ways.appraise(&evidence, &policy, &context, &[]).unwrap();
            assert!(appraised.whole.trusted, "round {round}: {}", appraised.whole);
            assert!(appraised.disagreement().is_none(), "round {round}");
            let unbound = appraised.whole.node.td.as_ref().unwrap().unbound_entries;
            match anchors {
                "rtmr-3" => assert_eq!(unbound > 0, round == 5),
                "pcr-10, rtmr-3" => assert_eq!(unbound, 0),
                // The last checkpoint's file.
                _ => assert!(unbound > 0),
            }
        }
        // The policy changed once.
        assert!(ways.followed >= 4, "{}", ways.followed);
    }
}
