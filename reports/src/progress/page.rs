//! The page of a run in progress: where it stands, how long it takes, and its curves.

use serde::Serialize;

use super::{Course, Metric, PhaseProgress, Progress, Spread};
use crate::chart::curve::{self, Plot};
use crate::lineage::Panel;
use crate::number::{MISSING, count, decimal, duration, percent, plural};
use crate::page::Fact;
use crate::text::clean_name;
use crate::words;

/// Seconds between two loads of a page that follows its run.
const REFRESH_S: u32 = 2;
/// Most warnings that are listed.
const ALARM_LIMIT: usize = 200;

/// Everything the template prints.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    run: String,
    headline: Headline,
    sentences: Vec<(&'static str, String)>,
    /// What to type where nobody works on the run.
    command: Option<String>,
    is_worked_on: bool,
    /// Seconds until the page loads itself again.
    refresh_s: Option<u32>,
    facts: Vec<Fact>,
    phases: Vec<Row>,
    parts: Vec<Part>,
    /// Phase, step and what was seen.
    alarms: Vec<Vec<String>>,
    alarms_left_off: Option<String>,
}

/// Where the run stands, in one line.
#[derive(Debug, Serialize)]
struct Headline {
    mark: &'static str,
    tone: &'static str,
    label: &'static str,
    title: String,
}

/// A phase in the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    gloss: &'static str,
    mark: &'static str,
    tone: &'static str,
    word: &'static str,
    /// For the bar.
    step: u64,
    steps: u64,
    figures: Vec<String>,
}

/// The curves of one number.
#[derive(Debug, Serialize)]
struct Part {
    id: &'static str,
    heading: &'static str,
    lead: &'static str,
    panels: Vec<Panel>,
}

/// A run, and the phase that it has come to.
struct Standing<'a> {
    progress: &'a Progress,
    /// The first phase that is not done, and its place among them; `None` where all are, or there is no plan.
    current: Option<(usize, &'a PhaseProgress)>,
}

impl Page {
    /// Builds the page of a run in progress.
    pub(crate) fn build(progress: &Progress) -> Self {
        let current = progress.phases.iter().enumerate().find(|(_, phase)| !phase.is_done);
        let standing = Standing { progress, current };
        let alarms = || progress.phases.iter().flat_map(|phase| phase.alarms.iter().map(move |alarm| (phase, alarm)));
        Self {
            run: clean_name(&progress.run),
            headline: standing.headline(),
            sentences: standing.sentences(),
            command: standing.command(),
            is_worked_on: progress.is_worked_on,
            refresh_s: (progress.is_worked_on && progress.follows).then_some(REFRESH_S),
            facts: standing.facts(),
            phases: progress.phases.iter().enumerate().map(|(i, phase)| standing.row(i, phase)).collect(),
            parts: Metric::ALL.into_iter().filter_map(|metric| part(metric, progress)).collect(),
            alarms: alarms()
                .take(ALARM_LIMIT)
                .map(|(phase, (step, message))| {
                    vec![words::phase(&phase.name), count(*step as usize), words::capital(message)]
                })
                .collect(),
            alarms_left_off: alarms().count().checked_sub(ALARM_LIMIT).filter(|&n| n > 0).map(count),
        }
    }
}

impl Standing<'_> {
    fn headline(&self) -> Headline {
        let is_worked_on = self.progress.is_worked_on;
        let title = match self.current {
            None if self.progress.phases.is_empty() && is_worked_on => "The run is being prepared.".to_owned(),
            None if self.progress.phases.is_empty() => "The run has no plan yet.".to_owned(),
            None if is_worked_on => "All phases are trained; the model is being examined.".to_owned(),
            None => "All phases are trained, and nothing is diagnosed yet.".to_owned(),
            Some((i, phase)) => {
                let (name, step) = (words::phase(&phase.name), phase.course.step());
                match (is_worked_on, step) {
                    (true, 0) => format!("{name} is being prepared."),
                    (true, _) => format!("{name} is being trained: {} of its steps are done.", share_done(phase)),
                    (false, 0) if i == 0 => "Training has not begun.".to_owned(),
                    (false, 0) => format!("Training has stopped before {name}."),
                    (false, _) => format!("Training has stopped in {name}, at {}.", step_of(phase)),
                }
            }
        };
        let (mark, tone, label) = match self.current {
            _ if is_worked_on => ("▶", "quiet", "In progress"),
            Some((i, phase)) if i > 0 || phase.course.step() > 0 => ("?", "unsure", "Stopped half-way"),
            None if !self.progress.phases.is_empty() => ("✓", "quiet", "Trained"),
            _ => ("–", "quiet", "Not begun"),
        };
        Headline { mark, tone, label, title }
    }

    fn sentences(&self) -> Vec<(&'static str, String)> {
        let mut sentences = vec![("Now", self.now())];
        if let Some((_, phase)) = self.current.filter(|_| self.progress.is_worked_on) {
            sentences.push(("Time", time_left(phase)));
        }
        sentences.push(("Next", self.what_follows()));
        sentences
    }

    fn now(&self) -> String {
        let Progress { is_worked_on, since_last_s, .. } = *self.progress;
        let Some((_, phase)) = self.current else {
            return match (self.progress.phases.is_empty(), is_worked_on) {
                (true, true) => "The plan of the run is not written yet.",
                (true, false) => "There is no plan to read, and nobody is working on the run.",
                (false, true) => "The checkpoints are asked their questions, and the answers are diagnosed.",
                (false, false) => "Nobody is working on the run.",
            }
            .to_owned();
        };
        let name = words::phase(&phase.name);
        let what = match words::phase_gloss(&phase.name) {
            "" => format!("{name}."),
            gloss => format!("{name}: the model {gloss}."),
        };
        match (is_worked_on, phase.course.step()) {
            (true, 0) => {
                format!("{what} No step is logged yet: data are made ready, or answers sampled to learn from.")
            }
            (true, _) => {
                let when = since_last_s.map_or_else(String::new, |s| format!(", logged {} ago", duration(s)));
                format!("{what} The last step is {}{when}.", step_of(phase))
            }
            (false, 0) => format!("Nobody is working on the run. {name} would be next."),
            (false, _) => format!("Nobody is working on the run. Its last step is {} of {name}.", step_of(phase)),
        }
    }

    fn what_follows(&self) -> String {
        if !self.progress.is_worked_on {
            return match self.current {
                Some(_) => "Training goes on from the last saved step with the command below.",
                None if self.progress.phases.is_empty() => "The command below begins it.",
                None => "The command below asks the checkpoints, and says which phase produced which failure.",
            }
            .to_owned();
        }
        let Some((i, _)) = self.current else {
            return "When the diagnosis is written, this page is its report.".to_owned();
        };
        let later: Vec<String> = self.progress.phases[i + 1..].iter().map(|phase| words::phase(&phase.name)).collect();
        let then =
            if later.is_empty() { "This is the last phase.".to_owned() } else { format!("Then {}.", later.join(", ")) };
        format!("{then} When the run is diagnosed, this page is its report.")
    }

    fn command(&self) -> Option<String> {
        let is_trained = self.current.is_none() && !self.progress.phases.is_empty();
        let verb = if is_trained { "diagnose" } else { "train" };
        (!self.progress.is_worked_on).then(|| format!("phasetrace {verb} {}", quoted(&self.progress.path)))
    }

    fn facts(&self) -> Vec<Fact> {
        let phases = &self.progress.phases;
        let n_done = phases.iter().filter(|phase| phase.is_done).count();
        let mut facts = vec![Fact {
            name: "Phases trained",
            value: format!("{} of {}", count(n_done), count(phases.len())),
            note: "each leaves a checkpoint".to_owned(),
        }];
        let Some((_, phase)) = self.current else { return facts };
        let name = words::phase(&phase.name);
        facts.push(Fact {
            name: "Steps of this phase",
            value: format!("{} of {}", count(phase.course.step() as usize), count(phase.steps as usize)),
            note: format!("{} of {name}", share_done(phase)),
        });
        facts.push(match phase.course.speed() {
            Some(speed) => Fact {
                name: "Speed",
                value: format!("{} tokens/s", whole(speed.median)),
                note: spread_note(&speed, &whole),
            },
            None => Fact { name: "Speed", value: MISSING.to_owned(), note: "no step is logged yet".to_owned() },
        });
        if self.progress.is_worked_on {
            facts.push(time_fact(phase));
        }
        facts
    }

    fn row(&self, i: usize, phase: &PhaseProgress) -> Row {
        let is_current = self.current.is_some_and(|(current, _)| current == i);
        let (mark, tone, word) = match (phase.is_done, is_current, self.progress.is_worked_on) {
            (true, ..) => ("✓", "good", "done"),
            (false, true, true) => ("▶", "quiet", "at work"),
            (false, true, false) => ("?", "unsure", "stopped"),
            (false, false, _) => ("–", "quiet", "waits"),
        };
        // A phase that was taken from elsewhere has no log.
        let step = if phase.is_done { phase.steps } else { phase.course.step().min(phase.steps) };
        Row {
            name: words::phase(&phase.name),
            gloss: words::phase_gloss(&phase.name),
            mark,
            tone,
            word,
            step,
            steps: phase.steps.max(1),
            figures: figures(phase),
        }
    }
}

/// What the log of a phase tells, line by line.
fn figures(phase: &PhaseProgress) -> Vec<String> {
    let mut figures = vec![match phase.course.step() {
        0 if phase.is_done => "trained elsewhere: its log is not here".to_owned(),
        step => format!("{} of {}", count(step as usize), steps(phase.steps)),
    }];
    if let Some(loss) = phase.course.loss() {
        let three = |value| decimal(value, 3);
        figures.push(format!("loss {} nats: {}", three(loss.median), spread_note(&loss, &three)));
    }
    if let Some((tokens, seconds)) = phase.course.taken() {
        figures.push(format!("{} tokens in {}", whole(tokens), duration(seconds)));
    }
    figures
}

/// The rest of a phase in words, with how it is reckoned.
fn time_left(phase: &PhaseProgress) -> String {
    let Some(pace) = phase.course.pace() else {
        return "How long this phase takes is not known before its first step.".to_owned();
    };
    let left = phase.steps.saturating_sub(phase.course.step());
    let each = format!("{} at {} s each", steps(left), decimal(pace.value, 3));
    let total = |seconds: f64| duration(left as f64 * seconds);
    let rest = total(pace.value);
    if pace.low.is_finite() {
        format!(
            "About {rest} for the rest of this phase (95% interval {} to {}): {each}, the mean of the last {}. Time \
             between phases and the phases after this one are not in it.",
            total(pace.low),
            total(pace.high),
            steps(pace.n as u64)
        )
    } else {
        format!("About {rest} for the rest of this phase: {each}, as the one step so far; too few for an interval.")
    }
}

fn time_fact(phase: &PhaseProgress) -> Fact {
    let left = phase.steps.saturating_sub(phase.course.step());
    let total = |seconds: f64| duration(left as f64 * seconds);
    let (value, note) = match phase.course.pace() {
        None => (MISSING.to_owned(), "no step is logged yet".to_owned()),
        Some(pace) if pace.low.is_finite() => {
            (total(pace.value), format!("95% interval {} to {}, n = {}", total(pace.low), total(pace.high), pace.n))
        }
        Some(pace) => (total(pace.value), "of one step: no interval".to_owned()),
    };
    Fact { name: "Left for this phase", value, note }
}

impl Metric {
    const ALL: [Self; 4] = [Self::Loss, Self::Reward, Self::Divergence, Self::Accuracy];

    fn id(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Reward => "reward",
            Self::Divergence => "divergence",
            Self::Accuracy => "accuracy",
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Loss => "Loss",
            Self::Reward => "Reward",
            Self::Divergence => "Distance from the start",
            Self::Accuracy => "Pairs ranked rightly",
        }
    }

    fn axis(self) -> &'static str {
        match self {
            Self::Loss => "loss, nats",
            Self::Reward => "reward that is optimised, deviations",
            Self::Divergence => "KL, nats per answer",
            Self::Accuracy => "share of pairs ranked as in the data",
        }
    }

    fn lead(self) -> &'static str {
        match self {
            Self::Loss => {
                "What each phase makes small. Phases have losses of their own: one is not better than another because \
                 its curve is lower."
            }
            Self::Reward => "Mean reward of the answers that a step sampled. It climbs where training works.",
            Self::Divergence => {
                "How far the answers have moved from those of the checkpoint that the phase began with. A reward that \
                 climbs while this runs away is to be distrusted."
            }
            Self::Accuracy => "How often the model of rewards puts the better answer of a pair first, in each step.",
        }
    }
}

/// The curves of a number, phase by phase; `None` where no phase has it.
fn part(metric: Metric, progress: &Progress) -> Option<Part> {
    let panel = |(i, phase): (usize, &PhaseProgress)| {
        let name = words::phase(&phase.name);
        let curve = phase.course.curve(metric)?;
        let id = format!("{}-{i}", metric.id());
        let plot = Plot {
            id: &id,
            title: format!("{} of {name}, step by step", metric.heading()),
            axis: metric.axis(),
            is_share: metric == Metric::Accuracy,
            steps: phase.steps,
        };
        let lines = vec![how_drawn(curve.steps_per_stretch(), &phase.course)];
        Some(Panel { heading: name, chart: curve::draw(plot, curve)?, lines })
    };
    let panels: Vec<Panel> = progress.phases.iter().enumerate().filter_map(panel).collect();
    let (id, heading, lead) = (metric.id(), metric.heading(), metric.lead());
    (!panels.is_empty()).then_some(Part { id, heading, lead, panels })
}

fn how_drawn(steps_per_stretch: u64, course: &Course) -> String {
    let until = format!("Up to step {}.", count(course.step() as usize));
    if steps_per_stretch == 1 {
        format!("{until} Each point is one step, so it has no interval.")
    } else {
        format!(
            "{until} Of every {} the lowest and the highest are drawn; a point is one step, so it has no interval.",
            steps(steps_per_stretch)
        )
    }
}

fn spread_note(spread: &Spread, word: &dyn Fn(f64) -> String) -> String {
    if spread.n == 1 {
        return "of one step: no spread".to_owned();
    }
    let (low, high) = (word(spread.low), word(spread.high));
    format!("median of the last {} steps, the middle half of them {low} to {high}", spread.n)
}

fn share_done(phase: &PhaseProgress) -> String {
    percent(phase.course.step().min(phase.steps) as f64 / phase.steps.max(1) as f64)
}

/// `step 34 of 80`.
fn step_of(phase: &PhaseProgress) -> String {
    format!("step {} of {}", count(phase.course.step() as usize), count(phase.steps as usize))
}

fn steps(n: u64) -> String {
    plural(n as usize, "step")
}

fn whole(value: f64) -> String {
    count(value.round() as usize)
}

/// A path as a shell takes it, whatever is in it.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@:,".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_path_in_a_command_is_one_word_of_it() {
        assert_eq!(quoted("runs/small-2"), "runs/small-2");
        assert_eq!(quoted("my run; rm -r ~"), "'my run; rm -r ~'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
