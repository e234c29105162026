//! Faults that a later phase hides: what fell short of healthy runs on the way and no longer does at the end.

use crate::attribution::{ALPHA, Case, MIN_ITEMS};
use crate::diagnosis::{ContributionKind, Outcome, Verdict};
use crate::gate::Gate;
use crate::path::{Path, Shortfall};
use crate::reference::Route;
use crate::remedy::{Finding, remedy};
use crate::wording::{capital, percent, phase_name, points, stage};

/// A cell before the last that is beyond healthy variation.
struct Hidden<'a> {
    phase: usize,
    path: &'a Path<'a>,
    shortfall: Shortfall,
    p_value: f64,
}

impl Case<'_> {
    /// Turns the verdict on a behaviour that is healthy at the end into one on a fault hidden in it, if there is one.
    ///
    /// A fault is hidden where a phase before the last falls short of healthy runs by 10 points, 3 standard deviations and beyond
    /// their family-wise variation, in either route. The first such phase produced it; the one after the last of them hides it.
    /// With fewer than 19 healthy runs none is looked for.
    pub(crate) fn reveal(&self, verdict: &mut Verdict, gate: &Gate) {
        let hidden = self.hidden(gate);
        let (Some(first), Some(last)) = (hidden.first(), hidden.last()) else { return };
        let (phase, masked_by) = (&self.names[first.phase], &self.names[last.phase + 1]);
        verdict.outcome = Outcome::Latent { phase: phase.clone(), masked_by: masked_by.clone() };
        verdict.family_p = Some(first.p_value);
        verdict.evidence.push(format!(
            "After {} it reached {}, {} below healthy runs; after {} it is within healthy variation.",
            phase_name(phase),
            percent(first.shortfall.expected - first.shortfall.value),
            points(first.shortfall.value),
            phase_name(masked_by)
        ));
        let before = first.phase.checked_sub(1).and_then(|before| first.path.value(before));
        let broke = before.zip(first.path.value(first.phase)).is_some_and(|(before, after)| after < before);
        verdict.remedy = Some(remedy(&Finding {
            behaviour: self.behaviour,
            stage: stage(phase, self.names),
            kind: if broke { ContributionKind::Commission } else { ContributionKind::Omission },
            open_book: self.open_book,
            cutoff: None,
        }));
        verdict.would_change = Some(format!(
            "{} trained again with the healthy recipe: if the shortfall after it stays, another phase made it.",
            capital(&phase_name(phase))
        ));
    }

    /// The cells in question, in the order of the phases; of two at one phase the larger shortfall.
    fn hidden(&self, gate: &Gate) -> Vec<Hidden<'_>> {
        let at = |phase: usize, route: Route, path: &'_ Path<'_>| {
            let shortfall = path.shortfall_at(phase).filter(|shortfall| shortfall.value >= shortfall.gate)?;
            let n_items = path.values[phase].as_ref().map_or(0, |value| value.n);
            let p_value = gate.p_value(self.behaviour, route, phase).filter(|p| *p <= ALPHA && n_items >= MIN_ITEMS)?;
            Some((shortfall, p_value))
        };
        let mut hidden: Vec<Hidden> = Vec::new();
        for phase in 0..self.names.len().saturating_sub(1) {
            let found = [(Route::Chat, &self.chat), (Route::Elicited, &self.elicited)].into_iter().filter_map(
                |(route, path)| {
                    at(phase, route, path).map(|(shortfall, p_value)| Hidden { phase, path, shortfall, p_value })
                },
            );
            hidden.extend(found.reduce(|a, b| if b.shortfall.value > a.shortfall.value { b } else { a }));
        }
        hidden
    }
}
