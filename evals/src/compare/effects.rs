//! What one key does on its own: settings that differ in nothing else, compared.

use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use super::sample::Scores;
use super::words;
use crate::comparison::{Axis, Effect};

/// The effect of every key that takes several values among the trained settings.
pub(super) fn examine(members: &[Member<'_>]) -> Vec<Effect> {
    let trained: Vec<&Member<'_>> = members.iter().filter(|member| member.is_trained()).collect();
    let keys: BTreeSet<&String> = trained.iter().flat_map(|member| member.entry.values.keys()).collect();
    let mut effects = Vec::new();
    for key in keys {
        let values = sorted_values(&trained, key);
        // Neighbours, and the two ends.
        let mut steps: Vec<(usize, usize)> = (1..values.len()).map(|i| (i - 1, i)).collect();
        if values.len() > 2 {
            steps.push((0, values.len() - 1));
        }
        for (from, to) in steps {
            effects.extend(effect(&trained, key, &values[from], &values[to]));
        }
    }
    effects
}

/// The values of a key, numbers ascending, others by name.
fn sorted_values(members: &[&Member<'_>], key: &str) -> Vec<String> {
    let found: BTreeSet<&String> = members.iter().filter_map(|member| member.entry.values.get(key)).collect();
    let mut values: Vec<String> = found.into_iter().cloned().collect();
    let number = |text: &String| text.parse::<f64>().ok();
    values.sort_by(|a, b| match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    });
    values
}

fn effect(members: &[&Member<'_>], key: &str, from: &str, to: &str) -> Option<Effect> {
    let rest = |member: &Member<'_>| -> BTreeMap<String, String> {
        member.entry.values.iter().filter(|(name, _)| *name != key).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let has = |member: &&&Member<'_>, value: &str| member.entry.values.get(key).is_some_and(|own| own == value);
    let mut pairs = Vec::new();
    for before in members.iter().filter(|member| has(member, from)) {
        pairs.extend(
            members
                .iter()
                .filter(|member| has(member, to) && rest(member) == rest(before))
                .map(|after| (before, after)),
        );
    }
    if pairs.is_empty() {
        return None;
    }
    let change = |axis: Axis| {
        let changes: Vec<Scores> =
            pairs.iter().map(|(before, after)| before.change_to(after, axis)).collect::<Option<_>>()?;
        let mean = Scores::average(&changes)?;
        if mean.means().is_empty() {
            return None;
        }
        Some((axis, mean.crossed()?.number()))
    };
    let changes: BTreeMap<_, _> = Axis::ALL.into_iter().filter_map(change).collect();
    let sentence = words::tell_effect(key, from, to, &changes);
    Some(Effect {
        key: key.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        n_pairs: pairs.len(),
        changes,
        sentence,
    })
}
