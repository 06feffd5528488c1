//! The cluster's own certificate authority: `ca.pem`/`ca.key`, and one `NAME.pem`/`NAME.key` for each
//! node and operator, all in one directory.
//!
//! Certificates are made in memory first and written then, so that an error leaves the directory as
//! it was. Keys are born with mode 0600. The module asks no clock: `now` is an argument.
//! It revokes nothing: a lost key is answered with a new CA.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// What an operator may do; it stands in the organizational unit of the certificate's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Reads policies, flows, counters and health.
    Viewer,
    /// Also commits and rolls back policies.
    Operator,
    /// Also drains nodes and changes the cluster.
    Admin,
}

impl Role {
    /// Every role, the least powerful first.
    pub(crate) const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The role as it stands in the certificate.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.label() == text)
            .ok_or_else(|| ParseSubjectError::Role(text.to_owned()))
    }
}

/// A node that gets a certificate; it serves and calls other nodes, so it is server and client.
///
/// Written `node-1` or `node-1=fw1.example.net,192.0.2.1`. The name itself is always one of the names
/// that the certificate is valid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    name: Name,
    alternatives: Vec<SanType>,
}

impl FromStr for Node {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, rest) = text.split_once('=').unwrap_or((text, ""));
        let name: Name = name.parse()?;
        let names = std::iter::once(name.0.as_str()).chain(rest.split(','));
        let alternatives = names
            .filter(|item| !item.is_empty())
            .map(parse_alternative)
            .collect::<Result<_, _>>()?;
        Ok(Self { name, alternatives })
    }
}

impl Node {
    /// Makes the certificate one that a member of this cluster shows to the others.
    ///
    /// # Errors
    /// If the node's name is not that of a member.
    pub(crate) fn join(&mut self, cluster: &ClusterName) -> Result<(), ParseSubjectError> {
        let Self { name: Name(name), alternatives } = self;
        let number = name.strip_prefix("node-").and_then(|number| number.parse::<u8>().ok());
        let is_member = number.is_some_and(|number| (1..=MEMBERS_MAX).contains(&number))
            && !name.starts_with("node-0");
        let full = format!("{name}.{}", cluster.0);
        match full.try_into() {
            Ok(full) if is_member => alternatives.push(SanType::DnsName(full)),
            _ => return Err(ParseSubjectError::Member(name.clone())),
        }
        Ok(())
    }
}

/// The name of a cluster, a DNS label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_label(text) && !text.contains(|c: char| c.is_ascii_uppercase()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSubjectError::Cluster(text.to_owned()))
        }
    }
}

/// An operator or a program that calls the API. Written `alice=admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    name: Name,
    role: Role,
}

impl FromStr for Client {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, role) =
            text.split_once('=').ok_or_else(|| ParseSubjectError::NoRole(text.to_owned()))?;
        Ok(Self { name: name.parse()?, role: role.parse()? })
    }
}

/// Who gets a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subjects {
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
}

/// What to do about files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Leave them and fail.
    Refuse,
    /// Replace them: whatever the old keys signed or proved is worth nothing from then on.
    Overwrite,
}

/// What was written, in that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) files: Vec<PathBuf>,
    /// When the first of the new node and operator certificates ends.
    pub(crate) leaves_end: OffsetDateTime,
}

/// A node or operator that was written wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseSubjectError {
    #[error(
        "\"{0}\" is no name for a certificate: use 1 to 63 of a-z, 0-9 and '-', a letter or digit at \
         either end, and not \"ca\""
    )]
    Name(String),
    #[error("\"{0}\" is neither an IP address nor a DNS name")]
    Alternative(String),
    #[error(
        "\"{0}\" is no member of a cluster: with --cluster nodes are called node-1 to node-{MEMBERS_MAX}"
    )]
    Member(String),
    #[error(
        "\"{0}\" is no name for a cluster: use 1 to 63 of a-z, 0-9 and '-', a letter or digit at either end"
    )]
    Cluster(String),
    #[error("\"{0}\" is no role: use viewer, operator or admin")]
    Role(String),
    #[error("\"{0}\" lacks a role: write NAME=viewer, NAME=operator or NAME=admin")]
    NoRole(String),
}

/// Why certificates were not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("\"{0}\" is named twice: each node and operator needs a name of its own")]
    Duplicate(String),
    #[error("{} is there already: choose another directory or name, or pass --overwrite", .0.display())]
    Exists(PathBuf),
    #[error("{} is not there: make the CA first with `gabion pki init`", .0.display())]
    NoCa(PathBuf),
    #[error("{} holds no usable CA: it must be a PEM CA certificate", .0.display())]
    NotCa(PathBuf),
    #[error("{} does not belong to {}: restore the pair, or make a new CA", .key.display(), .certificate.display())]
    KeyMismatch { certificate: PathBuf, key: PathBuf },
    #[error("the CA in {} is not valid at {now}: it is from {from} to {until}", .path.display())]
    CaOutOfDate { path: PathBuf, now: OffsetDateTime, from: OffsetDateTime, until: OffsetDateTime },
    #[error("cannot {verb} {}", .path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the certificate of {name}")]
    Make {
        name: String,
        #[source]
        source: rcgen::Error,
    },
}

/// Makes a CA and the first certificates in `directory`, which is made if it is missing.
///
/// # Errors
/// [`PkiError`]; the directory is then as it was, unless putting a finished file in its place failed.
pub(crate) fn init(
    directory: &Path,
    subjects: &Subjects,
    existing: Existing,
    now: OffsetDateTime,
) -> Result<Summary, PkiError> {
    let ca = new_ca(now)?;
    let mut files = ca.files(directory);
    let (leaves, leaves_end) = make_leaves(directory, &ca, subjects, now)?;
    files.extend(leaves);
    write_all(directory, files, existing, leaves_end)
}

/// Makes further certificates in `directory` with the CA that is there.
///
/// # Errors
/// [`PkiError`]; the directory is then as it was, unless putting a finished file in its place failed.
pub(crate) fn issue(
    directory: &Path,
    subjects: &Subjects,
    existing: Existing,
    now: OffsetDateTime,
) -> Result<Summary, PkiError> {
    let ca = load_ca(directory, now)?;
    let (files, leaves_end) = make_leaves(directory, &ca, subjects, now)?;
    write_all(directory, files, existing, leaves_end)
}

/// Looks whether there is a CA to sign with.
///
/// # Errors
/// [`PkiError`].
pub(crate) fn check_ca(directory: &Path, now: OffsetDateTime) -> Result<(), PkiError> {
    load_ca(directory, now).map(drop)
}

/// Signs a node's request (PKCS #10, DER), whose key never leaves the node; [`keep`] writes the certificate.
///
/// # Errors
/// [`PkiError`]; nothing is written.
pub(crate) fn sign(
    directory: &Path,
    node: &Node,
    request: &[u8],
    existing: Existing,
    now: OffsetDateTime,
) -> Result<Signed, PkiError> {
    let ca = load_ca(directory, now)?;
    let path = directory.join(&node.name.0).with_added_extension("pem");
    if existing == Existing::Refuse && path.symlink_metadata().is_ok() {
        return Err(PkiError::Exists(path));
    }
    let made = |source| PkiError::Make { name: node.name.0.clone(), source };
    // Its signature is verified here; of all that it says, its key alone is taken.
    let request = CertificateSigningRequestParams::from_der(&request.into()).map_err(made)?;
    let until = ca.until.min(now + Duration::days(LEAF_DAYS));
    let params = node_params(node, now, until);
    let certificate = params.signed_by(&request.public_key, &ca.issuer).map_err(made)?.pem();
    Ok(Signed { certificate, ca: ca.certificate_pem, path, until })
}

/// Writes a certificate that its node has taken.
///
/// # Errors
/// [`PkiError`].
pub(crate) fn keep(signed: Signed) -> Result<Summary, PkiError> {
    let Signed { certificate, path, until, .. } = signed;
    let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
    let file = NewFile { path, mode: 0o644, text: certificate };
    write_all(&directory, vec![file], Existing::Overwrite, until)
}

/// A certificate that is not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// In PEM, as the CA's.
    pub(crate) certificate: String,
    pub(crate) ca: String,
    path: PathBuf,
    until: OffsetDateTime,
}

const CA: &str = "ca";
/// Members of a cluster have the numbers 1 to this: docs/cluster.md section 1.
const MEMBERS_MAX: u8 = 16;
/// How long a CA is good for.
const CA_DAYS: i64 = 3_650;
/// How long a certificate of a node or an operator is good for, unless the CA ends before it.
const LEAF_DAYS: i64 = 365;
/// Certificates begin this much before `now`, for machines whose clock is behind.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// A name that is one DNS label, and so also a safe file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

impl FromStr for Name {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_label(text) && !text.contains(|c: char| c.is_ascii_uppercase()) && text != CA {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSubjectError::Name(text.to_owned()))
        }
    }
}

/// Whether the text is a label of a host name (RFC 1123 section 2.1).
fn is_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn parse_alternative(text: &str) -> Result<SanType, ParseSubjectError> {
    let wrong = || ParseSubjectError::Alternative(text.to_owned());
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // 253: the longest host name in text (RFC 1035 section 2.3.4). A last label of digits would be
    // an IPv4 address written wrong.
    let last_is_number = text.rsplit('.').next().is_some_and(|l| l.parse::<u32>().is_ok());
    if text.len() > 253 || last_is_number || !text.split('.').all(is_label) {
        return Err(wrong());
    }
    Ok(SanType::DnsName(text.try_into().map_err(|_| wrong())?))
}

struct Ca {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    until: OffsetDateTime,
}

impl Ca {
    fn files(&self, directory: &Path) -> Vec<NewFile> {
        pair(directory, CA, self.certificate_pem.clone(), self.issuer.key())
    }
}

fn new_ca(now: OffsetDateTime) -> Result<Ca, PkiError> {
    let made = |source| PkiError::Make { name: CA.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(made)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Gabion cluster CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(CA_DAYS);
    let until = params.not_after;
    let certificate_pem = params.self_signed(&key).map_err(made)?.pem();
    Ok(Ca { certificate_pem, issuer: Issuer::new(params, key), until })
}

fn load_ca(directory: &Path, now: OffsetDateTime) -> Result<Ca, PkiError> {
    let (path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
    let certificate_pem = read(&path)?;
    let key = KeyPair::from_pem(&read(&key_path)?)
        .map_err(|_| PkiError::KeyMismatch { certificate: path.clone(), key: key_path.clone() })?;
    let not_ca = || PkiError::NotCa(path.clone());
    let (_, block) =
        x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).map_err(|_| not_ca())?;
    let certificate = block.parse_x509().map_err(|_| not_ca())?;
    if !certificate.is_ca() {
        return Err(not_ca());
    }
    if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err(PkiError::KeyMismatch { certificate: path, key: key_path });
    }
    let from = certificate.validity().not_before.to_datetime();
    let until = certificate.validity().not_after.to_datetime();
    if now < from || until <= now {
        return Err(PkiError::CaOutOfDate { path, now, from, until });
    }
    let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(|_| not_ca())?;
    Ok(Ca { certificate_pem, issuer, until })
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            PkiError::NoCa(path.to_owned())
        } else {
            PkiError::File { verb: "read", path: path.to_owned(), source }
        }
    })
}

fn make_leaves(
    directory: &Path,
    ca: &Ca,
    subjects: &Subjects,
    now: OffsetDateTime,
) -> Result<(Vec<NewFile>, OffsetDateTime), PkiError> {
    let mut seen = BTreeSet::new();
    let names =
        subjects.nodes.iter().map(|n| &n.name).chain(subjects.clients.iter().map(|c| &c.name));
    for name in names {
        if !seen.insert(name) {
            return Err(PkiError::Duplicate(name.0.clone()));
        }
    }
    let until = ca.until.min(now + Duration::days(LEAF_DAYS));
    let mut files = Vec::new();
    for node in &subjects.nodes {
        files.extend(make_leaf(directory, ca, &node.name, &node_params(node, now, until))?);
    }
    for client in &subjects.clients {
        let mut params = leaf_params(&client.name, client.role.label(), now, until);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        files.extend(make_leaf(directory, ca, &client.name, &params)?);
    }
    Ok((files, until))
}

fn node_params(node: &Node, now: OffsetDateTime, until: OffsetDateTime) -> CertificateParams {
    let mut params = leaf_params(&node.name, "node", now, until);
    params.subject_alt_names.clone_from(&node.alternatives);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn leaf_params(
    name: &Name,
    unit: &str,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.0.as_str());
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = until;
    params
}

fn make_leaf(
    directory: &Path,
    ca: &Ca,
    name: &Name,
    params: &CertificateParams,
) -> Result<Vec<NewFile>, PkiError> {
    let made = |source| PkiError::Make { name: name.0.clone(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(made)?;
    let certificate = params.signed_by(&key, &ca.issuer).map_err(made)?;
    Ok(pair(directory, &name.0, certificate.pem(), &key))
}

struct NewFile {
    path: PathBuf,
    mode: u32,
    text: String,
}

impl NewFile {
    fn staged(&self) -> PathBuf {
        self.path.with_added_extension("new")
    }

    fn error(&self, verb: &'static str) -> impl FnOnce(io::Error) -> PkiError {
        let path = self.path.clone();
        move |source| PkiError::File { verb, path, source }
    }
}

/// The key stands first, so that a certificate that is there always has its key beside it.
fn pair(directory: &Path, name: &str, certificate_pem: String, key: &KeyPair) -> Vec<NewFile> {
    let path = |extension: &str| directory.join(name).with_added_extension(extension);
    vec![
        NewFile { path: path("key"), mode: 0o600, text: key.serialize_pem() },
        NewFile { path: path("pem"), mode: 0o644, text: certificate_pem },
    ]
}

fn write_all(
    directory: &Path,
    files: Vec<NewFile>,
    existing: Existing,
    leaves_end: OffsetDateTime,
) -> Result<Summary, PkiError> {
    if existing == Existing::Refuse
        && let Some(file) = files.iter().find(|file| file.path.symlink_metadata().is_ok())
    {
        return Err(PkiError::Exists(file.path.clone()));
    }
    // The directory holds the CA's key: nobody else has business there.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| PkiError::File { verb: "make", path: directory.to_owned(), source })?;
    let staged = files.iter().try_for_each(stage);
    let placed = staged.and_then(|()| {
        files.iter().try_for_each(|file| {
            fs::rename(file.staged(), &file.path).map_err(file.error("replace"))
        })
    });
    if let Err(error) = placed {
        for file in &files {
            // Most are not there; what matters is the error that led here.
            let _ = fs::remove_file(file.staged());
        }
        return Err(error);
    }
    Ok(Summary { files: files.into_iter().map(|file| file.path).collect(), leaves_end })
}

/// Writes the file beside its place, so that a full disk leaves nothing half-written there.
fn stage(file: &NewFile) -> Result<(), PkiError> {
    let path = file.staged();
    // Left by a run that was killed; its mode and content are not to be trusted.
    let _ = fs::remove_file(&path);
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(&path)
        .map_err(file.error("write"))?;
    out.write_all(file.text.as_bytes()).and_then(|()| out.sync_all()).map_err(file.error("write"))
}

#[cfg(test)]
mod tests;
