//! V10: the boot, as far as it takes no events (those are in `measured`).

use super::*;

#[test]
fn the_boot_is_passed_over_only_with_the_dangerous_key_which_every_output_repeats() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
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
        let verdict = appraised(&node, &evidence);
        disbelieved(&verdict, Rule::Boot, "boot log is not judged");
        assert_eq!(verdict.node.state, State::Untrusted);
        assert!(verdict.dangerous.is_empty());
    }
}
