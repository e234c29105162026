//! Benchmarks of the field: their official files, put to any subject as items of a bank, or scored from answers that were produced elsewhere.
//!
//! Adding one is a file with a type that implements [`Benchmark`], and a line in [`all`].

pub mod choice;
pub mod freshqa;
pub mod hierarchy;
pub mod orbench;
pub mod realtimeqa;
pub mod short;
pub mod statements;
mod stored_answers;
pub mod strongreject;
pub mod truthfulqa;

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::item::Item;

/// A benchmark: reads its official items and stored responses, and says what its official scorer would say.
pub trait Benchmark: Sync {
    /// Name on the command line, in lower case.
    fn name(&self) -> &'static str;

    /// Whether its items come from a file; what is made here has none.
    fn has_file(&self) -> bool {
        true
    }

    /// The items of its official file, each with its line, to be put to any subject; named as the benchmark names them (without its own
    /// name before), with every official field that matters: the slice is the type or category, the cluster what is not independent.
    ///
    /// # Errors
    /// Where the file cannot be read or a row is not of the benchmark's shape. Names file, line and key.
    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>>;

    /// Scores the responses in a file against the items in another.
    ///
    /// # Errors
    /// Where a file cannot be read, a line is not of the benchmark's shape, or two responses answer one item. Names file, line and key.
    fn score(&self, items: &Path, responses: &Path) -> Result<Scored>;
}

/// What came of scoring.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// One JSON object per item, in the order of the items; an item without a response has one, too, which says so.
    pub lines: Vec<Value>,
    /// The benchmark's figures.
    pub figures: Vec<Figure>,
    /// What a reader has to know of the files: items without a response, responses that belong to no item.
    pub notes: Vec<String>,
}

/// A share or another number with its 95 % interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is, in words.
    pub name: String,
    /// The value; a share lies in [0, 1].
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Number of observations.
    pub n: usize,
    /// How the interval was made.
    pub method: String,
}

/// Every benchmark, in the order of the help text.
pub fn all() -> &'static [&'static dyn Benchmark] {
    const ALL: &[&dyn Benchmark] = &[
        &crate::ifeval::IfEval,
        &crate::ifbench::IfBench,
        &crate::xstest::XsTest,
        &truthfulqa::TruthfulQa { task: truthfulqa::Task::Mc1 },
        &truthfulqa::TruthfulQa { task: truthfulqa::Task::Mc2 },
        &choice::ChoiceSet,
        &short::ShortAnswers,
        &orbench::OrBench,
        &strongreject::StrongReject,
        &realtimeqa::RealTimeQa,
        &freshqa::FreshQa,
        &statements::Statements,
        &hierarchy::Hierarchy,
    ];
    ALL
}

/// The benchmark with this name.
///
/// # Errors
/// Where there is none; lists those that there are.
pub fn find(name: &str) -> Result<&'static dyn Benchmark> {
    let known = || all().iter().map(|benchmark| benchmark.name()).collect::<Vec<_>>().join(", ");
    let found = all().iter().copied().find(|benchmark| benchmark.name() == name);
    found.ok_or_else(|| Error::UnknownBenchmark { name: name.to_owned(), known: known() })
}

/// The bytes of a benchmark's file; of one that has none, nothing.
pub(crate) fn read_file(benchmark: &dyn Benchmark, path: &Path) -> Result<Vec<u8>> {
    let name = benchmark.name();
    let is_given = !path.as_os_str().is_empty();
    match (benchmark.has_file(), is_given) {
        (true, true) => std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source }),
        (true, false) => Err(Error::BenchmarkFile { name, reason: format!("needs its official file: {name}=FILE") }),
        (false, true) => {
            let reason = format!("is made here and takes no file, but {} is given", path.display());
            Err(Error::BenchmarkFile { name, reason })
        }
        (false, false) => Ok(Vec::new()),
    }
}

/// What is wrong with a row of a file, at which key.
pub(crate) type Fault = (&'static str, String);

/// The same with file, line and item.
pub(crate) fn blame(path: &Path, line: usize, id: String, (key, reason): Fault) -> Error {
    Error::BadItem { path: path.to_owned(), line, id, key, reason }
}

/// The 97.5 % quantile of the normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

impl Figure {
    /// Share of independent observations that are true; `None` without observations.
    ///
    /// # Reference
    /// Wilson 1927, *Probable inference*, JASA 22.
    pub fn share(name: &str, outcomes: &[bool]) -> Option<Self> {
        let n = outcomes.len();
        if n == 0 {
            return None;
        }
        let value = outcomes.iter().filter(|&&outcome| outcome).count() as f64 / n as f64;
        let (low, high) = wilson(value, n as f64);
        Some(Self { name: name.to_owned(), value, low, high, n, method: "Wilson".to_owned() })
    }

    /// The same where observations come in clusters that rise and fall together, such as the instructions of one prompt: Wilson's
    /// interval for as many independent observations as would have the clustered standard error. `by` names the clusters.
    ///
    /// # Reference
    /// Miller 2024, *Adding error bars to evals*, arXiv 2411.00640, section 2.2; with an effective n: Franco et al. 2019, *J. Survey Stat.
    /// Methodol.* 7.
    pub fn clustered_share(name: &str, clusters: &[Vec<bool>], by: &str) -> Option<Self> {
        let n: usize = clusters.iter().map(Vec::len).sum();
        if n == 0 {
            return None;
        }
        let n_true = |cluster: &[bool]| cluster.iter().filter(|&&outcome| outcome).count() as f64;
        let value = clusters.iter().map(|cluster| n_true(cluster)).sum::<f64>() / n as f64;
        let filled: Vec<&Vec<bool>> = clusters.iter().filter(|cluster| !cluster.is_empty()).collect();
        let spread: f64 = filled.iter().map(|cluster| (n_true(cluster) - value * cluster.len() as f64).powi(2)).sum();
        let n_clusters = filled.len() as f64;
        // One cluster says nothing of the spread between clusters: it counts as one observation.
        let n_effective = if filled.len() < 2 {
            1.0
        } else {
            let variance = spread * n_clusters / (n_clusters - 1.0) / (n as f64).powi(2);
            let binomial = value * (1.0 - value);
            // Where all are equal there is nothing to estimate the dependence from.
            if variance < 1e-24 || binomial < 1e-12 { n as f64 } else { binomial / variance }
        };
        let (low, high) = wilson(value, n_effective);
        Some(Self { name: name.to_owned(), value, low, high, n, method: format!("Wilson, clustered by {by}") })
    }
}

/// Wilson's 95 % interval of a share `p` of `n` observations; `n` may be an effective number, which need not be whole.
pub(crate) fn wilson(p: f64, n: f64) -> (f64, f64) {
    let z2 = Z_95 * Z_95;
    let scale = 1.0 + z2 / n;
    let centre = (p + z2 / (2.0 * n)) / scale;
    let half = Z_95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).max(0.0).sqrt() / scale;
    ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_benchmarks_differ() {
        let mut names: Vec<&str> = all().iter().map(|benchmark| benchmark.name()).collect();
        names.sort_unstable();
        let n_names = names.len();
        names.dedup();
        assert_eq!(names.len(), n_names);
    }

    #[test]
    fn a_share_has_the_score_interval_of_scipy() {
        // scipy.stats.binomtest(10, 200).proportion_ci(method="wilson")
        let outcomes: Vec<bool> = (0..200).map(|index| index < 10).collect();
        let figure = Figure::share("right", &outcomes).unwrap();
        assert_eq!((figure.value, figure.n), (0.05, 200));
        assert!((figure.low - 0.027_382_645_600_763_92).abs() < 1e-12);
        assert!((figure.high - 0.089_578_148_138_775_99).abs() < 1e-12);
        assert_eq!(Figure::share("right", &[]), None);
    }

    #[test]
    fn copies_within_a_cluster_are_no_new_observations() {
        let once: Vec<Vec<bool>> = [true, false, true, true, false].map(|outcome| vec![outcome]).to_vec();
        let thrice: Vec<Vec<bool>> = once.iter().map(|cluster| vec![cluster[0]; 3]).collect();
        let single = Figure::clustered_share("right", &once, "prompt").unwrap();
        let copied = Figure::clustered_share("right", &thrice, "prompt").unwrap();
        assert_eq!((single.n, copied.n), (5, 15));
        assert!((single.low - copied.low).abs() < 1e-12 && (single.high - copied.high).abs() < 1e-12);
        let independent: Vec<bool> = thrice.concat();
        assert!(copied.low < Figure::share("right", &independent).unwrap().low);
    }

    #[test]
    fn what_was_not_observed_has_no_figure() {
        assert_eq!(Figure::clustered_share("right", &[Vec::new()], "prompt"), None);
        let alone = Figure::clustered_share("right", &[vec![true, false]], "prompt").unwrap();
        assert!(alone.low < 0.1 && alone.high > 0.9, "{alone:?}");
    }
}
