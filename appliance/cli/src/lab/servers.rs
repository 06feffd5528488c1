//! The real servers that a lab runs, each with its own configuration, logs and pid file.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::build::Lab;
use super::process::Running;

/// Where nginx keeps its files, below the lab's folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WebServer {
    pub(crate) host: &'static str,
    /// Bytes of `/large`.
    pub(crate) large: usize,
}

/// The name that web servers are certified for and that the DNS server knows.
pub(crate) const SHOP: &str = "shop.example";

/// Path of the certificate that clients trust, below the lab's folder.
pub(crate) const TRUSTED: &str = "shop.pem";

/// Makes the throw-away certificate of the lab's HTTPS servers.
///
/// # Errors
/// If it cannot be made or written.
pub(crate) fn make_certificate(lab: &Lab) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([SHOP.to_owned()])
        .context("cannot make the web servers' certificate")?;
    fs::write(lab.directory().join(TRUSTED), made.cert.pem())?;
    fs::write(lab.directory().join("shop-key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

impl WebServer {
    /// Starts nginx with HTTP on 80 and HTTPS on 443. `/` answers with the server's name and the
    /// client's address and port as the server sees them.
    ///
    /// # Errors
    /// If it does not come up.
    pub(crate) fn start(self, lab: &Lab) -> Result<Running> {
        let directory = lab.make_directory(self.host)?;
        let document = lab.make_directory(&format!("{}/www", self.host))?;
        fs::write(document.join("large"), vec![b'g'; self.large])?;
        fs::write(directory.join("nginx.conf"), self.configuration(lab))?;
        let prefix = directory.to_string_lossy().into_owned();
        let program = ["nginx", "-p", &prefix, "-c", "nginx.conf", "-e", "stderr"];
        let mut server = Running::start(lab, self.host, &format!("{}-nginx", self.host), &program)?;
        server.wait_until(|| listens(lab, self.host, 443))?;
        Ok(server)
    }

    /// What nginx has logged: one line a request.
    pub(crate) fn access_log(self, lab: &Lab) -> String {
        fs::read_to_string(lab.directory().join(self.host).join("access.log")).unwrap_or_default()
    }

    fn configuration(self, lab: &Lab) -> String {
        let root = lab.directory();
        let root = root.display();
        let host = self.host;
        format!(
            r#"daemon off;
worker_processes 1;
user root;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    log_format seen '$remote_addr:$remote_port "$request" $status $scheme';
    access_log {root}/{host}/access.log seen;
    client_body_temp_path tmp-body; proxy_temp_path tmp-proxy; fastcgi_temp_path tmp-fastcgi;
    uwsgi_temp_path tmp-uwsgi; scgi_temp_path tmp-scgi;
    default_type text/plain;
    server {{
        listen 80; listen [::]:80;
        listen 8080; listen [::]:8080;
        listen 443 ssl; listen [::]:443 ssl;
        ssl_certificate {root}/{TRUSTED};
        ssl_certificate_key {root}/shop-key.pem;
        root {root}/{host}/www;
        location = / {{ return 200 "{host} sees $remote_addr port $remote_port\n"; }}
        location = /large {{ }}
    }}
}}
"#
        )
    }
}

/// Starts dnsmasq, which answers [`SHOP`] with `answer` and nothing else.
///
/// # Errors
/// If it does not come up.
pub(crate) fn start_dns(lab: &Lab, host: &'static str, answer: [IpAddr; 2]) -> Result<Running> {
    let pid_file = format!("--pid-file={}", lab.directory().join("dnsmasq.pid").display());
    let [v4, v6] = answer.map(|address| format!("--address=/{SHOP}/{address}"));
    let program = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        &pid_file,
        &v4,
        &v6,
    ];
    let mut server = Running::start(lab, host, "dnsmasq", &program)?;
    server.wait_until(|| listens(lab, host, 53))?;
    Ok(server)
}

/// Starts an iperf3 server.
///
/// # Errors
/// If it does not come up.
pub(crate) fn start_iperf(lab: &Lab, host: &'static str) -> Result<Running> {
    let mut server = Running::start(lab, host, "iperf3", &["iperf3", "--server", "--forceflush"])?;
    server.wait_until(|| listens(lab, host, 5201))?;
    Ok(server)
}

/// Whether something on `host` accepts connections on `port`.
fn listens(lab: &Lab, host: &str, port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    lab.namespace(host)
        .enter(move || Ok(TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()))
        .unwrap_or(false)
}
