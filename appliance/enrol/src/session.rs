//! The node's side, and what both sides share.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::PROTOCOL;
use crate::token::{EXPORTER_BYTES, PROOF_BYTES, Side, Token};

/// Longest message: a certificate and a CA with its chain take some kilobytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// RFC 9266 section 3.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
const DONE: &[u8] = b"done";

/// Why a session has not led to a certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("the connection failed: {0}; is this a node that waits for its certificates?")]
    Connection(#[from] io::Error),
    #[error("the other side has another token, or stands between this side and the right one")]
    Proof,
    #[error("a message of {0} bytes, and {MESSAGE_BYTES_MAX} at most are taken")]
    TooLong(u64),
    #[error("the other side's message is not understood")]
    NotUnderstood,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
    /// What was granted is of no use.
    #[error("refused: {0}")]
    Refused(String),
}

/// What the operator hands over, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub certificate: String,
    pub ca: String,
}

/// A node that waits for its certificate. Its key is made anew by each process.
pub struct Node {
    token: Token,
    key: KeyPair,
    request: Vec<u8>,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Node")
    }
}

impl Node {
    /// Makes the node's key, and what it shows until it has a certificate.
    ///
    /// # Errors
    /// When there is no key to be had.
    pub fn new(token: Token) -> Result<Self, EnrolError> {
        let generate = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        let key = generate()?;
        let request = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        // Of the session alone: who has only seen that cannot say what the node's key will be.
        let shown_key = generate()?;
        let shown = CertificateParams::default().self_signed(&shown_key)?;
        let shown_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(shown_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![shown.der().clone()], shown_key)?;
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Each session is one of its own.
        tls.send_tls13_tickets = 0;
        Ok(Self { token, key, request, tls: TlsAcceptor::from(Arc::new(tls)) })
    }

    /// The private key that the certificate will be of, in PEM.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Serves one connection. `take` is asked whether what was granted is of use, and puts it to use.
    ///
    /// # Errors
    /// [`EnrolError`]; the node is as it was.
    pub async fn serve<S>(
        &self,
        stream: S,
        take: impl FnOnce(&Granted) -> Result<(), String>,
    ) -> Result<(), EnrolError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = self.tls.accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(PROTOCOL) {
            return Err(EnrolError::NotUnderstood);
        }
        let exporter = session.export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, None)?;
        let proof = receive(&mut stream, PROOF_BYTES).await?;
        if !self.token.verifies(Side::Operator, &exporter, &proof) {
            return Err(EnrolError::Proof);
        }
        send(&mut stream, &self.token.prove(Side::Node, &exporter)).await?;
        send(&mut stream, &self.request).await?;
        let certificate = text(receive(&mut stream, MESSAGE_BYTES_MAX).await?)?;
        let ca = text(receive(&mut stream, MESSAGE_BYTES_MAX).await?)?;
        let granted = Granted { certificate, ca };
        let taken = self.look_at(&granted).and_then(|()| take(&granted));
        let answer = taken.as_ref().map_or_else(String::as_bytes, |()| DONE);
        send(&mut stream, answer.get(..MESSAGE_BYTES_MAX).unwrap_or(answer)).await?;
        // What was taken stays taken, whether or not the operator has heard of it.
        let _ = stream.shutdown().await;
        taken.map_err(EnrolError::Refused)
    }
}

impl Node {
    /// Whether the certificate is of this node's key and of that CA, and holds now.
    fn look_at(&self, granted: &Granted) -> Result<(), String> {
        let read = |pem: &str, what: &str| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            let read = read.ok().filter(|certificates| !certificates.is_empty());
            read.ok_or_else(|| format!("the {what} is no PEM certificate"))
        };
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let chain = read(&granted.certificate, "certificate")?;
        let mut roots = RootCertStore::empty();
        for root in read(&granted.ca, "CA")? {
            roots.add(root).map_err(|error| said(&error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        CertifiedKey::from_der(chain.clone(), key, &provider)
            .and_then(|certified| certified.keys_match())
            .map_err(|error| format!("the certificate is not of this node's key: {error}"))?;
        let (leaf, between) = chain.split_first().ok_or("no certificate")?;
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let verifier = verifier.build().map_err(|error| said(&error))?;
        verifier.verify_client_cert(leaf, between, UnixTime::now()).map(drop).map_err(|error| {
            format!("the certificate is not of that CA, or not valid now: {error}")
        })
    }
}

pub(crate) async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

/// Nothing is kept for a message that is too long.
pub(crate) async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes_max: usize,
) -> Result<Vec<u8>, EnrolError> {
    let length = stream.read_u32().await?;
    let fits = usize::try_from(length).ok().filter(|length| *length <= bytes_max);
    let Some(length) = fits else { return Err(EnrolError::TooLong(length.into())) };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) fn text(message: Vec<u8>) -> Result<String, EnrolError> {
    String::from_utf8(message).map_err(|_| EnrolError::NotUnderstood)
}

/// Whether the node has taken what it was granted.
pub(crate) fn read_answer(message: Vec<u8>) -> Result<(), EnrolError> {
    if message == DONE { Ok(()) } else { Err(EnrolError::Refused(text(message)?)) }
}
