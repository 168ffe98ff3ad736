//! Keylime's registrar and its verifier in push mode, and what an administrator asks of them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cgpath_testkit::Authority;
use cgpath_testkit::port::Port;
use cgpath_testkit::python::python;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::TlsConnector;

pub struct Keylime {
    /// Its directory is the services', too.
    authority: Authority,
    children: Vec<Child>,
    registrar: Port,
    registrar_tls: Port,
    verifier: Port,
}

/// This machine, as QEMU's user network shows it to a guest.
const HOST_OF_GUESTS: &str = "10.0.2.2";

impl Keylime {
    /// Starts both and waits until they answer.
    pub fn start() -> Keylime {
        Keylime::start_with("")
    }

    /// The same with more lines in the verifier's configuration.
    pub fn start_with(more: &str) -> Keylime {
        let authority = Authority::new();
        for name in ["server", "admin"] {
            authority
                .order(name)
                .hosts(&["127.0.0.1", HOST_OF_GUESTS])
                .issue();
        }
        let mut keylime = Keylime {
            authority,
            children: Vec::new(),
            registrar: Port::new(),
            registrar_tls: Port::new(),
            verifier: Port::new(),
        };
        for service in ["registrar", "verifier"] {
            let child = keylime.spawn(service, more);
            keylime.children.push(child);
        }
        for (service, port) in [
            ("registrar", keylime.registrar.number()),
            ("verifier", keylime.verifier.number()),
        ] {
            keylime.wait(service, port);
        }
        keylime
    }

    fn spawn(&self, service: &str, more: &str) -> Child {
        let home = self.path(service);
        std::fs::create_dir(&home).unwrap();
        let log = File::create(self.path(&format!("{service}.log"))).unwrap();
        let script = home.join("server.py");
        std::fs::write(&script, include_str!("server.py")).unwrap();
        let mut command = Command::new(python());
        command.arg(script).arg(service).current_dir(&home);
        command.env("KEYLIME_TEST", "on").env("KEYLIME_DIR", &home);
        let config = self.path(&format!("{service}.conf"));
        std::fs::write(&config, self.config(service, more)).unwrap();
        command.env(format!("KEYLIME_{}_CONFIG", service.to_uppercase()), config);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        // Its workers go with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().unwrap()
    }

    fn config(&self, service: &str, more: &str) -> String {
        let port = match service {
            "verifier" => format!("port = {}\nmode = push", self.verifier.number()),
            _ => format!(
                "port = {}\ntls_port = {}",
                self.registrar.number(),
                self.registrar_tls.number()
            ),
        };
        format!(
            "[{service}]
ip = 127.0.0.1
{port}
tls_dir = {}
server_cert = server.pem
server_key = server.key
trusted_client_ca = ['ca.pem']
database_url = sqlite
auto_migrate_db = True
max_upload_size = 104857600
max_workers = 1
{more}
quote_interval = 1
verification_timeout = 60
measured_boot_imports = []
severity_labels = ['info', 'emergency']
severity_policy = [{{'event_id': '.*', 'severity_label': 'emergency'}}]
[revocations]
enabled_revocation_notifications = []
",
            self.authority.dir().display()
        )
    }

    fn wait(&mut self, service: &str, port: u16) {
        let until = Instant::now() + Duration::from_secs(180);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self
                .children
                .iter_mut()
                .any(|child| child.try_wait().unwrap().is_some());
            assert!(
                !ended && Instant::now() < until,
                "Keylime's {service} does not come up: {}",
                self.log(service)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.authority.dir().join(name)
    }

    /// How often a service printed `text`.
    pub fn count(&self, service: &str, text: &str) -> usize {
        let log = std::fs::read_to_string(self.path(&format!("{service}.log"))).unwrap();
        log.matches(text).count()
    }

    /// The end of what a service printed.
    pub fn log(&self, service: &str) -> String {
        let log = std::fs::read(self.path(&format!("{service}.log"))).unwrap_or_default();
        let from = log.len().saturating_sub(6000);
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    pub fn registrar_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.registrar.number())
    }

    pub fn verifier_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.verifier.number())
    }

    /// Where a guest finds the registrar.
    #[allow(dead_code, reason = "only tests with guests ask")]
    pub fn registrar_url_for_guests(&self) -> String {
        format!("http://{HOST_OF_GUESTS}:{}", self.registrar.number())
    }

    /// Where a guest finds the verifier.
    #[allow(dead_code, reason = "only tests with guests ask")]
    pub fn verifier_url_for_guests(&self) -> String {
        format!("https://{HOST_OF_GUESTS}:{}", self.verifier.number())
    }

    /// Asks the verifier as `token` says, or as the administrator.
    pub async fn verifier(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> (u16, Value) {
        self.ask(self.verifier.number(), method, path, token, body).await
    }

    /// Sends one resource to the verifier as an agent with `token`.
    pub async fn submit(
        &self,
        method: Method,
        path: &str,
        token: &str,
        kind: &str,
        attributes: Value,
    ) -> (u16, Value) {
        let body = json!({"data": {"type": kind, "attributes": attributes}});
        self.verifier(method, path, Some(token), body).await
    }

    /// Asks the registrar as the administrator.
    pub async fn registrar(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.ask(self.registrar_tls.number(), method, path, None, body)
            .await
    }

    async fn ask(
        &self,
        port: u16,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> (u16, Value) {
        let asked = format!("{method} {path}");
        let exchange = self.exchange(port, method, path, token, body);
        let answered = tokio::time::timeout(Duration::from_secs(180), exchange).await;
        let logs = || format!("{}{}", self.log("registrar"), self.log("verifier"));
        answered.unwrap_or_else(|_| panic!("no answer to {asked}: {}", logs()))
    }

    /// TLS that trusts the CA alone, with the administrator's certificate or none.
    fn connector(&self, administrator: bool) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.authority.ca()).unwrap())
            .unwrap();
        let tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let tls = if administrator {
            let certificate = CertificateDer::from_pem_file(self.path("admin.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(self.path("admin.key")).unwrap();
            tls.with_client_auth_cert(vec![certificate], key).unwrap()
        } else {
            tls.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(tls))
    }

    async fn exchange(
        &self,
        port: u16,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> (u16, Value) {
        let tls = self.connector(token.is_none());
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = tls.connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let media = if path.starts_with("/v3") {
            "application/vnd.api+json"
        } else {
            "application/json"
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("127.0.0.1:{port}"));
        if !body.is_null() {
            request = request.header(header::CONTENT_TYPE, media);
        }
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Adds an agent to the verifier as `keylime_tenant -c add` does: with the key that the registrar has,
    /// and a runtime policy with these files.
    pub async fn add(&self, agent: &str, digests: &BTreeMap<String, Vec<String>>) {
        self.add_with(agent, digests, Value::Null).await;
    }

    /// The same with a measured boot policy.
    pub async fn add_with(&self, agent: &str, digests: &BTreeMap<String, Vec<String>>, boot: Value) {
        let policy = json!({
            "meta": {"version": 1, "generator": 3}, "release": 0, "digests": digests,
            "excludes": ["^/run/ima-cgpath/checkpoint/[0-9]+$"], "keyrings": {},
            "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {},
            "verification-keys": "",
        });
        self.add_policy(agent, &policy, boot).await;
    }

    /// The same with a runtime policy as it is.
    pub async fn add_policy(&self, agent: &str, policy: &Value, boot: Value) {
        let (status, known) = self
            .registrar(Method::GET, &format!("/v2.1/agents/{agent}"), Value::Null)
            .await;
        assert_eq!(status, 200, "{known} {}", self.log("registrar"));
        let body = json!({
            "v": null, "cloudagent_ip": null, "cloudagent_port": null,
            "tpm_policy": "{}", "runtime_policy": STANDARD.encode(policy.to_string()),
            "runtime_policy_name": "",
            "runtime_policy_key": "", "mb_policy": boot, "mb_policy_name": "",
            "ima_sign_verification_keys": "",
            "metadata": "{}", "revocation_key": "", "accept_tpm_hash_algs": ["sha256"],
            "accept_tpm_encryption_algs": ["rsa", "ecc"], "accept_tpm_signing_algs": ["rsassa", "ecdsa"],
            "ak_tpm": known["results"]["aik_tpm"], "mtls_cert": null, "supported_version": "3.0",
        });
        let (status, answer) = self
            .verifier(Method::POST, &format!("/v2.6/agents/{agent}"), None, body)
            .await;
        assert_eq!(status, 200, "{answer} {}", self.log("verifier"));
    }

    /// Removes an agent from both.
    pub async fn remove(&self, agent: &str) {
        let path = format!("/v2.6/agents/{agent}");
        let (status, answer) = self.verifier(Method::DELETE, &path, None, Value::Null).await;
        assert!((200..300).contains(&status), "{answer} {}", self.log("verifier"));
        let path = format!("/v2.1/agents/{agent}");
        let (status, answer) = self.registrar(Method::DELETE, &path, Value::Null).await;
        assert_eq!(status, 200, "{answer} {}", self.log("registrar"));
    }

    /// Waits until the registrar knows an active agent.
    pub async fn registered(&self, agent: &str) {
        let path = format!("/v2.1/agents/{agent}");
        let until = Instant::now() + Duration::from_secs(180);
        while self.registrar(Method::GET, &path, Value::Null).await.0 != 200 {
            assert!(Instant::now() < until, "{}", self.log("registrar"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The verifier's judgement of the latest attestation, once it has one.
    pub async fn appraisal(&self, agent: &str) -> Value {
        let path = format!("/v3.0/agents/{agent}/attestations/latest");
        let until = Instant::now() + Duration::from_secs(180);
        loop {
            let (status, answer) = self.verifier(Method::GET, &path, None, Value::Null).await;
            // 7.14.3 says 201 here.
            assert!((200..300).contains(&status), "{answer} {}", self.log("verifier"));
            let attributes = &answer["data"]["attributes"];
            if attributes["stage"] == "verification_complete" {
                return attributes.clone();
            }
            assert!(Instant::now() < until, "{answer} {}", self.log("verifier"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `PASS`, `FAIL`, `PENDING` or `TIMEOUT`, as `keylime_tenant -c status` shows it.
    pub async fn status(&self, agent: &str) -> Value {
        let path = format!("/v2.6/agents/{agent}");
        let (_, answer) = self.verifier(Method::GET, &path, None, Value::Null).await;
        answer["results"]["attestation_status"].clone()
    }
}

impl Drop for Keylime {
    fn drop(&mut self) {
        for child in &mut self.children {
            // The group, of which it is the leader: its workers and its manager.
            let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}
