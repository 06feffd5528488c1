//! The servers of either side: TCP and UDP on [`PORT`]. Echoes are answered by the kernel.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::words::{CHUNK, Direction, Hello, PORT, Sight, Wish, content};
use crate::lab::namespace::Namespace;

/// Connections that the kernel keeps while none is accepted.
const BACKLOG: u32 = 4_096;

/// A side's servers. Dropping it ends them with all their connections.
#[derive(Debug)]
pub(crate) struct Servers {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Each clone is a connection that is to live and does.
    live: Arc<()>,
}

impl Servers {
    /// Starts them in a namespace; datagrams are answered at these addresses.
    ///
    /// # Errors
    /// If the port is taken.
    pub(crate) fn start(namespace: &Namespace, addresses: Vec<IpAddr>) -> Result<Self> {
        let stop = Arc::<Notify>::default();
        let ended = Arc::clone(&stop);
        let live = Arc::<()>::default();
        let counted = Arc::clone(&live);
        let (ready, opened) = mpsc::sync_channel(1);
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut servers = JoinSet::new();
                let listener = listen()?;
                for address in addresses {
                    let socket = UdpSocket::bind((address, PORT)).await;
                    let socket = socket.with_context(|| format!("{address} port {PORT}"))?;
                    servers.spawn(serve_datagrams(socket));
                }
                servers.spawn(serve_connections(listener, counted));
                // Nobody waits any more if the lab is being removed.
                let _ = ready.send(());
                ended.notified().await;
                Ok(())
            })
        });
        if opened.recv().is_err() {
            let ended = thread.join().map_err(|_| anyhow!("the servers panicked"))?;
            return Err(ended.err().unwrap_or_else(|| anyhow!("the servers ended at once")));
        }
        Ok(Self { stop, thread: Some(thread), live })
    }

    /// How many connections are open here that are to live.
    pub(crate) fn live(&self) -> usize {
        // This one's own, and its thread's.
        Arc::strong_count(&self.live).saturating_sub(2)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the servers failed: {error:#}");
        }
    }
}

fn listen() -> Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))?;
    Ok(socket.listen(BACKLOG)?)
}

async fn serve_connections(listener: TcpListener, live: Arc<()>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // What goes wrong with a connection is the client's to say: it knows which one it was.
        let live = Arc::downgrade(&live);
        connections.spawn(async move { serve_connection(stream, peer, live).await.is_ok() });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(mut stream: TcpStream, peer: SocketAddr, live: Weak<()>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut hello = [0; Hello::BYTES];
    stream.read_exact(&mut hello).await?;
    let Hello { seed, wish } = Hello::read(hello).context("no hello")?;
    match wish {
        Wish::Exchange { up, down } => {
            let mut bytes = vec![0; up as usize];
            stream.read_exact(&mut bytes).await?;
            ensure!(bytes == content(seed, Direction::Up, 0, bytes.len()), "other bytes came");
            stream.write_all(&Sight(peer).write()).await?;
            stream.write_all(&content(seed, Direction::Down, 0, down as usize)).await?;
            stream.shutdown().await?;
        }
        Wish::Live => {
            let _one = live.upgrade();
            stream.write_all(&Sight(peer).write()).await?;
            let mut chunk = [0; CHUNK];
            for part in 0.. {
                stream.read_exact(&mut chunk).await?;
                ensure!(chunk[..] == content(seed, Direction::Up, part, CHUNK), "other bytes");
                stream.write_all(&content(seed, Direction::Down, part, CHUNK)).await?;
            }
        }
    }
    Ok(())
}

/// A datagram is a seed, the number of its part and content; so is the answer, with [`Sight`] between.
async fn serve_datagrams(socket: UdpSocket) {
    let mut bytes = [0; 2_048];
    // An error is an ICMP message about an earlier answer.
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut bytes).await else { continue };
        if let Some(answer) = answer_datagram(&bytes[..length], peer) {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

/// Bytes of a datagram before its content.
pub(super) const DATAGRAM_HEAD: usize = 16;

fn answer_datagram(bytes: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
    let (head, rest) = bytes.split_at_checked(DATAGRAM_HEAD)?;
    let seed = u64::from_be_bytes(head[..8].try_into().ok()?);
    let part = u64::from_be_bytes(head[8..].try_into().ok()?);
    if rest != content(seed, Direction::Up, part, CHUNK) {
        return None;
    }
    let mut answer = head.to_vec();
    answer.extend(Sight(peer).write());
    answer.extend(content(seed, Direction::Down, part, CHUNK));
    Some(answer)
}
