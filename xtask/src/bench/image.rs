//! `cgpath policy from-image` on images of 500 MB of packed layers, beside unpacking and hashing the same
//! bytes once.
//!
//! Promises: the images are the same each time, and reference values that are not those of the round before
//! end the benchmark. Not here: the images' generator (an example of `cgpath-refvals`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::measure::{self, Contender, Spread, Taken};
use super::{BenchOptions, Figure, Ratio, Report};
use crate::workspace::{Workspace, find_program};
use crate::{build, shell};

/// Images that were made by another generator have other names.
const GENERATOR: u32 = 1;

/// Packed layers of an image, in megabytes (10^6 bytes).
const MEGABYTES: u64 = 500;

/// How layers are packed, and by what program they are unpacked for comparison.
const KINDS: [(&str, &str); 3] = [("gzip", "gzip -dc"), ("zstd", "zstd -dc"), ("plain", "cat")];

/// `cargo xtask bench image`.
///
/// # Errors
/// When something does not build, or the image gives other values than before.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Report> {
    build::with_examples(
        workspace,
        "cgpath and the images' generator",
        "cgpath-refvals",
        &["make_image"],
    )?;
    let release = workspace.target.join("release");
    let megabytes = options.entries.unwrap_or(MEGABYTES);
    let machine = measure::machine();
    let (mut figures, mut ratios) = (Vec::new(), Vec::new());
    for (kind, unpack) in KINDS {
        let image = workspace
            .cache
            .join("bench")
            .join(format!("image-{GENERATOR}-{kind}-{megabytes}"));
        provide(&release.join("examples/make_image"), &image, kind, megabytes)?;
        let values = workspace.target.join("bench-image.json");
        let cgpath = || from_image(&release.join("cgpath"), &image, &values);
        shell::output(&mut cgpath())?;
        let first = std::fs::read(&values)?;
        let mut contenders = vec![Contender {
            name: "cgpath",
            command: cgpath(),
        }];
        let bound = bound(&image, unpack).map_err(|e| format!("{e:#}"));
        let reason = bound.as_ref().err().cloned().unwrap_or_default();
        contenders.extend(bound.ok().map(|command| Contender {
            name: "bound",
            command,
        }));
        let mut taken = measure::rounds(&mut contenders, options.rounds())?.into_iter();
        if std::fs::read(&values)? != first {
            bail!("{}: other values than in the first round", values.display());
        }
        let (ours, theirs) = (taken.next().unwrap_or_default(), taken.next().unwrap_or_default());
        let peak = measure::peak_memory(&mut cgpath())?;
        let mut figure = |name: String, unit, values: &[f64]| {
            figures.push(Figure {
                name,
                unit,
                found: Spread::of(values).ok_or_else(|| reason.clone()),
            });
        };
        let each = |taken: &[Taken], of: fn(&Taken) -> f64| -> Vec<f64> { taken.iter().map(of).collect() };
        figure(format!("{kind}: from-image"), "s", &each(&ours, |t| t.wall));
        figure(
            format!("{kind}: {unpack} | sha256sum"),
            "s",
            &each(&theirs, |t| t.wall),
        );
        figure(
            format!("{kind}: from-image, processor time"),
            "s",
            &each(&ours, |t| t.cpu),
        );
        figure(format!("{kind}: from-image, peak memory"), "MiB", &[peak]);
        let pairs: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a.wall / b.wall).collect();
        ratios.push(Ratio {
            name: format!("{kind}: from-image / {unpack} | sha256sum"),
            goal: None,
            found: Spread::of(&pairs).ok_or(reason),
        });
    }
    Ok(Report {
        name: "image",
        method: vec![
            machine,
            format!("OCI layouts of {megabytes} MB of packed layers, five each, from the page cache; mixed \
                sizes of files,"),
            "whiteouts, a hidden folder; whole processes. Wanted: 500 MB in under 10 s and under 100 \
             MiB.".to_owned(),
            "from-image checks each packed layer, each unpacked one, and hashes each file: three hashes of a \
             byte.".to_owned(),
            "The other unpacks all layers and hashes what comes out once, in two processes.".to_owned(),
        ],
        figures,
        ratios,
    })
}

/// An image with an index is whole: the generator writes that last.
fn provide(program: &Path, image: &Path, kind: &str, megabytes: u64) -> Result<()> {
    if image.join("index.json").is_file() {
        return Ok(());
    }
    if image.exists() {
        std::fs::remove_dir_all(image).with_context(|| format!("removing {}", image.display()))?;
    }
    let mut command = Command::new(program);
    command.arg(image).args([kind, &megabytes.to_string()]);
    shell::run(
        &format!("an image of {megabytes} MB, {kind}, into the cache (once)"),
        &mut command,
    )
}

fn from_image(cgpath: &Path, image: &Path, values: &Path) -> Command {
    let mut command = Command::new(cgpath);
    command
        .args(["policy", "from-image"])
        .arg(image)
        .arg("-o")
        .arg(values);
    command
}

/// Unpacks all layers and hashes what comes out.
fn bound(image: &Path, unpack: &str) -> Result<Command> {
    let program = unpack.split(' ').next().unwrap_or(unpack);
    find_program(program).with_context(|| format!("{program} is not installed"))?;
    let mut layers = Vec::new();
    for entry in std::fs::read_dir(image.join("blobs/sha256"))? {
        let path: PathBuf = entry?.path();
        // Beside the layers there are a manifest and a configuration of some hundred bytes.
        if path.metadata()?.len() > 64 * 1024 {
            layers.push(path);
        }
    }
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{unpack} \"$@\" | sha256sum"), "sh"]);
    command.args(layers);
    Ok(command)
}
