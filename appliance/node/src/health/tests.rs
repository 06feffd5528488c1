#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::*;

struct Rig {
    readiness: Arc<Readiness>,
    http: u16,
    tcp: u16,
    task: tokio::task::JoinHandle<()>,
    devices: watch::Sender<Devices>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ports that nobody listens on, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn config(http: u16, tcp: u16) -> config::Config {
    let text = format!(
        "[interfaces]\next = \"gab-none\"\n[health]\nport = {http}\ntcp_port = {tcp}\ntimeout_ms = 30000\nconnections = 2\n"
    );
    config::Config::parse(&text, "t").unwrap()
}

fn rig() -> Rig {
    let [http, tcp] = free_ports();
    let readiness = Arc::new(Readiness::new(Duration::from_secs(60)));
    let health = Health::new(&config(http, tcp), Arc::clone(&readiness));
    health.check_ports().unwrap();
    let (devices, receiver) = watch::channel(Devices::from([("lo".to_owned(), 1)]));
    let task = tokio::spawn(health.serve(receiver));
    Rig { readiness, http, tcp, task, devices }
}

fn make_ready(readiness: &Readiness) {
    readiness.policy_in_force();
    readiness.guard_in_place(true);
    readiness.network(Ok(()));
    readiness.datapath(Ok(()));
    readiness.beat();
}

/// The listener starts in a task of its own: the first connection may come too early.
async fn connect(host: &str, port: u16) -> TcpStream {
    loop {
        match TcpStream::connect((host, port)).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn ask(host: &str, port: u16, request: &str) -> String {
    let mut stream = connect(host, port).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Covers: 3.20
#[tokio::test]
async fn http_says_503_with_the_reasons_and_200_when_ready_in_both_families() {
    let rig = rig();
    for host in ["127.0.0.1", "::1"] {
        let answer = ask(host, rig.http, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.contains("\nno-policy: "), "{answer}");
        assert!(answer.contains("\nguard-missing: "), "{answer}");
    }
    make_ready(&rig.readiness);
    for host in ["127.0.0.1", "::1"] {
        let answer = ask(host, rig.http, "GET /any/path HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let head = ask(host, rig.http, "HEAD / HTTP/1.0\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }
    rig.readiness.limit(gabion_engine::WorkerId(0), gabion_engine::DropReason::HalfOpenLimit, true);
    let answer = ask("127.0.0.1", rig.http, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\ndegraded: half-open-limit reached\n"), "{answer}");
    rig.readiness.limit(
        gabion_engine::WorkerId(0),
        gabion_engine::DropReason::HalfOpenLimit,
        false,
    );
    rig.readiness.stop();
    let answer = ask("127.0.0.1", rig.http, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(!answer.contains("degraded"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\nstopping: "), "{answer}");
}

/// Covers: 3.20
#[tokio::test]
async fn tcp_mode_refuses_until_ready_and_again_when_not() {
    let rig = rig();
    ask("127.0.0.1", rig.http, "GET / HTTP/1.1\r\n\r\n").await;
    let refused = TcpStream::connect(("127.0.0.1", rig.tcp)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    make_ready(&rig.readiness);
    let mut probe = connect("127.0.0.1", rig.tcp).await;
    probe.shutdown().await.unwrap();
    assert_eq!(probe.read(&mut [0]).await.unwrap(), 0, "closed in order, not reset");
    rig.readiness.guard_in_place(false);
    while TcpStream::connect(("127.0.0.1", rig.tcp)).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_keep_others_out() {
    let rig = rig();
    let mut oldest = connect("127.0.0.1", rig.http).await;
    let mut newer = connect("127.0.0.1", rig.http).await;
    // Both places are taken, and their deadline is far away.
    let answer = ask("127.0.0.1", rig.http, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(oldest.read(&mut [0]).await.unwrap(), 0, "the oldest made room");
    newer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    newer.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn nonsense_is_answered_and_cut_off() {
    let rig = rig();
    let answer = ask("127.0.0.1", rig.http, "\x16\x03\x01\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = ask("127.0.0.1", rig.http, &"A".repeat(9000)).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer =
        ask("127.0.0.1", rig.http, "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn listeners_go_with_their_device() {
    let rig = rig();
    ask("127.0.0.1", rig.http, "GET / HTTP/1.1\r\n\r\n").await;
    rig.devices.send(Devices::new()).unwrap();
    while TcpStream::connect(("127.0.0.1", rig.http)).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let readiness = Arc::new(Readiness::new(Duration::from_secs(1)));
    let [free] = free_ports();
    let error = Health::new(&config(free, port), readiness).check_ports().unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(&port.to_string()) && message.contains("health.tcp_port"),
        "{message}"
    );
}
