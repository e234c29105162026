//! `phasetrace score`: scores answers that were produced elsewhere, by a benchmark of the field.

use std::path::Path;

use anyhow::{Result, anyhow};
use probes::benchmark::{self, Figure};

use crate::cli::StoredArgs;
use crate::exit;
use crate::output;
use crate::report::check_writable;

pub(crate) fn run(args: &StoredArgs) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new("")))?;
    let benchmark = benchmark::all().iter().find(|benchmark| benchmark.name() == args.benchmark);
    let benchmark = benchmark.ok_or_else(|| anyhow!("{:?} is no benchmark that is known here", args.benchmark))?;
    let scored = benchmark.score(&args.items, &args.responses)?;
    let lines: String = scored.lines.iter().map(|line| format!("{line}\n")).collect();
    reports::write(&args.output, &lines)?;
    for note in &scored.notes {
        output::tell(&format!("note: {note}\n"));
    }
    output::print(&table(&scored.figures))?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
}

/// The figures, one per line.
fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
    let rows = figures.iter().map(|Figure { name, value, low, high, n, method }| {
        format!("{name:<width$}  {value:.3}  95 % interval {low:.3} to {high:.3}  n = {n}  ({method})\n")
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::{Figure, table};

    #[test]
    fn each_figure_has_its_interval_and_n() {
        let figure = |name: &str, value, n| Figure {
            name: name.to_owned(),
            value,
            low: value - 0.1,
            high: value + 0.1,
            n,
            method: "Wilson".to_owned(),
        };
        assert_eq!(
            table(&[figure("strict", 0.5, 12), figure("in full, strict", 0.25, 7)]),
            "strict           0.500  95 % interval 0.400 to 0.600  n = 12  (Wilson)\n\
             in full, strict  0.250  95 % interval 0.150 to 0.350  n = 7  (Wilson)\n"
        );
    }
}
