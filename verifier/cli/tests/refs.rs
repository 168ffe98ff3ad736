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

/// An index with two images that share a layer, by their configurations: `one` and `two`.
fn with_two() -> (Case, String, String) {
    let case = Case::new();
    let mut layout = Layout::default();
    let (first, one) = layout.image("amd64", &[BASE, &[("bin/app", "one")]]);
    let (second, two) = layout.image("arm64", &[BASE, &[("bin/app", "two")]]);
    let index = layout.index(&[&first, &second]);
    layout.write(&case.path("both"), Some((&index, "both:1")));
    for platform in ["linux/amd64", "linux/arm64"] {
        add_both(&case, platform);
    }
    (case, one, two)
}

fn add_both(case: &Case, platform: &str) {
    case.objects(&["refs", "add", "refs", "both", "--platform", platform]);
}

/// The file of the index that is named after a digest.
fn file(case: &Case, folder: &str, digest: &str) -> PathBuf {
    let name = digest.replacen(':', "-", 1);
    case.path(&format!("refs/{folder}/{name}.json"))
}

/// All files of the index with what is in them.
fn all(case: &Case) -> BTreeMap<PathBuf, Vec<u8>> {
    let folders = ["digests", "images", "layers"].map(|folder| case.files(folder));
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
    folders.into_iter().flatten().map(read).collect()
}

#[test]
fn a_file_of_an_image_that_is_another_images_is_refused_and_mended_by_adding_the_image_again() {
    let (case, one, two) = with_two();
    let whole = all(&case);
    let image = file(&case, "images", &one);
    std::fs::copy(file(&case, "images", &two), &image).unwrap();
    case.refused(&["refs", "list", "refs"], "it is another image's");
    case.refused(&["refs", "show", "refs", &one], "it is another image's");
    add_both(&case, "linux/amd64");
    assert!(all(&case) == whole);
    // Whatever of its files cannot be read, also those that it shares.
    let index = text(&case.objects(&["refs", "show", "refs", &one])[0]["indexes"][0]);
    let shown = case.objects(&["refs", "show", "refs", &one]);
    let values = text(&shown[0]["parts"][0]["values"]);
    let of_one = file(&case, "digests", &one);
    let of_index = file(&case, "digests", &index);
    let layer = file(&case, "layers", &values);
    for path in [&image, &of_one, &of_index, &layer] {
        let of_two = &whole[&file(&case, "digests", &two)];
        let bad: [&[u8]; 3] = [b"{}", &[0xff; 100], of_two];
        for bytes in bad {
            std::fs::write(path, bytes).unwrap();
            add_both(&case, "linux/amd64");
            assert!(all(&case) == whole, "{path:?}");
        }
    }
}

#[test]
fn values_that_are_not_what_their_name_says_are_not_used() {
    let (case, one, _) = with_two();
    let shown = case.objects(&["refs", "show", "refs", &one]);
    let path = file(&case, "layers", &text(&shown[0]["parts"][1]["values"]));
    let json = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, json.replace("/bin/app", "/bin/abc")).unwrap();
    case.refused(&["refs", "show", "refs", &one], "is not what its name says");
}

#[test]
fn what_the_index_did_not_make_is_not_deleted_and_no_link_is_followed() {
    use std::os::unix::fs::symlink;
    let (case, one, _) = with_two();
    let layers = case.path("refs/layers");
    let unused = format!("sha256-{}.json", "0".repeat(64));
    let (left, foreign) = (format!("{unused}.new"), unused.replace('0', "A"));
    for name in [&unused, &left, &foreign, "notes.txt", "sha256-00.json"] {
        std::fs::write(layers.join(name), "mine").unwrap();
    }
    add_both(&case, "linux/amd64");
    assert!(!layers.join(&unused).exists() && !layers.join(&left).exists());
    for name in [&foreign, "notes.txt", "sha256-00.json"] {
        assert_eq!(std::fs::read_to_string(layers.join(name)).unwrap(), "mine");
    }
    // What is left of an interrupted command is no hindrance, a link is none that is written through.
    let image = file(&case, "images", &one);
    let new = image.with_extension("json.new");
    std::fs::write(&new, "left").unwrap();
    std::fs::remove_file(&image).unwrap();
    add_both(&case, "linux/amd64");
    assert!(image.exists() && !new.exists());
    std::fs::write(case.path("mine"), "mine").unwrap();
    symlink(case.path("mine"), &new).unwrap();
    std::fs::remove_file(&image).unwrap();
    let add = ["refs", "add", "refs", "both", "--platform", "linux/amd64"];
    case.refused(&add, "File exists");
    std::fs::remove_file(&new).unwrap();
    let lock = case.path("refs/lock");
    std::fs::remove_file(&lock).unwrap();
    symlink(case.path("mine"), &lock).unwrap();
    case.refused(&add, "lock: ");
    assert_eq!(std::fs::read_to_string(case.path("mine")).unwrap(), "mine");
    std::fs::remove_file(&lock).unwrap();
    // A folder that is a link: nothing is read or deleted there.
    let elsewhere = case.path("elsewhere");
    std::fs::rename(&layers, &elsewhere).unwrap();
    symlink(&elsewhere, &layers).unwrap();
    std::fs::write(elsewhere.join(&unused), "mine").unwrap();
    case.refused(&add, "no links");
    case.refused(&["refs", "remove", "refs", &one], "no links");
    case.refused(&["refs", "list", "refs"], "no links");
    assert!(elsewhere.join(&unused).exists());
}

#[test]
fn a_folder_that_others_filled_becomes_no_index() {
    let (case, one, _) = with_two();
    std::fs::create_dir(case.path("other")).unwrap();
    let add = ["refs", "add", "other", "both", "--platform", "linux/amd64"];
    std::fs::write(case.path("other/notes.txt"), "mine").unwrap();
    case.refused(&add, "no index of images, and not empty");
    assert_eq!(std::fs::read_dir(case.path("other")).unwrap().count(), 1);
    // An empty one does, and one that an interrupted command began.
    std::fs::remove_file(case.path("other/notes.txt")).unwrap();
    std::fs::create_dir(case.path("other/digests")).unwrap();
    case.objects(&add);
    case.objects(&["refs", "show", "other", &one]);
    // In an index, others may have files.
    std::fs::write(case.path("other/notes.txt"), "mine").unwrap();
    case.objects(&add);
}

#[test]
fn an_image_that_readers_would_refuse_is_not_added() {
    let (case, _, _) = with_two();
    let whole = all(&case);
    let mut layout = Layout::default();
    let (control, _) = layout.image("amd64\n", &[APP]);
    layout.write(&case.path("control"), Some((&control, "control:1")));
    case.refused(
        &["refs", "add", "refs", "control"],
        "cannot have this image: names",
    );
    let (_, config) = layout.image("amd64", &[APP]);
    let blob = |digest: &str| digest.replace(':', "/");
    let names: Vec<String> = (0..5000).map(|n| format!("many:{n}")).collect();
    let saved = json!([{
        "Config": format!("blobs/{}", blob(&config)),
        "RepoTags": names,
        "Layers": [format!("blobs/{}", blob(&sha256(&tar(APP)).to_string()))],
    }]);
    layout.write(&case.path("many"), None);
    std::fs::write(case.path("many/manifest.json"), saved.to_string()).unwrap();
    case.refused(&["refs", "add", "refs", "many"], "cannot have this image: layers");
    assert!(all(&case) == whole);
    case.objects(&["refs", "list", "refs"]);
}

#[test]
fn an_image_is_removed_by_its_configuration_whatever_its_file_and_others_say() {
    let (case, one, two) = with_two();
    std::fs::write(file(&case, "images", &one), "{}").unwrap();
    case.refused(&["refs", "list", "refs"], "missing field");
    case.objects(&["refs", "remove", "refs", &format!("both@{one}")]);
    assert_eq!(case.configurations(), std::slice::from_ref(&two));
    // Three digests of the image that is left, one of these shared with the one that is gone.
    assert_eq!((case.files("layers").len(), case.files("digests").len()), (2, 3));
    add_both(&case, "linux/amd64");
    std::fs::write(file(&case, "images", &two), "{}").unwrap();
    case.objects(&["refs", "remove", "refs", &one]);
    assert_eq!(case.files("images"), [file(&case, "images", &two)]);
    // What the other one has is not known, and stays.
    assert_eq!(case.files("layers").len(), 3);
    add_both(&case, "linux/arm64");
    assert_eq!((case.files("layers").len(), case.files("digests").len()), (2, 3));
    case.objects(&["refs", "show", "refs", &two]);
}

#[test]
fn values_by_another_algorithm_are_not_taken_away_by_adding_the_image_again() {
    let (case, one, _) = with_two();
    let add = ["refs", "add", "refs", "both", "--platform", "linux/amd64"];
    let both = [&add[..], &["--alg", "sha512", "--alg", "sha256"]].concat();
    case.objects(&both);
    let whole = all(&case);
    case.refused(
        &add,
        "this image's values by sha256, sha512, and this would leave sha256",
    );
    case.refused(
        &[&add[..], &["--alg", "sha384"]].concat(),
        "--alg sha384 --alg sha512",
    );
    assert!(all(&case) == whole);
    case.objects(&both);
    assert!(all(&case) == whole);
    case.objects(&["refs", "remove", "refs", &one]);
    case.objects(&add);
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
        part.replace(&index, &configuration)
            .replace("'/bin/**'", "/bin/job"),
    )
    .unwrap();
    let (code, said, _) = case.run(&["policy", "diff", policy, "examples/everything-2/new.yaml"]);
    assert_eq!(code, Some(1), "{said}");
    for (sign, digest) in [("-", &index), ("+", &configuration)] {
        let line = format!("{sign} workloads: shop/job: job: image registry.example/shop/job@{digest}");
        assert!(said.contains(&line), "{said}");
    }
    for line in [
        "- workloads: shop/job: job: only /bin/**",
        "+ workloads: shop/job: job: only /bin/job",
    ] {
        assert!(said.contains(line), "{line}: {said}");
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
