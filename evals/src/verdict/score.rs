//! How often verdicts are right: a pure function of the records.
//!
//! Every prediction that is scored comes from a model that has seen no organism with the same fault type. Organisms of one type are
//! near copies, so intervals come from resampling fault types, not organisms: organisms taken as independent would claim half the
//! width.

use std::collections::BTreeMap;

use serde::Serialize;

use super::agreement::{Agreement, agreements};
use super::baseline::{Call, Say, baselines};
use super::features::{FEATURES, Tier};
use super::fit::{Prediction, is_measured, predict_held_out, tiers, up_to};
use super::record::{Record, Set, Status};
use crate::diagnosis::{CalibrationBin, Estimate, Stage};
use crate::random::stream;
use crate::stats::bootstrap::{DRAWS, percentile_interval, resample_clusters, resample_strata};
use crate::stats::calibration::{
    Forecast, N_BINS, bin, bin_of, brier, debiased_ece, ece, ece_of, equal_mass_bins, null_error,
};
use crate::stats::selective::{accuracy_at_coverage, aurc};
use crate::stats::wilson::wilson;

/// Everything that the records say about verdicts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Number of organisms.
    pub n_records: usize,
    /// Number of their fault types; sets of controls count as one each.
    pub n_fault_types: usize,
    /// Organisms whose plant did not take, which count in no share of right verdicts.
    pub not_taken: Vec<String>,
    /// Baselines, single pieces of evidence, and the verdict model at each tier.
    pub methods: Vec<MethodScore>,
    /// Are the model's probabilities true?
    pub reliability: Vec<Reliability>,
    /// Do cheap estimates of a stage's part agree with training it again?
    pub agreement: Vec<Agreement>,
    /// Masked faults.
    pub latent: LatentScore,
    /// Controls, each with the verdict of the model at its highest tier.
    pub controls: Vec<Told>,
    /// Organisms with a fault that took of which something else than exactly the guilty stages is named at that tier.
    pub wrong: Vec<Told>,
}

/// How often a method is right. Shares are of organisms with one fault (set `single`) unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodScore {
    /// The method.
    pub name: String,
    /// Share in which exactly the guilty stage is named over all failing behaviours; to abstain is to be wrong.
    pub right: Option<Estimate>,
    /// Share in which a stage is named.
    pub coverage: Option<Estimate>,
    /// Share right among those in which a stage is named.
    pub right_where_named: Option<Estimate>,
    /// The same, had the method to name one stage for every failing behaviour.
    pub right_when_forced: Option<Estimate>,
    /// Mean over truths (a stage, or nothing in clean runs) of the F1 of naming it; an abstention misses.
    pub macro_f1: Option<Estimate>,
    /// Share right in each set with a fault that shows, with its number of organisms.
    pub by_set: BTreeMap<Set, Estimate>,
    /// Clean runs in which a stage is named; Wilson interval.
    pub clean_accused: Option<Estimate>,
    /// Of organisms with two guilty stages: share in which both are named and no other.
    pub both_named: Option<Estimate>,
    /// And share in which at least one of those named is guilty.
    pub one_named: Option<Estimate>,
    /// Organisms by truth and call, expected numbers where the method guesses.
    pub confusion: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Whether a tier's probabilities are true, over all stages of all failing behaviours of organisms with one guilty stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reliability {
    /// The tier.
    pub tier: Tier,
    /// Number of stages.
    pub n_stages: usize,
    /// Reliability diagram: bins of probability with the share that is guilty, intervals over fault types.
    pub bins: Vec<CalibrationBin>,
    /// Expected calibration error, ten equal-width bins.
    pub ece: f64,
    /// Mean of that error, and its 95th percentile, for a calibrated model with these probabilities, were all stages independent.
    pub null_ece: (f64, f64),
    /// Root of the debiased squared calibration error, ten bins of equal mass.
    pub debiased_ece: f64,
    /// As `null_ece`, of the debiased error.
    pub null_debiased_ece: (f64, f64),
    /// The same in bins of equal width, which small bins in the middle decide.
    pub debiased_ece_equal_width: f64,
    /// Brier score.
    pub brier: f64,
    /// `(coverage, share right)` when only the surest verdicts are given.
    pub accuracy_at_coverage: Vec<(f64, f64)>,
    /// Area under the risk-coverage curve: 0 is perfect.
    pub aurc: f64,
}

/// Faults that a later stage hides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatentScore {
    /// Share of masked organisms in which a guilty stage is named as one that hides in a passing behaviour.
    pub named: Option<Estimate>,
    /// And the stage that hides it too.
    pub with_mask: Option<Estimate>,
    /// Clean runs in which a hidden fault is named; Wilson interval.
    pub clean_accused: Option<Estimate>,
}

/// An organism with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    /// Which set.
    pub set: Set,
    /// The organism.
    pub name: String,
    /// The truth, in words.
    pub truth: String,
    /// The verdict, in words.
    pub verdict: String,
}

/// Scores all methods on the records.
pub fn score(records: &[Record]) -> Score {
    let predictions: Vec<(Tier, Vec<Vec<Prediction>>)> =
        tiers(records).map(|tier| (tier, predict_held_out(records, tier, &up_to(tier)))).collect();
    let mut methods: Vec<MethodScore> =
        baselines(records).into_iter().map(|(name, says)| score_method(name, records, &says, &says)).collect();
    for feature in &FEATURES {
        if is_measured(feature, records) {
            let forced = forced(records, &predict_held_out(records, feature.tier, &[feature.name]));
            methods.push(score_method(&format!("L6 `{}` alone", feature.name), records, &forced, &forced));
        }
    }
    for (tier, of_tier) in &predictions {
        let says: Vec<Say> = records.iter().zip(of_tier).map(|(r, p)| vec![(call(r, p), 1.0)]).collect();
        let name = format!("Verdict model, {tier:?}: {}", tier.access());
        methods.push(score_method(&name, records, &says, &forced(records, of_tier)));
    }
    let last = predictions.last().map_or(&[][..], |(_, of_tier)| of_tier);
    let types: std::collections::BTreeSet<String> = records.iter().map(Record::fault_type).collect();
    Score {
        n_records: records.len(),
        n_fault_types: types.len(),
        not_taken: records.iter().filter(|record| !record.has_taken()).map(|record| record.name.clone()).collect(),
        methods,
        reliability: predictions.iter().filter_map(|(tier, of_tier)| reliability(*tier, records, of_tier)).collect(),
        agreement: agreements(records),
        latent: latent(records),
        controls: told(records, last, |record, _| {
            matches!(record.set, Set::Clean | Set::Sham | Set::Intended | Set::Harness | Set::Deployment)
        }),
        wrong: told(records, last, |record, call| {
            let is_asked = record.has_taken() && !record.guilty.is_empty() && record.set != Set::Masked;
            is_asked && !is_right(record, call)
        }),
    }
}

/// The verdict on an organism: nothing where the gate finds nothing, else all that is named for any failing behaviour.
fn call(record: &Record, predictions: &[Prediction]) -> Call {
    Call::of(record, predictions.iter().flat_map(|prediction| &prediction.named).copied())
}

/// The likeliest stage of every failing behaviour.
fn forced(records: &[Record], predictions: &[Vec<Prediction>]) -> Vec<Say> {
    let tops = |predictions: &[Prediction]| predictions.iter().filter_map(Prediction::top).collect::<Vec<_>>();
    let of_record = |record: &Record, p: &[Prediction]| Call::of(record, tops(p).into_iter().map(|(stage, _)| stage));
    records.iter().zip(predictions).map(|(record, p)| vec![(of_record(record, p), 1.0)]).collect()
}

/// Expected share of a say for which a call is so.
fn weight(say: &Say, is: impl Fn(&Call) -> bool) -> f64 {
    say.iter().filter(|(call, _)| is(call)).fold(0.0, |sum, (_, probability)| sum + probability)
}

fn is_named(call: &Call) -> bool {
    matches!(call, Call::Named(_))
}

/// Whether exactly the guilty stages are named, in any order; of an innocent organism, whether none is.
fn is_right(record: &Record, call: &Call) -> bool {
    match call {
        Call::Named(stages) => {
            stages.len() == record.guilty.len() && stages.iter().all(|stage| record.guilty.contains(stage))
        }
        Call::Nothing => record.guilty.is_empty(),
        Call::Undetermined => false,
    }
}

fn score_method(name: &str, records: &[Record], says: &[Say], forced: &[Say]) -> MethodScore {
    let share = |is_asked: &dyn Fn(&Record) -> bool, part: &dyn Fn(&Record, &Say) -> (f64, f64), says: &[Say]| {
        let parts: Vec<(String, f64, f64)> = records
            .iter()
            .zip(says)
            .filter(|(record, _)| is_asked(record))
            .map(|(record, say)| {
                let (part, whole) = part(record, say);
                (record.fault_type(), part, whole)
            })
            .collect();
        ratio(&parts)
    };
    let right = |record: &Record, say: &Say| (weight(say, |call| is_right(record, call)), 1.0);
    let is_single = |record: &Record| record.set == Set::Single && record.has_taken();
    let is_double = |record: &Record| record.guilty.len() == 2 && record.has_taken();
    let named = |_: &Record, say: &Say| (weight(say, is_named), 1.0);
    let right_of_named = |record: &Record, say: &Say| (right(record, say).0, weight(say, is_named));
    let one_named = |record: &Record, say: &Say| {
        let is_one = |call: &Call| matches!(call, Call::Named(of) if of.iter().any(|s| record.guilty.contains(s)));
        (weight(say, is_one), 1.0)
    };
    let faulty = Set::ALL.into_iter().filter_map(|set| {
        let is_shown = |record: &Record| record.has_taken() && !record.guilty.is_empty() && set != Set::Masked;
        let of_set = |record: &Record| record.set == set && is_shown(record);
        Some((set, share(&of_set, &right, says)?))
    });
    MethodScore {
        name: name.to_owned(),
        right: share(&is_single, &right, says),
        coverage: share(&is_single, &named, says),
        right_where_named: share(&is_single, &right_of_named, says),
        right_when_forced: share(&is_single, &right, forced),
        macro_f1: macro_f1(records, says),
        by_set: faulty.collect(),
        clean_accused: accused(
            records.iter().zip(says).filter(|(r, _)| r.set == Set::Clean).map(|(_, say)| weight(say, is_named)),
        ),
        both_named: share(&is_double, &right, says),
        one_named: share(&is_double, &one_named, says),
        confusion: confusion(records, says),
    }
}

/// A ratio of sums over organisms, with an interval over their fault types: `(type, part, whole)` each; those without a whole do not count.
///
/// Where all types agree, resampling them shows no spread; Wilson's interval for as many independent types is given then.
fn ratio(parts: &[(String, f64, f64)]) -> Option<Estimate> {
    let parts: Vec<_> = parts.iter().filter(|(.., whole)| *whole > 0.0).collect();
    let whole: f64 = parts.iter().map(|(.., whole)| whole).sum();
    if whole <= 0.0 {
        return None;
    }
    let value = parts.iter().map(|(_, part, _)| part).sum::<f64>() / whole;
    let types = by_type(parts.iter().map(|(of, part, whole)| (of.clone(), (*part, *whole))));
    let sums: Vec<(f64, f64)> =
        types.values().map(|of| of.iter().fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1))).collect();
    let draws = resample_clusters(sums.len(), DRAWS, &mut stream(0, "verdict/score"), |counts| {
        let (part, whole) = sums.iter().zip(counts).fold((0.0, 0.0), |(p, w), (s, k)| (p + k * s.0, w + k * s.1));
        part / whole
    });
    let all_agree = sums.iter().all(|s| (s.0 - value * s.1).abs() < 1e-12);
    let (interval, method) = match percentile_interval(&draws).filter(|_| !all_agree) {
        Some(interval) => (interval, "bootstrap over fault types"),
        None => (wilson(value, sums.len() as f64), "Wilson over fault types"),
    };
    Some(Estimate { value, low: interval.0, high: interval.1, n: parts.len(), method: method.to_owned() })
}

fn by_type<T>(parts: impl Iterator<Item = (String, T)>) -> BTreeMap<String, Vec<T>> {
    let mut types = BTreeMap::<String, Vec<T>>::new();
    for (of, part) in parts {
        types.entry(of).or_default().push(part);
    }
    types
}

/// Share of runs that are accused: runs of other seeds are independent, so Wilson's interval over runs.
fn accused(runs: impl Iterator<Item = f64>) -> Option<Estimate> {
    let runs: Vec<f64> = runs.collect();
    let n = runs.len();
    (n > 0).then(|| {
        let value = runs.iter().sum::<f64>() / n as f64;
        let (low, high) = wilson(value, n as f64);
        Estimate { value, low, high, n, method: "Wilson".to_owned() }
    })
}

/// The truth in words.
fn truth(record: &Record) -> String {
    stages(&record.guilty).unwrap_or_else(|| "nothing".to_owned())
}

fn words(call: &Call) -> String {
    match call {
        Call::Nothing => "nothing".to_owned(),
        Call::Undetermined => "undetermined".to_owned(),
        Call::Named(named) => stages(named).unwrap_or_else(|| "undetermined".to_owned()),
    }
}

/// `pretraining + sft`, in the order of training; `None` for no stage.
fn stages(stages: &[Stage]) -> Option<String> {
    let mut sorted = stages.to_vec();
    sorted.sort_unstable();
    let names: Vec<&str> = sorted.into_iter().map(Stage::name).collect();
    (!names.is_empty()).then(|| names.join(" + "))
}

/// Organisms with one fault that took, and clean runs.
fn is_confusable(record: &Record) -> bool {
    match record.set {
        Set::Single | Set::Concealed | Set::Dose | Set::Deployment => record.has_taken() && record.guilty.len() == 1,
        Set::Clean | Set::Sham => record.guilty.is_empty(),
        _ => false,
    }
}

fn confusion(records: &[Record], says: &[Say]) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut confusion = BTreeMap::<String, BTreeMap<String, f64>>::new();
    for (record, say) in records.iter().zip(says).filter(|(record, _)| is_confusable(record)) {
        let row = confusion.entry(truth(record)).or_default();
        for (call, probability) in say {
            *row.entry(words(call)).or_default() += probability;
        }
    }
    confusion
}

fn macro_f1(records: &[Record], says: &[Say]) -> Option<Estimate> {
    let asked: Vec<(&Record, &Say)> = records
        .iter()
        .zip(says)
        .filter(|(record, _)| matches!(record.set, Set::Single | Set::Clean) && is_confusable(record))
        .collect();
    let mut truths: Vec<String> = asked.iter().map(|(record, _)| truth(record)).collect();
    truths.sort_unstable();
    truths.dedup();
    // Types within their truth, clean runs each for itself; per truth: hits, truths, calls.
    let of_truth = |record: &Record, say: &Say, name: &String| {
        let (is, called) = (f64::from(u8::from(truth(record) == *name)), weight(say, |call| words(call) == *name));
        [is * called, is, called]
    };
    let mut clusters = BTreeMap::<(String, String), Vec<Vec<[f64; 3]>>>::new();
    for (record, say) in asked.iter().copied() {
        let of_type = if record.guilty.is_empty() { record.name.clone() } else { record.fault_type() };
        let counts = truths.iter().map(|name| of_truth(record, say, name)).collect();
        clusters.entry((truth(record), of_type)).or_default().push(counts);
    }
    let sizes: Vec<usize> =
        truths.iter().map(|name| clusters.keys().filter(|(truth, _)| truth == name).count()).collect();
    let clusters: Vec<Vec<Vec<[f64; 3]>>> = clusters.into_values().collect();
    let f1 = |counts: &[f64]| {
        let of_truth = |t: usize| {
            let mut sums = [0.0; 3];
            for (of_type, count) in clusters.iter().zip(counts) {
                for organism in of_type {
                    for (sum, x) in sums.iter_mut().zip(organism[t]) {
                        *sum += count * x;
                    }
                }
            }
            2.0 * sums[0] / (sums[1] + sums[2])
        };
        (0..truths.len()).map(of_truth).sum::<f64>() / truths.len() as f64
    };
    if asked.is_empty() {
        return None;
    }
    let value = f1(&vec![1.0; clusters.len()]);
    let draws = resample_strata(&sizes, DRAWS, &mut stream(0, "verdict/f1"), f1);
    let (interval, method) = match percentile_interval(&draws).filter(|(low, high)| low < high) {
        Some(interval) => (interval, "bootstrap over fault types"),
        None => (wilson(value, clusters.len() as f64), "Wilson over fault types"),
    };
    Some(Estimate { value, low: interval.0, high: interval.1, n: asked.len(), method: method.to_owned() })
}

fn reliability(tier: Tier, records: &[Record], predictions: &[Vec<Prediction>]) -> Option<Reliability> {
    let asked: Vec<(&Record, &Prediction)> = records
        .iter()
        .zip(predictions)
        .filter(|(record, _)| record.has_taken() && record.guilty.len() == 1)
        .flat_map(|(record, predictions)| predictions.iter().map(move |prediction| (record, prediction)))
        .collect();
    let is_guilty = |record: &Record, stage: Stage| f64::from(u8::from(record.guilty.contains(&stage)));
    let stages: Vec<(String, Forecast)> = asked
        .iter()
        .flat_map(|(record, p)| p.probabilities.iter().map(move |(stage, p)| (*record, *stage, *p)))
        .map(|(record, stage, p)| (record.fault_type(), Forecast { confidence: p, outcome: is_guilty(record, stage) }))
        .collect();
    let tops: Vec<(f64, bool)> =
        asked.iter().filter_map(|(record, p)| p.top().map(|(stage, p)| (p, record.guilty.contains(&stage)))).collect();
    let shown = (0..N_BINS).filter_map(|place| {
        let of_bin: Vec<&(String, Forecast)> = stages.iter().filter(|(_, of)| bin_of(of.confidence) == place).collect();
        let parts: Vec<_> = of_bin.iter().map(|(of, forecast)| (of.clone(), forecast.outcome, 1.0)).collect();
        let confidence = of_bin.iter().map(|(_, of)| of.confidence).sum::<f64>() / of_bin.len() as f64;
        Some(CalibrationBin { confidence, accuracy: ratio(&parts)? })
    });
    let shown: Vec<CalibrationBin> = shown.collect();
    let stages: Vec<Forecast> = stages.into_iter().map(|(_, forecast)| forecast).collect();
    let equal_width = bin(stages.iter().map(|forecast| (*forecast, 1.0)));
    let debiased = |stages: &[Forecast]| debiased_ece(&equal_mass_bins(stages));
    let null =
        |error: &dyn Fn(&[Forecast]) -> Option<f64>| null_error(error, &stages, DRAWS, &mut stream(0, "verdict/null"));
    Some(Reliability {
        tier,
        n_stages: stages.len(),
        bins: shown,
        ece: ece(&equal_width)?,
        null_ece: null(&ece_of)?,
        debiased_ece: debiased(&stages)?,
        null_debiased_ece: null(&debiased)?,
        debiased_ece_equal_width: debiased_ece(&equal_width)?,
        brier: brier(&stages)?,
        accuracy_at_coverage: accuracy_at_coverage(&tops),
        aurc: aurc(&tops)?,
    })
}

fn latent(records: &[Record]) -> LatentScore {
    let found = |record: &Record, with_mask: bool| {
        let is_found =
            record.cases.iter().filter(|case| case.status == Status::Latent).filter_map(|case| case.latent).any(
                |latent| {
                    record.guilty.contains(&latent.stage) && (!with_mask || record.masked_by == Some(latent.masked_by))
                },
            );
        f64::from(u8::from(is_found))
    };
    let share = |with_mask: bool| {
        let masked = records.iter().filter(|record| record.set == Set::Masked);
        ratio(&masked.map(|r| (r.fault_type(), found(r, with_mask), 1.0)).collect::<Vec<_>>())
    };
    let has_latent = |record: &Record| record.cases.iter().any(|case| case.status == Status::Latent);
    let clean = records.iter().filter(|record| record.set == Set::Clean);
    LatentScore {
        named: share(false),
        with_mask: share(true),
        clean_accused: accused(clean.map(|record| f64::from(u8::from(has_latent(record))))),
    }
}

/// The organisms of which this holds, each with its verdict.
fn told(records: &[Record], predictions: &[Vec<Prediction>], is_asked: impl Fn(&Record, &Call) -> bool) -> Vec<Told> {
    let calls = records.iter().zip(predictions).map(|(record, p)| (record, call(record, p)));
    let asked = calls.filter(|(record, call)| is_asked(record, call));
    asked
        .map(|(record, call)| Told {
            set: record.set,
            name: record.name.clone(),
            truth: truth(record),
            verdict: words(&call),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::ratio;
    use crate::stats::wilson::wilson;

    #[test]
    fn what_has_no_whole_makes_no_interval_narrower() {
        let named = |n: usize| f64::from(u8::from(n < 3));
        let parts: Vec<(String, f64, f64)> = (0..28).map(|n| (format!("type-{n}"), named(n), named(n))).collect();
        let share = ratio(&parts).unwrap();
        assert_eq!((share.value, share.n), (1.0, 3));
        assert_eq!(share.low, wilson(1.0, 3.0).0);
        assert!(ratio(&[("a".to_owned(), 0.0, 0.0)]).is_none());
    }
}
