#![allow(clippy::unwrap_used)]

use std::path::Path;

use gabion_enrol::EnrolError;
use gabiond::config::Config;
use gabiond::node::check_files;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::*;
use crate::boot::{Boot, Done, Patience};

/// A node that stands alone and has a token.
const DATA: &str = "\
apiVersion: gabion/first-boot/v1
interfaces: { mgmt: eth0, ext: eth1 }
settings: { api: { listen: [\"127.0.0.1:0\"] } }
trust: { token: q83vASNFZ4mrze8BI0VniQ }
";
const TOKEN_TEXT: &str = "q83vASNFZ4mrze8BI0VniQ";

struct Reads;

impl Judge for Reads {
    fn judge(&self, config: &Path) -> Result<(), Vec<String>> {
        let config = Config::read(config).map_err(|error| vec![error.to_string()])?;
        check_files(&config).map_err(|error| vec![error.to_string()])
    }

    fn judge_text(&self, config: &Path) -> Result<(), Vec<String>> {
        Config::read(config).map(drop).map_err(|error| vec![error.to_string()])
    }
}

fn machine() -> (TempDir, Places) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("var/lib/gabion/etc");
    let places = Places { directory, root: root.path().to_owned() };
    let boot = Boot { places: &places, judge: &Reads, patience: Patience::USUAL };
    assert_eq!(boot.provision_from(DATA.as_bytes().to_vec()).unwrap(), Done::Provisioned);
    (root, places)
}

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, request: &[u8]) -> Result<Granted, String> {
        let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let params = CertificateParams::new(["fw-1".into()]).unwrap();
        let certificate = params.signed_by(&request.public_key, &self.issuer).unwrap();
        Ok(Granted { certificate: certificate.pem(), ca: self.pem.clone() })
    }
}

async fn enrol(
    address: SocketAddr,
    token: &str,
    sign: impl FnOnce(&[u8]) -> Result<Granted, String>,
) -> Result<(), EnrolError> {
    let stream = TcpStream::connect(address).await.unwrap();
    gabion_enrol::enrol(stream, &Token::parse(token).unwrap(), sign).await
}

fn local() -> Place {
    Place { address: "127.0.0.1:0".parse().unwrap(), device: None }
}

#[tokio::test]
async fn after_wrong_ones_the_right_one_enrols_the_node_and_ends_it() {
    let (_root, places) = machine();
    let of_config = place(&places).unwrap();
    assert_eq!(of_config, Place { device: Some("eth0".into()), ..local() });
    let listener = listen(&local()).unwrap();
    let address = listener.local_addr().unwrap();
    let (ca, other) = (Ca::new(), Ca::new());
    let node = serve(&places, &Reads, listener, ATTEMPT_MAX);
    let operator = async {
        let wrong = enrol(address, "another-token-of-22-ch", |_| panic!("nothing is signed")).await;
        assert!(matches!(wrong, Err(EnrolError::Proof)), "{wrong:?}");
        drop(TcpStream::connect(address).await.unwrap());
        // A certificate of another key, one of another CA, and no certificate at all.
        for granted in [
            Granted { certificate: ca.pem.clone(), ca: ca.pem.clone() },
            Granted { certificate: String::new(), ca: ca.pem.clone() },
        ] {
            let refused = enrol(address, TOKEN_TEXT, |_| Ok(granted)).await;
            assert!(matches!(refused, Err(EnrolError::Refused(_))), "{refused:?}");
        }
        let mixed = |request: &[u8]| Ok(Granted { ca: other.pem.clone(), ..ca.sign(request)? });
        let refused = enrol(address, TOKEN_TEXT, mixed).await;
        assert!(matches!(refused, Err(EnrolError::Refused(_))), "{refused:?}");
        assert!(!places.directory.join(CERTIFICATE).exists());
        let held = Config::read(&places.directory.join(CONFIG)).unwrap();
        assert!(!held.moves());
        enrol(address, TOKEN_TEXT, |request| ca.sign(request)).await.unwrap();
    };
    let (served, ()) = tokio::join!(node, operator);
    served.unwrap();
    let config = Config::read(&places.directory.join(CONFIG)).unwrap();
    assert!(config.moves() && config.api.tls.is_some());
    assert!(!places.directory.join(TOKEN).exists());
    let boot = Boot { places: &places, judge: &Reads, patience: Patience::USUAL };
    assert_eq!(boot.run().unwrap(), Done::Known);
    assert!(Config::read(&places.directory.join(CONFIG)).unwrap().moves());
}

#[tokio::test]
async fn who_is_slow_is_hung_up_on() {
    let (_root, places) = machine();
    let listener = listen(&local()).unwrap();
    let address = listener.local_addr().unwrap();
    let ca = Ca::new();
    let operator = async {
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
        enrol(address, TOKEN_TEXT, |request| ca.sign(request)).await.unwrap();
    };
    let (served, ()) =
        tokio::join!(serve(&places, &Reads, listener, Duration::from_secs(1)), operator);
    served.unwrap();
}
