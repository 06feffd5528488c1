//! A VM whose primary interface is a data interface asks Azure's own services by it.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::DENY_ALL;
use crate::restart::world::{NODE, OUTSIDE, World};

const SERVICE: &str = "168.63.129.16";
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers on the wire server's port, on one that is none of Azure's, and as a resolver.
fn serve(world: &World) {
    world.ip(OUTSIDE, &format!("address add {SERVICE}/32 dev lo"));
    world.ip(NODE, &format!("route add {SERVICE} via 192.0.2.2 dev ext"));
    let bound = world.spawn(OUTSIDE, || {
        let listen = |port| TcpListener::bind((SERVICE, port)).unwrap();
        (listen(80), listen(22), UdpSocket::bind((SERVICE, 53)).unwrap())
    });
    let (wire, other, resolver) = bound.join().unwrap();
    // They end with the test's process.
    for listener in [wire, other] {
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream.map(|mut stream| std::io::Write::write_all(&mut stream, b"here")));
            }
        });
    }
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = resolver.recv_from(&mut bytes) {
            let _ = resolver.send_to(&bytes[..length], from);
        }
    });
}

fn is_served(world: &World, port: u16, patience: Duration) -> bool {
    let asked = world.spawn(NODE, move || {
        let service = SocketAddr::new(SERVICE.parse().unwrap(), port);
        let Ok(mut stream) = TcpStream::connect_timeout(&service, patience) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).is_ok_and(|_| said == "here")
    });
    asked.join().unwrap()
}

fn resolves(world: &World) -> bool {
    let asked = world.spawn(NODE, || {
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"name", (SERVICE, 53)).unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    });
    asked.join().unwrap()
}

#[test]
fn the_host_asks_azures_services_over_a_data_interface_under_any_policy() {
    let Some(world) = World::build() else { return };
    serve(&world);
    for datapath in ["userspace", "ebpf"] {
        let settings = |azure| {
            format!(
                "datapath = \"{datapath}\"\n[limits]\nflows = 4096\n[azure]\nhost_services = {azure}\nscheduled_events = false"
            )
        };
        let daemon = world.start(&settings(true));
        world.push(DENY_ALL);
        world.await_ready();
        assert!(is_served(&world, 80, PATIENCE), "{}", world.log());
        assert!(resolves(&world), "{}", world.log());
        // What the service has been asked before is proof that silence is no accident.
        assert!(!is_served(&world, 22, Duration::from_millis(500)));
        daemon.stop();
        let daemon = world.start(&settings(false));
        world.await_ready();
        assert!(!is_served(&world, 80, Duration::from_millis(500)));
        daemon.stop();
    }
}
