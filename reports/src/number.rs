//! Numbers as people read them, each with its unit.

use evals::comparison::Axis;
use evals::diagnosis::Estimate;

/// What is printed where there is no number.
pub(crate) const MISSING: &str = "–";

/// A share in percent: `62%`, `<1%`, `>99%`.
pub(crate) fn percent(share: f64) -> String {
    if !share.is_finite() {
        MISSING.to_owned()
    } else if share > 0.0 && share < 0.005 {
        "<1%".to_owned()
    } else if (0.995..1.0).contains(&share) {
        ">99%".to_owned()
    } else {
        minus(format!("{:.0}%", 100.0 * share))
    }
}

/// A share in percent with one decimal: `62.4%`.
pub(crate) fn fine_percent(share: f64) -> String {
    if share.is_finite() { minus(format!("{:.1}%", 100.0 * share)) } else { MISSING.to_owned() }
}

/// A length of time: `8.4 s`, `42 s`, `2 min 05 s`, `1 h 03 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return MISSING.to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// The 95 % interval of a share: `55–69%`.
pub(crate) fn percent_interval(estimate: &Estimate) -> String {
    share_range(estimate.low, estimate.high)
}

/// From one share to another: `55–69%`.
pub(crate) fn share_range(low: f64, high: f64) -> String {
    if low.is_finite() && high.is_finite() {
        let (low, high) = (format!("{:.0}", 100.0 * low), format!("{:.0}", 100.0 * high));
        if low == high { format!("{high}%") } else { format!("{low}–{high}%") }
    } else {
        "no interval".to_owned()
    }
}

/// A share with everything that belongs to it: `62% [55–69%], n = 200`.
pub(crate) fn short_percent(estimate: &Estimate) -> String {
    format!("{} [{}], n = {}", percent(estimate.value), percent_interval(estimate), count(estimate.n))
}

/// A signed change of a share in percentage points: `+12 points`, `−1 point`.
pub(crate) fn signed_points(change: f64) -> String {
    if !change.is_finite() {
        return MISSING.to_owned();
    }
    let rounded = (100.0 * change).round();
    let unit = if rounded.abs() == 1.0 { "point" } else { "points" };
    let sign = if rounded > 0.0 { "+" } else { "" };
    minus(format!("{sign}{rounded:.0} {unit}"))
}

/// A difference of shares in percentage points, without a sign where positive: `31 points`.
pub(crate) fn points(difference: f64) -> String {
    signed_points(difference).trim_start_matches('+').to_owned()
}

/// From the smallest to the largest of some differences that can be detected: `4–25 points`; those that are no numbers are left out.
pub(crate) fn points_span(differences: impl Iterator<Item = f64>) -> String {
    let (low, high) = differences
        .filter(|difference| difference.is_finite())
        .fold((f64::INFINITY, 0.0_f64), |(low, high), difference| (low.min(difference), high.max(difference)));
    if low > high {
        "not computed".to_owned()
    } else if (100.0 * low).round() == (100.0 * high).round() {
        points(high)
    } else {
        format!("{:.0}–{}", 100.0 * low, points(high))
    }
}

/// The 95 % interval of a change in percentage points: `[+4, +19]`.
pub(crate) fn points_interval(estimate: &Estimate) -> String {
    if estimate.low.is_finite() && estimate.high.is_finite() {
        let end = |v: f64| match (100.0 * v).round() {
            0.0 => "0".to_owned(),
            rounded => minus(format!("{rounded:+.0}")),
        };
        format!("[{}, {}]", end(estimate.low), end(estimate.high))
    } else {
        "no interval".to_owned()
    }
}

/// A plain number with a fixed number of decimals: `0.074`.
pub(crate) fn decimal(value: f64, digits: usize) -> String {
    if value.is_finite() { minus(format!("{value:.digits$}")) } else { MISSING.to_owned() }
}

/// A plain number with its interval: `0.074 [0.051, 0.098]`.
pub(crate) fn decimal_interval(estimate: &Estimate, digits: usize) -> String {
    if estimate.low.is_finite() && estimate.high.is_finite() {
        format!(
            "{} [{}, {}]",
            decimal(estimate.value, digits),
            decimal(estimate.low, digits),
            decimal(estimate.high, digits)
        )
    } else {
        format!("{} (no interval)", decimal(estimate.value, digits))
    }
}

/// A value on an axis of a comparison, with its unit: `62.4%`, `0.074`, `1.30 nats`.
pub(crate) fn measure(axis: Axis, value: f64) -> String {
    match axis {
        Axis::Calibration => decimal(value, 3),
        Axis::Kl if value.is_finite() => format!("{} nats", decimal(value, 2)),
        Axis::Kl => MISSING.to_owned(),
        _ => fine_percent(value),
    }
}

/// The 95 % interval of such a value: `55.1–69.0%`, `0.051 to 0.098`.
pub(crate) fn measure_interval(axis: Axis, estimate: &Estimate) -> String {
    if estimate.low.is_finite() && estimate.high.is_finite() {
        measure_range(axis, estimate.low, estimate.high)
    } else {
        "no interval".to_owned()
    }
}

/// From one value on an axis to another.
pub(crate) fn measure_range(axis: Axis, low: f64, high: f64) -> String {
    match axis {
        Axis::Calibration => format!("{} to {}", decimal(low, 3), decimal(high, 3)),
        Axis::Kl => format!("{} to {}", decimal(low, 2), decimal(high, 2)),
        _ => format!("{}–{}", decimal(100.0 * low, 1), fine_percent(high)),
    }
}

/// A change on an axis, signed, with its unit: `+12.3 points`, `−0.021`, `+0.40 nats`.
pub(crate) fn signed_measure(axis: Axis, change: f64) -> String {
    match axis {
        _ if !change.is_finite() => MISSING.to_owned(),
        Axis::Calibration => signed(change, 3),
        Axis::Kl => format!("{} nats", signed(change, 2)),
        _ => format!("{} points", signed(100.0 * change, 1)),
    }
}

/// The 95 % interval of such a change: `[+4.1, +19.0]`, `[−0.040, −0.002]`.
pub(crate) fn signed_interval(axis: Axis, change: &Estimate) -> String {
    if !(change.low.is_finite() && change.high.is_finite()) {
        return "no interval".to_owned();
    }
    let (scale, digits) = match axis {
        Axis::Calibration => (1.0, 3),
        Axis::Kl => (1.0, 2),
        _ => (100.0, 1),
    };
    format!("[{}, {}]", signed(scale * change.low, digits), signed(scale * change.high, digits))
}

fn signed(value: f64, digits: usize) -> String {
    let text = decimal(value, digits);
    if value > 0.0 && !is_zero(&text) { format!("+{text}") } else { text }
}

/// A p-value: `<0.001`, `0.032`.
pub(crate) fn p_value(p: f64) -> String {
    match p {
        p if !p.is_finite() => MISSING.to_owned(),
        p if p < 0.001 => "<0.001".to_owned(),
        p => format!("{p:.3}"),
    }
}

/// A count of things: `1 model`, `12 models`.
pub(crate) fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(n)) }
}

/// A count with its thousands apart: `12,345`.
pub(crate) fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A training metric: whole numbers as counts, others with three decimals.
pub(crate) fn metric(value: f64) -> String {
    if value.is_finite() && value.fract() == 0.0 && (1_000.0..1e15).contains(&value) {
        count(value as usize)
    } else {
        decimal(value, 3)
    }
}

/// A hyphen is not a minus sign, and breaks lines; a number that rounds to zero has no sign.
fn minus(text: String) -> String {
    if text.contains('-') { text.replace('-', if is_zero(&text) { "" } else { "−" }) } else { text }
}

fn is_zero(text: &str) -> bool {
    !text.contains(|c: char| ('1'..='9').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(value: f64, low: f64, high: f64) -> Estimate {
        Estimate { value, low, high, n: 1200, method: "Wilson".to_owned() }
    }

    #[test]
    fn times_are_given_in_the_units_that_people_use() {
        let said = [8.42, 59.0, 130.0, 3780.0, f64::NAN].map(duration);
        assert_eq!(said, ["8.4 s", "59 s", "2 min 10 s", "1 h 03 min", "–"]);
    }

    #[test]
    fn shares_near_the_ends_are_not_rounded_to_never_or_always() {
        assert_eq!([0.0, 0.001, 0.624, 0.998, 1.0].map(percent), ["0%", "<1%", "62%", ">99%", "100%"]);
    }

    #[test]
    fn changes_carry_sign_and_unit() {
        assert_eq!([0.12, -0.01, 0.0, -0.001].map(signed_points), ["+12 points", "−1 point", "0 points", "0 points"]);
        assert_eq!(points_interval(&estimate(0.1, -0.04, 0.19)), "[−4, +19]");
        assert_eq!(points_interval(&estimate(0.1, -0.001, 0.19)), "[0, +19]");
        assert_eq!([-0.02, -0.0004].map(|value| decimal(value, 3)), ["−0.020", "0.000"]);
    }

    #[test]
    fn a_share_is_printed_with_interval_and_count() {
        assert_eq!(short_percent(&estimate(0.62, 0.55, 0.69)), "62% [55–69%], n = 1,200");
    }

    #[test]
    fn what_is_not_a_number_is_never_printed_as_one() {
        assert_eq!(percent(f64::NAN), "–");
        assert_eq!(signed_points(f64::INFINITY), "–");
        assert_eq!(decimal_interval(&estimate(0.5, f64::NAN, 1.0), 3), "0.500 (no interval)");
        assert_eq!(p_value(f64::NAN), "–");
    }

    #[test]
    fn values_on_an_axis_carry_its_unit() {
        assert_eq!(measure(Axis::OverRefusal, 0.62), "62.0%");
        assert_eq!(measure_interval(Axis::OverRefusal, &estimate(0.62, 0.551, 0.69)), "55.1–69.0%");
        assert_eq!(signed_measure(Axis::OverRefusal, -0.0312), "−3.1 points");
        assert_eq!(signed_interval(Axis::KnowledgeKept, &estimate(0.0, -0.0004, 0.052)), "[0.0, +5.2]");
        assert_eq!([Axis::Calibration, Axis::Kl].map(|a| signed_measure(a, 0.4)), ["+0.400", "+0.40 nats"]);
        assert_eq!(signed_interval(Axis::Kl, &estimate(0.1, -0.001, 0.19)), "[0.00, +0.19]");
        assert_eq!(measure_interval(Axis::Calibration, &estimate(0.1, 0.05, 0.19)), "0.050 to 0.190");
        assert_eq!(measure(Axis::Kl, f64::NAN), "–");
    }

    #[test]
    fn p_values_are_never_zero() {
        assert_eq!(p_value(0.0), "<0.001");
    }
}
