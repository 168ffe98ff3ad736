//! `cgpath prove` and `cgpath verify --tenant` as a person or a script runs them.

use cgpath_evidence::td::{node_key_hash, public_node_key};
use cgpath_testkit::td::{Platform, TrustDomain};
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};
use p256::{
    SecretKey,
    pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding},
};
use std::process::{Command, Output};

const NONCE: &[u8] = b"the nonce of this request";

struct Folder {
    dir: tempfile::TempDir,
    node: Node,
}

impl Folder {
    fn new() -> Folder {
        Folder::with(Node::boot(KeyKind::EcdsaP256))
    }

    fn with(mut node: Node) -> Folder {
        for n in [1, 2] {
            node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
        }
        let folder = Folder {
            dir: tempfile::tempdir().unwrap(),
            node,
        };
        folder.write("policy.yaml", folder.node.policy_yaml().as_bytes());
        for name in std::iter::once("host.json".to_owned()).chain((1..=4).map(|n| format!("{}.json", pod(n))))
        {
            folder.write(&name, &folder.node.reference(&name).unwrap());
        }
        let uid = pod(1);
        let own = format!(
            "version: 1\n\
             pod: {uid}\n\
             name: shop/web\n\
             templates: [ima-sig, ima-ng]\n\
             banks: [sha256]\n\
             references: [{uid}.json]\n"
        );
        folder.write("web.yaml", own.as_bytes());
        folder.write("ak.pub", &folder.node.ak.public());
        let key = SecretKey::from_slice(&[5; 32]).unwrap();
        folder.write(
            "verdict.pem",
            key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes(),
        );
        let public = key.public_key().to_public_key_pem(LineEnding::LF).unwrap();
        folder.write("verdict.pub.pem", public.as_bytes());
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn cgpath(&self, line: &str) -> Output {
        let line = line
            .replace("NONCE", &hex::encode(NONCE))
            .replace("UID", &pod(1).to_string());
        Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(line.split_whitespace())
            .current_dir(&self.dir)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn exits(&self, code: i32, line: &str) -> String {
        let output = self.cgpath(line);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}\n{said}");
        said
    }

    /// New evidence, and the full verifier's result about pod 1.
    fn attest(&mut self) {
        let evidence = self.node.attest(NONCE);
        self.write("evidence.cbor", &evidence.to_cbor());
        self.exits(0, APPRAISE);
    }
}

/// The full verifier's judgement, with its result about pod 1.
const APPRAISE: &str = "verify evidence.cbor --policy policy.yaml --ak ak.pub --nonce NONCE --ear \
    verdict.pem --ear-pod UID -o web.jwt";

const VERIFY: &str =
    "verify --tenant web.tenant --policy web.yaml --ak ak.pub --nonce NONCE --state web.state";

#[test]
fn a_tenant_follows_its_pod_from_bundle_to_bundle() {
    let mut folder = Folder::new();
    folder.attest();
    let said = folder.exits(
        0,
        "prove --pod UID --evidence evidence.cbor --ear web.jwt -o web.tenant",
    );
    assert!(said.contains("with a full verifier's result"), "{said}");
    let said = folder.exits(0, &format!("{VERIFY} --verifier verdict.pub.pem --json"));
    let verdict: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (verdict["outcome"].as_str(), verdict["trusted"].as_bool()),
        (Some("trusted"), Some(true))
    );
    let covered = verdict["covered"].as_u64().unwrap();
    let size = |name: &str| std::fs::metadata(folder.dir.path().join(name)).unwrap().len();
    let whole = size("web.tenant");

    folder
        .node
        .execute_good(&Actor::host("/usr/bin/tool"), "/usr/bin/tool");
    folder.attest();
    folder.exits(
        0,
        &format!("prove --pod UID --evidence evidence.cbor --ear web.jwt --from {covered} -o web.tenant"),
    );
    assert!(
        std::fs::metadata(folder.dir.path().join("web.tenant"))
            .unwrap()
            .len()
            < whole
    );
    folder.exits(0, &format!("{VERIFY} --verifier verdict.pub.pem"));
    // The same again is nothing new.
    let said = folder.exits(1, &format!("{VERIFY} --verifier verdict.pub.pem"));
    assert!(said.contains("FAIL: ") && said.contains("(V4)"), "{said}");
}

#[test]
fn nobody_who_vouches_is_exit_3_and_a_tampered_pod_exit_1() {
    let mut folder = Folder::new();
    folder.attest();
    folder.exits(0, "prove --pod UID --evidence evidence.cbor -o web.tenant");
    let said = folder.exits(3, VERIFY);
    assert!(
        said.contains("PARTITION ONLY") && said.contains("nobody vouches"),
        "{said}"
    );
    folder.exits(
        0,
        "prove --pod UID --evidence evidence.cbor --ear web.jwt -o web.tenant",
    );
    let again = VERIFY.replace(" --state web.state", "");
    assert!(folder.exits(3, &again).contains("not signed by a key"));
    folder.exits(0, &format!("{again} --verifier verdict.pub.pem"));

    folder
        .node
        .execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let evidence = folder.node.attest(NONCE);
    folder.write("evidence.cbor", &evidence.to_cbor());
    folder.exits(0, "prove --pod UID --evidence evidence.cbor -o web.tenant");
    let said = folder.exits(1, &again);
    assert!(
        said.contains("/bin/app") && said.contains(&sha256(b"evil").to_string()),
        "{said}"
    );
}

#[test]
fn a_result_that_names_other_pods_is_never_put_into_a_bundle() {
    let mut folder = Folder::new();
    folder.attest();
    folder.exits(
        0,
        "verify evidence.cbor --policy policy.yaml --ak ak.pub --nonce NONCE --ear verdict.pem -o all.jwt",
    );
    let said = folder.exits(
        2,
        "prove --pod UID --evidence evidence.cbor --ear all.jwt -o web.tenant",
    );
    assert!(
        said.contains(&pod(2).to_string()) && said.contains("--ear-pod"),
        "{said}"
    );
    assert!(!folder.dir.path().join("web.tenant").exists());
}

#[test]
fn what_is_no_bundle_no_key_and_no_policy_is_exit_2_with_the_place() {
    let mut folder = Folder::new();
    folder.attest();
    folder.write("web.tenant", b"\xa1\x00");
    let said = folder.exits(2, &VERIFY.replace(" --state web.state", ""));
    assert!(said.contains("incomplete at byte 2"), "{said}");
    folder.exits(0, "prove --pod UID --evidence evidence.cbor -o web.tenant");
    assert!(
        folder
            .exits(2, &format!("{VERIFY} --verifier ak.pub"))
            .contains("not a P-256 public key")
    );
    assert!(
        folder
            .exits(2, &VERIFY.replace("web.yaml", "policy.yaml"))
            .contains("policy.yaml")
    );
    assert!(
        folder
            .exits(2, "prove --pod nonsense --evidence evidence.cbor -o x")
            .contains("not a pod UID")
    );
    assert!(
        folder
            .exits(2, "prove --pod UID --evidence evidence.cbor --from 999 -o x")
            .contains("the quote covers")
    );
    assert!(
        folder
            .exits(2, "verify --policy web.yaml --ak ak.pub --nonce NONCE")
            .contains("no evidence is named")
    );
}

/// The console blocks of a page: each line after `$ cgpath`, and what it says it prints.
fn console(page: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (line, line.strip_prefix("$ cgpath "), commands.last_mut()) {
            ("```console", ..) => inside = true,
            ("```", ..) => inside = false,
            (_, Some(command), _) if inside => commands.push((command.to_owned(), String::new())),
            (_, None, Some((_, said))) if inside => *said += &format!("{line}\n"),
            _ => {}
        }
    }
    commands
}

/// Times differ from run to run.
fn without_times(text: &str) -> String {
    let mut parts = text.split("(unix time ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        out + "(unix time" + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// `UPDATE_DOCS=1 cargo test -p cgpath prove::` writes what is said into the page.
#[test]
fn the_pages_for_tenants_show_what_is_really_said() {
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
    let boot = node.attest(NONCE).boot.unwrap();
    node.extra_policy = cgpath_refvals::learned_boot::from_boot(&boot).unwrap().yaml();
    let mut folder = Folder::with(node);
    folder.attest();
    let path = format!("{}/../../docs/tenants.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    // The policy of the page, with the templates of Debian's kernels and of our own nodes.
    let (_, policy) = page.split_once("```yaml\n").unwrap();
    let (policy, _) = policy.split_once("```").unwrap();
    assert!(policy.contains("\ntemplates: [ima-sig, ima-ng]\n"), "{policy}");
    folder.write("web.yaml", policy.as_bytes());
    let shown = console(&page);
    let codes = [0, 0, 1, 0, 1];
    assert_eq!(shown.len(), codes.len(), "{shown:#?}");
    let mut said = Vec::new();
    for (n, (command, _)) in shown.iter().enumerate() {
        // Before the fourth command somebody replaces a file of the pod: the page says so.
        if n == 3 {
            let actor = Actor::pod(pod(1), "/bin/app");
            folder.node.execute(&actor, "/bin/app", &sha256(b"evil"));
            let nonce = b"the nonce of the next request";
            let evidence = folder.node.attest(nonce);
            folder.write("evidence.cbor", &evidence.to_cbor());
            folder.exits(1, &APPRAISE.replace("NONCE", &hex::encode(nonce)));
        }
        said.push(folder.exits(codes[n], command));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let mut page = page;
        for ((command, before), now) in shown.iter().zip(&said) {
            let text = |said: &str| format!("$ cgpath {command}\n{said}");
            page = page.replace(&text(before), &text(now));
        }
        std::fs::write(&path, page).unwrap();
        return;
    }
    for ((command, shown), said) in shown.iter().zip(&said) {
        let same = without_times(shown) == without_times(said);
        assert!(
            same,
            "docs/tenants.md: cgpath {command}\n{said}\nhint: UPDATE_DOCS=1"
        );
    }
}

#[test]
fn a_tenant_of_a_node_without_a_tpm_verifies_by_the_nodes_key_and_collateral() {
    let domain = TrustDomain::new(Platform::new("a test's root", "a machine"));
    let mut folder = Folder::with(Node::boot(KeyKind::EcdsaP256).in_domain(domain, false));
    let td = folder.node.td.as_ref().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let issued = now.unwrap().as_secs() - 3600;
    folder.write("collateral.json", &td.platform.collateral_json(issued, |_, _| ()));
    let key = hex::encode(node_key_hash(&public_node_key(&td.key)));
    let uid = pod(1);
    let own = format!(
        "version: 1\n\
         pod: {uid}\n\
         name: shop/web\n\
         templates: [ima-ng]\n\
         anchor: rtmr-3\n\
         references: [{uid}.json]\n\
         tdx:\n{}",
        td.policy.split("  boot:\n").next().unwrap()
    );
    folder.write("web.yaml", own.as_bytes());
    let evidence = folder.node.attest(NONCE);
    folder.write("evidence.cbor", &evidence.to_cbor());
    let means = format!("--no-tpm --node-key {key} --collateral collateral.json --nonce NONCE");
    let appraise = format!(
        "verify evidence.cbor --policy policy.yaml {means} --ear verdict.pem --ear-pod UID -o web.jwt"
    );
    folder.exits(0, &appraise);
    folder.exits(
        0,
        "prove --pod UID --evidence evidence.cbor --ear web.jwt -o web.tenant",
    );
    let verify = format!("verify --tenant web.tenant --policy web.yaml --verifier verdict.pub.pem {means}");
    let said = folder.exits(0, &format!("{verify} --state web.state"));
    for part in [
        "trusted",
        "RTMR 3 binds the list",
        "DANGEROUS: tdx.dangerous-root",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = folder.exits(1, &verify.replace(&key, &"0".repeat(64)));
    assert!(said.contains("names another key"), "{said}");
    let said = folder.exits(1, &verify.replace("--collateral collateral.json ", ""));
    assert!(said.contains("no collateral"), "{said}");
    // The one key does not stand for the other.
    folder.exits(2, &verify.replace("--no-tpm", "--ak ak.pub --no-tpm"));
}
