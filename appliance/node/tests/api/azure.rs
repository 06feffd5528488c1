//! A node and a metadata service that plans events for it, fails, and is told that they may begin.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gabion_api::v1::{StatusRequest, StatusResponse};
use gabion_fake_imds::{Fault, Metadata};
use gabiond::azure::metadata::Metadata as Asked;
use gabiond::config::Config;
use gabiond::node::{Node, Prepared};

use crate::rig::{Client, Home};

const VM: &str = "fw-1";
/// Long enough for a busy machine: whoever waits so long waits for nothing.
const LONG: Duration = Duration::from_secs(120);

/// A node of its own, which asks this service.
async fn start(home: &Home, metadata: SocketAddr) -> (Node, Client) {
    let azure = format!("[azure]\nscheduled_events = true\nmetadata = \"{metadata}\"\n");
    let config = Config::parse(&home.settings(&azure), "gabiond.toml").unwrap();
    let node = Prepared::new(config).unwrap().start().await.unwrap();
    (node, home.client().await)
}

async fn status(client: &mut Client) -> StatusResponse {
    client.status(StatusRequest {}).await.unwrap().into_inner()
}

/// Asks until it is so.
async fn until(client: &mut Client, is_so: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
    let asking = async {
        loop {
            let status = status(client).await;
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, asking).await.expect("it comes to be so")
}

fn drains(status: &StatusResponse) -> bool {
    status.reasons.iter().any(|reason| reason == "draining")
}

async fn until_served(metadata: &Metadata, is_so: impl Fn(&Metadata) -> bool) {
    let asking = async {
        while !is_so(metadata) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, asking).await.expect("it comes to be so");
}

fn log(home: &Home) -> String {
    std::fs::read_to_string(Path::new(&home.path("events.jsonl"))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_alone_drains_before_a_reboot_and_serves_after_it_is_cancelled() {
    let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
    let (node, mut client) = start(&home, metadata.address()).await;
    metadata.plan("soon", "Reboot", &[VM], 40);
    let draining = until(&mut client, drains).await;
    assert!(draining.planned[0].contains("Reboot of this VM, not before"), "{draining:?}");
    assert!(draining.planned[0].contains("Host server is undergoing"), "{draining:?}");
    metadata.end("soon");
    let after = until(&mut client, |status| !drains(status)).await;
    assert!(after.planned.is_empty(), "{after:?}");
    assert!(metadata.acknowledged().is_empty());
    node.stop().await;
    let log = log(&home);
    for told in [
        "scheduled events name this VM fw-1",
        "scheduled event: Reboot of this VM",
        "a scheduled event has this node drain",
        "over or cancelled: Reboot of this VM",
        "no scheduled event has this node drain any more",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_near_is_acknowledged_again_until_it_is_taken() {
    let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
    metadata.refuse([500, 429]);
    let (node, mut client) = start(&home, metadata.address()).await;
    metadata.plan("near", "Preempt", &["FW-1"], 2);
    until_served(&metadata, |metadata| metadata.acknowledged() == ["near"]).await;
    let told = until(&mut client, |status| {
        status.planned.iter().any(|planned| planned.ends_with("acknowledged"))
    });
    assert!(drains(&told.await));
    metadata.begin("near");
    let begun = until(&mut client, |status| status.planned[0].contains("begun")).await;
    assert!(drains(&begun));
    node.stop().await;
    assert_eq!(log(&home).matches("near is not acknowledged: it answered").count(), 2);
}

/// The first answer is late, others are missing, broken or refused: what is planned comes through all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_fails_is_asked_until_it_answers() {
    let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
    metadata.fail([
        Fault::Late(Duration::from_millis(300)),
        Fault::Status(429, Some(1)),
        Fault::Body("<html>".to_owned()),
        Fault::NoDate,
    ]);
    let (node, mut client) = start(&home, metadata.address()).await;
    until_served(&metadata, |metadata| metadata.faults_left() == 0).await;
    metadata.plan("a", "Redeploy", &[VM], 30);
    until(&mut client, drains).await;
    node.stop().await;
    assert!(log(&home).contains("it answered 429"), "{}", log(&home));
    assert_eq!(log(&home).matches("the metadata service answers").count(), 2);
}

#[tokio::test]
async fn each_way_to_fail_has_its_name() {
    let service = Metadata::start(VM).unwrap();
    let asked = Asked { address: service.address() };
    assert_eq!(asked.name(LONG).await.unwrap(), VM);
    let is_whole = "{\"DocumentIncarnation\":5,\"Events\":[]}".to_owned();
    for (fault, label) in [
        (Fault::Status(400, None), "refused"),
        (Fault::Status(404, None), "refused"),
        (Fault::Status(410, None), "refused"),
        (Fault::Status(429, Some(3)), "refused"),
        (Fault::Status(500, None), "refused"),
        (Fault::Status(302, None), "refused"),
        (Fault::Body("<html>".to_owned()), "unreadable"),
        (Fault::Body("[1]".to_owned()), "unreadable"),
        (Fault::Body("{\"DocumentIncarnation\":5}".to_owned()), "unreadable"),
        (Fault::Body(" ".repeat(300 << 10)), "unreadable"),
        (Fault::Half, "unreachable"),
        (Fault::Silence(Duration::ZERO), "unreachable"),
    ] {
        service.fail([fault.clone()]);
        let error = asked.events(LONG).await.unwrap_err();
        assert_eq!(error.label(), label, "{fault:?}: {error}");
        let retry = matches!(fault, Fault::Status(429, _)).then_some(Duration::from_secs(3));
        assert_eq!(error.retry_after(), retry, "{error}");
    }
    service.fail([Fault::Late(LONG)]);
    let late = asked.events(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(late.to_string(), "no answer within 50ms");
    service.fail([Fault::Body(is_whole)]);
    assert_eq!(asked.events(LONG).await.unwrap().incarnation, 5);
    // What it does not know it refuses.
    assert_eq!(asked.start("none", LONG).await.unwrap_err().label(), "refused");
    drop(service);
    let nobody = asked.name(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(nobody.label(), "unreachable");
}

/// However an answer comes: it is bounded in size and time, and nobody else is asked.
#[tokio::test]
async fn a_service_that_lies_about_its_answer_is_left() {
    let (service, other) = (Metadata::start(VM).unwrap(), Metadata::start("fw-2").unwrap());
    service.plan("a", "Reboot", &[VM], 900);
    let asked = Asked { address: service.address() };
    service.fail([Fault::Chunks]);
    assert_eq!(asked.events(LONG).await.unwrap().events[0].id, "a");
    service.fail([Fault::Endless(Duration::ZERO)]);
    let endless = asked.events(LONG).await.unwrap_err();
    assert_eq!(endless.label(), "unreadable", "{endless}");
    service.fail([Fault::Endless(Duration::from_millis(5))]);
    let slow = asked.events(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(slow.to_string(), "no answer within 100ms");
    service.fail([Fault::Redirect(other.address())]);
    let redirected = asked.events(LONG).await.unwrap_err();
    assert_eq!(redirected.to_string(), "it answered 307 Temporary Redirect");
    assert_eq!(other.documents(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_the_middle_of_a_drain_do_not_end_it() {
    let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
    let (node, mut client) = start(&home, metadata.address()).await;
    metadata.plan("a", "Reboot", &[VM], 45);
    until(&mut client, drains).await;
    metadata.fail([Fault::Status(500, None), Fault::Body("[]".to_owned())]);
    until_served(&metadata, |metadata| metadata.faults_left() == 0).await;
    assert!(drains(&status(&mut client).await));
    node.stop().await;
}

/// Only differences to the service's own clock count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_hours_off_changes_nothing() {
    for ahead in [-7_200, 7_200] {
        let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
        metadata.set_ahead(ahead);
        let (node, mut client) = start(&home, metadata.address()).await;
        metadata.plan("later", "Reboot", &[VM], 3_000);
        let planned = until(&mut client, |status| !status.planned.is_empty()).await;
        assert!(!drains(&planned), "{ahead}: {planned:?}");
        metadata.plan("soon", "Reboot", &[VM], 30);
        until(&mut client, drains).await;
        assert!(metadata.acknowledged().is_empty());
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incarnation_that_stands_still_hides_nothing() {
    let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
    metadata.stick();
    let (node, mut client) = start(&home, metadata.address()).await;
    metadata.plan("a", "Terminate", &[VM], 30);
    until(&mut client, drains).await;
    metadata.end("a");
    until(&mut client, |status| !drains(status)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_others_and_freezes_are_told_and_nothing_is_done() {
    let (home, metadata) = (Home::new(), Metadata::start(VM).unwrap());
    let (node, mut client) = start(&home, metadata.address()).await;
    metadata.plan("theirs", "Reboot", &["fw-2"], 10);
    metadata.plan("ours", "Freeze", &[VM, "fw-2"], 10);
    let planned = until(&mut client, |status| status.planned.len() == 2).await;
    assert!(planned.planned[0].starts_with("Freeze of this VM and fw-2"), "{planned:?}");
    assert!(planned.planned[1].starts_with("Reboot of fw-2"), "{planned:?}");
    assert!(!drains(&planned));
    node.stop().await;
    assert!(metadata.acknowledged().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_where_it_is_not_wanted() {
    let (home, metadata) = (Arc::new(Home::new()), Metadata::start(VM).unwrap());
    let azure =
        format!("[azure]\nscheduled_events = false\nmetadata = \"{}\"\n", metadata.address());
    let config = Config::parse(&home.settings(&azure), "gabiond.toml").unwrap();
    assert_eq!(config.azure.scheduled_events, None);
    let node = Prepared::new(config).unwrap().start().await.unwrap();
    let mut client = home.client().await;
    assert!(status(&mut client).await.planned.is_empty());
    node.stop().await;
    assert_eq!(metadata.documents(), 0);
}
