//! What real apts said: 2.6 of Debian 12, with qemu-utils of its backports and systemd of an older point
//! release, and 3.0 of Debian 13.

use super::*;

const QEMU: &str = "1:10.0.2+ds-2+deb13u1~bpo12+1";

/// Both outputs of a simulation.
fn simulation(text: &str) -> Simulation {
    let (stdout, stderr) = text.split_once("--- stderr\n").unwrap();
    Simulation::read(stdout, stderr)
}

fn offers(text: &str) -> Offers {
    let (general, packages) = text.split_once("--- packages\n").unwrap();
    Offers::read(general, packages)
}

fn installed() -> Installed {
    Installed::read(include_str!("installed.txt"))
}

fn bookworm() -> Release {
    Release {
        codename: "bookworm".to_owned(),
        number: "12".to_owned(),
    }
}

fn request(packages: &[&str]) -> Request {
    Request {
        packages: packages.iter().map(|&name| name.to_owned()).collect(),
        ..Request::default()
    }
}

fn plain() -> Offers {
    offers(include_str!("plain.policy.txt"))
}

fn stopped(decision: Decision) -> String {
    match decision {
        Decision::Stop(faults) => faults.join("\n"),
        other => panic!("must stop: {other:?}"),
    }
}

fn again(decision: Decision) -> Request {
    match decision {
        Decision::Again(request) => request,
        other => panic!("must ask again: {other:?}"),
    }
}

#[test]
fn removal_is_refused_until_apt_finds_versions_that_fit_what_is_installed() {
    let (installed, release) = (installed(), bookworm());
    let first = request(&["libtss2-dev", "qemu-system-x86"]);
    let said = simulation(include_str!("removal.txt"));
    let second = again(decide(&first, &said, &installed, &plain(), &release));
    assert_eq!(second.keep, [("qemu-utils".to_owned(), QEMU.to_owned())].into());
    assert!(
        second.prefer.0.is_empty(),
        "without another suite first: {second:?}"
    );
    assert_eq!(second.arguments().last().unwrap(), &format!("qemu-utils={QEMU}"));

    // qemu-utils : Breaks: qemu-system-common (< 1:8.0+dfsg-5~) but 1:7.2 is to be installed
    let said = simulation(include_str!("kept.txt"));
    let third = again(decide(&second, &said, &installed, &plain(), &release));
    assert_eq!(third.prefer.suites(), ["bookworm-backports"]);
    assert_eq!(
        third.prefer.text(),
        "Package: src:qemu\nPin: release n=bookworm-backports\nPin-Priority: 600\n\n"
    );

    // qemu-system-x86 : Depends: seabios (> 1.16.3-1~) but 1.16.2-1 is to be installed
    let backports = offers(include_str!("backports.policy.txt"));
    let said = simulation(include_str!("preferred.txt"));
    let fourth = again(decide(&third, &said, &installed, &backports, &release));
    assert!(
        fourth.prefer.text().starts_with("Package: seabios src:qemu\n"),
        "{fourth:?}"
    );

    let said = simulation(include_str!("good.txt"));
    let Decision::Do(plan) = decide(&fourth, &said, &installed, &backports, &release) else {
        panic!("{said:?}");
    };
    assert!(plan.new.iter().any(|name| name == "qemu-system-x86"), "{plan:?}");
    assert_eq!(plan.upgrades.len(), 8, "{plan:?}");
}

#[test]
fn upgrades_within_a_suite_are_named_with_the_chain_that_pulls_them_in() {
    let backports = offers(include_str!("backports.policy.txt"));
    let said = simulation(include_str!("good.txt"));
    let wanted = request(&["libtss2-dev", "qemu-system-x86"]);
    let Decision::Do(plan) = decide(&wanted, &said, &installed(), &backports, &bookworm()) else {
        panic!("{said:?}");
    };
    assert_eq!(
        plan.shown_upgrades(),
        [
            "libnss-systemd, systemd-timesyncd, libpam-systemd, systemd, libsystemd-shared, libsystemd0, \
          systemd-sysv, libudev1 from 252.38-1~deb12u1 to 252.39-1~deb12u2: libtss2-dev needs \
          libtss2-esys-3.0.2-0, which needs libtss2-tcti-cmd0, which needs tpm-udev, which needs udev, which \
          comes with this"
        ]
    );
}

#[test]
fn removal_that_nothing_avoids_names_what_stands_against_what() {
    let release = Release {
        codename: "trixie".to_owned(),
        number: "13".to_owned(),
    };
    let installed = Installed::read("rustc amd64 install installed 1.85.1+dfsg1-1+deb13u1 rustc\n");
    let first = request(&["rustc-web"]);
    let said = simulation(include_str!("trixie-removal.txt"));
    let second = again(decide(&first, &said, &installed, &Offers::default(), &release));
    let said = simulation(include_str!("trixie-kept.txt"));
    let faults = stopped(decide(&second, &said, &installed, &Offers::default(), &release));
    assert_eq!(faults, "rustc-web : Conflicts: rustc");
}

#[test]
fn removal_is_never_accepted_even_when_what_is_kept_was_named() {
    let said = simulation(include_str!("removal.txt"));
    let mut wanted = request(&["libtss2-dev", "qemu-system-x86"]);
    wanted.keep.insert("qemu-utils".to_owned(), QEMU.to_owned());
    let faults = stopped(decide(&wanted, &said, &installed(), &plain(), &bookworm()));
    assert!(
        faults.contains(&format!("qemu-utils {QEMU} would be removed")),
        "{faults}"
    );
}

#[test]
fn downgrade_is_refused() {
    let said = simulation(include_str!("downgrade.txt"));
    let offers = offers(include_str!("downgrade.policy.txt"));
    let faults = stopped(decide(
        &request(&["qemu-utils"]),
        &said,
        &installed(),
        &offers,
        &bookworm(),
    ));
    assert_eq!(
        faults,
        format!("qemu-utils would be downgraded from {QEMU} to 1:7.2+dfsg-7+deb12u18+b3")
    );
}

#[test]
fn upgrade_to_another_suite_is_refused_with_its_chain() {
    let said = simulation(include_str!("across.txt"));
    let offers = offers(include_str!("across.policy.txt"));
    let faults = stopped(decide(
        &request(&["sparse"]),
        &said,
        &installed(),
        &offers,
        &bookworm(),
    ));
    assert!(
        faults.contains(
            "libc6 2.36-9+deb12u14, of bookworm, would be upgraded to 2.41-12+deb13u5, of trixie (for sparse)"
        ),
        "{faults}"
    );
    assert_eq!(faults.lines().count(), 28, "every one of them: {faults}");
}

#[test]
fn held_package_is_left_alone() {
    let list = include_str!("installed.txt").replace("libudev1 amd64 install ", "libudev1 amd64 hold ");
    let installed = Installed::read(&list);
    // Apt itself keeps to the hold, and finds nothing.
    let said = simulation(include_str!("held.txt"));
    let faults = stopped(decide(
        &request(&["libtss2-dev"]),
        &said,
        &installed,
        &plain(),
        &bookworm(),
    ));
    assert_eq!(
        faults,
        "udev : Depends: libudev1 (= 252.39-1~deb12u2) but 252.38-1~deb12u1 is to be installed (libudev1 is \
         held)"
    );
    // Named, it would be changed.
    let said = simulation(include_str!("held-changed.txt"));
    let wanted = request(&["libtss2-dev", "libudev1"]);
    let faults = stopped(decide(&wanted, &said, &installed, &plain(), &bookworm()));
    assert!(
        faults.contains("libudev1 is held, and would be changed"),
        "{faults}"
    );
}

#[test]
fn package_that_no_list_has_is_named() {
    let said = simulation(include_str!("stale.txt"));
    let faults = stopped(decide(
        &request(&["clang-22", "swtpm"]),
        &said,
        &installed(),
        &plain(),
        &bookworm(),
    ));
    assert_eq!(faults, "no package list of this machine has clang-22");
}

#[test]
fn silence_and_errors_are_no_consent() {
    let said = Simulation::read("", "E: Could not open lock file\n");
    let faults = stopped(decide(
        &request(&["gcc"]),
        &said,
        &installed(),
        &plain(),
        &bookworm(),
    ));
    assert_eq!(faults, "Could not open lock file");
    let said = Simulation::read("", "E: Package 'gcc' has no installation candidate\n");
    let faults = stopped(decide(
        &request(&["gcc"]),
        &said,
        &installed(),
        &plain(),
        &bookworm(),
    ));
    assert_eq!(faults, "no package list of this machine has gcc");
}

#[test]
fn upgrade_is_refused_where_the_new_version_is_of_another_archive_though_the_suite_has_the_same_name() {
    let general = " 500 http://others.example/debian bookworm/stable amd64 Packages\n     \
                   release o=Others,a=bookworm,n=bookworm,l=Others,c=stable,b=amd64\n     \
                   origin others.example\n";
    let table = "systemd:\n  \
                 Installed: 252.38-1~deb12u1\n  \
                 Candidate: 999\n  \
                 Version table:\n     \
                 999 500\n        \
                 500 http://others.example/debian bookworm/stable amd64 Packages\n \
                 *** 252.38-1~deb12u1 100\n        \
                 100 /var/lib/dpkg/status\n";
    let said = Simulation::read(
        "Inst systemd [252.38-1~deb12u1] (999 Others:bookworm [amd64])\n",
        "",
    );
    let offers = Offers::read(general, table);
    let faults = stopped(decide(
        &request(&["agent"]),
        &said,
        &installed(),
        &offers,
        &bookworm(),
    ));
    assert!(
        faults.contains("systemd 252.38-1~deb12u1, of bookworm, would be upgraded to 999"),
        "{faults}"
    );
}

#[test]
fn packages_of_a_configured_suite_are_joined_by_others_of_that_suite() {
    let general = " 100 http://mirror.example/debian testing/main amd64 Packages\n     \
                   release o=Debian,a=testing,n=forky,l=Debian,c=main,b=amd64\n     origin mirror.example\n";
    let table = "qemu-utils:\n  \
                 Installed: 1:11.0\n  \
                 Candidate: 1:11.0\n  \
                 Version table:\n \
                 *** 1:11.0 100\n        \
                 100 http://mirror.example/debian testing/main amd64 Packages\n        \
                 100 /var/lib/dpkg/status\n";
    let installed = Installed::read("qemu-utils amd64 install installed 1:11.0 qemu\n");
    let offers = Offers::read(general, table);
    let said = simulation(include_str!("kept.txt"));
    let next = again(decide(
        &request(&["qemu-system-x86"]),
        &said,
        &installed,
        &offers,
        &bookworm(),
    ));
    assert_eq!(next.prefer.suites(), ["forky"]);
    let suite = next.prefer.0.keys().next().unwrap();
    assert!(offers.configured(suite) && !offers.configured(&Suite::backports("bookworm")));
    // Nothing is known of where it came from, and its version does not tell: there is nothing to prefer.
    let faults = stopped(decide(
        &request(&["qemu-system-x86"]),
        &said,
        &installed,
        &Offers::default(),
        &bookworm(),
    ));
    assert!(
        faults.contains("qemu-utils : Breaks: qemu-system-common"),
        "{faults}"
    );
    // Backports of another release are no suite of this machine.
    let installed = Installed::read("qemu-utils amd64 install installed 1:10.0~bpo11+1 qemu\n");
    stopped(decide(
        &request(&["qemu-system-x86"]),
        &said,
        &installed,
        &Offers::default(),
        &bookworm(),
    ));
}
