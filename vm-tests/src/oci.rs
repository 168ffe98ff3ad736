//! Container images made offline: OCI image layouts in a tar, as `ctr -n k8s.io images import` takes them.
//!
//! Promises: the same description gives the same bytes (no time stamps, sorted files), so that reference
//! values made from a tar hold for what runs in the guest. Not here: registries, compression, whiteouts.
//! Source: OCI image specification 1.0, image-layout.md, config.md, layer.md.

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// What stands at one path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
}

/// A container image of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: String,
    nodes: BTreeMap<String, Node>,
    entrypoint: Vec<String>,
}

impl Image {
    /// An image with no files; `name` is the whole reference with its tag.
    pub fn new(name: &str) -> Image {
        Image {
            name: name.to_owned(),
            nodes: BTreeMap::new(),
            entrypoint: Vec::new(),
        }
    }

    /// The reference.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a directory; its parents come with it.
    pub fn dir(mut self, path: &str, mode: u32) -> Image {
        self.put(path, Node::Dir { mode });
        self
    }

    /// Adds an executable file; its parent directories come with it.
    pub fn program(mut self, path: &str, bytes: &[u8]) -> Image {
        self.put(
            path,
            Node::File {
                mode: 0o755,
                bytes: bytes.to_vec(),
            },
        );
        self
    }

    /// Adds a symbolic link; its parent directories come with it.
    pub fn link(mut self, path: &str, target: &str) -> Image {
        self.put(
            path,
            Node::Link {
                target: target.to_owned(),
            },
        );
        self
    }

    /// What runs where a pod names no command.
    pub fn entrypoint(mut self, command: &[&str]) -> Image {
        self.entrypoint = command.iter().map(|s| (*s).to_owned()).collect();
        self
    }

    /// The content of a file; `None` if there is none at this path.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match self.nodes.get(path.trim_start_matches('/')) {
            Some(Node::File { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    /// Writes the files below `dir`, which is made when missing.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn unpack(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut layer = tar::Archive::new(std::io::Cursor::new(self.layer()?));
        layer.set_preserve_permissions(true);
        layer
            .unpack(dir)
            .with_context(|| format!("cannot unpack {} to {}", self.name, dir.display()))
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..at].to_owned())
                .or_insert(Node::Dir { mode: 0o755 });
        }
        self.nodes.insert(path.to_owned(), node);
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, node) in &self.nodes {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match node {
                Node::Dir { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Node::File { mode, bytes } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Node::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

/// Writes `images` as one OCI image layout in a tar.
///
/// # Errors
/// When `path` cannot be written, or a file's path does not fit into a tar header.
pub fn write_layout(images: &[&Image], path: &Path) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut blob = |bytes: Vec<u8>| {
        let digest = hex::encode(Sha256::digest(&bytes));
        let size = bytes.len();
        blobs.insert(digest.clone(), bytes);
        (format!("sha256:{digest}"), size)
    };
    let mut manifests = Vec::new();
    for image in images {
        let layer = image
            .layer()
            .with_context(|| format!("cannot pack image {}", image.name))?;
        // The layer is stored as it is, so its digest is its diff id as well.
        let (layer, layer_size) = blob(layer);
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Entrypoint": image.entrypoint, "Env": ["PATH=/bin:/app"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [layer] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "vm-tests" }],
        });
        let (config, config_size) = blob(serde_json::to_vec(&config)?);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config,
                "size": config_size,
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size,
            }],
        });
        let (manifest, manifest_size) = blob(serde_json::to_vec(&manifest)?);
        let Some((_, tag)) = image.name.rsplit_once(':') else {
            bail!("image reference {} has no tag", image.name);
        };
        manifests.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest,
            "size": manifest_size,
            "platform": { "architecture": "amd64", "os": "linux" },
            // containerd takes the whole reference from the first, everyone else the tag from the second.
            "annotations": { "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": tag },
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
    for (digest, bytes) in &blobs {
        append(&mut tar, &format!("blobs/sha256/{digest}"), bytes)?;
    }
    let mut file = tar.into_inner()?;
    file.flush()
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

/// The static busybox of the build machine, which the images hold as their shell.
///
/// # Errors
/// When it is not there or needs an interpreter, with the package to install.
pub fn busybox() -> Result<Vec<u8>> {
    let path = "/bin/busybox";
    let bytes = std::fs::read(path).with_context(|| format!("{path} is missing: install busybox-static"))?;
    if needs_interpreter(&bytes) {
        bail!("{path} is not static: install busybox-static in place of busybox");
    }
    Ok(bytes)
}

/// Whether an ELF-64 file has a PT_INTERP program header; what is no such file counts as one that needs help.
fn needs_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| elf.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let word = |at: usize| {
        elf.get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    let (Some(0x464c_457f), Some(table), Some(size), Some(count)) = (word(0), word(32), half(54), half(56))
    else {
        return true;
    };
    (0..usize::from(count)).any(|i| match word(table as usize + i * usize::from(size)) {
        Some(kind) => kind == PT_INTERP,
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample() -> Image {
        Image::new("localhost/test/a:1")
            .program("/bin/busybox", b"bb")
            .link("/bin/sh", "busybox")
            .program("/app/run", b"#!/bin/sh\n")
            .dir("/tmp", 0o1777)
            .entrypoint(&["/app/run"])
    }

    fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(std::fs::File::open(path).unwrap());
        tar.entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
            })
            .collect()
    }

    #[test]
    fn every_blob_has_the_digest_that_its_name_and_its_referrer_claim() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let other = Image::new("localhost/test/b:2").program("/x", b"x");
        write_layout(&[&sample(), &other], &path).unwrap();
        let files = files(&path);
        let mut blobs = 0;
        for (name, bytes) in &files {
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, hex::encode(Sha256::digest(bytes)));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 6);
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let names: Vec<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| {
                let digest = m["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
                let manifest: serde_json::Value =
                    serde_json::from_slice(&files[&format!("blobs/sha256/{digest}")]).unwrap();
                let layer = manifest["layers"][0]["digest"]
                    .as_str()
                    .unwrap()
                    .strip_prefix("sha256:")
                    .unwrap();
                assert_eq!(
                    manifest["layers"][0]["size"].as_u64().unwrap(),
                    files[&format!("blobs/sha256/{layer}")].len() as u64
                );
                m["annotations"]["io.containerd.image.name"].as_str().unwrap()
            })
            .collect();
        assert_eq!(names, ["localhost/test/a:1", "localhost/test/b:2"]);
    }

    #[test]
    fn a_program_that_needs_the_dynamic_linker_is_not_taken_for_a_static_one() {
        assert!(needs_interpreter(&std::fs::read("/proc/self/exe").unwrap()));
        assert!(needs_interpreter(b"#!/bin/sh"));
        assert!(!needs_interpreter(&vm_protocol::elf::pause("x")));
    }

    #[test]
    fn the_same_description_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write_layout(&[&sample()], &a).unwrap();
        write_layout(&[&sample()], &b).unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn a_layer_holds_parents_before_children() {
        let layer = sample().layer().unwrap();
        let mut tar = tar::Archive::new(layer.as_slice());
        let paths: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            paths,
            ["app/", "app/run", "bin/", "bin/busybox", "bin/sh", "tmp/"]
        );
    }
}
