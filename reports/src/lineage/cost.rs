//! What training took, phase by phase: time, tokens, and tokens per second.

use evals::diagnosis::{Cost, DEPLOYED, PhaseInfo};
use serde::Serialize;

use crate::number::{MISSING, count, duration};
use crate::words;

/// What the phases of a lineage took to train, as a table.
#[derive(Debug, Serialize)]
pub(crate) struct Costs {
    /// One row per phase.
    rows: Vec<Row>,
    /// All phases together; `None` where there is one.
    total: Option<Row>,
}

/// One row of it.
#[derive(Debug, Serialize)]
struct Row {
    phase: String,
    time: String,
    tokens: String,
    per_second: String,
}

/// The table of a lineage; `None` where no log tells of any phase.
pub(crate) fn costs(phases: &[PhaseInfo]) -> Option<Costs> {
    let trained: Vec<&PhaseInfo> = phases.iter().filter(|phase| phase.name != DEPLOYED).collect();
    if trained.iter().all(|phase| known(phase).is_none()) {
        return None;
    }
    let total: Option<Cost> = trained.iter().map(|phase| known(phase)).sum();
    let missing = |phase: &PhaseInfo| if phase.name == DEPLOYED { "no training" } else { "no log" };
    Some(Costs {
        rows: phases.iter().map(|phase| row(words::phase(&phase.name), known(phase), missing(phase))).collect(),
        total: (trained.len() > 1).then(|| row("All phases".to_owned(), total, "not known: a log is missing")),
    })
}

// A log without a step tells nothing.
fn known(phase: &PhaseInfo) -> Option<Cost> {
    phase.cost.filter(|cost| cost.seconds > 0.0)
}

fn row(phase: String, cost: Option<Cost>, missing: &str) -> Row {
    let Some(cost) = cost else {
        let none = || MISSING.to_owned();
        return Row { phase, time: missing.to_owned(), tokens: none(), per_second: none() };
    };
    let whole = |number: f64| count(number.round() as usize);
    Row {
        phase,
        time: duration(cost.seconds),
        tokens: whole(cost.tokens),
        per_second: cost.tokens_per_s().map_or_else(|| MISSING.to_owned(), whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, cost: Option<(f64, f64)>) -> PhaseInfo {
        let cost = cost.map(|(seconds, tokens)| Cost { seconds, tokens });
        PhaseInfo { name: name.to_owned(), cost, ..PhaseInfo::default() }
    }

    #[test]
    fn a_sum_with_an_unknown_part_is_not_known() {
        let phases = [phase("pretrain", Some((60.0, 6e5))), phase("sft", None), phase(DEPLOYED, None)];
        let costs = costs(&phases).unwrap();
        let times: Vec<&str> = costs.rows.iter().map(|row| row.time.as_str()).collect();
        assert_eq!(times, ["1 min 00 s", "no log", "no training"]);
        assert_eq!(costs.rows[0].per_second, "10,000");
        assert_eq!(costs.total.unwrap().time, "not known: a log is missing");
        assert!(super::costs(&phases[1..]).is_none());
    }
}
