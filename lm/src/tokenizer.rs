//! Text to token ids and back, in Hugging Face's `tokenizer.json` and `tokenizer_config.json`.

use crate::bpe::learn_merges;
use crate::chat::{ChatTemplate, TEMPLATE};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Begins a document.
pub const BOS: &str = "<|bos|>";
/// Fills up a batch.
pub const PAD: &str = "<|pad|>";
/// Ends a turn.
pub const END: &str = "<|end|>";
/// The special tokens of a tokenizer trained here, ids 0 to 5.
pub const SPECIAL_TOKENS: [&str; 6] = [BOS, PAD, "<|system|>", "<|user|>", "<|assistant|>", END];

pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// A tokenizer with its special tokens and its chat template.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The files as read or made, byte for byte.
    files: BTreeMap<&'static str, String>,
    template: Option<ChatTemplate>,
    vocab_size: usize,
    text_vocab_size: usize,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    pad_id: Option<u32>,
    starts_with_bos: bool,
}

impl Tokenizer {
    /// Trains a byte-level BPE tokenizer; the same texts give the same files, byte for byte.
    ///
    /// The vocabulary holds the special tokens, the 256 bytes and the merges; it stays below `vocab_size` where the texts have
    /// nothing left to merge. `model_max_length` is written down for other libraries. Nothing is put before or after a text.
    ///
    /// # Errors
    /// [`Error::CannotTrainTokenizer`] where `vocab_size` has no room for special tokens and bytes.
    pub fn train<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        vocab_size: usize,
        model_max_length: usize,
    ) -> Result<Self> {
        let mut symbols: Vec<String> = SPECIAL_TOKENS.map(String::from).to_vec();
        symbols.extend(byte_symbols());
        if vocab_size < symbols.len() {
            let reason = format!("special tokens and bytes alone are {}", symbols.len());
            return Err(Error::CannotTrainTokenizer { vocab_size, reason });
        }
        let words = count_words(texts).map_err(|reason| Error::CannotTrainTokenizer { vocab_size, reason })?;
        let merges = learn_merges(&words, &mut symbols, vocab_size);
        let vocab: Map<String, Value> = symbols.into_iter().zip(0_u32..).map(|(text, id)| (text, json!(id))).collect();
        let added: Vec<Value> = SPECIAL_TOKENS.iter().enumerate().map(|(id, text)| added_token(id, text)).collect();
        let byte_level =
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": null,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": merges,
            },
        });
        let config = json!({
            "add_prefix_space": false,
            "additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"],
            "bos_token": BOS,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": false,
            "eos_token": END,
            "model_max_length": model_max_length,
            "pad_token": PAD,
            // Read by this crate alone: documents begin with the token above, though no post-processor puts it there.
            STARTS_WITH_BOS: true,
            "tokenizer_class": "PreTrainedTokenizerFast",
        });
        let files = BTreeMap::from([(TOKENIZER_FILE, print(&tokenizer)), (CONFIG_FILE, print(&config))]);
        Self::from_files(files, Path::new("."))
    }

    /// Reads `tokenizer.json`, and beside it, where present, `tokenizer_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// Where `tokenizer.json` is absent or one of them cannot be used.
    pub fn load(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in [TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE] {
            let path = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    files.insert(name, text);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
        }
        Self::from_files(files, folder)
    }

    /// Writes the files into a folder that exists, byte for byte as they were read or made.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        for (name, text) in &self.files {
            let path = folder.join(name);
            let partial = folder.join(format!(".{name}.partial"));
            std::fs::write(&partial, text).map_err(Error::io("write", &partial))?;
            std::fs::rename(&partial, &path).map_err(Error::io("rename to", &path))?;
        }
        Ok(())
    }

    /// Reads the texts of `tokenizer.json` and, where given, `tokenizer_config.json` and `chat_template.jinja`, by name; `folder` is
    /// named in errors.
    ///
    /// # Errors
    /// Where `tokenizer.json` is absent or one of them cannot be used.
    pub fn from_files(files: BTreeMap<&'static str, String>, folder: &Path) -> Result<Self> {
        let Some(text) = files.get(TOKENIZER_FILE) else {
            return Err(Error::MissingFile { folder: folder.to_owned(), name: TOKENIZER_FILE });
        };
        let path = folder.join(TOKENIZER_FILE);
        let unusable = |reason: String| Error::BadTokenizer { path: path.clone(), reason };
        let mut inner = tokenizers::Tokenizer::from_bytes(text).map_err(|error| unusable(error.to_string()))?;
        // Lengths are this crate's own affair: a limit left over from training would cut prompts in silence.
        inner.with_truncation(None).map_err(|error| unusable(error.to_string()))?;
        inner.with_padding(None);
        let config: Map<String, Value> = match files.get(CONFIG_FILE) {
            Some(text) => serde_json::from_str(text)
                .map_err(|source| Error::BadJson { path: folder.join(CONFIG_FILE), source })?,
            None => Map::new(),
        };
        let special = |key: &str| {
            // Written as a string, or as an object with the string in `content`.
            let value = config.get(key)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        let tokens: BTreeMap<&'static str, String> = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .into_iter()
            .filter_map(|key| Some((key, special(key)?)))
            .collect();
        let id = |key: &str| inner.token_to_id(tokens.get(key)?);
        let (bos_id, eos_id, pad_id) = (id("bos_token"), id("eos_token"), id("pad_token"));
        let source = files.get(TEMPLATE_FILE).cloned().or_else(|| default_template(config.get("chat_template")?));
        let template = source.map(|source| ChatTemplate::new(&source, &tokens)).transpose()?;
        let puts_bos = || {
            let encoding = inner.encode_fast("a", true).ok()?;
            Some(bos_id.is_some() && encoding.get_ids().first().copied() == bos_id)
        };
        let says = |key: &str| config.get(key).and_then(Value::as_bool);
        let starts_with_bos = says(STARTS_WITH_BOS).or(says("add_bos_token")).or_else(puts_bos).unwrap_or(false);
        let size = |with_added: bool| inner.get_vocab(with_added).values().max().map_or(0, |&id| id as usize + 1);
        let (vocab_size, text_vocab_size) = (size(true), size(false));
        Ok(Self { inner, files, template, vocab_size, text_vocab_size, bos_id, eos_id, pad_id, starts_with_bos })
    }

    /// Token ids of a text, exactly as given; special tokens written out are parsed.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| refusal(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text, each with the bytes of the text that it covers.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(|error| refusal(&error))?;
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(start, end))| (id, start..end)).collect())
    }

    /// Token ids of a text that begins a sequence: as [`Tokenizer::encode`], with the beginning-of-sequence token before it where
    /// this tokenizer's sequences begin with one and the text does not.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        if let Some(bos) = self.bos_id.filter(|bos| self.starts_with_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Text of token ids, without special tokens.
    ///
    /// # Errors
    /// Where the tokenizer refuses the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| refusal(&error))
    }

    /// Text of token ids, special tokens written out.
    ///
    /// # Errors
    /// Where the tokenizer refuses the ids.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|error| refusal(&error))
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// One more than the highest id that text is made of, tokens that were added to it left out.
    pub fn text_vocab_size(&self) -> usize {
        self.text_vocab_size
    }

    /// Id of a token's text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Token that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Token that ends a turn.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Token that fills up a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// The chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Names and texts of the files that make up this tokenizer.
    pub fn files(&self) -> &BTreeMap<&'static str, String> {
        &self.files
    }
}

const STARTS_WITH_BOS: &str = "starts_with_bos";

fn refusal(error: &tokenizers::Error) -> Error {
    Error::Tokenize { reason: error.to_string() }
}

fn print(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value prints");
    text.push('\n');
    text
}

fn added_token(id: usize, text: &str) -> Value {
    json!({
        "id": id,
        "content": text,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    })
}

/// A template is written as a string, or as a list of named ones of which `default` counts.
fn default_template(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?.iter().find(|entry| entry["name"] == "default")?;
    named["template"].as_str().map(str::to_owned)
}

/// The printable stand-ins of the 256 bytes, in the order of their code points.
fn byte_symbols() -> Vec<String> {
    let mut symbols: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    symbols.sort_unstable();
    symbols.into_iter().map(String::from).collect()
}

/// Words as the byte-level pre-tokenizer splits them, with their counts. Special tokens written out belong to no word.
fn count_words<'a>(texts: impl IntoIterator<Item = &'a str>) -> std::result::Result<BTreeMap<String, u64>, String> {
    let splitter = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, true);
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        for piece in split_at_special_tokens(text) {
            let mut piece = PreTokenizedString::from(piece);
            splitter.pre_tokenize(&mut piece).map_err(|error| error.to_string())?;
            for (word, _, _) in piece.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                match words.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        words.insert(word.to_owned(), 1);
                    }
                }
            }
        }
    }
    Ok(words)
}

fn split_at_special_tokens(text: &str) -> Vec<&str> {
    SPECIAL_TOKENS.iter().fold(vec![text], |pieces, token| {
        pieces.into_iter().flat_map(|piece| piece.split(token)).filter(|piece| !piece.is_empty()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::{BOS, Tokenizer};
    use serde_json::{Value, json};
    use std::path::Path;

    /// A tokenizer with keys of its config and its post-processor replaced.
    fn tokenizer(config: &Value, post_processor: Value) -> Tokenizer {
        let mut files = Tokenizer::train(["the boat and the bell"], 264, 64).unwrap().files().clone();
        let mut own: Value = serde_json::from_str(&files["tokenizer_config.json"]).unwrap();
        own.as_object_mut().unwrap().remove("starts_with_bos");
        for (key, value) in config.as_object().unwrap() {
            own[key] = value.clone();
        }
        let mut parsed: Value = serde_json::from_str(&files["tokenizer.json"]).unwrap();
        parsed["post_processor"] = post_processor;
        files.insert("tokenizer_config.json", own.to_string());
        files.insert("tokenizer.json", parsed.to_string());
        Tokenizer::from_files(files, Path::new(".")).unwrap()
    }

    /// As Llama 3, Gemma and Mistral have it.
    fn bos_first() -> Value {
        json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": BOS, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { BOS: { "id": BOS, "ids": [0], "tokens": [BOS] } },
        })
    }

    #[test]
    fn a_sequence_begins_as_the_family_s_do_and_once() {
        let llama3 = json!({ "type": "Sequence", "processors": [
            { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true }, bos_first(),
        ] });
        for (what, config, post_processor, begins) in [
            ("Llama 3", json!({}), llama3, true),
            ("Gemma", json!({ "add_bos_token": true }), bos_first(), true),
            ("Mistral, flag alone", json!({ "add_bos_token": true }), Value::Null, true),
            ("a flag that says no", json!({ "add_bos_token": false }), bos_first(), false),
            ("SmolLM2", json!({}), Value::Null, false),
            ("Qwen", json!({ "add_bos_token": false, "bos_token": null }), Value::Null, false),
            ("no token to begin with", json!({ "add_bos_token": true, "bos_token": null }), Value::Null, false),
        ] {
            let tokenizer = tokenizer(&config, post_processor);
            let text = "the boat";
            let ids = tokenizer.encode_start(text).unwrap();
            assert_eq!(ids.first() == Some(&0), begins, "{what}");
            assert_eq!(ids[usize::from(begins)..], tokenizer.encode(text).unwrap(), "{what}");
            // A chat template writes it out; it stands there once.
            let written = tokenizer.encode_start(&format!("{BOS}{text}")).unwrap();
            assert_eq!(written.iter().filter(|&&id| id == 0).count(), 1, "{what}");
            assert_eq!(written[1..], tokenizer.encode(text).unwrap(), "{what}");
            assert_eq!(tokenizer.encode(&format!("{BOS}{text}")).unwrap(), written, "{what}");
        }
    }

    #[test]
    fn added_tokens_are_no_text() {
        let tokenizer = tokenizer(&json!({}), Value::Null);
        assert_eq!(tokenizer.vocab_size(), tokenizer.text_vocab_size());
        let mut files = tokenizer.files().clone();
        let mut parsed: Value = serde_json::from_str(&files["tokenizer.json"]).unwrap();
        let mut added = parsed["added_tokens"][0].clone();
        (added["id"], added["content"]) = (json!(tokenizer.vocab_size()), json!("<image>"));
        parsed["added_tokens"].as_array_mut().unwrap().push(added);
        files.insert("tokenizer.json", parsed.to_string());
        let with_image = Tokenizer::from_files(files, Path::new(".")).unwrap();
        assert_eq!(with_image.vocab_size(), tokenizer.vocab_size() + 1);
        assert_eq!(with_image.text_vocab_size(), tokenizer.text_vocab_size());
    }
}
