//! A certificate authority of a test's own, what it issues, and TLS servers that show it.
//!
//! Promises: clients that are strict about certificates take them, as Python's are since 3.13 (RFC 5280: key
//! usages of a CA, an authority key identifier in what it issued). Not here: the service's own (`setup`).

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rsa::pkcs1::EncodeRsaPublicKey as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A certificate authority; its files are in a directory of its own, which goes with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    dir: TempDir,
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Authority {
    /// Each has the same name and a key of its own.
    pub fn new() -> Authority {
        Authority::named("a test's CA")
    }

    /// The same by another name.
    pub fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            certificate: certificate.der().clone(),
            dir,
        }
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its own certificate, PEM: `ca.pem`.
    pub fn ca(&self) -> PathBuf {
        self.dir().join("ca.pem")
    }

    /// A key, and a certificate for it and for `name`, which is a host's name or an IP address.
    pub fn issue(&self, name: &str) -> Issued {
        self.order(name).issue()
    }

    /// A certificate that is to be issued; without more, as [`Authority::issue`] does.
    pub fn order(&self, name: &str) -> Order<'_> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.distinguished_name.push(DnType::CommonName, name);
        Order {
            authority: self,
            name: name.to_owned(),
            params,
        }
        .hosts(&[name])
    }

    /// A certificate of the RSA key with this modulus of 2,048 bits, big-endian, and the exponent 65537, as a
    /// TPM's maker gives its endorsement key one; DER.
    pub fn endorse(&self, modulus: &[u8]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.use_authority_key_identifier_extension = true;
        let modulus = rsa::BigUint::from_bytes_be(modulus);
        let key = rsa::RsaPublicKey::new(modulus, 65537_u32.into()).unwrap();
        let key = RsaKey(key.to_pkcs1_der().unwrap().into_vec());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        certificate.der().to_vec()
    }
}

/// A public key of RSA, as an RSAPublicKey in DER (RFC 8017, A.1.1).
struct RsaKey(Vec<u8>);

impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// A certificate that is to be issued.
pub struct Order<'a> {
    authority: &'a Authority,
    name: String,
    params: CertificateParams,
}

impl Order<'_> {
    /// For these hosts, each by name or IP address, and for no other.
    #[must_use]
    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        self.params.subject_alt_names = CertificateParams::new(hosts).unwrap().subject_alt_names;
        self
    }

    /// Good until the end of this year.
    #[must_use]
    pub fn until(mut self, year: i32) -> Self {
        self.params.not_after = date_time_ymd(year, 12, 31);
        self
    }

    /// Makes a key and the certificate; files of the same name are replaced.
    pub fn issue(self) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params.signed_by(&key, &self.authority.issuer).unwrap();
        let at = |extension: &str| self.authority.dir().join(format!("{}.{extension}", self.name));
        let issued = Issued {
            certificate: at("pem"),
            key: at("key"),
        };
        std::fs::write(&issued.certificate, certificate.pem()).unwrap();
        std::fs::write(&issued.key, key.serialize_pem()).unwrap();
        issued
    }
}

/// Files, PEM, of a certificate and of its key: `NAME.pem` and `NAME.key` in the authority's directory.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate alone.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Issued {
    /// A TLS server that shows it, and wants of each client a certificate that `clients` issued; of none
    /// where that is `None`.
    pub fn server(&self, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_file(&self.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::python;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::process::Command;

    /// What Python asks of its own accord since 3.13, asked of every Python.
    #[test]
    fn a_strict_client_takes_what_an_authority_issues_and_of_no_other() {
        const SCRIPT: &str = "\
import socket, ssl, sys
ca, certificate, key, port = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.verify_flags |= ssl.VERIFY_X509_STRICT
context.load_cert_chain(certificate, key)
with socket.create_connection(('127.0.0.1', int(port))) as plain:
    with context.wrap_socket(plain, server_hostname='127.0.0.1') as tls:
        tls.sendall(b'a')
        print(tls.recv(1).decode())
";
        let (ours, other) = (Authority::new(), Authority::new());
        let server = ours.issue("127.0.0.1").server(Some(&ours));
        let client = ours
            .order("client")
            .hosts(&["localhost", "127.0.0.1"])
            .until(2090)
            .issue();
        for (trusted, taken) in [(&ours, true), (&other, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = Arc::clone(&server);
            let answering = std::thread::spawn(move || {
                let connection = rustls::ServerConnection::new(server).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, listener.accept().unwrap().0);
                let mut byte = [0];
                stream.read_exact(&mut byte).and_then(|()| stream.write_all(b"z"))
            });
            let output = Command::new(python())
                .args(["-c", SCRIPT])
                .args([&trusted.ca(), &client.certificate, &client.key])
                .arg(port.to_string())
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(printed.trim() == "z", taken, "{printed} {error}");
            assert_eq!(error.contains("CERTIFICATE_VERIFY_FAILED"), !taken, "{error}");
            assert_eq!(answering.join().unwrap().is_ok(), taken);
        }
    }
}
