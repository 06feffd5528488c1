//! The engine's tables alone: what a lookup takes, what a connection takes, what a port takes.

mod lookup;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let flows = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    for family in [lookup::Family::Ipv4, lookup::Family::Ipv6] {
        lookup::measure(flows, family);
    }
}
