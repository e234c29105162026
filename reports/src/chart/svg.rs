//! A small canvas that writes SVG; the only place where drawings become text.

use std::fmt::Write as _;

use minijinja::Value;

use crate::text::escape;

/// A drawing of fixed inner size; the page scales it to its column.
pub(crate) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

/// Which end of a label stands at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// The label begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// One end of a ribbon: a span at one height.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    /// Left end.
    pub(crate) from: f64,
    /// Right end.
    pub(crate) to: f64,
    /// Height.
    pub(crate) y: f64,
}

impl Canvas {
    /// An empty canvas of this size in pixels at scale 1.
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A straight line.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    /// A rectangle between two opposite corners.
    pub(crate) fn rect(&mut self, a: (f64, f64), b: (f64, f64), class: &str) {
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
            a.0.min(b.0),
            a.1.min(b.1),
            (a.0 - b.0).abs(),
            (a.1 - b.1).abs()
        );
    }

    /// A filled circle.
    pub(crate) fn circle(&mut self, centre: (f64, f64), radius: f64, class: &str) {
        let _ =
            write!(self.body, r#"<circle class="{class}" cx="{:.1}" cy="{:.1}" r="{radius:.1}"/>"#, centre.0, centre.1);
    }

    /// A line through several points.
    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let _ = write!(self.body, r#"<polyline class="{class}" points="{}"/>"#, joined(points));
    }

    /// A filled outline.
    pub(crate) fn polygon(&mut self, points: &[(f64, f64)], class: &str) {
        let _ = write!(self.body, r#"<polygon class="{class}" points="{}"/>"#, joined(points));
    }

    /// A band that flows from one edge to another below it.
    pub(crate) fn ribbon(&mut self, upper: Edge, lower: Edge, class: &str) {
        let middle = f64::midpoint(upper.y, lower.y);
        let _ = write!(
            self.body,
            r#"<path class="{class}" d="M{:.1} {:.1}C{:.1} {middle:.1} {:.1} {middle:.1} {:.1} {:.1}L{:.1} {:.1}C{:.1} {middle:.1} {:.1} {middle:.1} {:.1} {:.1}Z"/>"#,
            upper.from,
            upper.y,
            upper.from,
            lower.from,
            lower.from,
            lower.y,
            lower.to,
            lower.y,
            lower.to,
            upper.to,
            upper.to,
            upper.y
        );
    }

    /// What `draw` paints, with a text that appears where the pointer rests on it.
    pub(crate) fn titled(&mut self, title: &str, draw: impl FnOnce(&mut Self)) {
        let _ = write!(self.body, "<g><title>{}</title>", escape(title));
        draw(self);
        self.body.push_str("</g>");
    }

    /// A line with a head at its end, stopping `gap` short of both points.
    pub(crate) fn arrow(&mut self, from: (f64, f64), to: (f64, f64), gap: f64, class: &str) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        if length < 2.0 * gap + 6.0 {
            return;
        }
        let (ux, uy) = (dx / length, dy / length);
        let tip = (to.0 - gap * ux, to.1 - gap * uy);
        let neck = (tip.0 - 8.0 * ux, tip.1 - 8.0 * uy);
        self.line((from.0 + gap * ux, from.1 + gap * uy), neck, class);
        let _ = write!(
            self.body,
            r#"<path class="{class} head" d="M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z"/>"#,
            tip.0,
            tip.1,
            neck.0 - 4.0 * uy,
            neck.1 + 4.0 * ux,
            neck.0 + 4.0 * uy,
            neck.1 - 4.0 * ux
        );
    }

    /// A label; its text is escaped.
    pub(crate) fn label(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// A label along the left edge, read from below.
    pub(crate) fn side_label(&mut self, at: (f64, f64), text: &str) {
        let _ = write!(
            self.body,
            r#"<text class="axis-name" text-anchor="middle" transform="translate({:.1} {:.1}) rotate(-90)">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// The finished drawing with title and description for those who can't see it.
    pub(crate) fn finish(self, id: &str, title: &str, description: &str) -> Value {
        Value::from_safe_string(format!(
            r#"<svg class="chart" viewBox="0 0 {:.0} {:.0}" role="img" aria-labelledby="{id}-title {id}-desc"><title id="{id}-title">{}</title><desc id="{id}-desc">{}</desc>{}</svg>"#,
            self.width,
            self.height,
            escape(title),
            escape(description),
            self.body
        ))
    }

    /// The finished drawing where the same numbers stand beside it in words.
    pub(crate) fn decorate(self) -> Value {
        Value::from_safe_string(format!(
            r#"<svg class="mini" viewBox="0 0 {:.0} {:.0}" preserveAspectRatio="xMinYMid" aria-hidden="true" focusable="false">{}</svg>"#,
            self.width, self.height, self.body
        ))
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    points.join(" ")
}

/// Where a value lies between two ends of an axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Values at the two ends.
    pub(crate) values: (f64, f64),
    /// Positions of the two ends.
    pub(crate) positions: (f64, f64),
}

impl Scale {
    /// Position of a value, kept inside the axis.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let share = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        self.positions.0 + share * (self.positions.1 - self.positions.0)
    }
}

/// The frame of a plot of shares: a grid at quarters, names of both axes.
pub(crate) struct Frame {
    /// Horizontal axis.
    pub(crate) x: Scale,
    /// Vertical axis.
    pub(crate) y: Scale,
}

impl Frame {
    /// Draws grid lines and percentages at quarters of the vertical axis, and its name.
    pub(crate) fn draw_vertical(&self, canvas: &mut Canvas, name: &str) {
        let (left, right) = self.x.positions;
        for quarter in 0..=4 {
            let y = self.y.at(f64::from(quarter) / 4.0);
            canvas.line((left, y), (right, y), "grid");
            canvas.label((left - 7.0, y + 4.0), Anchor::End, "tick", &format!("{}%", 25 * quarter));
        }
        canvas.side_label((12.0, f64::midpoint(self.y.positions.0, self.y.positions.1)), name);
    }

    /// Draws percentages at quarters of the horizontal axis, and its name.
    pub(crate) fn draw_horizontal(&self, canvas: &mut Canvas, name: &str) {
        let (top, bottom) = (self.y.positions.1, self.y.positions.0);
        for quarter in 0..=4 {
            let x = self.x.at(f64::from(quarter) / 4.0);
            canvas.line((x, top), (x, bottom), "grid");
            canvas.label((x, bottom + 16.0), Anchor::Middle, "tick", &format!("{}%", 25 * quarter));
        }
        self.name_horizontal(canvas, name);
    }

    /// Writes the name of the horizontal axis.
    pub(crate) fn name_horizontal(&self, canvas: &mut Canvas, name: &str) {
        let middle = f64::midpoint(self.x.positions.0, self.x.positions.1);
        canvas.label((middle, self.y.positions.0 + 34.0), Anchor::Middle, "axis-name", name);
    }

    /// The point of a pair of values.
    pub(crate) fn point(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x.at(x), self.y.at(y))
    }
}
