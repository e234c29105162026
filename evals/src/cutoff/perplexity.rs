//! Effective cutoff: the date of the versions of documents that surprise a model least.
//!
//! A model has seen some version of a page most often. Asked for the likelihood of each dated version, it is least surprised
//! by that one; over many documents of a resource the least mean gives the date of what was trained on, which may lie years
//! before the date that is reported.
//!
//! # Reference
//! Cheng et al. 2024, *Dated Data: Tracing Knowledge Cutoffs in Large Language Models*, arXiv 2403.12958.
//!
//! # Deviations
//! The paper averages each version's perplexity relative to the document's others, over the middle 95 % of documents. Here it is
//! the mean negative log likelihood less the document's mean over versions: the logarithm of a relative perplexity, which no
//! document with a few surprising versions dominates. Interval and test are not the paper's. As in its code, documents that lack
//! a version of some month are left out; score every version to the same number of tokens (there 512), as text that is longer is
//! less surprising.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::significance::p_value;
use crate::stats::bootstrap::DRAWS;

/// How much one dated version of a document surprises a model.
#[derive(Debug, Clone, PartialEq)]
pub struct DatedNll {
    /// Where the document is from: `wikipedia`, `news`.
    pub resource: String,
    /// The document, the same for all of its versions.
    pub document: String,
    /// Month of the version.
    pub month: u32,
    /// Mean negative log likelihood, nats per token.
    pub nll_per_token: f64,
    /// Number of tokens that it is a mean of.
    pub n_tokens: u32,
}

/// What the versions of one resource's documents say.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceCurve {
    /// The resource.
    pub resource: String,
    /// Documents with a version of every month.
    pub n_documents: usize,
    /// Documents left out, as a month is missing or not measured.
    pub n_left_out: usize,
    /// `(month, nats per token above the document's mean)`, the trimmed mean over documents.
    pub months: Vec<(u32, f64)>,
    /// The least surprising month; `None` where no month is less surprising than chance lets it.
    pub cutoff: Option<EffectiveCutoff>,
}

/// The least surprising month.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EffectiveCutoff {
    /// The month.
    pub month: u32,
    /// First month of the 95 % interval, bootstrap over documents.
    pub low: u32,
    /// Last month of it.
    pub high: u32,
    /// P-value of no month standing out.
    pub p_value: f64,
    /// Whether it is neither the first nor the last month measured. If it is one of them, the truth may lie beyond.
    pub inside: bool,
}

/// Documents below which no cutoff is looked for: fewer cannot be resampled, and have too few signs to flip for 1 %.
pub const MIN_DOCUMENTS: usize = 10;

/// The effective cutoff of each resource, in the order of their names.
///
/// The test flips the signs of whole documents, so that it asks nothing of how the versions of one document hang together: where no
/// month stands out, a document's curve is as likely as its mirror image.
pub fn effective_cutoffs(rows: &[DatedNll], rng: &mut impl Rng) -> Vec<ResourceCurve> {
    let mut resources = BTreeMap::<&str, Vec<&DatedNll>>::new();
    for row in rows {
        resources.entry(&row.resource).or_default().push(row);
    }
    resources.into_iter().map(|(name, rows)| of_resource(name, &rows, rng)).collect()
}

fn of_resource(name: &str, rows: &[&DatedNll], rng: &mut impl Rng) -> ResourceCurve {
    let months: Vec<u32> = rows.iter().map(|row| row.month).collect::<BTreeSet<_>>().into_iter().collect();
    let mut documents = BTreeMap::<&str, BTreeMap<u32, f64>>::new();
    for row in rows {
        let versions = documents.entry(&row.document).or_default();
        if row.n_tokens > 0 && row.nll_per_token.is_finite() {
            versions.insert(row.month, row.nll_per_token);
        }
    }
    let n_all = documents.len();
    let curves: Vec<Vec<f64>> = documents
        .into_values()
        .filter(|versions| versions.len() == months.len())
        .map(|versions| {
            let mean = versions.values().sum::<f64>() / versions.len() as f64;
            versions.into_values().map(|nll| nll - mean).collect()
        })
        .collect();
    let all: Vec<(usize, f64)> = (0..curves.len()).map(|document| (document, 1.0)).collect();
    let mean = mean_curve(&curves, &all, months.len());
    ResourceCurve {
        resource: name.to_owned(),
        n_documents: curves.len(),
        n_left_out: n_all - curves.len(),
        cutoff: find(&months, &curves, &mean, rng),
        months: if curves.is_empty() { Vec::new() } else { months.into_iter().zip(mean).collect() },
    }
}

fn find(months: &[u32], curves: &[Vec<f64>], mean: &[f64], rng: &mut impl Rng) -> Option<EffectiveCutoff> {
    if curves.len() < MIN_DOCUMENTS || months.len() < 2 {
        return None;
    }
    let (best, depth) = least(mean)?;
    let p_value = p_value(rng, |rng| {
        let signs: Vec<(usize, f64)> =
            (0..curves.len()).map(|document| (document, if rng.random::<bool>() { 1.0 } else { -1.0 })).collect();
        least(&mean_curve(curves, &signs, months.len())).is_some_and(|(_, drawn)| drawn <= depth + 1e-12)
    })?;
    let mut drawn: Vec<usize> = (0..DRAWS)
        .filter_map(|_| {
            let sample: Vec<(usize, f64)> = curves.iter().map(|_| (rng.random_range(0..curves.len()), 1.0)).collect();
            least(&mean_curve(curves, &sample, months.len())).map(|(month, _)| month)
        })
        .collect();
    drawn.sort_unstable();
    let at = |level: f64| drawn.get((level * drawn.len() as f64) as usize).copied().unwrap_or(best);
    Some(EffectiveCutoff {
        month: months[best],
        low: months[at(0.025).min(best)],
        high: months[at(0.975).max(best)],
        p_value,
        inside: best > 0 && best + 1 < months.len(),
    })
}

/// Trimmed mean by month over `(document, sign)`.
fn mean_curve(curves: &[Vec<f64>], documents: &[(usize, f64)], n_months: usize) -> Vec<f64> {
    let mut values = vec![0.0; documents.len()];
    (0..n_months)
        .map(|month| {
            for (value, (document, sign)) in values.iter_mut().zip(documents) {
                *value = sign * curves[*document][month];
            }
            trimmed_mean(&mut values)
        })
        .collect()
}

/// Mean of the middle 95 %; brings `values` into another order. 0 without values.
fn trimmed_mean(values: &mut [f64]) -> f64 {
    let cut = (0.025 * values.len() as f64) as usize;
    let kept = values.len() - 2 * cut;
    if kept == 0 {
        return 0.0;
    }
    if cut > 0 {
        values.select_nth_unstable_by(cut, f64::total_cmp);
        values[cut..].select_nth_unstable_by(kept - 1, f64::total_cmp);
    }
    values[cut..cut + kept].iter().sum::<f64>() / kept as f64
}

/// Place of the least value, the first of equals.
fn least(values: &[f64]) -> Option<(usize, f64)> {
    values.iter().copied().enumerate().reduce(|a, b| if b.1 < a.1 { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::{DatedNll, effective_cutoffs, trimmed_mean};
    use crate::random::{normal, stream};
    use rand::Rng;

    /// Versions of 60 documents over 24 months; a document's level and drift are its own, `dip` is common to all.
    fn versions(rng: &mut impl Rng, resource: &str, dip: impl Fn(f64) -> f64) -> Vec<DatedNll> {
        let mut rows = Vec::new();
        for document in 0..60 {
            let level = 2.5 + normal(rng);
            let mut drift = 0.0;
            for month in 0..24 {
                drift += 0.01 * normal(rng);
                rows.push(DatedNll {
                    resource: resource.to_owned(),
                    document: format!("page {document}"),
                    month,
                    nll_per_token: level + drift + 0.02 * normal(rng) + dip(f64::from(month)),
                    n_tokens: 512,
                });
            }
        }
        rows
    }

    fn planted(month: f64) -> f64 {
        0.01 * (month - 9.0).abs()
    }

    #[test]
    fn a_planted_minimum_is_found_and_covered() {
        let mut rng = stream(1, "planted");
        let (mut found, mut covered) = (0, 0);
        for _ in 0..40 {
            let curve = effective_cutoffs(&versions(&mut rng, "wiki", planted), &mut rng).remove(0);
            assert_eq!((curve.n_documents, curve.n_left_out), (60, 0));
            let Some(cutoff) = curve.cutoff else { continue };
            found += 1;
            covered += i32::from(cutoff.low <= 9 && 9 <= cutoff.high);
            assert!(cutoff.inside && cutoff.month.abs_diff(9) <= 3, "{cutoff:?}");
        }
        // 95 % of 40 less three standard errors is 34.
        assert!(found == 40 && covered >= 34, "{found} {covered}");
    }

    #[test]
    fn documents_that_drift_each_its_own_way_stay_silent() {
        let mut rng = stream(2, "flat");
        let alarms = (0..150)
            .filter(|_| effective_cutoffs(&versions(&mut rng, "wiki", |_| 0.0), &mut rng)[0].cutoff.is_some())
            .count();
        assert!(alarms <= 6, "{alarms} of 150");
    }

    #[test]
    fn each_resource_has_its_own_date_and_gaps_are_left_out() {
        let mut rng = stream(3, "resources");
        let mut rows = versions(&mut rng, "news", |month| 0.02 * (month - 20.0).abs());
        rows.extend(versions(&mut rng, "wiki", planted));
        rows.retain(|row| !(row.resource == "wiki" && row.document == "page 3" && row.month == 7));
        rows[5].nll_per_token = f64::NAN;
        rows[100].n_tokens = 0;
        let curves = effective_cutoffs(&rows, &mut rng);
        assert_eq!(curves.iter().map(|c| (c.n_documents, c.n_left_out)).collect::<Vec<_>>(), [(58, 2), (59, 1)]);
        let months: Vec<u32> = curves.iter().map(|c| c.cutoff.unwrap().month).collect();
        assert!(months[0].abs_diff(20) <= 1 && months[1].abs_diff(9) <= 3, "{months:?}");
    }

    #[test]
    fn a_minimum_at_the_edge_is_said_to_be_there() {
        let mut rng = stream(4, "edge");
        let rows = versions(&mut rng, "wiki", |month| -0.02 * month);
        let cutoff = effective_cutoffs(&rows, &mut rng)[0].cutoff.unwrap();
        assert_eq!((cutoff.month, cutoff.inside), (23, false));
    }

    #[test]
    fn too_few_documents_say_nothing() {
        let mut rng = stream(5, "few");
        let mut rows = versions(&mut rng, "wiki", planted);
        rows.truncate(24 * 9);
        assert_eq!(effective_cutoffs(&rows, &mut rng)[0].cutoff, None);
        assert!(effective_cutoffs(&[], &mut rng).is_empty());
    }

    #[test]
    fn the_trimmed_mean_leaves_out_both_ends() {
        // Two of 80 at each end; the oracle sorts.
        let mut values: Vec<f64> = (0..80).map(|i| f64::from((i * 37) % 80)).collect();
        values[3] = 1e9;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let expected = sorted[2..78].iter().sum::<f64>() / 76.0;
        assert!((trimmed_mean(&mut values) - expected).abs() < 1e-9);
        assert_eq!(trimmed_mean(&mut []), 0.0);
        assert_eq!(trimmed_mean(&mut [3.0]), 3.0);
    }
}
