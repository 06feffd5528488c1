//! eBPF programs from C, for build scripts.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// As Debian names it with and without the package of the default version.
const COMPILERS: [&str; 2] = ["clang", "clang-14"];

/// Atomic instructions with results: Linux 5.12.
const INSTRUCTION_SET: &str = "-mcpu=v3";

/// Compiles `bpf/NAME.c` to `NAME.o` in the script's folder for results.
pub(crate) fn compile(name: &str, more: &[&str]) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let source = format!("bpf/{name}.c");
    let object = PathBuf::from(std::env::var("OUT_DIR")?).join(format!("{name}.o"));
    let compiler = compiler()?;
    let mut command = Command::new(&compiler);
    command.args(["-target", "bpf", INSTRUCTION_SET, "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // Where it was built is nobody's business.
    command.arg("-fdebug-compilation-dir=.").args(more);
    // Debian keeps asm/types.h in a folder of the host's architecture, which clang does not look at for another.
    for architecture in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        command.arg(format!("-I/usr/include/{architecture}"));
    }
    let status = command.args(["-c", &source, "-o"]).arg(&object).status()?;
    if !status.success() {
        return Err(format!("{compiler} does not compile {source}; are libbpf-dev and linux-libc-dev there? `setup/install build` installs them").into());
    }
    Ok(())
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
