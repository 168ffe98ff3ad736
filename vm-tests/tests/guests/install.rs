//! docs/install.md and docs/uninstall.md, followed to the letter: their commands, in their order, with the
//! packages, on a node with systemd and a verifier beside it; and what is left of them.
//!
//! The words after `sh` in a block's first line say where it runs; a block that says nothing of the kind
//! fails the test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vm_protocol::elf;
use vm_tests::oci::{self, Image};
use vm_tests::{PATIENCE, Stock, Vm, VmBuilder, host, pods};

/// Starts the guests' end of the command channel, which is no init here.
const AGENT: &str = "[Unit]\nDescription=Command channel of the tests\n\n\
    [Service]\nExecStart=/usr/sbin/guest agent\n\n[Install]\nWantedBy=multi-user.target\n";

/// What stands for the boot loader, which needs disks: it writes the command line where GRUB would, by the
/// settings that GRUB's own reads.
const UPDATE_GRUB: &str = "#!/bin/sh\nset -e\nGRUB_CMDLINE_LINUX=\n\
    for settings in /etc/default/grub /etc/default/grub.d/*.cfg; do\n\
    if [ -e \"$settings\" ]; then . \"$settings\"; fi\ndone\n\
    mkdir -p /boot/grub\necho \"$GRUB_CMDLINE_LINUX\" > /boot/grub/grub.cfg\n";

/// Where perl's own modules are, without which Debian's helpers of units do not run. The guests' root has
/// been made small.
const PERL: &str = "/usr/lib/x86_64-linux-gnu/perl-base";

/// What a machine itself writes from its first boot on, and dpkg when packages come and go.
const WRITTEN_ANYWAY: &[&str] = &[
    "/dev",
    "/etc/cni",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/ld.so.cache",
    "/lost+found",
    "/proc",
    "/srv/packages",
    "/run",
    "/sys",
    "/tmp",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/containerd",
    "/var/lib/dbus",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/log",
    "/var/tmp",
    "/opt/containerd",
    "/boot/grub",
];

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Where it runs.
    kind: String,
    script: String,
}

impl Block {
    fn runs_at(&self, place: &str) -> bool {
        self.kind.split(' ').any(|kind| kind == place)
    }
}

/// The blocks of a page of the documents.
fn page(name: &str) -> Vec<Block> {
    let path = host::workspace_root().join("docs").join(name);
    blocks(&std::fs::read_to_string(path).unwrap())
}

/// The fenced blocks of a page that are commands.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(Block, usize)> = None;
    for line in page.lines() {
        let text = line.trim_start();
        match (&mut open, text.strip_prefix("```")) {
            (Some((block, indent)), None) => {
                block.script.push_str(line.get(*indent..).unwrap_or(text));
                block.script.push('\n');
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(block, _)| block)),
            (None, Some(info)) => {
                let kind = info
                    .strip_prefix("sh ")
                    .unwrap_or_else(|| panic!("no place to run: {line:?}"));
                let block = Block {
                    kind: kind.trim().to_owned(),
                    script: String::new(),
                };
                open = Some((block, line.len() - text.len()));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block does not end");
    blocks
}

#[test]
fn blocks_of_a_page_are_found_in_lists_too() {
    let page =
        "a\n```sh node\ncgpathd check\n```\n1. b\n\n   ```sh image\n   cat <<X\n     y\n   X\n   ```\n";
    let found: Vec<(String, String)> = blocks(page).into_iter().map(|b| (b.kind, b.script)).collect();
    assert_eq!(
        found,
        [
            ("node".to_owned(), "cgpathd check\n".to_owned()),
            ("image".to_owned(), "cat <<X\n  y\nX\n".to_owned()),
        ]
    );
    assert!(std::panic::catch_unwind(|| blocks("```\nx\n```\n")).is_err());
}

/// The machine that the page's reader prepares all on.
struct Site {
    dir: tempfile::TempDir,
    names: Vec<(&'static str, String)>,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A shell with the page's names in it, root or what passes for it.
    fn shell(&self, script: &str) -> Command {
        let mut command = if host::is_root() {
            Command::new("/bin/sh")
        } else {
            let mut command = Command::new(host::tool("unshare", "util-linux").unwrap());
            command.args(["--map-root-user", "/bin/sh"]);
            command
        };
        command
            .args(["-euc", script])
            .envs(self.names.iter().map(|(name, value)| (name, value)))
            .current_dir(host::workspace_root());
        command
    }

    fn run(&self, script: &str) -> String {
        println!("{}", script.trim_end());
        let said = host::output(&mut self.shell(script)).unwrap();
        String::from_utf8(said).unwrap()
    }
}

/// Ended with this value.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Debian node as its installer leaves it, but for the boot loader and udev, which no virtual machine here
/// needs.
fn node(stage: bool) -> VmBuilder {
    let unit = "/etc/systemd/system/guest-agent.service";
    let builder = Vm::builder(Stock::V6_12).ima("");
    if !stage {
        return builder;
    }
    builder
        .packages(&["systemd", "dbus"])
        .bytes(unit, AGENT, 0o644)
        .symlink(
            "/etc/systemd/system/multi-user.target.wants/guest-agent.service",
            unit,
        )
        // Without udev nobody says that the console's device is there.
        .symlink("/etc/systemd/system/serial-getty@ttyS0.service", "/dev/null")
        .bytes("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444)
        .bytes("/usr/sbin/update-grub", UPDATE_GRUB, 0o755)
        .directory("/var/lib/dpkg/info", 0o755)
        .tree(PERL, PERL)
        // Who is root in a user namespace cannot become another user.
        .bytes(
            "/etc/apt/apt.conf.d/unsandboxed",
            "APT::Sandbox::User \"root\";\n",
            0o644,
        )
}

fn image(name: &str) -> Image {
    Image::new(name).program("/app/main", &elf::pause("app"))
}

/// The packages, as `cargo xtask test` made them of the programs that it tries.
fn packages() -> PathBuf {
    let dir = host::target_dir().join("packages/tried");
    assert!(
        dir.is_dir(),
        "{} is not there: cargo xtask test --step dist",
        dir.display()
    );
    dir
}

/// The paths of all files below a directory, as they are when it is the root; those of directories end with
/// a slash.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            if entry.file_type().unwrap().is_dir() {
                found.insert(name + "/");
                waiting.push(path);
            } else {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn the_pages_lead_from_packages_to_a_trusted_node_and_back_with_nothing_left() {
    let install = page("install.md");
    let uninstall = page("uninstall.md");
    let packages = packages();
    let dir = tempfile::tempdir_in(host::target_dir()).unwrap();
    let reserved = host::Port::reserve().unwrap();
    let port = reserved.number();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let path = std::env::var("PATH").unwrap();
    let names = vec![
        ("PACKAGES", packages.display().to_string()),
        ("IMAGE", at("image")),
        ("NODE", "worker-1".to_owned()),
        // What the guests' /etc/hosts calls this machine.
        ("VERIFIER", format!("verifier:{port}")),
        ("STORE", at("store")),
        ("SITE", dir.path().display().to_string()),
        ("SHARE", at("tools/usr/share/ima-cgpath")),
        ("AS_CGPATH", String::new()),
    ];
    let chosen: BTreeSet<&str> = names.iter().map(|(name, _)| *name).collect();
    // This machine gets the verifier's command and nothing else of its packages.
    let path = format!("{}:{path}:/usr/sbin:/sbin", at("tools/usr/bin"));
    let names = names.into_iter().chain([("PATH", path)]).collect();
    let site = Site { dir, names };
    site.run("dpkg-deb -x \"$PACKAGES\"/ima-cgpath-tools_*.deb \"$SITE/tools\"");
    {
        let staged = node(true).stage().unwrap();
        // A copy: what is staged are links into the cache.
        let copied = Command::new("cp")
            .arg("-a")
            .arg(staged.path())
            .arg(site.path("image"))
            .status()
            .unwrap();
        assert!(copied.success());
    }
    // The guests' root has lost dpkg's lists, and dpkg names each one that it misses.
    site.run(
        "dpkg-query --admindir \"$IMAGE/var/lib/dpkg\" -W -f '${binary:Package}\\n' 2> /dev/null | \
         while read -r package; do : > \"$IMAGE/var/lib/dpkg/info/$package.list\"; done",
    );
    let before = files(&site.path("image"));
    oci::write_layout(&[&image("docker.io/library/app:1")], &site.path("app.tar")).unwrap();
    oci::write_layout(&[&pods::pause_image()], &site.path("pause.tar")).unwrap();

    let begin = Instant::now();
    let mut vm: Option<Vm> = None;
    let mut service: Option<Service> = None;
    let (mut verdicts, mut commands) = (0, 0);
    for block in &install {
        commands += block.script.lines().count();
        match block.kind.as_str() {
            // Everybody who runs this test has built the same, without optimisation, and packed it.
            "build" => assert_eq!(block.script, "cargo xtask dist deb\n"),
            "chosen" => {
                let given: BTreeSet<&str> = block
                    .script
                    .lines()
                    .filter_map(|l| Some(l.split_once('=')?.0))
                    .collect();
                assert_eq!(given, chosen, "the page has other names than this test");
            }
            // On a machine of its own: below.
            "verifier-machine" => {}
            "image" | "verifier" | "verifier verifier-machine" => {
                site.run(&block.script);
            }
            "verifier-service" => {
                assert_eq!(block.script, "systemctl enable --now cgpath\n");
                service = Some(serve(&site, port));
            }
            "node" => {
                let vm = vm.get_or_insert_with(|| boot(&site, &packages));
                let said = vm.command(&["/bin/sh", "-euc", &block.script]).run().unwrap();
                println!("{}{}{}", block.script, said.text(), said.errors());
                said.check().unwrap();
            }
            "copy" => {
                let script = format!("scp() {{ printf '%s\\n' \"$@\"; }}\n{}", block.script);
                let said = site.run(&script);
                let (from, to) = said.trim_end().split_once('\n').unwrap();
                let from = from.strip_prefix("root@worker-1:").unwrap();
                std::fs::write(Path::new(to), vm.as_ref().unwrap().get(from).unwrap()).unwrap();
            }
            "verdict" => {
                assert!(service.is_some());
                trusted(&site, vm.as_ref().unwrap(), &block.script);
                verdicts += 1;
            }
            other => panic!("a block runs at {other:?}, which this test does not know"),
        }
    }
    assert_eq!(verdicts, 1);
    println!(
        "{commands} lines of commands, {:.0} s",
        begin.elapsed().as_secs_f64()
    );
    let vm = vm.unwrap();
    for block in uninstall.iter().filter(|block| block.runs_at("node-remove")) {
        println!("{}{}", block.script, vm.sh(&block.script).unwrap());
    }
    assert_eq!(vm.get_text("/boot/grub/grub.cfg").unwrap().trim(), "");
    nothing_is_left(&vm, &before);
    installing_starts_nothing(&vm);
    the_verifiers_machine(&vm, &install, &uninstall);
    nothing_is_left(&vm, &before);
    vm.power_off().unwrap();
}

/// Starts what the unit of the verifier does, with the store and at the port that this test has.
fn serve(site: &Site, port: u16) -> Service {
    let unit = std::fs::read_to_string(host::workspace_root().join("deploy/cgpath.service")).unwrap();
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    let line = line
        .expect("a command")
        .replace("/var/lib/cgpath/store", "\"$STORE\"");
    let command = line.replace("[::]:8443", &format!("0.0.0.0:{port}"));
    assert_ne!(command, line);
    let log = std::fs::File::create(site.path("serve.log")).unwrap();
    let child = site
        .shell(&format!("exec {command}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Service(child)
}

/// Nothing of the packages is on the machine, in its kernel or among its units, and nothing else was made
/// that was not there `before` they came.
fn nothing_is_left(vm: &Vm, before: &BTreeSet<String>) {
    let listed = vm
        .sh("find / -xdev -mindepth 1 \\( -type d -printf '%p/\\n' -o -print \\)")
        .unwrap();
    let listed: BTreeSet<&str> = listed.lines().collect();
    let is_anyway = |path: &str| {
        WRITTEN_ANYWAY.iter().any(|place| {
            path.strip_prefix(place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let left: Vec<&str> = listed
        .iter()
        .copied()
        .filter(|path| !before.contains(*path))
        .filter(|path| path.contains("cgpath") && !path.starts_with("/srv/packages") || !is_anyway(path))
        .collect();
    assert_eq!(left, Vec::<&str>::new());
    // Empty directories do not count: dpkg knows of no other package here that has them.
    let gone: Vec<&String> = before
        .iter()
        .filter(|path| !is_anyway(path) && !path.ends_with('/') && !listed.contains(path.as_str()))
        .collect();
    assert_eq!(gone, Vec::<&String>::new(), "removed with them");
    let script = "ls /run /sys/fs/bpf; cat /proc/mounts; systemctl list-unit-files --no-pager --no-legend; \
        systemctl list-units --all --no-pager --no-legend --plain | grep cgpath || true; dpkg-query -l \
        'ima-cgpath*' || true";
    let state = vm.sh(script).unwrap();
    // The guest's own port to its test has the name, too.
    let named: Vec<&str> = state
        .lines()
        .filter(|line| line.contains("cgpath") && !line.contains("virtio"))
        .collect();
    assert_eq!(named, Vec::<&str>::new());
}

/// On a machine that runs, the collector's package comes and goes without a trace in the kernel.
fn installing_starts_nothing(vm: &Vm) {
    let said = vm.sh("dpkg -i /srv/packages/ima-cgpath-collector_*.deb").unwrap();
    println!("{said}");
    let state = "systemctl is-enabled cgpathd; systemctl is-active cgpathd; ls -A /sys/fs/bpf | grep cgpath; \
        ls -d /etc/ima";
    let said = vm.command(&["/bin/sh", "-c", state]).run().unwrap();
    assert_eq!(said.text(), "disabled\ninactive\n", "{}", said.errors());
    vm.sh("cgpathd --version && dpkg --purge ima-cgpath-collector")
        .unwrap();
}

/// The verifier's packages on a machine of their own, with systemd: their user, their directory, the unit
/// with all that it forbids.
fn the_verifiers_machine(vm: &Vm, install: &[Block], uninstall: &[Block]) {
    let names = "PACKAGES=/srv/packages VERIFIER=verifier.example:8443 STORE=/var/lib/cgpath/store\n\
        AS_CGPATH='runuser -u cgpath --'\n";
    for block in install.iter().filter(|block| block.runs_at("verifier-machine")) {
        println!(
            "{}{}",
            block.script,
            vm.sh(&format!("{names}{}", block.script)).unwrap()
        );
        let state = vm.command(&["systemctl", "is-active", "cgpath"]).run().unwrap();
        assert_eq!(state.text(), "inactive\n", "installing starts nothing");
    }
    let directory = vm
        .sh("stat -c '%U %a' /var/lib/cgpath /var/lib/cgpath/store/ca.key")
        .unwrap();
    assert_eq!(directory, "cgpath 700\ncgpath 600\n");
    let service = install
        .iter()
        .find(|block| block.runs_at("verifier-service"))
        .unwrap();
    vm.sh(&service.script).unwrap();
    let begin = Instant::now();
    while !vm.sh("ss -Hltn sport = :8443").unwrap().contains(":8443") {
        let state = vm.command(&["systemctl", "is-failed", "cgpath"]).run().unwrap();
        let journal = || vm.sh("journalctl -u cgpath --no-pager | tail -20").unwrap();
        assert_ne!(state.text(), "failed\n", "{}", journal());
        assert!(begin.elapsed() < PATIENCE, "it does not listen:\n{}", journal());
        std::thread::sleep(Duration::from_millis(500));
    }
    for block in uninstall.iter().filter(|block| block.runs_at("verifier-remove")) {
        println!("{}{}", block.script, vm.sh(&block.script).unwrap());
    }
    assert!(vm.sh("getent passwd cgpath").unwrap().contains("/var/lib/cgpath"));
}

/// Boots the node that the page made, with what its boot loader would say.
fn boot(site: &Site, packages: &Path) -> Vm {
    let parameters = std::fs::read_to_string(site.path("image/boot/grub/grub.cfg")).unwrap();
    let mut node = node(false)
        .root(site.path("image"))
        .kernel_args("init=/lib/systemd/systemd")
        .kernel_args(parameters.trim());
    for entry in std::fs::read_dir(packages).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "deb") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            node = node.file(&format!("/srv/packages/{name}"), path, 0o644);
        }
    }
    let vm = node.start().unwrap();
    assert_eq!(vm.hello().failures, Vec::<String>::new());
    assert_eq!(vm.get_text("/proc/1/comm").unwrap(), "systemd\n");
    // However it ended: what did not start shows in the commands that follow.
    let settled = vm
        .command(&["systemctl", "is-system-running", "--wait"])
        .timeout(PATIENCE)
        .run();
    let show = "systemctl list-jobs --no-pager; systemctl list-units --failed --no-legend --no-pager";
    println!("{}", vm.sh(show).unwrap());
    if let Err(error) = settled {
        let journal = vm.sh("journalctl -b --no-pager | tail -60").unwrap();
        panic!("systemd does not settle: {error:#}\n{journal}\n{}", vm.console());
    }
    vm
}

/// Waits for the first verdict.
fn trusted(site: &Site, vm: &Vm, script: &str) {
    let begin = Instant::now();
    loop {
        // It fails for as long as the node is not trusted.
        let output = site.shell(script).stderr(Stdio::inherit()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        if !said.contains("no evidence yet") {
            assert!(
                said.starts_with("worker-1  trusted") && output.status.success(),
                "{said}"
            );
            return;
        }
        if begin.elapsed() > PATIENCE {
            let journal = vm.sh("journalctl -u cgpathd --no-pager | tail -30").unwrap();
            let served = std::fs::read_to_string(site.path("serve.log")).unwrap();
            panic!("no verdict:\n{said}\n{journal}\n{served}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
