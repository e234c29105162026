//! Two axes of a comparison against each other, one numbered point per setting.

use evals::comparison::{Axis, Exploration};
use evals::diagnosis::Estimate;
use minijinja::Value;

use super::label::{Area, Labels};
use super::ruler::Ruler;
use super::svg::{Anchor, Canvas};
use super::{Chart, columns};
use crate::number::{measure, measure_interval};
use crate::words;

/// How many times wider than the trained settings everything may be before they get a close-up.
const CROWDED: f64 = 2.5;
/// Half the height of a mark.
const MARK: f64 = 4.5;

/// What is drawn.
pub(crate) struct Plane<'a> {
    /// Prefix of the anchors.
    pub(crate) id: &'a str,
    /// Which part is drawn.
    pub(crate) view: View,
    /// Width and height at scale 1.
    pub(crate) size: (f64, f64),
    /// Horizontal and vertical axis.
    pub(crate) axes: (Axis, Axis),
    /// The settings.
    pub(crate) points: &'a [Point<'a>],
    /// Explored ways from the start to a trained setting, as indices of points in their order.
    pub(crate) trails: &'a [Vec<usize>],
}

/// A part of the plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Everything.
    Whole,
    /// The trained settings, and what else lies among them.
    CloseUp,
    /// Everything, small, beside a close-up: the start alone is named.
    Overview,
}

/// A setting in the plane.
pub(crate) struct Point<'a> {
    /// What stands beside its mark: its number.
    pub(crate) label: &'a str,
    /// What it is called in the table and under the pointer.
    pub(crate) name: String,
    /// How it is drawn.
    pub(crate) mark: Mark,
    /// Its value on the horizontal axis.
    pub(crate) x: Option<&'a Estimate>,
    /// Its value on the vertical axis.
    pub(crate) y: Option<&'a Estimate>,
}

/// Shapes, so that colour is never needed to tell settings apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Where alignment starts from: a ring.
    Start,
    /// Trained, not dominated: a square.
    Best,
    /// Trained, dominated: a dot.
    Dominated,
    /// Explored: a small hollow triangle, upright for mixed answers, upside down for mixed weights.
    Explored(Exploration),
}

/// A point that has both values, at its place.
struct Shown<'a> {
    point: &'a Point<'a>,
    index: usize,
    x: &'a Estimate,
    y: &'a Estimate,
    at: (f64, f64),
}

/// Whether the start or the explored settings lie so far off that the trained ones need a close-up.
pub(crate) fn is_crowded(points: &[Point]) -> bool {
    let (mut trained, mut all) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for (point, (x, y)) in points.iter().filter_map(|p| Some((p, p.both()?))) {
        for (axis, estimate) in [x, y].into_iter().enumerate() {
            let ends = || reach(point, estimate).filter(|v| v.is_finite());
            all[axis].extend(ends());
            if point.is_trained() {
                trained[axis].extend(ends());
            }
        }
    }
    let is_stretched = |(all, trained): (&Vec<f64>, &Vec<f64>)| {
        let width = extent(trained);
        width > 0.0 && extent(all) > CROWDED * width
    };
    all.iter().zip(&trained).any(is_stretched)
}

/// Whether a setting has both values, and they lie inside what is drawn.
pub(crate) fn is_inside(plane: &Plane, point: &Point) -> bool {
    rulers(plane).zip(point.both()).is_some_and(|((x, y), (h, v))| x.holds(h.value) && y.holds(v.value))
}

/// Draws the plane, or nothing where no setting has both values.
pub(crate) fn draw(plane: &Plane) -> Option<Chart> {
    let (width, height) = plane.size;
    let (x_axis, y_axis) = plane.axes;
    let (x, y) = rulers(plane)?;
    let shown: Vec<Shown> = plane
        .points
        .iter()
        .enumerate()
        .filter_map(|(i, p)| Some((i, p, p.both()?)))
        .filter(|(.., (h, v))| x.holds(h.value) && y.holds(v.value))
        .map(|(index, point, (h, v))| Shown {
            point,
            index,
            x: h,
            y: v,
            at: (x.scale.at(h.value), y.scale.at(v.value)),
        })
        .collect();

    let mut canvas = Canvas::new(width, height);
    y.draw_vertical(&mut canvas, x.scale.positions);
    x.draw_horizontal(&mut canvas, (y.scale.positions.1, y.scale.positions.0));
    canvas.side_label((12.0, f64::midpoint(y.scale.positions.0, y.scale.positions.1)), &words::axis_arrow(y_axis));
    let middle = f64::midpoint(x.scale.positions.0, x.scale.positions.1);
    canvas.label((middle, height - 14.0), Anchor::Middle, "axis-name", &words::axis_arrow(x_axis));

    let crossed = shown.iter().filter(|s| s.point.is_trained() || s.point.mark == Mark::Start);
    for s in crossed.filter(|_| plane.view != View::Overview) {
        if s.x.low.is_finite() && s.x.high.is_finite() {
            canvas.line((x.scale.at(s.x.low), s.at.1), (x.scale.at(s.x.high), s.at.1), "cross");
        }
        if s.y.low.is_finite() && s.y.high.is_finite() {
            canvas.line((s.at.0, y.scale.at(s.y.low)), (s.at.0, y.scale.at(s.y.high)), "cross");
        }
    }
    for trail in plane.trails {
        let places: Vec<Option<(f64, f64)>> =
            trail.iter().map(|i| shown.iter().find(|s| s.index == *i).map(|s| s.at)).collect();
        // A stretch that leaves the drawing is left off.
        for stretch in places.split(Option::is_none) {
            let stretch: Vec<(f64, f64)> = stretch.iter().flatten().copied().collect();
            if stretch.len() > 1 {
                canvas.polyline(&stretch, "trail");
            }
        }
    }
    let front = front(&shown, plane.axes);
    canvas.polyline(&steps(&front), "front");
    for s in shown.iter().filter(|s| !s.point.is_trained()).chain(shown.iter().filter(|s| s.point.is_trained())) {
        let values = format!("{}: {}, {}", s.point.name, measure(x_axis, s.x.value), measure(y_axis, s.y.value));
        canvas.titled(&values, |canvas| s.point.mark.draw(canvas, s.at));
    }
    label(&mut canvas, &shown, plane.view, Area { left: 58.0, right: width - 2.0, top: 2.0, bottom: height - 54.0 });

    let part = match plane.view {
        View::Whole => "",
        View::CloseUp => ", close up",
        View::Overview => ", with the start",
    };
    let title = format!("{} against {}{part}", words::capital(x_axis.title()), y_axis.title());
    let said: Vec<String> = shown
        .iter()
        .filter(|s| !matches!(s.point.mark, Mark::Explored(_)))
        .map(|s| format!("{}: {}, {}", s.point.name, measure(x_axis, s.x.value), measure(y_axis, s.y.value)))
        .collect();
    let description = format!(
        "Horizontal: {}; vertical: {}; better is {}. {}.",
        x_axis.title(),
        y_axis.title(),
        better_corner(plane.axes),
        said.join("; ")
    );
    let names = [x_axis.title(), y_axis.title()].map(words::capital);
    Some(Chart {
        svg: canvas.finish(plane.id, &title, &description),
        title,
        columns: columns(&["Setting", "How", &names[0], "95% interval", &names[1], "95% interval"]),
        rows: plane.points.iter().map(|p| table_row(p, plane.axes)).collect(),
    })
}

/// The marks with what they stand for, as the key beside a plane.
pub(crate) fn legend(has_explored: impl Fn(Exploration) -> bool) -> Vec<(Value, &'static str)> {
    let mark = |mark: Mark| {
        let mut canvas = Canvas::new(24.0, 14.0);
        mark.draw(&mut canvas, (12.0, 7.0));
        canvas.decorate()
    };
    let line = |points: &[(f64, f64)], class: &str| {
        let mut canvas = Canvas::new(24.0, 14.0);
        canvas.polyline(points, class);
        canvas.decorate()
    };
    let mut entries = vec![
        (
            mark(Mark::Best),
            "trained, not dominated: no other is shown to be better on one axis and no worse on the rest",
        ),
        (mark(Mark::Dominated), "trained, dominated by another"),
        (mark(Mark::Start), "the start, before alignment"),
        (
            line(&[(2.0, 3.0), (12.0, 3.0), (12.0, 11.0), (22.0, 11.0)], "front"),
            "edge of what was trained on these two axes alone, by the values without their intervals",
        ),
        (line(&[(2.0, 7.0), (22.0, 7.0)], "cross"), "95% interval, one each way"),
    ];
    if has_explored(Exploration::Realigned) {
        entries.push((mark(Mark::Explored(Exploration::Realigned)), "explored, not trained: answers mixed"));
    }
    if has_explored(Exploration::Interpolated) {
        entries.push((mark(Mark::Explored(Exploration::Interpolated)), "explored, not trained: weights mixed"));
    }
    entries
}

fn extent(values: &[f64]) -> f64 {
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    high - low
}

// Explored settings are drawn without intervals, so theirs need no room.
fn rulers(plane: &Plane) -> Option<(Ruler, Ruler)> {
    let (width, height) = plane.size;
    let counted = || plane.points.iter().filter(|p| plane.view != View::CloseUp || p.is_trained());
    let both = || counted().filter_map(|p| Some((p, p.both()?)));
    both().next()?;
    let x = both().flat_map(|(p, (x, _))| reach(p, x));
    let y = both().flat_map(|(p, (_, y))| reach(p, y));
    Some((
        Ruler::over(x, (56.0, width - 16.0), plane.axes.0.is_share()),
        Ruler::over(y, (height - 52.0, 12.0), plane.axes.1.is_share()),
    ))
}

impl<'a> Point<'a> {
    fn both(&self) -> Option<(&'a Estimate, &'a Estimate)> {
        let (x, y) = (self.x?, self.y?);
        (x.value.is_finite() && y.value.is_finite()).then_some((x, y))
    }

    fn is_trained(&self) -> bool {
        matches!(self.mark, Mark::Best | Mark::Dominated)
    }
}

impl Mark {
    fn draw(self, canvas: &mut Canvas, (x, y): (f64, f64)) {
        match self {
            Self::Start => canvas.circle((x, y), MARK + 0.5, "mark start"),
            Self::Best => canvas.rect((x - MARK, y - MARK), (x + MARK, y + MARK), "mark best"),
            Self::Dominated => canvas.circle((x, y), MARK, "mark dominated"),
            Self::Explored(by) => {
                let up = if by == Exploration::Realigned { 1.0 } else { -1.0 };
                let r = 3.4;
                canvas
                    .polygon(&[(x - r, y + up * r * 0.7), (x + r, y + up * r * 0.7), (x, y - up * r)], "mark explored");
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Best => "trained, not dominated",
            Self::Dominated => "trained, dominated",
            Self::Explored(Exploration::Realigned) => "explored: answers mixed",
            Self::Explored(Exploration::Interpolated) => "explored: weights mixed",
        }
    }
}

fn reach<'a>(point: &Point, e: &'a Estimate) -> impl Iterator<Item = f64> + use<'a> {
    let ends = if matches!(point.mark, Mark::Explored(_)) { [e.value; 3] } else { [e.low, e.value, e.high] };
    ends.into_iter()
}

// Trained points that no other trained point beats on both axes, from the best on the horizontal axis to the best on the vertical.
fn front(shown: &[Shown], axes: (Axis, Axis)) -> Vec<(f64, f64)> {
    let cost = |axis: Axis, value: f64| if axis.is_gain() { -value } else { value };
    let mut trained: Vec<(f64, f64, (f64, f64))> = shown
        .iter()
        .filter(|s| s.point.is_trained())
        .map(|s| (cost(axes.0, s.x.value), cost(axes.1, s.y.value), s.at))
        .collect();
    trained.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    trained.retain(|t| {
        let is_better = t.1 < best;
        best = best.min(t.1);
        is_better
    });
    trained.into_iter().map(|t| t.2).collect()
}

// The border of what is dominated: along the horizontal axis first.
fn steps(front: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut path = Vec::new();
    for (i, &at) in front.iter().enumerate() {
        if i > 0 {
            path.push((at.0, front[i - 1].1));
        }
        path.push(at);
    }
    path
}

// Numbers around their marks, further out with a thin line where it is crowded; points outside the crowd are not worse placed for it.
fn label(canvas: &mut Canvas, shown: &[Shown], view: View, bounds: Area) {
    let mut tries = Vec::new();
    for (ring, radius) in [9.0, 14.0, 21.0, 29.0, 38.0, 48.0, 60.0].into_iter().enumerate() {
        let spokes = 8 + 4 * ring;
        for spoke in 0..spokes {
            let angle = std::f64::consts::TAU * (spoke as f64 / spokes as f64) - 0.6;
            tries.push((radius * angle.cos(), radius * angle.sin() + 4.0));
        }
    }
    let mut labels = Labels::within(bounds);
    for s in shown {
        let radius = if matches!(s.point.mark, Mark::Explored(_)) { 2.5 } else { MARK + 1.0 };
        labels.cover(Area::around(s.at.0, s.at.1, radius));
    }
    let is_named = |s: &&Shown| !s.point.label.is_empty() && (view != View::Overview || s.point.mark == Mark::Start);
    for s in shown.iter().filter(is_named) {
        let width = 7.2 * s.point.label.chars().count() as f64;
        let area = labels.place(s.at, width, &tries);
        let middle = (f64::midpoint(area.left, area.right), f64::midpoint(area.top, area.bottom));
        let (dx, dy) = (middle.0 - s.at.0, middle.1 - s.at.1);
        let length = dx.hypot(dy);
        if length > 22.0 {
            let (from, to) = (MARK / length, 1.0 - 8.0 / length);
            canvas.line((s.at.0 + from * dx, s.at.1 + from * dy), (s.at.0 + to * dx, s.at.1 + to * dy), "leader");
        }
        let class = if s.point.mark == Mark::Best { "number strong halo" } else { "number halo" };
        canvas.label((area.left, area.bottom - 4.0), Anchor::Start, class, s.point.label);
    }
}

fn better_corner(axes: (Axis, Axis)) -> &'static str {
    match (axes.0.is_gain(), axes.1.is_gain()) {
        (false, false) => "the lower left",
        (false, true) => "the upper left",
        (true, false) => "the lower right",
        (true, true) => "the upper right",
    }
}

fn table_row(point: &Point, axes: (Axis, Axis)) -> Vec<String> {
    let mut row = vec![point.name.clone(), point.mark.word().to_owned()];
    for (axis, estimate) in [(axes.0, point.x), (axes.1, point.y)] {
        match estimate {
            Some(e) => row.extend([measure(axis, e.value), measure_interval(axis, e)]),
            None => row.extend(["not measured".to_owned(), "–".to_owned()]),
        }
    }
    row
}
