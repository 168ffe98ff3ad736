//! Images that containers may run: how the index of images gives their values, and which of them a container
//! runtime says that a container runs.

use crate::{sha256, values};
use cgpath_evidence::{Bank, Digest};
use cgpath_policy::refs::{
    Image, Images, Layer, by_layers, digest_file, image_file, values_file, values_from_json,
};
use cgpath_policy::{ContainerPolicy, Error, ImageFault, Name, Policy, Reference, Source, SourceKind};
use std::collections::BTreeMap;

/// An index of images, by the names of its files, and what a policy reads beside it.
struct Files(BTreeMap<String, Vec<u8>>);

const BASE: &[(&str, &str)] = &[("/bin/sh", "shell")];

impl Files {
    /// Two images with a layer that both have: `web` of two platforms with one index, and `log`.
    fn new() -> Files {
        let mut files = Files(BTreeMap::new());
        files.put(
            "rootfs.json",
            values(SourceKind::Rootfs, &[("/usr/sbin/cgpathd", "collector")]),
        );
        files.put(
            "extra.json",
            values(SourceKind::Rootfs, &[("/etc/conf", "mounted")]),
        );
        files.image("web", &["web index"], &[BASE, &[("/bin/app", "web")]]);
        files.image("web of arm64", &["web index"], &[&[("/bin/app", "web of arm64")]]);
        files.image("log", &[], &[BASE, &[("/bin/app", "log")]]);
        files
    }

    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), bytes);
    }

    fn image(&mut self, name: &str, indexes: &[&str], layers: &[&[(&str, &str)]]) {
        let mut image = Image::new(sha256(name));
        image.manifests.insert(sha256(&format!("{name} manifest")));
        image.indexes.extend(indexes.iter().map(|index| sha256(index)));
        for files in layers {
            let json = values(SourceKind::Image, files);
            let values = Bank::Sha256.hash(&[&json]);
            self.put(&format!("refs/{}", values_file(&values)), json);
            let layer = sha256(&format!("{files:?}"));
            image.layers.push(Layer { layer, values });
        }
        for digest in image.digests() {
            let file = format!("refs/{}", digest_file(digest));
            let known = self
                .0
                .get(&file)
                .map(|json| Images::from_json("", json).unwrap().images);
            let mut all = known.unwrap_or_default();
            all.insert(image.configuration.clone());
            self.put(&file, Images::new(all).to_json().into_bytes());
        }
        let file = format!("refs/{}", image_file(&image.configuration));
        self.put(&file, image.to_json().into_bytes());
    }

    /// A policy with one container, which has these keys.
    fn load(&self, container: &str) -> cgpath_policy::Result<Policy> {
        self.load_with(container, |_, _| ())
    }

    /// The same; `seen` takes each file that is read.
    fn load_with(&self, container: &str, mut seen: impl FnMut(&str, &[u8])) -> cgpath_policy::Result<Policy> {
        let workloads = format!(
            "version: 2
workloads:
  - name: shop/web
    match: {{namespace: shop}}
    containers:
      web: {{{container}}}
"
        );
        Policy::load("node.yaml", node().as_bytes(), |name| {
            let bytes = match name {
                "workloads.yaml" => Some(workloads.as_bytes()),
                other => self.0.get(other).map(Vec::as_slice),
            };
            let bytes = bytes.ok_or_else(|| format!("no file {name}"))?;
            seen(name, bytes);
            Ok(bytes.to_vec())
        })
    }

    /// A policy with these images.
    #[track_caller]
    fn with(&self, images: &[&str]) -> Policy {
        self.load(&format!("images: {}", listed(images))).unwrap()
    }
}

/// The node's part of the policy.
fn node() -> String {
    let ima = sha256("ima policy");
    format!(
        "version: 2
node: demo-node
accept:
  tiers: [bpf]
  templates: [ima-ng]
  banks: [sha256]
  ima-policies: ['{ima}']
  collector: /usr/sbin/cgpathd
host: {{ references: [rootfs.json] }}
workloads: workloads.yaml
"
    )
}

/// A digest as a policy lists it.
fn by(content: &str) -> String {
    format!("registry.example/shop/web@{}", sha256(content))
}

fn listed(contents: &[&str]) -> String {
    let all: Vec<String> = contents.iter().map(|content| by(content)).collect();
    format!("['{}']", all.join("', '"))
}

fn container(policy: &Policy) -> &ContainerPolicy {
    policy.workloads.as_ref().unwrap().list[0]
        .container("web")
        .unwrap()
}

/// Which image a container runs whose runtime says this of it.
fn runs(policy: &Policy, said: &[String]) -> Result<Digest, ImageFault> {
    let image = container(policy).image(said)?;
    Ok(image.unwrap().image.configuration.clone())
}

#[test]
fn an_image_is_meant_by_each_of_its_digests_and_one_that_is_nobodys_is_refused() {
    let files = Files::new();
    let id = |content: &str| sha256(content).to_string();
    let digits = |content: &str| id(content).replace("sha256:", "");
    for way in ["log", "log manifest"] {
        let policy = files.with(&[way]);
        for said in [
            // Imported: the configuration. CRI-O has the digits alone.
            vec![id("log")],
            vec![digits("log")],
            // A repository's digest alone, in each form.
            vec![by("log manifest")],
            vec![format!("docker-pullable://{}", by("log manifest"))],
            vec![by("log manifest"), "registry.example/log:7".into()],
            // The id decides: another registry packs the same image in another way.
            vec![id("log"), by("a manifest of another registry")],
            vec![id("log"), by("web manifest")],
            // An id that names nothing that is listed decides nothing.
            vec![id("of an image that was pulled in parts"), by("log manifest")],
            vec![id("web"), by("log manifest")],
        ] {
            assert_eq!(runs(&policy, &said), Ok(sha256("log")), "{way} {said:?}");
        }
        for (said, fault) in [
            (vec![], ImageFault::NoDigest),
            (vec!["registry.example/log:7".to_owned()], ImageFault::NoDigest),
            (vec![by("nobody's")], ImageFault::NotListed),
            (vec![id("nobody's")], ImageFault::NotListed),
            // In the index, and not of this container.
            (vec![id("web")], ImageFault::NotListed),
            (vec![id("nobody's"), by("nobody's")], ImageFault::NotListed),
            (vec![id("log"), id("nobody's")], ImageFault::NotListed),
        ] {
            assert_eq!(runs(&policy, &said), Err(fault), "{way} {said:?}");
        }
    }
}

#[test]
fn of_an_index_the_image_is_meant_that_the_runtimes_id_names_and_none_without() {
    let files = Files::new();
    let policy = files.with(&["web index"]);
    let both = [sha256("web").to_string(), by("web index")];
    assert_eq!(runs(&policy, &both), Ok(sha256("web")));
    let other = [sha256("web of arm64").to_string(), by("web index")];
    assert_eq!(runs(&policy, &other), Ok(sha256("web of arm64")));
    assert_eq!(runs(&policy, &[by("web index")]), Err(ImageFault::Several));
    assert_eq!(runs(&policy, &[by("web manifest")]), Ok(sha256("web")));
    // Of one platform alone the index's digest is enough, also where the policy has another of its digests.
    for way in ["web", "web manifest"] {
        assert_eq!(runs(&files.with(&[way]), &[by("web index")]), Ok(sha256("web")));
    }
    // Nor by digests of two repositories, each of another image.
    let policy = files.with(&["web manifest", "log"]);
    let both = [by("web manifest"), by("log manifest")];
    assert_eq!(runs(&policy, &both), Err(ImageFault::Several));
    // An image that is listed twice is one.
    assert_eq!(container(&files.with(&["web index", "web"])).images.len(), 2);
}

#[test]
fn a_container_has_what_its_image_has_and_its_own_references_and_nothing_of_another_image() {
    let files = Files::new();
    let images = listed(&["web", "log"]);
    let policy = files
        .load(&format!(
            "images: {images}, references: [extra.json], excludes: ['^/tmp/']"
        ))
        .unwrap();
    let container = container(&policy);
    let accepts = |image: &str, path: &str, content: &str| {
        let said = [sha256(image).to_string()];
        let allowed = &container.image(&said).unwrap().unwrap().allowed;
        let name = Name::True(path.as_bytes());
        policy
            .look_up_container(allowed, name, &sha256(content))
            .is_accepted()
    };
    for image in ["web", "log"] {
        assert!(accepts(image, "/bin/app", image) && accepts(image, "/bin/sh", "shell"));
        assert!(accepts(image, "/etc/conf", "mounted"));
        let other = if image == "web" { "log" } else { "web" };
        assert!(!accepts(image, "/bin/app", other) && !accepts(image, "/usr/sbin/cgpathd", "collector"));
    }
    // What may be in some container of some workload.
    let name = || Name::True(b"/bin/app");
    for content in ["web", "log"] {
        assert!(policy.accepted_in_workloads(name(), &sha256(content)).is_some());
    }
    assert!(
        policy
            .accepted_in_workloads(name(), &sha256("web of arm64"))
            .is_none()
    );
    assert_eq!(
        policy.relaxations(),
        ["workload shop/web, container web.excludes: ^/tmp/"]
    );
    // Without `images` any image may run, by the references alone.
    let policy = files.load("references: [extra.json]").unwrap();
    let none: [String; 0] = [];
    assert!(self::container(&policy).image(&none).unwrap().is_none());
}

#[test]
fn excludes_that_hide_all_of_an_image_are_refused() {
    let files = Files::new();
    let images = listed(&["web"]);
    let why = files
        .load(&format!("images: {images}, excludes: ['^/']"))
        .unwrap_err();
    let why = why.to_string();
    assert!(
        why.starts_with("workloads.yaml: ") && why.contains("hide every path"),
        "{why}"
    );
}

#[test]
fn what_is_no_image_is_refused_with_its_line() {
    let files = Files::new();
    let digest = sha256("web");
    for (keys, words) in [
        ("images: ['registry.example/web:7']".to_owned(), "signed-by"),
        ("images: ['registry.example/**']".to_owned(), "signed-by"),
        (format!("images: ['{digest}']"), "NAME@sha256"),
        (format!("images: ['@{digest}']"), "without a pattern"),
        (
            format!("images: ['registry.example/*@{digest}']"),
            "without a pattern",
        ),
        ("images: ['web@sha256:00']".to_owned(), "64 hex digits"),
        (
            format!("images: ['web@sha1:{}']", "0".repeat(40)),
            "64 hex digits",
        ),
        ("images: []".to_owned(), "empty allow list"),
        (
            "excludes: ['^/tmp/']".to_owned(),
            "`images`, `references` or both",
        ),
        (
            format!("images: ['{}'], signed-by: [release]", by("web")),
            "signatures",
        ),
    ] {
        match files.load(&keys) {
            Err(Error::Syntax { line, why, .. }) => {
                assert!(line == 6 && why.contains(words), "{line} {why}");
            }
            other => panic!("{keys}: {other:?}"),
        }
    }
}

#[test]
fn an_image_that_the_index_does_not_have_is_refused_with_what_to_do() {
    let why = Files::new()
        .load(&format!("images: {}", listed(&["nobody's"])))
        .unwrap_err();
    let why = why.to_string();
    for words in [
        "workloads.yaml: workloads: shop/web: web: image registry.example/shop/web@sha256:",
        "is not in the index of images `refs`",
        "cgpath refs add refs",
        "cgpath refs list refs",
    ] {
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn an_index_that_does_not_hold_together_is_refused() {
    let digest = |content: &str| format!("refs/{}", digest_file(&sha256(content)));
    let image = |content: &str| format!("refs/{}", image_file(&sha256(content)));
    let layer = |files: &Files, content: &str| {
        let json = &files.0[&image(content)];
        let image = Image::from_json("", json).unwrap();
        format!("refs/{}", values_file(&image.layers[0].values))
    };
    let intact = Files::new();
    type Change<'a> = &'a dyn Fn(&mut Files);
    let changes: [(Change<'_>, &str); 5] = [
        // Values of another layer, a digest that names another image, an image in another's place.
        (
            &|files| {
                let of_web = layer(files, "web of arm64");
                files.put(&of_web, values(SourceKind::Image, &[("/bin/app", "anything")]));
            },
            "is not what its name says",
        ),
        (
            &|files| {
                let other = files.0[&digest("log")].clone();
                files.put(&digest("web of arm64"), other);
            },
            "another image's",
        ),
        (
            &|files| {
                let other = files.0[&image("log")].clone();
                files.put(&image("web of arm64"), other);
            },
            "another image's",
        ),
        (
            &|files| drop(files.0.remove(&image("web of arm64"))),
            "no file refs/images",
        ),
        (
            &|files| files.put(&image("web of arm64"), b"{}".to_vec()),
            "missing field",
        ),
    ];
    for (change, words) in changes {
        let mut files = Files(intact.0.clone());
        change(&mut files);
        let why = files
            .load(&format!("images: {}", listed(&["web of arm64"])))
            .unwrap_err();
        assert!(why.to_string().contains(words), "{why}");
    }
}

/// Files with the image `web`, whose one layer has these values.
fn with_values(values: &[u8]) -> Files {
    let mut files = Files::new();
    let mut image = Image::new(sha256("web"));
    let hash = Bank::Sha256.hash(&[values]);
    files.put(&format!("refs/{}", values_file(&hash)), values.to_vec());
    let layer = sha256("layer");
    image.layers.push(Layer { layer, values: hash });
    let file = format!("refs/{}", image_file(&image.configuration));
    files.put(&file, image.to_json().into_bytes());
    files
}

#[test]
fn values_that_no_image_has_of_a_layer_are_refused_whatever_their_name() {
    let good = String::from_utf8(values(SourceKind::Image, BASE)).unwrap();
    let images = format!("images: {}", listed(&["web"]));
    with_values(good.as_bytes()).load(&images).unwrap();
    let excludes = good.replace("\"learned\"", "\"excludes\":[\"^/bin/\"],\n \"learned\"");
    let learned = good.replace("\"learned\":false", "\"learned\":true");
    let other = String::from_utf8(values(SourceKind::Rootfs, BASE)).unwrap();
    for bad in [excludes, learned, other] {
        let files = with_values(bad.as_bytes());
        let why = files.load(&images).unwrap_err().to_string();
        assert!(why.contains("is not what an image has of a layer"), "{bad} {why}");
        let hash = Bank::Sha256.hash(&[bad.as_bytes()]);
        Reference::from_json("values.json", bad.as_bytes()).unwrap();
        values_from_json("values.json", &hash, bad.as_bytes()).unwrap_err();
        // Nor where the policy names the file as one of its references, too.
        let named = format!("{images}, references: ['refs/{}']", values_file(&hash));
        files.load(&named).unwrap_err();
    }
    let hash = Bank::Sha256.hash(&[good.as_bytes()]);
    values_from_json("values.json", &hash, good.as_bytes()).unwrap();
    let why = values_from_json("values.json", &sha256("another"), good.as_bytes()).unwrap_err();
    assert!(why.to_string().contains("is not what its name says"), "{why}");
}

#[test]
fn a_long_file_of_the_index_is_refused_by_its_length() {
    let mut files = Files::new();
    let mut long = files.0[&format!("refs/{}", image_file(&sha256("web")))].clone();
    long.resize(cgpath_policy::refs::MAX_INDEX_LEN + 1, b' ');
    files.put(&format!("refs/{}", image_file(&sha256("web"))), long);
    let why = files.load(&format!("images: {}", listed(&["web"])));
    assert!(matches!(why, Err(Error::Limit { .. })), "{why:?}");
}

#[test]
fn files_of_the_index_that_cannot_be_are_refused() {
    let image = |change: &dyn Fn(&mut Image)| {
        let mut image = Image::new(sha256("web"));
        let (layer, values) = (sha256("layer"), sha256("values"));
        image.layers.push(Layer { layer, values });
        change(&mut image);
        Image::from_json("image.json", image.to_json().as_bytes())
    };
    let whole = image(&|image| {
        image.names.insert("web:7".into());
        image.platform = Some("linux/amd64".into());
    });
    assert!(whole.is_ok_and(|image| image.names.contains("web:7")));
    let sha1 = Bank::Sha1.hash(&[b"web"]);
    assert!(image(&|image| image.layers.clear()).is_err());
    assert!(image(&|image| image.configuration = sha1.clone()).is_err());
    assert!(image(&|image| image.layers[0].values = sha1.clone()).is_err());
    assert!(image(&|image| image.manifests.extend([sha1.clone()])).is_err());
    assert!(image(&|image| image.names.extend(["a\u{1b}[2J".to_owned()])).is_err());
    assert!(image(&|image| image.platform = Some(String::new())).is_err());
    let images = |all: &[&Digest]| {
        let images = Images::new(all.iter().map(|digest| (*digest).clone()).collect());
        Images::from_json("digest.json", images.to_json().as_bytes())
    };
    assert!(images(&[&sha256("web")]).is_ok());
    assert!(images(&[]).is_err() && images(&[&sha1]).is_err());
    let long = vec![b' '; cgpath_policy::refs::MAX_INDEX_LEN + 1];
    assert!(matches!(
        Images::from_json("digest.json", &long),
        Err(Error::Limit { .. })
    ));
}

#[test]
fn an_image_in_parts_is_the_image_and_a_part_says_nothing_of_it() {
    let mut image = Reference::new(Source {
        kind: SourceKind::Image,
        name: "web:7".into(),
        digest: Some(sha256("web manifest")),
    });
    let [base, app, none] = ["base", "app", "none"].map(|layer| format!("layer {}", sha256(layer)));
    for (path, layer) in [
        ("/a", &base),
        ("/b", &app),
        ("/c", &base),
        ("/d", &none),
        ("/d", &app),
    ] {
        image.insert(path.as_bytes().to_vec(), sha256(path)).unwrap();
        image.origins.set(path.as_bytes().to_vec(), layer).unwrap();
    }
    let parts = by_layers(&image).unwrap();
    let paths: Vec<_> = parts
        .iter()
        .map(|(layer, part)| (layer.clone(), part.files.keys().cloned().collect::<Vec<_>>()))
        .collect();
    assert_eq!(
        paths,
        [
            (sha256("base"), vec![b"/a".to_vec(), b"/c".to_vec()]),
            (sha256("app"), vec![b"/b".to_vec(), b"/d".to_vec()]),
        ]
    );
    let all: BTreeMap<_, _> = parts.iter().flat_map(|(_, part)| part.files.clone()).collect();
    assert_eq!(all, image.files);
    image.source.name = "another:1".into();
    assert_eq!(by_layers(&image).unwrap(), parts);
    image.insert(b"/e".to_vec(), sha256("e")).unwrap();
    assert!(by_layers(&image).unwrap_err().contains("/e"));
}

#[test]
fn a_policys_digest_covers_what_the_index_says_and_another_folder_can_have_it() {
    let files = Files::new();
    let policy = files.with(&["web index"]);
    let part = |policy: &Policy| policy.workloads.as_ref().unwrap().digest().clone();
    // One more image of the same index.
    let mut more = Files(files.0.clone());
    more.image(
        "web of riscv64",
        &["web index"],
        &[&[("/bin/app", "web of riscv64")]],
    );
    let changed = more.with(&["web index"]);
    assert_ne!(policy.digest(), changed.digest());
    assert_ne!(part(&policy), part(&changed));
    // An image that the policy does not name changes nothing.
    more.0.clone_from(&files.0);
    more.image("other", &[], &[&[("/bin/app", "other")]]);
    assert_eq!(policy.digest(), more.with(&["web index"]).digest());
    assert_eq!(part(&policy), part(&more.with(&["web index"])));
}

#[test]
fn a_policys_digest_is_over_each_file_that_was_read_by_its_name() {
    let keys = format!(
        "images: {}, references: [extra.json]",
        listed(&["web index", "log"])
    );
    let mut read = BTreeMap::new();
    let policy = Files::new()
        .load_with(&keys, |name, bytes| {
            let twice = read.insert(name.to_owned(), bytes.to_vec());
            assert!(twice.is_none(), "{name}");
        })
        .unwrap();
    // Two files of digests, three of images, and four layers, of which two images share one.
    assert_eq!(read.len(), 3 + 2 + 3 + 4);
    let hash = |bytes: &[u8]| Bank::Sha256.hash(&[bytes]).bytes().to_vec();
    let over = |own: &[u8], but: &[&str]| {
        let mut all = hash(own);
        for (name, bytes) in read.iter().filter(|(name, _)| !but.contains(&name.as_str())) {
            all.extend(hash(name.as_bytes()));
            all.extend(hash(bytes));
        }
        Bank::Sha256.hash(&[&all])
    };
    assert_eq!(policy.digest(), &over(node().as_bytes(), &[]));
    // The workload part's is over its own files alone.
    let part = over(&read["workloads.yaml"], &["workloads.yaml", "rootfs.json"]);
    assert_eq!(policy.workloads.as_ref().unwrap().digest(), &part);
}
