//! The table at the end of a bench.

use comfy_table::{Table, presets::ASCII_MARKDOWN};

/// The table of results.
pub(crate) struct Report(Table);

impl Report {
    pub(crate) fn new() -> Self {
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header([
            "what",
            "figure",
            "limit or baseline",
            "ratio",
            "target",
        ]);
        Self(table)
    }

    /// Adds a row: what was measured, its figure, the limit or baseline, the ratio of the two, and the target of the ratio.
    pub(crate) fn row(&mut self, [what, figure, baseline]: [&str; 3], ratio: Option<f64>, target: &str) {
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        self.0.add_row([what, figure, baseline, &ratio, target]);
    }

    #[expect(clippy::print_stdout, reason = "a benchmark reports on its terminal")]
    pub(crate) fn print(&self) {
        println!("\n{}\n", self.0);
    }
}
