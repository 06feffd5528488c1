//! Tables: a header, aligned columns, no frame; wrapped to the terminal and never cut when piped.

use super::output::say;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, TableStyle};

use super::paint::{Paint, Tone};

/// A table that is being filled.
#[derive(Debug)]
pub(crate) struct Grid {
    table: Table,
    columns: Vec<Column>,
    paint: Paint,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) align: Align,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    /// Numbers.
    Right,
}

impl From<&'static str> for Column {
    fn from(title: &'static str) -> Self {
        Self { title, align: Align::Left }
    }
}

/// A column of numbers.
pub(crate) const fn right(title: &'static str) -> Column {
    Column { title, align: Align::Right }
}

/// Columns of the terminal that shows standard error, if it is one.
pub(crate) fn stderr_width() -> Option<u16> {
    Table::new().use_stderr().width()
}

impl Grid {
    pub(crate) fn new<const N: usize>(columns: [Column; N]) -> Self {
        let paint = Paint::stdout();
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        // The terminal's width; piped output has none, and is never wrapped.
        match table.width() {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if paint.coloured {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let mut grid = Self { table, columns: columns.to_vec(), paint };
        let header: Vec<_> = grid
            .columns
            .iter()
            .map(|column| grid.cell(Tone::Faint, &column.title.to_uppercase(), column.align))
            .collect();
        grid.table.set_header(header);
        for column in grid.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        grid
    }

    /// Adds a row of plain cells.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.toned_row(cells.map(|cell| (Tone::Plain, cell)));
    }

    /// Adds a row whose cells have a tone each.
    pub(crate) fn toned_row<const N: usize>(&mut self, cells: [(Tone, String); N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has one cell a column");
        let row: Vec<_> = cells
            .iter()
            .zip(&self.columns)
            .map(|((tone, text), column)| self.cell(*tone, text, column.align))
            .collect();
        self.table.add_row(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The table's text, without blanks at the ends of lines.
    pub(crate) fn text(&self) -> String {
        self.table.trim_fmt()
    }

    /// Prints the table under a heading, if it has any row.
    pub(crate) fn print_under(&self, heading: &str) -> std::io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        say(format_args!("{}\n{}\n", self.paint.apply(Tone::Strong, heading), self.text()))
    }

    fn cell(&self, tone: Tone, text: &str, align: Align) -> Cell {
        let cell = Cell::new(text).set_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
        match tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Warning => cell.fg(Color::Yellow),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
        }
    }
}
