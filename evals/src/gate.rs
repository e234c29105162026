//! Whether a lineage deviates from healthy runs anywhere by more than healthy runs do somewhere.
//!
//! A cell is one behaviour on one route after one phase. Of some forty cells one looks bad by chance in most healthy runs, so a run
//! is judged by its largest deviation over many cells, beside the largest deviation of each healthy run. That bounds the share of
//! healthy runs of one chain of checkpoints that are accused of anything, whatever the distribution of the values and however the cells
//! hang together; a run with two chains is judged twice.
//!
//! The cells of the last checkpoint are one family: they say whether the model fails. Those of the checkpoints before are another: they
//! say whether a fault is hidden. What is too small to be a failure counts as no deviation, else cells in which healthy runs
//! agree to a point or two would set the measure for all others.
//!
//! A cell of the last checkpoint deviates by how low it is or by how much the last phase lost, whichever is further from healthy runs:
//! these differ by tens of points in what they have learnt, and by few in what alignment takes away again.

use std::ops::Range;

use probes::item::Behaviour;

use crate::attribution::ALPHA;
use crate::diagnosis::{DeviatingCell, FamilyGate};
use crate::path::{MIN_EFFECT, Path};
use crate::reference::{LEAST_SD, Route, changes, spread};

/// Healthy runs that a p-value of 5 % takes: with `K` runs the least is `1/(K + 1)`.
pub const LEAST_RUNS: usize = 19;

/// What a run shows in one place, and what healthy runs show there.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The run that is judged.
    pub observed: f64,
    /// The healthy ones, in the same order in all places.
    pub healthy: &'a [f64],
}

impl Seen<'_> {
    /// The value of one run and those of all others; of the run that is judged where `run` is `None`.
    fn beside(self, run: Option<usize>) -> (f64, Vec<f64>) {
        let mut others = self.healthy.to_vec();
        let value = run.map_or(self.observed, |run| std::mem::replace(&mut others[run], self.observed));
        (value, others)
    }
}

/// A cell: its value, and where what the phase changed counts too, the value before the phase.
#[derive(Debug, Clone, Copy)]
pub struct Cell<'a> {
    /// After the phase.
    pub after: Seen<'a>,
    /// Before it.
    pub before: Option<Seen<'a>>,
}

impl Cell<'_> {
    /// How far a run deviates; the one that is judged where `run` is `None`.
    fn deviation(&self, run: Option<usize>) -> f64 {
        let (value, others) = self.after.beside(run);
        let level = studentised(value, &others);
        let Some(before) = self.before.filter(|_| level > 0.0) else { return level };
        let (value_before, others_before) = before.beside(run);
        level.max(studentised(value - value_before, &changes(&others_before, &others)))
    }
}

/// How far a run deviates in each cell, and how far healthy runs deviate at most.
///
/// # Formula
/// `t = (mean - x) / (sd sqrt(1 + 1/K))`, mean and standard deviation over the `K` other runs, the run in question among them when
/// a healthy one is judged; 0 where `mean - x` is below 10 points. Where the value before counts too, the larger of this and of the
/// same of the change, as long as neither is 0. `p = (1 + #{healthy: max t >= t}) / (K + 1)` is at most `a` in a share `a` of healthy
/// runs, and holds for all cells of a run together.
///
/// # Reference
/// Vovk, Gammerman and Shafer 2005, *Algorithmic Learning in a Random World* (full conformal prediction); Westfall and Young 1993,
/// *Resampling-Based Multiple Testing* (the largest statistic).
#[derive(Debug, Clone, PartialEq)]
pub struct Deviations {
    /// Studentised shortfall in each cell; positive where the run is worse than healthy ones.
    pub cells: Vec<f64>,
    /// Largest over all cells, one per healthy run.
    pub healthy: Vec<f64>,
}

impl Deviations {
    /// Measures a run beside healthy ones.
    pub fn measure(cells: &[Cell<'_>]) -> Self {
        let n_healthy = cells.first().map_or(0, |cell| cell.after.healthy.len());
        let largest = |run| cells.iter().map(|cell| cell.deviation(Some(run))).fold(f64::NEG_INFINITY, f64::max);
        Self {
            cells: cells.iter().map(|cell| cell.deviation(None)).collect(),
            healthy: (0..n_healthy).map(largest).collect(),
        }
    }

    /// Share of runs, this one among them, that deviate as far as this somewhere.
    pub fn p_value(&self, deviation: f64) -> f64 {
        let as_far = self.healthy.iter().filter(|largest| **largest >= deviation).count();
        (1 + as_far) as f64 / (1 + self.healthy.len()) as f64
    }
}

fn studentised(value: f64, others: &[f64]) -> f64 {
    let (mean, sd) = spread(others);
    if mean - value < MIN_EFFECT {
        return 0.0;
    }
    (mean - value) / (sd.unwrap_or(0.0).max(LEAST_SD) * (1.0 + 1.0 / others.len() as f64).sqrt())
}

/// The gate of one lineage.
pub(crate) struct Gate {
    last: Cells,
    earlier: Cells,
}

/// Cells that are judged together.
struct Cells {
    /// Behaviour, route and phase of each.
    places: Vec<(Behaviour, Route, usize)>,
    deviations: Deviations,
}

impl Cells {
    /// The cells of these phases; `with_change` where what each phase changed counts too.
    fn of(paths: &[(Route, &Path)], phases: Range<usize>, with_change: bool) -> Self {
        let (mut places, mut cells) = (Vec::new(), Vec::new());
        for (route, path) in paths {
            for phase in phases.clone() {
                if let Some(after) = path.seen(phase) {
                    let before = phase.checked_sub(1).filter(|_| with_change).and_then(|before| path.seen(before));
                    places.push((path.behaviour, *route, phase));
                    cells.push(Cell { after, before });
                }
            }
        }
        Self { places, deviations: Deviations::measure(&cells) }
    }
}

impl Gate {
    /// Judges the cells of a lineage together; `None` where the last checkpoint has no healthy runs to be compared with.
    pub(crate) fn of(paths: &[(Route, &Path)]) -> Option<Self> {
        let last = paths.first().map_or(0, |(_, path)| path.values.len().saturating_sub(1));
        let gate = Self { last: Cells::of(paths, last..last + 1, true), earlier: Cells::of(paths, 0..last, false) };
        (!gate.last.places.is_empty()).then_some(gate)
    }

    /// Number of healthy runs.
    pub(crate) fn n_healthy(&self) -> usize {
        self.last.deviations.healthy.len()
    }

    /// Number of cells of the last checkpoint.
    pub(crate) fn n_cells(&self) -> usize {
        self.last.places.len()
    }

    /// Whether there are runs enough for a verdict at 5 %.
    pub(crate) fn is_decisive(&self) -> bool {
        self.n_healthy() >= LEAST_RUNS
    }

    /// Family-wise p-value of a cell; `None` where it has no healthy runs, or too few of them.
    pub(crate) fn p_value(&self, behaviour: Behaviour, route: Route, phase: usize) -> Option<f64> {
        let p_value = |cells: &Cells| {
            let at = cells.places.iter().position(|place| *place == (behaviour, route, phase))?;
            Some(cells.deviations.p_value(cells.deviations.cells[at]))
        };
        p_value(&self.last).or_else(|| p_value(&self.earlier)).filter(|_| self.is_decisive())
    }

    /// What the diagnosis keeps; `names` are the phases.
    pub(crate) fn record(&self, names: &[String]) -> FamilyGate {
        let largest = self.last.deviations.cells.iter().copied().fold(0.0, f64::max);
        let cells = [&self.last, &self.earlier].into_iter().flat_map(|of| of.places.iter().zip(&of.deviations.cells));
        let exceeding = cells
            .filter(|(place, _)| self.p_value(place.0, place.1, place.2).is_some_and(|p| p <= ALPHA))
            .map(|(&(behaviour, route, phase), &deviation)| DeviatingCell {
                behaviour,
                route,
                phase: names[phase].clone(),
                deviation,
            })
            .collect();
        FamilyGate {
            p_value: self.is_decisive().then(|| self.last.deviations.p_value(largest)),
            n_healthy: self.n_healthy(),
            n_cells: self.n_cells(),
            exceeding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Deviations, Seen};
    use crate::random::{normal, stream};
    use rand::Rng;

    const N_CELLS: usize = 36;

    fn level(observed: f64, healthy: &[f64]) -> Cell<'_> {
        Cell { after: Seen { observed, healthy }, before: None }
    }

    /// A healthy run: cells that hang together (correlation 0.5), on a scale far above the least standard deviation.
    fn run(rng: &mut impl Rng) -> Vec<f64> {
        let common = normal(rng);
        (0..N_CELLS).map(|_| 100.0 + (common + normal(rng)) / 2.0_f64.sqrt()).collect()
    }

    /// Share of 400 runs with this fault in one cell that are found, and whether the largest deviation was always there.
    fn share_found(n_healthy: usize, fault: f64, name: &str) -> (f64, bool) {
        let mut rng = stream(1, name);
        let (mut found, mut is_there) = (0, true);
        for _ in 0..400 {
            let healthy: Vec<Vec<f64>> = (0..n_healthy).map(|_| run(&mut rng)).collect();
            let columns: Vec<Vec<f64>> =
                (0..N_CELLS).map(|cell| healthy.iter().map(|run| run[cell]).collect()).collect();
            let mut observed = run(&mut rng);
            observed[7] -= fault;
            let cells: Vec<Cell> = observed.iter().zip(&columns).map(|(x, column)| level(*x, column)).collect();
            let deviations = Deviations::measure(&cells);
            let largest = deviations.cells.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if deviations.p_value(largest) <= 0.05 {
                found += 1;
                is_there &= deviations.cells[7] == largest;
            }
        }
        (f64::from(found) / 400.0, is_there)
    }

    #[test]
    fn one_healthy_run_in_twenty_is_accused() {
        for n_healthy in [19, 39] {
            let (share, _) = share_found(n_healthy, 0.0, "healthy");
            assert!((0.02..=0.08).contains(&share), "{share} with {n_healthy} runs");
        }
    }

    #[test]
    fn faults_are_found_as_often_as_simulated_and_in_the_right_cell() {
        for (n_healthy, fault, least) in [(19, 4.0, 0.55), (19, 6.0, 0.90), (19, 8.0, 0.98), (39, 5.0, 0.88)] {
            let (share, is_there) = share_found(n_healthy, fault, "fault");
            assert!(share >= least && is_there, "{share} of faults of {fault} with {n_healthy} runs");
        }
    }

    #[test]
    fn healthy_runs_that_agree_by_luck_do_not_make_an_item_a_fault() {
        let same = [1.0; 19];
        let deviations = Deviations::measure(&[level(0.95, &same), level(0.85, &same)]);
        assert!(deviations.cells[0] == 0.0 && deviations.cells[1] > 10.0, "{deviations:?}");
    }

    #[test]
    fn what_the_last_phase_lost_shows_where_levels_differ() {
        // Healthy runs know from half to all, and keep it to a point.
        let before: Vec<f64> = (0..20).map(|run| 0.5 + 0.025 * f64::from(run)).collect();
        let after: Vec<f64> = before.iter().zip([0.0, 0.01].iter().cycle()).map(|(value, lost)| value - lost).collect();
        let cell = |observed: f64, was: f64| Cell {
            after: Seen { observed, healthy: &after },
            before: Some(Seen { observed: was, healthy: &before }),
        };
        let of = |observed, was| Deviations::measure(&[cell(observed, was)]);
        let p_value = |deviations: &Deviations| deviations.p_value(deviations.cells[0]);
        let lost = of(0.6, 0.9);
        assert!(lost.cells[0] > 20.0 && p_value(&lost) <= 0.05, "{lost:?}");
        // Never learnt, as other healthy runs have not; lost from a height on which most healthy runs never were; gained.
        for (observed, was) in [(0.55, 0.55), (0.8, 1.0), (0.55, 0.4)] {
            let deviations = of(observed, was);
            assert!(deviations.cells[0] < 2.0 && p_value(&deviations) > 0.05, "{observed} {was}: {deviations:?}");
        }
    }
}
