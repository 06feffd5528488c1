//! Joins two interfaces: whatever comes in by one leaves by the other. Shows the turn of a worker,
//! and is what the datapath alone costs.
//!
//! Usage: `bridge FIRST SECOND`, in the network namespace of the interfaces.

use std::error::Error;

use gabion_datapath::{Datapath, Port, UserspaceDatapath, UserspaceLimits};

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [first, second] = names.as_slice() else {
        return Err("usage: bridge FIRST SECOND".into());
    };
    let mut datapath = UserspaceDatapath::open(&[first, second], UserspaceLimits::RECOMMENDED)?;
    loop {
        datapath.wait(None)?;
        datapath.receive(256, &mut |frames| {
            for frame in frames {
                frame.out = Some(Port(1 - frame.from.0));
            }
        })?;
        datapath.flush()?;
    }
}
