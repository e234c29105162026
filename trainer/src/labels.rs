//! Labels of pairs: a judge says which of two answers is better under principles of the constitution, and that becomes the
//! probability that the preference model is taught.

use crate::constitution::Principle;
use crate::data::Prompt;
use crate::error::Result;
use crate::judge::{Bench, Judge, Opinion, Question};
use crate::recipe::{BelowHalf, count};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// How pairs are labelled (`[rl_cai.labels]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelsRecipe {
    /// Different principles under which each pair is judged, of which the label is the mean. Default 1.
    pub principles: NonZeroUsize,
    /// What a judgement becomes (`[rl_cai.labels.kind.soft]`, `.hard` or `.reasoned`). Default soft.
    pub kind: LabelKind,
}

impl Default for LabelsRecipe {
    fn default() -> Self {
        Self { principles: count(1), kind: LabelKind::default() }
    }
}

/// What a judgement becomes.
///
/// # Reference
/// Bai et al. 2022, arXiv 2212.08073, section 4.1: soft labels did better than hard ones; with reasoning (chain of thought) the
/// probabilities are nearly all 0 or 1, and clamping them to 0.4 to 0.6 gives more robust behaviour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum LabelKind {
    /// The judge's probability as it is.
    Soft(SoftRecipe),
    /// All for the answer that the judge prefers, mean over principles; a half each where it prefers neither.
    Hard(HardRecipe),
    /// The judge first writes down its reasons, then prefers with these before it; its probability is clamped.
    Reasoned(ReasonedRecipe),
}

impl Default for LabelKind {
    fn default() -> Self {
        Self::Soft(SoftRecipe {})
    }
}

/// The judge's probability as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftRecipe {}

/// All for the answer that the judge prefers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardRecipe {}

/// Reasons first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReasonedRecipe {
    /// Probabilities are held between this and one less this; 0 for as they are. Default 0.4.
    pub clamp: BelowHalf,
}

impl Default for ReasonedRecipe {
    fn default() -> Self {
        Self { clamp: BelowHalf::new(0.4).expect("in range") }
    }
}

impl LabelKind {
    /// The label that a judge's probability becomes.
    fn turn(&self, p: f64) -> f64 {
        match self {
            Self::Soft(_) => p,
            Self::Hard(_) if p == 0.5 => p,
            Self::Hard(_) => f64::from(u8::from(p > 0.5)),
            Self::Reasoned(ReasonedRecipe { clamp }) => p.clamp(clamp.get(), 1.0 - clamp.get()),
        }
    }
}

/// Two answers to one prompt, and the principles to judge them under.
pub(crate) struct Pair<'a> {
    pub(crate) prompt: &'a Prompt,
    pub(crate) principles: Vec<&'a Principle>,
    pub(crate) a: String,
    pub(crate) b: String,
}

/// What became of a pair.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    /// Probability that `a` is better.
    pub(crate) p_a: f64,
    /// What the judge said under each of the pair's principles; `None` where it could not be asked or said neither.
    pub(crate) opinions: Vec<Option<Opinion>>,
}

/// Labels each pair; `None` where the judge said nothing under any of its principles. All pairs have as many principles as the recipe
/// says.
///
/// # Errors
/// Where the judge cannot be asked.
pub(crate) fn label_pairs(
    judge: &Judge,
    at: &Bench<'_>,
    recipe: &LabelsRecipe,
    pairs: &[Pair<'_>],
) -> Result<Vec<Option<Label>>> {
    let questions: Vec<Question<'_>> = pairs.iter().flat_map(Pair::questions).collect();
    let opinions = judge.ask(at, &questions)?;
    let label = |opinions: &[Option<Opinion>]| {
        let votes: Vec<f64> = opinions.iter().flatten().map(|opinion| recipe.kind.turn(opinion.p_a)).collect();
        let p_a = votes.iter().sum::<f64>() / votes.len() as f64;
        (!votes.is_empty()).then(|| Label { p_a, opinions: opinions.to_vec() })
    };
    Ok(opinions.chunks(recipe.principles.get()).map(label).collect())
}

impl Pair<'_> {
    fn questions(&self) -> impl Iterator<Item = Question<'_>> {
        let prompt = &self.prompt.prompt;
        self.principles.iter().map(move |principle| Question { prompt, principle, a: &self.a, b: &self.b })
    }
}

#[cfg(test)]
mod tests {
    use super::{HardRecipe, LabelKind, LabelsRecipe, Pair, ReasonedRecipe, label_pairs};
    use crate::constitution::Constitution;
    use crate::data::Prompt;
    use crate::folder::RunFolder;
    use crate::judge::{Bench, Judge};
    use crate::recipe::count;
    use crate::rollout::SamplingRecipe;
    use crate::tiny;
    use lm::chat::{Message, Role};
    use lm::{Checkpoint, ModelConfig, Weights};
    use std::path::Path;

    const CONSTITUTION: &str = "[[principle]]\nname = \"kind\"\ncritique = \"Kind?\"\nrevision = \"Be kind.\"\npreference = \"Which is kinder?\"\n\
        [[principle]]\nname = \"short\"\ncritique = \"Short?\"\nrevision = \"Be short.\"\npreference = \"Which is shorter?\"\n";

    /// The label of each pair, and what it was made from.
    fn labels(recipe: &LabelsRecipe, first: usize, pairs: &[(&str, &str)]) -> Vec<Option<(f64, Vec<Option<f64>>)>> {
        let config = ModelConfig { max_position_embeddings: 128, ..tiny::config() };
        let weights = Weights::random(&config, 5).unwrap();
        let model = Checkpoint { config, weights, extra: Vec::new(), tokenizer: tiny::tokenizer(), lineage: None };
        let constitution = Constitution::parse(Path::new("constitution.toml"), CONSTITUTION).unwrap();
        let prompt = vec![Message { role: Role::User, content: "Who?".to_owned() }];
        let prompt = Prompt { prompt, kind: String::new(), right: Vec::new() };
        let principles = constitution.principles[first..].iter().take(recipe.principles.get());
        let principles: Vec<_> = principles.collect();
        let pair = |(a, b): &(&str, &str)| Pair {
            prompt: &prompt,
            principles: principles.clone(),
            a: (*a).to_owned(),
            b: (*b).to_owned(),
        };
        let pairs: Vec<Pair<'_>> = pairs.iter().map(pair).collect();
        let at = Bench {
            trained: &model,
            with_reasons: false,
            sampling: SamplingRecipe::default(),
            seed: 1,
            notebook: Path::new("unused"),
            folder: &RunFolder::new("unused"),
        };
        let labels = label_pairs(&Judge::Itself, &at, recipe, &pairs).unwrap().into_iter();
        labels
            .map(|label| label.map(|l| (l.p_a, l.opinions.iter().map(|o| o.as_ref().map(|o| o.p_a)).collect())))
            .collect()
    }

    fn soft(pairs: &[(&str, &str)]) -> Vec<Option<f64>> {
        labels(&LabelsRecipe::default(), 0, pairs).into_iter().map(|label| label.map(|(p_a, _)| p_a)).collect()
    }

    #[test]
    fn a_label_does_not_depend_on_which_answer_comes_first() {
        let found = soft(&[("Ada.", "Bo did."), ("Bo did.", "Ada."), ("Ada.", "Ada.")]);
        let found: Vec<f64> = found.into_iter().flatten().collect();
        assert_eq!(found.len(), 3);
        assert!((found[0] + found[1] - 1.0).abs() < 1e-5, "{found:?}");
        assert!((found[2] - 0.5).abs() < 1e-6, "{found:?}");
        assert!((found[0] - 0.5).abs() > 1e-3, "{found:?}");
    }

    #[test]
    fn a_question_that_does_not_fit_the_context_has_no_label() {
        let long = "Ada ".repeat(40);
        assert_eq!(soft(&[(&long, "Bo.")]), [None]);
        // The pairs around it keep their own.
        let found = soft(&[("Ada.", "Bo."), (&long, "Bo."), ("Ada.", "Bo.")]);
        assert!(found[0].is_some() && found[1].is_none());
        assert!((found[0].unwrap() - found[2].unwrap()).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn an_ensemble_is_the_mean_over_its_principles() {
        let pair = [("Lund.", "Oslo.")];
        let of = |n: usize, first: usize| {
            let recipe = LabelsRecipe { principles: count(n), ..LabelsRecipe::default() };
            labels(&recipe, first, &pair).remove(0).unwrap()
        };
        let ((both, opinions), (kind, _), (short, _)) = (of(2, 0), of(1, 0), of(1, 1));
        assert!((kind - short).abs() > 1e-5, "{kind} {short}");
        assert!((both - 0.5 * (kind + short)).abs() < 1e-6, "{both} {kind} {short}");
        assert_eq!(opinions.len(), 2);
    }

    #[test]
    fn hard_labels_take_sides_and_clamped_ones_stay_in_the_middle() {
        let hard = LabelKind::Hard(HardRecipe {});
        assert_eq!([0.51, 0.5, 0.1].map(|p| hard.turn(p)), [1.0, 0.5, 0.0]);
        let clamped = LabelKind::Reasoned(ReasonedRecipe::default());
        assert_eq!([1.0, 0.55, 0.1].map(|p| clamped.turn(p)), [0.6, 0.55, 0.4]);
        assert_eq!([1.0, 0.55, 0.1].map(|p| LabelKind::default().turn(p)), [1.0, 0.55, 0.1]);
    }
}
