//! The real containerd, for tests: one of the test's own, which unpacks images and shows their files.
//!
//! Promise: its files are on a file system in memory and its socket in the test's directory, so that it meets
//! no other containerd and leaves nothing; it ends with the test. Not here: what is compared (see `layers`).

use super::layers::{Files, Layout, collect, detach};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// It answers within a second; a machine that is busy compiling may take longer.
const START: Duration = Duration::from_secs(120);

/// A running containerd.
pub struct Containerd {
    folder: PathBuf,
    daemon: Child,
}

/// What it says of an image that it does not unpack.
pub struct Refused(pub String);

impl Containerd {
    /// Starts one in this folder, in a mount namespace of the calling thread's own; none where it is not
    /// installed.
    pub fn start(folder: &Path) -> Option<Containerd> {
        // A container's root may be an overlayfs itself, on which no other one can stand.
        let kind = Some("tmpfs");
        mount(kind, folder, kind, MsFlags::empty(), None::<&str>).unwrap();
        let at = folder.to_str().unwrap();
        // Those that are disabled need devices, the network, or write elsewhere on the machine.
        let config = format!(
            r#"
version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{at}/containerd.sock"
"#
        );
        let path = folder.join("config.toml");
        fs::write(&path, config).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let started = Command::new("containerd")
            .args(["--log-level", "warn", "--config"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let daemon = match started {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            started => started.unwrap(),
        };
        let folder = folder.to_owned();
        let mut containerd = Containerd { folder, daemon };
        let begin = Instant::now();
        while !containerd.ctr(&["version"])?.status.success() {
            let ended = containerd.daemon.try_wait().unwrap();
            let log = || fs::read_to_string(containerd.folder.join("log")).unwrap();
            assert!(ended.is_none(), "containerd ended: {ended:?}\n{}", log());
            assert!(begin.elapsed() < START, "containerd does not answer\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(containerd)
    }

    /// None where `ctr` is not installed.
    fn ctr(&self, arguments: &[&str]) -> Option<Output> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.folder.join("containerd.sock"))
            .args(["--namespace", "default"])
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            output => Some(output.unwrap()),
        }
    }

    /// Takes all images of a layout; none of them is unpacked.
    pub fn import(&self, layout: &Layout) {
        let path = self.folder.join("images.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, bytes) in &layout.0 {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap().sync_all().unwrap();
        let output = self.ctr(&["images", "import", "--no-unpack", path.to_str().unwrap()]);
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::remove_file(path).unwrap();
    }

    /// Unpacks an image and gives the files that are seen where it is mounted.
    ///
    /// # Errors
    /// [`Refused`] if a layer is not unpacked. Everything else is a panic.
    pub fn files(&self, image: &str) -> Result<Files, Refused> {
        // A mount point that was used before would show the image that it had then.
        let target = self.folder.join("mounts").join(image.replace(['/', ':'], "-"));
        fs::create_dir_all(&target).unwrap();
        let output = self.ctr(&["images", "mount", image, target.to_str().unwrap()]);
        let output = output.unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            assert!(said.contains("failed to extract layer"), "{image}: {said}");
            return Err(Refused(said));
        }
        let mut files = Files::new();
        let collected = collect(&target, b"", &mut files);
        detach(&target).unwrap();
        collected.unwrap();
        Ok(files)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // Else the folder could not be removed.
        let _ = detach(&self.folder);
    }
}
