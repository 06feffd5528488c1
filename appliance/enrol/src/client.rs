//! The operator's side.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::PROTOCOL;
use crate::session::{
    EXPORTER_LABEL, EnrolError, Granted, MESSAGE_BYTES_MAX, read_answer, receive, send,
};
use crate::token::{EXPORTER_BYTES, PROOF_BYTES, Side, Token};

/// Enrols the node at the other end of a connection. `sign` gets its request (PKCS #10, DER), once the node has shown
/// that it knows the token, and grants what the node is to have.
///
/// # Errors
/// [`EnrolError`]; `sign`'s reason is told as a refusal.
pub async fn enrol<S>(
    stream: S,
    token: &Token,
    sign: impl FnOnce(&[u8]) -> Result<Granted, String>,
) -> Result<(), EnrolError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(Arc::new(config()?));
    // Nobody asks who the node is by its certificate, so any name will do.
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let mut stream = connector.connect(name, stream).await?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(PROTOCOL) {
        return Err(EnrolError::NotUnderstood);
    }
    let exporter = session.export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, None)?;
    send(&mut stream, &token.prove(Side::Operator, &exporter)).await?;
    let proof = receive(&mut stream, PROOF_BYTES).await.map_err(|error| {
        // So does a node end to which this token is none.
        if matches!(error, EnrolError::Connection(_)) { EnrolError::Proof } else { error }
    })?;
    if !token.verifies(Side::Node, &exporter, &proof) {
        return Err(EnrolError::Proof);
    }
    let request = receive(&mut stream, MESSAGE_BYTES_MAX).await?;
    let granted = sign(&request).map_err(EnrolError::Refused)?;
    send(&mut stream, granted.certificate.as_bytes()).await?;
    send(&mut stream, granted.ca.as_bytes()).await?;
    read_answer(receive(&mut stream, MESSAGE_BYTES_MAX).await?)
}

pub(crate) fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each session is one of its own.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Takes any certificate, as it is the token that proves who the node is; the handshake has to be signed by its key all
/// the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
