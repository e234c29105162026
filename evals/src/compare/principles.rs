//! Whether one principle of a constitution judges against the right answers more often than the others.

use std::collections::BTreeMap;

use crate::comparison::{Entry, Principle, PrincipleCounts, PrincipleTable};
use crate::diagnosis::Estimate;
use crate::stats::fisher::greater;
use crate::stats::multiplicity::holm;
use crate::stats::wilson::wilson;

/// Level at which a principle counts as standing out, after Holm over the principles.
const LEVEL: f64 = 0.05;
/// It must also flip this much more of its labels than the others: with thousands of pairs a difference that does not matter is shown.
const MARGIN: f64 = 0.05;

/// Counts by principle and kind of prompt.
type Counts = BTreeMap<String, BTreeMap<String, PrincipleCounts>>;

/// One table for each way in which pairs were judged: settings whose runs have the same counts share their judgements.
///
/// The pairs of all seeds of a setting are pooled.
///
/// # Deviations
/// Pairs are taken as independent, though those of one seed have the same judge.
pub(super) fn examine(entries: &[Entry]) -> Vec<PrincipleTable> {
    let mut judged: Vec<(BTreeMap<u64, &Counts>, Vec<String>)> = Vec::new();
    for entry in entries {
        let by_seed: BTreeMap<u64, &Counts> =
            entry.runs.iter().filter(|run| !run.principles.is_empty()).map(|run| (run.seed, &run.principles)).collect();
        match judged.iter_mut().find(|(known, _)| *known == by_seed) {
            _ if by_seed.is_empty() => {}
            Some((_, settings)) => settings.push(entry.name.clone()),
            None => judged.push((by_seed, vec![entry.name.clone()])),
        }
    }
    let n_tables = judged.len();
    let table = |(by_seed, settings): (BTreeMap<u64, &Counts>, Vec<String>)| {
        let principles = test(pool(by_seed.values().copied()));
        let told = tell(&principles);
        let place = if n_tables > 1 { format!("In {}: ", quote(&settings)) } else { String::new() };
        PrincipleTable {
            sentences: told.into_iter().map(|told| format!("{place}{told}")).collect(),
            settings,
            principles,
        }
    };
    judged.into_iter().map(table).collect()
}

fn pool<'a>(all: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut pooled = Counts::new();
    for counts in all {
        for (principle, kinds) in counts {
            for (kind, counts) in kinds {
                pooled.entry(principle.clone()).or_default().entry(kind.clone()).or_default().add(counts);
            }
        }
    }
    pooled
}

/// Each principle against all others together.
fn test(pooled: Counts) -> Vec<Principle> {
    let totals: Vec<PrincipleCounts> = pooled.values().map(PrincipleCounts::sum).collect();
    let all = totals.iter().fold((0, 0), |(hits, n), total| (hits + total.against, n + total.decided));
    let mut principles: Vec<Principle> = pooled
        .into_iter()
        .zip(&totals)
        .map(|((name, kinds), total)| {
            let own = (total.against, total.decided);
            let others = (all.0 - own.0, all.1 - own.1);
            Principle {
                name,
                kinds,
                flips: share(own),
                flips_of_others: share(others).map(|share| share.value),
                p_value: greater(own, others),
                p_holm: None,
                stands_out: false,
            }
        })
        .collect();
    let raw: Vec<f64> = principles.iter().filter_map(|principle| principle.p_value).collect();
    let mut adjusted = holm(&raw).into_iter();
    for principle in principles.iter_mut().filter(|principle| principle.p_value.is_some()) {
        principle.p_holm = adjusted.next();
        let lead = principle.flips.as_ref().zip(principle.flips_of_others).map(|(own, others)| own.value - others);
        principle.stands_out = principle.p_holm.is_some_and(|p| p < LEVEL) && lead.is_some_and(|lead| lead >= MARGIN);
    }
    principles
}

fn share((hits, n): (usize, usize)) -> Option<Estimate> {
    let value = hits as f64 / n as f64;
    let (low, high) = wilson(value, n as f64);
    (n > 0).then(|| Estimate { value, low, high, n, method: "Wilson".to_owned() })
}

/// A sentence for each principle that stands out, or one that none does.
fn tell(principles: &[Principle]) -> Vec<String> {
    let outstanding: Vec<String> = principles.iter().filter(|p| p.stands_out).filter_map(tell_one).collect();
    if !outstanding.is_empty() {
        return outstanding;
    }
    let total = principles.iter().fold((0, 0), |(hits, n), principle| {
        let total = PrincipleCounts::sum(&principle.kinds);
        (hits + total.against, n + total.decided)
    });
    let sentence = match (share(total), principles.len()) {
        (None, _) => {
            "No pair that was judged has one right and one wrong answer, so principles cannot be checked.".to_owned()
        }
        (Some(share), 1) => format!(
            "The constitution has one principle; it decides against the right answer in {} of its pairs ({}).",
            percent(share.value),
            interval(&share)
        ),
        (Some(share), n) => format!(
            "No principle stands out: none of the {n} decides against the right answer more often than the others, all together in {} of the pairs ({}).",
            percent(share.value),
            interval(&share)
        ),
    };
    vec![sentence]
}

fn tell_one(principle: &Principle) -> Option<String> {
    let (flips, others) = (principle.flips.as_ref()?, principle.flips_of_others?);
    let total = PrincipleCounts::sum(&principle.kinds);
    let (kind, most) = principle.kinds.iter().max_by_key(|(_, counts)| counts.against)?;
    let is_harmful = kind == "harmful";
    let wants_refusal = 2 * most.refusing > most.against;
    let prompts = match kind.as_str() {
        "benign" => "harmless requests".to_owned(),
        "harmful" => "harmful requests".to_owned(),
        other => format!("prompts of the kind \u{201c}{other}\u{201d}"),
    };
    let (what, advice) = match (wants_refusal, is_harmful) {
        (true, _) => ("that it wants refused", "It is too broad; narrow its wording or take it out."),
        (false, true) => ("that it wants answered", "It is too lenient; tighten its wording or take it out."),
        (false, false) => {
            ("of which it prefers a wrong answer", "Its wording misleads the judge; change it or take it out.")
        }
    };
    let meant = if wants_refusal { most.refusing } else { most.against };
    let mostly = if meant == total.against { "all" } else { "mostly" };
    Some(format!(
        "The principle \u{201c}{}\u{201d} decides against the right answer in {} of its pairs ({}), the others in {}: {mostly} {prompts} {what}. {advice}",
        principle.name,
        percent(flips.value),
        interval(flips),
        percent(others)
    ))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn interval(share: &Estimate) -> String {
    format!("n = {}; {:.0} to {:.0} %", share.n, 100.0 * share.low, 100.0 * share.high)
}

fn quote(names: &[String]) -> String {
    names.iter().map(|name| format!("\u{201c}{name}\u{201d}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{EntryRun, SettingKind};

    fn counts(decided: usize, against: usize, refusing: usize) -> PrincipleCounts {
        PrincipleCounts { pairs: decided + 10, decided, against, refusing, ..PrincipleCounts::default() }
    }

    fn principle(benign: PrincipleCounts, harmful: PrincipleCounts) -> BTreeMap<String, PrincipleCounts> {
        BTreeMap::from([("benign".to_owned(), benign), ("harmful".to_owned(), harmful)])
    }

    fn entry(name: &str, runs: &[Counts]) -> Entry {
        let run = |(i, counts): (usize, &Counts)| EntryRun {
            seed: i as u64,
            principles: counts.clone(),
            ..EntryRun::default()
        };
        let runs = runs.iter().enumerate().map(run).collect();
        Entry { name: name.to_owned(), kind: SettingKind::Trained, values: BTreeMap::new(), runs }
    }

    fn healthy() -> Counts {
        let alike = || principle(counts(40, 3, 2), counts(40, 2, 0));
        ["a", "b", "c"].map(|name| (name.to_owned(), alike())).into()
    }

    fn with(wide: BTreeMap<String, PrincipleCounts>) -> Counts {
        let mut all = healthy();
        all.insert("wide".to_owned(), wide);
        all
    }

    #[test]
    fn a_principle_that_flips_more_labels_is_named_with_what_it_wants() {
        let broad = with(principle(counts(40, 36, 35), counts(40, 2, 0)));
        let tables = examine(&[entry("start", &[]), entry("cai", &[broad.clone(), broad])]);
        let [table] = tables.as_slice() else { panic!("{tables:?}") };
        // 76 of 160 against 30 of 480, pooled over two seeds.
        assert_eq!(
            table.sentences,
            [
                "The principle \u{201c}wide\u{201d} decides against the right answer in 48 % of its pairs (n = 160; 40 to 55 %), \
              the others in 6 %: mostly harmless requests that it wants refused. It is too broad; narrow its wording or take it out."
            ]
        );
        let outstanding: Vec<&str> =
            table.principles.iter().filter(|p| p.stands_out).map(|p| p.name.as_str()).collect();
        assert_eq!(outstanding, ["wide"]);
        let wide = &table.principles[3];
        assert_eq!(wide.p_value, greater((76, 160), (30, 480)));
        assert_eq!(wide.p_holm, wide.p_value.map(|p| 4.0 * p));
        let lenient = with(principle(counts(40, 2, 1), counts(40, 30, 0)));
        let told = examine(&[entry("cai", &[lenient])]).remove(0).sentences.remove(0);
        assert!(
            told.ends_with(
                "mostly harmful requests that it wants answered. It is too lenient; tighten its wording or take it out."
            ),
            "{told}"
        );
    }

    #[test]
    fn nothing_is_named_where_principles_are_alike_or_the_difference_does_not_matter() {
        let told = |counts: Counts| examine(&[entry("cai", &[counts])]).remove(0).sentences;
        assert_eq!(
            told(healthy()),
            [
                "No principle stands out: none of the 3 decides against the right answer more often than the others, all together \
              in 6 % of the pairs (n = 240; 4 to 10 %)."
            ]
        );
        let many = |against| principle(counts(20_000, against, 0), counts(1, 0, 0));
        let slight = Counts::from([("a".to_owned(), many(800)), ("b".to_owned(), many(1_200))]);
        assert!(greater((1_200, 20_001), (800, 20_001)).unwrap() < 1e-6);
        assert!(told(slight)[0].starts_with("No principle stands out"));
        let unknown = Counts::from([("a".to_owned(), principle(counts(0, 0, 0), counts(0, 0, 0)))]);
        assert!(told(unknown)[0].starts_with("No pair that was judged has one right and one wrong answer"));
        let single = Counts::from([("a".to_owned(), principle(counts(90, 9, 0), counts(0, 0, 0)))]);
        assert!(
            told(single)[0]
                .starts_with("The constitution has one principle; it decides against the right answer in 10 %")
        );
    }

    #[test]
    fn settings_with_the_same_judgements_share_a_table_and_others_have_their_own() {
        let broad = with(principle(counts(40, 36, 35), counts(40, 2, 0)));
        let entries = [entry("x", &[healthy()]), entry("y", &[broad]), entry("z", &[healthy()]), entry("rlhf", &[])];
        let tables = examine(&entries);
        assert_eq!(tables.len(), 2);
        assert_eq!(tables[0].settings, ["x", "z"]);
        assert!(tables[0].sentences[0].starts_with("In \u{201c}x\u{201d}, \u{201c}z\u{201d}: No principle"));
        assert!(tables[1].sentences[0].starts_with("In \u{201c}y\u{201d}: The principle \u{201c}wide\u{201d}"));
    }
}
