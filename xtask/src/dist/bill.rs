//! What a program is made of: a CycloneDX 1.5 document, and the licences' texts.
//!
//! Written from `cargo metadata` with `serde_json`, and not by a library for CycloneDX: these bring dozens of
//! packages into a program that must build in seconds before anything else does. Promises: what runs is
//! listed, what only tests or builds is not; nothing differs from one run to the next; of Debian's packages
//! each text comes along that their copyright files refer to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Release, copy};
use crate::kernel::sha256;
use crate::workspace::Workspace;
use crate::{build, shell};

/// The eBPF programs' package, in a workspace of its own.
const PROGRAMS: &str = "cgpath-bpf";

/// Where Debian has its packages' copyright files and the licences that these refer to.
const SHARE: &str = "/usr/share";

/// Where Debian has each licence that many packages have, below [`SHARE`].
const COMMON: &str = "common-licenses";

/// How a licence's file begins, in capitals.
const LICENCE_FILES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// All packages that `Cargo.lock` names, and which uses which.
struct Graph(Value);

/// The workspace's packages and those of the eBPF programs.
pub struct Bills {
    workspace: Graph,
    programs: Graph,
    /// SHA-256 of the eBPF object, where it is built.
    object: Option<String>,
}

impl Bills {
    /// Asks cargo.
    pub fn read(workspace: &Workspace) -> Result<Self> {
        let graph = |manifest: &str| {
            let mut command = build::cargo(workspace);
            command
                .args(["metadata", "--format-version", "1", "--locked"])
                .args([
                    "--filter-platform",
                    "x86_64-unknown-linux-gnu",
                    "--manifest-path",
                    manifest,
                ]);
            let text = shell::output(&mut command)?;
            serde_json::from_str(&text)
                .map(Graph)
                .context("reading `cargo metadata`")
        };
        let object = match std::fs::read(workspace.bpf_object()) {
            Ok(bytes) => Some(sha256(&bytes)?),
            Err(_) => None,
        };
        Ok(Self {
            workspace: graph("Cargo.toml")?,
            programs: graph("ebpf/programs/Cargo.toml")?,
            object,
        })
    }

    /// The packages of a program, the program's own first: with those of the eBPF object, where it is inside.
    fn packages(&self, program: &str) -> Result<Vec<(&Value, Vec<&Value>)>> {
        let mut found = self.workspace.closure(program)?;
        if program == "cgpathd" {
            for more in self.programs.closure(PROGRAMS)? {
                if !found.iter().any(|(package, _)| purl(package) == purl(more.0)) {
                    found.push(more);
                }
            }
        }
        Ok(found)
    }

    /// The CycloneDX document of a program.
    pub fn cyclonedx(&self, program: &str, release: &Release) -> Result<Value> {
        let packages = self.packages(program)?;
        let (own, _) = packages.first().context("a program has its own package")?;
        let mut components: Vec<Value> = packages
            .iter()
            .skip(1)
            .map(|(package, _)| component(package))
            .collect();
        let mut dependencies: Vec<Value> = packages
            .iter()
            .map(|(package, uses)| {
                let uses: BTreeSet<String> = uses.iter().map(|used| purl(used)).collect();
                json!({ "ref": purl(package), "dependsOn": uses })
            })
            .collect();
        if program == "cgpathd" {
            let mut object = json!({
                "type": "file",
                "bom-ref": "ima-cgpath.bpf.o",
                "name": "ima-cgpath.bpf.o",
                "version": release.version,
                "licenses": [{ "license": { "id": "GPL-2.0-only" } }],
            });
            if let Some(digest) = &self.object {
                object["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
            }
            components.push(object);
            let inside: Vec<String> = packages
                .iter()
                .filter(|(package, _)| package["name"] == PROGRAMS)
                .map(|(package, _)| purl(package))
                .collect();
            dependencies.push(json!({ "ref": "ima-cgpath.bpf.o", "dependsOn": inside }));
        }
        let mut described = component(own);
        described["type"] = json!("application");
        described["version"] = json!(release.full);
        Ok(json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "timestamp": release.date("+%Y-%m-%dT%H:%M:%SZ")?,
                "component": described,
            },
            "components": components,
            "dependencies": dependencies,
        }))
    }

    /// The licences of a program's packages: a line for each package, then each text once.
    pub fn licences(&self, program: &str) -> Result<String> {
        let mut texts: BTreeMap<String, usize> = BTreeMap::new();
        let mut out = format!(
            "What {program} is made of, by which licence. The numbers are those of the texts below.\n\n"
        );
        let mut in_order: Vec<String> = Vec::new();
        for (package, _) in self.packages(program)?.iter().skip(1) {
            let mut numbers = Vec::new();
            for text in licence_texts(package)? {
                let next = texts.len() + 1;
                let number = *texts.entry(text.clone()).or_insert_with(|| {
                    in_order.push(text);
                    next
                });
                numbers.push(number.to_string());
            }
            let shown = match numbers.as_slice() {
                [] if package["source"].is_null() => "of this project".to_owned(),
                [] => "its package has no text".to_owned(),
                numbers => numbers.join(", "),
            };
            writeln!(
                out,
                "{} {}: {} ({shown})",
                text(package, "name"),
                text(package, "version"),
                text(package, "license")
            )?;
        }
        for (number, text) in in_order.iter().enumerate() {
            write!(out, "\n---- {} ----\n\n{}\n", number + 1, text.trim_end())?;
        }
        Ok(out)
    }
}

impl Graph {
    /// A package and all that is linked into it, each with what it uses itself; the package first, then by
    /// name.
    fn closure(&self, name: &str) -> Result<Vec<(&Value, Vec<&Value>)>> {
        let packages = list(&self.0["packages"]);
        let by_id: BTreeMap<&str, &Value> = packages.map(|package| (text(package, "id"), package)).collect();
        let nodes = list(&self.0["resolve"]["nodes"]);
        let nodes: BTreeMap<&str, &Value> = nodes.map(|node| (text(node, "id"), node)).collect();
        let members: BTreeSet<&str> = list(&self.0["workspace_members"])
            .filter_map(Value::as_str)
            .collect();
        let root = by_id
            .values()
            .find(|package| package["name"] == name && members.contains(text(package, "id")))
            .with_context(|| format!("`cargo metadata` has no package {name}"))?;
        let mut seen: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        let mut waiting = vec![text(root, "id")];
        while let Some(id) = waiting.pop() {
            if seen.contains_key(id) {
                continue;
            }
            let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
            let uses: Vec<&Value> = list(&node["deps"])
                .filter(|used| list(&used["dep_kinds"]).any(|kind| kind["kind"].is_null()))
                .filter_map(|used| by_id.get(text(used, "pkg")).copied())
                .filter(|used| !runs_in_the_compiler(used))
                .collect();
            waiting.extend(uses.iter().map(|used| text(used, "id")));
            seen.insert(id, uses);
        }
        let mut found: Vec<(&Value, Vec<&Value>)> = seen
            .into_iter()
            .filter_map(|(id, uses)| Some((*by_id.get(id)?, uses)))
            .collect();
        found.sort_by_key(|(package, _)| {
            let is_other = text(package, "id") != text(root, "id");
            (is_other, text(package, "name"), text(package, "version"))
        });
        Ok(found)
    }
}

/// A procedural macro, which leaves nothing of itself in the program.
fn runs_in_the_compiler(package: &Value) -> bool {
    list(&package["targets"]).any(|target| list(&target["kind"]).any(|kind| kind == "proc-macro"))
}

fn component(package: &Value) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(package),
        "name": text(package, "name"),
        "version": text(package, "version"),
        "purl": purl(package),
    });
    if let Some(licence) = package["license"].as_str() {
        // An older way to write a choice.
        let expression = licence.replace('/', " OR ");
        component["licenses"] = json!([{ "expression": expression }]);
    }
    component
}

/// A package's URL: <https://github.com/package-url/purl-spec>.
fn purl(package: &Value) -> String {
    let version = text(package, "version").replace('+', "%2B");
    format!("pkg:cargo/{}@{version}", text(package, "name"))
}

/// A Debian package of which something is brought along.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Debian {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
}

impl Debian {
    /// The package that has a file.
    pub fn of(file: &Path) -> Result<Self> {
        // dpkg may know the file by a path through /lib; of another architecture it lies in another folder.
        let known = file.strip_prefix("/usr").or_else(|_| file.strip_prefix("/"));
        let known = known.with_context(|| format!("{} is no whole path", file.display()))?;
        let mut query = Command::new("dpkg-query");
        query.arg("--search").arg(format!("*/{}", known.display()));
        let listed = shell::output(&mut query)?;
        let package = owner(&listed).with_context(|| format!("no package has {}", file.display()))?;
        let format = "${Package} ${Version} ${Architecture}";
        let mut query = Command::new("dpkg-query");
        let shown = shell::output(query.args(["--show", "--showformat", format, package]))?;
        match shown.split(' ').collect::<Vec<_>>().as_slice() {
            [name, version, architecture] => Ok(Self {
                name: (*name).to_owned(),
                version: (*version).to_owned(),
                architecture: (*architecture).to_owned(),
            }),
            _ => bail!("dpkg-query says of {package}: {shown}"),
        }
    }

    /// Where its copyright file is, beside the document in which it is named.
    pub fn licence(&self) -> PathBuf {
        Path::new("licences").join(format!("{}.txt", self.name))
    }

    /// Copies its copyright file from `share` to its place in `tree`, and each licence to which that refers.
    fn copy_licence(&self, share: &Path, tree: &Path) -> Result<()> {
        let copyright = share.join("doc").join(&self.name).join("copyright");
        copy(&copyright, &tree.join(self.licence()))
            .with_context(|| format!("the licence of {}", self.name))?;
        let bytes = std::fs::read(&copyright).with_context(|| format!("reading {}", copyright.display()))?;
        for name in referred_to(&String::from_utf8_lossy(&bytes)) {
            let to = tree.join("licences").join(COMMON).join(&name);
            copy(&share.join(COMMON).join(&name), &to)
                .with_context(|| format!("{name}, to which the licence of {} refers", self.name))?;
        }
        Ok(())
    }

    /// Names it in the document of the program that it was brought along for.
    fn add_to(&self, document: &mut Value) -> Result<()> {
        let version = self.version.replace('+', "%2B").replace(':', "%3A");
        let purl = format!(
            "pkg:deb/debian/{}@{version}?arch={}",
            self.name, self.architecture
        );
        let component = json!({
            "type": "library",
            "bom-ref": purl,
            "name": self.name,
            "version": self.version,
            "purl": purl,
        });
        let program = document["metadata"]["component"]["bom-ref"].clone();
        let components = document["components"].as_array_mut();
        components.context("a document has components")?.push(component);
        let dependencies = document["dependencies"].as_array_mut();
        let dependencies = dependencies.context("a document has dependencies")?;
        let uses = dependencies
            .iter_mut()
            .find(|dependency| dependency["ref"] == program)
            .and_then(|dependency| dependency["dependsOn"].as_array_mut());
        uses.context("a program has dependencies")?.push(json!(purl));
        dependencies.push(json!({ "ref": purl, "dependsOn": [] }));
        Ok(())
    }
}

/// Names packages of which something is brought along in the document at `path`, and puts their licences
/// beside it.
pub fn bring(owners: &BTreeSet<Debian>, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut document: Value = serde_json::from_str(&text)?;
    let tree = path.parent().context("a document lies in a directory")?;
    for owner in owners {
        owner.add_to(&mut document)?;
        owner.copy_licence(Path::new(SHARE), tree)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

/// The licences of [`COMMON`] to which a copyright file refers.
fn referred_to(copyright: &str) -> BTreeSet<String> {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+');
    copyright
        .split(&format!("{COMMON}/"))
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c: char| !is_of_a_name(c)).unwrap_or(rest.len());
            // The sentence may end here.
            rest[..end].trim_end_matches('.').to_owned()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// The first package of a line of `dpkg-query --search`: `name:architecture: path`, or several names.
fn owner(listed: &str) -> Option<&str> {
    let (names, _) = listed.lines().next()?.split_once(": ")?;
    names.split(", ").next()
}

/// The licences' texts that a package has beside its manifest.
fn licence_texts(package: &Value) -> Result<Vec<String>> {
    let manifest = Path::new(text(package, "manifest_path"));
    let dir = manifest.parent().context("a manifest lies in a directory")?;
    let mut texts = Vec::new();
    for name in super::names(dir)? {
        let upper = name.to_uppercase();
        let path = dir.join(&name);
        if LICENCE_FILES.iter().any(|begin| upper.starts_with(begin)) && path.is_file() {
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            texts.push(String::from_utf8_lossy(&bytes).replace('\r', ""));
        }
    }
    Ok(texts)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let package = |name: &str, kind: &str| {
            json!({
                "id": format!("registry#{name}@1.0.0"), "name": name, "version": "1.0.0",
                "license": "MIT/Apache-2.0", "targets": [{ "kind": [kind] }],
            })
        };
        let node = |name: &str, uses: &[(&str, Option<&str>)]| {
            let deps: Vec<Value> = uses
                .iter()
                .map(|(used, kind)| {
                    json!({ "pkg": format!("registry#{used}@1.0.0"), "dep_kinds": [{ "kind": kind }] })
                })
                .collect();
            json!({ "id": format!("registry#{name}@1.0.0"), "deps": deps })
        };
        Graph(json!({
            "packages": [
                package("b", "lib"), package("own", "bin"), package("a", "lib"),
                    package("derive", "proc-macro"),
                package("syn", "lib"), package("cc", "lib"), package("proptest", "lib"),
                    package("other", "bin"),
            ],
            "workspace_members": ["registry#own@1.0.0", "registry#other@1.0.0"],
            "resolve": { "nodes": [
                node("own", &[("b", None), ("derive", None), ("cc", Some("build")),
                    ("proptest", Some("dev"))]),
                node("b", &[("a", None)]), node("a", &[]), node("derive", &[("syn", None)]), node("syn", &[]),
                node("cc", &[]), node("proptest", &[]), node("other", &[("own", None)]),
            ] },
        }))
    }

    #[test]
    fn what_is_linked_is_listed_and_what_builds_or_tests_is_not() {
        let graph = graph();
        let found = graph.closure("own").unwrap();
        let names: Vec<&str> = found.iter().map(|(package, _)| text(package, "name")).collect();
        assert_eq!(names, ["own", "a", "b"]);
        assert_eq!(purl(found[2].1[0]), "pkg:cargo/a@1.0.0");
        assert!(graph.closure("b").is_err(), "no package of the workspace");
    }

    #[test]
    fn a_document_names_each_component_once_and_refers_to_nothing_else() {
        let bills = Bills {
            workspace: graph(),
            programs: graph(),
            object: None,
        };
        let release = Release {
            version: "1.0.0".to_owned(),
            full: "1.0.0~20261130022757.52b5976".to_owned(),
            epoch: 1_796_005_677,
        };
        let bill = bills.cyclonedx("own", &release).unwrap();
        assert_eq!(bill["metadata"]["timestamp"], "2026-11-30T02:27:57Z");
        assert_eq!(bill["metadata"]["component"]["type"], "application");
        assert_eq!(
            bill["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        let known: BTreeSet<&str> = list(&bill["components"])
            .chain([&bill["metadata"]["component"]])
            .map(|component| text(component, "bom-ref"))
            .collect();
        assert_eq!(known.len(), 3);
        for dependency in list(&bill["dependencies"]) {
            assert!(known.contains(text(dependency, "ref")), "{dependency}");
            assert!(list(&dependency["dependsOn"]).all(|used| known.contains(used.as_str().unwrap())));
        }
    }

    #[test]
    fn a_debian_package_that_comes_along_is_named_as_what_the_program_uses() {
        let listed = "libtss2-esys-3.0.2-0:amd64: /usr/lib/x86_64-linux-gnu/libtss2-esys.so.0.0.0\n";
        assert_eq!(owner(listed), Some("libtss2-esys-3.0.2-0:amd64"));
        assert_eq!(owner("no path found\n"), None);
        let mut document = json!({
            "metadata": { "component": { "bom-ref": "own" } },
            "components": [],
            "dependencies": [{ "ref": "a", "dependsOn": [] }, { "ref": "own", "dependsOn": ["a"] }],
        });
        let package = Debian {
            name: "libssl3".to_owned(),
            version: "1:3.0+deb12u1".to_owned(),
            architecture: "amd64".to_owned(),
        };
        package.add_to(&mut document).unwrap();
        let purl = "pkg:deb/debian/libssl3@1%3A3.0%2Bdeb12u1?arch=amd64";
        assert_eq!(document["components"][0]["purl"], purl);
        assert_eq!(document["dependencies"][1]["dependsOn"], json!(["a", purl]));
        assert_eq!(
            document["dependencies"][2],
            json!({ "ref": purl, "dependsOn": [] })
        );
        assert!(package.add_to(&mut json!({})).is_err());
    }

    #[test]
    fn a_licence_comes_with_each_text_to_which_it_refers_or_not_at_all() {
        let copyright = "It is in `/usr/share/common-licenses/LGPL-2.1'.\nOthers:\n\
            /usr/share/common-licenses/GPL.\n(/usr/share/common-licenses/GPL-3)\n\
            all of /usr/share/common-licenses/ and `/usr/share/common-licenses/GPL'";
        let names: Vec<String> = referred_to(copyright).into_iter().collect();
        assert_eq!(names, ["GPL", "GPL-3", "LGPL-2.1"]);

        let dir = std::env::temp_dir().join(format!("xtask-licences-{}", std::process::id()));
        crate::workspace::emptied(&dir).unwrap();
        let (share, tree) = (dir.join("share"), dir.join("tree"));
        let put = |path: &str, text: &str| {
            let path = share.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let package = Debian {
            name: "libc6-dev".to_owned(),
            version: "2.36".to_owned(),
            architecture: "amd64".to_owned(),
        };
        assert!(package.copy_licence(&share, &tree).is_err());
        put("doc/libc6-dev/copyright", copyright);
        put("common-licenses/GPL", "the third");
        put("common-licenses/GPL-3", "the third");
        let refused = package.copy_licence(&share, &tree).unwrap_err();
        assert!(format!("{refused:#}").contains("LGPL-2.1"), "{refused:#}");
        put("common-licenses/LGPL-2.1", "the lesser");
        package.copy_licence(&share, &tree).unwrap();
        let read = |path: &str| std::fs::read_to_string(tree.join("licences").join(path)).unwrap();
        assert_eq!(read("libc6-dev.txt"), copyright);
        assert_eq!(read("common-licenses/LGPL-2.1"), "the lesser");
        assert_eq!(read("common-licenses/GPL"), "the third");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_version_with_a_plus_sign_is_escaped_in_a_purl() {
        let package = json!({ "name": "libbpf-sys", "version": "1.5.0+v1.5.0" });
        assert_eq!(purl(&package), "pkg:cargo/libbpf-sys@1.5.0%2Bv1.5.0");
    }
}
