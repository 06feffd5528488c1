//! Under `make fuzz`: libFuzzer on the target that `GABION_FUZZ_TARGET` names. Otherwise
//! `fuzz TARGET FILE...` runs a target on files, and `fuzz` lists the targets.
#![cfg_attr(libfuzzer, no_main)]

#[cfg(libfuzzer)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    use std::sync::LazyLock;
    static TARGET: LazyLock<&gabion_fuzz::Target> = LazyLock::new(|| {
        let name = std::env::var("GABION_FUZZ_TARGET").unwrap_or_default();
        gabion_fuzz::named(&name).expect("GABION_FUZZ_TARGET names a target: see docs/fuzzing.md")
    });
    (TARGET.run)(bytes);
});

#[cfg(not(libfuzzer))]
fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().and_then(|name| gabion_fuzz::named(&name)) else {
        for target in gabion_fuzz::TARGETS {
            println!("{:<10} {}", target.name, target.input);
        }
        return std::process::ExitCode::from(2);
    };
    for file in arguments {
        match std::fs::read(&file) {
            Ok(bytes) => (target.run)(&bytes),
            Err(error) => {
                eprintln!("fuzz: {file}: {error}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    std::process::ExitCode::SUCCESS
}
