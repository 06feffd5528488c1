#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use tokio::sync::mpsc;

use super::*;

/// A guard that is a shell script.
struct Script {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn script(body: &str) -> Script {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guard");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Script { _directory: directory, path }
}

/// Supervises a script and gives its reports one by one.
fn supervise(script: &Script) -> (mpsc::Receiver<GuardState>, tokio::task::JoinHandle<()>) {
    let guard = Guard::new(&script.path, vec!["eth1".into()], &[4480, 4481], false);
    guard.check_program().unwrap();
    let (sender, receiver) = mpsc::channel(64);
    let report = move |state| sender.try_send(state).unwrap();
    (receiver, tokio::spawn(guard.supervise(report)))
}

/// The next report, leaving out that a script just written is still "busy" in another test's fork.
async fn next(reports: &mut mpsc::Receiver<GuardState>) -> GuardState {
    loop {
        let state = reports.recv().await.unwrap();
        if !matches!(&state, GuardState::Missing(why) if why.contains("Text file busy")) {
            return state;
        }
    }
}

fn is_missing(state: &GuardState, with: &str) -> bool {
    matches!(state, GuardState::Missing(why) if why.contains(with))
}

#[tokio::test]
async fn it_is_told_what_to_guard_and_its_word_opens() {
    let script = script(
        r#"read line
if [ "$line" = '{"configure":{"data_devices":["eth1"],"tcp_ports":[4480,4481],"azure_services":false}}' ]
then echo '{"event":"installed"}'; else echo '{"event":"error","message":"other"}'; fi
read line"#,
    );
    let (mut reports, task) = supervise(&script);
    assert_eq!(next(&mut reports).await, GuardState::InPlace);
    task.abort();
}

#[tokio::test]
async fn lost_rules_are_told_at_once_and_so_is_their_return() {
    let script = script(
        r#"read line; echo '{"event":"installed"}'; echo '{"event":"lost"}'; echo '{"event":"installed"}'; read line"#,
    );
    let (mut reports, task) = supervise(&script);
    assert_eq!(next(&mut reports).await, GuardState::InPlace);
    assert!(is_missing(&next(&mut reports).await, "changed by somebody"));
    assert_eq!(next(&mut reports).await, GuardState::InPlace);
    task.abort();
}

#[tokio::test]
async fn a_guard_that_ends_is_missing_and_started_again() {
    let script = script(r#"read line; echo '{"event":"installed"}'; exit 3"#);
    let (mut reports, task) = supervise(&script);
    for _ in 0..2 {
        assert_eq!(next(&mut reports).await, GuardState::InPlace);
        let state = next(&mut reports).await;
        assert!(is_missing(&state, "exit status: 3"), "{state:?}");
    }
    task.abort();
}

#[tokio::test]
async fn nonsense_is_no_guard() {
    let script = script("read line; echo hello; read line");
    let (mut reports, task) = supervise(&script);
    assert!(is_missing(&next(&mut reports).await, "not understood"));
    task.abort();
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let guard = Guard::new(Path::new("/nowhere/gabion-guard"), vec![], &[], false);
    let message = guard.check_program().unwrap_err().to_string();
    assert!(
        message.contains("/nowhere/gabion-guard") && message.contains("guard.program"),
        "{message}"
    );
}
