//! Writes down what a checkpoint makes of given texts, to be compared with another implementation by
//! `tests/peers/transformers_parity.py`.
//!
//! `dump_logits CHECKPOINT TEXTS.jsonl OUT`: each line of `TEXTS.jsonl` is `{"text": "..."}` or
//! `{"messages": [...], "opening": true}`. In the folder OUT, `texts.jsonl` gets the rendered text and the token ids of each
//! line, `logits.safetensors` a tensor named after the number of the line, from 0: (T, V), or (1) for a reward model.

use candle_core::Tensor;
use lm::checkpoint::SCORE_WEIGHT;
use lm::{Batch, Checkpoint, Decoder, Error, LoadedModel, Message, Opening, Tokenizer, tensors};
use serde::Deserialize;
use serde_json::json;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, texts, out] = arguments.as_slice() else {
        return Err("usage: dump_logits CHECKPOINT TEXTS.jsonl OUT".into());
    };
    let model = Model::load(folder)?;
    let (mut lines, mut logits) = (String::new(), Vec::new());
    for (idx, line) in std::fs::read_to_string(texts)?.lines().enumerate() {
        let rendered = render(model.tokenizer(), serde_json::from_str(line)?)?;
        let ids = model.tokenizer().encode(&rendered)?;
        let of_text = match &model {
            Model::Language(model) => model.logits(&ids)?,
            Model::Reward { decoder, head, .. } => score(decoder, head, &ids)?,
        };
        lines.push_str(&json!({ "rendered": rendered, "ids": ids }).to_string());
        lines.push('\n');
        logits.push((idx.to_string(), of_text));
    }
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("texts.jsonl"), lines)?;
    tensors::write_file(&out.join("logits.safetensors"), logits.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    Ok(())
}

enum Model {
    Language(Box<LoadedModel>),
    Reward { decoder: Box<Decoder>, head: Tensor, tokenizer: Box<Tokenizer> },
}

impl Model {
    fn load(folder: &Path) -> lm::Result<Self> {
        let Ok(checkpoint) = Checkpoint::load_with(folder, &[SCORE_WEIGHT]) else {
            return Ok(Self::Language(Box::new(LoadedModel::load(folder)?)));
        };
        let head = checkpoint.extra(SCORE_WEIGHT).cloned().expect("it was asked for");
        let decoder = Box::new(Decoder::new(&checkpoint.config, &checkpoint.weights)?);
        Ok(Self::Reward { decoder, head, tokenizer: Box::new(checkpoint.tokenizer) })
    }

    fn tokenizer(&self) -> &Tokenizer {
        match self {
            Self::Language(model) => model.tokenizer(),
            Self::Reward { tokenizer, .. } => tokenizer,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    text: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    opening: bool,
}

fn render(tokenizer: &Tokenizer, line: Line) -> Result<String, Box<dyn std::error::Error>> {
    match line {
        Line { text: Some(text), messages: None, .. } => Ok(text),
        Line { text: None, messages: Some(messages), opening } => {
            let template = tokenizer.template().ok_or(Error::NoChatTemplate)?;
            Ok(template.render(&messages, if opening { Opening::Assistant } else { Opening::None })?)
        }
        _ => Err("a line has either `text` or `messages`".into()),
    }
}

/// The reward of a whole conversation, read at its last token.
fn score(decoder: &Decoder, head: &Tensor, ids: &[u32]) -> lm::Result<Tensor> {
    let hidden = decoder.forward(&Batch::pad(&[ids])?)?; // (1, T, d)
    let last = hidden.narrow(1, ids.len() - 1, 1)?;
    Ok(kernels::linear(&last, head)?.flatten_all()?)
}
