//! Labels that keep off what is already painted.

/// A rectangle of the drawing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    /// Left edge.
    pub(crate) left: f64,
    /// Right edge.
    pub(crate) right: f64,
    /// Upper edge, the smaller number.
    pub(crate) top: f64,
    /// Lower edge.
    pub(crate) bottom: f64,
}

impl Area {
    /// The square around a dot.
    pub(crate) fn around(x: f64, y: f64, radius: f64) -> Self {
        Self { left: x - radius, right: x + radius, top: y - radius, bottom: y + radius }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn holds(&self, other: &Self) -> bool {
        other.left >= self.left && other.right <= self.right && other.top >= self.top && other.bottom <= self.bottom
    }
}

/// What is painted so far, and where labels may stand.
pub(crate) struct Labels {
    bounds: Area,
    taken: Vec<Area>,
}

impl Labels {
    /// No label leaves `bounds`, as long as one of its places lies inside.
    pub(crate) fn within(bounds: Area) -> Self {
        Self { bounds, taken: Vec::new() }
    }

    /// Keeps labels off this area.
    pub(crate) fn cover(&mut self, area: Area) {
        self.taken.push(area);
    }

    /// Takes the first free place for a label of this width, or the first of all where none is free.
    ///
    /// A try is the way from the point to the label's baseline: to its left end where it points to the right, to its right end
    /// otherwise.
    pub(crate) fn place(&mut self, point: (f64, f64), width: f64, tries: &[(f64, f64)]) -> Area {
        let candidate = |&(dx, dy): &(f64, f64)| {
            let left = if dx >= 0.0 { point.0 + dx } else { point.0 + dx - width };
            let baseline = point.1 + dy;
            Area { left, right: left + width, top: baseline - 12.0, bottom: baseline + 4.0 }
        };
        let is_free = |area: &Area| self.bounds.holds(area) && self.taken.iter().all(|t| !t.overlaps(area));
        let first = tries.first().map_or_else(|| candidate(&(0.0, 0.0)), candidate);
        let area = tries.iter().map(candidate).find(is_free).unwrap_or(first);
        self.taken.push(area);
        area
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_place_inside_the_bounds_is_taken() {
        let mut labels = Labels::within(Area { left: 0.0, right: 100.0, top: 0.0, bottom: 100.0 });
        let tries = [(5.0, 4.0), (-5.0, 4.0), (0.0, 40.0)];
        assert_eq!(labels.place((50.0, 50.0), 20.0, &tries).left, 55.0);
        assert_eq!(labels.place((50.0, 50.0), 20.0, &tries).left, 25.0);
        assert_eq!(labels.place((50.0, 50.0), 20.0, &tries).top, 78.0);
        assert_eq!(labels.place((95.0, 20.0), 20.0, &tries).left, 70.0, "to the right it would leave the drawing");
    }
}
