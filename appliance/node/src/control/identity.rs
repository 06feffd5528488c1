//! Who is asking, and what that person may do.
//!
//! Over TLS the client's certificate says so: its common name is the author, its organizational unit the
//! role, as `gabion pki init` writes them. Over the Unix socket the socket's mode has let the user in
//! already: whoever may open it may do everything.

use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a client may do, the least powerful first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Reads policies, flows, counters and health.
    Viewer,
    /// Also commits and rolls back policies.
    Operator,
    /// Also everything that is yet to come.
    Admin,
}

impl Role {
    /// As the organizational unit says it. A node reads from other nodes.
    fn of_unit(unit: &str) -> Option<Self> {
        match unit {
            "viewer" | "node" => Some(Self::Viewer),
            "operator" => Some(Self::Operator),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    author: String,
    role: Role,
}

impl Peer {
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let extensions = request.extensions();
        if let Some(tls) = extensions.get::<TlsConnectInfo<TcpConnectInfo>>() {
            let chain = tls.peer_certs();
            let leaf = chain.as_ref().and_then(|chain| chain.first());
            let leaf = leaf.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
            return Self::of_certificate(leaf);
        }
        let user = extensions.get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let user = user.ok_or_else(|| Status::unauthenticated("the client is not known"))?;
        Ok(Self { author: format!("local:{}", user.uid()), role: Role::Admin })
    }

    /// Of a certificate that TLS has verified already.
    fn of_certificate(der: &[u8]) -> Result<Self, Status> {
        let not_understood = |_| Status::unauthenticated("the certificate is not understood");
        let (_, certificate) = X509Certificate::from_der(der).map_err(not_understood)?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let author = common_name.unwrap_or_default().to_owned();
        let mut units = subject
            .iter_organizational_unit()
            .filter_map(|unit| Role::of_unit(unit.as_str().ok()?));
        let role = units.next().ok_or_else(|| {
            Status::permission_denied(format!(
                "the certificate of `{author}` names no role: its organizational unit must be viewer, operator or admin; gabion pki init makes such certificates"
            ))
        })?;
        Ok(Self { author, role })
    }

    /// The author's name, if the role suffices.
    pub(super) fn needs(self, role: Role) -> Result<String, Status> {
        if self.role >= role {
            return Ok(self.author);
        }
        Err(Status::permission_denied(format!(
            "{} is {}, and this takes {}; use another certificate",
            self.author,
            self.role.label(),
            role.label()
        )))
    }
}
