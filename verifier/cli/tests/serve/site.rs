//! A verifier in a directory of its own, a client that trusts its CA alone, and enrolled nodes made of
//! software.

use cgpath_testkit::port::Port;
use cgpath_testkit::{Actor, KeyKind, NODE, Node, pod};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// `cgpath` with these arguments, to its end.
pub fn cgpath<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(args)
        .env_remove("CGPATH_STORE")
        .env_remove("CGPATH_READ_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The same, which must succeed; gives standard output.
pub fn ok<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> String {
    let output = cgpath(args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The same, which says something of nodes: its exit code, 0 where all is well and 1 where something is not,
/// and its JSON.
pub fn appraised<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> (i32, Value) {
    let output = cgpath(args);
    let code = output.status.code().unwrap();
    assert!(
        matches!(code, 0 | 1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (code, serde_json::from_slice(&output.stdout).unwrap())
}

/// The same, which must fail with exit code 2 and a JSON error on standard error.
pub fn fails<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Value {
    let output = cgpath(args);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    serde_json::from_slice(&output.stderr).expect("an error is one JSON object")
}

/// `cgpath serve` as a process; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(dir: &Path, extra: &[&str]) -> Server {
        Server::spawn(Command::new(env!("CARGO_BIN_EXE_cgpath")), dir, extra)
    }

    /// The same by a command that is, or becomes, `cgpath`.
    pub fn spawn(mut command: Command, dir: &Path, extra: &[&str]) -> Server {
        let mut child = command
            .arg("serve")
            .arg(dir)
            .args(["--json", "--log", "warn"])
            .args(extra)
            .args(if extra.contains(&"--listen") {
                &[][..]
            } else {
                &["--listen", "127.0.0.1:0"]
            })
            .env_remove("CGPATH_STORE")
            .env_remove("CGPATH_READ_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: Value = serde_json::from_str(&line).expect("one line of JSON says where it listens");
        assert_eq!(said["pid"], child.id());
        Server {
            address: said["listening"].as_str().unwrap().parse().unwrap(),
            child,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let killed = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The `kind` of an error answer, after its status.
    pub fn kind(&self) -> (u16, String) {
        (
            self.status,
            self.json()["kind"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

/// A client that trusts one CA, and speaks to one address, by the name `localhost` where no other is given.
#[derive(Clone)]
pub struct Client {
    tls: Arc<rustls::ClientConfig>,
    pub address: SocketAddr,
    /// What it calls the other end, whose certificate must be for that.
    name: String,
}

impl Client {
    pub fn new(ca: &Path, address: SocketAddr) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client {
            tls: Arc::new(tls),
            address,
            name: "localhost".to_owned(),
        }
    }

    /// The same by another name.
    pub fn called(mut self, name: &str) -> Client {
        self.name = name.to_owned();
        self
    }

    /// The same with a certificate to show.
    pub fn showing(&self, ca: &Path, chain: &Path, key: &Path) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::pem_file_iter(chain).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                chain.collect::<Result<Vec<_>, _>>().unwrap(),
                rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        Client {
            tls: Arc::new(tls),
            address: self.address,
            name: self.name.clone(),
        }
    }

    /// A connection to write requests to and read answers from.
    pub fn open(&self) -> io::Result<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let connection =
            rustls::ClientConnection::new(Arc::clone(&self.tls), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_secs(300)))?;
        Ok(rustls::StreamOwned::new(connection, socket))
    }

    /// Sends these bytes and reads until the other side closes. The server may answer and close before it has
    /// read all.
    pub fn raw(&self, request: &[&[u8]]) -> io::Result<Answer> {
        let mut stream = self.open()?;
        for part in request {
            if let Err(error) = stream.write_all(part) {
                if error.kind() == io::ErrorKind::InvalidData {
                    return Err(error);
                }
                break;
            }
        }
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // Closed by a server that was killed, or with bytes of ours unread.
            Err(error) if answer.is_empty() => return Err(error),
            _ => {}
        }
        let end = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let body = answer[end + 4..].to_vec();
        let length = head.lines().find_map(|l| {
            l.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse::<usize>()
                .ok()
        });
        if length.is_some_and(|n| n != body.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Answer { status, head, body })
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\n\
             Host: localhost\r\n\
             Connection: close\r\n\
             Content-Length: {}\r\n\
             {headers}\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body])
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", b"").unwrap()
    }

    pub fn nonce(&self, node: &str) -> io::Result<Vec<u8>> {
        let answer = self.send("POST", &format!("/v1/nodes/{node}/nonce"), "", b"")?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(hex::decode(answer.json()["nonce"].as_str().unwrap()).unwrap())
    }

    pub fn submit(&self, node: &str, evidence: &[u8]) -> io::Result<Answer> {
        self.send(
            "POST",
            &format!("/v1/nodes/{node}/evidence"),
            "Content-Type: application/cbor\r\n",
            evidence,
        )
    }
}

/// A verifier's directory.
pub struct Site {
    dir: TempDir,
}

impl Site {
    pub fn new() -> Site {
        let site = Site {
            dir: tempfile::tempdir().unwrap(),
        };
        ok(&["serve".as_ref(), "--init".as_ref(), site.store().as_os_str()]);
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("verifier")
    }

    pub fn ca(&self) -> PathBuf {
        self.store().join("ca.pem")
    }

    /// TLS as the service itself has it, for other servers that are to be trusted by clients that trust the
    /// CA.
    pub fn server_config(&self) -> rustls::ServerConfig {
        let chain = CertificateDer::pem_file_iter(self.store().join("server.pem")).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(self.store().join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }

    pub fn serve(&self, extra: &[&str]) -> (Server, Client) {
        let server = Server::start(&self.store(), extra);
        let client = Client::new(&self.ca(), server.address);
        (server, client)
    }

    /// The same at a port that another one may have had.
    pub fn serve_at(&self, port: &Port) -> (Server, Client) {
        self.serve(&["--listen", &port.address().to_string()])
    }

    /// `cgpath node` on this store.
    pub fn node(&self, args: &[&str]) -> Vec<std::ffi::OsString> {
        let mut all: Vec<std::ffi::OsString> = vec!["node".into()];
        all.extend(args.iter().map(Into::into));
        all.extend(["--json".into(), "--store".into(), self.store().into()]);
        all
    }

    /// Writes the policy of `node`, with its reference files, for the name `name`.
    pub fn policy(&self, node: &Node, name: &str) -> PathBuf {
        let folder = self.path(&format!("policy-{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        let yaml = node
            .policy_yaml()
            .replace(&format!("node: {NODE}\n"), &format!("node: {name}\n"));
        let pods = node.pod_files.keys().map(ToString::to_string);
        for reference in pods.chain(["host".to_owned()]).map(|n| format!("{n}.json")) {
            std::fs::write(folder.join(&reference), node.reference(&reference).unwrap()).unwrap();
        }
        let path = folder.join("node.yaml");
        std::fs::write(&path, yaml).unwrap();
        path
    }

    /// Enrols `node` as `name`.
    pub fn enrol(&self, node: &Node, name: &str) {
        let policy = self.policy(node, name);
        let key = self.path(&format!("{name}.ak"));
        std::fs::write(&key, node.ak.public()).unwrap();
        ok(&self.node(&[
            "add",
            name,
            "--ak",
            key.to_str().unwrap(),
            "--policy",
            policy.to_str().unwrap(),
        ]));
    }
}

/// A node on which all four pods of its policy ran.
pub fn busy() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    for n in 1..=4 {
        node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
    }
    node
}
