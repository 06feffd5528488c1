//! The real program: killed at any moment, stopped in order, with a full disk, with a bad start.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use gabion_api::v1::StatusRequest;
use tonic::Code;

use crate::rig::{Client, Home, commit, connect, in_force, policy};

/// A process of this test's own, which does not outlive it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(home: &Home, settings: &str) -> Command {
    let file = home.path("gabiond.toml");
    std::fs::write(&file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gabiond"));
    command.arg("--config").arg(file).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

async fn start(home: &Home, settings: &str) -> (Daemon, Client) {
    let mut daemon = command(home, settings).stderr(Stdio::null()).spawn().unwrap();
    let socket = home.socket();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(daemon.try_wait().unwrap().is_none(), "it has ended");
        tokio::task::yield_now().await;
    }
    let client = connect(&socket).await;
    (Daemon(daemon), client)
}

fn run(home: &Home, settings: &str) -> Output {
    command(home, settings).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_comes_back_with_the_old_policy_or_the_new() {
    let home = Home::new();
    let settings = home.settings("");
    let mut last = 0;
    for round in 0..6_u16 {
        let (mut daemon, mut client) = start(&home, &settings).await;
        if last > 0 {
            let found = in_force(&mut client).await;
            let number = found.revision.unwrap().number;
            // The last commit was answered; one more may have been under way.
            assert!(number == last || number == last + 1, "{number} after {last}");
            assert_eq!(found.policy, policy(u16::try_from(number).unwrap()));
            last = number;
        }
        // Commits without end; once one was answered, the end comes some way into one of the next.
        let (answered, first) = tokio::sync::oneshot::channel();
        let committing = tokio::spawn(async move {
            let mut answered = Some(answered);
            loop {
                let text = policy(u16::try_from(last + 1).unwrap());
                match commit(&mut client, &text, last).await {
                    Ok(done) => last = done.revision.unwrap().number,
                    Err(_) => return last,
                }
                if let Some(answered) = answered.take() {
                    answered.send(()).unwrap();
                }
            }
        });
        first.await.unwrap();
        let moment = std::time::Duration::from_micros(700 * u64::from(round));
        tokio::time::sleep(moment).await;
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
        last = committing.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_termination_signal_ends_it_in_order() {
    let home = Home::new();
    let (mut daemon, mut client) = start(&home, &home.settings("")).await;
    client.status(StatusRequest {}).await.unwrap();
    let process = rustix::process::Pid::from_child(&daemon.0);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());
    assert!(!home.socket().exists(), "the socket is gone");
    let log = std::fs::read_to_string(home.path("events.jsonl")).unwrap();
    assert!(log.contains("the node is stopping"), "{log}");
}

#[test]
fn a_bad_start_says_one_clear_line() {
    let home = Home::new();
    for (settings, word) in [
        (home.settings("").replace("eth2", "eth1"), "gabiond.toml:7: interfaces.int"),
        (home.settings("").replace("null", "userspace"), "guard.program /usr/libexec"),
        (home.settings("").replace("/events.jsonl", "/no/where"), "log.json"),
    ] {
        let output = run(&home, &settings);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("gabiond: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(word), "{text}");
    }
}

/// A file system of a few pages, where there is the right to mount one.
struct TinyDisk<'a>(&'a Path);

impl<'a> TinyDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=32k", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(path).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// The kernel's answer to such a write ends a process that does not say otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_the_size_of_files_refuses_the_commit_and_ends_nothing() {
    let home = Home::new();
    let (daemon, mut client) = start(&home, &home.settings("")).await;
    commit(&mut client, &policy(1), 0).await.unwrap();
    let process = rustix::process::Pid::from_child(&daemon.0);
    let nothing = rustix::process::Rlimit { current: Some(0), maximum: None };
    let resource = rustix::process::Resource::Fsize;
    rustix::process::prlimit(Some(process), resource, nothing).unwrap();
    let refused = commit(&mut client, &policy(2), 1).await.unwrap_err();
    assert!(refused.message().contains("nothing was changed"), "{refused}");
    assert_eq!(in_force(&mut client).await.policy, policy(1));
    rustix::process::prlimit(
        Some(process),
        resource,
        rustix::process::Rlimit { current: None, maximum: None },
    )
    .unwrap();
    commit(&mut client, &policy(3), 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_the_commit_and_changes_nothing() {
    let home = Home::new();
    let state = home.path("tiny");
    let Some(disk) = TinyDisk::mount(&state) else {
        eprintln!("left out: no right to mount a file system");
        return;
    };
    let settings = home.settings_in(&state, "");
    let (daemon, mut client) = start(&home, &settings).await;
    commit(&mut client, &policy(1), 0).await.unwrap();
    let large = policy(2) + &"# filling\n".repeat(4_000);
    let full = commit(&mut client, &large, 1).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    assert!(full.message().contains("nothing was changed"), "{full}");
    assert_eq!(in_force(&mut client).await.policy, policy(1));
    commit(&mut client, &policy(3), 1).await.unwrap();
    drop(daemon);
    let (daemon, mut client) = start(&home, &settings).await;
    assert_eq!(in_force(&mut client).await.policy, policy(3));
    drop(daemon);
    drop(disk);
}
