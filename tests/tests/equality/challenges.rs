//! What the programs ask sources of SYNs is what the engine would have asked, and it hears the answers.

use gabion_engine::{
    DropReason, Engine, EngineConfig, Frame, Generation, InterfaceId, Limits, Offload, Verdict,
    build,
};
use gabion_tests::network::network;
use gabion_tests::walk::read_packet;
use gabion_tests::walk::seen::Kind as Seen;
use gabiond::clock::Clock;

use super::kernel::Kernel;
use super::run::{interfaces, own_links};

/// One handshake of anybody's, and one of somebody known.
const POLICY: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  flood: { half-open-per-destination: 2 }
rules:
  - { name: in, from: internet, to: spokes, service: tcp/443, action: allow }
";

const EXT: InterfaceId = InterfaceId(0);

fn engine(kernel: &mut Kernel) -> Engine {
    let config = EngineConfig { limits: Limits::default(), seed: [9; 32], cluster: None };
    let mut engine = Engine::new(Clock.now(), config);
    engine.use_fast_path(kernel.table(usize::MAX));
    engine.set_network(own_links(network()));
    let rules = gabion_rules::load("floods.yaml", POLICY, None).unwrap().rule_set;
    engine.set_rules(Generation(1), rules);
    engine.open();
    engine
}

fn to_node(builder: build::FrameBuilder) -> Vec<u8> {
    let mut frame = builder.frame();
    frame[4..6].copy_from_slice(&[0xe0, EXT.0 as u8]);
    frame
}

fn handle(engine: &mut Engine, frame: &[u8]) -> Verdict {
    let mut bytes = frame.to_vec();
    let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
    engine.handle_frame(Clock.now(), EXT, &mut frame)
}

fn is_let_in(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Forward { .. } | Verdict::Held)
}

#[test]
fn what_the_programs_ask_the_engine_hears() {
    let Some(mut kernel) = Kernel::new(&interfaces()) else { return };
    kernel.let_ask();
    let mut engine = engine(&mut kernel);
    for (to, sources) in [
        ("10.1.0.10:443", ["198.51.100.1:1000", "198.51.100.2:1000", "198.51.100.3:1000"]),
        ("[2600:2::10]:443", ["[2600:9:1::1]:1000", "[2600:9:2::1]:1000", "[2600:9:3::1]:1000"]),
    ] {
        let syns = sources.map(|from| {
            to_node(build::tcp().from(from).to(to).syn().seq(77).mss(1_460).window(64_000))
        });
        assert_eq!(kernel.answer(EXT, &syns[0]), None, "no flood yet");
        assert!(is_let_in(handle(&mut engine, &syns[0])));
        assert_eq!(kernel.answer(EXT, &syns[1]), None);
        let challenged = Verdict::Reject(DropReason::SynChallenged);
        assert_eq!(handle(&mut engine, &syns[1]), challenged);
        // From now on, the programs ask: whoever has been let in, too, if he sends his SYN again.
        for (syn, from) in [(&syns[2], sources[2]), (&syns[0], sources[0])] {
            let challenge = kernel.answer(EXT, syn).expect("a challenge");
            let seen = read_packet(&challenge[14..]).unwrap();
            assert_eq!(seen.key, read_packet(&syn[14..]).unwrap().key.reversed());
            let Seen::Tcp { acknowledgement, syn: false, .. } = seen.kind else {
                panic!("{seen:?}")
            };
            let rst = |number: u32| to_node(build::tcp().from(from).to(to).rst().seq(number));
            assert_eq!(kernel.answer(EXT, &rst(acknowledgement)), None, "the engine's");
            let met = Verdict::Drop(DropReason::ChallengeMet);
            assert_ne!(handle(&mut engine, &rst(acknowledgement ^ 1)), met);
            assert_eq!(handle(&mut engine, &rst(acknowledgement)), met);
            assert_eq!(kernel.answer(EXT, syn), None, "it is known");
            assert!(is_let_in(handle(&mut engine, syn)));
        }
        assert_eq!(
            engine
                .flows(0, 10)
                .0
                .iter()
                .filter(|flow| flow.original.destination.to_string() == to)
                .count(),
            2
        );
    }
}
