//! Plots as SVG, by hand: dots with intervals, and lines.

use std::fmt::Write as _;

use super::Measured;

pub(super) const RATIOS: &str = "ratios.svg";
pub(super) const FRAMES: &str = "frames.svg";

/// Of bars and lines, in turn.
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#2e8b57", "#8a5fb0", "#777777", "#b8860b"];
const ROW: usize = 16;
const LEFT: usize = 420;
const WIDTH: usize = 900;
const HEIGHT: usize = 360;
const MARGIN: usize = 50;

fn begin(width: usize, height: usize) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

fn line(plot: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        plot,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text(plot: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(plot, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn dot(plot: &mut String, x: f64, y: f64, colour: &str) {
    let _ = writeln!(plot, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
}

/// Every arm's ratio to its base with its interval, on a scale of powers of two.
pub(super) fn ratios(measured: &[Measured]) -> String {
    let rows: usize = measured.iter().map(|m| m.ratios.len() + 1).sum();
    let height = (rows + 3) * ROW;
    let mut plot = begin(WIDTH, height);
    let at = |ratio: f64| {
        let share = (ratio.clamp(0.125, 8.0).log2() + 3.0) / 6.0;
        LEFT as f64 + share * (WIDTH - LEFT - MARGIN) as f64
    };
    for tick in [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0] {
        let colour = if tick == 1.0 { "#333333" } else { "#dddddd" };
        line(&mut plot, (at(tick), 20.0), (at(tick), (height - ROW) as f64), colour);
        text(&mut plot, at(tick), 14.0, "middle", &tick.to_string());
    }
    let mut row = 2;
    for measured in measured {
        let less = if measured.is_time { ", less is better" } else { "" };
        let void = if measured.void { ", VOID" } else { "" };
        let title = format!("{} / {}{less}{void}", measured.name, measured.base);
        text(&mut plot, 4.0, (row * ROW) as f64 + 4.0, "start", &title);
        row += 1;
        for (place, arm) in measured.arms.iter().enumerate() {
            let Some(ratio) = measured.ratios.get(arm) else { continue };
            let (y, colour) = ((row * ROW) as f64, COLOURS[place % COLOURS.len()]);
            text(
                &mut plot,
                LEFT as f64 - 8.0,
                y + 4.0,
                "end",
                &format!("{arm} {:.2}", ratio.median),
            );
            line(&mut plot, (at(ratio.low), y), (at(ratio.high), y), colour);
            dot(&mut plot, at(ratio.median), y, colour);
            row += 1;
        }
    }
    plot + "</svg>\n"
}

/// Packets a second by the size of their frames; `None` where fewer than two sizes were measured.
pub(super) fn frames(measured: &[Measured]) -> Option<String> {
    let sizes: Vec<(&str, &Measured)> = measured
        .iter()
        .filter_map(|m| Some((m.name.strip_prefix("rate/forward/udp4-snat/")?, m)))
        .filter(|(size, _)| size.parse::<u32>().is_ok())
        .collect();
    let arms = &sizes.first().filter(|_| sizes.len() > 1)?.1.arms;
    let most = sizes.iter().flat_map(|(_, m)| m.medians.values()).fold(1.0_f64, |a, &b| a.max(b));
    let x = |place: usize| {
        MARGIN as f64 * 1.5 + ((WIDTH - 5 * MARGIN) * place) as f64 / (sizes.len() - 1) as f64
    };
    let y = |value: f64| (HEIGHT - MARGIN) as f64 - value / most * (HEIGHT - 2 * MARGIN) as f64;
    let mut plot = begin(WIDTH, HEIGHT);
    for quarter in 0..=4 {
        let value = most * f64::from(quarter) / 4.0;
        line(&mut plot, (x(0), y(value)), (x(sizes.len() - 1), y(value)), "#dddddd");
        text(&mut plot, x(0) - 8.0, y(value) + 4.0, "end", &format!("{:.2} M/s", value / 1e6));
    }
    for (place, (size, _)) in sizes.iter().enumerate() {
        text(&mut plot, x(place), (HEIGHT - MARGIN) as f64 + 18.0, "middle", &format!("{size} B"));
    }
    for (number, arm) in arms.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<(f64, f64)> = sizes
            .iter()
            .enumerate()
            .filter_map(|(place, (_, m))| Some((x(place), y(*m.medians.get(arm)?))))
            .collect();
        for pair in points.windows(2) {
            line(&mut plot, pair[0], pair[1], colour);
        }
        for &(x, y) in &points {
            dot(&mut plot, x, y, colour);
        }
        let at = (WIDTH as f64 - 3.0 * MARGIN as f64, (MARGIN + number * ROW) as f64);
        dot(&mut plot, at.0, at.1, colour);
        text(&mut plot, at.0 + 10.0, at.1 + 4.0, "start", arm);
    }
    Some(plot + "</svg>\n")
}
