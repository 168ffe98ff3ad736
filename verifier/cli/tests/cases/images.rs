//! Images, as registries have them and runtimes unpack them; and unified kernel images.

use super::{Folder, Ran, conclude, given};
use cgpath_testkit::sha256;
use serde_json::Value;

/// `cgpath policy from-image`, and the files of what it wrote.
fn from_image(folder: &Folder, image: &str, more: &[&str]) -> (Ran, Vec<(String, String)>) {
    let image = given(image);
    let line = ["policy", "from-image", image.to_str().unwrap(), "-o", "out.json"];
    let ran = folder.cgpath(&[&line[..], more].concat());
    if ran.code != Some(0) {
        return (ran, Vec::new());
    }
    let files = files(&folder.read("out.json"));
    (ran, files)
}

/// Paths and digests of a reference file.
fn files(written: &[u8]) -> Vec<(String, String)> {
    let written: Value = serde_json::from_slice(written).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let files = written["files"].as_array().unwrap().iter();
    files
        .map(|file| (text(&file["path"]), text(&file["digests"][0])))
        .collect()
}

#[test]
fn a_parent_that_an_upper_layer_does_not_name_becomes_a_directory_of_it() {
    let mut wrong = Vec::new();
    for (image, expected) in [
        ("implicit-parent", &["/bin/app", "/usr/bin/sh"][..]),
        ("file-to-dir", &["/x/y"]),
    ] {
        let folder = Folder::new();
        let (ran, files) = from_image(&folder, &format!("image-layer-parents/{image}"), &[]);
        let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        wrong.extend(ran.wrong(image));
        if ran.code == Some(0) && paths != expected {
            wrong.push(format!("{image}: {paths:?}"));
        }
    }
    conclude("image-layer-parents", &wrong);
}

#[test]
fn an_archive_that_was_packed_is_the_image_in_it() {
    let folder = Folder::new();
    let image = given("image-layer-parents/implicit-parent");
    let archive = folder.dir.path().join("image.tar.gz");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-czf").arg(&archive).arg("-C").arg(&image).arg(".");
    assert!(tar.status().unwrap().success());
    let line = ["policy", "from-image", "image.tar.gz", "-o", "packed.json"];
    assert_eq!(folder.cgpath(&line).wrong("packed"), None);
    let (_, expected) = from_image(&folder, "image-layer-parents/implicit-parent", &[]);
    assert_eq!(files(&folder.read("packed.json")), expected);
    // Cut anywhere, it is refused.
    let bytes = std::fs::read(&archive).unwrap();
    folder.write("image.tar.gz", &bytes[..bytes.len() - 20]);
    let ran = folder.cgpath(&line);
    assert!(
        ran.code == Some(2) && ran.err.contains("incomplete"),
        "{}",
        ran.err
    );
}

#[test]
fn platforms_are_compared_as_a_runtime_normalizes_them() {
    // The program of the image that names no variant.
    let plain = sha256(b"[('architecture', 'amd64'), ('os', 'linux')]").to_string();
    let mut wrong = Vec::new();
    for (image, platform, expected) in [
        ("amd64-and-v3", "linux/amd64", Some(&plain)),
        ("amd64-and-v3", "linux/amd64/v1", Some(&plain)),
        ("arm64-plain", "linux/arm64/v8", None),
        ("arm64-v8", "linux/arm64", None),
    ] {
        let folder = Folder::new();
        let image = format!("image-platform-variant/{image}");
        let (ran, files) = from_image(&folder, &image, &["--platform", platform]);
        wrong.extend(ran.wrong(platform));
        if let (Some(expected), Some(0)) = (expected, ran.code) {
            let app = files.iter().find(|(path, _)| path == "/bin/app");
            if app.is_none_or(|(_, digest)| digest != expected) {
                wrong.push(format!("{platform}: {files:?}"));
            }
        }
    }
    conclude("image-platform-variant", &wrong);
}

#[test]
fn a_unified_images_command_line_is_what_its_stub_makes_of_the_section() {
    let mut wrong = Vec::new();
    for name in ["plain", "nl", "nlnul", "spnul"] {
        let folder = Folder::new();
        let image = given("uki-command-line").join(format!("{name}.efi"));
        let ran = folder.cgpath(&["policy", "from-uki", image.to_str().unwrap()]);
        wrong.extend(ran.wrong(name));
        if ran.code == Some(0) && !ran.out.contains("- \"root=LABEL=r ro quiet\"\n") {
            wrong.push(format!("{name}: {}", ran.out));
        }
        // Of a trust domain it is the same line, in the registers that it has.
        let line = ["policy", "from-uki", "--tdx", image.to_str().unwrap()];
        let ran = folder.cgpath(&line);
        let is_there = |part: &str| ran.out.contains(part);
        if !(ran.code == Some(0)
            && is_there("tdx:\n  boot:\n")
            && is_there("- \"root=LABEL=r ro quiet\"\n")
            && is_there("{rtmr: 1, type: EV_EFI_BOOT_SERVICES_APPLICATION,")
            && is_there("{rtmr: 2, type: EV_IPL,"))
        {
            wrong.push(format!("{name}: {}{}", ran.out, ran.err));
        }
        let both = [&line[..], &["--bank", "sha256"]].concat();
        if folder.cgpath(&both).code != Some(2) {
            wrong.push(format!("{name}: a TPM's bank of a trust domain was taken"));
        }
    }
    conclude("uki-command-line", &wrong);
}
