//! The machines of clients and servers: smoltcp's TCP, and programs that ask and answer.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use gabion_engine::build;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr};

use crate::network::NODE_MAC;

use crate::walk::{Kind, Seen, read_packet};

use super::conversation::{Course, Plan, byte};
use super::schedule::SECOND;

/// smoltcp probes a window of zero and no small one, for want of which a lost update stops it for good: more is
/// never sent than fits.
const SENT: usize = 16_384;
const RECEIVED: usize = 49_152;
/// An end that has sent something never, once or twice, and nothing for so long, has forgotten it, or waits as long as it had
/// to before: one that is not answered sends it again after 1 s and after 2 more.
const LONG: [u64; 3] = [SECOND * 3 / 2, SECOND * 3 / 2, 3 * SECOND];
const MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];

pub(super) struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    ends: Vec<End>,
    pub(super) link: Link,
    gateways: [IpAddr; 2],
}

/// One side of a TCP connection.
struct End {
    socket: SocketHandle,
    /// Not known to a server before the first bytes.
    conversation: Option<usize>,
    is_server: bool,
    sent: usize,
    read: usize,
    writes_at: u64,
    trial: Trial,
    listens: Option<u16>,
}

/// How often an end has sent what it is to send first.
#[derive(Debug, Default)]
struct Trial {
    /// All before this is acknowledged.
    from: u32,
    times: u32,
    /// When it has sent anything.
    sent_at: u64,
}

/// Frames that wait in the card.
#[derive(Debug, Default)]
pub(super) struct Link {
    received: VecDeque<Vec<u8>>,
    pub(super) sent: VecDeque<Vec<u8>>,
}

impl Host {
    pub(super) fn new(addresses: [&str; 2], gateways: [&str; 2], seed: u64) -> Self {
        let mut link = Link::default();
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.update_ip_addrs(|known| {
            for (address, prefix) in addresses.into_iter().zip([24, 64]) {
                let address: IpAddr = address.parse().unwrap();
                known.push(IpCidr::new(address.into(), prefix)).unwrap();
            }
        });
        let gateways = gateways.map(|gateway| -> IpAddr { gateway.parse().unwrap() });
        for gateway in gateways {
            let routes = interface.routes_mut();
            match gateway {
                IpAddr::V4(v4) => drop(routes.add_default_ipv4_route(v4).unwrap()),
                IpAddr::V6(v6) => drop(routes.add_default_ipv6_route(v6).unwrap()),
            }
        }
        // smoltcp waits for a second before it asks again, and takes what it was told meanwhile.
        let [v4, v6] = gateways.map(|gateway| gateway.to_string());
        link.received.push_back(build::arp_reply(NODE_MAC, &v4, MAC, addresses[0]));
        link.received.push_back(build::neighbour_advertisement(NODE_MAC, &v6, MAC, addresses[1]));
        Self { interface, sockets: SocketSet::new(Vec::new()), ends: Vec::new(), link, gateways }
    }

    pub(super) fn listen(&mut self, port: u16) {
        self.add(None, true, Some(port));
    }

    pub(super) fn connect(&mut self, conversation: usize, from: u16, to: SocketAddr) {
        let at = self.add(Some(conversation), false, None);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.ends[at].socket);
        let to = (to.ip(), to.port());
        socket.connect(self.interface.context(), to, from).unwrap();
    }

    fn add(&mut self, conversation: Option<usize>, is_server: bool, listens: Option<u16>) -> usize {
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(RECEIVED), buffer(SENT));
        // Now and then smoltcp has something to send and no timer; more often than its timer is set, and
        // nothing that was lost is sent again.
        socket.set_keep_alive(Some(Duration::from_secs(1)));
        if let Some(port) = listens {
            socket.listen(port).unwrap();
        }
        let socket = self.sockets.add(socket);
        let (sent, read, writes_at, trial) = (0, 0, 0, Trial::default());
        self.ends.push(End {
            socket,
            conversation,
            is_server,
            sent,
            read,
            writes_at,
            trial,
            listens,
        });
        self.ends.len() - 1
    }

    /// A TCP segment comes in; who sent it on the link does not matter.
    pub(super) fn receive(&mut self, mut frame: Vec<u8>) {
        if let Some((seen, Kind::Tcp { acknowledgement, .. })) = tcp_of(&frame) {
            let ends = [seen.key.destination.port, seen.key.source.port];
            let hearer = self.ends.iter_mut().find(|end| end.ports(&self.sockets) == Some(ends));
            let is_more = |from: u32| acknowledgement.wrapping_sub(from).cast_signed() > 0;
            if let Some(end) = hearer.filter(|end| end.trial.from == 0 || is_more(end.trial.from)) {
                end.trial = Trial { from: acknowledgement, times: 0, ..end.trial };
            }
        }
        EthernetFrame::new_unchecked(&mut frame).set_dst_addr(EthernetAddress(MAC));
        self.link.received.push_back(frame);
    }

    /// Lets stack and programs run until nothing more happens at this time.
    pub(super) fn run(
        &mut self,
        now: u64,
        plans: &[Plan],
        courses: &mut [Course],
    ) -> Result<(), String> {
        for _ in 0..32 {
            let instant = Instant::from_micros((now / 1_000).cast_signed());
            let changed = self.interface.poll(instant, &mut self.link, &mut self.sockets);
            let mut acted = false;
            for end in &mut self.ends {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(end.socket);
                acted |= end.act(now, socket, plans, courses)?;
            }
            self.answer_neighbours();
            if changed == PollResult::None && !acted && self.link.received.is_empty() {
                break;
            }
        }
        self.note_sent(now);
        Ok(())
    }

    /// Notes what ends try.
    fn note_sent(&mut self, now: u64) {
        for frame in &self.link.sent {
            let Some((seen, Kind::Tcp { sequence, length, .. })) = tcp_of(frame) else { continue };
            let ends = [seen.key.source.port, seen.key.destination.port];
            let sender = self.ends.iter_mut().find(|end| end.ports(&self.sockets) == Some(ends));
            // A probe is one byte.
            if let Some(end) = sender.filter(|_| length > 1) {
                end.trial.sent_at = now;
                end.trial.times += u32::from(sequence == end.trial.from);
            }
        }
    }

    /// Whether an end of the conversation has something to send and does not: now and then smoltcp has no
    /// timer for what is on its way, or a very long one.
    pub(super) fn is_stuck(&self, now: u64, conversation: usize) -> bool {
        let mut ends = self.ends.iter().filter(|end| end.conversation == Some(conversation));
        ends.any(|end| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(end.socket);
            let Trial { times, sent_at, .. } = end.trial;
            let long = LONG.get(times as usize);
            socket.send_queue() > 0 && long.is_some_and(|long| sent_at + long < now)
        })
    }

    /// When `run` is wanted next.
    pub(super) fn next(&mut self, now: u64) -> Option<u64> {
        let instant = Instant::from_micros((now / 1_000).cast_signed());
        let stack = self.interface.poll_at(instant, &self.sockets);
        let stack = stack.map(|at| (at.total_micros().cast_unsigned()) * 1_000);
        let ends = self.ends.iter().filter(|end| end.writes_at > now).map(|end| end.writes_at);
        stack.into_iter().chain(ends).min()
    }

    pub(super) fn describe(&self, conversation: usize) -> String {
        let ends = self.ends.iter().filter(|end| end.conversation == Some(conversation));
        let told = ends.map(|end| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(end.socket);
            format!("{} sent {} read {}", socket.state(), end.sent, end.read)
        });
        told.collect::<Vec<_>>().join(", ")
    }

    /// The node is the neighbour of everybody. What is neither TCP nor a question for it is not sent.
    fn answer_neighbours(&mut self) {
        let (gateways, received) = (self.gateways, &mut self.link.received);
        self.link.sent.retain(|frame| match EthernetFrame::new_unchecked(frame).ethertype() {
            EthernetProtocol::Arp => {
                let gateway = gateways[0].to_string();
                let host = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&frame[28..32]).unwrap());
                received.push_back(build::arp_reply(NODE_MAC, &gateway, MAC, &host.to_string()));
                false
            }
            EthernetProtocol::Ipv6 if frame[20] == 58 => {
                if frame[54] == 135 {
                    let gateway = gateways[1].to_string();
                    let host =
                        std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
                    let to = host.to_string();
                    let answer = build::neighbour_advertisement(NODE_MAC, &gateway, MAC, &to);
                    received.push_back(answer);
                }
                false
            }
            EthernetProtocol::Ipv4 => frame[23] == 6,
            EthernetProtocol::Ipv6 => frame[20] == 6,
            EthernetProtocol::Unknown(_) => false,
        });
    }
}

fn tcp_of(frame: &[u8]) -> Option<(Seen, Kind)> {
    let seen = read_packet(&frame[14..])?;
    let kind = seen.kind;
    Some((seen, kind))
}

impl End {
    fn ports(&self, sockets: &SocketSet<'_>) -> Option<[u16; 2]> {
        let socket = sockets.get::<tcp::Socket<'_>>(self.socket);
        Some([socket.local_endpoint()?.port, socket.remote_endpoint()?.port])
    }

    fn act(
        &mut self,
        now: u64,
        socket: &mut tcp::Socket<'_>,
        plans: &[Plan],
        courses: &mut [Course],
    ) -> Result<bool, String> {
        let before = (self.sent, self.read, socket.state());
        if let (Some(port), tcp::State::Closed) = (self.listens, socket.state())
            && self.conversation.is_none()
        {
            socket.listen(port).unwrap();
        }
        self.read(now, socket, plans, courses)?;
        let Some(number) = self.conversation else {
            return Ok(before.1 != self.read);
        };
        let (plan, course) = (&plans[number], &mut courses[number]);
        let [out, back] = self.sides(plan);
        if socket.may_send() && !self.is_server {
            course.connected.get_or_insert(now);
        }
        self.write(now, socket, number, plan, out);
        let has_all = self.sent == out && self.read == back;
        let is_acknowledged = socket.send_queue() == 0;
        if has_all && is_acknowledged {
            course.done[usize::from(self.is_server)].get_or_insert(now);
        }
        let peer_closed = socket.state() == tcp::State::CloseWait && !socket.can_recv();
        if has_all && (!self.is_server || peer_closed) && socket.may_send() {
            socket.close();
        }
        if matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait) {
            course.closed[usize::from(self.is_server)].get_or_insert(now);
        }
        let is_gone = socket.state() == tcp::State::Closed;
        if is_gone && course.done[usize::from(self.is_server)].is_none() && course.failed.is_none()
        {
            let who = if self.is_server {
                "the server's end was reset"
            } else {
                "the client's end was reset"
            };
            course.failed = Some((now, who));
        }
        Ok(before != (self.sent, self.read, socket.state()))
    }

    fn sides(&self, plan: &Plan) -> [usize; 2] {
        let [up, down] = plan.bytes;
        if self.is_server { [down, up] } else { [up, down] }
    }

    fn read(
        &mut self,
        now: u64,
        socket: &mut tcp::Socket<'_>,
        plans: &[Plan],
        courses: &mut [Course],
    ) -> Result<(), String> {
        while socket.can_recv() {
            let mut bytes = [0; 4_096];
            let count = socket.recv_slice(&mut bytes).unwrap();
            let mut bytes = &bytes[..count];
            if self.conversation.is_none() {
                // A connection's first segment carries its number whole.
                let Some((number, rest)) = bytes.split_first_chunk::<4>() else {
                    return Err("a first segment was cut".to_owned());
                };
                let number = u32::from_be_bytes(*number) as usize;
                if number >= plans.len() {
                    return Err(format!("a server was told of conversation {number}"));
                }
                self.check_peer(socket, &plans[number], number)?;
                (self.conversation, self.read, bytes) = (Some(number), 4, rest);
            }
            let number = self.conversation.unwrap_or_default();
            for (place, got) in bytes.iter().enumerate() {
                let expected = byte(number, !self.is_server, self.read + place);
                if *got != expected {
                    return Err(format!(
                        "conversation {number}: byte {} is wrong",
                        self.read + place
                    ));
                }
            }
            self.read += bytes.len();
            courses[number].last = now;
        }
        Ok(())
    }

    /// A client's address is kept where nothing translates it.
    fn check_peer(
        &self,
        socket: &tcp::Socket<'_>,
        plan: &Plan,
        number: usize,
    ) -> Result<(), String> {
        let client = plan.kind.endpoints(super::world::client_port(number)).client;
        let Some(remote) = socket.remote_endpoint() else { return Ok(()) };
        let remote = SocketAddr::new(remote.addr.into(), remote.port);
        if plan.kind.path != super::conversation::Path::Outbound && remote != client {
            return Err(format!("conversation {number}: the server sees {remote}, not {client}"));
        }
        Ok(())
    }

    fn write(
        &mut self,
        now: u64,
        socket: &mut tcp::Socket<'_>,
        number: usize,
        plan: &Plan,
        out: usize,
    ) {
        // A server answers in proportion to what it has read.
        let due = if self.is_server {
            let [up, down] = plan.bytes;
            (self.read.saturating_sub(4) * down).checked_div(up - 4).unwrap_or(0)
        } else if now >= self.writes_at {
            out
        } else {
            return;
        };
        let end =
            due.min(out).min(self.sent + plan.chunk.max(4) * if self.is_server { 8 } else { 1 });
        if !socket.can_send() || self.sent >= end {
            return;
        }
        let mut bytes: Vec<u8> =
            (self.sent..end).map(|place| byte(number, self.is_server, place)).collect();
        if !self.is_server && self.sent == 0 {
            bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
        }
        self.sent += socket.send_slice(&bytes).unwrap();
        if !self.is_server {
            self.writes_at = now + plan.gap;
        }
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = 14 + 1_300;
        capabilities.medium = Medium::Ethernet;
        capabilities
    }
}

#[derive(Debug)]
pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

#[derive(Debug)]
pub(super) struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}
