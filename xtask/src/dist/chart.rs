//! The Helm chart: packed, and what it makes looked at.
//!
//! Promises: the same commit gives the same bytes; alert rules and dashboard come from their one home; no
//! object asks for a right that the page on operation does not name. Not here: a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Compression, Release, copy, packages, sums, tarball};
use crate::workspace::{Workspace, emptied};
use crate::{python, shell};

/// Its name, also of its directory in the archive.
const NAME: &str = "ima-cgpath";

/// What comes into it from elsewhere, and where.
const FROM_ELSEWHERE: [(&str, &str); 2] = [
    ("deploy/prometheus/alerts.yml", "files/alerts.yml"),
    ("deploy/grafana/ima-cgpath.json", "files/ima-cgpath.json"),
];

/// The host's directories that a container has: the container, the directory, whether it may write there.
/// docs/operate.md has a row with the reason for each.
const OF_THE_HOST: [(&str, &str, bool); 3] = [
    ("install", "/", true),
    ("uninstall", "/", true),
    ("wait", "/run/ima-cgpath-check", false),
];

/// Versions of Kubernetes for which there are schemas, and for which helm makes objects.
const VERSIONS: [&str; 4] = ["1.25", "1.29", "1.33", "1.37"];

/// Values that are taken, by what they are for.
const GOOD: [(&str, &str); 5] = [
    ("defaults", ""),
    (
        "nodes alone",
        r#"{"verifier": {"enabled": false},
        "node": {"mode": "install", "config": "[verifier]\nurl = \"https://v.example:8443\"\n"}}"#,
    ),
    ("uninstall", r#"{"node": {"mode": "uninstall"}}"#),
    (
        "outside",
        r#"{"verifier": {"service": {"type": "LoadBalancer", "port": 443},
        "podDisruptionBudget": {"maxUnavailable": 0}}, "image": {"tag": "0.1.0"}}"#,
    ),
    (
        "all",
        r#"{"image": {"pullSecrets": ["pull"], "pullPolicy": "Always", "digests": {
            "node": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "verifier": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}},
        "verifier": {"names": ["v.example", "192.0.2.7"], "readTokenSecret": "token",
            "storage": {"className": "fast", "size": "50Gi"},
            "service": {"type": "NodePort", "annotations": {"a": "b"}},
            "networkPolicy": {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
                "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]},
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "x", "operator": "Exists"}]},
        "node": {"mode": "install", "prefix": "/opt/ima-cgpath", "setup": true, "handover": true,
            "verifierUrl": "https://v.example:8443", "seLinuxType": "spc_t", "priorityClassName": "high",
            "ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "nodeSelector": {"pool": "a"}},
        "monitoring": {
            "serviceMonitor": {"enabled": true, "secret": "prometheus", "labels": {"release": "p"}},
            "prometheusRule": {"enabled": true, "labels": {"release": "p"}},
            "dashboard": {"enabled": true}}}"#,
    ),
];

/// Values that must be refused, and a word of the reason.
const BAD: [(&str, &str); 15] = [
    (r#"{"image": {"registry": ""}}"#, "registry"),
    (r#"{"image": {"registry": "Registry.example/A B"}}"#, "registry"),
    (r#"{"image": {"tag": "a b"}}"#, "tag"),
    (r#"{"image": {"digests": {"node": "sha256:12"}}}"#, "digests"),
    (r#"{"images": {}}"#, "images"),
    (r#"{"verifier": {"replicas": 2}}"#, "replicas"),
    (r#"{"verifier": {"storage": {"size": "much"}}}"#, "size"),
    (
        r#"{"verifier": {"podDisruptionBudget": {"maxUnavailable": 2}}}"#,
        "maxUnavailable",
    ),
    (r#"{"verifier": {"names": ["a b"]}}"#, "names"),
    (r#"{"node": {"mode": "off"}}"#, "mode"),
    (r#"{"node": {"mode": "install"}}"#, "verifierUrl"),
    (
        r#"{"node": {"mode": "install", "verifierUrl": "http://v.example:8443"}}"#,
        "verifierUrl",
    ),
    (
        r#"{"node": {"mode": "install", "verifierUrl": "https://v\"\n"}}"#,
        "verifierUrl",
    ),
    (
        r#"{"node": {"mode": "install", "verifierUrl": "https://v", "start": false, "handover": true}}"#,
        "start",
    ),
    (
        r#"{"monitoring": {"serviceMonitor": {"enabled": true}}}"#,
        "secret",
    ),
];

/// Packs it and looks at it; gives its directory.
pub fn make(workspace: &Workspace) -> Result<PathBuf> {
    let out = packages(workspace).join("chart");
    check(workspace, &pack(workspace, &out)?)?;
    Ok(out)
}

/// Packs it into an empty directory, with its checksum; gives the archive.
pub fn pack(workspace: &Workspace, out: &Path) -> Result<PathBuf> {
    let release = Release::of(workspace)?;
    emptied(out)?;
    let work = out.join("work");
    let tree = work.join(NAME);
    copy(&workspace.root.join("deploy/chart"), &tree)?;
    for (from, to) in FROM_ELSEWHERE {
        copy(&workspace.root.join(from), &tree.join(to))?;
    }
    let version = version(&release.full);
    let file = tree.join("Chart.yaml");
    let text = std::fs::read_to_string(&file).context("reading Chart.yaml")?;
    std::fs::write(&file, versioned(&text, &version, &release.full)?)?;
    let archive = out.join(format!("{NAME}-{version}.tar"));
    let mut options = tarball::ROOTS.to_vec();
    options.push("--create");
    tarball::tar(&release, &work, &[NAME], &options, &archive)?;
    let packed = tarball::gzip(&archive, Compression::Small)?;
    // As helm calls it.
    let named = archive.with_extension("tgz");
    std::fs::rename(&packed, &named).with_context(|| format!("renaming {}", packed.display()))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    sums(out)?;
    Ok(named)
}

/// A version as SemVer 2 has it: `0.1.0~20261130022757.52b5976` is `0.1.0-20261130022757.g52b5976`. With the
/// letter no commit looks like a number with a zero before it.
fn version(full: &str) -> String {
    match full.rsplit_once('.').filter(|_| full.contains('~')) {
        Some((before, commit)) => format!("{}.g{commit}", before.replace('~', "-")),
        None => full.to_owned(),
    }
}

/// `Chart.yaml` with these versions.
fn versioned(text: &str, version: &str, app: &str) -> Result<String> {
    let mut seen = 0;
    let line = |line: &str| match line.split_once(": ") {
        Some((key @ "version", _)) => {
            seen += 1;
            format!("{key}: {version}\n")
        }
        Some((key @ "appVersion", _)) => {
            seen += 1;
            format!("{key}: \"{app}\"\n")
        }
        _ => format!("{line}\n"),
    };
    let text = text.lines().map(line).collect();
    ensure!(seen == 2, "Chart.yaml has no version and no appVersion");
    Ok(text)
}

/// Reads the packed chart with helm, and looks at all that it makes.
pub fn check(workspace: &Workspace, packed: &Path) -> Result<()> {
    let tools = python::charts(workspace)?;
    let work = packed.with_extension("work");
    emptied(&work)?;
    let page =
        std::fs::read_to_string(workspace.root.join("docs/operate.md")).context("reading operate.md")?;
    let registry = r#"image: {registry: "registry.example/attestation"}"#;
    let helm = |verb: &[&str], version: &str, values: &str| {
        let files = [work.join("registry.yaml"), work.join("values.yaml")];
        std::fs::write(&files[0], registry)?;
        // JSON is YAML.
        std::fs::write(&files[1], values)?;
        let mut helm = Command::new(&tools.helm);
        helm.env("HELM_CACHE_HOME", &work)
            .env("HELM_CONFIG_HOME", &work)
            .env("HELM_DATA_HOME", &work);
        helm.args(verb).arg(packed).args(["--kube-version", version]);
        for file in &files {
            helm.arg("--values").arg(file);
        }
        shell::output(&mut helm)
    };
    let template = ["template", "trial", "--namespace", "attestation"];
    let mut made = Vec::new();
    for (case, values) in GOOD {
        helm(&["lint", "--strict"], "1.33", values).with_context(|| format!("helm lint, {case}"))?;
        for version in ["1.20", "1.33"] {
            let text = helm(&template, version, values).with_context(|| format!("{case}, {version}"))?;
            let file = work.join(format!("{}-{version}.yaml", case.replace(' ', "-")));
            std::fs::write(&file, &text)?;
            made.push((case, version, file));
        }
    }
    for (values, word) in BAD {
        match helm(&template, "1.33", values) {
            Ok(_) => bail!("{values} is taken"),
            Err(error) => ensure!(
                format!("{error:#}").contains(word),
                "{values} is refused for another reason: {error:#}"
            ),
        }
    }
    let parse = "import json, sys, yaml\n\
        read = lambda name: list(filter(None, yaml.safe_load_all(open(name))))\n\
        json.dump([read(name) for name in sys.argv[1:]], sys.stdout)";
    let rules = workspace.root.join(FROM_ELSEWHERE[0].0);
    let files = made.iter().map(|(_, _, file)| file).chain([&rules]);
    let parsed = shell::output(Command::new(&tools.python).args(["-c", parse]).args(files))?;
    let mut parsed: Vec<Vec<Value>> = serde_json::from_str(&parsed).context("what helm made")?;
    let rules = parsed
        .pop()
        .and_then(|mut rules| rules.pop())
        .context("no alert rules")?;
    let board = std::fs::read_to_string(workspace.root.join(FROM_ELSEWHERE[1].0))?;
    for ((case, version, _), objects) in made.iter().zip(&parsed) {
        look(objects, &page).with_context(|| format!("{case}, {version}"))?;
        let budget = of_kind(objects, "PodDisruptionBudget").map(|budget| &budget["apiVersion"]);
        let expected = if *version == "1.20" {
            "policy/v1beta1"
        } else {
            "policy/v1"
        };
        for found in budget {
            ensure!(found == expected, "{case}, {version}: a budget of {found}");
        }
        if *case == "all" {
            let rule = of_kind(objects, "PrometheusRule").next().context("no rules")?;
            ensure!(
                rule["spec"] == rules,
                "the rules are not those of {}",
                FROM_ELSEWHERE[0].0
            );
            let dashboard =
                of_kind(objects, "ConfigMap").find_map(|map| map["data"]["ima-cgpath.json"].as_str());
            ensure!(
                dashboard.is_some_and(|found| found.trim() == board.trim()),
                "another dashboard"
            );
            ensure!(
                of_kind(objects, "ServiceMonitor").count() == 1,
                "no ServiceMonitor"
            );
        }
    }
    // Objects of 1.20 have schemas nowhere; but for the budget they are those of 1.33.
    let files: Vec<&PathBuf> = made
        .iter()
        .filter(|made| made.1 == "1.33")
        .map(|made| &made.2)
        .collect();
    for version in VERSIONS {
        let mut validate = Command::new(&tools.validate);
        validate.args(["-k", version, "--strict"]).args(&files);
        let said = shell::output(&mut validate).with_context(|| format!("Kubernetes {version}"))?;
        ensure!(
            said.lines().count() >= files.len(),
            "nothing was validated: {said}"
        );
    }
    // That it refuses something is seen, too.
    let wrong = work.join("wrong.yaml");
    std::fs::write(
        &wrong,
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {port: 1}}",
    )?;
    let mut validate = Command::new(&tools.validate);
    ensure!(
        shell::output(validate.arg("--strict").arg(&wrong)).is_err(),
        "a wrong object is valid"
    );
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Nothing that is made asks the API for anything, and no container may more than `page` says.
fn look(objects: &[Value], page: &str) -> Result<()> {
    for object in objects {
        let kind = object["kind"].as_str().unwrap_or_default();
        let known = [
            "ConfigMap",
            "DaemonSet",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "PrometheusRule",
            "Service",
            "ServiceAccount",
            "ServiceMonitor",
            "StatefulSet",
        ];
        ensure!(known.contains(&kind), "an object of the kind {kind}");
        ensure!(
            object["metadata"]["namespace"] == "attestation",
            "{kind} is in no namespace"
        );
        if kind == "ServiceAccount" {
            ensure!(
                object["automountServiceAccountToken"] == false,
                "a token is mounted"
            );
        }
        let pod = &object["spec"]["template"]["spec"];
        if !pod.is_null() {
            confined(pod, page)?;
        }
    }
    // Whatever has pods has a policy for their network.
    for object in objects
        .iter()
        .filter(|object| !object["spec"]["template"].is_null())
    {
        let selector = &object["spec"]["selector"];
        let mut policies = of_kind(objects, "NetworkPolicy");
        let is_there = policies.any(|policy| {
            policy["spec"]["podSelector"] == *selector && list(&policy["spec"]["policyTypes"]).len() == 2
        });
        ensure!(is_there, "{} has no network policy", object["metadata"]["name"]);
    }
    Ok(())
}

/// A pod's containers have no capability, and of the host what [`OF_THE_HOST`] has.
fn confined(pod: &Value, page: &str) -> Result<()> {
    for right in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        ensure!(pod[right].is_null(), "{right}");
    }
    ensure!(pod["automountServiceAccountToken"] == false, "a token is mounted");
    let security = &pod["securityContext"];
    ensure!(
        security["seccompProfile"]["type"] == "RuntimeDefault",
        "no seccomp profile"
    );
    let containers = list(&pod["initContainers"])
        .iter()
        .chain(list(&pod["containers"]));
    for container in containers {
        let name = container["name"].as_str().unwrap_or_default();
        let expected = json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        });
        ensure!(
            container["securityContext"] == expected,
            "{name}: {}",
            container["securityContext"]
        );
        ensure!(
            !container["resources"]["limits"]["memory"].is_null(),
            "{name} may take all memory"
        );
        // What is root has to do with the host.
        let is_root = security["runAsUser"] == 0;
        let may_be = OF_THE_HOST.iter().any(|(container, ..)| *container == name);
        ensure!(
            is_root && may_be || security["runAsNonRoot"] == true,
            "{name} may be root"
        );
        for mount in list(&container["volumeMounts"]) {
            let mut volumes = list(&pod["volumes"]).iter();
            let volume = volumes.find(|volume| volume["name"] == mount["name"]);
            let Some(path) = volume.and_then(|volume| volume["hostPath"]["path"].as_str()) else {
                continue;
            };
            let writes = mount["readOnly"] != true;
            ensure!(
                OF_THE_HOST.contains(&(name, path, writes)),
                "{name} has the host's {path}"
            );
            let row = format!("| `{name}` | the host's `{path}`");
            ensure!(page.contains(&row), "docs/operate.md has no row `{row}`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "automountServiceAccountToken": false,
            "securityContext": { "runAsUser": 0, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "wait",
                "securityContext": {
                    "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "resources": { "limits": { "memory": "1Mi" } },
                "volumeMounts": [{ "name": "ask", "mountPath": "/x", "readOnly": true }],
            }],
            "volumes": [{ "name": "ask", "hostPath": { "path": "/run/ima-cgpath-check" } }],
        })
    }

    #[test]
    fn a_container_with_a_right_that_no_row_names_is_refused() {
        let page = "| `wait` | the host's `/run/ima-cgpath-check`, read only | x |";
        confined(&pod(), page).unwrap();
        assert!(confined(&pod(), "").is_err());
        for (place, other) in [
            ("/hostPID", json!(true)),
            ("/hostNetwork", json!(true)),
            ("/automountServiceAccountToken", json!(true)),
            ("/securityContext/seccompProfile/type", json!("Unconfined")),
            ("/containers/0/securityContext/privileged", json!(true)),
            (
                "/containers/0/securityContext/allowPrivilegeEscalation",
                json!(true),
            ),
            (
                "/containers/0/securityContext/capabilities",
                json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] }),
            ),
            ("/containers/0/securityContext/capabilities/drop", json!([])),
            (
                "/containers/0/securityContext/readOnlyRootFilesystem",
                json!(false),
            ),
            ("/containers/0/volumeMounts/0/readOnly", json!(false)),
            ("/containers/0/resources", json!({})),
            ("/containers/0/name", json!("other")),
            ("/volumes/0/hostPath/path", json!("/etc")),
        ] {
            let mut pod = pod();
            let (above, key) = place.rsplit_once('/').unwrap();
            pod.pointer_mut(above).unwrap()[key] = other;
            assert!(confined(&pod, page).is_err(), "{place}");
        }
    }

    #[test]
    fn a_role_an_object_without_a_namespace_and_pods_without_a_network_policy_are_refused() {
        let page = "| `wait` | the host's `/run/ima-cgpath-check`, read only | x |";
        let meta = json!({ "name": "x", "namespace": "attestation" });
        let set = json!({ "kind": "DaemonSet", "metadata": meta,
            "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": { "spec": pod() } } });
        let policy = json!({ "kind": "NetworkPolicy", "metadata": meta,
            "spec": { "podSelector": { "matchLabels": { "a": "b" } },
                "policyTypes": ["Ingress", "Egress"] } });
        look(&[set.clone(), policy.clone()], page).unwrap();
        assert!(look(std::slice::from_ref(&set), page).is_err());
        for kind in ["Role", "ClusterRole", "RoleBinding", "Secret", "Pod"] {
            let more = json!({ "kind": kind, "metadata": meta });
            assert!(
                look(&[set.clone(), policy.clone(), more], page).is_err(),
                "{kind}"
            );
        }
        let account = json!({ "kind": "ServiceAccount", "metadata": meta });
        assert!(look(&[account], page).is_err());
        let lost = json!({ "kind": "Service", "metadata": { "name": "x" } });
        assert!(look(&[lost], page).is_err());
    }

    #[test]
    fn a_build_without_a_tag_is_a_version_before_the_next() {
        assert_eq!(version("0.1.0"), "0.1.0");
        assert_eq!(
            version("0.1.0~20261130022757.0123456789"),
            "0.1.0-20261130022757.g0123456789"
        );
        let text = "apiVersion: v2\nversion: 0.1.0\nappVersion: \"0.1.0\"\n";
        let expected = "apiVersion: v2\nversion: 2\nappVersion: \"3\"\n";
        assert_eq!(versioned(text, "2", "3").unwrap(), expected);
        assert!(versioned("apiVersion: v2\n", "2", "3").is_err());
    }
}
