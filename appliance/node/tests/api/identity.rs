//! Who may do what over TLS: certificates as `gabion pki init` makes them, and others.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use gabion_api::v1::StatusRequest;
use gabion_api::v1::firewall_client::FirewallClient;
use gabiond::config::Config;
use gabiond::node::Prepared;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::rig::{Client, Home, commit, policy};

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
struct Leaf {
    certificate: String,
    key: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn leaf(&self, name: &str, unit: Option<&str>) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(unit) = unit {
            params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

/// Writes the node's files and gives the `[api]` settings that name them.
fn write_node(home: &Home, ca: &Ca, port: u16) -> String {
    let leaf = ca.leaf("node-1", Some("node"));
    let write = |name: &str, text: &str| {
        let path = home.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    format!(
        "listen = [\"127.0.0.1:{port}\"]\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
        write("node.pem", &leaf.certificate),
        write("node.key", &leaf.key),
        write("ca.pem", &ca.pem)
    )
}

async fn client(port: u16, ca: &Ca, leaf: Option<Leaf>) -> Result<Client, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca.pem))
        .domain_name("localhost");
    if let Some(leaf) = leaf {
        tls = tls.identity(Identity::from_pem(leaf.certificate, leaf.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    Ok(FirewallClient::new(endpoint.tls_config(tls)?.connect().await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_in_the_certificate_decides() {
    let (home, ca) = (Home::new(), Ca::new());
    let port = home.api;
    let node = home.start_with(&write_node(&home, &ca, port)).await;
    let as_role = |name: &'static str, unit| client(port, &ca, Some(ca.leaf(name, unit)));

    let mut viewer = as_role("victoria", Some("viewer")).await.unwrap();
    viewer.status(StatusRequest {}).await.unwrap();
    let refused = commit(&mut viewer, &policy(443), 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("victoria is viewer"), "{refused}");

    for (expected, unit) in [(0, "operator"), (1, "admin")] {
        let mut client = as_role("olga", Some(unit)).await.unwrap();
        let done = commit(&mut client, &policy(443), expected).await.unwrap();
        assert_eq!(done.revision.unwrap().author, "olga");
    }
    for unit in [None, Some("boss")] {
        let mut nobody = as_role("ned", unit).await.unwrap();
        let refused = nobody.status(StatusRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    node.stop().await;
}

/// What the node first answers over TLS to a client that asks for HTTP/2; `None` if it hangs up.
///
/// Below tonic, whose error for a connection that ends depends on what it was just about to do.
async fn first_answer(port: u16, ca: &Ca, leaf: Option<Leaf>) -> Option<Vec<u8>> {
    /// RFC 9113 section 3.4: the preface, and empty SETTINGS.
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match leaf {
        None => config.with_no_client_auth(),
        Some(leaf) => {
            let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let ask = move || {
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        let mut bytes = vec![0; 64];
        // The refusal may come before, between or after these: as an alert, an end or a reset.
        let read = stream.write_all(HELLO).and_then(|()| stream.read(&mut bytes)).unwrap_or(0);
        bytes.truncate(read);
        Some(bytes).filter(|bytes| !bytes.is_empty())
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// Covers: 3.20, 6092-50
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_of_the_ca_nothing_is_answered() {
    let (home, ca) = (Home::new(), Ca::new());
    let port = home.api;
    let node = home.start_with(&write_node(&home, &ca, port)).await;
    let stranger = Ca::new().leaf("olga", Some("admin"));
    for leaf in [None, Some(stranger)] {
        assert_eq!(first_answer(port, &ca, leaf).await, None);
    }
    // The next client with a good one is answered: with SETTINGS, frame type 4.
    let good = first_answer(port, &ca, Some(ca.leaf("v", Some("viewer")))).await.unwrap();
    assert_eq!(good[3], 4, "{good:?}");
    node.stop().await;
}

fn refusal(settings: &str) -> String {
    let config = Config::parse(settings, "gabiond.toml").unwrap();
    match Prepared::new(config) {
        Ok(_) => panic!("the node starts"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn bad_files_are_named_at_the_start() {
    let (home, ca) = (Home::new(), Ca::new());
    let port = home.api;
    let settings = home.settings(&write_node(&home, &ca, port));
    let other = ca.leaf("other", None);
    let spoil = |file: &str, with: &str| {
        let path = home.path(file);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, with).unwrap();
        let message = refusal(&settings);
        std::fs::write(&path, good).unwrap();
        assert!(message.contains(file) && message.contains("gabion pki init"), "{message}");
    };
    spoil("node.pem", "nonsense");
    spoil("ca.pem", "");
    spoil("node.key", "nonsense");
    spoil("node.key", &other.key);
    let message = refusal(&settings.replace("ca.pem", "nowhere.pem"));
    assert!(message.contains("nowhere.pem"), "{message}");
}

#[tokio::test]
async fn what_is_taken_is_named_at_the_start() {
    let (home, ca) = (Home::new(), Ca::new());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let message = refusal(&home.settings(&write_node(&home, &ca, port)));
    assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");

    let node = home.start().await;
    let message = refusal(&home.settings(""));
    assert!(message.contains("another gabiond uses it"), "{message}");
    let state = home.path("state-2");
    let message = refusal(&home.settings_in(Path::new(&state), ""));
    assert!(message.contains("health.port") || message.contains("another gabiond"), "{message}");
    node.stop().await;
}
