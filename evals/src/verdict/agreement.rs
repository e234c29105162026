//! How well cheap estimates of a stage's part agree with what training it again would show.
//!
//! An organism with one fault and its healthy twin are the factorial of that fault: every stage but the guilty one is trained by the same
//! recipe on the same rows, to the same bits. Of the Moebius dividends only the guilty stage's is not 0, so its Shapley value is the whole
//! shortfall and the others' is none.

use serde::Serialize;

use super::features::find;
use super::record::{Record, Set};
use crate::stats::auroc::auroc;

/// Estimates of the share of a shortfall that a stage produced: 1 of the guilty stage, 0 of the others, by the factorial.
const SHARES: [&str; 4] = ["shortfall_share", "other_route_share", "logit_shapley", "weight_shapley"];

/// Estimates that should only be larger where alignment is guilty.
const SLOPES: [&str; 2] = ["dera_slope", "weight_path_slope"];

/// One estimate beside the factorial, over the stages of all failing behaviours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Name of the feature.
    pub feature: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Number of stages.
    pub n: usize,
    /// Mean where the stage is guilty, and where it is not.
    pub means: (f64, f64),
    /// Mean distance from the factorial's share; `None` of what is no share.
    pub mean_error: Option<f64>,
    /// How often a guilty stage has the larger value than an innocent one.
    pub auroc: f64,
}

/// Compares all estimates, on organisms with one fault that took.
pub fn agreements(records: &[Record]) -> Vec<Agreement> {
    SHARES
        .into_iter()
        .map(|name| (name, true))
        .chain(SLOPES.map(|name| (name, false)))
        .filter_map(|(name, is_share)| agreement(name, is_share, records))
        .collect()
}

fn agreement(name: &'static str, is_share: bool, records: &[Record]) -> Option<Agreement> {
    let is_asked = |record: &&Record| {
        record.guilty.len() == 1 && record.has_taken() && matches!(record.set, Set::Single | Set::Concealed | Set::Dose)
    };
    let stages: Vec<(f64, bool)> = records
        .iter()
        .filter(is_asked)
        .flat_map(|record| {
            record.failing().flat_map(|case| &case.candidates).map(|of| (of, record.guilty.contains(&of.stage)))
        })
        .filter_map(|(of, is_guilty)| Some((*of.features.get(name)?, is_guilty)))
        .collect();
    let (values, guilty): (Vec<f64>, Vec<bool>) = stages.iter().copied().unzip();
    let mean = |of: Vec<f64>| of.iter().sum::<f64>() / of.len() as f64;
    let mean_where =
        |wanted: bool| mean(stages.iter().filter(|(_, is)| *is == wanted).map(|(value, _)| *value).collect());
    let error = |(value, is_guilty): &(f64, bool)| (value - f64::from(u8::from(*is_guilty))).abs();
    Some(Agreement {
        feature: name,
        meaning: find(name)?.meaning,
        n: stages.len(),
        auroc: auroc(&values, &guilty)?,
        means: (mean_where(true), mean_where(false)),
        mean_error: is_share.then(|| mean(stages.iter().map(error).collect())),
    })
}

#[cfg(test)]
mod tests {
    use super::agreements;
    use crate::verdict::record::parse;

    #[test]
    fn an_estimate_is_measured_against_the_whole_shortfall_of_the_guilty_stage() {
        let line = |guilty: &str, sft: f64, alignment: f64| {
            format!(
                r#"{{"name":"{guilty}","fault":["a"],"family":"harm","set":"single","world":1,"seed":1,"shape":"","guilty":["{guilty}"],"took":1.0,"cases":[{{"behaviour":"over_refusal","status":"failing","shortfall":0.5,"values":{{}},"thesis":"alignment","candidates":[{{"stage":"sft","features":{{"logit_shapley":{sft}}}}},{{"stage":"alignment","features":{{"logit_shapley":{alignment}}}}}]}}]}}"#
            )
        };
        let text = [line("sft", 0.9, 0.1), line("alignment", 0.4, 0.6)].join("\n");
        let found = agreements(&parse(&text, std::path::Path::new("records.jsonl")).unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].feature, found[0].n), ("logit_shapley", 4));
        assert!((found[0].means.0 - 0.75).abs() < 1e-12 && (found[0].means.1 - 0.25).abs() < 1e-12);
        // 0.1, 0.1, 0.4 and 0.4.
        assert!((found[0].mean_error.unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(found[0].auroc, 1.0);
    }
}
