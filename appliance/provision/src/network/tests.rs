#![allow(clippy::unwrap_used)]

use super::*;

const ONE: &str = include_str!("../../tests/one.yaml");
const TWO: &str = include_str!("../../tests/two.yaml");

fn of(text: &str, platform: Platform) -> Vec<File> {
    files(&FirstBoot::read(text.as_bytes()).unwrap(), platform)
}

fn text<'a>(files: &'a [File], name: &str) -> &'a str {
    let is_it = |file: &&File| file.path.ends_with(format!("10-gabion-{name}.network"));
    &files.iter().find(is_it).unwrap().text
}

#[test]
fn each_interface_has_a_table_and_only_forwarding_is_in_main() {
    let files = of(ONE, Platform::Other);
    assert_eq!(files.len(), 3);
    for (number, name) in ["mgmt", "ext", "int"].iter().enumerate() {
        let file = text(&files, name);
        assert_eq!(file.matches(&format!("RouteTable={}\n", 1000 + number)).count(), 2, "{file}");
        let in_main = usize::from(number > 0);
        assert_eq!(file.matches("Table=254\n").count(), in_main, "{file}");
        assert_eq!(file.matches("[RoutingPolicyRule]").count(), 1);
    }
    assert!(text(&files, "mgmt").contains("IncomingInterface=lo\nTable=1000\nPriority=1101\n"));
    assert!(text(&files, "ext").contains("OutgoingInterface=eth1\nTable=1001\nPriority=1001\n"));
    let forward = "Destination=0.0.0.0/0\nGateway=_dhcp4\nGatewayOnLink=yes\nTable=254\n";
    assert!(text(&files, "ext").contains(forward));
    assert!(text(&files, "int").contains("Destination=10.0.0.0/8\nGateway=_dhcp4\n"));
}

#[test]
fn on_azure_virtual_functions_come_first_and_are_left_alone() {
    let files = of(ONE, Platform::Azure);
    let first = files.iter().map(|file| &file.path).min().unwrap();
    assert!(first.ends_with("05-gabion-virtual-function.network"));
    assert!(files[0].text.contains("Unmanaged=yes"));
    // Nor do they ask for addresses where the node is held.
    let held = any(Platform::Azure);
    assert_eq!((held.len(), held.first()), (2, files.first()));
    assert_eq!(any(Platform::Other), held[1..]);
}

#[test]
fn fixed_addresses_need_no_server() {
    let files = of(TWO, Platform::Other);
    let int = text(&files, "int");
    assert!(int.contains("Address=10.1.0.4/24\nAddPrefixRoute=no\n"), "{int}");
    assert!(int.contains("Destination=10.1.0.0/24\nScope=link\nTable=1003\n"), "{int}");
    assert!(int.contains("Gateway=10.1.0.1\nGatewayOnLink=yes\nTable=1003\n"), "{int}");
    assert!(!int.contains("DHCP"), "{int}");
    let sync = text(&files, "sync");
    assert!(sync.contains("UseGateway=no"), "{sync}");
    assert!(sync.contains("IncomingInterface=lo\nTable=1001\nPriority=1100\n"), "{sync}");
}

#[test]
fn rules_get_the_names_that_devices_have_now() {
    let files = of(TWO, Platform::Other);
    let ext = text(&files, "ext");
    assert!(ext.contains("MACAddress=00:0d:3a:01:02:03\n"), "{ext}");
    let devices = Devices::from([([0, 0x0d, 0x3a, 1, 2, 3], "eth9".to_owned())]);
    let named = with_names(ext, &devices);
    assert!(named.contains("OutgoingInterface=eth9\n"), "{named}");
    assert!(!with_names(ext, &Devices::new()).contains("OutgoingInterface"));
    assert_eq!(with_names(text(&files, "mgmt"), &devices), text(&files, "mgmt"));
}
