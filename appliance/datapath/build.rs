//! Compiles the eBPF programs with clang.

#[path = "build/clang.rs"]
mod clang;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-env=GABION_LAYOUT={:x}", layout()?);
    let strong = std::env::var("CARGO_CFG_TARGET_ARCH")? == "x86_64";
    clang::compile("programs", if strong { &["-DSTRONG_ORDER"] } else { &[] })
}

/// A number that is another when what programs and node share may be (FNV-1a).
fn layout() -> Result<u64, Box<dyn Error>> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for header in ["bpf/layout.h", "bpf/flow.h"] {
        for byte in std::fs::read(header)? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    // Zero is a table that nobody has finished.
    Ok(hash.max(1))
}
