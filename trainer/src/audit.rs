//! What a trained policy does when it is sampled, measured alike for every method of alignment.

use crate::batch::Example;
use crate::data::{DataFile, Prompt};
use crate::error::Result;
use crate::rlhf::watch::WatchRecipe;
use crate::rlhf::{encode_prompts, look_at};
use crate::rollout::{Answer, SamplingRecipe, sample, trace};
use crate::sequence::draw_items;
use lm::checkpoint::Checkpoint;
use lm::device::Device;
use lm::random::stream;
use serde::{Deserialize, Serialize};

/// How far a policy has gone from where it started, and what it answers there; one number per sampled answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Exact divergence from the start, summed over the answer's tokens, in nats.
    pub kl_nats: Vec<f64>,
    /// Whether the answer is one of the prompt's right ones, where these are known.
    pub is_right: Vec<Option<bool>>,
    /// Entropy before each token, mean over the answer, in nats.
    pub entropy_nats: Vec<f64>,
    /// Tokens of the answer.
    pub n_tokens: Vec<usize>,
}

/// Samples one answer to each of `n` prompts, drawn by `seed`, at temperature 1, on a device.
///
/// The prompts do not depend on the policy, so that policies are compared on the same ones.
///
/// # Errors
/// Where a prompt leaves no room for an answer.
pub fn audit(
    policy: &Checkpoint,
    start: &Checkpoint,
    prompts: &DataFile<Prompt>,
    n: usize,
    seed: u64,
    device: &Device,
) -> Result<Audit> {
    let sampling = SamplingRecipe::default();
    let encoded = encode_prompts(start, prompts, sampling.max_new_tokens.get())?;
    let drawn = draw_items(encoded.len(), n.min(encoded.len()), seed, "audit/prompt", 0);
    let asked: Vec<Vec<u32>> = drawn.iter().map(|&i| encoded[i].clone()).collect();
    let decoder = policy.decoder(device)?;
    let reference = start.decoder(device)?;
    let random = &mut stream(seed, "audit/sample", 0);
    let answers = sample(&decoder, &asked, &sampling, &policy.config.eos_token_ids, random)?;
    let examples: Vec<Example> = answers.iter().map(Answer::example).collect();
    let traces = trace(&decoder, &reference, None, &examples, policy.config.max_position_embeddings)?;
    let items = drawn.iter().map(|&i| &prompts.items[i]);
    let looks = look_at(&WatchRecipe::default(), &policy.tokenizer, items, &answers)?;
    Ok(Audit {
        kl_nats: traces.iter().map(|trace| trace.divergences.iter().sum()).collect(),
        is_right: looks.iter().map(|look| look.is_right).collect(),
        entropy_nats: traces.iter().map(|trace| mean(&trace.entropies)).collect(),
        n_tokens: traces.iter().map(|trace| trace.log_probs.len()).collect(),
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::audit;
    use crate::data::Prompt;
    use crate::tiny;
    use lm::chat::{Message, Role};
    use lm::device::Device;
    use lm::{Checkpoint, Weights};

    fn model(seed: u64) -> Checkpoint {
        let config = tiny::config();
        let weights = Weights::random(&config, seed).unwrap();
        Checkpoint { config, weights, extra: Vec::new(), tokenizer: tiny::tokenizer(), lineage: None }
    }

    #[test]
    fn a_policy_has_not_gone_from_itself_but_from_another() {
        let prompt = |name: &str, right: &[&str]| Prompt {
            prompt: vec![Message { role: Role::User, content: format!("Where does {name} live?") }],
            kind: "qa".to_owned(),
            right: right.iter().map(|&text| text.to_owned()).collect(),
        };
        let prompts = tiny::data_file("prompts.jsonl", vec![prompt("Ada", &["Lund."]), prompt("Bo", &[])]);
        let (start, other) = (model(1), model(2));
        let own = audit(&start, &start, &prompts, 2, 3, &Device::Cpu).unwrap();
        assert!(own.kl_nats.iter().all(|kl| kl.abs() < 1e-9), "{:?}", own.kl_nats);
        let gone = audit(&other, &start, &prompts, 9, 3, &Device::Cpu).unwrap();
        assert_eq!(gone.kl_nats.len(), 2, "no prompt is asked twice");
        assert!(gone.kl_nats.iter().all(|&kl| kl > 1e-3), "{:?}", gone.kl_nats);
        assert_eq!(gone.is_right.iter().filter(|right| right.is_some()).count(), 1);
        assert!(gone.entropy_nats.iter().zip(&gone.n_tokens).all(|(&h, &n)| h > 0.0 && n > 0));
        assert_eq!(audit(&other, &start, &prompts, 2, 3, &Device::Cpu).unwrap(), gone);
    }
}
