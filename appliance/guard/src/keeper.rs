//! Keeps the rules in place as the daemon wants them.
//!
//! | thread | owns | sends |
//! |---|---|---|
//! | main | the rules, the connection to nf_tables, standard output | |
//! | stdin | standard input | lines, then its end |
//! | changes | the multicast socket | who touched our table |
//!
//! Both send over one channel of [`EVENTS`] places and wait when it is full: standard input then
//! waits in its pipe, and what the multicast socket can not hold is reported as missed, upon which
//! the rules are read. Nothing is cancelled: the process ends with the end of standard input and
//! leaves the rules in place, as it does when it is killed.

use std::io::{self, BufRead, Read as _, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use crate::configuration::Configuration;
use crate::encode;
use crate::message::Message;
use crate::netfilter::{Changes, Netfilter, NetfilterError};
use crate::protocol::{Event, Request};
use crate::rules;
use crate::snapshot::{Difference, Snapshot};

/// Serves the daemon until it closes standard input.
///
/// # Errors
/// [`RunError`]; the rules stay as they are.
pub(crate) fn run(output: impl Write) -> Result<(), RunError> {
    let netfilter = Netfilter::open()?;
    let (sender, inputs) = mpsc::sync_channel(EVENTS);
    let lines = sender.clone();
    thread::spawn(move || read_lines(io::stdin().lock(), &lines));
    let (opened, listening) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Opened here, since the socket can not change threads.
        let changes = Changes::open();
        let (told, changes) = match changes {
            Ok(changes) => (Ok(()), Some(changes)),
            Err(error) => (Err(error), None),
        };
        if opened.send(told).is_ok()
            && let Some(changes) = changes
        {
            read_changes(changes, &sender);
        }
    });
    listening.recv().expect("the thread speaks before it ends")?;
    Keeper { netfilter, output, wanted: None, in_place: false }.serve(&inputs)
}

/// Takes the table away.
///
/// # Errors
/// [`NetfilterError`].
pub(crate) fn remove() -> Result<(), NetfilterError> {
    Netfilter::open()?.apply(&encode::removal())
}

/// What `show` tells.
pub(crate) struct Report {
    pub(crate) found: Snapshot,
    /// What is guarded, if the rules are the guard's and complete.
    pub(crate) verdict: Result<Configuration, Difference>,
}

/// Reads the rules and says whether they are the ones that guard the devices that they name.
///
/// # Errors
/// [`NetfilterError`].
pub(crate) fn show() -> Result<Report, NetfilterError> {
    let found = Netfilter::open()?.read()?;
    let empty = Snapshot::default().difference(&found);
    let verdict = match (empty, rules::configuration(found.labels())) {
        (Some(Difference::NoTable), _) => Err(Difference::NoTable),
        (_, Err(_)) => Err(Difference::NoChain(rules::PREROUTING.to_owned())),
        (_, Ok(configuration)) => match Wanted::new(&configuration).snapshot.difference(&found) {
            Some(difference) => Err(difference),
            None => Ok(configuration),
        },
    };
    Ok(Report { found, verdict })
}

/// Why the guard ends before its daemon does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    #[error("a line of standard input is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// Lines and changes that wait; the daemon sends one line in a long while.
const EVENTS: usize = 16;
/// Enough for the most devices and ports that a configuration may name.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// How often the rules are put in place again before the one who takes them away is reported.
const INSTALL_ATTEMPTS: u32 = 3;
/// When to try again to put rules in place that could not be.
const RETRY: Duration = Duration::from_secs(1);

/// All that can happen to the guard.
enum Input {
    Line(String),
    End,
    /// By this port, or by somebody.
    Touched(Option<u32>),
    Failed(RunError),
}

fn read_lines(mut input: impl BufRead, to: &SyncSender<Input>) {
    loop {
        let mut line = String::new();
        let read = (&mut input).take(LINE_BYTES_MAX).read_line(&mut line);
        let next = match read {
            Ok(0) => Input::End,
            Ok(_) if line.ends_with('\n') => Input::Line(line),
            // The daemon died while it wrote, or has no measure.
            Ok(n) if (n as u64) < LINE_BYTES_MAX => Input::End,
            Ok(_) => Input::Failed(RunError::LineTooLong),
            Err(error) => Input::Failed(RunError::Input(error)),
        };
        let last = !matches!(next, Input::Line(_));
        if to.send(next).is_err() || last {
            return;
        }
    }
}

fn read_changes(mut changes: Changes, to: &SyncSender<Input>) {
    loop {
        let next = match changes.next() {
            Ok(port) => Input::Touched(port),
            Err(error) => Input::Failed(error.into()),
        };
        let last = matches!(next, Input::Failed(_));
        if to.send(next).is_err() || last {
            return;
        }
    }
}

/// What is sent, and what must be read back then.
struct Wanted {
    request: encode::Request,
    held: encode::Request,
    snapshot: Snapshot,
}

impl Wanted {
    fn new(configuration: &Configuration) -> Self {
        let chains = rules::chains(configuration);
        let request = encode::replacement(&chains);
        let snapshot = Snapshot::gather(request.pages().flat_map(Message::all));
        Self { request, held: encode::held(&chains), snapshot }
    }
}

struct Keeper<W> {
    netfilter: Netfilter,
    output: W,
    wanted: Option<Wanted>,
    /// Whether the last that the daemon heard is that the rules are in place.
    in_place: bool,
}

impl<W: Write> Keeper<W> {
    fn serve(&mut self, inputs: &Receiver<Input>) -> Result<(), RunError> {
        loop {
            let input = if self.wanted.is_some() && !self.in_place {
                inputs.recv_timeout(RETRY)
            } else {
                inputs.recv().map_err(RecvTimeoutError::from)
            };
            match input {
                Ok(Input::Line(line)) => match Request::parse(&line) {
                    Ok(Request::Configure(configuration)) => {
                        self.wanted = Some(Wanted::new(&configuration));
                        self.install()?;
                    }
                    Err(error) => self.say(&Event::Error { message: error.to_string() })?,
                },
                Ok(Input::Touched(by)) => self.check(by)?,
                Err(RecvTimeoutError::Timeout) => self.install()?,
                Ok(Input::Failed(error)) => return Err(error),
                Ok(Input::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Puts the rules in place at once if somebody else has changed them.
    fn check(&mut self, by: Option<u32>) -> Result<(), RunError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        if !self.in_place || by == Some(self.netfilter.port()) {
            return Ok(());
        }
        if matches!(self.netfilter.read(), Ok(found) if wanted.snapshot.difference(&found).is_none())
        {
            return Ok(());
        }
        // First things first: the daemon hears of it when the gap is closed.
        let installed = self.try_install();
        self.in_place = false;
        self.say(&Event::Lost)?;
        self.tell(installed)
    }

    /// Puts both tables in place. Nobody else can touch the held one: it is put there only once, and
    /// first, so that where another guard holds it the table that anybody can change stays as it is.
    fn install(&mut self) -> Result<(), RunError> {
        let installed = self.hold().and_then(|()| self.try_install());
        self.tell(installed)
    }

    fn hold(&mut self) -> Result<(), InstallError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        Ok(self.netfilter.apply(&wanted.held)?)
    }

    fn tell(&mut self, installed: Result<(), InstallError>) -> Result<(), RunError> {
        self.in_place = installed.is_ok();
        match installed {
            Ok(()) => self.say(&Event::Installed),
            Err(error) => {
                // What is in the socket belongs to the request that failed.
                self.netfilter = Netfilter::open()?;
                self.say(&Event::Error { message: error.to_string() })
            }
        }
    }

    fn try_install(&mut self) -> Result<(), InstallError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let mut attempt = 1;
        loop {
            self.netfilter.apply(&wanted.request)?;
            match wanted.snapshot.difference(&self.netfilter.read()?) {
                None => return Ok(()),
                Some(difference) if attempt == INSTALL_ATTEMPTS => {
                    return Err(InstallError::Different(difference));
                }
                Some(_) => attempt += 1,
            }
        }
    }

    fn say(&mut self, event: &Event) -> Result<(), RunError> {
        serde_json::to_writer(&mut self.output, event)
            .map_err(io::Error::from)
            .and_then(|()| self.output.write_all(b"\n"))
            .and_then(|()| self.output.flush())
            .map_err(RunError::Output)
    }
}

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{}", with_causes(.0))]
    Netfilter(#[from] NetfilterError),
    #[error(
        "the rules were put in place {INSTALL_ATTEMPTS} times and are not there: {0}. Find who changes \
         them with `nft monitor`"
    )]
    Different(Difference),
}

/// The error and what led to it, for a protocol that has one text for it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
