//! One binary for all integration tests.

mod azure;
mod cluster;
mod cluster_model;
mod equality;
mod floods;
mod lab;
mod restart;
mod scenarios;
mod tidy;
mod walks;

/// The folder of the binaries that belong to this test's own build.
fn binaries() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("the test runs");
    let folder = test.parent().and_then(std::path::Path::parent);
    folder.expect("it is in deps, below them").to_owned()
}
