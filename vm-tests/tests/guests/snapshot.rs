//! Guests that are restored from a snapshot: what each has for itself, what they share, and what they refuse.

use std::collections::BTreeSet;
use std::time::SystemTime;

use vm_tests::lists;
use vm_tests::{Stock, Vm, VmBuilder, scenario};

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn builder() -> VmBuilder {
    Vm::builder(Stock::V6_12)
        .restored(true)
        .ima_policy(scenario::ima_policy())
}

#[test]
fn restored_guests_share_their_boot_and_have_time_random_numbers_and_files_of_their_own() {
    let mut boots = BTreeSet::new();
    let mut random = BTreeSet::new();
    for own in ["one", "two"] {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("leaf"), own).unwrap();
        let before = seconds();
        let mut vm = builder()
            .bytes("/etc/own", own, 0o640)
            .tree("/srv/tree", tree.path())
            .symlink("/srv/link", "tree/leaf")
            .directory("/srv/empty", 0o711)
            .start()
            .unwrap();
        assert!(vm.hello().restored);
        assert_eq!(vm.hello().failures, Vec::<String>::new());
        let files = "stat -c '%a %u:%g' /etc/own /srv/empty; cat /etc/own /srv/link";
        assert_eq!(vm.sh(files).unwrap(), format!("640 0:0\n711 0:0\n{own}{own}"));
        let now: u64 = vm.sh("date +%s").unwrap().trim().parse().unwrap();
        assert!(
            (before..=seconds()).contains(&now),
            "{now} in the guest, {before} here"
        );
        // The way over the initramfs leaves nothing in the list that a guest without one lacks.
        let list = vm
            .get_text(&format!("{}/ascii_runtime_measurements", lists::LISTS))
            .unwrap();
        let first: Vec<&str> = list
            .lines()
            .take(3)
            .filter_map(|line| line.rsplit(' ').next())
            .collect();
        assert_eq!(
            first,
            ["boot_aggregate", "/usr/sbin/guest", "/etc/ima/ima-policy"]
        );
        boots.insert(vm.hello().boot_id.clone());
        random.insert(vm.get_text("/proc/sys/kernel/random/uuid").unwrap());
        // The TPM came with it: the list goes on where it was, and so does the register.
        vm.sh("cp /bin/true /var/tmp/new; echo new >>/var/tmp/new; /var/tmp/new")
            .unwrap();
        let (register, list) = lists::at_rest(&vm, "sha256").unwrap();
        assert_eq!(lists::replayed(&list, "sha256").unwrap(), register);
        // The other guest of the snapshot does not have it: what one writes to its disk, no other sees.
        vm.sh("test ! -e /var/tmp/mine && echo mine >/var/tmp/mine && sync")
            .unwrap();
        for refused in [vm.reboot(), vm.power_cycle(), vm.kexec()] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("boots its guest"), "{error}");
        }
        vm.power_off().unwrap();
    }
    assert_eq!((boots.len(), random.len()), (1, 2), "{boots:?} {random:?}");
}

#[test]
fn a_guest_that_needs_its_own_boot_is_not_restored() {
    for refused in [
        builder().persistent(true),
        builder().firmware(true),
        builder().keep(true),
    ] {
        let error = refused.start().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("boots for itself"), "{error}");
    }
}
