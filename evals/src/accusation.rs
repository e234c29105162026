//! Which phase to blame for a failure that is real, or why none.

use crate::contribution::Part;
use crate::diagnosis::ContributionKind;
use crate::evidence::Candidates;
use crate::path::{MIN_EFFECT, Path};
use crate::verdict::fit::ACCURACY;
use crate::verdict::model::TierModel;
use crate::verdict::record;
use crate::wording::{percent, phase_name, points, signed, stage, stage_name};

/// Share of all positive parts that the named phase must hold.
pub const MAJORITY: f64 = 0.60;

/// The phase that the verdict model names, or why it names none: of the stage that is likeliest guilty the phase with the largest part.
pub(crate) fn accuse_by_evidence<'p>(
    model: &TierModel,
    candidates: &Candidates,
    parts: &'p [Part],
    names: &[String],
) -> Result<&'p Part, String> {
    let probabilities = model.predict(&record::candidates(candidates));
    let said: Vec<String> =
        probabilities.iter().map(|(stage, p)| format!("{} {}", stage_name(*stage), percent(*p))).collect();
    let named = *model.name(&probabilities).first().ok_or_else(|| {
        format!(
            "no phase is as likely guilty as those of which {} were right on planted faults ({})",
            percent(ACCURACY),
            said.join(", ")
        )
    })?;
    let of_stage = parts.iter().filter(|part| part.phase.is_some_and(|phase| stage(&names[phase], names) == named));
    of_stage
        .reduce(|a, b| if b.contribution.shortfall.value > a.contribution.shortfall.value { b } else { a })
        .ok_or_else(|| format!("the evidence names {}, of which no phase was measured", stage_name(named)))
}

/// How an accused phase came to produce the failure.
pub(crate) fn kind_of(part: &Part) -> ContributionKind {
    match part.contribution.kind {
        kind @ (ContributionKind::Commission | ContributionKind::Omission) => kind,
        _ if part.gain < 0.0 => ContributionKind::Commission,
        _ => ContributionKind::Omission,
    }
}

/// The phase to blame, or why none is.
pub(crate) fn accuse<'p>(path: &Path, parts: &'p [Part], names: &[String]) -> Result<&'p Part, String> {
    let total: f64 = parts.iter().map(|part| part.contribution.shortfall.value.max(0.0)).sum();
    let largest = parts
        .iter()
        .reduce(|a, b| if b.contribution.shortfall.value > a.contribution.shortfall.value { b } else { a })
        .ok_or("the last phase was not measured in the form that the failure is traced in")?;
    let Some(phase) = largest.phase else {
        return Err(format!(
            "{} were never reached at any phase, and without healthy runs nothing says which phase should have taught them",
            points(largest.contribution.shortfall.value)
        ));
    };
    let name = phase_name(&names[phase]);
    if !path.is_referenced() && largest.contribution.shortfall.value < 2.0 * MIN_EFFECT {
        return Err(format!(
            "{name} lost most, {}, but without healthy runs less than {} cannot be told from ordinary variation",
            points(largest.contribution.shortfall.value),
            points(2.0 * MIN_EFFECT)
        ));
    }
    if largest.contribution.shortfall.low <= 0.0 {
        return Err(format!(
            "{name} has the largest part, {}, but its interval ({} to {}) includes none",
            points(largest.contribution.shortfall.value),
            signed(largest.contribution.shortfall.low),
            signed(largest.contribution.shortfall.high)
        ));
    }
    if largest.contribution.shortfall.value < MAJORITY * total {
        return Err(format!(
            "no phase holds {} of it: {name} comes first with {} of {}",
            percent(MAJORITY),
            points(largest.contribution.shortfall.value),
            points(total)
        ));
    }
    // In chat the first phase cannot be asked before the template is taught; any other gap hides whose change it was.
    let before = largest.moves.as_ref().map(|(before, _)| *before);
    if before.is_some_and(|before| before + 1 != phase) {
        return Err(format!("{name} follows a phase that was not measured, so either may have produced it"));
    }
    Ok(largest)
}
