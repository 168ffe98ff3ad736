//! Excludes match as Python's `re.match` does over the joined list: compared with the real one.

use crate::used;
use cgpath_policy::exclude::{Excludes, Hidden, STEP_LIMIT};
use std::io::Write;
use std::process::{Command, Stdio};

fn excludes(items: &[&str]) -> Excludes {
    Excludes::new(items.iter().map(|s| (*s).to_owned()).collect()).unwrap()
}

fn refusal(items: &[&str]) -> String {
    Excludes::new(items.iter().map(|s| (*s).to_owned()).collect())
        .unwrap_err()
        .to_string()
}

/// Lists of excludes as they are published for Keylime: its documentation, its tests, distributions' guides.
const PUBLISHED: &[&[&str]] = &[
    &["^(?!/usr/bin/).*$"],
    &["boot_aggregate"],
    &["boot_aggregate", "/tmp/.*", "/var/log/.*"],
    &["^/tmp/.*$", "^/proc/.*", "/boot/.*"],
    &[
        "/usr/local/bin/keylime.*",
        "/(root|tmp|var)/.*",
        "^/run/ima-cgpath/checkpoint/[0-9]+$",
    ],
    &[
        r"^/dracut-state.sh.*",
        r"^/etc/sssd/.*",
        r"^/srv/.*",
        r".*\.pyc$",
        r"/usr/lib/python3\.\d+/.*__pycache__/.*",
    ],
    &[
        r"^/lib/modules/[^/]+/modules\.(dep|alias)(\.bin)?$",
        r"^/(?!usr/|etc/)[a-z]+/.*$",
    ],
    &[
        "(?<!x)/a",
        r"(?:/usr)?/sbin/\w+(?!\S)",
        r"^(?!(/bin/|/sbin/|/usr/s?bin/)).+",
    ],
    &[
        "/var/lib/(kubelet|containerd)/.*",
        "/a{2,3}/?$",
        "[]/a]+$",
        r"[^\w/.-]",
    ],
];

const PATHS: &[&str] = &[
    "/",
    "/usr/bin/ls",
    "/usr/bin",
    "/usr/bin/",
    "/usr/sbin/sshd",
    "/bin/sh",
    "/tmp/x",
    "/tmp/",
    "/var/log/a\nb",
    "/usr/bin/x\n",
    "boot_aggregate",
    "boot_aggregates",
    "/run/ima-cgpath/checkpoint/17",
    "/run/ima-cgpath/checkpoint/17\n",
    "/run/ima-cgpath/checkpoint/x",
    "/usr/lib/python3.11/__pycache__/re.pyc",
    "/srv/ä/²",
    "/aa/",
    "/aaaa/",
    "]",
    "-",
    "/etc/sssd/x.conf",
    "/lib/modules/6.1.0/modules.dep.bin",
    "/srv/.bashrc",
    "x/a",
    "/proc/1/exe",
    "/\u{2003}x",
    "/A",
    "/a",
    "a",
    "/opt/a b",
    "/opt/a_b",
];

/// What the real `re` says of each list and path: an error, or whether it matches.
fn python(cases: &[(Vec<String>, Vec<String>)]) -> Vec<Result<Vec<bool>, String>> {
    const SCRIPT: &str = r#"
import json, re, sys, warnings
warnings.simplefilter("ignore")
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is needed")
out = []
for items, paths in json.load(sys.stdin):
    try:
        compiled = re.compile("(" + ")|(".join(items) + ")")
        out.append({"Ok": [compiled.match(path) is not None for path in paths]})
    except (re.error, OverflowError) as error:
        out.append({"Err": str(error)})
json.dump(out, sys.stdout)
"#;
    let mut child = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed to compare with");
    let input = serde_json::to_vec(cases).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "python3 failed");
    let answers: Vec<Result<Vec<bool>, String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), cases.len());
    answers
}

/// Compares; gives how many lists both took, and how many Python took that we refuse.
fn compare(cases: &[(Vec<String>, Vec<String>)]) -> (usize, usize) {
    let (mut both, mut refused) = (0, 0);
    for ((items, paths), theirs) in cases.iter().zip(python(cases)) {
        match (Excludes::new(items.clone()), theirs) {
            (Ok(ours), Ok(theirs)) => {
                both += 1;
                for (path, theirs) in paths.iter().zip(theirs) {
                    let wanted = if theirs { Hidden::Yes } else { Hidden::No };
                    assert_eq!(ours.matches(path.as_bytes()), wanted, "{items:?} on {path:?}");
                }
            }
            (Ok(_), Err(theirs)) => panic!("{items:?} is taken, and Python refuses it: {theirs}"),
            (Err(ours), Ok(_)) => {
                let known = ["no equal here", "not taken here", "cannot be compiled"];
                let text = ours.to_string();
                assert!(
                    known.iter().any(|k| text.contains(k)),
                    "{items:?}: Python takes it: {text}"
                );
                println!("refused here alone: {text}");
                refused += 1;
            }
            (Err(_), Err(_)) => {}
        }
    }
    (both, refused)
}

fn owned(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn published_lists_match_as_python_matches_them() {
    let cases: Vec<_> = PUBLISHED
        .iter()
        .map(|items| (owned(items), owned(PATHS)))
        .collect();
    assert_eq!(compare(&cases), (PUBLISHED.len(), 0));
}

#[test]
fn corners_of_the_syntax_mean_what_they_mean_in_python() {
    let corners: &[&[&str]] = &[
        &["(/a", ")/b"],
        &["a)|(b"],
        &["a|"],
        &[""],
        &["", "x"],
        &["a{"],
        &["a{,}"],
        &["a{,2}$"],
        &["a{}"],
        &["a{1"],
        &["a{2,1}"],
        &["/a{,3}?$"],
        &["/a++a"],
        &["/(?>a*)a"],
        &["/a*+$"],
        &["a**"],
        &["*a"],
        &["^*"],
        &["(?:a*)*$"],
        &["(a|b)*+/"],
        &[r"\A/\Z"],
        &[r"/a\Z"],
        &["/a$"],
        &[r"/\bA\b"],
        &[r"/\Ba"],
        &["(?a:/\\w+)$"],
        &[r"/\w+$"],
        &[r"/\s"],
        &[r"(?a:/\s)"],
        &["(?s:/var.*b)$"],
        &["/var.*b$"],
        &["(?m:/var/log/a$)"],
        &["(?m:.*\n^b)"],
        &["(?-s:.)"],
        &["(?s-:.)"],
        &["(?ss:.)"],
        &["(?au:.)"],
        &["(?i:/USR)"],
        &["(?i)/usr"],
        &["(?x: / )"],
        &["(?#comment)/a"],
        &["a(?#x)*"],
        &["(?#x"],
        &["(?P<n>/a)"],
        &["(?P<n>a)(?P<n>b)"],
        &["(?P<1>a)"],
        &["(?P=n)"],
        &[r"(a)\1"],
        &[r"\101"],
        &[r"/\141"],
        &[r"\400"],
        &[r"\08"],
        &[r"\0"],
        &[r"[\101]"],
        &[r"[\8]"],
        &[r"\x2f"],
        &[r"\x2"],
        &[r"/"],
        &[r"\U0000002f"],
        &[r"\ud800"],
        &[r"\N{SOLIDUS}"],
        &[r"\q"],
        &[r"\-"],
        &[r"\/"],
        &[r"\"],
        &["[a"],
        &["[]a]"],
        &["[]"],
        &["[^]/]"],
        &["[a-]"],
        &["[-a]"],
        &["[a-z-9]"],
        &["[z-a]"],
        &[r"[\w-a]"],
        &[r"[a-\w]"],
        &[r"[\w-]"],
        &["[[]"],
        &["[&&/]"],
        &["[~~]"],
        &["[a--/]"],
        &[r"[\b]"],
        &[r"[\]/]"],
        &[r"[\d\s/]"],
        &[r"[^\W]"],
        &["(?<=a|bc)/"],
        &["(?<=a|b)/"],
        &["x(?<=x)/a"],
        &["x(?<!y)/a"],
        &["(?<=a*)b"],
        &["(?<x)"],
        &["(?<=(?=x)x)/"],
        &["(?=/a)(?!/ab)"],
        &["(?=/a)*/"],
        &["(?(1)a|b)"],
        &["(a)(?(1)b|c)"],
        &["a)"],
        &["(a"],
        &["(?"],
        &["(?z)"],
        &["a{65536}"],
        &["a{4294967296}"],
        &["(?:)"],
        &["(?:)*"],
        &["|"],
        &["||"],
        &["()"],
        &["(|a)+$"],
        &["."],
        &["\u{e4}"],
    ];
    let cases: Vec<_> = corners.iter().map(|items| (owned(items), owned(PATHS))).collect();
    let (both, refused) = compare(&cases);
    assert!(both > 60, "{both} lists were compared");
    assert!(refused < 16, "{refused} lists are refused here alone");
}

/// A list of one or two patterns made of what patterns are made of, and paths that they might match.
struct Maker(u64);

impl Maker {
    fn below(&mut self, n: usize) -> usize {
        // xorshift64*: the same lists in every run.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn pattern(&mut self, depth: usize, out: &mut String) {
        for _ in 0..1 + self.below(4) {
            match self.below(if depth == 0 { 8 } else { 12 }) {
                0..=3 => out.push_str(self.pick(&["/", "a", "b", "ab", "/a", r"\.", "_", "-", "\n"])),
                4 => out.push_str(self.pick(&[
                    ".", r"\w", r"\W", r"\d", r"\s", r"\S", "[a-b]", "[^/]", "[^a\\n]", r"[\w/]",
                ])),
                5 => out.push_str(self.pick(&["^", "$", r"\b", r"\B", r"\A", r"\Z"])),
                6 => out.push('|'),
                7 => out.push_str(self.pick(&["]", "{", "}", ",", "a{1,2}", "{,1}", "-"])),
                8..=10 => {
                    out.push_str(self.pick(&[
                        "(", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?s:", "(?m:", "(?a:",
                    ]));
                    self.pattern(depth - 1, out);
                    out.push(')');
                }
                _ => {}
            }
            if self.below(3) == 0 {
                out.push_str(self.pick(&[
                    "*", "+", "?", "{2}", "{1,}", "{,2}", "*?", "+?", "*+", "?+", "{0,2}+",
                ]));
            }
        }
    }

    fn path(&mut self) -> String {
        (0..1 + self.below(7))
            .map(|_| self.pick(&["/", "a", "b", "_", "-", ".", "\n", " ", "ä", "1"]))
            .collect()
    }
}

#[test]
fn generated_lists_match_as_python_matches_them() {
    let mut maker = Maker(0x0123_4567_89ab_cdef);
    let mut cases = Vec::new();
    for _ in 0..3000 {
        let items = (0..1 + maker.below(2))
            .map(|_| {
                let mut pattern = String::new();
                maker.pattern(2, &mut pattern);
                pattern
            })
            .collect();
        cases.push((items, (0..24).map(|_| maker.path()).collect()));
    }
    let (both, refused) = compare(&cases);
    println!("{both} lists compared on 24 paths each, {refused} refused here alone");
    assert!(both > 1000, "{both} lists were compared");
    assert!(refused * 20 < both, "{refused} lists are refused here alone");
}

#[test]
fn classes_hold_the_characters_that_python_puts_into_them() {
    // Characters that the older of the two Unicode versions does not know yet can differ.
    let assigned = "import sys, unicodedata, json
json.dump([c for c in range(1, 0x110000) if not 0xd800 <= c < 0xe000 and unicodedata.category(chr(c)) not in ('Cn', 'Co')], sys.stdout)";
    let output = Command::new("python3")
        .args(["-c", assigned])
        .output()
        .expect("python3 is needed to compare with");
    let numbers: Vec<u32> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(numbers.len() > 140_000);
    let paths: Vec<String> = numbers
        .iter()
        .filter_map(|n| char::from_u32(*n))
        .map(String::from)
        .collect();
    let lists = [
        r"\w", r"\d", r"\s", r"[^\W\d]", r"(?a:\w)", r"(?a:\s)", r".", r"\b",
    ];
    let cases: Vec<_> = lists.iter().map(|item| (owned(&[item]), paths.clone())).collect();
    assert_eq!(compare(&cases), (lists.len(), 0));
}

#[test]
fn a_pattern_that_python_refuses_or_that_has_no_equal_is_an_error_with_its_place() {
    assert_eq!(
        refusal(&["/a", "/b[z-a]"]),
        "exclude 2 (\"/b[z-a]\"), character 3: bad character range"
    );
    assert!(refusal(&["(a)\\1"]).ends_with("character 3: back-references have no equal here"));
    assert!(refusal(&["(?i:a)"]).contains("ignoring case has no equal here"));
    assert!(refusal(&["(?i)a"]).contains("ignoring case"));
    assert!(refusal(&[&"a".repeat(70_000)]).contains("the limit is 65536"));
    assert!(refusal(&[&"(".repeat(5000)]).contains("deeper than 64"));
    // A short pattern that is a long program.
    assert!(refusal(&[r"(?:(?:\w{1000}){1000}){1000}"]).contains("cannot be compiled"));
}

#[test]
fn a_path_that_needs_too_many_steps_is_appraised() {
    // Python would go on for ages.
    let list = excludes(&["/(?:a(?=.)|a(?=.)a(?=.))+c"]);
    let path = format!("/{}d", "a".repeat(200));
    let start = used();
    assert_eq!(list.matches(path.as_bytes()), Hidden::GaveUp, "{STEP_LIMIT}");
    assert!((used() - start).as_secs() < 10);
}

#[test]
fn a_path_that_is_not_text_is_never_excluded() {
    assert_eq!(excludes(&[".*"]).matches(b"/\xff"), Hidden::No);
    assert_eq!(Excludes::default().matches(b"/a"), Hidden::No);
}
