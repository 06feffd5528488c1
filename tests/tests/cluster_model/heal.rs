//! What becomes of a state when nothing goes wrong any more.

use std::collections::VecDeque;

use super::node::{FLOWS, Id, Message, Net, Node, Power, Rules};
use super::world::{State, Step};

/// Rounds in which owners register, packets come to every node, and everything arrives.
const ROUNDS: usize = 3;
/// More messages than follow from anything that one round does.
const PATIENCE: usize = 2_000;

/// Whether, when all views are right and everything arrives, each connection that is left has one owner at
/// most, every packet finds it, and nobody owns what has ended.
pub(super) fn converges(state: &State, rules: &Rules) -> bool {
    let mut state = state.clone();
    // What was still on the way comes at the worst time: in the middle.
    let mut late: VecDeque<Message> = std::mem::take(&mut state.net).into_iter().collect();
    mend(&mut state, rules);
    for _ in 0..ROUNDS {
        if !round(&mut state, rules) {
            return false;
        }
        late.retain(|message| state.node(message.to).power == Power::Up);
        if !deliver(&mut state, std::mem::take(&mut late), rules) {
            return false;
        }
    }
    (0..FLOWS as u8).all(|flow| is_settled(&mut state, flow, rules))
}

fn mend(state: &mut State, rules: &Rules) {
    for node in &mut state.nodes {
        if node.power == Power::Paused {
            node.resume();
        }
    }
    let truth: Vec<u8> = state
        .nodes
        .iter()
        .map(|node| if node.power == Power::Up { node.incarnation } else { 0 })
        .collect();
    for node in &mut state.nodes {
        for (peer, incarnation) in truth.iter().enumerate() {
            node.see(peer as Id, *incarnation);
        }
    }
    for id in 0..rules.nodes {
        if !state.node(id).has_joined && state.can_join(state.node(id), rules) {
            state.join(id, rules);
        }
    }
}

fn round(state: &mut State, rules: &Rules) -> bool {
    for id in 0..rules.nodes {
        for flow in 0..FLOWS as u8 {
            let mut out = Net::new();
            let node = &mut state.nodes[usize::from(id)];
            if node.power != Power::Up {
                continue;
            }
            node.register(flow, rules, &mut out);
            if !deliver(state, out.into_iter().collect(), rules) {
                return false;
            }
            if let Some(own) = &mut state.nodes[usize::from(id)].own[usize::from(flow)] {
                own.is_doubtful = false;
            }
            for key in 0..rules.keys {
                if state.connections[usize::from(flow)].runs {
                    state.take(Step::Packet { flow, key, at: id }, rules);
                    let out = std::mem::take(&mut state.net).into_iter().collect();
                    if !deliver(state, out, rules) {
                        return false;
                    }
                }
            }
        }
    }
    true
}

/// Everything arrives once, and what is sent because of it too.
fn deliver(state: &mut State, mut queue: VecDeque<Message>, rules: &Rules) -> bool {
    for _ in 0..PATIENCE {
        let Some(message) = queue.pop_front() else { return true };
        if state.node(message.to).power == Power::Up {
            let mut out = Net::new();
            state.nodes[usize::from(message.to)].receive(message, rules, &mut out);
            queue.extend(out);
        }
    }
    false
}

fn is_settled(state: &mut State, flow: u8, rules: &Rules) -> bool {
    if !state.connections[usize::from(flow)].runs {
        return true;
    }
    if state.owners(usize::from(flow)).count() == 0 {
        return can_begin_again(state, flow, rules);
    }
    let reaches = |node: &Node| node.power != Power::Up || leads_to_owner(state, node, flow);
    state.owners(usize::from(flow)).count() == 1 && state.nodes.iter().all(reaches)
}

/// By its hint, a node of a settled cluster reaches the owner.
fn leads_to_owner(state: &State, node: &Node, flow: u8) -> bool {
    let place = usize::from(flow);
    node.own[place].is_some()
        || node.hint[place].is_some_and(|hint| state.node(hint.owner).own[place].is_some())
}

/// A flow that nobody has any more, as its owner died before anybody else knew of it: its first packet, sent
/// again, must make one at some node.
fn can_begin_again(state: &State, flow: u8, rules: &Rules) -> bool {
    state
        .nodes
        .iter()
        .filter(|node| node.power == Power::Up)
        .any(|node| rules.ports || node.may_begin(flow, rules))
}
