//! Over-refusal against harmful compliance: both errors of a refusal at once, one arrow per phase.

use evals::diagnosis::{Estimate, TradeOffPoint};

use super::label::{Area, Labels};
use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Chart, columns};
use crate::number::{count, fine_percent, percent_interval};
use crate::words;

const RADIUS: f64 = 5.5;
/// Where a name may stand beside its point, the best place first.
const TRIES: [(f64, f64); 9] = [
    (11.0, 4.0),
    (8.0, -10.0),
    (8.0, 20.0),
    (-11.0, 4.0),
    (-8.0, -10.0),
    (-8.0, 20.0),
    (8.0, -28.0),
    (8.0, 38.0),
    (8.0, -46.0),
];

/// Draws the plane; phases where either share was not measured are in the table only.
pub(crate) fn draw(id: &str, points: &[TradeOffPoint]) -> Chart {
    let mut canvas = Canvas::new(400.0, 372.0);
    let frame = Frame {
        x: Scale { values: (0.0, 1.0), positions: (56.0, 378.0) },
        y: Scale { values: (0.0, 1.0), positions: (324.0, 12.0) },
    };
    canvas.rect(frame.point(0.0, 0.0), frame.point(0.1, 0.1), "goal");
    frame.draw_vertical(&mut canvas, "harmful requests answered");
    frame.draw_horizontal(&mut canvas, "harmless requests refused");

    let shown: Vec<(&TradeOffPoint, &Estimate, &Estimate)> = points
        .iter()
        .filter_map(|p| Some((p, p.over_refusal.as_ref()?, p.harmful_compliance.as_ref()?)))
        .filter(|(_, x, y)| x.value.is_finite() && y.value.is_finite())
        .collect();
    let places: Vec<(f64, f64)> = shown.iter().map(|(_, x, y)| frame.point(x.value, y.value)).collect();
    for ((_, x, y), place) in shown.iter().zip(&places) {
        if x.low.is_finite() && x.high.is_finite() {
            canvas.line((frame.x.at(x.low), place.1), (frame.x.at(x.high), place.1), "whisker thin");
        }
        if y.low.is_finite() && y.high.is_finite() {
            canvas.line((place.0, frame.y.at(y.low)), (place.0, frame.y.at(y.high)), "whisker thin");
        }
    }
    for pair in places.windows(2) {
        canvas.arrow(pair[0], pair[1], RADIUS + 3.0, "path");
    }
    let mut labels = Labels::within(Area { left: 58.0, right: 396.0, top: 4.0, bottom: 322.0 });
    for &(x, y) in &places {
        labels.cover(Area::around(x, y, RADIUS));
    }
    for ((_, x, y), place) in shown.iter().zip(&places) {
        labels.cover(Area {
            left: frame.x.at(x.low),
            right: frame.x.at(x.high),
            top: place.1 - 1.0,
            bottom: place.1 + 1.0,
        });
        labels.cover(Area {
            left: place.0 - 1.0,
            right: place.0 + 1.0,
            top: frame.y.at(y.high),
            bottom: frame.y.at(y.low),
        });
    }
    for (i, ((point, ..), place)) in shown.iter().zip(&places).enumerate() {
        let is_last = i + 1 == shown.len();
        canvas.circle(*place, RADIUS, if is_last { "dot last" } else { "dot" });
        let name = format!("{} {}", i + 1, words::phase(&point.phase));
        let (at, anchor) = place_label(*place, &name, &mut labels);
        canvas.label(at, anchor, if is_last { "name strong halo" } else { "name halo" }, &name);
    }

    let title = "Harmless requests refused against harmful requests answered".to_owned();
    let said: Vec<String> = shown
        .iter()
        .map(|(p, x, y)| {
            format!(
                "{}: {} of harmless refused, {} of harmful answered",
                words::phase(&p.phase),
                fine_percent(x.value),
                fine_percent(y.value)
            )
        })
        .collect();
    let description = format!("Best is the lower left corner. {}.", said.join("; "));
    Chart {
        svg: canvas.finish(id, &title, &description),
        title,
        columns: columns(&["Phase", "Requests", "Share", "95% interval", "n"]),
        rows: points.iter().flat_map(table_rows).collect(),
    }
}

fn table_rows(point: &TradeOffPoint) -> Vec<Vec<String>> {
    let phase = words::phase(&point.phase);
    let row = |what: String, estimate: Option<&Estimate>| {
        let (share, interval, n) = estimate.map_or_else(
            || ("not measured".to_owned(), "–".to_owned(), "–".to_owned()),
            |e| (fine_percent(e.value), percent_interval(e), count(e.n)),
        );
        vec![phase.clone(), what, share, interval, n]
    };
    let mut rows = vec![
        row("harmless, refused".to_owned(), point.over_refusal.as_ref()),
        row("harmful, answered".to_owned(), point.harmful_compliance.as_ref()),
    ];
    rows.extend(
        point.by_slice.iter().map(|(slice, e)| row(format!("harmless, refused: {}", slice.replace('_', " ")), Some(e))),
    );
    rows
}

// The places around a point, then further off; the width is that of an average letter.
fn place_label(point: (f64, f64), text: &str, labels: &mut Labels) -> ((f64, f64), Anchor) {
    let width = 7.0 * text.chars().count() as f64;
    let area = labels.place(point, width, &TRIES);
    ((area.left, area.bottom - 4.0), Anchor::Start)
}
