//! Who this node is to its peers, and how it tells that a peer is who it says.
//!
//! Certificates hold for a time, and clocks are wrong: a cluster must not end because a machine woke up in 1970, or on
//! the day on which its certificates do. So a peer's certificate is looked at by this node's clock only while this
//! node's own certificate holds by it. Otherwise the clock (or the own certificate) is off, which is said, and it is
//! enough that both certificates have held at one time: what ended before ours began is refused still.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hkdf;
use gabion_engine::NodeId;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::Cluster;

/// RFC 7301: what is spoken, so that nothing else of this CA is taken for a session.
const PROTOCOL: &[u8] = b"gabion-cluster";

/// Why the node cannot show who it is.
#[derive(Debug, thiserror::Error)]
#[error("cluster.{setting} {}: {why}; gabion pki init --cluster makes certificates", path.display())]
pub struct IdentityError {
    setting: &'static str,
    path: PathBuf,
    why: String,
}

/// What proves this node to its peers, and its peers to it.
#[derive(Debug)]
pub struct Identity {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    secret: [u8; 16],
    own: Validity,
    clock: Arc<dyn TimeProvider>,
}

impl Identity {
    /// Reads CA, certificate and key, and looks whether they are each other's and this node's.
    ///
    /// # Errors
    /// [`IdentityError`], which names setting and file.
    pub fn read(settings: &Cluster, clock: Arc<dyn TimeProvider>) -> Result<Self, IdentityError> {
        let files = Files { settings };
        let roots = files.certificates("ca", &settings.ca)?;
        let chain = files.certificates("certificate", &settings.certificate)?;
        let key = files.key()?;
        let own = files.own(&chain[0])?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store
                .add(root.clone())
                .map_err(|error| files.error("ca", &settings.ca, error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let no_verifier = |error: rustls::client::VerifierBuilderError| {
            files.error("ca", &settings.ca, error.to_string())
        };
        let store = Arc::new(store);
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(&provider));
        let clients = builder.build().map_err(no_verifier)?;
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(&provider));
        let servers = builder.build().map_err(no_verifier)?;
        let verifier = Arc::new(Verifier { clients, servers, own });
        verifier.verify_client_cert(&chain[0], &chain[1..], own.from).map_err(|error| {
            let why = format!("it is not of the CA in cluster.ca: {}", reason(&error));
            files.error("certificate", &settings.certificate, why)
        })?;
        let no_pair = |error: rustls::Error| files.error("key", &settings.key, reason(&error));
        let no_version = "the provider has TLS 1.3";
        let mut server =
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&clock))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect(no_version)
                .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(no_pair)?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Each session shows both certificates and has keys of its own.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_details(provider, Arc::clone(&clock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect(no_version)
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(no_pair)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            secret: secret(&settings.name, &roots[0]),
            own,
            clock,
        })
    }

    /// The same node with what its files hold now.
    ///
    /// # Errors
    /// As [`Identity::read`]; and when the CA is another than at the start, on which all members' choice of directors rests.
    pub fn read_again(&self, settings: &Cluster) -> Result<Self, IdentityError> {
        let again = Self::read(settings, Arc::clone(&self.clock))?;
        if again.secret != self.secret {
            let why = "its first certificate is another than at the start: restart all members";
            return Err(Files { settings }.error("ca", &settings.ca, why.to_owned()));
        }
        Ok(again)
    }

    /// Keys the choice of directors: the same at all members, and only at those.
    pub const fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// What to say when this node's certificate does not hold by its clock.
    pub fn warning(&self) -> Option<String> {
        let now = self.clock.current_time()?;
        if self.own.holds(now) {
            return None;
        }
        let when = if now < self.own.from { "does not hold yet" } else { "has ended" };
        Some(format!(
            "cluster.certificate {when} by this machine's clock: set the clock, or issue a new one with gabion pki issue"
        ))
    }

    /// Seconds until this node's certificate ends; negative when it has.
    pub fn certificate_ends_in(&self) -> Option<i64> {
        let seconds = |at: UnixTime| i64::try_from(at.as_secs()).ok();
        Some(seconds(self.own.until)? - seconds(self.clock.current_time()?)?)
    }
}

/// The name in the certificate of a node.
pub(super) fn name_of(node: NodeId, cluster: &str) -> String {
    format!("node-{node}.{cluster}")
}

/// The node that a certificate is for, or the names that it is for instead.
pub(super) fn node_of(certificate: &[u8], cluster: &str) -> Result<NodeId, String> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| "it is not understood".to_owned())?;
    let names = names(&certificate);
    let nodes = (1..=NodeId::MAX).map(NodeId);
    nodes
        .into_iter()
        .find(|node| names.contains(&name_of(*node, cluster)))
        .ok_or_else(|| format!("it is for {}, and for no node-NUMBER.{cluster}", listed(&names)))
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| {
            if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }
        })
        .collect()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
}

pub(super) fn is_about_certificates(error: &rustls::Error) -> bool {
    use rustls::{AlertDescription, Error};
    matches!(
        error,
        Error::InvalidCertificate(_)
            | Error::NoCertificatesPresented
            | Error::AlertReceived(
                AlertDescription::UnknownCA
                    | AlertDescription::DecryptError
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateRequired
                    | AlertDescription::UnsupportedCertificate
            )
    )
}

/// The text of an error of TLS, and what to do about the usual ones.
pub(super) fn reason(error: &rustls::Error) -> String {
    use rustls::{CertificateError as Why, Error};
    if let Error::AlertReceived(alert) = error {
        return format!("it does not take this node's certificate ({alert:?}): look at its log");
    }
    let Error::InvalidCertificate(why) = error else { return error.to_string() };
    if let Why::NotValidForNameContext { expected, presented } = why {
        // As rustls writes them: DnsName("node-2.fw").
        let names = presented.iter().filter_map(|name| name.split('"').nth(1));
        let names: Vec<String> = names.map(str::to_owned).collect();
        return format!("it is for {}, and not for {}", listed(&names), expected.to_str());
    }
    if matches!(why, Why::UnknownIssuer | Why::BadSignature) {
        return "it is of another CA".to_owned();
    }
    if matches!(why, Why::Expired | Why::ExpiredContext { .. }) {
        return "it has ended: issue a new one with gabion pki issue, and look at both clocks"
            .to_owned();
    }
    if matches!(why, Why::NotValidYet | Why::NotValidYetContext { .. }) {
        return "it does not hold yet: look at both clocks".to_owned();
    }
    error.to_string()
}

/// Derived of what all members have, and clients do not: the name and the (first) CA certificate.
fn secret(cluster: &str, ca: &CertificateDer<'_>) -> [u8; 16] {
    struct Bytes16;
    impl hkdf::KeyType for Bytes16 {
        fn len(&self) -> usize {
            16
        }
    }
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"gabion cluster secret").extract(ca);
    let mut secret = [0; 16];
    extracted
        .expand(&[cluster.as_bytes()], Bytes16)
        .and_then(|expanded| expanded.fill(&mut secret))
        .expect("16 bytes are less than HKDF gives");
    secret
}

struct Files<'a> {
    settings: &'a Cluster,
}

impl Files<'_> {
    fn error(&self, setting: &'static str, path: &Path, why: String) -> IdentityError {
        IdentityError { setting, path: path.to_owned(), why }
    }

    fn read(&self, setting: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
        fs::read(path).map_err(|error| self.error(setting, path, error.to_string()))
    }

    fn certificates(
        &self,
        setting: &'static str,
        path: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let pem = self.read(setting, path)?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = read.map_err(|error| self.error(setting, path, error.to_string()))?;
        if certificates.is_empty() {
            return Err(self.error(setting, path, "it holds no certificate".to_owned()));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        let path = &self.settings.key;
        let pem = self.read("key", path)?;
        PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| self.error("key", path, error.to_string()))
    }

    /// From when to when the node's certificate holds, if it is this node's.
    fn own(&self, certificate: &CertificateDer<'_>) -> Result<Validity, IdentityError> {
        let error = |why| self.error("certificate", &self.settings.certificate, why);
        let Cluster { node, name, .. } = self.settings;
        let named = node_of(certificate, name).map_err(error)?;
        if named != *node {
            let names = [named, *node].map(|node| name_of(node, name));
            let why = format!("it is for {}, and this node is {}", names[0], names[1]);
            return Err(error(why));
        }
        Validity::of(certificate).ok_or_else(|| error("it is not understood".to_owned()))
    }
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    from: UnixTime,
    until: UnixTime,
}

impl Validity {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let unix = |at: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
        };
        let validity = certificate.validity();
        Some(Self { from: unix(validity.not_before), until: unix(validity.not_after) })
    }

    fn holds(&self, now: UnixTime) -> bool {
        self.from <= now && now <= self.until
    }
}

/// The usual verifiers, by a clock that may be off.
#[derive(Debug)]
struct Verifier {
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
    own: Validity,
}

impl Verifier {
    /// When a peer's certificate has to hold.
    fn moment(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
        if self.own.holds(now) {
            return now;
        }
        Validity::of(certificate).map_or(now, |theirs| theirs.from.max(self.own.from))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let moment = self.moment(end_entity, now);
        self.servers.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            moment,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let moment = self.moment(end_entity, now);
        self.clients.verify_client_cert(end_entity, intermediates, moment)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
