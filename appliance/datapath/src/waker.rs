//! Ending a worker's `wait` from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Ends `Datapath::wait`, from any thread, now or at its next call. An eventfd.
///
/// Wakes are not counted: any number of them before a `wait` end one.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// # Errors
    /// When the process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub fn wake(&self) {
        // Fails only when the counter is at its maximum, and then the waiter is woken anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the wakes that have come.
    pub(crate) fn drain(&self) {
        // EAGAIN: none has come.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    /// Waits for a wake, or until one of `watched` can be read: for devices that have no event of their own.
    pub(crate) fn wait(&self, watched: &[OwnedFd], timeout: Option<Duration>) -> io::Result<()> {
        let fds = std::iter::once(&*self.0).chain(watched);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        poll_for(&mut fds, timeout)?;
        self.drain();
        Ok(())
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `poll(2)` in which a signal counts as time passed.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // More than a Timespec holds is as good as no timeout.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_wake_before_the_wait_ends_it_and_is_spent() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.clone().wake();
        waker.wait(&[], None).unwrap();

        let mut fds = [PollFd::new(&waker, PollFlags::IN)];
        poll_for(&mut fds, Some(Duration::ZERO)).unwrap();
        assert!(fds[0].revents().is_empty());
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        waker.wait(&[], None).unwrap();
        thread.join().unwrap();
    }
}
