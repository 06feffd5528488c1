//! Keys between the workers of one node, which need no session: they are drawn from what the process has drawn at its start,
//! and renewed by the machine's clock, which is one for all.

use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use gabion_engine::{NodeId, Time};

use super::seal;
use super::session::Keys;

/// One worker's.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    secret: hmac::Key,
    /// How long keys are used.
    renew: Duration,
    /// Which of them are in use.
    current: Option<u64>,
}

impl Beside {
    pub(super) fn new(secret: [u8; 32], renew: Duration) -> Self {
        Self { secret: hmac::Key::new(HMAC_SHA256, &secret), renew, current: None }
    }

    /// The number of the keys that are to be used from now on, if it is another than before.
    pub(super) fn turn(&mut self, now: Time) -> Option<u64> {
        let renew = u64::try_from(self.renew.as_nanos()).unwrap_or(u64::MAX).max(1);
        let number = now.as_nanos() / renew;
        (self.current.replace(number) != Some(number)).then_some(number)
    }

    pub(super) fn keys(&self, number: u64, own: NodeId, peer: NodeId) -> Keys {
        let key = |purpose: &str, from: NodeId, to: NodeId| {
            let context = format!("{purpose} {from} {to} {number}");
            let tag = hmac::sign(&self.secret, context.as_bytes());
            let mut key = seal::Key::default();
            key.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
            key
        };
        Keys {
            sync_send: key("sync", own, peer),
            sync_receive: key("sync", peer, own),
            wrapped_send: key("wrapped", own, peer),
            wrapped_receive: key("wrapped", peer, own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_sends_with_the_other_receives_with_and_nobody_else() {
        let beside = Beside::new([7; 32], Duration::from_secs(3_600));
        let [one, other, third] = [1, 2, 3].map(NodeId);
        let (ours, theirs) = (beside.keys(5, one, other), beside.keys(5, other, one));
        assert_eq!((ours.sync_send, ours.sync_receive), (theirs.sync_receive, theirs.sync_send));
        assert_eq!(
            (ours.wrapped_send, ours.wrapped_receive),
            (theirs.wrapped_receive, theirs.wrapped_send)
        );
        for stranger in [beside.keys(6, one, other), beside.keys(5, one, third), theirs] {
            assert_ne!(stranger.sync_send, ours.sync_send);
            assert_ne!(stranger.wrapped_send, ours.wrapped_send);
        }
        assert_ne!(ours.sync_send, ours.wrapped_send);
    }

    #[test]
    fn keys_are_renewed_when_their_time_is_up() {
        let mut beside = Beside::new([7; 32], Duration::from_secs(10));
        let turns = [0, 1, 9, 10, 15, 31]
            .map(|second| beside.turn(Time::from_nanos(second * 1_000_000_000)));
        assert_eq!(turns, [Some(0), None, None, Some(1), None, Some(3)]);
    }
}
