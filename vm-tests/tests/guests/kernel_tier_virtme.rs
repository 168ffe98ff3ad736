//! The patched kernel under virtme-ng, with IMA and a software TPM: as kernel developers boot it.
//!
//! Run by `cargo xtask test --step kernel`; fails where `CGPATH_KERNEL` names no kernel, or virtme-ng is not
//! there.

use std::path::Path;
use std::time::{Duration, Instant};

use vm_tests::scenario::TAGGED_IMA;
use vm_tests::{kernel, lists, virtme};

/// Runs a program from a disk file system of its own in a group with a telling name; then takes the list and
/// the registers, until nothing was added between two looks at them.
const SCRIPT: &str = r#"
set -e
mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security
mkdir -p /run/groups
mount -t cgroup2 cgroup2 /run/groups
mkdir -p /run/groups/kubepods/pod11111111-0000-4000-8000-000000000001
truncate -s 8M /run/disk
mke2fs -q -t ext4 /run/disk
mkdir -p /run/mnt
mount -o loop /run/disk /run/mnt
cp /bin/true /run/mnt/program
echo x >>/run/mnt/program
( echo 0 >/run/groups/kubepods/pod11111111-0000-4000-8000-000000000001/cgroup.procs; exec /run/mnt/program )
uname -r
lists=/sys/kernel/security/ima
while :; do
    for bank in sha1 sha256; do
        cat /sys/class/tpm/tpm0/pcr-$bank/10 >pcr-$bank
    done
    cat $lists/binary_runtime_measurements >list
    cat $lists/ascii_runtime_measurements >ascii
    test "$(cat /sys/class/tpm/tpm0/pcr-sha256/10)" = "$(cat pcr-sha256)" && break
done
"#;

fn pcr_file(dir: &Path, bank: &str) -> String {
    let value = std::fs::read_to_string(dir.join(format!("pcr-{bank}"))).unwrap();
    value.trim().to_lowercase()
}

#[test]
fn the_patched_kernel_boots_under_virtme_ng_and_its_register_is_what_the_list_replays_to() {
    let built = std::env::var_os("CGPATH_KERNEL")
        .expect("CGPATH_KERNEL names no kernel; hint: cargo xtask test --step kernel");
    let kernel = kernel::built(Path::new(&built)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let vng = std::env::var_os("CGPATH_VNG").expect("CGPATH_VNG names no vng");
    let time = Duration::from_secs(400);
    let begin = Instant::now();
    let ran = virtme::run(Path::new(&vng), &kernel, TAGGED_IMA, SCRIPT, dir.path(), time).unwrap();
    println!("TIME a guest of vng: {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(ran.code, 0, "{}", ran.output);
    assert_eq!(ran.output.trim(), kernel.release);
    let ascii = std::fs::read_to_string(dir.path().join("ascii")).unwrap();
    let tagged: Vec<&str> = ascii
        .lines()
        .filter(|line| line.ends_with(" /run/mnt/program"))
        .collect();
    assert_eq!(tagged.len(), 1, "{ascii}");
    assert!(
        tagged[0].contains(" /kubepods/pod11111111-0000-4000-8000-000000000001 "),
        "{tagged:?}"
    );
    let replayed = lists::replay(&dir.path().join("list")).unwrap();
    for bank in ["sha1", "sha256"] {
        assert_eq!(
            replayed["pcrs"]["10"][bank].as_str(),
            Some(pcr_file(dir.path(), bank).as_str()),
            "{bank}"
        );
    }
}
