//! How often each principle of a constitution has judged against the answers known to be right.

use crate::data::{self, DataFile, Prompt};
use crate::error::Result;
use crate::folder::RunFolder;
use crate::rl_cai::Compared;
use crate::rlhf::watch::WatchRecipe;
use crate::sl_cai::Revised;
use lm::chat::Message;
use std::collections::BTreeMap;

/// What was judged under one principle, for prompts of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judged {
    /// Pairs of answers that were compared.
    pub pairs: usize,
    /// Those of which exactly one answer is right, and for which one was preferred.
    pub decided: usize,
    /// Of these, the ones where the wrong answer was preferred.
    pub against: usize,
    /// Of these, the ones where the wrong answer refuses and the right one does not.
    pub refusing: usize,
    /// Right answers that were revised.
    pub right: usize,
    /// Of these, the ones that were wrong afterwards.
    pub broken: usize,
    /// Wrong answers that were revised.
    pub wrong: usize,
    /// Of these, the ones that were right afterwards.
    pub mended: usize,
}

/// What was judged, by the name of the principle and the kind of the prompt.
pub type JudgedByPrinciple = BTreeMap<String, BTreeMap<String, Judged>>;

/// Counts what a run's `generated/sl-cai.jsonl` and `generated/rl-cai.jsonl` hold; a file that is not there counts as empty.
///
/// `watch` says which answers refuse. Prompts whose right answers are not known count as compared, and as nothing else.
///
/// # Errors
/// Where a file cannot be read or holds something else.
pub fn count_judgements(
    folder: &RunFolder,
    prompts: &DataFile<Prompt>,
    watch: &WatchRecipe,
) -> Result<JudgedByPrinciple> {
    let known: BTreeMap<&[Message], &Prompt> =
        prompts.items.iter().map(|prompt| (prompt.prompt.as_slice(), prompt)).collect();
    let is_right = |prompt: &[Message], answer: &str| known.get(prompt).and_then(|prompt| prompt.find_right(answer));
    let mut counts = JudgedByPrinciple::new();
    let path = folder.generated("sl-cai.jsonl");
    if path.exists() {
        for row in data::read::<Revised>(&path)?.items {
            let mut before = is_right(&row.prompt, &row.answer);
            for round in &row.rounds {
                let after = is_right(&row.prompt, &round.revision);
                let judged = counts.entry(round.principle.clone()).or_default().entry(row.kind.clone()).or_default();
                if let Some((before, after)) = before.zip(after) {
                    judged.right += usize::from(before);
                    judged.broken += usize::from(before && !after);
                    judged.wrong += usize::from(!before);
                    judged.mended += usize::from(!before && after);
                }
                before = after;
            }
        }
    }
    let path = folder.generated("rl-cai.jsonl");
    if path.exists() {
        for pair in data::read::<Compared>(&path)?.items {
            let right = is_right(&pair.prompt, &pair.a).zip(is_right(&pair.prompt, &pair.b));
            for (principle, p_a) in pair.judgements() {
                let judged = counts.entry(principle.to_owned()).or_default().entry(pair.kind.clone()).or_default();
                judged.pairs += 1;
                let Some((a, b)) = right.filter(|(a, b)| a != b && p_a != 0.5) else { continue };
                let (preferred, other) = if p_a > 0.5 { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
                let is_against = if p_a > 0.5 { b } else { a };
                judged.decided += 1;
                judged.against += usize::from(is_against);
                judged.refusing += usize::from(is_against && watch.is_refusal(preferred) && !watch.is_refusal(other));
            }
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::{Judged, count_judgements};
    use crate::data::Prompt;
    use crate::folder::RunFolder;
    use crate::rlhf::watch::WatchRecipe;
    use crate::tiny;
    use lm::chat::{Message, Role};

    #[test]
    fn labels_and_revisions_are_counted_against_the_right_answers() {
        let prompt = |text: &str, kind: &str, right: &[&str]| Prompt {
            prompt: vec![Message { role: Role::User, content: text.to_owned() }],
            kind: kind.to_owned(),
            right: right.iter().map(|&text| text.to_owned()).collect(),
        };
        let prompts = [prompt("B", "benign", &["Yes."]), prompt("H", "harmful", &["No."]), prompt("U", "benign", &[])];
        let prompts = tiny::data_file("prompts.jsonl", prompts.to_vec());
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(root.path());
        std::fs::create_dir_all(folder.generated("")).unwrap();
        let ask = |text: &str| format!(r#""prompt":[{{"role":"user","content":"{text}"}}]"#);
        let pairs = [
            // Against the right answer with a refusal; the same, without one; with it.
            (ask("B"), "benign", r#""principle":"wide","a":"Yes.","b":"Sorry, no.","p_a":0.2"#),
            (ask("B"), "benign", r#""principle":"wide","a":"Maybe.","b":"Yes.","p_a":0.9"#),
            (ask("B"), "benign", r#""principle":"wide","a":"Yes.","b":"Maybe.","p_a":0.9"#),
            // Undecided; both wrong; not known.
            (ask("B"), "benign", r#""principle":"wide","a":"Yes.","b":"Maybe.","p_a":0.5"#),
            (ask("H"), "harmful", r#""principle":"wide","a":"Yes.","b":"Maybe.","p_a":0.9"#),
            (ask("U"), "benign", r#""principle":"wide","a":"Yes.","b":"Maybe.","p_a":0.9"#),
            // Each principle of an ensemble has its own word.
            (
                ask("H"),
                "harmful",
                r#""a":"No.","b":"Yes.","p_a":0.6,"judgements":[{"principle":"wide","p_a":0.9},{"principle":"kind","p_a":0.3}]"#,
            ),
        ];
        let lines = pairs.map(|(prompt, kind, rest)| format!("{{{prompt},\"kind\":\"{kind}\",{rest}}}\n"));
        std::fs::write(folder.generated("rl-cai.jsonl"), lines.concat()).unwrap();
        let round = |principle: &str, revision: &str| {
            format!(r#"{{"principle":"{principle}","critique":"?","revision":"{revision}"}}"#)
        };
        let rounds = [round("wide", "Sorry."), round("kind", "Yes.")].join(",");
        let line = format!(r#"{{{},"kind":"benign","answer":"Yes.","rounds":[{rounds}]}}"#, ask("B"));
        std::fs::write(folder.generated("sl-cai.jsonl"), line + "\n").unwrap();

        let found = count_judgements(&folder, &prompts, &WatchRecipe::default()).unwrap();
        let wide = Judged { pairs: 5, decided: 3, against: 2, refusing: 1, right: 1, broken: 1, ..Judged::default() };
        assert_eq!(found["wide"]["benign"], wide);
        assert_eq!(found["wide"]["harmful"], Judged { pairs: 2, decided: 1, ..Judged::default() });
        assert_eq!(found["kind"]["benign"], Judged { wrong: 1, mended: 1, ..Judged::default() });
        assert_eq!(found["kind"]["harmful"], Judged { pairs: 1, decided: 1, against: 1, ..Judged::default() });
    }
}
