//! The score as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::record::Set;
use super::score::{MethodScore, Reliability, Score, Told};
use crate::diagnosis::Estimate;

impl Score {
    /// The whole score, for people.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{} organisms of {} fault types: kinds of plants, whatever their dose and whatever else is planted. Every verdict is from a model fitted \
             without the organism's own fault types and, where there are several, without its world; its calibration and threshold too. \
             Right is an organism of which exactly the guilty stages are named over all its failing behaviours. Intervals are 95 %, by resampling \
             fault types, not organisms; where all types agree, Wilson's for as many types.\n",
            self.n_records, self.n_fault_types
        );
        if !self.not_taken.is_empty() {
            let names = self.not_taken.join(", ");
            let _ = writeln!(out, "{} plants did not take and count in no share: {names}.\n", self.not_taken.len());
        }
        self.methods_table(&mut out);
        self.sets_table(&mut out);
        if let Some(method) = self.methods.last() {
            confusion_table(&mut out, method);
            self.wrong_table(&mut out);
        }
        for tier in &self.reliability {
            reliability_table(&mut out, tier);
        }
        self.agreement_table(&mut out);
        self.latent_lines(&mut out);
        self.controls_table(&mut out);
        out
    }

    fn methods_table(&self, out: &mut String) {
        out.push_str(
            "## One fault: is its stage named?\n\n\
             | method | right | a stage is named | right where named | right when forced | macro-F1 | clean runs accused | \
             two faults: both | at least one |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for method in &self.methods {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                method.name,
                shown(method.right.as_ref()),
                shown(method.coverage.as_ref()),
                shown(method.right_where_named.as_ref()),
                shown(method.right_when_forced.as_ref()),
                method
                    .macro_f1
                    .as_ref()
                    .map_or_else(missing, |f1| format!("{:.2} ({:.2} to {:.2})", f1.value, f1.low, f1.high)),
                method.clean_accused.as_ref().map_or_else(missing, counted),
                shown(method.both_named.as_ref()),
                shown(method.one_named.as_ref()),
            );
        }
        out.push('\n');
    }

    fn sets_table(&self, out: &mut String) {
        let sets: BTreeSet<Set> = self.methods.iter().flat_map(|method| method.by_set.keys().copied()).collect();
        let sets: Vec<Set> = Set::ALL.into_iter().filter(|set| sets.contains(set)).collect();
        let n = |set: &Set| self.methods.iter().find_map(|method| method.by_set.get(set)).map_or(0, |share| share.n);
        let heads: Vec<String> = sets.iter().map(|set| format!("{} (n = {})", set.name(), n(set))).collect();
        let _ = writeln!(out, "## Exactly the guilty stages named, by set\n\n| method | {} |", heads.join(" | "));
        let _ = writeln!(out, "|---|{}", "---|".repeat(sets.len()));
        for method in &self.methods {
            let cells: Vec<String> = sets.iter().map(|set| shown(method.by_set.get(set))).collect();
            let _ = writeln!(out, "| {} | {} |", method.name, cells.join(" | "));
        }
        out.push('\n');
    }

    fn wrong_table(&self, out: &mut String) {
        out.push_str("## Wrong verdicts of the same\n\n| set | organism | truth | verdict |\n|---|---|---|---|\n");
        self.wrong.iter().for_each(|wrong| told_row(out, wrong));
        out.push('\n');
    }

    fn agreement_table(&self, out: &mut String) {
        out.push_str(
            "## Do cheap estimates agree with training a stage again?\n\nBy the factorial the guilty stage's share of the shortfall is 1, the \
             others' 0.\n\n| estimate | stages | mean where guilty | mean where innocent | mean error | AUROC |\n|---|---|---|---|---|---|\n",
        );
        for of in &self.agreement {
            let error = of.mean_error.map_or_else(missing, |error| format!("{error:.2}"));
            let (guilty, innocent) = of.means;
            let _ = writeln!(
                out,
                "| `{}`: {} | {} | {guilty:.2} | {innocent:.2} | {error} | {:.2} |",
                of.feature, of.meaning, of.n, of.auroc
            );
        }
        out.push('\n');
    }

    fn latent_lines(&self, out: &mut String) {
        let latent = &self.latent;
        let _ = writeln!(
            out,
            "## Masked faults\n\n- Named as hidden: {}\n- And the stage that hides it: {}\n- Clean runs with a hidden fault named: {}\n",
            shown(latent.named.as_ref()),
            shown(latent.with_mask.as_ref()),
            latent.clean_accused.as_ref().map_or_else(missing, counted)
        );
    }

    /// Clean and sham runs are listed where something is said of them.
    fn controls_table(&self, out: &mut String) {
        out.push_str(
            "## Controls\n\n| set | organisms | of which with a verdict other than \"nothing\" |\n|---|---|---|\n",
        );
        for set in [Set::Clean, Set::Sham, Set::Intended, Set::Harness, Set::Deployment] {
            let of_set = self.controls.iter().filter(|control| control.set == set);
            let (n, said) = of_set.fold((0, 0), |(n, said), c| (n + 1, said + usize::from(c.verdict != "nothing")));
            let _ = writeln!(out, "| {} | {n} | {said} |", set.name());
        }
        out.push_str("\n| set | organism | truth | verdict |\n|---|---|---|---|\n");
        let is_listed = |set: Set, verdict: &str| !matches!(set, Set::Clean | Set::Sham) || verdict != "nothing";
        for control in self.controls.iter().filter(|control| is_listed(control.set, &control.verdict)) {
            told_row(out, control);
        }
    }
}

fn confusion_table(out: &mut String, method: &MethodScore) {
    let calls: BTreeSet<&String> = method.confusion.values().flat_map(|row| row.keys()).collect();
    let heads: Vec<&str> = calls.iter().map(|call| call.as_str()).collect();
    let _ = writeln!(out, "## Truth and verdict: {}\n\n| truth | {} |", method.name, heads.join(" | "));
    let _ = writeln!(out, "|---|{}", "---|".repeat(heads.len()));
    for (truth, row) in &method.confusion {
        let cells: Vec<String> =
            calls.iter().map(|call| row.get(*call).map_or_else(String::new, |n| format!("{n:.0}"))).collect();
        let _ = writeln!(out, "| {truth} | {} |", cells.join(" | "));
    }
    out.push('\n');
}

fn told_row(out: &mut String, told: &Told) {
    let _ = writeln!(out, "| {} | {} | {} | {} |", told.set.name(), told.name, told.truth, told.verdict);
}

fn reliability_table(out: &mut String, of: &Reliability) {
    let _ = writeln!(
        out,
        "## Are the probabilities true? {:?}: {}\n\n{} stages. ECE {:.3} (a calibrated model with independent stages: {:.3}, 95th percentile {:.3}), \
         debiased {:.3} \
         ({:.3}, {:.3}; in bins of equal width {:.3}), Brier score {:.3}, AURC {:.3}.\n\n| probability | n | guilty |\n|---|---|---|",
        of.tier,
        of.tier.access(),
        of.n_stages,
        of.ece,
        of.null_ece.0,
        of.null_ece.1,
        of.debiased_ece,
        of.null_debiased_ece.0,
        of.null_debiased_ece.1,
        of.debiased_ece_equal_width,
        of.brier,
        of.aurc
    );
    for bin in &of.bins {
        let _ = writeln!(out, "| {:.2} | {} | {} |", bin.confidence, bin.accuracy.n, shown(Some(&bin.accuracy)));
    }
    let curve: Vec<String> = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        .into_iter()
        .filter_map(|least| of.accuracy_at_coverage.iter().find(|(coverage, _)| *coverage >= least - 1e-9))
        .map(|(coverage, accuracy)| format!("{:.0} % at {:.0} %", 100.0 * accuracy, 100.0 * coverage))
        .collect();
    let _ = writeln!(out, "\nRight at coverage: {}.\n", curve.join(", "));
}

/// `91 % (83 to 97 %)`.
fn shown(share: Option<&Estimate>) -> String {
    share.map_or_else(missing, |share| {
        format!("{:.0} % ({:.0} to {:.0} %)", 100.0 * share.value, 100.0 * share.low, 100.0 * share.high)
    })
}

/// `0 of 60 (at most 6.0 %)`.
fn counted(share: &Estimate) -> String {
    format!("{:.0} of {} (at most {:.1} %)", share.value * share.n as f64, share.n, 100.0 * share.high)
}

fn missing() -> String {
    "–".to_owned()
}
