//! Compiles the packet generator with clang, as the datapath's programs are.

#[path = "../appliance/datapath/build/clang.rs"]
mod clang;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    clang::compile("packets", &[])
}
