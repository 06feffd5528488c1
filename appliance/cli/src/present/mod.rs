//! How things look: numbers, tables, colours on a terminal, and JSON beside each table.

mod json;
mod notation;
mod number;
mod output;
mod paint;
mod table;

pub(crate) use json::{
    CountersJson, DiagnosticJson, EventJson, ExplanationJson, FlowJson, RevisionJson, TestJson,
    kind_label, print_json, time_text,
};
pub(crate) use notation::endpoint;
pub(crate) use number::{age, bytes, count, duration};
pub(crate) use output::{say, write_out};
pub(crate) use paint::{Paint, Tone};
pub(crate) use table::{Grid, right, stderr_width};
