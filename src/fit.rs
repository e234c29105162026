//! Lines of a run's own data that are longer than its model can read: found before training, with their place.

use anyhow::{Result, bail};
use lm::Tokenizer;
use trainer::data::{DataFile, Prompt};
use trainer::fit::Length;
use trainer::import::Skipped;

use crate::import::{Source, sources, tell_skipped};
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::run::Run;
use crate::train::Data;

/// Refuses what is too long, or leaves it out where the recipe says so; lists what was left out in the run's `too_long.jsonl`. The
/// world's data fit and are not looked at.
pub(crate) fn fit(run: &Run, recipe: &Recipe, tokenizer: &Tokenizer, data: &mut Data, bars: &Bars) -> Result<()> {
    let mut fit = Fit { sources: sources(&run.data())?, skips: recipe.data.skip_bad, tokenizer, left_out: Vec::new() };
    let context = recipe.model.context.get();
    let mut limit = (recipe.sft.sequence_tokens.get(), "sft.sequence_tokens");
    if recipe.alignment.contains(&Alignment::Constitutional) {
        limit = limit.min((recipe.sl_cai.sequence_tokens.get(), "sl_cai.sequence_tokens"));
    }
    fit.look_at("conversations", &mut data.conversations, limit)?;
    fit.look_at("preferences", &mut data.preferences, (context, "model.context"))?;
    fit.look_at("prompts", &mut data.prompts, prompt_limit(recipe))?;
    if !fit.left_out.is_empty() && run.folder().ranks().is_first() {
        reports::write(&run.root().join(TOO_LONG), &trainer::data::to_lines(&fit.left_out))?;
        tell_skipped(&fit.left_out, TOO_LONG, bars);
    }
    Ok(())
}

/// As [`fit`], for the prompts alone, without a word: what is too long was told when the run was trained.
pub(crate) fn fit_prompts(
    run: &Run,
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    prompts: &mut DataFile<Prompt>,
) -> Result<()> {
    let mut fit = Fit { sources: sources(&run.data())?, skips: recipe.data.skip_bad, tokenizer, left_out: Vec::new() };
    fit.look_at("prompts", prompts, prompt_limit(recipe))
}

const TOO_LONG: &str = "too_long.jsonl";

/// Most tokens of a prompt: there must be room for the longest answer that any phase samples, or an audit.
fn prompt_limit(recipe: &Recipe) -> (usize, &'static str) {
    let audit = trainer::rollout::SamplingRecipe::default();
    let sampled = [&audit, &recipe.rlhf.sampling, &recipe.rl_cai.rl.sampling].map(|s| s.max_new_tokens.get());
    let longest = sampled.into_iter().max().unwrap_or_default();
    (recipe.model.context.get().saturating_sub(longest), "model.context less sampling.max_new_tokens")
}

struct Fit<'a> {
    sources: Vec<Source>,
    skips: bool,
    tokenizer: &'a Tokenizer,
    left_out: Vec<Skipped>,
}

impl Fit<'_> {
    fn look_at<T: Length>(&mut self, kind: &str, file: &mut DataFile<T>, (limit, key): (usize, &str)) -> Result<()> {
        let Some(source) = self.sources.iter().find(|source| source.kind == kind) else { return Ok(()) };
        let mut is_left_out = vec![false; file.items.len()];
        for (i, item) in file.items.iter().enumerate() {
            let n_tokens = item.n_tokens(self.tokenizer)?;
            if n_tokens <= limit {
                continue;
            }
            let reason = format!("{n_tokens} tokens, but there is room for {limit} ({key})");
            let line = line_of(source, file.lines[i]);
            if !self.skips {
                bail!(
                    "{}:{line}: {reason}; `--skip-bad` with a new run folder leaves such lines out",
                    source.path.display()
                );
            }
            is_left_out[i] = true;
            self.left_out.push(Skipped { file: source.path.display().to_string(), line, reason });
        }
        file.leave_out(&is_left_out);
        if file.items.is_empty() {
            bail!("{}: every line is longer than {limit} tokens ({key})", source.path.display());
        }
        Ok(())
    }
}

/// The line of the source that a line of the run's file was made of.
fn line_of(source: &Source, line: usize) -> usize {
    source.lines.get(line.saturating_sub(1)).copied().unwrap_or(line)
}
