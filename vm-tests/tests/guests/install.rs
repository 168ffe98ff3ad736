//! docs/install.md, followed to the letter: its commands, in their order, on a node with systemd and a
//! verifier beside it.
//!
//! The word after `sh` in a block's first line says where it runs; a block that says nothing of the kind
//! fails the test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vm_protocol::elf;
use vm_tests::oci::{self, Image};
use vm_tests::{Stock, Vm, VmBuilder, host, pods};

/// Starts the guests' end of the command channel, which is no init here.
const AGENT: &str = "[Unit]\nDescription=Command channel of the tests\n\n\
    [Service]\nExecStart=/usr/sbin/guest agent\n\n[Install]\nWantedBy=multi-user.target\n";

/// Time for a boot with systemd, or for a verdict, in a guest that gets a tenth of a core.
const PATIENCE: Duration = Duration::from_secs(600);

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Where it runs.
    kind: String,
    script: String,
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

/// The release of Debian that a root file system holds: os-release(5), VERSION_ID.
fn release(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("etc/os-release")).unwrap();
    let version = text.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    version.expect("a release").trim_matches('"').to_owned()
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
}

fn image(name: &str) -> Image {
    Image::new(name).program("/app/main", &elf::pause("app"))
}

#[test]
fn the_page_on_installing_leads_to_a_trusted_node() {
    let page = std::fs::read_to_string(host::workspace_root().join("docs/install.md")).unwrap();
    let blocks = blocks(&page);
    let dir = tempfile::tempdir_in(host::target_dir()).unwrap();
    let port = {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let bin = host::built_binary("cgpath")
        .unwrap()
        .parent()
        .unwrap()
        .to_path_buf();
    let path = std::env::var("PATH").unwrap();
    let names = vec![
        ("BIN", bin.display().to_string()),
        ("IMAGE", dir.path().join("image").display().to_string()),
        ("NODE", "worker-1".to_owned()),
        // What the guests' /etc/hosts calls this machine.
        ("VERIFIER", format!("verifier:{port}")),
        ("SITE", dir.path().display().to_string()),
        ("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display())),
    ];
    let site = Site { dir, names };
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
    oci::write_layout(&[&image("docker.io/library/app:1")], &site.path("app.tar")).unwrap();
    oci::write_layout(&[&pods::pause_image()], &site.path("pause.tar")).unwrap();

    let mut vm: Option<Vm> = None;
    let mut service: Option<Service> = None;
    let mut verdicts = 0;
    let (mut releases, mut of_this_release) = (0, 0);
    for block in &blocks {
        match block.kind.as_str() {
            // Everybody who runs this test has built the same, without optimisation.
            "build" => assert_eq!(block.script, "cargo xtask build --release\n"),
            "chosen" => {
                let chosen: BTreeSet<&str> = block
                    .script
                    .lines()
                    .filter_map(|l| Some(l.split_once('=')?.0))
                    .collect();
                let given: BTreeSet<&str> = site.names.iter().map(|(name, _)| *name).collect();
                assert_eq!(chosen, given, "the page has other names than this test");
            }
            // There is none: `boot` gives the kernel what it would.
            "bootloader" => assert!(block.script.contains("update-grub")),
            "image" | "verifier" => {
                site.run(&block.script);
            }
            // The packages of one release: the node's is this machine's.
            kind if kind.starts_with("image-") => {
                releases += 1;
                if kind == format!("image-{}", release(&site.path("image"))) {
                    site.run(&block.script);
                    of_this_release += 1;
                }
            }
            "verifier-service" => {
                let log = std::fs::File::create(site.path("serve.log")).unwrap();
                let child = site
                    .shell(&format!("exec {}", block.script))
                    .stdin(Stdio::null())
                    .stdout(log.try_clone().unwrap())
                    .stderr(log)
                    .spawn()
                    .unwrap();
                service = Some(Service(child));
            }
            "node" => {
                let vm = vm.get_or_insert_with(|| boot(&site));
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
    assert_eq!(
        (releases, of_this_release),
        (2, 1),
        "releases that the page names, and this one"
    );
    vm.unwrap().power_off().unwrap();
}

/// Boots the node that the page made, with what its boot loader would say.
fn boot(site: &Site) -> Vm {
    let settings = site.path("image/etc/default/grub.d/ima-cgpath.cfg");
    let parameters = site.run(&format!(
        "GRUB_CMDLINE_LINUX=; . {}; echo \"$GRUB_CMDLINE_LINUX\"",
        settings.display()
    ));
    let vm = node(false)
        .root(site.path("image"))
        .kernel_args("init=/lib/systemd/systemd")
        .kernel_args(parameters.trim())
        .start()
        .unwrap();
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
