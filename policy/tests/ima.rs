//! The IMA rule files that are shipped, and what is noticed in others.

use cgpath_policy::ima::{MINIMAL, RECOMMENDED, missing, parse};

#[test]
fn the_shipped_rule_files_carry_every_rule_that_is_needed() {
    for text in [MINIMAL, RECOMMENDED] {
        let rules = parse(text).unwrap();
        assert_eq!(missing(&rules), Vec::<String>::new());
        // The kernel's pages hold a policy that is written as text; loaded by path it may be longer.
        assert!(text.len() < 4096, "{} bytes", text.len());
    }
    assert!(
        parse(RECOMMENDED)
            .unwrap()
            .iter()
            .any(|r| r.option("func") == Some("KEXEC_CMDLINE"))
    );
}

#[test]
fn every_rule_of_the_shipped_files_is_explained_by_the_lines_above_it() {
    for text in [MINIMAL, RECOMMENDED] {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                let above = lines[..n]
                    .iter()
                    .rev()
                    .find(|l| !l.starts_with("measure"))
                    .unwrap();
                assert!(above.starts_with("# "), "line {}: {line}", n + 1);
            }
        }
    }
}

#[test]
fn each_rule_that_is_left_out_is_missed() {
    let all = MINIMAL.lines().filter(|l| l.starts_with("measure")).count();
    assert_eq!(all, 8);
    for n in 0..all {
        let mut seen = 0;
        let mut left_out = "";
        let mut text = String::new();
        for line in MINIMAL.lines() {
            if line.starts_with("measure") {
                seen += 1;
                if seen - 1 == n {
                    left_out = line;
                    continue;
                }
            }
            text += &format!("{line}\n");
        }
        assert_eq!(missing(&parse(&text).unwrap()), [left_out]);
    }
}

#[test]
fn a_rule_with_a_further_condition_does_not_count() {
    let text = MINIMAL.replace("func=BPRM_CHECK", "func=BPRM_CHECK uid=0");
    assert_eq!(missing(&parse(&text).unwrap()), ["measure func=BPRM_CHECK"]);
    let text = MINIMAL.replace("-c9a7c9a7c9a7", "-c9a7c9a7c9a8");
    assert_eq!(missing(&parse(&text).unwrap()).len(), 1);
}

#[test]
fn an_exclusion_of_where_containers_live_is_noticed() {
    for exclusion in [
        "dont_measure fsmagic=0x01021994",
        "dont_measure fsmagic=0x794c7630 func=BPRM_CHECK",
        "dont_measure",
    ] {
        let found = missing(&parse(&format!("{exclusion}\n{MINIMAL}")).unwrap());
        assert!(found[0].contains("before the exclusion in line 1"), "{found:?}");
    }
    assert!(missing(&parse(&format!("{MINIMAL}\ndont_measure fsmagic=0x01021994")).unwrap()).is_empty());
}

#[test]
fn what_the_kernel_refuses_is_refused_with_its_line() {
    for (text, why) in [
        ("measur func=BPRM_CHECK", "not an action"),
        ("measure func=NOT_CHECK", "does not know"),
        ("measure mask=READ", "does not know"),
        ("measure fsmagic=zz", "does not know"),
        ("measure fsuuid=1ca09a17", "does not know"),
        ("measure uid=-1", "does not know"),
        ("measure pcr=64", "does not know"),
        ("measure func>BPRM_CHECK", "not an option"),
        ("measure nonsense", "not an option"),
        ("measure audit", "second action"),
        ("func=BPRM_CHECK", "no action"),
        ("measure uid=0 uid=1", "twice"),
        ("measure func=", "no value"),
    ] {
        let error = parse(&format!("# first\n\n{text}\n")).unwrap_err();
        assert!(error.line == 3 && error.why.contains(why), "{text}: {error}");
    }
    assert!(parse("# nothing\n").is_err());
    assert!(parse("measure uid>10 fowner<5\n\t # comment\n").is_ok());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        if let Ok(rules) = parse(&text) {
            missing(&rules);
        }
    }
}
