//! Several workers: whose door a packet goes to, and whose judgement counts.

use super::*;

const WORKERS: u16 = 3;

fn rig() -> Option<Rig> {
    std::env::var_os("GABION_NETNS")?;
    let mut rig = Rig::shared_by(1_000, WORKERS);
    rig.table().set_host_ports(&[4480]);
    Some(rig)
}

/// The worker at whose door the frame arrives, by opening one at a time.
fn door_of(rig: &mut Rig, frame: &[u8]) -> u16 {
    let mut found = Vec::new();
    for worker in 0..WORKERS {
        let mut doors = [0; WORKERS as usize];
        doors[usize::from(worker)] = NOWHERE;
        assert!(rig.table().ports.set(Port(0), TRIAL_INTERFACE, &doors));
        let (verdict, out) = rig.run(ZONES[0], frame);
        assert_eq!(out, frame);
        if verdict == REDIRECTED {
            found.push(worker);
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[test]
fn what_nobody_has_goes_to_its_sources_worker_and_what_somebody_has_to_him() {
    let Some(rig) = rig() else { return };
    let rig = RefCell::new(rig);
    let shards = rig.borrow_mut().table().shards();
    let mut runner =
        TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    runner
        .run(&(packets::case(), 0..WORKERS), |(case, worker)| {
            let mut rig = rig.borrow_mut();
            let keys = case.keys();
            prop_assume!(keys[0] != keys[1]);
            let (frame, key) = (case.arrives(), keys[case.direction]);
            prop_assume!(key.destination.port != 68 && key.destination.port != 546);
            prop_assume!(key.destination.port != 4480);
            prop_assert_eq!(door_of(&mut rig, &frame), shards.choose(key.source.address));
            prop_assert_eq!(shards.claim([&keys[0], &keys[1]], worker), Ok(()));
            prop_assert_eq!(door_of(&mut rig, &frame), worker);
            shards.release([&keys[0], &keys[1]], worker);
            prop_assert_eq!(door_of(&mut rig, &frame), shards.choose(key.source.address));
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_opens_and_ends_connections_goes_to_who_has_them_and_fragments_to_the_sources() {
    let Some(mut rig) = rig() else { return };
    let case = good();
    let (keys, shards) = (case.keys(), rig.table().shards());
    let chosen = shards.choose(keys[0].source.address);
    let worker = (chosen + 1) % WORKERS;
    shards.claim([&keys[0], &keys[1]], worker).unwrap();
    for flags in [0x02, 0x12, 0x11, 0x04, 0x14] {
        let mut frame = case.arrives();
        frame[47] = flags;
        assert_eq!(door_of(&mut rig, &frame), worker, "{flags:#x}");
    }
    let mut fragment = Case { protocol: Protocol::Udp, ..good() }.arrives();
    fragment[20] = 0x20;
    sum_header(&mut fragment);
    rig.table().set_host_ports(&[]);
    assert!(rig.table().ports.set(Port(0), TRIAL_INTERFACE, &[]));
    assert_eq!(rig.run(ZONES[0], &fragment).0, TO_STACK);
    // ICMP has no key of ours here: its source says where it goes.
    let mut query = good().arrives();
    query[23] = 1;
    sum_header(&mut query);
    assert_eq!(door_of(&mut rig, &query), chosen);
}

#[test]
fn each_worker_has_places_of_its_own_and_its_judgement_alone_counts_for_them() {
    let Some(mut rig) = rig() else { return };
    let case = good();
    for worker in 0..usize::from(WORKERS) {
        let place = rig.trial.tables()[worker].install(&entry(&case)).unwrap();
        assert_eq!(place, FlowPlace(0));
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
        for closed in 0..usize::from(WORKERS) {
            rig.trial.tables()[closed].set_stamp(0);
            let is_moved = rig.run(ZONES[0], &case.arrives()).0 == REDIRECTED;
            assert_eq!(is_moved, closed != worker, "{worker} {closed}");
            rig.trial.tables()[closed].set_stamp(STAMP);
        }
        // Another worker's hop in the same place is another hop.
        rig.trial.tables()[(worker + 1) % 3].set_hop(HOP, None);
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
        rig.trial.tables()[worker].set_hop(HOP, None);
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, TO_STACK);
        let hop = NextHop { interface: TRIAL_INTERFACE, source: OURS, destination: NEXT, mtu: MTU };
        rig.trial.tables().iter_mut().for_each(|table| table.set_hop(HOP, Some(hop)));
        let usage = rig.trial.tables()[worker].remove(place);
        assert_eq!(usage.packets, [4, 0]);
    }
}

/// Who says that a destination is flooded, and whom another knows, holds for all: it is one table.
#[test]
fn programs_challenge_for_whichever_worker_and_let_in_whom_any_of_them_knows() {
    let Some(mut rig) = rig() else { return };
    let [first, second, third] = rig.trial.tables() else { panic!("{WORKERS}") };
    assert!(!first.may_have_challenged());
    let address = |address: [u8; 4]| std::net::IpAddr::from(address);
    let to = WireEndpoint { address: address([203, 0, 113, 7]), port: 443 };
    second.set_challenge_state([1, 2, 3, 4]);
    second.challenge(to, ZONES[0]);
    third.know(address([198, 51, 100, 9]));
    assert!(first.may_have_challenged() && third.may_have_challenged());
    for (last, is_asked) in [(8, true), (9, false)] {
        let builder = etherparse::PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], [0; 6])
            .ipv4([198, 51, 100, last], [203, 0, 113, 7], 60)
            .tcp(40_000, 443, 7, 64_000)
            .syn();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        let (verdict, _) = rig.run(ZONES[0], &frame);
        let exit = if is_asked { Exit::Challenged } else { Exit::TcpFlags };
        assert_eq!(verdict == REDIRECTED, is_asked, "{:?}", rig.exits());
        assert!(rig.exits().contains(&(exit, 1)), "{:?}", rig.exits());
    }
}
