//! A checkpoint loaded for asking.

use crate::architecture::Architecture;
use crate::chat::{Message, Opening, Role};
use crate::checkpoint::{Checkpoint, require_match};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::frozen::FrozenDecoder;
use crate::generation::{Choice, Completion, Prompt as Prompted, generate, generate_until};
use crate::next_token::{After, NextToken, Tokens};
use crate::parts::ModelParts;
use crate::random;
use crate::scoring::{self, TokenRequest};
use crate::subject::{Ability, Drawn, GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
use crate::tensors::{self, hexadecimal};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A model that can be asked: decoder, tokenizer and chat template.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    decoder: AnyDecoder,
    tokenizer: Tokenizer,
    stop_ids: Vec<u32>,
    end_of_turn: Option<String>,
    fingerprint: String,
}

/// The plain decoder, whose weights can be trained and mixed, or any other, which can only be asked.
#[derive(Debug, Clone)]
enum AnyDecoder {
    Plain(Box<Decoder>),
    Frozen(Arc<FrozenDecoder>),
}

impl LoadedModel {
    /// Loads a folder in Hugging Face's layout, of any family that [`Architecture`] knows.
    ///
    /// # Errors
    /// Where the folder cannot be read or its parts do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::from_parts(ModelParts::read(folder)?)
    }

    /// Puts a published model together.
    ///
    /// # Errors
    /// Where the config asks for something that is not computed here, or the parts do not belong together.
    pub fn from_parts(parts: ModelParts) -> Result<Self> {
        let mut architecture = Architecture::parse(&parts.config, &parts.path)?;
        architecture.shape.add_eos(&parts.eos_of_generation()?);
        let ModelParts { config, generation_config, mut tensors, tokenizer, .. } = parts;
        if let Some(config) = architecture.plain() {
            tensors.retain(|(name, _)| config.has_tensor(name));
            let weights = Weights::from_tensors(config, tensors)?;
            let hash = tensors::hash(weights.iter())?;
            return Self::assemble(config, weights, &tokenizer, plain_fingerprint(hash, config, &tokenizer));
        }
        // Tokens of other modalities may lie behind the table, the tokens of text may not.
        let (n_tokens, n_embeddings) = (tokenizer.text_vocab_size(), architecture.shape.vocab_size);
        if n_tokens > n_embeddings {
            return Err(Error::TokenizerMismatch { n_tokens, n_embeddings });
        }
        let hash = tensors::hash(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
        let settings = [config.as_str(), generation_config.as_deref().unwrap_or_default()];
        let fingerprint = fingerprint_of(&["published", &hash, settings[0], settings[1]], &tokenizer);
        let shape = architecture.shape.clone();
        let decoder = AnyDecoder::Frozen(Arc::new(FrozenDecoder::new(architecture, tensors)?));
        Self::with_decoder(decoder, &shape, tokenizer, fingerprint)
    }

    /// Takes a copy of a checkpoint that is in memory.
    ///
    /// # Errors
    /// Where tokenizer and weights do not belong together.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let Checkpoint { config, weights, tokenizer, .. } = checkpoint;
        Self::assemble(config, weights.clone(), tokenizer, fingerprint(checkpoint)?)
    }

    /// A model of copies of weights, known under a key that says where they come from.
    pub(crate) fn assemble(
        config: &ModelConfig,
        weights: Weights,
        tokenizer: &Tokenizer,
        fingerprint: String,
    ) -> Result<Self> {
        require_match(tokenizer, config)?;
        let decoder = AnyDecoder::Plain(Box::new(Decoder::for_decoding(config, weights)?));
        Self::with_decoder(decoder, config, tokenizer.clone(), fingerprint)
    }

    fn with_decoder(
        decoder: AnyDecoder,
        config: &ModelConfig,
        tokenizer: Tokenizer,
        fingerprint: String,
    ) -> Result<Self> {
        let mut stop_ids = config.eos_token_ids.clone();
        stop_ids.extend(tokenizer.eos_id().filter(|id| !stop_ids.contains(id)));
        let end_of_turn = find_end_of_turn(&tokenizer, &stop_ids)?;
        Ok(Self { decoder, tokenizer, stop_ids, end_of_turn, fingerprint })
    }

    /// The same model with its weights on a device, asked in f32; a model of another architecture stays on the CPU, which
    /// [`LoadedModel::device`] tells.
    ///
    /// # Errors
    /// Where memory for it lacks there.
    pub fn on(self, device: &Device) -> Result<Self> {
        match &self.decoder {
            AnyDecoder::Plain(decoder) if !decoder.device().same_device(device) => {
                Ok(Self { decoder: AnyDecoder::Plain(Box::new(decoder.on(device)?)), ..self })
            }
            AnyDecoder::Plain(_) | AnyDecoder::Frozen(_) => Ok(self),
        }
    }

    /// Where it is asked.
    pub fn device(&self) -> &Device {
        match &self.decoder {
            AnyDecoder::Plain(decoder) => decoder.device(),
            AnyDecoder::Frozen(_) => &Device::Cpu,
        }
    }

    /// The plain decoder, whose weights can be trained and mixed.
    ///
    /// # Errors
    /// [`Error::NotTrainable`] for a model of another architecture.
    pub fn decoder(&self) -> Result<&Decoder> {
        match &self.decoder {
            AnyDecoder::Plain(decoder) => Ok(decoder),
            AnyDecoder::Frozen(decoder) => Err(Error::NotTrainable { model_type: decoder.architecture().model_type }),
        }
    }

    /// The shape of the model: its vocabulary, its context window, its ends of an answer.
    pub fn config(&self) -> &ModelConfig {
        match &self.decoder {
            AnyDecoder::Plain(decoder) => decoder.config(),
            AnyDecoder::Frozen(decoder) => &decoder.architecture().shape,
        }
    }

    /// Logits after each token of a sequence, (T, V).
    ///
    /// # Errors
    /// Where the sequence is empty, does not fit the context window or holds an id outside the vocabulary.
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(Error::Empty { what: "the sequence".to_owned() });
        }
        self.config().require_fit("the sequence", ids.len())?;
        match &self.decoder {
            AnyDecoder::Plain(decoder) => logits_by(decoder.as_ref(), ids),
            AnyDecoder::Frozen(decoder) => logits_by(decoder.as_ref(), ids),
        }
    }

    /// Continues prompts of token ids, as [`generate`] does.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn continue_ids(
        &self,
        prompts: &[Prompted],
        choice: Choice,
        stop_ids: &[u32],
        stream: &mut ChaCha8Rng,
    ) -> Result<Vec<Completion>> {
        match &self.decoder {
            AnyDecoder::Plain(decoder) => generate(decoder.as_ref(), prompts, choice, stop_ids, stream),
            AnyDecoder::Frozen(decoder) => generate(decoder.as_ref(), prompts, choice, stop_ids, stream),
        }
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

    fn render(&self, prompt: &Prompt) -> Result<String> {
        match prompt {
            Prompt::Text(text) => Ok(text.clone()),
            Prompt::Chat(messages) => {
                self.tokenizer.template().ok_or(Error::NoChatTemplate)?.render(messages, Opening::Assistant)
            }
        }
    }

    fn token_ids(&self, text: &str) -> Result<Option<Vec<u32>>> {
        self.tokenizer.encode_start(text).map(Some)
    }

    fn end_of_turn(&self) -> Option<&str> {
        self.end_of_turn.as_deref()
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Score>>> {
        match &self.decoder {
            AnyDecoder::Plain(decoder) => self.score_by(decoder.as_ref(), requests),
            AnyDecoder::Frozen(decoder) => self.score_by(decoder.as_ref(), requests),
        }
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation>>> {
        self.complete(requests, Choice::Greedy, &mut greedy())
    }

    fn lacks(&self, _: Ability) -> Option<&str> {
        None
    }

    fn draw(&self, requests: &[GenerateRequest], how: Drawn) -> Result<Vec<Result<Generation>>> {
        let mut stream = random::stream(how.seed, "draw", 0);
        self.complete(requests, Choice::Temperature(how.temperature), &mut stream)
    }
}

impl LoadedModel {
    /// [`Subject::score`] by the logits of `model`, in this model's tokens.
    pub(crate) fn score_by(&self, model: &impl NextToken, requests: &[ScoreRequest]) -> Result<Vec<Result<Score>>> {
        let mut contexts: BTreeMap<&Prompt, Vec<u32>> = BTreeMap::new();
        let tokens = requests.iter().map(|request| {
            let context = match contexts.get(&request.context) {
                Some(ids) => ids.clone(),
                None => contexts.entry(&request.context).or_insert(self.encode_prompt(&request.context)?).clone(),
            };
            let request = TokenRequest { context, continuation: self.tokenizer.encode(&request.continuation)? };
            scoring::check(model, &request)?;
            Ok(request)
        });
        answer_each(tokens.collect(), |tokens| scoring::score(model, tokens))
    }

    fn complete(
        &self,
        requests: &[GenerateRequest],
        choice: Choice,
        stream: &mut ChaCha8Rng,
    ) -> Result<Vec<Result<Generation>>> {
        match &self.decoder {
            AnyDecoder::Plain(decoder) => self.generate_by(decoder.as_ref(), requests, choice, stream),
            AnyDecoder::Frozen(decoder) => self.generate_by(decoder.as_ref(), requests, choice, stream),
        }
    }

    /// [`Subject::generate`] by the logits of `model`, in this model's tokens.
    pub(crate) fn generate_by(
        &self,
        model: &impl NextToken,
        requests: &[GenerateRequest],
        choice: Choice,
        stream: &mut ChaCha8Rng,
    ) -> Result<Vec<Result<Generation>>> {
        let prompts = requests.iter().enumerate().map(|(idx, request)| {
            let ids = self.encode_prompt(&request.prompt)?;
            model.config().require_fit("the prompt", ids.len())?;
            model.config().require_known(&ids)?;
            Ok((idx, Prompted { ids, max_new_tokens: request.max_new_tokens }))
        });
        answer_each(prompts.collect(), |prompts| {
            let (places, prompts): (Vec<usize>, Vec<Prompted>) = prompts.iter().cloned().unzip();
            let stop = |idx: usize| requests[places[idx]].stop.as_slice();
            let is_done = |idx: usize, ids: &[u32]| {
                let ended = ids.last().is_some_and(|id| self.stop_ids.contains(id));
                // Text that does not decode has met no stop string; it fails below, where the error can be returned.
                ended || !stop(idx).is_empty() && self.cut(ids, stop(idx)).is_ok_and(|(_, met)| met)
            };
            let completions = generate_until(model, &prompts, choice, stream, is_done)?;
            let finish = |(idx, completion): (usize, Completion)| {
                let (text, _) = self.cut(&completion.ids, stop(idx))?;
                Ok(Generation {
                    text: text.trim().to_owned(),
                    is_complete: completion.is_complete,
                    n_tokens: Some(completion.ids.len()),
                })
            };
            completions.into_iter().enumerate().map(finish).collect()
        })
    }

    fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        self.encode_context(&self.render(prompt)?)
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

/// Greedy completions draw nothing: any stream will do.
pub(crate) fn greedy() -> ChaCha8Rng {
    random::stream(0, "greedy", 0)
}

/// Answers those requests that could be read, together, and hands each of the others its error.
///
/// # Errors
/// The first error of a request that is not about the request alone, or that of `answer`.
pub(crate) fn answer_each<Q, A>(
    requests: Vec<Result<Q>>,
    answer: impl FnOnce(&[Q]) -> Result<Vec<A>>,
) -> Result<Vec<Result<A>>> {
    let mut readable = Vec::with_capacity(requests.len());
    let mut refused = Vec::with_capacity(requests.len());
    for request in requests {
        match request {
            Ok(request) => {
                readable.push(request);
                refused.push(None);
            }
            Err(error) if error.is_about_a_request() => refused.push(Some(error)),
            Err(error) => return Err(error),
        }
    }
    let mut answers = if readable.is_empty() { Vec::new() } else { answer(&readable)? }.into_iter();
    let in_order = refused.into_iter().map(|refusal| match refusal {
        None => Ok(answers.next().expect("one answer per request")),
        Some(error) => Err(error),
    });
    Ok(in_order.collect())
}

fn logits_by(model: &impl NextToken, ids: &[u32]) -> Result<Tensor> {
    let mut tokens = Tokens::default();
    tokens.push(0, ids);
    let mut values = Vec::with_capacity(ids.len() * model.config().vocab_size);
    let mut cache = model.new_cache(1, ids.len())?;
    model.read(&mut cache, &tokens, After::Each, |_, logits| values.extend_from_slice(logits))?;
    Ok(Tensor::from_vec(values, (ids.len(), model.config().vocab_size), &Device::Cpu)?)
}

/// The key under which answers of a checkpoint are kept.
pub(crate) fn fingerprint(checkpoint: &Checkpoint) -> Result<String> {
    Ok(plain_fingerprint(checkpoint.content_hash()?, &checkpoint.config, &checkpoint.tokenizer))
}

fn plain_fingerprint(mut content_hash: String, config: &ModelConfig, tokenizer: &Tokenizer) -> String {
    content_hash.push_str(&config.to_json("LlamaForCausalLM"));
    let mut hasher = Sha256::new();
    hasher.update(content_hash);
    put_tokenizer(&mut hasher, tokenizer);
    hexadecimal(&hasher.finalize())
}

/// The key of a model that consists of `texts` and a tokenizer.
fn fingerprint_of(texts: &[&str], tokenizer: &Tokenizer) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        put(&mut hasher, text);
    }
    put_tokenizer(&mut hasher, tokenizer);
    hexadecimal(&hasher.finalize())
}

fn put_tokenizer(hasher: &mut Sha256, tokenizer: &Tokenizer) {
    for (name, text) in tokenizer.files() {
        put(hasher, name);
        put(hasher, text);
    }
}

/// Lengths before each part keep the parts apart.
fn put(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(text);
}

/// The token that stands behind an answer in a conversation, where it ends one; otherwise the tokenizer's own.
fn find_end_of_turn(tokenizer: &Tokenizer, stop_ids: &[u32]) -> Result<Option<String>> {
    const ANSWER: &str = "Lund";
    let turns = [(Role::User, "Where?"), (Role::Assistant, ANSWER)];
    let messages = turns.map(|(role, content)| Message { role, content: content.to_owned() });
    // A template may refuse even this; then nothing is known of it.
    let rendered = tokenizer.template().and_then(|template| template.render(&messages, Opening::None).ok());
    if let Some((_, rest)) = rendered.as_deref().and_then(|text| text.rsplit_once(ANSWER)) {
        for &id in stop_ids {
            let token = tokenizer.decode_all(&[id])?;
            if !token.is_empty() && rest.trim_start().starts_with(&token) {
                return Ok(Some(token));
            }
        }
    }
    tokenizer.eos_id().map(|id| tokenizer.decode_all(&[id])).transpose()
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::Error;
    use crate::checkpoint::Checkpoint;
    use crate::config::ModelConfig;
    use crate::decoder::tests::{lively, tiny_config};
    use crate::model::LoadedModel;
    use crate::subject::{GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
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
        let requests = pairs
            .map(|(&context, &it)| ScoreRequest { context: Prompt::Text(context.into()), continuation: it.into() });
        requests.collect()
    }

    /// What a subject makes of [`score_requests`].
    pub(crate) fn scores(subject: &dyn Subject) -> Vec<Score> {
        subject.score(&score_requests()).unwrap().into_iter().map(Result::unwrap).collect()
    }

    /// What a subject makes of [`generate_requests`].
    pub(crate) fn generations(subject: &dyn Subject) -> Vec<Generation> {
        subject.generate(&generate_requests()).unwrap().into_iter().map(Result::unwrap).collect()
    }

    /// Prompts of several lengths, with stop strings that end some of the answers.
    pub(crate) fn generate_requests() -> Vec<GenerateRequest> {
        let prompts = ["the boat", "", "the bell and the", "<|user|> the bay<|end|><|assistant|>"];
        let stops: [&[&str]; 2] = [&[], &["a", "e", "th"]];
        let requests = prompts.iter().flat_map(|&prompt| {
            stops.map(|stop| GenerateRequest {
                prompt: Prompt::Text(prompt.into()),
                max_new_tokens: 12,
                stop: stop.iter().map(|&text| text.into()).collect(),
            })
        });
        requests.collect()
    }

    #[test]
    fn a_request_that_cannot_be_read_does_not_cost_the_others_their_answer() {
        let model = LoadedModel::new(&tiny_checkpoint(1)).unwrap();
        let long = Prompt::Text("boat ".repeat(200));
        let context = |context: Prompt| ScoreRequest { context, continuation: " lies".into() };
        let scored = model.score(&[context(Prompt::Text("the".into())), context(long.clone())]).unwrap();
        assert!(scored[0].is_ok() && matches!(scored[1], Err(Error::TooLong { .. })));
        let prompt = |prompt: Prompt| GenerateRequest { prompt, max_new_tokens: 4, stop: Vec::new() };
        let answered = model.generate(&[prompt(long), prompt(Prompt::Text("the".into()))]).unwrap();
        assert!(answered[1].is_ok() && matches!(answered[0], Err(Error::TooLong { .. })));
        let alone = model.generate(&[prompt(Prompt::Text("the".into()))]).unwrap().remove(0).unwrap();
        assert_eq!(answered[1].as_ref().unwrap(), &alone);
    }
}
