//! What is going on, as a picture that is drawn anew several times a second; as lines where there is no terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::lab::report::Page;
use crate::present::{Paint, Tone};

/// Silence that is worth showing.
const SILENT: Duration = Duration::from_millis(400);
/// Connections in a row of the picture.
const ROW: usize = 64;
/// How often a line is written where no picture can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// SGR colours of the nodes (ECMA-48 section 8.3.117): cyan, magenta, blue, yellow.
const COLOURS: [&str; 4] = ["36", "35", "34", "33"];

/// One live connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// To which nodes the load balancers send the beginner's packets, and the answers.
    pub(super) ways: Option<[usize; 2]>,
    pub(super) silence: Duration,
    pub(super) is_lost: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeRow {
    pub(super) name: &'static str,
    /// As the load balancers see it.
    pub(super) is_up: bool,
    /// In its own words.
    pub(super) state: String,
    pub(super) owned: u64,
    pub(super) copies: u64,
    pub(super) forwarded: u64,
}

/// All of it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) nodes: Vec<NodeRow>,
    pub(super) cells: Vec<Cell>,
}

/// The place where it is drawn.
#[derive(Debug)]
pub(super) struct Screen {
    bar: ProgressBar,
    paint: Paint,
    begin: Instant,
    is_terminal: bool,
    last_line: Option<Instant>,
}

impl Screen {
    pub(super) fn new(Page { to_stderr, paint }: Page) -> Self {
        let is_terminal = if to_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        let target =
            if to_stderr { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is valid"));
        Self { bar, paint, begin: Instant::now(), is_terminal, last_line: None }
    }

    /// Draws it; as a line every now and then where nothing can be drawn.
    pub(super) fn draw(&mut self, picture: &Picture) {
        if self.is_terminal {
            self.bar.set_message(picture.drawn(self.paint));
        } else if self.last_line.is_none_or(|last| last.elapsed() > LINE_EVERY) {
            self.last_line = Some(Instant::now());
            self.say(&picture.summary());
        }
    }

    /// Writes something that stays, with the time.
    pub(super) fn say(&self, text: &str) {
        let at = format!("{:6.1} s", self.begin.elapsed().as_secs_f64());
        let line = format!("  {}  {text}", self.paint.apply(Tone::Faint, &at));
        if self.is_terminal {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    /// Leaves the last picture where it is.
    pub(super) fn end(&self) {
        self.bar.abandon();
    }
}

impl Picture {
    fn drawn(&self, paint: Paint) -> String {
        let mut text = String::from("\n");
        for (number, node) in self.nodes.iter().enumerate() {
            text += &self.node(number, node, paint);
        }
        text.push('\n');
        for (number, row) in self.cells.chunks(ROW).enumerate() {
            let label = if number == 0 { "connections" } else { "" };
            let cells: String = row.iter().map(|cell| cell.drawn(paint)).collect();
            text += &format!("  {label:12}{cells}\n");
        }
        text += &format!("\n  {}\n", self.summary());
        let legend =
            "colour: the node that it enters by   ● answers by the same node   ◆ by another";
        text += &format!("  {}", paint.apply(Tone::Faint, legend));
        text
    }

    fn node(&self, number: usize, node: &NodeRow, paint: Paint) -> String {
        let last = self.nodes.len() - 1;
        let middle = last / 2;
        let [before, after] = if number == middle {
            ["clients ── LB ──", "── LB ── servers"]
        } else {
            ["                ", ""]
        };
        let [left, right] = if last == 0 {
            ["─", "─"]
        } else if number == 0 {
            ["┬", "┬"]
        } else if number == last {
            ["└", "┘"]
        } else {
            ["├", "┤"]
        };
        // The first node's line turns the corner where the balancers stand beside another.
        let [left, right] = if number == 0 && middle != 0 { ["┌", "┐"] } else { [left, right] };
        let mark = if node.is_up {
            paint.apply(Tone::Good, "up  ")
        } else {
            paint.apply(Tone::Bad, "down")
        };
        let name = coloured(paint, number, node.name);
        let NodeRow { state, owned, copies, forwarded, .. } = node;
        format!(
            "  {before}{left}── {name} {mark} {state:10} owns {owned:>4}  copies {copies:>4}  handed over {forwarded:>7} ──{right}{after}\n"
        )
    }

    pub(super) fn summary(&self) -> String {
        let count =
            |which: &dyn Fn(&Cell) -> bool| self.cells.iter().filter(|cell| which(cell)).count();
        let lost = count(&|cell| cell.is_lost);
        let silent = count(&|cell| !cell.is_lost && cell.silence > SILENT);
        let apart = count(&|cell| cell.is_apart());
        let longest = self.cells.iter().filter(|cell| !cell.is_lost).map(|cell| cell.silence).max();
        format!(
            "{} alive, {apart} with answers by another node, {silent} silent (longest {:.1} s), {lost} lost",
            self.cells.len() - lost,
            longest.unwrap_or_default().as_secs_f64(),
        )
    }
}

impl Cell {
    fn is_apart(&self) -> bool {
        self.ways.is_some_and(|[there, back]| there != back)
    }

    fn drawn(&self, paint: Paint) -> String {
        if self.is_lost {
            return paint.apply(Tone::Bad, "✗");
        }
        if self.silence > SILENT {
            return paint.apply(Tone::Strong, "○");
        }
        let mark = if self.is_apart() { "◆" } else { "●" };
        self.ways.map_or_else(|| mark.to_owned(), |[there, _]| coloured(paint, there, mark))
    }
}

fn coloured(paint: Paint, node: usize, text: &str) -> String {
    if !paint.coloured {
        return text.to_owned();
    }
    format!("\x1b[{}m{text}\x1b[0m", COLOURS[node % COLOURS.len()])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cell, NodeRow, Picture};
    use crate::present::Paint;

    fn picture() -> Picture {
        let node = |name, is_up| NodeRow {
            name,
            is_up,
            state: "ready".to_owned(),
            owned: 2,
            copies: 1,
            forwarded: 17,
        };
        let cell = |ways, silence, is_lost| Cell {
            ways: Some(ways),
            silence: Duration::from_millis(silence),
            is_lost,
        };
        let cells = vec![
            cell([0, 0], 10, false),
            cell([0, 1], 10, false),
            cell([1, 0], 900, false),
            cell([1, 1], 9_000, true),
        ];
        Picture { nodes: vec![node("node-1", false), node("node-2", true)], cells }
    }

    #[test]
    fn every_connection_has_its_mark() {
        let drawn = picture().drawn(Paint { coloured: false });
        assert!(drawn.contains("connections ●◆○✗\n"), "{drawn}");
        assert!(drawn.contains("node-1 down"), "{drawn}");
    }

    #[test]
    fn the_summary_counts_the_lost_apart_from_the_silent() {
        let expected = "3 alive, 2 with answers by another node, 1 silent (longest 0.9 s), 1 lost";
        assert_eq!(picture().summary(), expected);
    }
}
