//! Commands that the documents show: each exists, with every option that is shown.

use std::path::Path;
use std::process::Command;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "docs/demo.md",
    "docs/first-verdict.md",
    "docs/install-by-hand.md",
    "docs/install.md",
    "docs/keylime.md",
    "docs/operate.md",
    "docs/overview.md",
    "docs/policies.md",
    "docs/tenants.md",
    "docs/troubleshooting.md",
    "docs/trustee.md",
    "docs/uninstall.md",
    "docs/upgrade.md",
    "docs/verifiers.md",
    "policy/README.md",
];

/// The words of a command line as a shell has them, as far as the documents go: quotes, and nothing else that
/// is special.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands `cgpath` on a line of a block: up to where the shell does something else.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.trim().trim_start_matches("$ ");
    // What follows after a gap says what the command is for.
    let line = line.split("  ").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut command: Option<Vec<String>> = None;
    for word in words(line) {
        if matches!(
            word.as_str(),
            "&&" | "|" | ">" | ">>" | "#" | "&" | ";" | "\\" | "…"
        ) {
            found.extend(command.take());
        } else if let Some(command) = &mut command {
            command.push(word);
        } else if word == "cgpath" {
            command = Some(Vec::new());
        }
    }
    found.extend(command);
    found
}

#[test]
fn every_command_that_a_document_shows_exists_with_its_options() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut shown = 0;
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let mut inside = false;
        for (n, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
                continue;
            }
            let begins = line.trim_start();
            if !inside || !(begins.starts_with("$ ") || begins.starts_with("cgpath ")) {
                continue;
            }
            for command in commands(line) {
                shown += 1;
                let output = Command::new(env!("CARGO_BIN_EXE_cgpath"))
                    .args(&command)
                    .arg("--help")
                    .output()
                    .unwrap();
                assert!(
                    output.status.success(),
                    "{document}:{}: cgpath {}\n{}",
                    n + 1,
                    command.join(" "),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
    assert!(shown > 40, "only {shown} commands were found");
}

#[test]
fn a_boot_that_is_joined_of_two_sources_can_be_used_and_lacks_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let page = std::fs::read_to_string(root.join("docs/policies.md")).unwrap();
    let begins = page.find("```yaml\nboot:\n").expect("the page shows one");
    let shown = page[begins..].strip_prefix("```yaml\n").unwrap();
    let boot = shown.split("```").next().unwrap();
    let examples = root.join("policy/examples/two-pods");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&examples).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let rest = std::fs::read_to_string(examples.join("node.yaml")).unwrap();
    let rest = rest.replace("dangerous-boot-not-judged: true\n", "");
    let run = |command: &str, text: &str| {
        std::fs::write(dir.path().join("joined.yaml"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(["policy", command, "joined.yaml"])
            .current_dir(&dir)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let joined = rest.clone() + boot;
    let (code, said) = run("check", &joined);
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = run("lint", &joined);
    assert!(!said.contains("boot: "), "{said}");
    // Without the firmware's registers there is something to say, and two sections are none.
    let (registers, image) = boot.split_once("  # of from-uki").unwrap();
    let (_, said) = run("lint", &format!("{rest}boot:\n  # of from-uki{image}"));
    assert!(said.contains("boot: no registers"), "{said}");
    let (code, said) = run(
        "check",
        &format!("{rest}{registers}boot:\n  # of from-uki{image}"),
    );
    assert!(
        code == Some(2) && said.contains("duplicate key \"boot\""),
        "{said}"
    );
}

/// The help of a command, then those of its subcommands.
fn helps(command: &[String]) -> Vec<(String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(command)
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let listed = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What goes on from the line above is further to the right.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    let mut all: Vec<(String, String)> = listed
        .flat_map(|name| helps(&[command, &[name.to_owned()]].concat()))
        .collect();
    all.push((command.join(" "), text.clone()));
    all
}

#[test]
fn every_help_uses_the_words_of_the_documents_and_ends_with_the_common_options() {
    let all = helps(&[]);
    assert!(all.len() > 35, "only {} helps", all.len());
    for (command, text) in all {
        let prose = text.to_lowercase();
        let words: Vec<&str> = prose.split(|c: char| !c.is_alphanumeric()).collect();
        for banned in ["told", "whoever", "hearsay"] {
            assert!(!words.contains(&banned), "cgpath {command} --help: {banned}");
        }
        for banned in ["judged again", "can not"] {
            assert!(
                !words.join(" ").contains(banned),
                "cgpath {command} --help: {banned}"
            );
        }
        let at = |option: &str| {
            text.lines()
                .position(|line| line.trim_start().starts_with(option))
        };
        let own = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.starts_with("      --") || line.get(4..5) == Some(","))
            .filter(|(_, line)| {
                !["--json", "--color", "-h,", "-V,"]
                    .iter()
                    .any(|common| line.contains(common))
            })
            .map(|(at, _)| at)
            .max();
        assert!(own < at("--json"), "cgpath {command} --help: --json comes last");
    }
}

#[test]
fn the_store_is_by_default_where_the_unit_serves_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let unit = std::fs::read_to_string(root.join("deploy/cgpath.service")).unwrap();
    let served = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cgpath serve "));
    let store = served.and_then(|line| line.split_whitespace().next()).unwrap();
    for (command, text) in helps(&["node".to_owned()]) {
        let has_store = text.contains("--store <DIR>");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            text.contains(&format!("[default: {store}]")),
            has_store,
            "cgpath {command} --help"
        );
    }
}

#[test]
fn an_option_that_is_none_is_seen() {
    let line = "$ cgpath node list --no-such-option   # a comment";
    let output = Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(&commands(line)[0])
        .arg("--help")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        commands("$ cgpath a 'b c' > x && cgpath d"),
        [vec!["a", "b c"], vec!["d"]]
    );
}

#[test]
fn an_image_that_is_named_and_not_there_says_how_it_is_fetched() {
    let output = Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(["policy", "from-image", "registry.example/app:1", "-o", "app.json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("skopeo copy docker://"), "{said}");
}
