//! Ports that are the test's own for as long as the value lives.
//!
//! Promises: the kernel gives the port to nobody else, neither to a listener nor to a connection that goes
//! out; every process that is given its number can listen there, again and again; a connection to it is
//! refused while nobody does. So nothing hangs on who is quicker. By socket(7) and ip(7): a socket may listen
//! where another is only bound if both set SO_REUSEADDR, as Rust's, Python's and swtpm's listeners do, and
//! numbers that are bound are not given out.

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

/// A port of 127.0.0.1 that is held.
pub struct Port {
    address: SocketAddrV4,
    _held: OwnedFd,
}

impl Default for Port {
    fn default() -> Port {
        Port::new()
    }
}

impl Port {
    /// One that nobody has.
    pub fn new() -> Port {
        Port::at(0).expect("a free port of 127.0.0.1")
    }

    /// Two of which the second follows the first.
    pub fn pair() -> [Port; 2] {
        let next = |first: Port| {
            let second = Port::at(first.number().checked_add(1)?).ok()?;
            Some([first, second])
        };
        (0..1000)
            .find_map(|_| next(Port::new()))
            .expect("two free ports of 127.0.0.1 that follow each other")
    }

    fn at(number: u16) -> nix::Result<Port> {
        let held = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(&held, sockopt::ReuseAddr, &true)?;
        bind(
            held.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, number)),
        )?;
        let address: SockaddrIn = getsockname(held.as_raw_fd())?;
        Ok(Port {
            address: address.into(),
            _held: held,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.address.port()
    }

    /// 127.0.0.1 with it.
    pub fn address(&self) -> SocketAddr {
        self.address.into()
    }
}
