//! Stands in for Azure's metadata service (IMDS), as Azure documents it: Scheduled Events 2020-07-01 and
//! `/metadata/instance`, with the ways in which it fails.
//!
//! It checks requests as strictly as the real one: without `Metadata: true`, without a version, or through a proxy
//! they are refused. Whoever awaits something asks again; nothing here sleeps but what plays a slow service.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

/// One event, as a document shows it.
#[derive(Debug, Clone)]
pub struct Planned {
    pub id: String,
    pub kind: String,
    pub resources: Vec<String>,
    pub not_before: OffsetDateTime,
    pub has_begun: bool,
}

/// How a request is answered instead.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Such as 404, 410, 429 and 500; with `Retry-After` in seconds.
    Status(u16, Option<u32>),
    /// The connection is kept for so long, and then closed without a word.
    Silence(Duration),
    /// Right, but late, as the first answer is.
    Late(Duration),
    /// Not the document that was promised.
    Body(String),
    /// The answer ends in the middle.
    Half,
    /// Without the time of day.
    NoDate,
    /// Right, in many chunks.
    Chunks,
    /// Chunks without end, each at once or so long after the last.
    Endless(Duration),
    /// Somebody else is said to know.
    Redirect(SocketAddr),
}

/// The service; it ends with this.
#[derive(Debug)]
pub struct Metadata {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    vm: String,
    incarnation: i64,
    /// Whether the incarnation stands still while events change.
    is_stuck: bool,
    events: Vec<Planned>,
    faults: VecDeque<Fault>,
    /// What acknowledgements are answered with instead.
    refusals: VecDeque<u16>,
    acknowledged: Vec<String>,
    documents: u64,
    /// What its clock is ahead of this machine's, in seconds.
    ahead: i64,
}

impl Metadata {
    /// Serves on the loopback, for a VM of this name.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(vm: &str) -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), vm)
    }

    /// Serves there, in the network namespace of the thread that calls.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start_at(at: SocketAddr, vm: &str) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(at)?);
        let address = listener.local_addr()?;
        let state = State { vm: vm.to_owned(), incarnation: 1, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (accepts, shared) = (Arc::clone(&listener), Arc::clone(&state));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepts.accept() {
                let state = Arc::clone(&shared);
                // A client that goes away is nobody's failure.
                std::thread::spawn(move || drop(answer(stream, &state)));
            }
        });
        Ok(Self { listener, address, state })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        held(&self.state)
    }

    /// Plans an event for these VMs, so many seconds from now.
    pub fn plan(&self, id: &str, kind: &str, resources: &[&str], seconds: u64) {
        let mut state = self.lock();
        let not_before = OffsetDateTime::now_utc() + Duration::from_secs(seconds);
        let resources = resources.iter().map(|&one| one.to_owned()).collect();
        let (id, kind) = (id.to_owned(), kind.to_owned());
        state.events.push(Planned { id, kind, resources, not_before, has_begun: false });
        state.change();
    }

    pub fn begin(&self, id: &str) {
        let mut state = self.lock();
        for event in state.events.iter_mut().filter(|event| event.id == id) {
            event.has_begun = true;
        }
        state.change();
    }

    /// It is over, or cancelled: nobody is told which.
    pub fn end(&self, id: &str) {
        let mut state = self.lock();
        state.events.retain(|event| event.id != id);
        state.change();
    }

    /// Answers the next requests for documents so.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Answers the next acknowledgements with these statuses.
    pub fn refuse(&self, statuses: impl IntoIterator<Item = u16>) {
        self.lock().refusals.extend(statuses);
    }

    /// The incarnation stands still from now on.
    pub fn stick(&self) {
        self.lock().is_stuck = true;
    }

    /// Its clock is so many seconds ahead of this machine's.
    pub fn set_ahead(&self, seconds: i64) {
        self.lock().ahead = seconds;
    }

    pub fn acknowledged(&self) -> Vec<String> {
        self.lock().acknowledged.clone()
    }

    /// How often a document was asked for.
    pub fn documents(&self) -> u64 {
        self.lock().documents
    }

    /// How many faults are still to come.
    pub fn faults_left(&self) -> usize {
        let state = self.lock();
        state.faults.len() + state.refusals.len()
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        // Whoever accepts is told: there is nothing to accept any more.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Read);
    }
}

impl State {
    fn change(&mut self) {
        self.incarnation += i64::from(!self.is_stuck);
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + time::Duration::seconds(self.ahead)
    }

    fn document(&self) -> Value {
        let ahead = time::Duration::seconds(self.ahead);
        let events = self.events.iter().map(|event| {
            let status = if event.has_begun { "Started" } else { "Scheduled" };
            let not_before =
                if event.has_begun { String::new() } else { date(event.not_before + ahead) };
            json!({
                "EventId": event.id,
                "EventStatus": status,
                "EventType": event.kind,
                "ResourceType": "VirtualMachine",
                "Resources": event.resources,
                "NotBefore": not_before,
                "Description": "Host server is undergoing maintenance.",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            })
        });
        json!({ "DocumentIncarnation": self.incarnation, "Events": events.collect::<Vec<_>>() })
    }

    fn acknowledge(&mut self, body: &[u8]) -> u16 {
        if let Some(status) = self.refusals.pop_front() {
            return status;
        }
        let requests = serde_json::from_slice::<Value>(body).ok();
        let ids = requests.as_ref().and_then(|body| body["StartRequests"].as_array()).map(|all| {
            all.iter().filter_map(|one| one["EventId"].as_str()).map(ToOwned::to_owned).collect()
        });
        let ids: Vec<String> = ids.unwrap_or_default();
        let is_known = |id: &String| self.events.iter().any(|event| event.id == *id);
        if ids.is_empty() || !ids.iter().all(is_known) {
            return 400;
        }
        self.acknowledged.extend(ids);
        200
    }
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let headers: Vec<_> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Self { line: lines[0].clone(), headers, body })
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// As the real one refuses what may have been redirected, or knows no version.
    fn is_proper(&self) -> bool {
        self.header("metadata") == Some("true")
            && self.header("x-forwarded-for").is_none()
            && self.line.contains("?api-version=20")
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let request = Request::read(&stream)?;
    let (method, path) = request.line.split_once(' ').unwrap_or_default();
    let path = path.split(['?', ' ']).next().unwrap_or_default();
    if !request.is_proper() {
        return write(&mut stream, state, 400, "", "{\"error\":\"Bad request\"}", true);
    }
    match (method, path) {
        ("GET", "/metadata/instance") => {
            let vm = held(state).vm.clone();
            let body = json!({ "compute": { "name": vm, "location": "westeurope" } }).to_string();
            write(&mut stream, state, 200, "", &body, true)
        }
        ("GET", "/metadata/scheduledevents") => answer_document(&mut stream, state),
        ("POST", "/metadata/scheduledevents") => {
            let status = held(state).acknowledge(&request.body);
            write(&mut stream, state, status, "", "", true)
        }
        _ => write(&mut stream, state, 404, "", "", true),
    }
}

fn answer_document(stream: &mut TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let (fault, body) = {
        let mut state = held(state);
        state.documents += 1;
        (state.faults.pop_front(), state.document().to_string())
    };
    match fault {
        None => write(stream, state, 200, "", &body, true),
        Some(Fault::NoDate) => write(stream, state, 200, "", &body, false),
        Some(Fault::Body(body)) => write(stream, state, 200, "", &body, true),
        Some(Fault::Status(status, retry)) => {
            let retry = retry.map_or_else(String::new, |s| format!("Retry-After: {s}\r\n"));
            write(stream, state, status, &retry, "{\"error\":\"...\"}", true)
        }
        Some(Fault::Silence(time)) => {
            std::thread::sleep(time);
            Ok(())
        }
        Some(Fault::Late(time)) => {
            std::thread::sleep(time);
            write(stream, state, 200, "", &body, true)
        }
        Some(Fault::Chunks) => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for chunk in body.as_bytes().chunks(7) {
                write!(stream, "{:x}\r\n", chunk.len())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")
        }
        Some(Fault::Endless(pause)) => {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            // Until nobody listens.
            loop {
                stream.write_all(b"8\r\n        \r\n")?;
                std::thread::sleep(pause);
            }
        }
        Some(Fault::Redirect(to)) => {
            let location = format!("Location: http://{to}/metadata/scheduledevents\r\n");
            write(stream, state, 307, &location, &body, true)
        }
        Some(Fault::Half) => {
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", &body[..9])
        }
    }
}

fn write(
    stream: &mut TcpStream,
    state: &Mutex<State>,
    status: u16,
    more: &str,
    body: &str,
    has_date: bool,
) -> io::Result<()> {
    let now = date(held(state).now());
    let date = if has_date { format!("Date: {now}\r\n") } else { String::new() };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\n{date}{more}Content-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn held(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn date(time: OffsetDateTime) -> String {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time.format(&format).expect("the format has nothing that a time lacks")
}
