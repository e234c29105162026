//! Whole sequences through a decoder: laid out in batches, read where they matter.

use crate::batch::{Batch, Example, IGNORE, pack};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use lm::chat::{Message, Opening};
use lm::decoder::Decoder;
use lm::random::stream;
use lm::tokenizer::Tokenizer;
use rand::seq::SliceRandom;

/// Token ids of a prompt up to and including the opening of the assistant's turn.
///
/// # Errors
/// Where the tokenizer has no chat template or refuses the messages.
pub(crate) fn encode_prompt(tokenizer: &Tokenizer, prompt: &[Message]) -> Result<Vec<u32>> {
    let template = tokenizer.template().ok_or(lm::Error::NoChatTemplate)?;
    Ok(tokenizer.encode(&template.render(prompt, Opening::Assistant)?)?)
}

/// Some of a list of examples, laid out for one forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The sequences.
    pub(crate) batch: Batch,
    /// For each span of the batch the index of its example in the list.
    pub(crate) members: Vec<usize>,
}

/// Packs examples into rows of `sequence_tokens`, and the rows into layouts of at most `n_rows`.
///
/// # Errors
/// [`lm::Error::TooLong`] for an example that is longer than a row.
pub(crate) fn lay_out(examples: &[Example], sequence_tokens: usize, n_rows: usize) -> Result<Vec<Layout>> {
    let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
    if let Some(&n_tokens) = lengths.iter().find(|&&len| len > sequence_tokens) {
        let what = "a prompt with its answer".to_owned();
        return Err(Error::Lm(lm::Error::TooLong { what, n_tokens, limit: sequence_tokens }));
    }
    let order: Vec<usize> = (0..examples.len()).collect();
    let rows = pack(&order, &lengths, sequence_tokens);
    let layouts = rows.chunks(n_rows).map(|rows| {
        let content: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().map(|&i| &examples[i]).collect()).collect();
        Ok(Layout { batch: Batch::assemble(&content, sequence_tokens)?, members: rows.concat() })
    });
    layouts.collect()
}

/// Positions in a layout that predict a token to be learnt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Targets {
    /// Flat positions, in the order of the spans.
    pub(crate) positions: Vec<u32>,
    /// The token that each predicts.
    pub(crate) ids: Vec<u32>,
    /// The example that each belongs to, as an index into the list that was laid out.
    pub(crate) owners: Vec<usize>,
}

impl Layout {
    /// Finds the targets.
    pub(crate) fn targets(&self) -> Targets {
        let mut targets = Targets::default();
        for (span, &member) in self.batch.spans.iter().zip(&self.members) {
            for position in span.start..span.start + span.len {
                if self.batch.targets[position] != IGNORE {
                    targets.positions.push(position as u32);
                    targets.ids.push(self.batch.targets[position]);
                    targets.owners.push(member);
                }
            }
        }
        targets
    }

    /// Flat position of each span's last token.
    pub(crate) fn last_positions(&self) -> Vec<u32> {
        self.batch.spans.iter().map(|span| (span.start + span.len - 1) as u32).collect()
    }

    /// Hidden states at flat positions.
    ///
    /// # Shapes
    /// (number of positions, d)
    pub(crate) fn hidden_at(&self, decoder: &Decoder, positions: &[u32]) -> Result<Tensor> {
        let hidden = decoder.forward(&self.batch.input)?.flatten_to(1)?; // (B T, d)
        let positions = Tensor::new(positions, hidden.device())?;
        Ok(hidden.index_select(&positions, 0)?)
    }
}

/// `ln p` of each example's targets, summed over the example; for weights without gradients.
pub(crate) fn sum_log_probs(decoder: &Decoder, examples: &[Example], sequence_tokens: usize) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; examples.len()];
    for layout in lay_out(examples, sequence_tokens, ROWS_WITHOUT_GRADIENT)? {
        let targets = layout.targets();
        let hidden = layout.hidden_at(decoder, &targets.positions)?;
        let log_probs = numbers(&kernels::linear_log_probs(&hidden, decoder.lm_head(), &targets.ids)?)?;
        for (&owner, log_prob) in targets.owners.iter().zip(log_probs) {
            sums[owner] += log_prob;
        }
    }
    Ok(sums)
}

/// Rows of one forward pass where no gradients are kept.
pub(crate) const ROWS_WITHOUT_GRADIENT: usize = 16;

/// Hidden states in f32 where they are in bf16, for heads that give one number: bf16 would leave that two digits.
pub(crate) fn widen(hidden: &Tensor) -> Result<Tensor> {
    if hidden.dtype() == DType::BF16 { Ok(hidden.to_dtype(DType::F32)?) } else { Ok(hidden.clone()) }
}

/// The elements of a tensor as f64.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Which `size` of `n` items step number `step` works on: epoch after epoch, each in an order of its own.
///
/// Follows from the arguments alone, so that a resumed phase goes on where it stopped.
pub(crate) fn draw_items(n: usize, size: usize, seed: u64, name: &str, step: u64) -> Vec<usize> {
    let mut drawn = Vec::with_capacity(size);
    let mut order: Option<(u64, Vec<usize>)> = None;
    for number in step * size as u64..(step + 1) * size as u64 {
        let epoch = number / n as u64;
        if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let mut items: Vec<usize> = (0..n).collect();
            items.shuffle(&mut stream(seed, name, epoch));
            order = Some((epoch, items));
        }
        let (_, items) = order.as_ref().expect("the epoch was just drawn");
        drawn.push(items[(number % n as u64) as usize]);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::{draw_items, lay_out};
    use crate::batch::Example;

    #[test]
    fn every_epoch_draws_each_item_once_in_another_order() {
        let drawn: Vec<usize> = (0..6).flat_map(|step| draw_items(9, 3, 5, "test", step)).collect();
        for epoch in drawn.chunks(9) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..9).collect::<Vec<_>>());
        }
        assert_ne!(drawn[..9], drawn[9..]);
        assert_eq!(draw_items(2, 5, 5, "test", 0).len(), 5);
    }

    #[test]
    fn layouts_hold_every_example_once_and_know_its_targets() {
        let example = |len: u32| Example {
            ids: (10 * len..11 * len).collect(),
            is_target: (0..len).map(|t| t + 2 >= len).collect(),
        };
        let examples: Vec<Example> = [4, 7, 5, 8, 3].map(example).to_vec();
        let layouts = lay_out(&examples, 8, 2).unwrap();
        let mut members: Vec<usize> = layouts.iter().flat_map(|layout| layout.members.clone()).collect();
        members.sort_unstable();
        assert_eq!(members, [0, 1, 2, 3, 4]);
        for layout in &layouts {
            let targets = layout.targets();
            assert_eq!(targets.owners.len(), 2 * layout.members.len());
            for ((&position, &id), &owner) in targets.positions.iter().zip(&targets.ids).zip(&targets.owners) {
                assert!(examples[owner].ids[examples[owner].ids.len() - 2..].contains(&id));
                assert_eq!(layout.batch.ids[position as usize] + 1, id);
            }
            for (&position, &member) in layout.last_positions().iter().zip(&layout.members) {
                assert_eq!(layout.batch.ids[position as usize], *examples[member].ids.last().unwrap());
            }
        }
        assert!(lay_out(&examples, 7, 2).is_err());
    }
}
