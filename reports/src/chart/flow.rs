//! What became of the items from phase to phase: a bar of right and wrong answers for each, and ribbons between them.

use evals::diagnosis::Transition;

use super::svg::{Anchor, Canvas, Edge};
use super::{Chart, columns};
use crate::number::{MISSING, count};

const LEFT: f64 = 132.0;
const RIGHT: f64 = 372.0;
const TOP: f64 = 20.0;
/// Height of a bar.
const BAR: f64 = 18.0;
/// From one bar to the next.
const STEP: f64 = 86.0;
/// Between right and wrong answers.
const GAP: f64 = 4.0;
/// Letters of a phase's name that fit beside its bar.
const NAME: usize = 16;

/// Numbers of items right and wrong.
pub(crate) type Split = (usize, usize);

/// Draws one behaviour: `phases` are names for readers, `steps[i]` leads into `phases[i + 1]` and is `None` where no item was scored
/// after both.
pub(crate) fn draw(id: &str, behaviour: &str, phases: &[String], steps: &[Option<&Transition>]) -> Chart {
    let height = TOP + BAR + STEP * steps.len() as f64 + 6.0;
    let mut canvas = Canvas::new(380.0, height);
    canvas.label((LEFT, TOP - 7.0), Anchor::Start, "tick", "right");
    canvas.label((RIGHT, TOP - 7.0), Anchor::End, "tick", "wrong");
    for (i, step) in steps.iter().enumerate() {
        draw_step(&mut canvas, top_of(i) + BAR, *step);
    }
    for (i, phase) in phases.iter().enumerate() {
        let into = i.checked_sub(1).and_then(|before| steps.get(before).copied().flatten()).map(after);
        let out_of = steps.get(i).copied().flatten().map(before);
        draw_phase(&mut canvas, top_of(i), phase, into, out_of);
    }

    let title = format!("Items from phase to phase: {behaviour}");
    let said: Vec<String> = phases
        .iter()
        .skip(1)
        .zip(steps)
        .map(|(phase, step)| {
            step.map_or_else(
                || format!("{phase}: no item scored before and after"),
                |t| {
                    format!(
                        "{phase}: {} kept right, {} broken, {} repaired, {} still wrong",
                        count(t.kept),
                        count(t.broken),
                        count(t.repaired),
                        count(t.still_failing)
                    )
                },
            )
        })
        .collect();
    Chart {
        svg: canvas.finish(id, &title, &format!("{}.", said.join("; "))),
        title,
        columns: columns(&["Phase", "Kept right", "Broken", "Repaired", "Still wrong", "n"]),
        rows: phases.iter().skip(1).zip(steps).map(|(phase, step)| table_row(phase, *step)).collect(),
    }
}

/// Number of items that a step is about.
pub(crate) fn total(step: &Transition) -> usize {
    step.kept + step.broken + step.repaired + step.still_failing
}

/// Items right and wrong before a step.
pub(crate) fn before(step: &Transition) -> Split {
    (step.kept + step.broken, step.repaired + step.still_failing)
}

/// Items right and wrong after a step.
fn after(step: &Transition) -> Split {
    (step.kept + step.repaired, step.broken + step.still_failing)
}

fn top_of(phase: usize) -> f64 {
    TOP + STEP * phase as f64
}

fn table_row(phase: &str, step: Option<&Transition>) -> Vec<String> {
    let counts = step.map_or_else(
        || [MISSING; 4].map(str::to_owned),
        |t| [t.kept, t.broken, t.repaired, t.still_failing].map(count),
    );
    [phase.to_owned()].into_iter().chain(counts).chain([count(step.map_or(0, total))]).collect()
}

// What came in and what goes out differ where items were scored after one pair of phases only: then the upper half of the bar shows
// the one and the lower half the other.
fn draw_phase(canvas: &mut Canvas, top: f64, name: &str, into: Option<Split>, out_of: Option<Split>) {
    let bars = match (into, out_of) {
        (Some(into), Some(out_of)) if into != out_of => {
            vec![(into, top, top + BAR / 2.0), (out_of, top + BAR / 2.0, top + BAR)]
        }
        _ => into.or(out_of).map(|counts| (counts, top, top + BAR)).into_iter().collect(),
    };
    for ((right, wrong), upper, lower) in bars {
        let scale = Line { n: right + wrong };
        for (class, start, size, is_wrong) in [("held right", 0, right, false), ("held wrong", right, wrong, true)] {
            if size > 0 {
                let (from, to) = scale.span(start, size, is_wrong);
                canvas.rect((from, upper), (to, lower), class);
            }
        }
    }
    let short: String = if name.chars().count() <= NAME {
        name.to_owned()
    } else {
        name.chars().take(NAME - 1).chain(['…']).collect()
    };
    canvas.label((0.0, top + 7.0), Anchor::Start, "name strong", &short);
    let most = into.into_iter().chain(out_of).max_by_key(|(right, wrong)| right + wrong);
    let said = most.map_or_else(
        || "not scored".to_owned(),
        |(right, wrong)| format!("{} of {} right", count(right), count(right + wrong)),
    );
    canvas.label((0.0, top + 21.0), Anchor::Start, "tick", &said);
}

fn draw_step(canvas: &mut Canvas, top: f64, step: Option<&Transition>) {
    let middle = top + (STEP - BAR) / 2.0;
    let Some(step) = step else {
        canvas.label((0.0, middle + 6.0), Anchor::Start, "tick", "not scored twice");
        return;
    };
    let scale = Line { n: total(step) };
    let bottom = top + STEP - BAR;
    let (right_before, _) = before(step);
    let (right_after, _) = after(step);
    // Where a group begins before and after, counted from the left, and on which side of the gap it lies.
    let groups = [
        ("kept", "kept right", step.kept, (0, false), (0, false)),
        (
            "still",
            "still wrong",
            step.still_failing,
            (right_before + step.repaired, true),
            (right_after + step.broken, true),
        ),
        ("repaired", "repaired", step.repaired, (right_before, true), (step.kept, false)),
        ("broken", "broken", step.broken, (step.kept, false), (right_after, true)),
    ];
    for (class, words, size, start, end) in groups {
        if size == 0 {
            continue;
        }
        let edge = |(start, is_wrong): (usize, bool), y: f64| {
            let (from, to) = scale.span(start, size, is_wrong);
            Edge { from, to, y }
        };
        canvas.titled(&format!("{} {words}", count(size)), |canvas| {
            canvas.ribbon(edge(start, top), edge(end, bottom), &format!("ribbon {class}"));
        });
    }
    canvas.label((0.0, middle + 1.0), Anchor::Start, "moved broken", &format!("{} broken", count(step.broken)));
    canvas.label((0.0, middle + 16.0), Anchor::Start, "moved repaired", &format!("{} repaired", count(step.repaired)));
}

/// The items of one pair of phases, side by side from left to right: first those that are right, then those that are wrong.
struct Line {
    n: usize,
}

impl Line {
    /// Both ends of a group of `size` items after `start` others.
    fn span(&self, start: usize, size: usize, is_wrong: bool) -> (f64, f64) {
        let unit = (RIGHT - LEFT - GAP) / self.n.max(1) as f64;
        let from = LEFT + unit * start as f64 + if is_wrong { GAP } else { 0.0 };
        (from, from + unit * size as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(counts: [usize; 4]) -> Transition {
        let [kept, broken, repaired, still_failing] = counts;
        Transition {
            phase: "rlhf".to_owned(),
            broken,
            repaired,
            kept,
            still_failing,
            p_value: None,
            p_holm: None,
            margin_change_nats: None,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn every_item_of_a_step_is_in_one_ribbon() {
        let (first, second) = (step([2, 1, 150, 107]), step([140, 12, 0, 108]));
        let chart = draw("flow", "Obeys", &names(&["Pretraining", "SFT", "RLHF"]), &[Some(&first), Some(&second)]);
        let svg = chart.svg.to_string();
        assert_eq!(svg.matches("class=\"ribbon").count(), 7, "nothing was repaired in the second step");
        for row in &chart.rows {
            let counts: Vec<usize> = row[1..].iter().map(|cell| cell.parse().unwrap()).collect();
            assert_eq!(counts[..4].iter().sum::<usize>(), counts[4]);
        }
        assert!(svg.contains("SFT: 2 kept right, 1 broken, 150 repaired, 107 still wrong"));
    }

    #[test]
    fn a_step_that_nobody_scored_is_said_and_not_drawn() {
        let chart = draw("flow", "Obeys", &names(&["Pretraining", "SFT"]), &[None]);
        let svg = chart.svg.to_string();
        assert!(!svg.contains("ribbon") && svg.contains("not scored twice"));
        assert_eq!(chart.rows, [["SFT", "–", "–", "–", "–", "0"].map(str::to_owned).to_vec()]);
    }

    #[test]
    fn groups_fill_the_line_from_end_to_end() {
        let line = Line { n: 10 };
        assert_eq!(line.span(0, 6, false), (LEFT, LEFT + 6.0 * 23.6));
        assert!((line.span(6, 4, true).1 - RIGHT).abs() < 1e-9);
    }
}
