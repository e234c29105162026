//! What goes wrong in policy optimisation while the reward looks fine, told as it happens.
//!
//! Each rule compares a stretch of training with the first one (or, for right answers, with the best one so far) and speaks once. A rule
//! whose metrics are not there is silent. Shares are held against three standard errors besides, so that healthy noise is not told.
//!
//! # Reference
//! Signatures of over-optimisation: Gao et al. 2022, arXiv 2210.10760; Stiennon et al. 2020, arXiv 2009.01325, section 4.3.

use crate::trajectory::Point;
use serde::{Deserialize, Serialize};

/// Something to look at before the model is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// Step of training at which it was seen.
    pub step: u64,
    /// What was seen, in a sentence.
    pub message: String,
}

/// A rule: what it says of a stretch, given all up to it; the first is where training began.
type Rule = fn(&[Point], &Point) -> Option<String>;

const RULES: [Rule; 7] =
    [gold_falls, refuses_neutral, entropy_collapses, length_drifts, repeats, does_not_end, rewards_disagree];

/// All alarms of a course, in the order of its steps.
pub(crate) fn raise(points: &[Point]) -> Vec<Alarm> {
    let first_time = |rule: Rule| {
        (1..points.len())
            .find_map(|i| rule(&points[..i], &points[i]).map(|message| Alarm { step: points[i].step, message }))
    };
    let mut alarms: Vec<Alarm> = RULES.into_iter().filter_map(first_time).collect();
    alarms.sort_by_key(|alarm| alarm.step);
    alarms
}

/// Standard errors by which a share has changed between two stretches.
fn z(before: f64, n_before: f64, after: f64, n_after: f64) -> f64 {
    let pooled = (before * n_before + after * n_after) / (n_before + n_after);
    let se = (pooled * (1.0 - pooled) * (1.0 / n_before + 1.0 / n_after)).sqrt();
    if se > 0.0 { (after - before) / se } else { 0.0 }
}

/// Means of a share over some stretches, with the number of answers.
fn pool(points: &[Point], name: &str) -> Option<(f64, f64)> {
    let n: f64 = points.iter().filter(|point| point.get(name).is_some()).map(Point::n_answers).sum();
    let sum: f64 = points.iter().filter_map(|point| Some(point.get(name)? * point.n_answers())).sum();
    (n > 0.0).then(|| (sum / n, n))
}

/// Stretches that make one estimate of a share: a tenth of a long course.
const WINDOW: usize = 4;

fn gold_falls(before: &[Point], now: &Point) -> Option<String> {
    let history: Vec<Point> = before.iter().chain([now]).cloned().collect();
    if history.len() < 2 * WINDOW {
        return None;
    }
    let (recent, n_recent) = pool(&history[history.len() - WINDOW..], "gold_reward")?;
    let score = |points: &[Point]| pool(points, "score").map(|(mean, _)| mean);
    let recent_score = score(&history[history.len() - WINDOW..])?;
    let windows = history[..history.len() - WINDOW].windows(WINDOW);
    let best = windows.filter_map(|window| Some((pool(window, "gold_reward")?, score(window)?)));
    let ((best, n_best), best_score) = best.max_by(|a, b| a.0.0.total_cmp(&b.0.0))?;
    // The best of many windows is high by chance as well: hence four standard errors.
    (z(best, n_best, recent, n_recent) < -4.0 && recent_score >= best_score).then(|| {
        format!(
            "right answers fell from {:.0} % to {:.0} % while the reward rose from {best_score:.2} to {recent_score:.2}: \
             the policy is exploiting the reward model",
            100.0 * best,
            100.0 * recent
        )
    })
}

fn refuses_neutral(before: &[Point], now: &Point) -> Option<String> {
    let name = "neutral_refusal_share";
    let (start, now_share) = (before[0].get(name)?, now.get(name)?);
    let is_more = z(start, before[0].n_answers(), now_share, now.n_answers()) > 3.0 && now_share > start + 0.05;
    is_more.then(|| {
        format!(
            "refuses {:.0} % of the prompts that nobody should refuse, {:.0} % at the start",
            100.0 * now_share,
            100.0 * start
        )
    })
}

fn entropy_collapses(before: &[Point], now: &Point) -> Option<String> {
    let name = "entropy_nats";
    let (start, now) = (before[0].get(name)?, now.get(name)?);
    (now < 0.1 * start).then(|| {
        format!("its entropy fell from {start:.3} to {now:.4} nats a token: it says nearly the same whatever the draw")
    })
}

fn length_drifts(before: &[Point], now: &Point) -> Option<String> {
    let name = "response_tokens";
    let (start, now) = (before[0].get(name)?, now.get(name)?);
    (now > 1.5 * start || now < start / 1.5)
        .then(|| format!("its answers went from {start:.1} to {now:.1} tokens: does the reward pay for length?"))
}

fn repeats(before: &[Point], now: &Point) -> Option<String> {
    let name = "repetition_share";
    let (start, now) = (before[0].get(name)?, now.get(name)?);
    (now > start + 0.1).then(|| {
        format!(
            "{:.0} % of its runs of three tokens repeat earlier ones, {:.0} % at the start",
            100.0 * now,
            100.0 * start
        )
    })
}

fn does_not_end(before: &[Point], now: &Point) -> Option<String> {
    let name = "unfinished_share";
    let (start, share) = (before[0].get(name)?, now.get(name)?);
    let is_more = z(start, before[0].n_answers(), share, now.n_answers()) > 3.0 && share > start + 0.1;
    is_more.then(|| format!("{:.0} % of its answers do not end, {:.0} % at the start", 100.0 * share, 100.0 * start))
}

fn rewards_disagree(before: &[Point], now: &Point) -> Option<String> {
    let name = "reward_disagreement";
    let (start, now) = (before[0].get(name)?, now.get(name)?);
    (now > 2.0 * start).then(|| {
        format!(
            "the reward models disagree by {now:.2} deviations, by {start:.2} at the start: it answers in ways that they \
             were not taught to judge"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::raise;
    use crate::trajectory::Point;

    /// A metric and how it goes over a course, from 0 to 1.
    type Named = (&'static str, fn(f64) -> f64);

    /// A course of 40 stretches of 128 answers each.
    fn course(names: &[Named]) -> Vec<Point> {
        (0..40)
            .map(|i| {
                let mut point = Point { step: i + 1, ..Point::default() };
                let mut put = |name: &str, value: f64| {
                    point.metrics.insert(name.to_owned(), value);
                    point.counts.insert(name.to_owned(), 2);
                };
                put("answers", 64.0);
                for (name, of) in names {
                    put(name, of(i as f64 / 39.0));
                }
                point
            })
            .collect()
    }

    fn messages(names: &[Named]) -> Vec<String> {
        raise(&course(names)).into_iter().map(|alarm| alarm.message).collect()
    }

    #[test]
    fn each_rule_speaks_once_when_its_metric_goes_wrong() {
        let cases: [(&[Named], &str); 7] = [
            (&[("gold_reward", |t| 0.9 - 0.5 * t), ("score", |t| t)], "exploiting the reward model"),
            (&[("neutral_refusal_share", |t| 0.02 + 0.4 * t)], "nobody should refuse"),
            (&[("entropy_nats", |t| 0.5 * (1.0 - t))], "entropy fell"),
            (&[("response_tokens", |t| 6.0 + 10.0 * t)], "pay for length"),
            (&[("repetition_share", |t| 0.3 * t)], "repeat earlier ones"),
            (&[("unfinished_share", |t| 0.5 * t)], "do not end"),
            (&[("reward_disagreement", |t| 0.2 + t)], "disagree by"),
        ];
        for (names, expected) in cases {
            let found = messages(names);
            assert_eq!(found.len(), 1, "{expected}: {found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn a_healthy_course_raises_nothing() {
        let found = messages(&[
            ("gold_reward", |t| 0.8 + 0.1 * t + 0.03 * (40.0 * t).sin()),
            ("score", |t| 0.5 + t),
            ("neutral_refusal_share", |t| 0.03 + 0.03 * (40.0 * t).sin().abs()),
            ("entropy_nats", |t| 0.3 - 0.2 * t),
            ("response_tokens", |t| 6.0 + t),
            ("unfinished_share", |t| 0.02 * t),
            ("repetition_share", |_| 0.01),
            ("reward_disagreement", |t| 0.2 + 0.1 * t),
        ]);
        assert!(found.is_empty(), "{found:?}");
        assert!(messages(&[]).is_empty() && raise(&[]).is_empty());
    }

    #[test]
    fn falling_rewards_are_no_exploitation() {
        let found = messages(&[("gold_reward", |t| 0.9 - 0.5 * t), ("score", |t| 1.0 - t)]);
        assert!(found.is_empty(), "{found:?}");
    }
}
