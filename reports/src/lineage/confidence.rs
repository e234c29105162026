//! Whether one checkpoint is as sure as it should be: the reliability diagram with what is measured of confidence.

use evals::calibration::{Calibration, Measured, TemperatureGap};
use evals::diagnosis::{CalibrationCurve, Estimate};
use probes::response::Form;
use serde::Serialize;

use super::{ALPHA, Panel};
use crate::chart::{Chart, reliability, risk_coverage};
use crate::number::{
    count, decimal, decimal_interval, p_value, percent, percent_interval, points, points_interval, signed_points,
};
use crate::words;

/// The reliability diagram of a checkpoint with its measures.
#[derive(Debug, Serialize)]
pub(crate) struct Confidence {
    panel: Panel,
    /// Number of answers.
    n: String,
    /// What to read first; empty for records that have no measures.
    measures: Vec<Row>,
    /// The other measures.
    more: Vec<Row>,
    /// What answering fewer questions would gain; `None` where not known.
    coverage: Option<Chart>,
}

/// A measure with its interval beside what a calibrated model would show; what stands in several pieces may be broken between them.
#[derive(Debug, Serialize)]
struct Row {
    /// In plain words.
    name: &'static str,
    /// Its entry in the glossary.
    term: &'static str,
    value: String,
    interval: Vec<String>,
    /// Of a calibrated model with the same confidences.
    calibrated: String,
    /// How far that is known, or a p-value.
    note: Vec<String>,
}

/// Whether it is as sure as it should be; of confidence that was asked for, beside that of its likelihoods.
pub(super) fn view(id: &str, index: usize, curves: &[CalibrationCurve]) -> Confidence {
    let curve = &curves[index];
    let heading = format!("{} · {}", words::phase(&curve.phase), words::form(curve.form));
    let chart = reliability::draw(&format!("{id}-reliability-{index}"), curve);
    let Some(of) = &curve.measures else {
        let panel = Panel { heading, chart, lines: older(curve) };
        return Confidence { panel, n: String::new(), measures: Vec::new(), more: Vec::new(), coverage: None };
    };
    let lines = std::iter::once(reading(of)).chain(repair(of)).chain(by_likelihood(curve, curves)).collect();
    Confidence {
        panel: Panel { heading, chart, lines },
        n: count(of.n),
        measures: measures(of),
        more: more(of),
        coverage: risk_coverage::draw(&format!("{id}-coverage-{index}"), &curve.phase, of),
    }
}

/// How sure it is by its likelihoods, beside what it says: the gap between them is a sign of what alignment did.
fn by_likelihood(curve: &CalibrationCurve, curves: &[CalibrationCurve]) -> Option<String> {
    let is_asked_for = |form: Form| Form::CONFIDENCE.contains(&form);
    let other = curves.iter().find(|other| other.phase == curve.phase && !is_asked_for(other.form))?;
    let excess = &other.measures.as_ref()?.overconfidence.estimate;
    is_asked_for(curve.form).then(|| {
        format!(
            "By likelihood ({}): mean confidence less share right {} {}, n = {}.",
            words::form(other.form),
            signed_points(excess.value),
            points_interval(excess),
            count(excess.n)
        )
    })
}

/// Whether confidence is off by more than chance explains, and to which side.
pub(crate) fn reading(of: &Calibration) -> String {
    let lean = &of.overconfidence.estimate;
    let side = if lean.low > 0.0 {
        Some("too sure")
    } else if lean.high < 0.0 {
        Some("not sure enough")
    } else {
        None
    };
    let n = count(of.n);
    let seen = of.detectable.map_or_else(
        || format!("{n} answers are too few to show any error"),
        |error| format!("of {n} answers an error of {} would show", points(error)),
    );
    match (of.debiased.null.p_value <= ALPHA, side) {
        (true, Some(side)) => format!("Its confidence is off by more than chance explains: it is {side}."),
        (true, None) => "Its confidence is off by more than chance explains: too sure at some levels of confidence, not sure enough at others.".to_owned(),
        (false, Some(side)) => format!("On average it is {side}; level by level, no more off than chance explains ({seen})."),
        (false, None) => format!("No more off than chance explains ({seen})."),
    }
}

/// What a temperature would mend, of confidence that is off.
fn repair(of: &Calibration) -> Option<String> {
    let gap = of.temperature.as_ref().filter(|_| of.debiased.null.p_value <= ALPHA)?;
    let n = count(gap.gain.n);
    if gap.gain.low <= 0.0 {
        return Some(format!("No temperature was shown to mend it ({}, n = {n}).", change(gap)));
    }
    Some(format!(
        "What would mend it without training: a temperature of {}{} on its confidence. On answers that it was not fitted on the ECE falls from {} to {} ({}, n = {n}).",
        decimal_interval(&gap.temperature, 2),
        if gap.is_at_bound { ", the end of what was searched," } else { "" },
        decimal(gap.ece, 3),
        decimal(gap.ece_scaled, 3),
        change(gap)
    ))
}

/// What the temperature does to the ECE: `0.070 [0.051, 0.090] less`.
fn change(gap: &TemperatureGap) -> String {
    format!("{} less", decimal_interval(&gap.gain, 3))
}

fn measures(of: &Calibration) -> Vec<Row> {
    let lean = &of.overconfidence;
    let mut rows = vec![
        Row {
            name: "Confidence off by",
            term: "Debiased error",
            value: points(of.debiased.estimate.value),
            interval: vec![points_interval(&of.debiased.estimate).replace('+', "")],
            calibrated: points(0.0),
            note: vec![p_of(&of.debiased)],
        },
        Row {
            name: "Over-confidence",
            term: "Over-confidence",
            value: signed_points(lean.estimate.value),
            interval: vec![points_interval(&lean.estimate)],
            calibrated: points(0.0),
            note: vec![p_of(lean)],
        },
        error("ECE", "ECE", &of.ece_equal_width_10),
    ];
    let all = of.known_accuracy.as_ref().unwrap_or(&of.accuracy);
    rows.push(share("Right, of all answers", "", (of, all), None));
    let surest = of.surest_half.as_ref();
    rows.extend(surest.map(|half| share("Right, of the surest half", "Surest half", (of, &half.estimate), Some(half))));
    let auroc = of.auroc.as_ref();
    rows.extend(auroc.map(|area| share("Surer where right (AUROC)", "AUROC", (of, &area.estimate), Some(area))));
    rows
}

fn more(of: &Calibration) -> Vec<Row> {
    let part = |name, value: f64| Row {
        name,
        term: "",
        value: decimal(value, 3),
        interval: vec!["a part of the sum".to_owned()],
        calibrated: String::new(),
        note: Vec::new(),
    };
    let murphy = &of.murphy;
    let mut rows = vec![
        error("Brier score", "Brier score", &of.brier),
        error("= reliability (miscalibration)", "", &of.reliability),
        gain("− resolution (right told from wrong)", &of.resolution),
        part("+ uncertainty (how even right and wrong are)", murphy.uncertainty),
        part("+ what varies within a bin", murphy.within_variance - murphy.within_covariance),
        error("ECE, 15 bins of equal width", "ECE", &of.ece_equal_width_15),
        error("ECE, 10 bins of equal size", "ECE", &of.ece_equal_mass_10),
        error("ECE, 15 bins of equal size", "ECE", &of.ece_equal_mass_15),
        error("ECE without bins (smooth)", "ECE", &of.smooth_ece),
        error("Largest error of a bin (MCE)", "", &of.mce),
    ];
    rows.extend(of.aurc.as_ref().map(|area| error("AURC", "AURC", area)));
    rows.extend(of.excess_aurc.as_ref().map(|area| error("AURC beyond the best order (E-AURC)", "AURC", area)));
    let gap =
        |name, term, value, interval, calibrated| Row { name, term, value, interval, calibrated, note: Vec::new() };
    rows.extend(of.temperature.iter().flat_map(|of| {
        let (name, fitted) = ("Temperature", &of.temperature);
        let found = if of.is_at_bound { "none in the range is best".to_owned() } else { interval(fitted, 2) };
        let n = count(of.gain.n);
        [
            gap(name, name, decimal(fitted.value, 2), vec![found], decimal(1.0, 2)),
            gap(
                "ECE that it takes away",
                "",
                decimal(of.gain.value, 3),
                vec![format!("{},", interval(&of.gain, 3)), format!("n = {n}")],
                decimal(0.0, 3),
            ),
        ]
    }));
    rows
}

/// An error: a calibrated model's is not 0, for want of answers.
fn error(name: &'static str, term: &'static str, of: &Measured) -> Row {
    Row {
        name,
        term,
        value: decimal(of.estimate.value, 3),
        interval: vec![interval(&of.estimate, 3)],
        calibrated: decimal(of.null.mean, 3),
        note: vec![format!("up to {};", decimal(of.null.high, 3)), p_of(of)],
    }
}

/// What is better where it is more.
fn gain(name: &'static str, of: &Measured) -> Row {
    Row { note: vec![format!("at least {};", decimal(of.null.low, 3)), p_of(of)], ..error(name, "", of) }
}

/// A share of answers; their number where it is not that of the whole table.
fn share(
    name: &'static str,
    term: &'static str,
    (of, estimate): (&Calibration, &Estimate),
    beside: Option<&Measured>,
) -> Row {
    let null = beside.map(|of| &of.null);
    let range = format!("[{}]", percent_interval(estimate));
    let interval = match estimate.n {
        n if n == of.n => vec![range],
        n => vec![range + ",", format!("n = {}", count(n))],
    };
    Row {
        name,
        term,
        value: percent(estimate.value),
        interval,
        calibrated: null.map(|null| percent(null.mean)).unwrap_or_default(),
        note: null.map(|null| format!("at least {}", percent(null.low))).into_iter().collect(),
    }
}

fn interval(estimate: &Estimate, digits: usize) -> String {
    if estimate.low.is_finite() && estimate.high.is_finite() {
        format!("[{}, {}]", decimal(estimate.low, digits), decimal(estimate.high, digits))
    } else {
        "no interval".to_owned()
    }
}

fn p_of(of: &Measured) -> String {
    match p_value(of.null.p_value) {
        text if text.starts_with('<') => format!("p {text}"),
        text => format!("p = {text}"),
    }
}

/// What records say in which the measures are not.
fn older(curve: &CalibrationCurve) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(ece), Some((mean, top))) = (&curve.ece, curve.null_ece) {
        let reading = if !ece.value.is_finite() {
            "The error could not be computed."
        } else if ece.value > top {
            "Its confidence is off by more than chance explains."
        } else {
            "No more off than chance explains with this many items."
        };
        lines.push(reading.to_owned());
        lines.push(format!(
            "ECE {}, n = {}; by chance alone {} on average, up to {} in 19 of 20 cases. This record is of a version whose interval of it was wrong; diagnose again for a right one.",
            decimal(ece.value, 3),
            count(ece.n),
            decimal(mean, 3),
            decimal(top, 3)
        ));
    }
    lines.extend(curve.overconfidence.as_ref().map(|lean| {
        let interval = points_interval(lean);
        match lean.value {
            v if lean.low > 0.0 => format!("On average too sure by {} {interval}.", points(v)),
            v if lean.high < 0.0 => format!("On average not sure enough by {} {interval}.", points(-v)),
            v => format!("Whether it is too sure or not sure enough is not resolved: {} {interval}.", signed_points(v)),
        }
    }));
    lines.extend(
        curve
            .brier
            .as_ref()
            .map(|brier| format!("Brier score {}, n = {}.", decimal_interval(brier, 3), count(brier.n))),
    );
    lines
}
