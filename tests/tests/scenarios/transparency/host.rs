//! An endpoint: smoltcp's TCP, which knows nothing of ours, and a program that sends, reads and closes.

use std::collections::VecDeque;
use std::net::IpAddr;

use gabion_engine::build;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr};

/// What the program does.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Bytes that it sends, the byte at each place of its own.
    pub sends: usize,
    /// Bytes that it reads at a time, and how long it waits in between, in milliseconds.
    pub reads: usize,
    pub pause: u64,
    /// Closes when it has sent everything, and not only when the other has closed.
    pub closes_first: bool,
    pub buffer: usize,
    pub nagle: bool,
    pub keep_alive: Option<Duration>,
    pub timestamps: bool,
    pub mtu: usize,
}

pub(super) struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    pub(super) link: Link,
    address: IpAddr,
    mac: [u8; 6],
    program: Program,
    sent: usize,
    read: usize,
    reads_at: u64,
}

/// Frames that wait in the card.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: VecDeque<Vec<u8>>,
    mtu: usize,
}

/// The link address of the node's side.
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Host {
    pub(super) fn new(address: IpAddr, seed: u64, program: &Program) -> Self {
        let mac = [2, 0, 0, 0, 9, u8::from(address.is_ipv6())];
        let mut link = Link { mtu: program.mtu, ..Link::default() };
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address.into(), prefix)).unwrap();
        });
        match gateway(address) {
            IpAddr::V4(v4) => drop(interface.routes_mut().add_default_ipv4_route(v4).unwrap()),
            IpAddr::V6(v6) => drop(interface.routes_mut().add_default_ipv6_route(v6).unwrap()),
        }
        let buffer = || tcp::SocketBuffer::new(vec![0; program.buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(program.nagle);
        socket.set_keep_alive(program.keep_alive);
        if program.timestamps {
            socket.set_tsval_generator(Some(|| 1));
        }
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let program = program.clone();
        Self {
            interface,
            sockets,
            socket,
            link,
            address,
            mac,
            program,
            sent: 0,
            read: 0,
            reads_at: 0,
        }
    }

    pub(super) fn listen(&mut self, port: u16) {
        self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).listen(port).unwrap();
    }

    pub(super) fn connect(&mut self, to: (IpAddr, u16), port: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        socket.connect(self.interface.context(), to, port).unwrap();
    }

    /// A frame comes in; who sent it on the link does not matter.
    pub(super) fn receive(&mut self, mut frame: Vec<u8>) {
        EthernetFrame::new_unchecked(&mut frame).set_dst_addr(EthernetAddress(self.mac));
        self.link.received.push_back(frame);
    }

    /// Lets stack and program run until nothing more happens at this time; then there are frames in
    /// `link.sent`.
    pub(super) fn run(&mut self, now: u64) {
        for _ in 0..64 {
            let instant = Instant::from_millis(now.cast_signed());
            let changed = self.interface.poll(instant, &mut self.link, &mut self.sockets);
            let acted = self.act(now);
            self.answer_neighbours();
            if changed == smoltcp::iface::PollResult::None
                && !acted
                && self.link.received.is_empty()
            {
                return;
            }
        }
    }

    /// When `run` is wanted next.
    pub(super) fn next(&mut self, now: u64) -> Option<u64> {
        let instant = Instant::from_millis(now.cast_signed());
        let stack = self.interface.poll_at(instant, &self.sockets);
        let stack = stack.map(|at| at.total_millis().cast_unsigned());
        let program = (self.reads_at > now).then_some(self.reads_at);
        stack.into_iter().chain(program).min()
    }

    /// All was sent, all of `bytes` was read, and both ends of the stream are known here.
    pub(super) fn is_done(&self, bytes: usize) -> bool {
        matches!(self.state(), tcp::State::Closed | tcp::State::TimeWait) && self.has_all(bytes)
    }

    /// The same, but the last acknowledgement may be missing: it is sent again only for as long as the
    /// other side waits in TIME-WAIT, which is shorter than the pauses between attempts can be.
    pub(super) fn may_be_done(&self, bytes: usize) -> bool {
        self.is_done(bytes) || self.state() == tcp::State::LastAck && self.has_all(bytes)
    }

    fn has_all(&self, bytes: usize) -> bool {
        self.sent == self.program.sends && self.read == bytes
    }

    fn state(&self) -> tcp::State {
        self.sockets.get::<tcp::Socket<'_>>(self.socket).state()
    }

    pub(super) fn describe(&self) -> String {
        let state = self.state();
        format!("{state}, sent {} of {}, read {}", self.sent, self.program.sends, self.read)
    }

    fn act(&mut self, now: u64) -> bool {
        let Self { sockets, socket, program, sent, read, reads_at, .. } = self;
        let socket = sockets.get_mut::<tcp::Socket<'_>>(*socket);
        let before = (*sent, *read, socket.state());
        if socket.can_send() && *sent < program.sends {
            let rest = (*sent..program.sends).map(byte).take(4_096).collect::<Vec<u8>>();
            *sent += socket.send_slice(&rest).unwrap();
        }
        // smoltcp forgets at the end of TIME-WAIT what was not read by then.
        let hurries = matches!(socket.state(), tcp::State::TimeWait | tcp::State::Closing);
        if socket.can_recv() && (now >= *reads_at || hurries) {
            let mut bytes = vec![0; if hurries { 1 << 20 } else { program.reads }];
            let count = socket.recv_slice(&mut bytes).unwrap();
            for (place, got) in bytes[..count].iter().enumerate() {
                assert_eq!(*got, byte(*read + place), "the byte at {}", *read + place);
            }
            *read += count;
            *reads_at = now + program.pause;
        }
        let has_opened = socket.may_send();
        let peer_closed = socket.state() == tcp::State::CloseWait && !socket.can_recv();
        if has_opened && *sent == program.sends && (program.closes_first || peer_closed) {
            socket.close();
        }
        before != (*sent, *read, socket.state())
    }

    /// The node is the neighbour of everybody.
    fn answer_neighbours(&mut self) {
        let (address, gateway) = (self.address.to_string(), gateway(self.address).to_string());
        let (mac, received) = (self.mac, &mut self.link.received);
        self.link.sent.retain(|frame| match EthernetFrame::new_unchecked(frame).ethertype() {
            EthernetProtocol::Arp => {
                received.push_back(build::arp_reply(NODE_MAC, &gateway, mac, &address));
                false
            }
            EthernetProtocol::Ipv6 if frame[20] == 58 => {
                if frame[54] == 135 {
                    let answer = build::neighbour_advertisement(NODE_MAC, &gateway, mac, &address);
                    received.push_back(answer);
                }
                false
            }
            EthernetProtocol::Ipv4 if frame[23] != 6 => false,
            EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => true,
        });
    }
}

fn gateway(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 1])
        }
        IpAddr::V6(_) => "fe80::1".parse().unwrap(),
    }
}

/// What stands at a place of a stream.
fn byte(place: usize) -> u8 {
    (place as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]
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
        capabilities.max_transmission_unit = 14 + self.mtu;
        capabilities.medium = Medium::Ethernet;
        capabilities
    }
}

pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub(super) struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}
