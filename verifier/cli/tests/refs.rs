//! The index of images: what `cgpath refs` keeps of images, and by which digests it finds them.

use cgpath_evidence::Digest;
use cgpath_policy::Reference;
use cgpath_testkit::sha256;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tar archive of files (POSIX.1-2017, "ustar Interchange Format").
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, "0000755");
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar");
        put(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(header);
        archive.extend(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Blobs of images, as an OCI layout has them.
#[derive(Default)]
pub struct Layout {
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    fn blob(&mut self, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes).to_string();
        let descriptor = json!({"digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Descriptors of an image's manifest and configuration; `layers` are their files.
    pub fn image(&mut self, architecture: &str, layers: &[&[(&str, &str)]]) -> (Value, String) {
        let layers: Vec<Value> = layers.iter().map(|files| self.blob(tar(files))).collect();
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = self.blob(
            json!({"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": diff_ids}})
                .to_string()
                .into_bytes(),
        );
        let manifest = json!({"config": config, "layers": layers}).to_string();
        let mut manifest = self.blob(manifest.into_bytes());
        manifest["platform"] = json!({"os": "linux", "architecture": architecture});
        (manifest, text(&config["digest"]))
    }

    /// The descriptor of an image index.
    pub fn index(&mut self, manifests: &[&Value]) -> Value {
        self.blob(json!({"manifests": manifests}).to_string().into_bytes())
    }

    /// Writes the blobs, and `index.json` where the layout has one.
    pub fn write(&self, dir: &Path, index: Option<(&Value, &str)>) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        }
        if let Some((descriptor, name)) = index {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({"io.containerd.image.name": name});
            let index = json!({"manifests": [descriptor]}).to_string();
            std::fs::write(dir.join("index.json"), index).unwrap();
        }
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A directory with an index in it.
pub struct Case {
    pub dir: tempfile::TempDir,
}

impl Case {
    pub fn new() -> Case {
        Case {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a command of `cgpath` exits with, prints, and says of errors.
    pub fn run(&self, line: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgpath"));
        let output = command.current_dir(self.dir.path()).args(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The same of one that succeeds, with `--json`: an object a line.
    #[track_caller]
    pub fn objects(&self, line: &[&str]) -> Vec<Value> {
        let (code, out, err) = self.run(&[&["--json"][..], line].concat());
        assert_eq!(code, Some(0), "{err}");
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[track_caller]
    fn refused(&self, line: &[&str], words: &str) {
        let (code, _, err) = self.run(line);
        assert!(code == Some(2) && err.contains(words), "{code:?} {err}");
    }

    fn configurations(&self) -> Vec<String> {
        let images = self.objects(&["refs", "list", "refs"]);
        images.iter().map(|image| text(&image["configuration"])).collect()
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("refs").join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// All that the index has of the layers of its one image.
    fn values(&self) -> Reference {
        let parts = self.files("layers");
        let parts = parts.iter().map(|path| {
            let json = std::fs::read(path).unwrap();
            let hash = sha256(&json).to_string().replace(':', "-");
            assert_eq!(path.file_stem().unwrap().to_str(), Some(hash.as_str()));
            Reference::from_json("part", &json).unwrap()
        });
        let joined = parts.reduce(|mut all, part| {
            for (path, digests) in part.files {
                assert!(all.files.insert(path, digests).is_none());
            }
            all
        });
        joined.unwrap()
    }
}

const BASE: &[(&str, &str)] = &[("bin/sh", "shell"), ("lib/c.so", "library"), ("etc/conf", "old")];
const APP: &[(&str, &str)] = &[("bin/app", "app"), ("etc/conf", "new")];

#[test]
fn an_image_is_found_by_its_index_its_manifest_and_its_configuration_and_by_nothing_else() {
    let case = Case::new();
    let mut layout = Layout::default();
    let (amd64, config) = layout.image("amd64", &[BASE, APP]);
    let (arm64, other) = layout.image("arm64", &[BASE]);
    let index = layout.index(&[&amd64, &arm64]);
    layout.write(&case.path("web"), Some((&index, "registry.example/shop/web:7")));
    case.objects(&["refs", "add", "refs", "web", "--platform", "linux/amd64"]);
    assert_eq!(case.configurations(), std::slice::from_ref(&config));
    let named = |name: String| {
        let shown = case.objects(&["refs", "show", "refs", &name]);
        let [image] = &shown[..] else { panic!("{shown:?}") };
        assert_eq!(image["platform"], "linux/amd64");
        assert_eq!(image["names"], json!(["registry.example/shop/web:7"]));
        text(&image["configuration"])
    };
    for digest in [text(&index["digest"]), text(&amd64["digest"]), config.clone()] {
        assert_eq!(named(digest.clone()), config);
        assert_eq!(named(format!("mirror.example/web@{digest}")), config);
    }
    assert_eq!(named("registry.example/shop/web:7".into()), config);
    let layout_s_own = sha256(&std::fs::read(case.path("web/index.json")).unwrap()).to_string();
    let layer = sha256(&tar(BASE)).to_string();
    for digest in [text(&arm64["digest"]), other, layout_s_own, layer] {
        case.refused(&["refs", "show", "refs", &digest], "no image of the index");
    }
    case.refused(&["refs", "show", "refs", "shop/web"], "no image of the index");
}

#[test]
fn its_layers_have_together_what_the_image_has() {
    let case = Case::new();
    let mut layout = Layout::default();
    let (manifest, _) = layout.image("amd64", &[BASE, &[], APP]);
    layout.write(&case.path("web"), Some((&manifest, "web:7")));
    case.objects(&["refs", "add", "refs", "web"]);
    case.objects(&["policy", "from-image", "web", "-o", "web.json"]);
    let whole = Reference::from_json("web", &std::fs::read(case.path("web.json")).unwrap()).unwrap();
    assert_eq!(case.values().files, whole.files);
    let shown = case.objects(&["refs", "show", "refs", "web:7"]);
    let parts: Vec<_> = shown[0]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (text(&part["layer"]), part["paths"].as_u64().unwrap()))
        .collect();
    let layer = |files| sha256(&tar(files)).to_string();
    // What the upper layer replaced is the upper one's; one without files has no part.
    assert_eq!(parts, [(layer(BASE), 2), (layer(APP), 2)]);
}

#[test]
fn layers_are_kept_once_for_all_images_that_have_them_and_go_with_the_last_one() {
    let case = Case::new();
    let mut layout = Layout::default();
    let (one, first) = layout.image("amd64", &[BASE, &[("bin/a", "a")]]);
    let (two, second) = layout.image("amd64", &[BASE, &[("bin/b", "b")]]);
    layout.write(&case.path("one"), Some((&one, "one:1")));
    layout.write(&case.path("two"), Some((&two, "two:1")));
    for image in ["one", "two"] {
        case.objects(&["refs", "add", "refs", image]);
        // A second time changes nothing.
        case.objects(&["refs", "add", "refs", image]);
    }
    assert_eq!(case.files("layers").len(), 3);
    let shown = case.objects(&["refs", "show", "refs", "one:1"]);
    let users = |n: usize| shown[0]["parts"][n]["images"].as_u64();
    assert_eq!([users(0), users(1)], [Some(2), Some(1)]);
    case.objects(&["refs", "remove", "refs", &first]);
    assert_eq!(case.configurations(), std::slice::from_ref(&second));
    assert_eq!((case.files("layers").len(), case.files("digests").len()), (2, 2));
    case.refused(
        &["refs", "show", "refs", &text(&one["digest"])],
        "no image of the index",
    );
    case.objects(&["refs", "remove", "refs", "two:1"]);
    assert_eq!((case.files("layers").len(), case.files("digests").len()), (0, 0));
    case.refused(&["refs", "remove", "refs", &second], "no image of the index");
    case.refused(&["refs", "list", "nowhere"], "name the folder of an index");
}

#[test]
fn each_platform_of_an_index_is_an_image_and_both_have_its_digest() {
    let case = Case::new();
    let mut layout = Layout::default();
    let (amd64, first) = layout.image("amd64", &[BASE]);
    let (arm64, second) = layout.image("arm64", &[&[("bin/sh", "another shell")]]);
    let index = layout.index(&[&amd64, &arm64]);
    layout.write(&case.path("web"), Some((&index, "web:7")));
    for platform in ["linux/amd64", "linux/arm64"] {
        case.objects(&["refs", "add", "refs", "web", "--platform", platform]);
    }
    let digest = text(&index["digest"]);
    let shown = case.objects(&["refs", "show", "refs", &digest]);
    let found: Vec<String> = shown.iter().map(|image| text(&image["configuration"])).collect();
    assert_eq!(found, [first.clone(), second.clone()]);
    case.objects(&["refs", "remove", "refs", &first]);
    assert_eq!(case.objects(&["refs", "show", "refs", &digest]).len(), 1);
    case.objects(&["refs", "show", "refs", &second]);
}

#[test]
fn a_docker_archive_has_a_configuration_and_an_oci_layout_of_it_adds_the_other_digests() {
    let case = Case::new();
    let mut layout = Layout::default();
    let (manifest, config) = layout.image("amd64", &[BASE]);
    let hex = |digest: &str| digest.strip_prefix("sha256:").unwrap().to_owned();
    let saved = json!([{
        "Config": format!("blobs/sha256/{}", hex(&config)),
        "RepoTags": ["web:7", "web:latest"],
        "Layers": [format!("blobs/sha256/{}", hex(&sha256(&tar(BASE)).to_string()))],
    }]);
    layout.write(&case.path("saved"), None);
    std::fs::write(case.path("saved/manifest.json"), saved.to_string()).unwrap();
    let added = case.objects(&["refs", "add", "refs", "saved"]);
    assert_eq!(added[0]["manifests"], json!([]));
    assert_eq!(added[0]["names"], json!(["web:7", "web:latest"]));
    assert_eq!(text(&added[0]["configuration"]), config);
    let by_manifest = text(&manifest["digest"]);
    case.refused(&["refs", "show", "refs", &by_manifest], "no image of the index");
    layout.write(&case.path("web"), Some((&manifest, "web:7")));
    case.objects(&["refs", "add", "refs", "web"]);
    let shown = case.objects(&["refs", "show", "refs", &by_manifest]);
    assert_eq!(text(&shown[0]["configuration"]), config);
    assert_eq!(shown[0]["names"], added[0]["names"]);
    assert_eq!(case.configurations().len(), 1);
}

#[test]
fn an_image_of_containerds_store_is_chosen_by_its_digest_and_checked_as_any() {
    fn add<'a>(image: &[&'a str]) -> Vec<&'a str> {
        [&["refs", "add", "refs", "containerd"][..], image].concat()
    }
    let case = Case::new();
    let mut layout = Layout::default();
    let (manifest, config) = layout.image("amd64", &[BASE]);
    let index = layout.index(&[&manifest]);
    let content = case.path("containerd/io.containerd.content.v1.content");
    layout.write(&content, None);
    case.refused(&add(&[]), "say which one is meant");
    case.refused(&add(&["--image", "web:7"]), "not NAME@sha256");
    let nobodys = format!("web@{}", sha256(b"nobody's"));
    case.refused(&add(&["--image", &nobodys]), "No such file");
    let image = format!("registry.example/shop/web@{}", text(&index["digest"]));
    let added = case.objects(&add(&["--image", &image]));
    assert_eq!(added[0]["names"], json!(["registry.example/shop/web"]));
    assert_eq!(added[0]["indexes"], json!([index["digest"]]));
    assert_eq!(added[0]["manifests"], json!([manifest["digest"]]));
    assert_eq!(text(&added[0]["configuration"]), config);
    // The folder of the blobs itself, and the digest alone.
    let folder = "containerd/io.containerd.content.v1.content";
    let digest = text(&manifest["digest"]);
    let added = case.objects(&["refs", "add", "other", folder, "--image", &digest]);
    assert_eq!(
        (&added[0]["names"], &added[0]["indexes"]),
        (&json!([]), &json!([]))
    );
    // A blob that is not what its name says.
    let layer: Digest = sha256(&tar(BASE));
    let blob = layer.to_string().replace("sha256:", "blobs/sha256/");
    std::fs::write(content.join(blob), tar(APP)).unwrap();
    case.refused(&add(&["--image", &image]), "its digest is");
}

/// The example that has every key of version 2, in the case's folder: the node part's path there.
fn example(case: &Case) -> &'static str {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples");
    let mut copy = Command::new("cp");
    let status = copy.arg("-r").arg(examples).arg(case.path("examples")).status();
    assert!(status.unwrap().success());
    "examples/everything-2/node.yaml"
}

#[test]
fn a_policy_that_lists_images_is_checked_and_compared_by_each_of_them() {
    let case = Case::new();
    let policy = example(&case);
    let refs = "examples/everything-2/refs";
    let image = &case.objects(&["refs", "list", refs])[0];
    let (index, configuration) = (text(&image["indexes"][0]), text(&image["configuration"]));
    let (_, said, err) = case.run(&["policy", "check", policy]);
    let line = format!("    image registry.example/shop/job@{index} (linux/amd64): 2 paths");
    assert!(said.contains(&line), "{said}{err}");
    let part = std::fs::read_to_string(case.path("examples/everything-2/workloads.yaml")).unwrap();
    let node = std::fs::read_to_string(case.path(policy)).unwrap();
    std::fs::write(
        case.path("examples/everything-2/new.yaml"),
        node.replace("workloads.yaml", "other.yaml"),
    )
    .unwrap();
    std::fs::write(
        case.path("examples/everything-2/other.yaml"),
        part.replace(&index, &configuration),
    )
    .unwrap();
    let (code, said, _) = case.run(&["policy", "diff", policy, "examples/everything-2/new.yaml"]);
    assert_eq!(code, Some(1), "{said}");
    for (sign, digest) in [("-", &index), ("+", &configuration)] {
        let line = format!("{sign} workloads: shop/job: job: image registry.example/shop/job@{digest}");
        assert!(said.contains(&line), "{said}");
    }
    // Without the image the policy cannot be used, and says what to do.
    case.objects(&["refs", "remove", refs, &index]);
    case.refused(&["policy", "check", policy], "cgpath refs add");
}

#[test]
fn a_store_keeps_what_a_policy_takes_from_the_index_and_needs_the_index_no_more() {
    use cgpath_service::policy_files::{Whole, load};
    use cgpath_service::store::Store;
    let case = Case::new();
    let whole = Whole::load(&case.path(example(&case))).unwrap();
    std::fs::create_dir(case.path("store")).unwrap();
    let store = Store::create(&case.path("store")).unwrap();
    let kept = whole.keep(&store).unwrap();
    std::fs::remove_dir_all(case.path("examples")).unwrap();
    let loaded = load(&kept).unwrap();
    assert_eq!(loaded.digest(), whole.policy.digest());
    let jobs = loaded
        .all_workloads()
        .find(|one| one.workload.name == "shop/job")
        .unwrap();
    assert_eq!(jobs.container("job").unwrap().images.len(), 1);
}
