//! The service as a process: made, filled with nodes, started, looked at.

use cgpath_testkit::{NODE, Node};
use serde::Deserialize;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Error, node};

/// Ticks of a second in /proc, whatever the kernel was built with. Source: proc(5).
const TICKS: f64 = 100.0;

/// `cgpath serve`; killed when dropped.
pub struct Service {
    child: Child,
    pub address: SocketAddr,
    pub ca: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor seconds and memory of a process.
#[derive(Clone, Copy)]
pub struct Usage {
    /// Seconds, in user mode and in the kernel.
    pub user: f64,
    pub system: f64,
    /// Peak of resident memory in bytes.
    pub memory: u64,
    /// Bytes that it caused to be written to disks.
    pub written: u64,
}

impl Usage {
    /// Of the process `id`.
    pub fn of(id: u32) -> Result<Usage, Error> {
        let read = |what: &str| fs::read_to_string(format!("/proc/{id}/{what}"));
        let stat = read("stat")?;
        // The second field is a name in parentheses with anything in it.
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
        let mut time = || times.next().ok_or("/proc/PID/stat has no times");
        let line = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches("kB").trim().parse().ok()
        };
        Ok(Usage {
            user: time()?? / TICKS,
            system: time()?? / TICKS,
            memory: 1024 * line(&read("status")?, "VmHWM:").ok_or("/proc/PID/status has no VmHWM")?,
            written: line(&read("io")?, "write_bytes:").ok_or("/proc/PID/io has no write_bytes")?,
        })
    }
}

fn cgpath(program: &Path, args: &[&str]) -> Result<(), Error> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("cgpath {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

impl Service {
    /// Makes a verifier in `dir` with `nodes` nodes, each with its key and its policy, and starts it.
    pub fn start(program: &Path, dir: &Path, site: &Node, nodes: u32) -> Result<Service, Error> {
        let store = dir.join("verifier");
        let at = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path that is no text");
        cgpath(program, &["serve", "--init", &at(&store)?])?;
        for reference in site
            .pod_files
            .keys()
            .map(ToString::to_string)
            .chain(["host".to_owned()])
        {
            let name = format!("{reference}.json");
            fs::write(dir.join(&name), site.reference(&name).ok_or("no reference")?)?;
        }
        for n in 0..nodes {
            let name = node::name(n);
            let (key, policy) = (dir.join(format!("{name}.ak")), dir.join(format!("{name}.yaml")));
            fs::write(&key, node::key(n).public())?;
            let yaml = site.policy_yaml();
            fs::write(
                &policy,
                yaml.replace(&format!("node: {NODE}\n"), &format!("node: {name}\n")),
            )?;
            cgpath(
                program,
                &[
                    "node",
                    "add",
                    &name,
                    "--ak",
                    &at(&key)?,
                    "--policy",
                    &at(&policy)?,
                    "--store",
                    &at(&store)?,
                ],
            )?;
        }
        let mut child = Command::new(program)
            .args([
                "serve",
                &at(&store)?,
                "--listen",
                "127.0.0.1:0",
                "--json",
                "--log",
                "warn",
            ])
            // All rounds are signed ahead, with nonces that were asked for before.
            .args(["--nonce-lifetime", "86400"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        #[derive(Deserialize)]
        struct Listening {
            listening: SocketAddr,
        }
        let said = serde_json::from_str::<Listening>(&line);
        let mut service = Service {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ca: store.join("ca.pem"),
        };
        service.address = said?.listening;
        Ok(service)
    }

    /// What it used so far.
    pub fn usage(&self) -> Result<Usage, Error> {
        Usage::of(self.child.id())
    }
}
