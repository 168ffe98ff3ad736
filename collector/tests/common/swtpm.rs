//! A software TPM of the test's own.

use collector::config::KeyKind;
use collector::tpm::Options;
use evidence::Bank;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A software TPM with its own directory and ports; gone with the value.
pub struct Swtpm {
    child: Child,
    port: u16,
    _state: tempfile::TempDir,
}

impl Swtpm {
    /// One that was just made, with an endorsement seed of its own.
    pub fn start() -> Swtpm {
        let state = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            // The TCTI wants the control channel at the port after the command channel's.
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let Some(control) = port.checked_add(1) else {
                continue;
            };
            if std::net::TcpListener::bind(("127.0.0.1", control)).is_err() {
                continue;
            }
            let child = Command::new("swtpm")
                .arg("socket")
                .arg("--tpm2")
                .arg("--tpmstate")
                .arg(format!("dir={}", state.path().display()))
                .arg("--server")
                .arg(format!("type=tcp,port={port}"))
                .arg("--ctrl")
                .arg(format!("type=tcp,port={control}"))
                .args(["--flags", "not-need-init,startup-clear"])
                .stderr(Stdio::null())
                .spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(e) => panic!("swtpm: {e} (Debian package swtpm)"),
            };
            let until = Instant::now() + Duration::from_secs(20);
            while Instant::now() < until {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                // Only the control channel: a connection to the other one would count as the client.
                if std::net::TcpStream::connect(("127.0.0.1", control)).is_ok() {
                    return Swtpm {
                        child,
                        port,
                        _state: state,
                    };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("no swtpm came up in 20 tries");
    }

    /// How to reach it: one connection at a time.
    pub fn options(&self, key: KeyKind) -> Options {
        Options {
            tcti: format!("swtpm:host=127.0.0.1,port={}", self.port),
            key,
            bank: Bank::Sha256,
            endorsement_auth: Vec::new(),
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
