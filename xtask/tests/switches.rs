//! The program that puts switches for mutants into sources: with none on, the code does what it did; with one
//! on, it does what that mutant does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "the example's `main` is for the command")]
#[path = "../examples/switches.rs"]
mod switches;

use std::path::Path;
use std::process::Command;
use switches::{Mutant, RUNTIME, switched};

const SOURCE: &str = r#"
const FIXED: u32 = 2 + 2;

fn both(a: bool, b: bool) -> bool {
    a && b
}

fn either(a: bool, b: bool) -> bool {
    a || b && !FIXED.is_power_of_two()
}

fn less(a: u32, b: u32) -> bool {
    a < b
}

fn sum(a: u32) -> u32 {
    let mut sum = 1;
    sum += a - FIXED;
    sum
}

fn named(n: u32) -> &'static str {
    match n {
        1 => "one",
        n if n >= 5 => "many",
        _ => "some",
    }
}

fn large(a: Option<u32>) -> bool {
    if let Some(a) = a
        && a > 3
    {
        return true;
    }
    false
}

fn main() {
    let numbers = [1, 2, 5].map(named).join(" ");
    let (both, either) = (both(true, false), either(true, false));
    println!("{both} {either} {} {} {numbers} {}", less(2, 2), sum(5), large(Some(4)));
}
"#;

const AS_IT_IS: &str = "false true false 2 one some many true";

/// What is replaced, by the text that begins there; with what, and what then is printed.
const MUTANTS: [(&str, &str, &str, &str); 14] = [
    (
        "BinaryOperator",
        "&& b\n",
        "||",
        "true true false 2 one some many true",
    ),
    (
        "BinaryOperator",
        "|| b",
        "&&",
        "false false false 2 one some many true",
    ),
    ("BinaryOperator", "&& !FIXED", "||", AS_IT_IS),
    ("UnaryOperator", "!FIXED", "", AS_IT_IS),
    (
        "BinaryOperator",
        "< b",
        "==",
        "false true true 2 one some many true",
    ),
    ("BinaryOperator", "< b", ">", AS_IT_IS),
    (
        "BinaryOperator",
        "< b",
        "<=",
        "false true true 2 one some many true",
    ),
    (
        "BinaryOperator",
        "+= a",
        "-=",
        "false true false 0 one some many true",
    ),
    (
        "BinaryOperator",
        "- FIXED",
        "+",
        "false true false 10 one some many true",
    ),
    (
        "FnValue",
        "let mut sum",
        "7",
        "false true false 7 one some many true",
    ),
    ("MatchArm", "1 => ", "", "false true false 2 some some many true"),
    (
        "MatchArmGuard",
        "n >= 5",
        "true",
        "false true false 2 one many many true",
    ),
    (
        "MatchArmGuard",
        "n >= 5",
        "false",
        "false true false 2 one some some true",
    ),
    (
        "BinaryOperator",
        "> 3",
        "==",
        "false true false 2 one some many false",
    ),
];

/// What has no switch: a constant, and a condition that binds a name.
const WITHOUT: [(&str, &str, &str); 2] = [("BinaryOperator", "+ 2", "-"), ("BinaryOperator", "&& a", "||")];

fn mutant(number: usize, (genre, place, replacement): (&str, &str, &str)) -> Mutant {
    let before = &SOURCE[..SOURCE.find(place).unwrap()];
    let column = before.chars().rev().take_while(|c| *c != '\n').count();
    let value = serde_json::json!({
        "number": number, "file": "main.rs", "genre": genre, "replacement": replacement,
        "span": { "start": { "line": before.matches('\n').count() + 1, "column": column + 1 } },
    });
    Mutant::of(&value).unwrap().1
}

#[test]
fn a_switch_makes_the_mutant_and_none_changes_nothing() {
    let of_kind = MUTANTS.map(|(genre, place, replacement, _)| (genre, place, replacement));
    let all = of_kind.into_iter().chain(WITHOUT);
    let mutants: Vec<Mutant> = all
        .enumerate()
        .map(|(number, kind)| mutant(number, kind))
        .collect();
    let done = switched(SOURCE, &mutants).unwrap();
    let switches: Vec<u64> = done.switches.into_iter().collect();
    assert_eq!(switches, (0..MUTANTS.len() as u64).collect::<Vec<_>>());
    let let_chain = MUTANTS.len() as u64 + 1;
    assert_eq!(done.unviable.into_iter().collect::<Vec<_>>(), [let_chain]);
    let text = done.text;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("switches");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("mutants.rs"), RUNTIME).unwrap();
    std::fs::write(folder.join("main.rs"), format!("{text}\nmod mutants;\n")).unwrap();
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(compiler);
    let compile = compile
        .current_dir(&folder)
        .args(["--edition", "2024", "main.rs"]);
    let output = compile.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let run = |variable: &str, value: &std::ffi::OsStr| {
        let output = Command::new(folder.join("main"))
            .env(variable, value)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (number, (_, place, replacement, printed)) in MUTANTS.iter().enumerate() {
        let found = run("CGPATH_MUTANT", number.to_string().as_ref());
        assert_eq!(found, *printed, "{place} with {replacement}");
    }
    // Each is come by once, and nothing changes.
    let seen = folder.join("seen");
    let _ = std::fs::remove_file(&seen);
    assert_eq!(run("CGPATH_MUTANTS_SEEN", seen.as_ref()), AS_IT_IS);
    let seen = std::fs::read_to_string(&seen).unwrap();
    let mut seen: Vec<usize> = seen.lines().map(|line| line.parse().unwrap()).collect();
    seen.sort_unstable();
    // What stands behind `a ||` is not asked where `a` holds.
    let is_asked = |number: &usize| ![2, 3].contains(number);
    assert_eq!(seen, (0..MUTANTS.len()).filter(is_asked).collect::<Vec<_>>());
}
