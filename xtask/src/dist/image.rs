//! OCI images from scratch, made offline of what the archives have: the verifier's with `cgpath`, the node's
//! with `cgpathd`.
//!
//! Promises: the same programs give the same bytes; `cgpath policy from-image` finds each file of an image
//! with its digest; a program that is dynamically linked has its loader and C library beside it, with their
//! licences. Not here: what installs a collector from its image on a node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::bill::{self, Bills};
use super::{Compression, Release, copy, packages, portable, size, sums, tarball};
use crate::kernel::sha256;
use crate::shell;
use crate::workspace::{Workspace, emptied, find_program, is_root};

/// Who the verifier runs as: nobody's number on any host.
const VERIFIER: u32 = 65_532;

/// An image.
struct Image {
    name: &'static str,
    /// What it runs, by its place in the image.
    program: &'static str,
    /// The arguments by default.
    arguments: &'static [&'static str],
    /// The program's bill of materials, by its place in the archive.
    bill: &'static str,
    user: u32,
    /// The TCP port on which it listens.
    port: Option<u16>,
    /// What it keeps, a directory of its user's.
    volume: Option<&'static str>,
}

/// In the order of what [`tarball::pack`] gives.
const IMAGES: [Image; 2] = [
    Image {
        name: "ima-cgpath-verifier",
        program: "usr/bin/cgpath",
        // As in deploy/cgpath.service.
        arguments: &[
            "serve",
            "/var/lib/cgpath/store",
            "--listen",
            "[::]:8443",
            "--read-token-always",
        ],
        bill: "cgpath.cdx.json",
        user: VERIFIER,
        port: Some(8443),
        volume: Some("var/lib/cgpath"),
    },
    Image {
        name: "ima-cgpath-node",
        program: "usr/sbin/cgpathd",
        arguments: &["--help"],
        bill: "cgpathd.cdx.json",
        user: 0,
        port: None,
        volume: None,
    },
];

/// Where licences and bills of materials are in an image.
const DOCUMENTS: &str = "usr/share/doc/ima-cgpath";

/// Makes both images; gives their directory. `programs` are those that [`portable`] takes.
pub fn make(workspace: &Workspace, bills: &Bills, programs: Option<&Path>) -> Result<PathBuf> {
    let out = packages(workspace).join("image");
    emptied(&out)?;
    let work = out.join("work");
    let built = portable(workspace, programs, &work)?;
    let trees = tarball::pack(
        workspace,
        bills,
        &built,
        &work.join("archives"),
        Compression::Small,
    )?;
    pack(workspace, &trees, &built.join("cgpath"), &out, Compression::Small)?;
    for image in &IMAGES {
        run(&root(&out, image), image.program)?;
    }
    std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    sums(&out)?;
    Ok(out)
}

/// Both images of the trees that [`tarball::pack`] gives, read back by `reader`, a `cgpath`; what they are
/// made of stays below `work` in `out`.
pub fn pack(
    workspace: &Workspace,
    trees: &[PathBuf; 2],
    reader: &Path,
    out: &Path,
    compression: Compression,
) -> Result<()> {
    let release = Release::of(workspace)?;
    for (image, tree) in IMAGES.iter().zip(trees) {
        let root = root(out, image);
        plant(image, tree, &root)?;
        let file = out.join(format!("{}-{}-x86_64.oci.tar", image.name, release.full));
        let manifest = layout(image, &release, &root, &file, compression)?;
        size(image.name, &file)?;
        read_back(reader, image, &root, &file)?;
        match find_program("skopeo") {
            Some(_) => read_by_skopeo(image, &manifest, &file, &root.with_extension("copy"))?,
            None => eprintln!("   {}: skopeo is not there, which would read it, too", image.name),
        }
    }
    Ok(())
}

/// Where the content of an image is put together.
fn root(out: &Path, image: &Image) -> PathBuf {
    out.join("work").join(image.name)
}

/// Lays out the content of an image.
fn plant(image: &Image, tree: &Path, root: &Path) -> Result<()> {
    emptied(root)?;
    for name in super::names(tree)? {
        // Licences and bills of materials lie beside the folders.
        let is_document = !["bin", "sbin", "lib", "share"].contains(&name.as_str());
        let place = if is_document { DOCUMENTS } else { "usr" };
        copy(&tree.join(&name), &root.join(place).join(&name))?;
    }
    let mut owners: BTreeSet<bill::Debian> = BTreeSet::new();
    for path in tarball::system_of(&root.join(image.program))? {
        let real = path
            .canonicalize()
            .with_context(|| format!("looking for {}", path.display()))?;
        let place = path.strip_prefix("/").unwrap_or(&path);
        copy(&real, &root.join(place))?;
        owners.insert(bill::Debian::of(&real)?);
    }
    bill::bring(&owners, &root.join(DOCUMENTS).join(image.bill))?;
    for dir in image.volume.iter().chain(&["tmp"]) {
        std::fs::create_dir_all(root.join(dir))?;
    }
    Ok(())
}

/// A blob of a layout: writes it, and gives its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = sha256(bytes)?;
    let path = layout.join("blobs/sha256").join(&digest);
    std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(json!({
        "mediaType": media_type,
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
    }))
}

/// The only layer: what is in `root`, root's, but for what the image's user writes to.
fn layer(image: &Image, release: &Release, root: &Path) -> Result<PathBuf> {
    let file = root.with_extension("tar");
    let names = super::names(root)?;
    let entries: Vec<&str> = names.iter().map(String::as_str).collect();
    let kept = image.volume.map(|dir| format!("--exclude={dir}"));
    let mut options = tarball::ROOTS.to_vec();
    options.extend(["--create", "--anchored", "--exclude=tmp"]);
    options.extend(kept.as_deref());
    tarball::tar(release, root, &entries, &options, &file)?;
    // The database's own temporary files lie there.
    let options = ["--append", "--owner=0", "--group=0", "--mode=1777"];
    tarball::tar(release, root, &["tmp"], &options, &file)?;
    if let Some(dir) = image.volume {
        let (owner, group) = (
            format!("--owner={}", image.user),
            format!("--group={}", image.user),
        );
        let options = ["--append", &owner, &group, "--mode=0700"];
        tarball::tar(release, root, &[dir], &options, &file)?;
    }
    Ok(file)
}

/// Writes an image's layout as an archive; gives the manifest's digest. Source: OCI image specification 1.0,
/// `image-layout.md`, `manifest.md`, `config.md`.
fn layout(
    image: &Image,
    release: &Release,
    root: &Path,
    file: &Path,
    compression: Compression,
) -> Result<String> {
    let dir = root.with_extension("layout");
    emptied(&dir)?;
    std::fs::create_dir_all(dir.join("blobs/sha256"))?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let unpacked = layer(image, release, root)?;
    let diff_id = format!("sha256:{}", sha256(&read(&unpacked)?)?);
    let packed = read(&tarball::gzip(&unpacked, compression)?)?;
    let layer = blob(&dir, "application/vnd.oci.image.layer.v1.tar+gzip", &packed)?;
    let made = release.date("+%Y-%m-%dT%H:%M:%SZ")?;
    let config = blob(
        &dir,
        "application/vnd.oci.image.config.v1+json",
        config(image, &made, &diff_id).to_string().as_bytes(),
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
        "annotations": {
            "org.opencontainers.image.created": made,
            "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
            "org.opencontainers.image.title": image.name,
            "org.opencontainers.image.version": release.full,
        },
    });
    let mut manifest = blob(
        &dir,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    )?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    let tag = tag(&release.full);
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    manifest["annotations"] = json!({
        // What `ctr images import` calls it, and the tag by which others find it.
        "io.containerd.image.name": format!("localhost/{}:{tag}", image.name),
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    std::fs::write(dir.join("index.json"), index.to_string())?;
    std::fs::write(
        dir.join("oci-layout"),
        json!({ "imageLayoutVersion": "1.0.0" }).to_string(),
    )?;
    let mut options = tarball::ROOTS.to_vec();
    options.push("--create");
    tarball::tar(
        release,
        &dir,
        &["blobs", "index.json", "oci-layout"],
        &options,
        file,
    )?;
    Ok(digest)
}

/// An image's configuration.
fn config(image: &Image, made: &str, diff_id: &str) -> Value {
    let mut config = json!({
        "Entrypoint": [format!("/{}", image.program)],
        "Cmd": image.arguments,
        "User": format!("{0}:{0}", image.user),
        "WorkingDir": "/",
        "Env": ["PATH=/usr/sbin:/usr/bin"],
    });
    if let Some(port) = image.port {
        config["ExposedPorts"] = json!({ format!("{port}/tcp"): {} });
    }
    if let Some(dir) = image.volume {
        config["Volumes"] = json!({ format!("/{dir}"): {} });
    }
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": made,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": made, "created_by": "cargo xtask dist image" }],
    })
}

/// A version as a tag may be: no `~` and no `+`.
fn tag(version: &str) -> String {
    version.replace(['~', '+'], "-")
}

/// Our own reader finds the program in the image, with the digest that it has.
fn read_back(reader: &Path, image: &Image, root: &Path, file: &Path) -> Result<()> {
    let written = root.with_extension("json");
    let mut from_image = Command::new(reader);
    from_image.args(["policy", "from-image"]).arg(file);
    shell::output(from_image.arg("-o").arg(&written))?;
    let text = std::fs::read_to_string(&written).with_context(|| format!("reading {}", written.display()))?;
    let program = std::fs::read(root.join(image.program))?;
    found(
        &serde_json::from_str(&text)?,
        &format!("/{}", image.program),
        &sha256(&program)?,
    )
    .with_context(|| format!("reading {} back", file.display()))
}

/// Whether reference values have a file with this digest.
fn found(values: &Value, path: &str, digest: &str) -> Result<()> {
    let files = values["files"].as_array().context("no files")?;
    let file = files.iter().find(|file| file["path"] == path);
    let digests = file.with_context(|| format!("no {path}"))?["digests"].as_array();
    let is_there = |found: &Value| found.as_str().is_some_and(|found| found.ends_with(digest));
    ensure!(
        digests.is_some_and(|digests| digests.iter().any(is_there)),
        "{path} is another"
    );
    Ok(())
}

/// So does skopeo, which checks each blob's digest and size when it copies.
fn read_by_skopeo(image: &Image, manifest: &str, file: &Path, work: &Path) -> Result<()> {
    let from = format!("oci-archive:{}", file.display());
    let mut skopeo = Command::new("skopeo");
    let shown: Value = serde_json::from_str(&shell::output(skopeo.args(["inspect", &from]))?)?;
    ensure!(shown["Digest"] == manifest, "skopeo sees {}", shown["Digest"]);
    let mut skopeo = Command::new("skopeo");
    let shown = shell::output(skopeo.args(["inspect", "--config", &from]))?;
    let shown: Value = serde_json::from_str(&shown)?;
    let entrypoint = json!([format!("/{}", image.program)]);
    ensure!(
        shown["config"]["Entrypoint"] == entrypoint,
        "skopeo sees {}",
        shown["config"]
    );
    emptied(work)?;
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", &from]);
    shell::output(skopeo.arg(format!("dir:{}", work.display())))?;
    Ok(())
}

/// Runs the verifier's program in what [`pack`] made its image of, below `work` in `out`.
pub fn run_verifier(out: &Path) -> Result<()> {
    let [verifier, _] = &IMAGES;
    run(&root(out, verifier), verifier.program)
}

/// The program starts with nothing but what is in its image.
fn run(root: &Path, program: &str) -> Result<()> {
    let mut command = match is_root() {
        true => Command::new("chroot"),
        false => Command::new("unshare"),
    };
    if !is_root() {
        command.args(["--map-root-user", "chroot"]);
    }
    command.arg(root).arg(format!("/{program}")).arg("--version");
    let said = shell::output(&mut command)?;
    ensure!(
        said.contains(env!("CARGO_PKG_VERSION")),
        "{program} --version: {said}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_image_runs_what_its_unit_runs() {
        let unit = include_str!("../../../deploy/cgpath.service");
        let [verifier, node] = &IMAGES;
        let line = format!("ExecStart=/{} {}", verifier.program, verifier.arguments.join(" "));
        assert!(unit.lines().any(|found| found == line), "{line}");
        let config = config(verifier, "2026-11-30T02:27:57Z", "sha256:00");
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["ExposedPorts"], json!({ "8443/tcp": {} }));
        assert_eq!(config["config"]["Volumes"], json!({ "/var/lib/cgpath": {} }));
        let config = super::config(node, "2026-11-30T02:27:57Z", "sha256:00");
        assert!(config["config"]["ExposedPorts"].is_null() && config["config"]["Volumes"].is_null());
        assert_eq!(
            tag("0.1.0~20261130022757.52b5976"),
            "0.1.0-20261130022757.52b5976"
        );
    }

    #[test]
    fn an_image_that_is_read_back_without_its_program_or_with_another_is_refused() {
        let values = json!({ "files": [{ "path": "/usr/bin/cgpath", "digests": ["sha256:aa"] }] });
        found(&values, "/usr/bin/cgpath", "aa").unwrap();
        assert!(found(&values, "/usr/bin/cgpath", "ab").is_err());
        assert!(found(&values, "/usr/sbin/cgpathd", "aa").is_err());
        assert!(found(&json!({}), "/usr/bin/cgpath", "aa").is_err());
    }
}
