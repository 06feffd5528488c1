//! Compiles the packet generator with clang, as the datapath's programs are (appliance/datapath/build.rs).

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// As Debian names it with and without the package of the default version.
const COMPILERS: [&str; 2] = ["clang", "clang-14"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let object = PathBuf::from(std::env::var("OUT_DIR")?).join("packets.o");
    let chosen = std::env::var("CLANG").ok();
    for compiler in chosen.as_deref().into_iter().chain(COMPILERS) {
        let mut command = Command::new(compiler);
        command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
        // Where it was built is nobody's business.
        command.arg("-fdebug-compilation-dir=.");
        for architecture in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
            command.arg(format!("-I/usr/include/{architecture}"));
        }
        let status = command.args(["-c", "bpf/packets.c", "-o"]).arg(&object).status();
        match status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => {
                return Err(format!("{compiler} does not compile bpf/packets.c: {status}").into());
            }
            // Not installed: the next.
            Err(_) => {}
        }
    }
    Err("no clang: `setup/install build` installs it".into())
}
