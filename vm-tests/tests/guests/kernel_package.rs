//! The packages that `cargo xtask kernel package` makes: a Debian guest installs them, and boots what it
//! installed.
//!
//! Run by `cargo xtask soak --step kernel` with their directory in `CGPATH_PACKAGES`; fails without it.

use std::path::{Path, PathBuf};
use std::process::Command;

use vm_tests::scenario::TAGGED_IMA;
use vm_tests::{Stock, Vm, kernel, lists};

const POD: &str = "/kubepods/pod11111111-0000-4000-8000-000000000001";

/// The package whose name begins so.
fn package(dir: &Path, kind: &str) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut of_kind = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(kind));
    let found = of_kind
        .next()
        .unwrap_or_else(|| panic!("no {kind}* in {}", dir.display()));
    assert!(of_kind.next().is_none(), "more than one {kind}*");
    found
}

#[test]
fn a_debian_guest_installs_the_packages_and_boots_the_kernel() {
    let dir = std::env::var_os("CGPATH_PACKAGES")
        .expect("CGPATH_PACKAGES names no directory; hint: cargo xtask kernel package");
    let scratch = tempfile::tempdir().unwrap();

    let stock = Vm::builder(Stock::V6_12).start().unwrap();
    for kind in ["linux-image-", "linux-headers-"] {
        let content = std::fs::read(package(Path::new(&dir), kind)).unwrap();
        stock
            .put(&format!("/var/tmp/{kind}.deb"), &content, 0o644)
            .unwrap();
    }
    // The guest's root has no lists of the files that its packages brought; dpkg only wants a place for new
    // ones.
    stock
        .sh("mkdir -p /var/lib/dpkg/info; dpkg --install /var/tmp/linux-image-.deb 2>&1")
        .unwrap();
    // What the headers' programs link to is not in the small root; that the package unpacks is what is asked.
    stock
        .sh("dpkg --unpack /var/tmp/linux-headers-.deb 2>&1")
        .unwrap();
    let release = stock
        .sh("dpkg-query --show --showformat '${db:Status-Status} ${Package}\\n' 'linux-image-*-ima-cgpath-*'")
        .unwrap();
    let release = release
        .trim()
        .strip_prefix("installed linux-image-")
        .unwrap_or_else(|| panic!("{release}"))
        .to_owned();
    stock
        .sh(&format!(
            "test -f /usr/src/linux-headers-{release}/Makefile && test -f /boot/config-{release}"
        ))
        .unwrap();
    stock
        .sh(&format!(
            "tar -C / -cf /var/tmp/installed.tar boot/vmlinuz-{release} boot/config-{release} $(cd / && ls \
             -d usr/lib/modules/{release})"
        ))
        .unwrap();
    let tar = scratch.path().join("installed.tar");
    std::fs::write(&tar, stock.get("/var/tmp/installed.tar").unwrap()).unwrap();
    stock.power_off().unwrap();

    let installed = scratch.path().join("installed");
    std::fs::create_dir(&installed).unwrap();
    let status = Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(&installed)
        .status()
        .unwrap();
    assert!(status.success());
    let ready = serde_json::json!({
        "release": release, "package": format!("linux-image-{release}"), "version": "", "sha256": "",
        "image": format!("boot/vmlinuz-{release}"),
    });
    std::fs::write(installed.join("ready.json"), ready.to_string()).unwrap();

    let vm = Vm::builder(Stock::V6_12)
        .kernel(kernel::built(&installed).unwrap())
        .ima(TAGGED_IMA)
        .start()
        .unwrap();
    println!(
        "TIME the packaged {release} was up after {:.1} s",
        vm.boot_time().as_secs_f64()
    );
    assert_eq!(vm.sh("uname -r").unwrap().trim(), release);
    assert!(
        vm.sh("cat /proc/modules").unwrap().contains("overlay "),
        "a module of the package"
    );
    assert!(!vm.sh("dmesg").unwrap().contains("module verification failed"));
    vm.sh("test -s /sys/kernel/btf/vmlinux").unwrap();
    vm.sh(&format!(
        "cp /bin/true /var/tmp/p; echo p >>/var/tmp/p; mkdir -p /sys/fs/cgroup{POD}
             (echo 0 >/sys/fs/cgroup{POD}/cgroup.procs; exec /var/tmp/p)"
    ))
    .unwrap();
    let (register, list) = lists::at_rest(&vm, "sha256").unwrap();
    assert_eq!(lists::replayed(&list, "sha256").unwrap(), register);
    let ascii = vm
        .get_text(&format!("{}/ascii_runtime_measurements", lists::LISTS))
        .unwrap();
    let entry = ascii.lines().find(|line| line.ends_with(" /var/tmp/p")).unwrap();
    assert!(
        entry.contains(" ima-cgpath ") && entry.contains(&format!(" {POD} ")),
        "{entry}"
    );
    vm.power_off().unwrap();
}
