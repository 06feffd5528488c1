//! Segments of TCP against the windows of their flow, from the answer to a SYN to the last acknowledgement.

use super::*;

#[test]
fn a_segment_at_the_edge_of_the_windows_passes() {
    let Some(mut rig) = Rig::new() else { return };
    type Change = fn(&mut [TcpWindow; 2]);
    let changes: [Change; 4] = [
        // What is acknowledged is all that was sent.
        |_| (),
        // The last byte that the receiver takes, and the first that it may ask for again.
        |windows| windows[1].edge -= 900,
        |windows| windows[0].end += 1_102,
        // The oldest acknowledgement that may be on its way.
        |windows| windows[0].ack += 1,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let case = good();
        let mut entry = entry(&case);
        change(entry.tcp.as_mut().unwrap());
        let place = rig.table().install(&entry).unwrap();
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED, "{at}: {:?}", rig.exits());
        rig.table().remove(place);
    }
}

#[test]
fn a_segment_outside_the_windows_goes_to_the_engine() {
    type Change = fn(&mut [TcpWindow; 2]);
    let changes: [Change; 4] = [
        // Beyond what the receiver has granted; long before what it may still ask for.
        |windows| windows[1].edge -= 901,
        |windows| windows[0].end += 1_103,
        // Acknowledges what was never sent, or what was acknowledged long ago.
        |windows| windows[1].end -= 1,
        |windows| windows[0].ack += 2,
    ];
    for change in changes {
        assert_missed(Exit::TcpWindow, |_, entry, _| change(entry.tcp.as_mut().unwrap()));
    }
}

#[test]
fn whoever_has_sent_a_fin_sends_nothing_new() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    // What it has sent before ends with the segment, or a byte before that; the other may go on.
    for (behind, sent, passes) in
        [(0, [true, false], true), (1, [true, false], false), (1, [false, true], true)]
    {
        let mut entry = entry(&case);
        let windows = entry.tcp.as_mut().unwrap();
        windows[0].end = case.sequence + case.payload.len() as u32 - behind;
        windows[0].shift = 7;
        for (window, fin) in windows.iter_mut().zip(sent) {
            window.fin = fin;
        }
        let place = rig.table().install(&entry).unwrap();
        let verdict = rig.run(ZONES[0], &case.arrives()).0;
        assert_eq!(verdict == REDIRECTED, passes, "{behind} {sent:?}: {:?}", rig.exits());
        let usage = rig.table().remove(place);
        assert_eq!(usage.tcp.map(|window| window.fin), sent);
        assert_eq!(usage.tcp[0].shift, 7);
    }
}

/// Of a TCP segment.
const FIN: u8 = 1;

#[test]
fn a_fin_passes_once_and_ends_what_its_sender_may_send() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let mut entry = entry(&case);
    let start = entry.tcp.unwrap();
    let last = case.sequence + case.payload.len() as u32;
    // Nothing that was sent before lies behind it.
    entry.tcp.as_mut().unwrap()[0].end = last + 2;
    let place = rig.table().install(&entry).unwrap();
    let mut frame = case.arrives();
    frame[47] |= FIN;
    assert_eq!(rig.run(ZONES[0], &frame).0, TO_STACK);
    rig.table().remove(place);
    entry.tcp = Some(start);
    let place = rig.table().install(&entry).unwrap();
    assert_eq!(rig.run(ZONES[0], &frame).0, REDIRECTED);
    let sides = rig.table().take_usage(place).tcp;
    assert_eq!(sides.map(|side| side.fin), [true, false]);
    assert_eq!((sides[0].end, sides[0].window), (last + 1, start[0].window));
    // Again, and the same data without it.
    assert_eq!(rig.run(ZONES[0], &frame).0, TO_STACK);
    assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
    let exits = [(Exit::Forwarded, 2), (Exit::TcpWindow, 2)];
    assert_eq!(rig.exits(), exits);
}

#[test]
fn nothing_passes_when_both_have_acknowledged_the_others_fin() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let last = case.sequence + case.payload.len() as u32;
    for (missing, passes) in [(0, false), (1, true)] {
        let mut entry = entry(&case);
        let [sender, receiver] = entry.tcp.as_mut().unwrap();
        (sender.end, sender.fin, sender.ack) = (last, true, case.acknowledgement);
        (receiver.end, receiver.fin) = (case.acknowledgement, true);
        receiver.ack = last - missing;
        let place = rig.table().install(&entry).unwrap();
        let verdict = rig.run(ZONES[0], &case.arrives()).0;
        assert_eq!(verdict == REDIRECTED, passes, "{missing}: {:?}", rig.exits());
        rig.table().remove(place);
    }
    assert_eq!(rig.exits(), [(Exit::Forwarded, 1), (Exit::TcpFlags, 1)]);
}

#[test]
fn behind_a_syn_nothing_lies_below_and_what_passes_is_noted() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    // Where the first segment begins and what it acknowledges, against what is expected.
    for (sequence, acknowledgement, passes) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
        let mut entry = entry(&case);
        let sender = &mut entry.tcp.as_mut().unwrap()[0];
        sender.end = case.sequence + sequence;
        sender.ack = case.acknowledgement + acknowledgement;
        sender.opening = true;
        let place = rig.table().install(&entry).unwrap();
        assert!(rig.table().take_usage(place).tcp[0].opening);
        let verdict = rig.run(ZONES[0], &case.arrives()).0;
        assert_eq!(verdict == REDIRECTED, passes, "{sequence} {acknowledgement}");
        let usage = rig.table().take_usage(place);
        assert_eq!(usage.tcp[0].opening, !passes);
        // As soon as the engine knows more, a segment may come again.
        entry.tcp.as_mut().unwrap()[0].opening = false;
        rig.table().renew(place, &entry);
        assert_eq!(rig.run(ZONES[0], &case.arrives()).0, REDIRECTED);
        rig.table().remove(place);
    }
}

/// The answer to a SYN, with a scale of 5 or without one.
fn answer(case: &Case, scale: bool) -> Vec<u8> {
    let mut frame = case.arrives();
    frame[47] = 0x12;
    // In the place of two fillers and timestamps.
    let options: [u8; 12] = [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 5];
    frame[54..66].copy_from_slice(&options);
    if scale { frame } else { without_option(frame) }
}

/// Without the last word of its header.
fn without_option(mut frame: Vec<u8>) -> Vec<u8> {
    frame.drain(62..66);
    frame[46] -= 0x10;
    let length = frame.len() as u16 - 14;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    sum_header(&mut frame);
    frame
}

/// The flow of an answer, before it.
fn asked(case: &Case, unscaled: bool) -> FlowEntry {
    let mut entry = entry(case);
    let end = case.acknowledgement;
    let asking =
        TcpWindow { end, window: 500, shift: 7, opening: true, unscaled, ..TcpWindow::default() };
    entry.tcp = Some([asking, TcpWindow::default()]);
    entry
}

#[test]
fn the_answer_to_a_syn_passes_once_and_says_how_windows_are_scaled() {
    let Some(mut rig) = Rig::new() else { return };
    let case = Case { direction: 1, payload: vec![], ..good() };
    let (isn, ack) = (case.sequence, case.acknowledgement);
    for (unscaled, scale) in [(false, true), (false, false), (true, true)] {
        let place = rig.table().install(&asked(&case, unscaled)).unwrap();
        // Nothing else passes before.
        assert_eq!(rig.run(ZONES[1], &case.arrives()).0, TO_STACK);
        assert_eq!(rig.run(ZONES[1], &answer(&case, scale)).0, REDIRECTED, "{:?}", rig.exits());
        let FlowUsage { tcp: [originator, replier], answer: seen, .. } =
            rig.table().take_usage(place);
        assert_eq!(seen, Some(TcpAnswer { sequence: isn, shift: scale.then_some(5) }));
        let shifts = if scale && !unscaled { [7, 5] } else { [0, 0] };
        assert_eq!([originator.shift, replier.shift], shifts);
        assert_eq!(
            (originator.ack, originator.edge, originator.opening),
            (isn + 1, isn + 501, true)
        );
        let window = replier.window;
        assert_eq!((replier.end, replier.ack, replier.edge), (isn + 1, ack, ack + window));
        // Again it is for the engine to see which it is.
        assert_eq!(rig.run(ZONES[1], &answer(&case, scale)).0, TO_STACK);
        rig.table().remove(place);
    }
    assert_eq!(rig.exits(), [(Exit::Forwarded, 3), (Exit::TcpFlags, 6)]);
}

#[test]
fn what_is_no_plain_answer_to_the_syn_goes_to_the_engine() {
    let Some(mut rig) = Rig::new() else { return };
    let case = Case { direction: 1, payload: vec![], ..good() };
    let place = rig.table().install(&asked(&case, false)).unwrap();
    let good = answer(&case, true);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let others: [(Exit, Vec<u8>); 7] = [
        // It acknowledges something else, with a FIN or urgent data, or carries data.
        (Exit::TcpFlags, changed(&|frame| frame[45] ^= 1)),
        (Exit::TcpFlags, changed(&|frame| frame[47] |= FIN)),
        (Exit::TcpFlags, changed(&|frame| frame[47] |= 0x20)),
        (Exit::TcpFlags, answer(&Case { payload: vec![1; 4], ..case.clone() }, true)),
        // Two scales, another order, and an option that says nothing to the programs.
        (Exit::TcpOptions, changed(&|frame| frame[58..62].copy_from_slice(&[1, 3, 3, 2]))),
        (Exit::TcpOptions, changed(&|frame| frame[54..66].rotate_left(4))),
        (Exit::TcpOptions, changed(&|frame| frame[58..62].copy_from_slice(&[34, 2, 1, 1]))),
    ];
    for (exit, frame) in others {
        let before = rig.exits();
        assert_eq!(rig.run(ZONES[1], &frame).0, TO_STACK);
        assert_ne!(rig.exits(), before);
        assert!(rig.exits().iter().any(|(seen, _)| *seen == exit), "{exit:?}: {:?}", rig.exits());
        assert_eq!(rig.table().take_usage(place).answer, None);
    }
    assert_eq!(rig.run(ZONES[1], &good).0, REDIRECTED);
}

#[test]
fn windows_follow_what_passes() {
    let Some(mut rig) = Rig::new() else { return };
    let case = good();
    let mut entry = entry(&case);
    entry.tcp.as_mut().unwrap()[0].shift = 3;
    let place = rig.table().install(&entry).unwrap();
    let mut frame = case.arrives();
    frame[48..50].copy_from_slice(&500_u16.to_be_bytes());
    assert_eq!(rig.run(ZONES[0], &frame).0, REDIRECTED);
    let [sender, receiver] = rig.table().take_usage(place).tcp;
    let edge = 9_000 + (500 << 3);
    let window = 500 << 3;
    let expected =
        TcpWindow { end: 7_100, ack: 9_000, edge, window, shift: 3, ..TcpWindow::default() };
    assert_eq!(sender, expected);
    assert_eq!(receiver, entry.tcp.unwrap()[1]);
}
