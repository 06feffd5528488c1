#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 12:00 UTC);

fn subjects() -> Subjects {
    Subjects {
        nodes: vec![
            "node-1=fw1.example.net,192.0.2.1,2001:db8::1".parse().unwrap(),
            "node-2".parse().unwrap(),
        ],
        clients: vec![
            "alice=admin".parse().unwrap(),
            "bob=operator".parse().unwrap(),
            "carol=viewer".parse().unwrap(),
        ],
    }
}

fn made() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("pki");
    init(&directory, &subjects(), Existing::Refuse, NOW).unwrap();
    (scratch, directory)
}

fn load(directory: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(directory.join(name)).unwrap()
}

fn roots(directory: &Path) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(load(directory, "ca.pem")).unwrap();
    Arc::new(roots)
}

fn unix(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn as_server(
    directory: &Path,
    file: &str,
    name: &str,
    at: OffsetDateTime,
) -> Result<(), rustls::Error> {
    use rustls::client::danger::ServerCertVerifier as _;
    rustls::client::WebPkiServerVerifier::builder_with_provider(roots(directory), provider())
        .build()
        .unwrap()
        .verify_server_cert(
            &load(directory, file),
            &[],
            &ServerName::try_from(name.to_owned()).unwrap(),
            &[],
            unix(at),
        )
        .map(|_| ())
}

fn as_client(directory: &Path, file: &str, at: OffsetDateTime) -> Result<(), rustls::Error> {
    rustls::server::WebPkiClientVerifier::builder_with_provider(roots(directory), provider())
        .build()
        .unwrap()
        .verify_client_cert(&load(directory, file), &[], unix(at))
        .map(|_| ())
}

fn unit(directory: &Path, file: &str) -> String {
    let der = load(directory, file);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let unit = certificate.subject().iter_organizational_unit().next().unwrap();
    unit.as_str().unwrap().to_owned()
}

fn listing(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn nodes_are_servers_under_each_of_their_names_and_clients_too() {
    let (_scratch, directory) = made();
    for name in ["node-1", "fw1.example.net", "192.0.2.1", "2001:db8::1"] {
        as_server(&directory, "node-1.pem", name, NOW).unwrap();
        as_server(&directory, "node-2.pem", name, NOW).unwrap_err();
    }
    as_client(&directory, "node-1.pem", NOW).unwrap();
}

#[test]
fn operators_are_clients_only_and_carry_their_role() {
    let (_scratch, directory) = made();
    for (file, role) in [("alice.pem", "admin"), ("bob.pem", "operator"), ("carol.pem", "viewer")] {
        as_client(&directory, file, NOW).unwrap();
        as_server(&directory, file, "alice", NOW).unwrap_err();
        assert_eq!(unit(&directory, file), role);
    }
    assert_eq!(unit(&directory, "node-1.pem"), "node");
}

#[test]
fn certificates_of_another_ca_are_refused() {
    let (_scratch, ours) = made();
    let (_other_scratch, theirs) = made();
    fs::copy(theirs.join("alice.pem"), ours.join("mallory.pem")).unwrap();
    as_client(&ours, "mallory.pem", NOW).unwrap_err();
}

#[test]
fn leaves_hold_for_a_year_and_bear_a_clock_that_is_behind() {
    let (_scratch, directory) = made();
    let day = Duration::days(1);
    as_client(&directory, "alice.pem", NOW - Duration::minutes(59)).unwrap();
    as_client(&directory, "alice.pem", NOW + 365 * day).unwrap();
    as_client(&directory, "alice.pem", NOW - Duration::minutes(61)).unwrap_err();
    as_client(&directory, "alice.pem", NOW + 366 * day).unwrap_err();
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let (_scratch, directory) = made();
    let late = NOW + Duration::days(3_600);
    let more = Subjects { nodes: vec!["node-3".parse().unwrap()], clients: vec![] };
    let summary = issue(&directory, &more, Existing::Refuse, late).unwrap();
    assert_eq!(summary.leaves_end, NOW + Duration::days(3_650));
    let expired = issue(&directory, &more, Existing::Overwrite, NOW + Duration::days(3_650));
    assert!(matches!(expired, Err(PkiError::CaOutOfDate { .. })));
}

#[test]
fn further_certificates_come_from_the_same_ca() {
    let (_scratch, directory) = made();
    let before = listing(&directory);
    let more = Subjects {
        nodes: vec!["node-3=192.0.2.3".parse().unwrap()],
        clients: vec!["dave=viewer".parse().unwrap()],
    };
    let summary = issue(&directory, &more, Existing::Refuse, NOW).unwrap();
    let names: Vec<_> = summary.files.iter().map(|f| f.file_name().unwrap()).collect();
    assert_eq!(names, ["node-3.key", "node-3.pem", "dave.key", "dave.pem"]);
    as_server(&directory, "node-3.pem", "192.0.2.3", NOW).unwrap();
    as_client(&directory, "dave.pem", NOW).unwrap();
    let after = listing(&directory);
    assert!(before.iter().all(|file| after.contains(file)), "nothing else changed");
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let (_scratch, directory) = made();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let files = listing(&directory);
    assert_eq!(files.len(), 12);
    for (path, text) in files {
        if path.extension().unwrap() == "key" {
            assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"), "{}", path.display());
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        } else {
            assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{}", path.display());
        }
    }
}

#[test]
fn keys_are_p256() {
    let (_scratch, directory) = made();
    for (path, text) in listing(&directory) {
        if path.extension().unwrap() == "key" {
            let key = KeyPair::from_pem(&text).unwrap();
            assert_eq!(key.algorithm(), &rcgen::PKCS_ECDSA_P256_SHA256);
        }
    }
}

#[test]
fn a_second_init_changes_nothing_unless_told_to() {
    let (_scratch, directory) = made();
    let before = listing(&directory);
    let refused = init(&directory, &subjects(), Existing::Refuse, NOW).unwrap_err();
    assert!(matches!(&refused, PkiError::Exists(path) if path.ends_with("ca.key")));
    assert!(refused.to_string().contains("--overwrite"), "{refused}");
    assert_eq!(listing(&directory), before);

    init(&directory, &subjects(), Existing::Overwrite, NOW).unwrap();
    let after = listing(&directory);
    assert_eq!(after.len(), before.len());
    assert!(before.iter().all(|file| !after.contains(file)), "every file is new");
    as_client(&directory, "alice.pem", NOW).unwrap();
}

#[test]
fn a_file_that_can_not_be_written_leaves_the_directory_as_it_was() {
    let (_scratch, directory) = made();
    // A directory in the way of the last certificate, which no mode hides from root.
    fs::remove_file(directory.join("carol.pem")).unwrap();
    fs::create_dir_all(directory.join("carol.pem.new/x")).unwrap();
    let files = || listing_of_files(&directory);
    let before = files();
    let failed = init(&directory, &subjects(), Existing::Overwrite, NOW).unwrap_err();
    assert!(
        matches!(&failed, PkiError::File { verb: "write", path, .. } if path.ends_with("carol.pem"))
    );
    assert_eq!(files(), before);
}

fn listing_of_files(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn issue_needs_a_ca_that_fits() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    let none = issue(directory, &subjects(), Existing::Refuse, NOW).unwrap_err();
    assert!(matches!(&none, PkiError::NoCa(path) if path.ends_with("ca.pem")));
    assert!(none.to_string().contains("gabion pki init"), "{none}");

    let (_scratch, ours) = made();
    let (_other_scratch, theirs) = made();
    fs::copy(theirs.join("ca.key"), ours.join("ca.key")).unwrap();
    let mixed = issue(&ours, &subjects(), Existing::Overwrite, NOW).unwrap_err();
    assert!(matches!(mixed, PkiError::KeyMismatch { .. }), "{mixed}");

    fs::copy(ours.join("alice.pem"), ours.join("ca.pem")).unwrap();
    fs::copy(ours.join("alice.key"), ours.join("ca.key")).unwrap();
    let leaf = issue(&ours, &subjects(), Existing::Overwrite, NOW).unwrap_err();
    assert!(matches!(leaf, PkiError::NotCa(_)), "{leaf}");
}

#[test]
fn a_name_stands_once() {
    let scratch = tempfile::tempdir().unwrap();
    let twice = Subjects {
        nodes: vec!["node-1".parse().unwrap()],
        clients: vec!["node-1=viewer".parse().unwrap()],
    };
    let refused = init(scratch.path(), &twice, Existing::Refuse, NOW).unwrap_err();
    assert!(matches!(&refused, PkiError::Duplicate(name) if name == "node-1"));
    assert_eq!(listing(scratch.path()), []);
}

#[test]
fn subjects_that_are_written_wrong() {
    use ParseSubjectError as E;
    let long = "a".repeat(64);
    for name in ["", "ca", "-a", "a-", "a/b", "..", "A", "a.b", "ä", long.as_str()] {
        assert_eq!(name.parse::<Node>(), Err(E::Name(name.to_owned())));
    }
    for alternative in ["a b", "10.1.0.256", "192.0.2", "a..b", "-a.b", "*.example.net"] {
        let text = format!("node-1={alternative}");
        assert_eq!(text.parse::<Node>(), Err(E::Alternative(alternative.to_owned())));
    }
    assert_eq!("alice".parse::<Client>(), Err(E::NoRole("alice".to_owned())));
    assert_eq!("alice=root".parse::<Client>(), Err(E::Role("root".to_owned())));
}

#[test]
fn members_of_a_cluster_are_both_ends_of_a_session_under_their_numbers() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = "fw".parse().unwrap();
    let mut nodes: Vec<Node> =
        vec!["node-1=192.0.2.1".parse().unwrap(), "node-16".parse().unwrap()];
    nodes.iter_mut().for_each(|node| node.join(&cluster).unwrap());
    let subjects = Subjects { nodes, clients: vec![] };
    init(scratch.path(), &subjects, Existing::Refuse, NOW).unwrap();
    for (file, name) in [("node-1.pem", "node-1.fw"), ("node-16.pem", "node-16.fw")] {
        as_server(scratch.path(), file, name, NOW).unwrap();
        as_client(scratch.path(), file, NOW).unwrap();
    }
    as_server(scratch.path(), "node-1.pem", "192.0.2.1", NOW).unwrap();
    as_server(scratch.path(), "node-1.pem", "node-16.fw", NOW).unwrap_err();
    as_server(scratch.path(), "node-1.pem", "node-1.other", NOW).unwrap_err();
}

#[test]
fn what_is_no_member_gets_no_certificate_of_one() {
    let cluster = "fw".parse().unwrap();
    for name in ["node", "node-0", "node-17", "node-01", "fw-1", "node-1-2"] {
        let refused = name.parse::<Node>().unwrap().join(&cluster).unwrap_err();
        assert!(refused.to_string().contains("node-1 to node-16"), "{refused}");
    }
    for name in ["", "Fw", "fw.example", "-fw"] {
        assert!(name.parse::<ClusterName>().is_err(), "{name}");
    }
}
