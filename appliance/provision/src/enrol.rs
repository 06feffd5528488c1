//! A node without certificates waits for them: [`gabion_enrol`] over TCP, on the host's own interface, at the address at
//! which the API will be.
//!
//! One attempt at a time, each with a deadline for all of it, and a pause after each that fails: whoever is slow keeps
//! others out for as long as that and no longer, and whoever guesses gets a few hundred thousand tries a day at 2^128. It ends
//! with the first success; the token goes with it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use gabion_enrol::{Granted, Node, Token};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{sleep, timeout};
use toml::Table;

use crate::boot::Judge;
use crate::files;
use crate::host::Places;
use crate::plan::{CA, CERTIFICATE, CONFIG, CONFIG_ENROLLED, KEY, TOKEN};

/// For all of one attempt: a few round trips and a signature.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// After an attempt that has failed.
pub const PAUSE: Duration = Duration::from_millis(250);
/// Connections that the kernel keeps meanwhile.
const BACKLOG: u32 = 16;

/// Where enrolment is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub address: SocketAddr,
    /// Bound to it, if given: data interfaces hear nothing, whatever guards them.
    pub device: Option<String>,
}

/// Where the configuration in waiting has the API.
///
/// # Errors
/// When it has none.
pub fn place(places: &Places) -> anyhow::Result<Place> {
    let config = files::read(&places.directory.join(CONFIG_ENROLLED))?;
    let config: Table = config.context("no configuration waits for certificates")?.parse()?;
    let first = |section: &str, key: &str| {
        config.get(section)?.get(key)?.as_array()?.first()?.as_str().map(str::to_owned)
    };
    let address = first("api", "listen").context("api.listen is empty")?;
    Ok(Place { address: address.parse()?, device: first("management", "interfaces") })
}

/// Opens the socket.
///
/// # Errors
/// When the address or the device is not to be had.
pub fn listen(place: &Place) -> io::Result<TcpListener> {
    let socket = match place.address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if let Some(device) = &place.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.bind(place.address)?;
    socket.listen(BACKLOG)
}

/// Serves until the node has its certificate; no attempt takes longer than `attempt_max`. gabiond is to be started again then.
///
/// # Errors
/// When there is no token, or the socket fails.
pub async fn serve<J: Judge>(
    places: &Places,
    judge: &J,
    listener: TcpListener,
    attempt_max: Duration,
) -> anyhow::Result<()> {
    let token = files::read(&places.directory.join(TOKEN))?.context("there is no token")?;
    let node = Node::new(Token::parse(&token)?)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let attempt = node.serve(stream, |granted| take(places, judge, &node, granted));
        match timeout(attempt_max, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => eprintln!("gabion-provision: enrolment by {peer}: {error}"),
            Err(_) => eprintln!("gabion-provision: enrolment by {peer}: too slow"),
        }
        sleep(PAUSE).await;
    }
}

/// Puts certificates in place if gabiond accepts them; else there are none, as before.
fn take<J: Judge>(
    places: &Places,
    judge: &J,
    node: &Node,
    granted: &Granted,
) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    let path = |name: &str| places.directory.join(name);
    let config = files::read(&path(CONFIG_ENROLLED)).map_err(said)?;
    let config = config.ok_or("no configuration waits for certificates")?;
    let pairs = [
        (KEY, 0o600, &node.key_pem()),
        (CERTIFICATE, 0o644, &granted.certificate),
        (CA, 0o644, &granted.ca),
    ];
    let tried = path(CONFIG).with_added_extension("tried");
    let written = pairs
        .iter()
        .try_for_each(|(name, mode, text)| files::write(&path(name), *mode, text))
        .and_then(|()| files::write(&tried, 0o640, &config))
        .map_err(said);
    let accepted = written
        .and_then(|()| judge.judge(&tried).map_err(|why| why.join("; ")))
        .and_then(|()| std::fs::rename(&tried, path(CONFIG)).map_err(said));
    if accepted.is_err() {
        for leftover in [&tried, &path(KEY), &path(CERTIFICATE), &path(CA)] {
            let _ = files::remove(leftover);
        }
        return accepted;
    }
    // The certificates are in force: nobody enrols the node again.
    files::remove(&path(TOKEN)).and_then(|()| files::remove(&path(CONFIG_ENROLLED))).map_err(said)
}

#[cfg(test)]
mod tests;
