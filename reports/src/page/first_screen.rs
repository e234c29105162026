//! The first screen: what fails, since which phase, how sure, what to do, what that costs and what it brings.

use std::fmt::Write as _;

use evals::diagnosis::{BehaviourHistory, DEPLOYED, Diagnosis, LineageDiagnosis, Outcome, Rung};
use evals::fixes::Fix;
use serde::Serialize;

use super::lineage_id;
use crate::number::{count, duration, percent, percent_interval, plural, points_span};
use crate::verdict::{NO_PHASE, anchor, failing, is_failing, is_latent, probability};
use crate::words;

/// The first screen, but for the drawing of the phases.
#[derive(Debug, Serialize)]
pub(crate) struct FirstScreen {
    verdict: Headline,
    sentences: Vec<(&'static str, String)>,
    /// The failure that the answers are about and the anchor of its card, where that is not plain.
    about: Option<(String, String)>,
    /// Since when, how sure, at what cost, with what gain.
    answers: Vec<Fact>,
    /// What it rests on.
    basis: Vec<Fact>,
}

/// The verdict in one line.
#[derive(Debug, Serialize)]
pub(crate) struct Headline {
    pub(crate) mark: &'static str,
    pub(crate) tone: &'static str,
    pub(crate) label: String,
    pub(crate) title: String,
}

/// A figure of the first screen.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
}

/// The failure that is told first, and where it was found.
struct Subject<'a> {
    diagnosis: &'a Diagnosis,
    at: usize,
    lineage: &'a LineageDiagnosis,
    history: &'a BehaviourHistory,
}

impl FirstScreen {
    /// The first screen of a diagnosis.
    pub(crate) fn of(diagnosis: &Diagnosis) -> Self {
        let subject = Subject::of(diagnosis);
        Self {
            verdict: headline(diagnosis),
            sentences: sentences(diagnosis),
            about: subject.as_ref().and_then(Subject::name),
            answers: subject.as_ref().map_or_else(Vec::new, Subject::answers),
            basis: basis(diagnosis),
        }
    }
}

/// The verdict on the deployed lineage.
pub(crate) fn headline(diagnosis: &Diagnosis) -> Headline {
    let lineage = diagnosis.lineages.first();
    let name = lineage.map_or("", |l| &l.name);
    let histories = lineage.map_or(&[][..], |l| &l.behaviours);
    let (blamed, unsettled): (Vec<_>, Vec<_>) =
        failing(histories).into_iter().partition(|h| matches!(h.verdict.outcome, Outcome::Attributed { .. }));
    let failing: Vec<&str> = blamed.into_iter().map(|h| words::failure(h.behaviour)).collect();
    let unsettled = unsettled.len();
    let measured = histories.iter().filter(|h| !matches!(h.verdict.outcome, Outcome::NotMeasured { .. })).count();
    let hidden = histories.iter().filter(|h| is_latent(&h.verdict.outcome)).count();
    let title = match failing[..] {
        [] if measured == 0 => "Nothing could be measured.".to_owned(),
        [] if unsettled > 0 => "The model falls short, and no phase can be blamed yet.".to_owned(),
        [] if hidden > 0 => "The model passes, and hides a fault.".to_owned(),
        [] if diagnosis.lineages.len() > 1 => format!("No failure found in the {} model.", words::lineage(name)),
        [] => "No failure found.".to_owned(),
        [one] => format!("The model {one}."),
        [one, two] => format!("The model {one} and {two}."),
        _ => format!("The model fails in {} of {measured} behaviours.", failing.len()),
    };
    let Standing { mark, tone, label } = standing(measured, failing.len(), unsettled, hidden);
    Headline { mark, tone, label, title }
}

/// What became of a run, in a few words.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    pub(crate) mark: &'static str,
    pub(crate) tone: &'static str,
    pub(crate) label: String,
}

/// The standing of a run by its numbers of behaviours.
pub(crate) fn standing(measured: usize, failing: usize, unsettled: usize, hidden: usize) -> Standing {
    let (mark, tone, mut label) = match failing {
        0 if measured == 0 => ("–", "quiet", "Nothing measured".to_owned()),
        0 if unsettled > 0 => ("?", "unsure", format!("{} of {measured} behaviours healthy", measured - unsettled)),
        0 if hidden > 0 => ("◐", "unsure", format!("{measured} of {measured} behaviours pass")),
        0 => ("✓", "good", format!("{measured} of {measured} behaviours healthy")),
        1 => ("✕", "bad", format!("1 of {measured} behaviours fails")),
        n => ("✕", "bad", format!("{n} of {measured} behaviours fail")),
    };
    if unsettled > 0 {
        let _ = write!(label, ", {unsettled} not settled");
    }
    if hidden > 0 {
        let _ = write!(label, ", {hidden} with a hidden fault");
    }
    Standing { mark, tone, label }
}

/// The three sentences under their labels; other numbers of sentences stand without.
fn sentences(diagnosis: &Diagnosis) -> Vec<(&'static str, String)> {
    let has_cause = |l: &LineageDiagnosis| {
        l.behaviours.iter().any(|h| is_failing(&h.verdict.outcome) || is_latent(&h.verdict.outcome))
    };
    let labels = match diagnosis.sentences.len() {
        3 if diagnosis.lineages.iter().any(has_cause) => ["Finding", "Cause", "Next step"],
        3 => ["Finding", "Lowest", "Next step"],
        _ => [""; 3],
    };
    diagnosis
        .sentences
        .iter()
        .enumerate()
        .map(|(i, text)| (labels.get(i).copied().unwrap_or(""), text.clone()))
        .collect()
}

impl<'a> Subject<'a> {
    /// What the sentences begin with: the first failure of the first lineage that has one, else the first hidden fault.
    fn of(diagnosis: &'a Diagnosis) -> Option<Self> {
        let hidden = |lineage: &'a LineageDiagnosis| lineage.behaviours.iter().find(|h| is_latent(&h.verdict.outcome));
        let lineages = || diagnosis.lineages.iter().enumerate();
        let fails = lineages().find_map(|(at, l)| Some((at, l, *failing(&l.behaviours).first()?)));
        let (at, lineage, history) = fails.or_else(|| lineages().find_map(|(at, l)| Some((at, l, hidden(l)?))))?;
        Some(Self { diagnosis, at, lineage, history })
    }

    fn phase(&self) -> Option<&'a str> {
        match &self.history.verdict.outcome {
            Outcome::Attributed { phase, .. } | Outcome::Latent { phase, .. } => Some(phase.as_str()),
            Outcome::Healthy | Outcome::Undetermined { .. } | Outcome::NotMeasured { .. } => None,
        }
    }

    fn is_single(&self) -> bool {
        self.lineage.phases.len() < 2
    }

    /// How the failure is called, and the anchor of its card; none where the headline tells of it and of no other.
    fn name(&self) -> Option<(String, String)> {
        let n: usize = self.diagnosis.lineages.iter().map(|lineage| failing(&lineage.behaviours).len()).sum();
        let is_plain = n == 1 && self.at == 0;
        (is_failing(&self.history.verdict.outcome) && !is_plain).then(|| {
            let failure = words::failure(self.history.behaviour);
            let name = match self.diagnosis.lineages.len() {
                1 => format!("the model {failure}"),
                _ => format!("the {} model {failure}", words::lineage(&self.lineage.name)),
            };
            (name, anchor(&lineage_id(self.at), self.history.behaviour))
        })
    }

    fn answers(&self) -> Vec<Fact> {
        let gain = is_failing(&self.history.verdict.outcome).then(|| self.gain()).flatten();
        [self.began(), self.sureness(), self.cost()].into_iter().chain(gain).collect()
    }

    fn began(&self) -> Fact {
        let fact = |value: String, note: String| Fact { name: "Began in", value, note };
        if self.is_single() {
            let note = format!("{NO_PHASE} Diagnose the checkpoints before it too to learn where this began.");
            return fact("Not known".to_owned(), note);
        }
        let here = |phase: &str| match words::phase_gloss(phase) {
            "" => String::new(),
            gloss => format!("There the model {gloss}. "),
        };
        match &self.history.verdict.outcome {
            Outcome::Attributed { phase, kind } => {
                fact(words::phase_plain(phase), format!("{}{}", here(phase), words::kind_plain(*kind)))
            }
            Outcome::Latent { phase, masked_by } => {
                let hides =
                    format!("{} hides it: the model passes, and may fail asked otherwise.", words::phase(masked_by));
                fact(words::phase_plain(phase), format!("{}{hides}", here(phase)))
            }
            Outcome::Healthy | Outcome::Undetermined { .. } | Outcome::NotMeasured { .. } => fact(
                "Not settled".to_owned(),
                "No phase can be named yet; the verdict says what would settle it.".to_owned(),
            ),
        }
    }

    fn sureness(&self) -> Fact {
        let fact = |value: &str, note: String| Fact { name: "How sure", value: value.to_owned(), note };
        if self.is_single() {
            return self.share_right();
        }
        let verdict = &self.history.verdict;
        if let (Outcome::Latent { .. }, Some(p)) = (&verdict.outcome, verdict.family_p) {
            let n = self.diagnosis.provenance.reference.as_ref().map_or(0, |reference| reference.n_lineages);
            let known = plural(n, "healthy run");
            let note = format!("At most {} of healthy runs fall as short anywhere, by {known}.", percent(p));
            return fact("Beyond chance", note);
        }
        let is_confirmed = verdict.rung == Some(Rung::Confirmed);
        let is_doubted = !is_confirmed && probability(self.history, &self.lineage.phases).is_some_and(|p| p < 0.5);
        let (word, note) = match verdict.confidence {
            _ if is_doubted => ("In doubt", "the evidence disagrees."),
            known => (words::confidence(known), words::confidence_plain(known)),
        };
        let mut note = note.to_owned();
        if is_confirmed {
            note.push_str(" Training the phase again confirmed it.");
        }
        match probability(self.history, &self.lineage.phases) {
            Some(p) => fact(&format!("{} likely", percent(p)), format!("{word}: {note}")),
            None if self.phase().is_none() => fact(word, words::capital(&note)),
            None => fact(word, format!("{} No percentage was computed for it.", words::capital(&note))),
        }
    }

    /// What is sure about a single checkpoint: that it falls short, and by how much.
    fn share_right(&self) -> Fact {
        let fact = |value: String, note: String| Fact { name: "How sure", value, note };
        let Some(value) = self.history.values.last().and_then(Option::as_ref) else {
            return fact("Not measured".to_owned(), "No answer could be scored.".to_owned());
        };
        // What may be chance is not taken apart.
        let rest = if self.history.verdict.contributions.is_empty() {
            "whether that is more than chance is not settled"
        } else {
            "which phase did it cannot be told"
        };
        fact(
            format!("{} right", percent_interval(value)),
            format!("Of {} questions, with 95% certainty; {rest}.", count(value.n)),
        )
    }

    fn cost(&self) -> Fact {
        let fact = |value: String, note: String| Fact { name: "What the fix costs", value, note };
        let Some(phase) = self.phase() else {
            return fact("Not known yet".to_owned(), "It depends on the phase.".to_owned());
        };
        if phase == DEPLOYED {
            let note = "Nothing is trained again: what changes is the system prompt or template it is asked behind.";
            return fact("No training".to_owned(), note.to_owned());
        }
        let last = self.lineage.phases.iter().map(|info| info.name.as_str()).rfind(|name| *name != DEPLOYED);
        let has_more = last.is_some_and(|last| last != phase);
        let what = format!("{}{}", words::phase(phase), if has_more { " and what follows" } else { "" });
        let others = self.others_behind(phase);
        match self.lineage.cost_from(phase).filter(|cost| cost.seconds > 0.0) {
            Some(cost) => fact(
                duration(cost.seconds),
                format!("{what} took this long to train here, by the log of the first time.{others}"),
            ),
            None => fact("Not known".to_owned(), format!("No log tells how long training {what} took.{others}")),
        }
    }

    /// Other lineages that the same checkpoint of this phase lies behind: they have to be trained again too.
    fn others_behind(&self, phase: &str) -> String {
        let Some(here) = self.lineage.phases.iter().find(|info| info.name == phase) else { return String::new() };
        let is_behind = |other: &LineageDiagnosis| {
            other.phases.iter().any(|info| info.name == here.name && info.checkpoint == here.checkpoint)
        };
        let lineages = self.diagnosis.lineages.iter().enumerate();
        lineages
            .filter(|(at, other)| *at != self.at && is_behind(other))
            .map(|(_, other)| {
                format!(" The {} model stands on it too; its own training comes on top.", words::lineage(&other.name))
            })
            .collect()
    }

    /// What training the phase again took back of planted faults; none where no phase is named.
    fn gain(&self) -> Option<Fact> {
        self.phase()?;
        let fact = |value: String, note: String| Fact { name: "What the fix recovers", value, note };
        let fixes = &self.history.verdict.fixes;
        // More than all of it comes back where a model ends up better than healthy ones.
        let share = |recovered: f64| percent(recovered.clamp(0.0, 1.0));
        Some(match fixes.iter().find(|fix| fix.fix == Fix::TrainAgain) {
            Some(fix) => {
                let interval = fix.telling_interval().map_or_else(
                    || "no interval: too few types of fault".to_owned(),
                    |(low, high)| format!("95% interval {} to {}", share(low), share(high)),
                );
                let on = format!("{} with {} of such faults", plural(fix.n, "model"), plural(fix.n_types, "type"));
                fact(
                    format!("{} of the loss", share(fix.recovered)),
                    format!("Measured by training again {on}, planted to know the truth ({interval})."),
                )
            }
            None if fixes.is_empty() => fact(
                "Not measured".to_owned(),
                "No fault of this kind was planted and mended to measure it.".to_owned(),
            ),
            None => fact(
                "Not measured".to_owned(),
                "Training again was not tried on planted faults of this kind; other fixes were, see the verdict."
                    .to_owned(),
            ),
        })
    }
}

/// What all of it rests on.
fn basis(diagnosis: &Diagnosis) -> Vec<Fact> {
    let main = diagnosis.lineages.first();
    let n_phases = main.map_or(0, |lineage| lineage.phases.len());
    let asked = Fact {
        name: "Asked",
        value: format!("{} questions", count(diagnosis.provenance.n_items)),
        note: match n_phases {
            0 => "No checkpoint was asked.".to_owned(),
            1 => "To one checkpoint.".to_owned(),
            n => format!("The same ones after each of {n} phases."),
        },
    };
    let compared = match &diagnosis.provenance.reference {
        Some(reference) => Fact {
            name: "Compared with",
            value: plural(reference.n_lineages, "healthy run"),
            note: "Known to be good, they show how much varies by chance alone.".to_owned(),
        },
        None => Fact {
            name: "Compared with",
            value: "no healthy runs".to_owned(),
            note: "Without runs known to be good no cause is more than observed.".to_owned(),
        },
    };
    let smallest = (n_phases > 1).then(|| smallest_difference(&diagnosis.lineages));
    [asked, compared].into_iter().chain(smallest).collect()
}

fn smallest_difference(lineages: &[LineageDiagnosis]) -> Fact {
    let behaviours = lineages.iter().flat_map(|lineage| &lineage.behaviours);
    Fact {
        name: "Smallest difference that shows",
        value: points_span(behaviours.filter_map(|h| h.detectable_effect)),
        note: "Out of 100, between two phases, in 4 of 5 cases; it differs between behaviours.".to_owned(),
    }
}
