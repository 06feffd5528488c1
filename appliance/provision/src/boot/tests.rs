#![allow(clippy::unwrap_used)]

use std::fs;

use gabiond::config::Config;
use gabiond::node::check_files;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::host::tests::device;
use crate::source::Found;

const ONE: &str = include_str!("../../tests/one.yaml");
const TWO: &str = include_str!("../../tests/two.yaml");
const NONE: Patience = Patience {
    azure: Duration::ZERO,
    no_cloud: Duration::ZERO,
    again: Duration::ZERO,
    devices: Duration::ZERO,
};

/// gabiond's own checks, without its process.
struct Reads;

impl Judge for Reads {
    fn judge(&self, config: &Path) -> Result<(), Vec<String>> {
        let lines = |error: &dyn std::error::Error| {
            error.to_string().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let config = Config::read(config).map_err(|error| lines(&error))?;
        check_files(&config).map_err(|error| lines(&error))
    }

    fn judge_text(&self, config: &Path) -> Result<(), Vec<String>> {
        Config::read(config).map(drop).map_err(|error| vec![error.to_string()])
    }
}

struct Machine {
    _root: TempDir,
    places: Places,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("var/lib/gabion/etc");
        let places = Places { directory, root: root.path().to_owned() };
        let machine = Self { _root: root, places };
        machine.plug("eth2");
        machine
    }

    /// Gives it the device of the example that is told by MAC address.
    fn plug(&self, name: &str) {
        device(&self.places.root, name, "00:0d:3a:01:02:03", "hv_netvsc");
    }

    fn boot(&self) -> Boot<'_, Reads> {
        Boot { places: &self.places, judge: &Reads, patience: NONE }
    }

    /// Boots with a disk.
    fn provision(&self, name: &str, data: Option<&[u8]>) -> Done {
        let found = Found { given: Given::default(), data: data.map(<[u8]>::to_vec) };
        self.boot().provision(Platform::Azure, Some(name), Ok(Some(found))).unwrap()
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.places.directory.join(name)).ok()
    }

    fn config(&self) -> Config {
        Config::read(&self.places.directory.join(CONFIG)).unwrap()
    }

    fn report(&self) -> Option<Outcome> {
        report::pending(&self.places.directory).unwrap()
    }
}

/// The node of the example with certificates that are real.
fn one() -> String {
    let (before, _) = ONE.split_once("trust:").unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["fw-1".into()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let block = |text: String| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "{before}trust:\n  ca: |\n{}  certificate: |\n{}  key: |\n{}",
        block(ca.pem()),
        block(certificate.pem()),
        block(key.serialize_pem())
    )
}

#[test]
fn an_instance_is_provisioned_once() {
    let machine = Machine::new();
    assert_eq!(machine.provision("nocloud:1", Some(one().as_bytes())), Done::Provisioned);
    assert_eq!(machine.config().node.hold, None);
    assert_eq!(machine.read("instance").unwrap(), "nocloud:1\n");
    assert_eq!(machine.report(), Some(Outcome::Ready));
    let network = machine.places.at("run/systemd/network/10-gabion-ext.network");
    assert!(network.exists());

    // The next boot has a fresh /run and /etc, no disk, and what the operator has changed.
    fs::remove_dir_all(machine.places.at("run")).unwrap();
    fs::remove_dir_all(machine.places.at("etc")).unwrap();
    let changed = machine.read(CONFIG).unwrap() + "[log]\nlevel = \"debug\"\n";
    fs::write(machine.places.directory.join(CONFIG), &changed).unwrap();
    assert_eq!(machine.boot().run().unwrap(), Done::Known);
    assert_eq!(machine.read(CONFIG).unwrap(), changed);
    assert!(network.exists());
    assert_eq!(fs::read_to_string(machine.places.at("etc/hostname")).unwrap(), "fw-1\n");
}

#[test]
fn a_copied_disk_keeps_nothing_of_the_instance_before() {
    let machine = Machine::new();
    machine.provision("azure:1", Some(one().as_bytes()));
    let state = machine.places.directory.parent().unwrap();
    fs::create_dir_all(state.join("revisions")).unwrap();
    fs::write(state.join("current"), "{}").unwrap();
    let key = machine.read(plan::KEY).unwrap();
    assert_eq!(machine.provision("azure:2", Some(TWO.as_bytes())), Done::Provisioned);
    assert_eq!(machine.read(plan::KEY), None);
    assert!(!state.join("revisions").exists() && !state.join("current").exists());
    assert!(machine.config().node.hold.unwrap().contains("pki enrol"));
    machine.provision("azure:3", Some(one().as_bytes()));
    assert_ne!(machine.read(plan::KEY).unwrap(), key);
    assert_eq!(machine.read(CONFIG_ENROLLED), None);
    assert_eq!(machine.read(plan::TOKEN), None);
}

#[test]
fn wrong_data_holds_the_node_and_says_why() {
    let good = one();
    for (data, word) in [
        (None, "there is no first-boot data"),
        (Some(String::new()), "is empty"),
        (Some("apiVersion: gabion/first-boot/v9\n".to_owned()), "gabion/first-boot/v9"),
        (Some(good.replace("action: allow", "action: alow")), "policy:10:"),
        (
            Some(
                good.replace("internet: { interfaces: [ext] }", "internet: { interfaces: [dmz] }"),
            ),
            "dmz",
        ),
        (Some(good.replace("port: 8080", "port: 0")), "health.port = 0 is out of range"),
        (
            Some(good.replace("health: { port: 8080 }", "healt: { port: 8080 }")),
            "unknown field `healt`",
        ),
        (Some(ONE.to_owned()), "api.certificate"),
        (Some(TWO.replace("1=10.0.1.4", "3=10.0.1.4")), "cluster.node = 1, is not among them"),
        (Some(TWO.replace("action: allow", "action: alow")), "policy:8:"),
    ] {
        let machine = Machine::new();
        machine.provision("azure:0", Some(good.as_bytes()));
        let done = machine.provision("azure:1", data.as_deref().map(str::as_bytes));
        let Done::Held(why) = done else { panic!("{word}: {done:?}") };
        assert!(why[0].contains(word), "{word} is not in {why:?}");
        let reason = machine.config().node.hold.unwrap();
        assert!(reason.contains(word), "{word} is not in {reason}");
        assert_eq!(machine.report(), Some(Outcome::Failed(reason)));
        for gone in ["instance", plan::KEY, plan::TOKEN, POLICY, CONFIG_ENROLLED] {
            assert_eq!(machine.read(gone), None, "{gone}");
        }
        assert!(machine.places.at("run/systemd/network/90-gabion-any.network").exists());
    }
}

#[test]
fn what_is_wrong_gives_no_orders_to_the_console() {
    for orders in ["\u{1b}[2J", "\u{9b}2J", "\u{8}\u{8}", "\r"] {
        let key: String = orders.chars().fold(String::new(), |key, c| match u32::from(c) {
            code @ (0..0x20 | 0x80..0xa0) => key + &format!("\\x{code:02x}"),
            _ => key + &c.to_string(),
        });
        let settings = format!("settings: {{ \"no{key}thing\": {{ a: 1 }} }}\n");
        let data = format!(
            "apiVersion: gabion/first-boot/v1\ninterfaces: {{ mgmt: eth0, ext: eth1 }}\n{settings}"
        );
        let machine = Machine::new();
        let done = machine.provision("azure:1", Some(data.as_bytes()));
        let Done::Held(why) = done else { panic!("{done:?}") };
        assert!(why[0].contains("thing"), "{why:?}");
        let reason = machine.config().node.hold.unwrap();
        for line in why.iter().chain([&reason]) {
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}

#[test]
fn a_disk_that_cannot_be_read_takes_nothing_from_a_known_instance() {
    let machine = Machine::new();
    machine.provision("nocloud:i-1", Some(one().as_bytes()));
    let policy = machine.places.directory.with_file_name("revisions");
    fs::create_dir_all(&policy).unwrap();
    let before = machine.read(CONFIG).unwrap();
    let labels = machine.places.at("dev/disk/by-label");
    fs::create_dir_all(&labels).unwrap();
    fs::write(labels.join("cidata"), "no file system").unwrap();
    assert_eq!(machine.boot().run().unwrap(), Done::Known);
    assert_eq!(machine.read(CONFIG).unwrap(), before);
    assert!(policy.exists());
    // Whoever has not been provisioned is told.
    fs::remove_file(machine.places.directory.join("instance")).unwrap();
    let done = machine.boot().run().unwrap();
    assert!(matches!(&done, Done::Held(why) if why[0].contains("cannot read")), "{done:?}");
}

#[test]
fn without_a_disk_a_node_is_held_unless_somebody_has_configured_it() {
    let machine = Machine::new();
    assert!(matches!(machine.boot().run().unwrap(), Done::Held(_)));
    assert!(matches!(machine.boot().run().unwrap(), Done::Held(_)), "its own is not another's");
    let by_hand = "[interfaces]\next = \"eth1\"\n";
    fs::write(machine.places.directory.join(CONFIG), by_hand).unwrap();
    assert_eq!(machine.boot().run().unwrap(), Done::LeftAlone);
    assert_eq!(machine.read(CONFIG).unwrap(), by_hand);
}

#[test]
fn a_held_node_is_provisioned_by_hand() {
    let machine = Machine::new();
    let admin = Admin { name: "ops".into(), keys: vec!["ssh-ed25519 AAAA ops".into()] };
    let given = Given { host_name: None, admin: Some(admin) };
    let found = Found { given, data: None };
    machine.boot().provision(Platform::Other, Some("nocloud:1"), Ok(Some(found))).unwrap();
    let done = machine.boot().provision_from(one().into_bytes()).unwrap();
    assert_eq!(done, Done::Provisioned);
    assert_eq!(machine.config().node.hold, None);
    assert_eq!(machine.boot().run().unwrap(), Done::Known);
    assert_eq!(machine.read(ADMIN_KEYS).unwrap(), "ssh-ed25519 AAAA ops\n");
}

/// Its driver may be loaded while this program runs: such a node was held, for no device had the address.
#[test]
fn a_device_that_comes_late_is_waited_for() {
    let machine = Machine::new();
    let net = machine.places.at("sys/class/net");
    fs::remove_dir_all(net.join("eth2")).unwrap();
    // Whoever looks at this one waits until somebody writes.
    let looked_at = net.join("eth9/type");
    fs::create_dir_all(net.join("eth9")).unwrap();
    assert!(Command::new("mkfifo").arg(&looked_at).status().unwrap().success());
    let patience = Patience { devices: Duration::from_secs(60), ..NONE };
    let boot = Boot { patience, ..machine.boot() };
    let found = Found { given: Given::default(), data: Some(TWO.as_bytes().to_vec()) };
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            let looks = fs::OpenOptions::new().write(true).open(&looked_at).unwrap();
            fs::remove_dir_all(net.join("eth9")).unwrap();
            machine.plug("eth5");
            drop(looks);
        });
        boot.provision(Platform::Other, Some("nocloud:1"), Ok(Some(found))).unwrap()
    });
    assert_eq!(done, Done::Provisioned);
    assert_eq!(machine.config().interfaces[0].device, "eth5");
}

#[test]
fn devices_that_come_in_another_order_are_found_again() {
    let machine = Machine::new();
    machine.provision("nocloud:1", Some(TWO.as_bytes()));
    assert_eq!(machine.config().interfaces[0].device, "eth2");
    let net = machine.places.at("sys/class/net");
    fs::rename(net.join("eth2"), net.join("eth5")).unwrap();
    assert_eq!(machine.boot().run().unwrap(), Done::Known);
    assert_eq!(machine.config().interfaces[0].device, "eth5");
    let network = machine.places.at("run/systemd/network/10-gabion-ext.network");
    assert!(fs::read_to_string(network).unwrap().contains("OutgoingInterface=eth5\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_data_a_node_has_a_configuration_that_holds_or_is_right(
        at in 0..TWO.len(),
        cut in 0..60_usize,
        with in "[ -~\n]{0,4}",
    ) {
        let mut bytes = TWO.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with.into_bytes());
        let machine = Machine::new();
        let done = machine.provision("azure:1", Some(&bytes));
        let config = machine.config();
        let is_held = matches!(done, Done::Held(_));
        prop_assert_eq!(is_held, machine.read("instance").is_none());
        // This data has a token, or, changed, no trust at all.
        prop_assert!(!config.moves() || machine.read(plan::TOKEN).is_none());
    }

    #[test]
    fn no_bytes_are_taken_for_data(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let machine = Machine::new();
        prop_assert!(matches!(machine.provision("azure:1", Some(&bytes)), Done::Held(_)));
        prop_assert!(!machine.config().moves());
    }
}

#[test]
fn homes_of_the_instance_before_go_but_what_home_is_bound_to_stays() {
    use std::os::unix::fs::MetadataExt as _;
    let machine = Machine::new();
    let homes = machine.places.directory.with_file_name(HOMES);
    fs::create_dir_all(homes.join("mallory/.ssh")).unwrap();
    fs::write(homes.join("mallory/.ssh/authorized_keys"), "a key").unwrap();
    let before = fs::metadata(&homes).unwrap().ino();
    assert_eq!(machine.provision("nocloud:1", Some(one().as_bytes())), Done::Provisioned);
    assert_eq!(fs::metadata(&homes).unwrap().ino(), before, "the mount would show a removed one");
    assert!(!homes.join("mallory").exists());
}
