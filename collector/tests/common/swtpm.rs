//! A software TPM of the test's own.

use cgpath_evidence::Bank;
use cgpath_testkit::port::Port;
use cgpathd::tpm::{KeyKind, TpmOptions};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A software TPM with its own directory and ports; gone with the value.
pub struct Swtpm {
    child: Child,
    port: Port,
    control: Port,
    _state: tempfile::TempDir,
}

impl Swtpm {
    /// One that was just made, with an endorsement seed of its own.
    pub fn start() -> Swtpm {
        let state = tempfile::tempdir().unwrap();
        // The TCTI wants the control channel at the port after the command channel's.
        let [port, control] = Port::pair();
        let child = Command::new("swtpm")
            .arg("socket")
            .arg("--tpm2")
            .arg("--tpmstate")
            .arg(format!("dir={}", state.path().display()))
            .arg("--server")
            .arg(format!("type=tcp,port={}", port.number()))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={}", control.number()))
            .args(["--flags", "not-need-init,startup-clear"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("swtpm: {e} (Debian package swtpm)"));
        let mut swtpm = Swtpm {
            child,
            port,
            control,
            _state: state,
        };
        let until = Instant::now() + Duration::from_secs(180);
        // Only the control channel: a connection to the other one would count as the client.
        while std::net::TcpStream::connect(swtpm.control.address()).is_err() {
            let ended = swtpm.child.try_wait().unwrap();
            assert!(ended.is_none(), "swtpm ended: {ended:?}");
            assert!(Instant::now() < until, "swtpm does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        swtpm
    }

    /// How to reach it: one connection at a time.
    pub fn options(&self, key: KeyKind) -> TpmOptions {
        TpmOptions {
            tcti: format!("swtpm:host=127.0.0.1,port={}", self.port.number()),
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
