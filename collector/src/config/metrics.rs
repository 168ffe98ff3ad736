//! `[metrics]`: where figures are given to Prometheus.
//!
//! Promise: a place that others than this machine reach is refused. Not here: who answers there (see
//! [`crate::deliver::metrics`]).

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Bytes of a local socket's path, its end included. Source: include/uapi/linux/un.h, `UNIX_PATH_MAX`.
const MAX_PATH: usize = 108;

/// Ports below this one are for programs with a capability that the unit does not have. Source: ip(7),
/// `ip_unprivileged_port_start`.
const FIRST_PORT: u16 = 1024;

/// Where the daemon's own socket is, which cannot be that for figures.
pub(crate) fn control_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("cgpathd.sock")
}

/// `[metrics]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// `ADDRESS:PORT` of the loopback, the port at least 1024, or `unix:/PATH`; empty: nowhere.
    pub listen: String,
}

/// Where figures are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAt {
    /// An address of this machine that no other one reaches.
    Loopback(SocketAddr),
    /// A local socket.
    Socket(PathBuf),
}

impl Metrics {
    /// The place of a daemon with this `run_dir`; `None` where there is none.
    pub(super) fn place_beside(&self, run_dir: &Path) -> Result<Option<ListenAt>, String> {
        match self.place()? {
            Some(ListenAt::Socket(path)) if path == control_socket(run_dir) => {
                Err(format!("{} is where `cgpathd status` asks", path.display()))
            }
            place => Ok(place),
        }
    }

    /// The place; `None` where there is none.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub fn place(&self) -> Result<Option<ListenAt>, String> {
        let listen = self.listen.as_str();
        if listen.is_empty() {
            return Ok(None);
        }
        if let Some(path) = listen.strip_prefix("unix:") {
            if !Path::new(path).is_absolute() || path.len() >= MAX_PATH {
                return Err(format!(
                    "{listen:?} is not unix: and an absolute path of less than {MAX_PATH} bytes"
                ));
            }
            return Ok(Some(ListenAt::Socket(path.into())));
        }
        match listen.parse::<SocketAddr>() {
            Ok(at) if at.ip().is_loopback() && at.port() >= FIRST_PORT => Ok(Some(ListenAt::Loopback(at))),
            Ok(at) if at.ip().is_loopback() && at.port() != 0 => {
                Err(format!("{at}: cgpathd cannot take ports below {FIRST_PORT}"))
            }
            Ok(at) if at.port() != 0 => Err(format!(
                "{at} is reached from elsewhere: listen on 127.0.0.1 or a unix:/PATH, behind a proxy that \
                 authenticates who asks"
            )),
            _ => Err(format!(
                "{listen:?} is not 127.0.0.1:PORT, [::1]:PORT or unix:/PATH"
            )),
        }
    }
}

impl std::fmt::Display for ListenAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAt::Loopback(at) => at.fmt(f),
            ListenAt::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(listen: &str) -> Result<Option<ListenAt>, String> {
        Metrics {
            listen: listen.to_owned(),
        }
        .place()
    }

    #[test]
    fn what_listens_is_reached_from_this_machine_alone() {
        assert_eq!(place(""), Ok(None));
        for at in ["127.0.0.1:9464", "[::1]:9464", "127.3.2.1:1024"] {
            assert_eq!(place(at), Ok(Some(ListenAt::Loopback(at.parse().unwrap()))));
        }
        let socket = place("unix:/run/ima-cgpath/metrics.sock").unwrap().unwrap();
        assert_eq!(socket.to_string(), "unix:/run/ima-cgpath/metrics.sock");
        for elsewhere in [
            "0.0.0.0:9464",
            "[::]:9464",
            "10.0.0.5:9464",
            "[::ffff:10.0.0.5]:1",
        ] {
            assert!(place(elsewhere).unwrap_err().contains("elsewhere"), "{elsewhere}");
        }
        for low in ["127.0.0.1:1", "127.0.0.1:1023", "[::1]:80"] {
            assert!(place(low).unwrap_err().contains("below 1024"), "{low}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for wrong in [
            "127.0.0.1",
            "127.0.0.1:0",
            "localhost:9464",
            ":9464",
            "unix:",
            "unix:m.sock",
            &long,
        ] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
