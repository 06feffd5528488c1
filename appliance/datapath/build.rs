//! Compiles the eBPF programs with clang.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// As Debian names it with and without the package of the default version.
const COMPILERS: [&str; 2] = ["clang", "clang-14"];

/// Atomic instructions with results: Linux 5.12.
const INSTRUCTION_SET: &str = "-mcpu=v3";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rustc-env=GABION_LAYOUT={:x}", layout()?);
    let object = PathBuf::from(std::env::var("OUT_DIR")?).join("tc.o");
    let compiler = compiler()?;
    let mut command = Command::new(&compiler);
    command.args(["-target", "bpf", INSTRUCTION_SET, "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Where it was built is nobody's business.
    command.arg("-fdebug-compilation-dir=.");
    if std::env::var("CARGO_CFG_TARGET_ARCH")? == "x86_64" {
        command.arg("-DSTRONG_ORDER");
    }
    // Debian keeps asm/types.h in a folder of the host's architecture, which clang does not look at for another.
    for architecture in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        command.arg(format!("-I/usr/include/{architecture}"));
    }
    let status = command.args(["-c", "bpf/tc.c", "-o"]).arg(&object).status()?;
    if !status.success() {
        return Err(format!("{compiler} does not compile bpf/tc.c; are libbpf-dev and linux-libc-dev there? `setup/install build` installs them").into());
    }
    Ok(())
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

fn compiler() -> Result<String, Box<dyn Error>> {
    let chosen = std::env::var("CLANG").ok();
    let candidates = chosen.as_deref().into_iter().chain(COMPILERS);
    for candidate in candidates {
        let answers = Command::new(candidate).arg("--version").output();
        if answers.is_ok_and(|answer| answer.status.success()) {
            return Ok(candidate.to_owned());
        }
    }
    Err("no clang: `setup/install build` installs it".into())
}
