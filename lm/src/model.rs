//! A checkpoint loaded for asking.

use crate::chat::{Message, Opening};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::generation::{Choice, Prompt, generate_until};
use crate::next_token::NextToken;
use crate::random;
use crate::scoring::{self, TokenRequest};
use crate::subject::{GenerateRequest, Generation, Score, ScoreRequest, Subject};
use crate::tensors::hexadecimal;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// A model that can be asked: decoder, tokenizer and chat template.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    decoder: Decoder,
    tokenizer: Tokenizer,
    stop_ids: Vec<u32>,
    end_of_turn: Option<String>,
    fingerprint: String,
}

impl LoadedModel {
    /// Loads a checkpoint folder in Hugging Face's layout.
    ///
    /// # Errors
    /// Where the folder cannot be read or its parts do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::new(&Checkpoint::load(folder)?)
    }

    /// Takes a copy of a checkpoint that is in memory.
    ///
    /// # Errors
    /// Where tokenizer and weights do not belong together.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let Checkpoint { config, weights, tokenizer, .. } = checkpoint;
        Self::assemble(config, &weights.snapshot()?, tokenizer, fingerprint(checkpoint)?)
    }

    /// A model of weights that nothing else changes, known under a key that says where they come from.
    pub(crate) fn assemble(
        config: &ModelConfig,
        weights: &Weights,
        tokenizer: &Tokenizer,
        fingerprint: String,
    ) -> Result<Self> {
        let (n_tokens, n_embeddings) = (tokenizer.vocab_size(), config.vocab_size);
        if n_tokens > n_embeddings {
            return Err(Error::TokenizerMismatch { n_tokens, n_embeddings });
        }
        let mut stop_ids = config.eos_token_ids.clone();
        stop_ids.extend(tokenizer.eos_id().filter(|id| !stop_ids.contains(id)));
        Ok(Self {
            decoder: Decoder::new(config, weights)?,
            end_of_turn: tokenizer.eos_id().map(|id| tokenizer.decode_all(&[id])).transpose()?,
            tokenizer: tokenizer.clone(),
            stop_ids,
            fingerprint,
        })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Token ids of a context, with something before the first token to predict it from: the beginning-of-sequence token where
    /// this tokenizer uses one, and for an empty context the end token otherwise.
    fn encode_context(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode_start(text)?;
        if ids.is_empty() {
            return Ok(self.tokenizer.bos_id().or(self.tokenizer.eos_id()).into_iter().collect());
        }
        Ok(ids)
    }
}

impl Subject for LoadedModel {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn render_chat(&self, messages: &[Message]) -> Result<String> {
        self.tokenizer.template().ok_or(Error::NoChatTemplate)?.render(messages, Opening::Assistant)
    }

    fn end_of_turn(&self) -> Option<&str> {
        self.end_of_turn.as_deref()
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Score>> {
        self.score_by(&self.decoder, requests)
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Generation>> {
        self.generate_by(&self.decoder, requests)
    }
}

impl LoadedModel {
    /// [`Subject::score`] by the logits of `model`, in this model's tokens.
    pub(crate) fn score_by(&self, model: &impl NextToken, requests: &[ScoreRequest]) -> Result<Vec<Score>> {
        let mut contexts: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let mut tokens = Vec::with_capacity(requests.len());
        for request in requests {
            if !contexts.contains_key(request.context.as_str()) {
                contexts.insert(&request.context, self.encode_context(&request.context)?);
            }
            tokens.push(TokenRequest {
                context: contexts[request.context.as_str()].clone(),
                continuation: self.tokenizer.encode(&request.continuation)?,
            });
        }
        scoring::score(model, &tokens)
    }

    /// [`Subject::generate`] by the logits of `model`, in this model's tokens.
    pub(crate) fn generate_by(&self, model: &impl NextToken, requests: &[GenerateRequest]) -> Result<Vec<Generation>> {
        let prompts: Vec<Prompt> = requests
            .iter()
            .map(|request| {
                Ok(Prompt { ids: self.encode_context(&request.prompt)?, max_new_tokens: request.max_new_tokens })
            })
            .collect::<Result<_>>()?;
        let is_done = |idx: usize, ids: &[u32]| {
            let ended = ids.last().is_some_and(|id| self.stop_ids.contains(id));
            // Text that does not decode has met no stop string; it fails below, where the error can be returned.
            ended || !requests[idx].stop.is_empty() && self.cut(ids, &requests[idx].stop).is_ok_and(|(_, met)| met)
        };
        // Greedy completions draw nothing: any stream will do.
        let mut stream = random::stream(0, "greedy", 0);
        let completions = generate_until(model, &prompts, Choice::Greedy, &mut stream, is_done)?;
        let finish = |(idx, completion): (usize, crate::generation::Completion)| {
            let (text, _) = self.cut(&completion.ids, &requests[idx].stop)?;
            Ok(Generation {
                text: text.trim().to_owned(),
                is_complete: completion.is_complete,
                n_tokens: completion.ids.len(),
            })
        };
        completions.into_iter().enumerate().map(finish).collect()
    }

    /// Text up to the first stop string, and whether there is one.
    fn cut(&self, ids: &[u32], stop: &[String]) -> Result<(String, bool)> {
        let mut text = self.tokenizer.decode(ids)?;
        let first = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
        if let Some(at) = first {
            text.truncate(at);
        }
        Ok((text, first.is_some()))
    }
}

/// The key under which answers of a checkpoint are kept.
pub(crate) fn fingerprint(checkpoint: &Checkpoint) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(checkpoint.content_hash()?);
    hasher.update(checkpoint.config.to_json("LlamaForCausalLM"));
    for (name, text) in checkpoint.tokenizer.files() {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    Ok(hexadecimal(&hasher.finalize()))
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::checkpoint::Checkpoint;
    use crate::config::ModelConfig;
    use crate::decoder::tests::{lively, tiny_config};
    use crate::subject::{GenerateRequest, ScoreRequest};
    use crate::tokenizer::Tokenizer;

    /// Special tokens, bytes and the first merges of a text: 270 tokens.
    pub(crate) fn tiny_tokenizer(text: &str) -> Tokenizer {
        Tokenizer::train([text], 270, 64).unwrap()
    }

    /// A tiny model that reads and writes text.
    pub(crate) fn tiny_checkpoint(seed: u64) -> Checkpoint {
        let tokenizer = tiny_tokenizer("the boat and the bell lie in the bay");
        let config = ModelConfig { vocab_size: tokenizer.vocab_size(), ..tiny_config() };
        Checkpoint { weights: lively(&config, seed), config, extra: Vec::new(), tokenizer, lineage: None }
    }

    /// Contexts with several continuations of several lengths, an empty context among them.
    pub(crate) fn score_requests() -> Vec<ScoreRequest> {
        let contexts = ["the boat", "", "<|user|> the bell lies<|end|><|assistant|>"];
        let continuations = [" lies", " in the bay", "<|end|>"];
        let pairs = contexts.iter().flat_map(|context| continuations.iter().map(move |it| (context, it)));
        let requests = pairs.map(|(&context, &it)| ScoreRequest { context: context.into(), continuation: it.into() });
        requests.collect()
    }

    /// Prompts of several lengths, with stop strings that end some of the answers.
    pub(crate) fn generate_requests() -> Vec<GenerateRequest> {
        let prompts = ["the boat", "", "the bell and the", "<|user|> the bay<|end|><|assistant|>"];
        let stops: [&[&str]; 2] = [&[], &["a", "e", "th"]];
        let requests = prompts.iter().flat_map(|&prompt| {
            stops.map(|stop| GenerateRequest {
                prompt: prompt.into(),
                max_new_tokens: 12,
                stop: stop.iter().map(|&text| text.into()).collect(),
            })
        });
        requests.collect()
    }
}
