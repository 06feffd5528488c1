#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::*;
use crate::session::{receive, send};
use crate::token::PROOF_BYTES;

const TOKEN: &str = "q83vASNFZ4mrze8BI0VniQ";
const OTHER: &str = "another-token-of-22-ch";

fn token(text: &str) -> Token {
    Token::parse(text).unwrap()
}

/// What a CA of this test's own grants.
fn sign(request: &[u8]) -> Result<Granted, String> {
    let request = rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let params = rcgen::CertificateParams::new(["node".into()]).unwrap();
    let certificate = params.signed_by(&request.public_key, &issuer).unwrap().pem();
    Ok(Granted { certificate, ca })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Both sides with these tokens: what either says, and what the node was granted.
async fn meet(
    of_operator: &str,
    of_node: &str,
    refuse: Option<&str>,
) -> (Result<(), EnrolError>, Result<(), EnrolError>, Option<Granted>) {
    let node = Node::new(token(of_node)).unwrap();
    let (near, far) = duplex(1 << 16);
    let mut taken = None;
    let take = |granted: &Granted| {
        taken = Some(granted.clone());
        refuse.map_or(Ok(()), |why| Err(why.to_owned()))
    };
    let of_operator = token(of_operator);
    let operator = enrol(near, &of_operator, sign);
    let (operator, node) = tokio::join!(operator, node.serve(far, take));
    (operator, node, taken)
}

#[test]
fn who_knows_the_token_grants_a_certificate() {
    let (operator, node, taken) = runtime().block_on(meet(TOKEN, TOKEN, None));
    operator.unwrap();
    node.unwrap();
    assert!(taken.is_some());
}

#[test]
fn what_the_node_cannot_use_is_told_to_the_operator() {
    let (operator, node, taken) = runtime().block_on(meet(TOKEN, TOKEN, Some("another CA")));
    assert!(matches!(operator, Err(EnrolError::Refused(why)) if why == "another CA"));
    assert!(matches!(node, Err(EnrolError::Refused(_))));
    assert!(taken.is_some());
}

#[test]
fn another_token_gets_nothing_from_either_side() {
    let (operator, node, taken) = runtime().block_on(meet(OTHER, TOKEN, None));
    assert!(matches!(operator, Err(EnrolError::Proof)), "{operator:?}");
    assert!(matches!(node, Err(EnrolError::Proof)), "{node:?}");
    assert_eq!(taken, None);
}

/// An attacker's ends of TLS: as a node, and as an operator.
async fn as_node(stream: DuplexStream) -> server::TlsStream<DuplexStream> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap()
}

async fn as_operator(stream: DuplexStream) -> tokio_rustls::client::TlsStream<DuplexStream> {
    let config: ClientConfig = client::config().unwrap();
    let name = ServerName::try_from("node").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[test]
fn who_stands_in_between_and_passes_on_what_he_hears_gets_nothing() {
    runtime().block_on(async {
        let node = Node::new(token(TOKEN)).unwrap();
        let (near, between) = duplex(1 << 16);
        let (onward, far) = duplex(1 << 16);
        let attacker = async {
            let (mut heard, mut onward) = tokio::join!(as_node(between), as_operator(onward));
            let _ = tokio::io::copy_bidirectional(&mut heard, &mut onward).await;
        };
        let of_operator = token(TOKEN);
        let operator = enrol(near, &of_operator, |_| panic!("nothing is signed"));
        let served = node.serve(far, |_| panic!("nothing is granted"));
        let (operator, served, ()) = tokio::join!(operator, served, attacker);
        assert!(matches!(operator, Err(EnrolError::Proof)), "{operator:?}");
        assert!(matches!(served, Err(EnrolError::Proof)), "{served:?}");
    });
}

#[test]
fn who_gives_the_operators_proof_back_is_no_node() {
    runtime().block_on(async {
        let (near, far) = duplex(1 << 16);
        let attacker = async {
            let mut stream = as_node(far).await;
            let proof = receive(&mut stream, PROOF_BYTES).await.unwrap();
            send(&mut stream, &proof).await.unwrap();
            send(&mut stream, b"a request").await.unwrap();
            proof
        };
        let of_operator = token(TOKEN);
        let operator = enrol(near, &of_operator, |_| panic!("nothing is signed"));
        let (operator, proof) = tokio::join!(operator, attacker);
        assert!(matches!(operator, Err(EnrolError::Proof)), "{operator:?}");

        // And what he has heard opens no later session.
        let node = Node::new(token(TOKEN)).unwrap();
        let (near, far) = duplex(1 << 16);
        let replay = async {
            let mut stream = as_operator(near).await;
            send(&mut stream, &proof).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            rest
        };
        let (served, rest) = tokio::join!(node.serve(far, |_| Ok(())), replay);
        assert!(matches!(served, Err(EnrolError::Proof)), "{served:?}");
        assert!(rest.is_empty(), "the node says nothing");
    });
}

#[test]
fn long_messages_are_refused_before_they_are_read() {
    runtime().block_on(async {
        for length in [PROOF_BYTES as u32 + 1, u32::MAX] {
            let node = Node::new(token(TOKEN)).unwrap();
            let (near, far) = duplex(1 << 16);
            let attacker = async {
                let mut stream = as_operator(near).await;
                stream.write_all(&length.to_be_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                let _ = stream.read_u8().await;
            };
            let (served, ()) = tokio::join!(node.serve(far, |_| Ok(())), attacker);
            assert!(matches!(served, Err(EnrolError::TooLong(_))), "{served:?}");
        }
    });
}

#[test]
fn what_is_not_this_protocol_is_hung_up_on() {
    runtime().block_on(async {
        for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"\x16\x03\x01\xff\xff\x01"] {
            let node = Node::new(token(TOKEN)).unwrap();
            let (mut near, far) = duplex(1 << 16);
            near.write_all(said).await.unwrap();
            near.shutdown().await.unwrap();
            assert!(node.serve(far, |_| Ok(())).await.is_err());
        }
    });
}

#[test]
fn tokens_are_secrets() {
    for text in ["", "short", "                            ", "q83vASNFZ4mrze8BI0Vni Q"] {
        assert!(Token::parse(text).is_err(), "{text}");
    }
    let made = Token::generate().unwrap();
    assert_eq!(made.len(), 43);
    assert_ne!(made, Token::generate().unwrap());
    assert_eq!(format!("{:?}", Token::parse(&format!("{made}\n")).unwrap()), "Token");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_bytes_from_who_has_no_token_panic_or_are_granted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        runtime().block_on(async {
            let node = Node::new(token(TOKEN)).unwrap();
            let (near, far) = duplex(1 << 16);
            let attacker = async {
                let mut stream = as_operator(near).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            };
            let served = node.serve(far, |_| panic!("nothing is granted"));
            let (served, ()) = tokio::join!(served, attacker);
            assert!(served.is_err());
        });
    }
}
