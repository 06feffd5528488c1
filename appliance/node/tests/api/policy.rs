//! Policies: checked, committed, refused, rolled back, explained, watched.

use gabion_api::v1::{
    CommitRequest, CountersRequest, ExplainRequest, FlowFilter, GetRequest, ListFlowsRequest,
    ListRevisionsRequest, RollbackRequest, StatusRequest, ValidateRequest, WatchRequest, event,
};
use prost::Message as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::rig::{Home, commit, in_force, policy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_says_what_is_wrong_and_where() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    let good = client.validate(ValidateRequest { policy: policy(443) }).await.unwrap().into_inner();
    assert!(good.valid, "{:?}", good.diagnostics);
    assert_eq!((good.rules, good.digest.len()), (1, 64));
    let text = policy(443).replace("action: allow", "action: alow");
    let bad = client.validate(ValidateRequest { policy: text }).await.unwrap().into_inner();
    assert!(!bad.valid);
    assert_eq!(bad.diagnostics[0].line, 8, "{:?}", bad.diagnostics);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_comes_into_force_and_survives_a_restart() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.reasons.contains(&"no-policy".to_owned()), "{status:?}");
    let nothing = client.get(GetRequest { revision: None }).await.unwrap_err();
    assert_eq!(nothing.code(), Code::NotFound);

    let first = commit(&mut client, &policy(443), 0).await.unwrap().revision.unwrap();
    let user = rustix::process::getuid().as_raw();
    assert_eq!((first.number, first.author.clone()), (1, format!("local:{user}")));
    assert!(first.in_force);
    commit(&mut client, &policy(80), 1).await.unwrap();
    let now = in_force(&mut client).await;
    assert_eq!((now.policy, now.revision.unwrap().number), (policy(80), 2));
    node.stop().await;

    let node = home.start().await;
    let mut client = home.client().await;
    let now = in_force(&mut client).await;
    assert_eq!((now.policy, now.revision.unwrap().number), (policy(80), 2));
    assert!(!now.canonical.is_empty());
    let old = client.get(GetRequest { revision: Some(1) }).await.unwrap().into_inner();
    assert_eq!(old.policy, policy(443));
    let counters = client.counters(CountersRequest {}).await.unwrap().into_inner();
    assert!(counters.rules.iter().any(|rule| rule.name == "web-in"), "it is in force");
    node.stop().await;
}

/// Covers: 3.20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_changes_nothing() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    commit(&mut client, &policy(443), 0).await.unwrap();

    let stale = commit(&mut client, &policy(80), 0).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    assert!(stale.message().contains("revision 1 is in force, not 0"), "{stale}");

    let bad = policy(80).replace("service: tcp/80", "servce: tcp/80");
    let bad = commit(&mut client, &bad, 1).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(bad.message().starts_with("policy:8:"), "{bad}");
    let details = gabion_api::v1::ValidateResponse::decode(bad.details()).unwrap();
    assert_eq!(details.diagnostics[0].line, 8);

    let untrue = policy(80)
        + "tests:\n  - { name: closed, packet: 'tcp 198.51.100.9:1 -> 10.1.0.10:80 in outside', expect: drop }\n";
    let untrue = commit(&mut client, &untrue, 1).await.unwrap_err();
    assert_eq!(untrue.code(), Code::FailedPrecondition);
    assert!(untrue.message().contains("the test `closed` fails"), "{untrue}");
    let details = gabion_api::v1::ValidateResponse::decode(untrue.details()).unwrap();
    assert!(details.diagnostics[0].message.contains("expected drop, got allow"), "{details:?}");

    let elsewhere = policy(80).replace("[ext]", "[dmz]");
    let elsewhere = commit(&mut client, &elsewhere, 1).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(elsewhere.message().contains("interface dmz"), "{elsewhere}");

    let gone = RollbackRequest { revision: 9, expected_revision: 1, comment: String::new() };
    assert_eq!(client.rollback(gone).await.unwrap_err().code(), Code::NotFound);

    let now = in_force(&mut client).await;
    assert_eq!((now.policy, now.revision.unwrap().number), (policy(443), 1));
    node.stop().await;
    let log = std::fs::read_to_string(home.path("events.jsonl")).unwrap();
    let audit: Vec<&str> =
        log.lines().filter(|line| line.contains(r#""event":"policy""#)).collect();
    assert_eq!(audit.iter().filter(|line| line.contains("refused: ")).count(), 4, "{audit:#?}");
    assert_eq!(audit.iter().filter(|line| line.contains(r#""result":"done""#)).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_commits_on_one_revision_one_is_stale() {
    let home = Home::new();
    let node = home.start().await;
    let (mut one, mut two) = (home.client().await, home.client().await);
    let (text_one, text_two) = (policy(1), policy(2));
    let (one, two) = tokio::join!(commit(&mut one, &text_one, 0), commit(&mut two, &text_two, 0));
    let refused = one.as_ref().err().or(two.as_ref().err()).unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(one.is_ok() != two.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comment_that_would_spoil_logs_and_lists_is_refused() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    for comment in ["x".repeat(1_025), "two\nlines".to_owned(), "\u{1b}[31mred".to_owned()] {
        let request = CommitRequest { policy: policy(443), expected_revision: 0, comment };
        let refused = client.commit(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("comment"), "{refused}");
    }
    commit(&mut client, &policy(443), 0).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_commits_an_old_text_again() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    commit(&mut client, &policy(443), 0).await.unwrap();
    commit(&mut client, &policy(80), 1).await.unwrap();
    let request = RollbackRequest { revision: 1, expected_revision: 2, comment: String::new() };
    let revision = client.rollback(request).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((revision.number, revision.comment.as_str()), (3, "rollback to revision 1"));
    assert_eq!(in_force(&mut client).await.policy, policy(443));
    let list = client.list_revisions(ListRevisionsRequest { limit: 2 }).await.unwrap().into_inner();
    let numbers: Vec<_> = list.revisions.iter().map(|one| (one.number, one.in_force)).collect();
    assert_eq!(numbers, [(3, true), (2, false)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_the_rule_and_its_line() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    let packet = "tcp 198.51.100.9:40000 -> 10.1.0.10:443 in outside";
    let ask = |packet: &str, policy: String| ExplainRequest { packet: packet.to_owned(), policy };
    let none = client.explain(ask(packet, String::new())).await.unwrap_err();
    assert_eq!(none.code(), Code::FailedPrecondition);
    let told = client.explain(ask(packet, policy(443))).await.unwrap().into_inner();
    assert_eq!((told.verdict.as_str(), told.rule.as_str(), told.rule_line), ("allow", "web-in", 8));
    assert!(told.rule_source.starts_with("- { name: web-in,"), "{}", told.rule_source);
    commit(&mut client, &policy(443), 0).await.unwrap();
    // Without a guard of the host nothing passes this node, whatever its rules say.
    let told = client.explain(ask(packet, String::new())).await.unwrap().into_inner();
    assert_eq!((told.verdict.as_str(), told.reason.as_str()), ("drop", "not-ready"), "{told:?}");
    let nonsense = client.explain(ask("tcp", String::new())).await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_sees_the_commit_and_ends_when_the_node_stops() {
    let home = Home::new();
    let node = home.start_with("watchers = 1\n").await;
    let mut client = home.client().await;
    let kinds = vec![event::Kind::Policy.into()];
    let mut events = client.watch(WatchRequest { kinds }).await.unwrap().into_inner();
    let second = client.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(second.code(), Code::ResourceExhausted);
    commit(&mut client, &policy(443), 0).await.unwrap();
    let event = events.message().await.unwrap().unwrap();
    assert_eq!((event.kind(), event.revision), (event::Kind::Policy, 1));
    assert!(event.message.contains("policy commit by local:"), "{}", event.message);
    node.stop().await;
    assert!(events.message().await.is_ok_and(|end| end.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_are_listed_and_filters_are_checked() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    let mut flows = client.list_flows(ListFlowsRequest::default()).await.unwrap().into_inner();
    assert!(flows.message().await.unwrap().is_none());
    let filter = Some(FlowFilter { source: "nowhere".into(), ..FlowFilter::default() });
    let error = client.list_flows(ListFlowsRequest { filter, limit: 0 }).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_readiness() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    commit(&mut client, &policy(443), 0).await.unwrap();
    let mut health = HealthClient::new(crate::rig::channel(&home.socket()).await);
    // The node has no datapath, which is in the way until somebody says otherwise.
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(!status.ready, "{status:?}");
    node.readiness().network(Ok(()));
    let service = "gabion.v1.Firewall".to_owned();
    let mut states = health.watch(HealthCheckRequest { service }).await.unwrap().into_inner();
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
    while states.message().await.unwrap().unwrap().status() != serving {}
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.ready, "{status:?}");
    node.stop().await;
}
