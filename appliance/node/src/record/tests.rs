#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

fn log(path: &Path) -> Log {
    Log { journald: false, json: Some(path.to_owned()), queue: 256, level: tracing::Level::INFO }
}

fn reader() -> Reader {
    Reader { clock: Clock, generations: Generations::default(), interfaces: vec![] }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Covers: CC-AUD2
#[test]
fn records_are_json_lines_and_a_moved_file_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let (recorder, thread) = Recorder::start(&log(&path), reader()).unwrap();
    recorder.node("one");
    recorder.reopen();
    recorder.stop();
    thread.join().unwrap();
    let one = lines(&path);
    assert_eq!(one[0]["event"], "node");
    assert_eq!(one[0]["message"], "one");
    OffsetDateTime::parse(one[0]["at"].as_str().unwrap(), &Rfc3339).unwrap();

    let (recorder, thread) = Recorder::start(&log(&path), reader()).unwrap();
    let mut watch = recorder.watch();
    recorder.node("two");
    while watch.blocking_recv().unwrap().what != (What::Node { message: "two".into() }) {}
    std::fs::rename(&path, directory.path().join("old")).unwrap();
    recorder.reopen();
    recorder.policy(PolicyChange {
        action: "commit",
        author: "local:0".into(),
        comment: String::new(),
        old_revision: 1,
        old_digest: "a".into(),
        new_revision: None,
        new_digest: "b".into(),
        result: "refused: stale".into(),
    });
    recorder.stop();
    thread.join().unwrap();
    assert_eq!(lines(&directory.path().join("old")).len(), 2);
    let new = lines(&path);
    assert_eq!(
        (new.len(), &new[0]["event"], &new[0]["result"]),
        (1, &"policy".into(), &"refused: stale".into())
    );
}

#[test]
fn a_full_queue_loses_records_and_says_how_many() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let (recorder, thread) = Recorder::start(&log(&path), reader()).unwrap();
    recorder.lost.store(41, Ordering::Relaxed);
    recorder.node("x");
    recorder.stop();
    thread.join().unwrap();
    let lost: Vec<_> = lines(&path).into_iter().filter(|line| line["event"] == "lost").collect();
    assert_eq!(lost[0]["records"], 41);
}

#[test]
fn a_log_that_cannot_be_opened_is_named() {
    let error = Recorder::start(&log(Path::new("/nowhere/events.jsonl")), reader()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/events.jsonl"), "{error}");
}
