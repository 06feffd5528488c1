#![allow(clippy::unwrap_used)]

use gabiond::config::Config;
use proptest::prelude::*;

use super::*;

const ONE: &str = include_str!("../../tests/one.yaml");
const TWO: &str = include_str!("../../tests/two.yaml");
const DIRECTORY: &str = "/var/lib/gabion/etc";

fn devices() -> Devices {
    Devices::from([([0, 0x0d, 0x3a, 1, 2, 3], "eth2".to_owned())])
}

fn planned(text: &str) -> Vec<File> {
    let first = FirstBoot::read(text.as_bytes()).unwrap();
    plan(&first, &Given::default(), Path::new(DIRECTORY), &devices(), Platform::Other).unwrap()
}

fn text_of<'f>(files: &'f [File], name: &str) -> &'f str {
    &files.iter().find(|file| file.path == Path::new(name)).unwrap().text
}

fn config(files: &[File], name: &str) -> Config {
    Config::parse(text_of(files, name), name).unwrap()
}

#[test]
fn what_is_written_of_one_node_is_what_gabiond_reads() {
    let files = planned(ONE);
    let config = config(&files, CONFIG);
    assert_eq!(config.node.hold, None);
    assert_eq!(config.node.name, "fw-1");
    assert_eq!(config.node.state_dir, Path::new("/var/lib/gabion"));
    assert_eq!(config.node.first_policy.unwrap(), Path::new("/var/lib/gabion/etc/policy.yaml"));
    assert_eq!(config.management, ["eth0"]);
    assert_eq!(config.node.device_wait.as_secs(), 20);
    let data: Vec<&str> = config.interfaces.iter().map(|i| i.device.as_str()).collect();
    assert_eq!(data, ["eth1", "eth2"]);
    assert_eq!(config.api.tls.unwrap().listen[0].port(), 4450);
    assert_eq!(config.health.http_port, 8080);
    assert_eq!(config.cluster, None);
    let key = files.iter().find(|file| file.path == Path::new(KEY)).unwrap();
    assert_eq!(key.mode, 0o600);
}

#[test]
fn a_member_with_a_token_is_held_until_it_has_certificates() {
    let files = planned(TWO);
    let now = config(&files, CONFIG);
    assert!(now.node.hold.unwrap().contains("gabion pki enrol"));
    assert_eq!((now.api.tls, now.cluster), (None, None));
    let later = config(&files, CONFIG_ENROLLED);
    assert_eq!(later.node.hold, None);
    let cluster = later.cluster.unwrap();
    assert_eq!((cluster.node.0, cluster.members.len()), (1, 2));
    assert_eq!(later.management, ["eth0", "eth1"]);
    assert_eq!(later.limits.flows, 1_048_576);
    let token = files.iter().find(|file| file.path == Path::new(TOKEN)).unwrap();
    assert_eq!(token.mode, 0o600);
}

#[test]
fn a_mac_address_that_no_device_has_is_a_mistake() {
    let first = FirstBoot::read(TWO.as_bytes()).unwrap();
    let none = Devices::new();
    let place = Path::new(DIRECTORY);
    let problems = plan(&first, &Given::default(), place, &none, Platform::Azure).unwrap_err();
    assert!(problems[0].to_string().contains("no device has MAC address 00:0d:3a:01:02:03"));
}

#[test]
fn devices_are_renamed_in_what_was_written_and_nothing_else_is() {
    let files = planned(TWO);
    let by_mac = by_mac(text_of(&files, BY_MAC));
    let written = text_of(&files, CONFIG_ENROLLED);
    assert_eq!(rename_devices(written, &by_mac, &devices()).unwrap(), None);
    let moved = Devices::from([([0, 0x0d, 0x3a, 1, 2, 3], "eth7".to_owned())]);
    let renamed = rename_devices(written, &by_mac, &moved).unwrap().unwrap();
    assert_eq!(renamed, written.replace("ext = \"eth2\"", "ext = \"eth7\""));
    assert_eq!(rename_devices(written, &by_mac, &Devices::new()).unwrap(), None);
}

/// Only data interfaces were renamed once: the node then had `mgmt` in two places, and did not start.
#[test]
fn after_any_change_of_names_the_configuration_is_what_it_would_be_if_made_anew() {
    let macs: [[u8; 6]; 4] = [1, 2, 3, 4].map(|last| [0, 0x0d, 0x3a, 1, 2, last]);
    let mut text = TWO.to_owned();
    for (from, to) in [("mgmt: eth0", 1), ("sync: eth1", 2), ("device: eth3", 4)] {
        let (key, _) = from.split_once(' ').unwrap();
        text = text.replace(from, &format!("{key} \"00:0d:3a:01:02:0{to}\""));
    }
    let first = FirstBoot::read(text.as_bytes()).unwrap();
    let planned = |order: [usize; 4]| {
        let devices = macs.into_iter().zip(order.map(|at| format!("eth{at}"))).collect();
        let place = Path::new(DIRECTORY);
        let files = plan(&first, &Given::default(), place, &devices, Platform::Other).unwrap();
        (files, devices)
    };
    let (before, _) = planned([0, 1, 2, 3]);
    let by_mac = by_mac(text_of(&before, BY_MAC));
    for order in [[1, 2, 3, 0], [3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 3, 2], [4, 1, 2, 3]] {
        let (after, devices) = planned(order);
        for name in [CONFIG, CONFIG_ENROLLED] {
            let renamed = rename_devices(text_of(&before, name), &by_mac, &devices).unwrap();
            assert_eq!(renamed.as_deref(), Some(text_of(&after, name)), "{order:?}");
        }
    }
}

#[test]
fn the_clouds_name_and_administrator_are_taken_where_the_data_has_none() {
    let text = ONE.replace("node: { name: fw-1 }\n", "");
    let first = FirstBoot::read(text.as_bytes()).unwrap();
    let admin = Admin { name: "azureuser".into(), keys: vec!["ssh-rsa A".into()] };
    let given = Given { host_name: Some("vm-7".into()), admin: Some(admin) };
    let place = Path::new(DIRECTORY);
    let files = plan(&first, &given, place, &devices(), Platform::Azure).unwrap();
    assert_eq!(config(&files, CONFIG).node.name, "vm-7");
    assert_eq!(
        (text_of(&files, HOST_NAME), text_of(&files, ADMIN_NAME)),
        ("vm-7\n", "azureuser\n")
    );
}

proptest! {
    #[test]
    fn whatever_the_reason_gabiond_reads_it(reason in "\\PC{0,1200}", more in any::<String>()) {
        let files = held(&(reason + &more), &Given::default(), Path::new(DIRECTORY), Platform::Other);
        let config = config(&files, CONFIG);
        prop_assert!(config.node.hold.is_some() && !config.moves());
    }

    /// Whoever changes good data anywhere gets a mistake, or a configuration that can be read, or refused, whole.
    #[test]
    fn no_change_of_good_data_gives_half_a_plan(at in 0..TWO.len(), with in "[ -~\n]{0,3}") {
        let mut bytes = TWO.as_bytes().to_vec();
        bytes.splice(at..(at + 1), with.into_bytes());
        let Ok(first) = FirstBoot::read(&bytes) else { return Ok(()) };
        let place = Path::new(DIRECTORY);
        let planned = plan(&first, &Given::default(), place, &devices(), Platform::Other);
        let Ok(files) = planned else { return Ok(()) };
        let written = text_of(&files, CONFIG);
        // What waits for certificates moves nothing, whatever else it says.
        if matches!(first.trust, Some(Trust::Token(_)))
            && let Ok(config) = Config::parse(written, CONFIG)
        {
            prop_assert!(!config.moves());
        }
    }
}
