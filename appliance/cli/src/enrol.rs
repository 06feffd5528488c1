//! `gabion pki token` and `gabion pki enrol`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use gabion_enrol::{Granted, Token};
use time::OffsetDateTime;
use tokio::net::TcpStream;

use crate::pki::{self, ClusterName, Existing, Node};
use crate::present::say;

/// Where nodes wait for their certificates: where the API will be.
const PORT: u16 = 4_450;
/// The node hangs up after ten.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Gives a node that waits for it a certificate, by the token of its first-boot data
///
/// The node's key never leaves it, and the authority's never leaves this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Enrol {
    /// The node's management address; port 4450 unless another is written
    #[arg(value_name = "ADDRESS[:PORT]")]
    address: String,

    /// What the node is called, with the names and addresses by which it is reached: node-1=192.0.2.1
    #[arg(long, value_name = "NAME[=HOST,..]")]
    node: Node,

    /// The cluster of which it is a member: it is called node-NUMBER then
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,

    /// The file with the token, as `gabion pki token` has printed it
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,

    /// Where ca.pem and ca.key are, and where the node's certificate is kept
    #[arg(long, visible_alias = "ca", value_name = "DIR", default_value = "pki")]
    dir: PathBuf,

    /// Replaces the node's certificate if there is one already
    #[arg(long)]
    overwrite: bool,
}

impl Enrol {
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.node.clone();
        if let Some(cluster) = &self.cluster {
            node.join(cluster)?;
        }
        let path = self.token_file.display();
        let token = std::fs::read_to_string(&self.token_file).with_context(|| format!("{path}"))?;
        let token = Token::parse(&token).with_context(|| format!("{path}"))?;
        let existing = if self.overwrite { Existing::Overwrite } else { Existing::Refuse };
        // Before the node hears anything: a directory without an authority is no reason to use up an attempt.
        pki::check_ca(&self.dir, OffsetDateTime::now_utc())?;
        let mut signed = None;
        let sign = |request: &[u8]| {
            let now = OffsetDateTime::now_utc();
            let made = pki::sign(&self.dir, &node, request, existing, now)
                .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
            let granted = Granted { certificate: made.certificate.clone(), ca: made.ca.clone() };
            signed = Some(made);
            Ok(granted)
        };
        let address = resolve(&self.address)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let attempt = async {
            let stream = TcpStream::connect(address).await?;
            gabion_enrol::enrol(stream, &token, sign).await
        };
        // A deadline is made where there is a runtime to keep it.
        let enrolled = runtime.block_on(async { tokio::time::timeout(TIMEOUT, attempt).await });
        match enrolled {
            Ok(enrolled) => enrolled.with_context(|| format!("{address}"))?,
            Err(_) => {
                bail!("{address} does not answer within {TIMEOUT:?}; is it the management address?")
            }
        }
        let Some(signed) = signed else { bail!("{address} took nothing") };
        for file in pki::keep(signed)?.files {
            say(file.display())?;
        }
        say(format_args!("\n{address} has its certificate and starts again with it."))?;
        Ok(())
    }
}

/// Prints a new token.
pub(crate) fn print_token() -> Result<()> {
    let token = Token::generate().context("the system gives no random numbers")?;
    say(token)?;
    Ok(())
}

fn resolve(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(address) = text.parse() {
        return Ok(SocketAddr::new(address, PORT));
    }
    let name = if text.contains(':') { text.to_owned() } else { format!("{text}:{PORT}") };
    let mut found = name.to_socket_addrs().with_context(|| format!("{text} is no address"))?;
    found.next().with_context(|| format!("{text} has no address"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_node_that_waits_gets_its_certificate_and_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("pki");
        let subjects = pki::Subjects::default();
        pki::init(&dir, &subjects, Existing::Refuse, OffsetDateTime::now_utc()).unwrap();
        let token = Token::generate().unwrap();
        let token_file = directory.path().join("token");
        std::fs::write(&token_file, &token).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let node = gabion_enrol::Node::new(Token::parse(&token).unwrap()).unwrap();
                let mut taken = None;
                let (stream, _) = listener.accept().await.unwrap();
                let take = |granted: &Granted| {
                    taken = Some(granted.clone());
                    Ok(())
                };
                node.serve(stream, take).await.unwrap();
                taken.unwrap()
            })
        });
        let node_name = "node-1=192.0.2.1".parse().unwrap();
        let cluster = Some("fw".parse().unwrap());
        let enrol = Enrol {
            address,
            node: node_name,
            cluster,
            token_file,
            dir: dir.clone(),
            overwrite: false,
        };
        enrol.run().unwrap();
        let granted = node.join().unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("node-1.pem")).unwrap(), granted.certificate);
        assert_eq!(std::fs::read_to_string(dir.join("ca.pem")).unwrap(), granted.ca);
        assert!(!dir.join("node-1.key").exists(), "the node keeps it");
    }

    #[test]
    fn the_port_is_the_apis_unless_written() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:4450"),
            ("192.0.2.1:99", "192.0.2.1:99"),
            ("2001:db8::1", "[2001:db8::1]:4450"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            assert_eq!(resolve(text).unwrap().to_string(), address);
        }
    }
}
