//! The pages as a real browser shows them: headless Chromium, which must be there.

use super::site::{Client, Server, Site, busy};
use cgpath_testkit::{Actor, Node, pod, sha256};
use std::path::Path;
use std::process::Command;

const OPERATOR: &str = "the-operators-own-token";
const RED: &str = "the-red-tenants-token";

/// The browser; what is not there fails.
fn browser() -> &'static str {
    ["chromium-headless-shell", "chromium"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
        .expect("no Chromium: `cargo xtask test` installs it (Debian package chromium)")
}

struct Browser<'a> {
    site: &'a Site,
    port: u16,
}

impl Browser<'_> {
    /// What the browser makes of a page, or does with it. It takes any certificate: that is not what is tried
    /// here.
    fn run(&self, token: &str, path: &str, what: &str) -> String {
        let profile = format!("--user-data-dir={}", self.site.path("profile").display());
        let url = format!("https://me:{token}@localhost:{}{path}", self.port);
        let mut command = Command::new(browser());
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--ignore-certificate-errors",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--window-size=1000,900",
            ])
            .args([&profile, what, &url])
            .env("HOME", self.site.path(""));
        crate::printed(&mut command)
    }

    fn page(&self, token: &str, path: &str) -> String {
        self.run(token, path, "--dump-dom")
    }
}

fn round(client: &Client, node: &mut Node) {
    let nonce = client.nonce("worker-1").unwrap();
    let answer = client.submit("worker-1", &node.attest(&nonce).to_cbor()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn fixture(site: &Site) -> (Node, Server, Client) {
    let node = busy();
    site.enrol(&node, "worker-1");
    let readers = site.path("readers.yaml");
    let text = format!(
        "readers:\n- name: red\n  token-sha256: {}\n  pods: [{}]\n",
        hex::encode(sha256(RED.as_bytes()).bytes()),
        pod(1)
    );
    std::fs::write(&readers, text).unwrap();
    let (server, client) = site.serve(&["--read-token", OPERATOR, "--readers", readers.to_str().unwrap()]);
    (node, server, client)
}

#[test]
fn a_browser_shows_verdicts_as_they_change_their_history_a_node_and_a_pod() {
    let site = Site::new();
    let (mut node, _server, client) = fixture(&site);
    let port = client.address.port();
    let browser = Browser { site: &site, port };
    round(&client, &mut node);
    let before = browser.page(OPERATOR, "/");
    assert!(
        before.contains("worker-1") && before.contains("pod-4"),
        "{before}"
    );
    assert!(!before.contains("UNTRUSTED"), "{before}");
    // It looks again by itself.
    assert!(
        before.contains("http-equiv=\"refresh\" content=\"10\""),
        "{before}"
    );

    node.execute(
        &Actor::pod(pod(4), "/bin/app"),
        "/opt/<b>dropped",
        &sha256(b"dropped"),
    );
    round(&client, &mut node);
    let uid = pod(4).to_string();
    let after = browser.page(OPERATOR, "/");
    assert!(after.contains("UNTRUSTED"), "{after}");
    let to_pod = format!("/nodes/worker-1/pods/{uid}");
    for link in ["href=\"/nodes/worker-1\"", &format!("href=\"{to_pod}\"")] {
        assert!(after.contains(link), "{link} is missing: {after}");
    }
    let about_node = browser.page(OPERATOR, "/nodes/worker-1");
    let history = about_node.split("id=\"history\"").nth(1).unwrap();
    // A head and two verdicts; the older one has four trusted pods.
    assert_eq!(history.matches("<tr>").count(), 3, "{history}");
    assert!(
        history.contains("3 trusted") && history.contains("4 trusted"),
        "{history}"
    );
    let about_pod = browser.page(OPERATOR, &to_pod);
    // A path that a pod chose is text and no markup.
    assert!(about_pod.contains("/opt/&lt;b&gt;dropped"), "{about_pod}");
    assert!(about_pod.contains("V9"), "{about_pod}");
    let history = about_pod.split("id=\"history\"").nth(1).unwrap();
    assert!(
        history.contains("UNTRUSTED") && history.contains("trusted</span></td><td class=\"n\">"),
        "{history}"
    );

    if let Some(path) = std::env::var_os("CGPATH_SCREENSHOT") {
        // For the documents.
        let what = format!("--screenshot={}", Path::new(&path).display());
        browser.run(OPERATOR, "/", &what);
    }
}

#[test]
fn a_browser_of_a_tenant_shows_its_own_pods_on_each_page_and_no_others() {
    let site = Site::new();
    let (mut node, _server, client) = fixture(&site);
    let browser = Browser {
        site: &site,
        port: client.address.port(),
    };
    round(&client, &mut node);
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/opt/secret", &sha256(b"x"));
    round(&client, &mut node);
    let own = format!("/nodes/worker-1/pods/{}", pod(1));
    for path in ["/", "/nodes/worker-1", &own] {
        let page = browser.page(RED, path);
        assert!(page.contains(&pod(1).to_string()), "{path}: {page}");
        for foreign in ["pod-4", "secret", "UNTRUSTED", &pod(2).to_string()] {
            assert!(!page.contains(foreign), "{path} shows {foreign}: {page}");
        }
    }
    let foreign = browser.page(RED, &format!("/nodes/worker-1/pods/{}", pod(4)));
    let never = browser.page(RED, &format!("/nodes/worker-1/pods/{}", pod(99)));
    assert!(foreign.contains("unknown-pod"), "{foreign}");
    assert_eq!(
        foreign.replace(&pod(4).to_string(), "UID"),
        never.replace(&pod(99).to_string(), "UID")
    );
}
