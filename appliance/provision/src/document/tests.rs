#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

pub(crate) const ONE: &str = include_str!("../../tests/one.yaml");
pub(crate) const TWO: &str = include_str!("../../tests/two.yaml");

fn problems(text: &str) -> String {
    let problems = FirstBoot::read(text.as_bytes()).expect_err("it is wrong");
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn one_node_is_read() {
    let first = FirstBoot::read(ONE.as_bytes()).unwrap();
    assert_eq!(first.host[0].device, Device::Name("eth0".into()));
    let data: Vec<&str> = first.data.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(data, ["ext", "int"]);
    let routes: Vec<String> = first
        .routes
        .iter()
        .map(|route| format!("{} {} {:?}", route.to, route.out, route.via))
        .collect();
    assert_eq!(routes, ["0.0.0.0/0 ext None", "10.0.0.0/8 int None"]);
    assert!(matches!(first.trust, Some(Trust::Certificates { .. })));
    assert!(first.policy.unwrap().starts_with("apiVersion: gabion/v1\n"));
}

#[test]
fn the_examples_of_the_documentation_are_those_that_are_tested() {
    let page = include_str!("../../../../docs/first-boot.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples, [ONE, TWO]);
}

#[test]
fn a_member_of_a_cluster_is_read() {
    let first = FirstBoot::read(TWO.as_bytes()).unwrap();
    let cluster = first.cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.number, cluster.members.len()), ("fw", 1, 2));
    assert_eq!(first.host.len(), 2, "mgmt and sync");
    assert_eq!(first.data[0].device, Device::Mac([0, 0x0d, 0x3a, 1, 2, 3]));
    let fixed = first.data[1].addresses.as_ref().unwrap();
    assert_eq!(fixed.own[0].to_string(), "10.1.0.4/24");
    assert_eq!(first.routes.len(), 2, "both families by ext");
    assert!(matches!(first.trust, Some(Trust::Token(_))));
    assert_eq!(first.admin.unwrap().name, "ops");
}

#[test]
fn empty_data_and_other_versions_say_what_to_write() {
    for text in ["", "  \n\n", "\0\0\0"] {
        assert!(problems(text).contains("is empty: begin with `apiVersion"), "{text:?}");
    }
    assert!(problems("node: {}\n").contains("lacks `apiVersion: gabion/first-boot/v1`"));
    let other = problems("apiVersion: gabion/first-boot/v2\nwhat: ever\n");
    assert!(
        other.starts_with("first-boot data:1:13: apiVersion is \"gabion/first-boot/v2\""),
        "{other}"
    );
    let shell = problems("#!/bin/sh\necho hello\n");
    assert!(shell.starts_with("first-boot data:2:1: "), "{shell}");
    assert!(FirstBoot::read(b"\xff\xfe").unwrap_err()[0].to_string().contains("UTF-8"));
    let long = vec![b' '; DATA_BYTES_MAX as usize + 1];
    assert!(FirstBoot::read(&long).unwrap_err()[0].to_string().contains("at most"));
}

#[test]
fn mistakes_have_places_and_are_told_at_once() {
    let text = ONE
        .replace("name: fw-1", "name: -fw")
        .replace("ext: eth1", "ext: \"eth1;reboot\"")
        .replace("out: int", "out: dmz");
    let told = problems(&text);
    assert_eq!(told.lines().count(), 3, "{told}");
    for line in told.lines() {
        let place = line.strip_prefix("first-boot data:").unwrap();
        assert!(place.split(':').next().unwrap().parse::<u32>().unwrap() > 1, "{told}");
    }
}

#[test]
fn each_mistake_is_told_in_its_own_words() {
    for (from, to, word) in [
        ("mgmt: eth0", "extra: eth0", "interfaces lacks mgmt"),
        ("ext: eth1", "ext: eth0", "another interface has device eth0 already"),
        ("ext: eth1", "ext: lo", "is no device"),
        ("node:", "nodes:", "unknown field `nodes`"),
        ("to: 10.0.0.0/8", "to: 10.0.0.0/80", "is not a prefix"),
        (
            "{ health:",
            "{ interfaces: { dmz: eth3 }, health:",
            "settings.interfaces is not written here",
        ),
        ("{ health:", "{ node: { hold: no }, health:", "settings.node.hold is not written here"),
        ("name: fw-1", "name: fw-1, number: 1", "add `cluster`, or take it out"),
        ("ca: |", "cas: |", "trust: write { ca, certificate, key }"),
    ] {
        assert!(ONE.contains(from), "{from}");
        let told = problems(&ONE.replacen(from, to, 1));
        assert!(told.contains(word), "{word} is not in {told}");
    }
    for (from, to, word) in [
        ("number: 1", "number: 17", "node.number is 17"),
        (", number: 1", "", "needs node.number"),
        ("q83vASNFZ4mrze8BI0VniQ", "short", "22 characters at least"),
        ("name: ops", "name: root", "is no user's name"),
        ("ssh-ed25519 AAAA", "command=sh ssh-ed25519 AAAA", "admin.keys"),
    ] {
        assert!(TWO.contains(from), "{from}");
        let told = problems(&TWO.replacen(from, to, 1));
        assert!(told.contains(word), "{word} is not in {told}");
    }
    let (with_trust, _) = TWO.split_once("trust:").unwrap();
    assert!(problems(with_trust).contains("needs `trust`"));
}

#[test]
fn secrets_are_not_repeated() {
    const SECRET: &str = "c2VjcmV0IHRoYXQgbm9ib2R5IHJlYWRz";
    for trust in [
        format!("trust: {SECRET}\n"),
        format!("trust: [{SECRET}]\n"),
        format!("trust: {{ token: [{SECRET}] }}\n"),
        format!("trust: {{ token: {SECRET}, key: {SECRET} }}\n"),
        format!("trust: {{ ca: {SECRET}, certificate: {SECRET}, key: {SECRET} }}\n"),
        format!("trust: {{ {SECRET}: 1 }}\n"),
    ] {
        let (before, _) = TWO.split_once("trust:").unwrap();
        let told = problems(&format!("{before}{trust}"));
        assert!(told.contains("trust") && !told.contains(SECRET), "{told}");
    }
    let first = FirstBoot::read(TWO.as_bytes()).unwrap();
    let Some(Trust::Token(token)) = &first.trust else { panic!("it has a token") };
    assert!(!format!("{first:?}").contains(token.as_str()));
}

#[test]
fn aliases_do_not_grow() {
    let mut bomb = String::from(
        "apiVersion: gabion/first-boot/v1\nsettings:\n  a0: &a0 [x,x,x,x,x,x,x,x,x]\n",
    );
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let list = [before.as_str(); 9].join(",");
        bomb += &format!("  a{level}: &a{level} [{list}]\n");
    }
    assert!(FirstBoot::read(bomb.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
        let _ = FirstBoot::read(&bytes);
    }

    #[test]
    fn no_change_of_good_data_panics(at in 0..TWO.len(), cut in 0..40_usize, with in "\\PC{0,6}") {
        let mut bytes = TWO.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with.into_bytes());
        let _ = FirstBoot::read(&bytes);
    }
}

#[test]
fn data_that_grows_when_it_is_read_is_refused_at_a_limit() {
    const BEGIN: &str = "apiVersion: gabion/first-boot/v1\ninterfaces: { mgmt: eth0, ext: eth1 }\n";
    let deep = |open: &str, close: &str, times: usize| {
        format!("{BEGIN}settings: {{ a: {}1{} }}\n", open.repeat(times), close.repeat(times))
    };
    let mut aliases = format!("{BEGIN}settings:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        aliases += &format!("  a{level}: &a{level} [{before}]\n");
    }
    for (data, word) in [
        (deep("[", "]", 100_000), "recursion limit"),
        (deep("{ a: ", " }", 10_000), "Depth"),
        (aliases, "Nodes"),
    ] {
        let problems = FirstBoot::read(data.as_bytes()).unwrap_err();
        assert!(problems[0].message.contains(word), "{word}: {problems:?}");
    }
}
