//! How old the answers are to questions whose answer changes: the month that a model answers as of.
//!
//! # Reference
//! Zhao et al. 2024, *Set the Clock: Temporal Alignment of Pretrained Language Models*, arXiv 2402.16797.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::share;
use crate::diagnosis::Estimate;
use crate::stats::student;

/// An answer to a question about a fact that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AsOfAnswer {
    /// Month that was asked about; where the question has no date, the month in which it was asked.
    pub asked: u32,
    /// First months of the periods in which one answer each was right, ascending.
    pub periods: Vec<u32>,
    /// Period whose answer was given; `None` where it is none of them. An answer that was right in several periods counts for
    /// the one nearest to the month asked about.
    pub given: Option<usize>,
    /// Questions about the same thing have the same number.
    pub cluster: usize,
}

impl AsOfAnswer {
    /// The period of the month asked about; `None` before the first of them.
    pub fn current(&self) -> Option<usize> {
        self.periods.partition_point(|first| *first <= self.asked).checked_sub(1)
    }

    /// Months by which the answer is at least out of date: from the last month in which it was right to the one asked about.
    ///
    /// 0 where it is right, negative where it was not right yet; `None` where it is the answer of no period.
    pub fn lag_months(&self) -> Option<i64> {
        let given = self.given.filter(|given| *given < self.periods.len())?;
        let asked = i64::from(self.asked);
        let first = i64::from(self.periods[given]);
        let last = self.periods.get(given + 1).map_or(i64::MAX, |next| i64::from(*next) - 1);
        Some(asked - asked.clamp(first, last.max(first)))
    }
}

/// How old answers are. JSON has text for the keys of `periods_back`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AsOf {
    /// Share of answers by how many periods old they are: 0 is right, 1 the period before, -1 the one after.
    pub periods_back: BTreeMap<i64, Estimate>,
    /// Share of answers that were right in no period.
    pub none: Estimate,
    /// Mean lag in months of those that were right in some period, Student's interval over clusters.
    pub mean_lag_months: Option<Estimate>,
    /// Questions left out: they are about a month before the first period.
    pub n_left_out: usize,
}

impl AsOf {
    /// How old the answers are, in words, with the mean and its interval.
    pub fn sentence(&self) -> String {
        let of_periods = |is_counted: fn(i64) -> bool| {
            let counted = self.periods_back.iter().filter(|(back, _)| is_counted(**back));
            // An empty sum is -0.
            100.0 * counted.map(|(_, share)| share.value).sum::<f64>() + 0.0
        };
        let shares = format!(
            "{:.0}% right, {:.0}% right once, {:.0}% not right yet, {:.0}% never right (n = {})",
            of_periods(|back| back == 0),
            of_periods(|back| back > 0),
            of_periods(|back| back < 0),
            100.0 * self.none.value,
            self.none.n
        );
        match &self.mean_lag_months {
            None => format!("{shares}; too few of them belong to a period to tell how old they are."),
            Some(lag) => {
                let reading = if lag.low > 0.0 {
                    "Its answers are out of date"
                } else if lag.high < 0.0 {
                    "Its answers are ahead of what is asked"
                } else {
                    "Its answers are as old as what is asked, as far as this many questions tell"
                };
                format!(
                    "{reading}: by {:.1} months on average [{:.1}, {:.1}] (n = {}); {shares}.",
                    lag.value, lag.low, lag.high, lag.n
                )
            }
        }
    }
}

/// Distribution of the answers over periods and their mean lag; `None` where nothing was asked.
pub fn as_of(answers: &[AsOfAnswer]) -> Option<AsOf> {
    let asked: Vec<(&AsOfAnswer, Option<i64>)> = answers
        .iter()
        .filter_map(|answer| {
            let current = answer.current()? as i64;
            let given = answer.given.filter(|given| *given < answer.periods.len());
            Some((answer, given.map(|given| current - given as i64)))
        })
        .collect();
    let share_of = |back: Option<i64>| share(asked.iter().map(|(answer, b)| (*b == back, answer.cluster)));
    let seen: std::collections::BTreeSet<i64> = asked.iter().filter_map(|(_, back)| *back).collect();
    let lags: Vec<(f64, usize)> =
        asked.iter().filter_map(|(answer, _)| Some((answer.lag_months()? as f64, answer.cluster))).collect();
    Some(AsOf {
        periods_back: seen.into_iter().filter_map(|back| Some((back, share_of(Some(back))?))).collect(),
        none: share_of(None)?,
        mean_lag_months: mean_lag(&lags),
        n_left_out: answers.len() - asked.len(),
    })
}

/// Mean with Student's interval over clusters; `None` with fewer than two clusters, which tell nothing of the spread.
fn mean_lag(lags: &[(f64, usize)]) -> Option<Estimate> {
    let (values, clusters): (Vec<f64>, Vec<usize>) = lags.iter().copied().unzip();
    let mean = crate::stats::clustered::clustered_mean(&values, &clusters).filter(|mean| mean.n_clusters >= 2)?;
    let half = mean.se * student::quantile(0.975, mean.n_clusters as f64 - 1.0);
    let method = if mean.n_clusters < mean.n { "Student, clustered" } else { "Student" };
    Some(Estimate {
        value: mean.mean,
        low: mean.mean - half,
        high: mean.mean + half,
        n: mean.n,
        method: method.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{AsOfAnswer, as_of};
    use crate::random::stream;
    use rand::Rng;

    fn answer(asked: u32, given: Option<usize>, cluster: usize) -> AsOfAnswer {
        AsOfAnswer { asked, periods: vec![0, 12, 24, 36], given, cluster }
    }

    #[test]
    fn the_lag_is_the_distance_to_the_period_of_the_answer() {
        for (asked, given, lag) in
            [(30, 2, 0), (30, 1, 7), (30, 0, 19), (30, 3, -6), (24, 1, 1), (23, 1, 0), (99, 3, 0)]
        {
            assert_eq!(answer(asked, Some(given), 0).lag_months(), Some(lag), "{asked} {given}");
        }
        assert_eq!(answer(30, None, 0).lag_months(), None);
        assert_eq!(answer(30, Some(9), 0).lag_months(), None, "no such period");
    }

    #[test]
    fn answers_are_counted_by_period() {
        let answers = [
            answer(30, Some(2), 0),
            answer(30, Some(1), 1),
            answer(30, Some(1), 2),
            answer(30, None, 3),
            answer(30, Some(3), 4),
        ];
        let got = as_of(&answers).unwrap();
        let shares: Vec<(i64, f64)> = got.periods_back.iter().map(|(back, e)| (*back, e.value)).collect();
        assert_eq!(shares, [(-1, 0.2), (0, 0.2), (1, 0.4)]);
        assert_eq!((got.none.value, got.none.n), (0.2, 5));
        let lag = got.mean_lag_months.unwrap();
        assert_eq!((lag.value, lag.n), (2.0, 4));
        assert!(lag.low < 2.0 && 2.0 < lag.high);
    }

    #[test]
    fn a_model_two_years_behind_is_seen_to_be() {
        // Knows the world as of two years before what is asked about, so lags by 24 months less what its period lasted on.
        let mut rng = stream(1, "as of");
        let answers: Vec<AsOfAnswer> = (0..300)
            .map(|cluster| {
                let periods: Vec<u32> = (0..10).map(|i| 9 * i).collect();
                let asked = rng.random_range(40..80);
                let given = periods.iter().rposition(|first| *first <= asked - 24);
                AsOfAnswer { asked, periods, given, cluster }
            })
            .collect();
        let lag = as_of(&answers).unwrap().mean_lag_months.unwrap();
        assert!(lag.low < 20.0 && 20.0 < lag.high && lag.high - lag.low < 2.0, "{lag:?}");
        assert!(as_of(&answers).unwrap().sentence().starts_with("Its answers are out of date: by "));
        // Its healthy twin knows the world of today.
        let current: Vec<AsOfAnswer> =
            answers.into_iter().map(|answer| AsOfAnswer { given: answer.current(), ..answer }).collect();
        let told = as_of(&current).unwrap().sentence();
        assert!(
            told.starts_with("Its answers are as old as what is asked") && told.contains("100% right, 0% right once"),
            "{told}"
        );
    }

    #[test]
    fn what_cannot_be_answered_is_left_out() {
        let early = AsOfAnswer { asked: 3, periods: vec![5], given: Some(0), cluster: 0 };
        assert_eq!(as_of(std::slice::from_ref(&early)), None);
        let got = as_of(&[early, answer(30, None, 1)]).unwrap();
        assert_eq!((got.n_left_out, got.mean_lag_months, got.none.value), (1, None, 1.0));
        assert_eq!(as_of(&[]), None);
    }
}
