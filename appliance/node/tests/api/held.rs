//! A node that is held, and a node's first policy.

use gabion_api::v1::StatusRequest;
use gabiond::config::Config;
use gabiond::node::{Node, Prepared};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Home, commit, in_force, policy};

const REASON: &str = "first-boot data: line 3: no such key";

async fn start(settings: &str) -> Node {
    let config = Config::parse(settings, "gabiond.toml").unwrap();
    Prepared::new(config).unwrap().start().await.unwrap()
}

async fn probe(port: u16) -> String {
    let mut stream = loop {
        match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Without interfaces nobody has given a device, so this needs no privilege although the datapath moves packets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_node_is_never_ready_and_says_why() {
    let home = Home::new();
    let settings = home
        .settings("")
        .replace("datapath = \"null\"\n", &format!("hold = \"{REASON}\"\n"))
        .replace("ext = \"eth1\"\nint = \"eth2\"\n", "")
        .replace("[node]\n", &format!("[node]\npin_dir = \"{}\"\n", home.path("pins").display()));
    let node = start(&settings).await;
    let mut client = home.client().await;
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(!status.ready);
    assert_eq!((status.reasons[0].as_str(), status.hold.as_str()), ("held", REASON));
    let answer = probe(home.health[0]).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(&format!("\nheld: {REASON}\n")), "{answer}");
    let refused = commit(&mut client, &policy(443), 0).await.unwrap_err();
    assert!(refused.message().contains("interface"), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_policy_comes_into_force_once() {
    let home = Home::new();
    let path = home.path("first.yaml");
    std::fs::write(&path, policy(443)).unwrap();
    let first = format!("[node]\nfirst_policy = \"{}\"\n", path.display());
    let settings = home.settings("").replace("[node]\n", &first);
    let node = start(&settings).await;
    let mut client = home.client().await;
    let now = in_force(&mut client).await;
    let revision = now.revision.unwrap();
    assert_eq!((now.policy, revision.number, &*revision.author), (policy(443), 1, "first-boot"));
    commit(&mut client, &policy(80), 1).await.unwrap();
    node.stop().await;

    let node = start(&settings).await;
    let now = in_force(&mut home.client().await).await;
    assert_eq!((now.policy, now.revision.unwrap().number), (policy(80), 2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_policy_that_is_wrong_is_none_and_held_nodes_take_none() {
    let home = Home::new();
    let path = home.path("first.yaml");
    let held = format!("hold = \"{REASON}\"\n");
    for (text, more) in [("zones: {}\n".to_owned(), ""), (policy(443), held.as_str())] {
        std::fs::write(&path, text).unwrap();
        let first = format!("[node]\nfirst_policy = \"{}\"\n{more}", path.display());
        let settings = home.settings("").replace("[node]\n", &first);
        let node = start(&settings).await;
        let status = home.client().await.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.ready, status.revision), (false, 0));
        node.stop().await;
    }
}
