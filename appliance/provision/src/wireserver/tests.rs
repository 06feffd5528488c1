#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::*;

const GOAL: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
<GoalState xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><Version>2012-11-30</Version>\
<Incarnation>3</Incarnation><Machine><ExpectedState>Started</ExpectedState></Machine>\
<Container><ContainerId>c-1</ContainerId><RoleInstanceList><RoleInstance>\
<InstanceId>i-1._fw</InstanceId><State>Started</State></RoleInstance></RoleInstanceList></Container></GoalState>";

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nServer: x\r\n\r\n{body}", body.len())
}

/// A wire server that gives these answers, one a connection; the requests it got.
fn serve(answers: Vec<String>) -> (WireServer, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = WireServer::new(listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            requests.push(request(&mut stream));
            let _ = stream.write_all(answer.as_bytes());
        }
        requests
    });
    (server, thread)
}

fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    let length = |text: &str| {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        Some(body.len() >= length.map_or(0, |length| length.parse().unwrap()))
    };
    while length(&text) != Some(true) {
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn a_report_names_the_container_of_the_goal_state() {
    let (server, thread) = serve(vec![ok(GOAL), ok("")]);
    server.report(&Outcome::Ready).unwrap();
    let requests = thread.join().unwrap();
    assert!(requests[0].starts_with("GET /machine?comp=goalstate HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[1].starts_with("POST /machine?comp=health HTTP/1.1\r\n"), "{requests:?}");
    for request in &requests {
        assert!(request.contains("\r\nx-ms-version: 2012-11-30\r\n"), "{request}");
    }
    for part in [
        "<GoalStateIncarnation>3</",
        "<ContainerId>c-1</",
        "<InstanceId>i-1._fw</",
        "<State>Ready</State></Health>",
    ] {
        assert!(requests[1].contains(part), "{part} is not in {}", requests[1]);
    }
}

#[test]
fn a_failure_is_told_with_its_reason() {
    let goal = read_goal(GOAL).unwrap();
    let text = health(&goal, &Outcome::Failed("a < b & \"c\"\u{1}".to_owned()));
    assert!(
        text.contains("<State>NotReady</State><Details><SubStatus>ProvisioningFailed</SubStatus>")
    );
    let document = Document::parse(&text).unwrap();
    let described = document.descendants().find(|node| node.tag_name().name() == "Description");
    assert_eq!(described.unwrap().text(), Some("a < b & \"c\""));
}

#[test]
fn what_the_server_says_wrong_is_an_error_and_no_report() {
    for (answer, word) in [
        ("HTTP/1.1 500 No\r\n\r\n".to_owned(), "status 500"),
        ("HTTP/1.1 429 Slow\r\n\r\n".to_owned(), "status 429"),
        ("HTTP/1.1 403 No\r\n\r\n".to_owned(), "refuses: status 403"),
        (String::new(), "no header"),
        ("SSH-2.0-x\r\n\r\n".to_owned(), "no status"),
        (ok("<GoalState/>"), "without Incarnation"),
        (ok(&GOAL.replace("c-1", " ")), "without ContainerId"),
        (ok(&GOAL[..200]), "not understood"),
        (ok(GOAL).replace("Content-Length: ", "Content-Length: 9"), "cut off"),
    ] {
        let (server, thread) = serve(vec![answer]);
        let error = server.report(&Outcome::Ready).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        thread.join().unwrap();
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = WireServer::new(nobody).report(&Outcome::Ready).unwrap_err();
    assert!(matches!(error, ReportError::NoAnswer { .. }), "{error}");
}

#[test]
fn chunks_are_put_together() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
    assert_eq!(read_answer(chunked.as_bytes()).unwrap(), "abcde");
    let cut = &chunked.as_bytes()[..chunked.len() - 8];
    assert!(read_answer(cut).is_err());
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..60_usize) {
        let _ = read_answer(&bytes);
        let mut answer = ok(GOAL).into_bytes();
        answer.splice(at..at, bytes);
        if let Ok(body) = read_answer(&answer) {
            let _ = read_goal(&body);
        }
    }
}
