//! Why the fast path does not start, and what to do about it.

use std::error::Error;
use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;

use crate::OpenDatapathError;

/// Why the fast path does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenFastPathError {
    #[error(
        "Linux {0} has no programs that stay at an interface (tcx), which came with Linux 6.6; a newer kernel has them"
    )]
    Kernel(String),
    #[error("the kernel lets gabiond load no programs{NOT_ALLOWED}")]
    NotAllowed,
    #[error("the kernel makes no tables for {flows} flows: {why}{advice}", why = last_cause(.source), advice = advice(.source.as_ref()))]
    Load { flows: u32, source: Box<EbpfError> },
    #[error("the kernel does not take the program `{name}`: {why}{advice}", why = last_cause(.source), advice = program_advice(.source))]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("{0} interfaces do not find a place in the programs' table")]
    TooManyInterfaces(usize),
    #[error(transparent)]
    Sockets(#[from] OpenDatapathError),
    #[error("the program does not attach to interface {interface}: {why}{advice}", why = last_cause(.source), advice = advice(.source.as_ref()))]
    Attach { interface: String, source: Box<ProgramError> },
    #[error("the program at interface {interface} cannot be kept for a restart: {source}")]
    Keep { interface: String, source: io::Error },
    #[error("the programs have no {0}")]
    Missing(&'static str),
    #[error("cannot map the table {name}: {source}")]
    Map { name: &'static str, source: io::Error },
    #[error("no device for packets of interface {interface} that wait for the engine: {source}{advice}", advice = door_advice(.source))]
    Door { interface: String, source: io::Error },
}

const NOT_ALLOWED: &str = "; gabiond needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, which its service unit gives it, and bpf() in the filter of system calls";

pub(super) fn last_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What the system said, if it was the system.
pub(super) fn system_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

fn advice(error: &(dyn Error + 'static)) -> &'static str {
    match system_error(error) {
        Some(libc::EPERM | libc::EACCES) => NOT_ALLOWED,
        Some(libc::ENOSYS) => "; this kernel is built without bpf()",
        Some(libc::ENOMEM | libc::E2BIG) => {
            "; lower limits.flows, or raise the memory that the service may take"
        }
        _ => "",
    }
}

/// The verifier says at the end what it does not like.
fn program_advice(error: &ProgramError) -> String {
    const LINES: usize = 4;
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return advice(error).to_owned();
    };
    if io_error.kind() == io::ErrorKind::PermissionDenied && verifier_log.to_string().is_empty() {
        return advice(io_error).to_owned();
    }
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(" / ");
    format!("; the verifier's last words, which a report should have beside `uname -r`: {last}")
}

fn door_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::EPERM | libc::EACCES) => {
            "; gabiond needs /dev/net/tun and CAP_NET_ADMIN, which its service unit gives it"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(errno: i32) -> String {
        let io_error = io::Error::from_raw_os_error(errno);
        let source = Box::new(ProgramError::SyscallError(aya::sys::SyscallError {
            call: "bpf_link_create",
            io_error,
        }));
        OpenFastPathError::Attach { interface: "eth1".to_owned(), source }.to_string()
    }

    #[test]
    fn a_refusal_names_the_thing_the_place_and_the_next_step() {
        let text = attach(libc::EPERM);
        let parts = ["interface eth1", "Operation not permitted", "CAP_BPF", "service unit"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(attach(libc::ENOMEM).contains("limits.flows"), "{}", attach(libc::ENOMEM));
        let unknown = attach(libc::EIO);
        assert!(unknown.ends_with("(os error 5)"), "{unknown}");
    }
}
