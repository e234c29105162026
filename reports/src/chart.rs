//! Charts as inline SVG: drawn here, coloured by the page's style sheet, each with its data as a table.

pub(crate) mod change;
pub(crate) mod curve;
pub(crate) mod cutoff;
pub(crate) mod flow;
pub(crate) mod interval;
mod label;
pub(crate) mod over_optimisation;
pub(crate) mod plane;
pub(crate) mod reliability;
pub(crate) mod risk_coverage;
mod ruler;
pub(crate) mod spread;
pub(crate) mod svg;
pub(crate) mod trade_off;
pub(crate) mod trend;
pub(crate) mod waterfall;

use minijinja::Value;
use serde::Serialize;

/// A drawing and the numbers in it.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    /// The drawing, marked as safe HTML; its texts are escaped by `svg`.
    pub(crate) svg: Value,
    /// What it shows, one line.
    pub(crate) title: String,
    /// Heads of the data table.
    pub(crate) columns: Vec<String>,
    /// Rows of the data table.
    pub(crate) rows: Vec<Vec<String>>,
}

/// Table heads from literals.
fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|&n| n.to_owned()).collect()
}
