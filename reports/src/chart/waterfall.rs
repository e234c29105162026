//! What each phase added to a shortfall, as steps from zero to the whole.

use evals::diagnosis::{Contribution, ContributionKind, Outcome};

use super::svg::{Anchor, Canvas, Scale};
use super::{Chart, columns};
use crate::number::{count, points, points_interval, signed_points};
use crate::words;

const LEFT: f64 = 92.0;
const RIGHT: f64 = 276.0;
const ROW: f64 = 42.0;

/// Draws one bar per phase, each beginning where the last ended, and the sum.
pub(crate) fn draw(id: &str, contributions: &[Contribution], shortfall: Option<f64>, outcome: &Outcome) -> Chart {
    let blamed = match outcome {
        Outcome::Attributed { phase, .. } => Some(phase.as_str()),
        _ => None,
    };
    let rows = contributions.len() + usize::from(shortfall.is_some());
    let height = ROW * rows as f64 + 34.0;
    let mut canvas = Canvas::new(380.0, height);
    let scale = scale_of(contributions);
    let zero = scale.at(0.0);
    let bottom = height - 28.0;
    canvas.line((zero, 4.0), (zero, bottom), "zero");
    canvas.label((zero, bottom + 14.0), Anchor::Middle, "tick", "as healthy runs");
    if RIGHT - zero > 118.0 {
        canvas.label((RIGHT, bottom + 14.0), Anchor::End, "tick", "worse →");
    }

    let mut start = 0.0;
    let mut top = 8.0;
    for contribution in contributions {
        let estimate = &contribution.shortfall;
        let step = if estimate.value.is_finite() { estimate.value } else { 0.0 };
        let end = start + step;
        let middle = top + 13.0;
        let is_blamed = blamed == Some(contribution.phase.as_str());
        let class = match contribution.kind {
            _ if is_blamed => "bar blamed",
            ContributionKind::Repair => "bar repair",
            _ => "bar",
        };
        canvas.rect((scale.at(start), top), (scale.at(end), top + 26.0), class);
        if estimate.low.is_finite() && estimate.high.is_finite() {
            let (low, high) = (scale.at(start + estimate.low), scale.at(start + estimate.high));
            canvas.line((low, middle), (high, middle), "whisker");
            for x in [low, high] {
                canvas.line((x, middle - 4.0), (x, middle + 4.0), "whisker");
            }
        }
        canvas.line((scale.at(end), top + 26.0), (scale.at(end), top + ROW), "step");
        let name = words::phase(&contribution.phase);
        canvas.label(
            (LEFT - 10.0, middle + 4.0),
            Anchor::End,
            if is_blamed { "name strong" } else { "name" },
            &short(&name),
        );
        let value_class = if is_blamed { "value strong" } else { "value" };
        canvas.label((RIGHT + 12.0, middle - 1.0), Anchor::Start, value_class, &signed_points(step));
        canvas.label((RIGHT + 12.0, middle + 13.0), Anchor::Start, "tick", &points_interval(estimate));
        start = end;
        top += ROW;
    }
    if let Some(total) = shortfall {
        canvas.rect((zero, top), (scale.at(total), top + 26.0), "bar total");
        canvas.label((LEFT - 10.0, top + 17.0), Anchor::End, "name", "Shortfall");
        canvas.label((RIGHT + 12.0, top + 17.0), Anchor::Start, "value strong", &points(total));
    }

    let title = "Where the shortfall arose".to_owned();
    let said: Vec<String> = contributions
        .iter()
        .map(|c| format!("{} {}", words::phase(&c.phase), signed_points(c.shortfall.value)))
        .collect();
    let description = format!("Contribution of each phase to the shortfall against healthy runs: {}.", said.join(", "));
    Chart {
        svg: canvas.finish(id, &title, &description),
        title,
        columns: columns(&["Phase", "Added shortfall", "95% interval", "n", "Interval by", "How"]),
        rows: contributions
            .iter()
            .map(|c| {
                vec![
                    words::phase(&c.phase),
                    signed_points(c.shortfall.value),
                    points_interval(&c.shortfall),
                    count(c.shortfall.n),
                    c.shortfall.method.clone(),
                    words::kind(c.kind).to_owned(),
                ]
            })
            .collect(),
    }
}

// Wide enough for every bar and every whisker, never narrower than ten points.
fn scale_of(contributions: &[Contribution]) -> Scale {
    let (mut low, mut high, mut start) = (0.0_f64, 0.1_f64, 0.0);
    for contribution in contributions {
        let estimate = &contribution.shortfall;
        for end in [estimate.low, estimate.value, estimate.high].into_iter().filter(|v| v.is_finite()) {
            low = low.min(start + end);
            high = high.max(start + end);
        }
        start += if estimate.value.is_finite() { estimate.value } else { 0.0 };
    }
    Scale { values: (low, high), positions: (LEFT, RIGHT) }
}

fn short(name: &str) -> String {
    if name.chars().count() <= 13 { name.to_owned() } else { name.chars().take(12).chain(['…']).collect() }
}
