//! `tokenizer.json` and `tokenizer_config.json`, from the vocabulary in a GGUF file's metadata.
//!
//! # Deviations
//! Token ids are those of the tokenizer that the model was published with, where transformers 5.24 builds another from the same
//! file: `smollm` splits digits apart, Qwen2's text is composed (NFC), Llama 3's whole words need no merges, Llama 2's texts get
//! their space in front whatever they begin with, and added tokens of a byte-level vocabulary are matched whatever characters
//! they are written in.

use super::layout::Family;
use super::metadata::{Metadata, missing};
use crate::Result;
use crate::tokenizer::{CONFIG_FILE, TOKENIZER_FILE, Tokenizer};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// A token's kind that is matched as written and left out of decoded text.
pub(super) const CONTROL: u64 = 3;
/// A token's kind that is matched as written.
const USER_DEFINED: u64 = 4;
/// In a vocabulary without merges no token is longer, in bytes; finding merges takes time with the square of it.
const LONGEST_TOKEN: usize = 512;

/// The parts of a `tokenizer.json` in which vocabularies differ.
struct Parts {
    vocab: Map<String, Value>,
    merges: Vec<(String, String)>,
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// Whether texts begin with the beginning-of-sequence token where the file does not say.
    starts_with_bos: bool,
}

/// Builds the tokenizer that the file describes.
pub(super) fn tokenizer(metadata: &Metadata, family: Family, max_length: usize) -> Result<Tokenizer> {
    let tokens = required(metadata.texts(TOKENS)?, metadata, TOKENS)?;
    let kind = required(metadata.text(MODEL)?, metadata, MODEL)?;
    let parts = match kind {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentencepiece(metadata, &tokens, family)?,
        other => return Err(metadata.refuse(MODEL, other, "only `gpt2` and `llama`")),
    };
    let mut special = BTreeMap::new();
    for (name, key) in SPECIAL {
        let Some(id) = metadata.id(key)? else { continue };
        if tokens.len() <= id as usize {
            return Err(metadata.refuse(key, id, format!("the vocabulary has {} tokens", tokens.len())));
        }
        special.insert(name, id);
    }
    let text_of = |name: &str| special.get(name).map(|&id| tokens[id as usize]);
    let add_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(parts.starts_with_bos);
    let add_eos = metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let first = text_of("bos_token").filter(|_| add_bos);
    let last = text_of("eos_token").filter(|_| add_eos);

    let kinds = metadata.wholes("tokenizer.ggml.token_type")?.unwrap_or_default();
    let mut added = Vec::new();
    for (id, &token) in (0..).zip(&tokens) {
        let kind = kinds.get(id as usize).copied();
        let is_special = kind == Some(CONTROL) || special.values().any(|&it| it == id);
        // A token that the vocabulary spells otherwise is no token of the text.
        let is_added = is_special || kind == Some(USER_DEFINED);
        if is_added && !token.is_empty() && parts.vocab.get(token).is_some_and(|own| *own == id) {
            added.push(added_token(id, token, is_special));
        }
    }
    let mut model = parts.model;
    model["vocab"] = Value::Object(parts.vocab);
    model["merges"] = json!(parts.merges);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": surround(first.zip(special.get("bos_token")), last.zip(special.get("eos_token"))),
        "decoder": parts.decoder,
        "model": model,
    });
    let mut config = json!({
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    for (name, _) in SPECIAL {
        if let Some(token) = text_of(name).filter(|_| name.ends_with("_token")) {
            config[name] = json!(token);
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        config["chat_template"] = json!(template);
    }
    let files = BTreeMap::from([(TOKENIZER_FILE, tokenizer.to_string()), (CONFIG_FILE, format!("{config:#}\n"))]);
    Tokenizer::from_files(files, metadata.path)
}

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";

/// Names in `tokenizer_config.json` and keys; the last two have no name there.
const SPECIAL: [(&str, &str); 6] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("end of turn", "tokenizer.ggml.eot_token_id"),
    ("end of message", "tokenizer.ggml.eom_token_id"),
];

fn required<T>(value: Option<T>, metadata: &Metadata, key: &str) -> Result<T> {
    value.ok_or_else(|| missing(metadata.path, key))
}

fn added_token(id: u32, text: &str, special: bool) -> Value {
    json!({
        "id": id,
        "content": text,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": special,
    })
}

/// The tokens before and after each text.
fn surround(first: Option<(&str, &u32)>, last: Option<(&str, &u32)>) -> Value {
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let around = |sequence: &str, type_id: u32| {
        let token = |(text, _): (&str, &u32)| json!({ "SpecialToken": { "id": text, "type_id": type_id } });
        let text = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        first.map(token).into_iter().chain([text]).chain(last.map(token)).collect::<Vec<Value>>()
    };
    let describe = |(text, id): (&str, &u32)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    let tokens: Map<String, Value> = first.into_iter().chain(last).map(describe).collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({ "type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens })
}

fn numbered<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    tokens.into_iter().zip(0_u32..).map(|(token, id)| (token.to_owned(), json!(id))).collect()
}

/// A byte-level BPE vocabulary; `tokenizer.ggml.pre` says how text is split before merging.
fn byte_level(metadata: &Metadata, tokens: &[&str]) -> Result<Parts> {
    let pre = required(metadata.text(PRE)?, metadata, PRE)?;
    let Some(split) = SPLITS.iter().find(|split| split.names.contains(&pre)) else {
        let known: Vec<&str> = SPLITS.iter().flat_map(|split| split.names).copied().collect();
        return Err(metadata.refuse(PRE, pre, format!("known are {}", known.join(", "))));
    };
    let merges = required(metadata.texts(MERGES)?, metadata, MERGES)?;
    let pre_tokenizer = match split.words {
        Words::Gpt2 { digits_apart } => {
            let byte_level =
                json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
            let digits = json!({ "type": "Digits", "individual_digits": true });
            if digits_apart { sequence("pretokenizers", [digits, byte_level]) } else { byte_level }
        }
        Words::Pattern(pattern) => {
            let pattern =
                json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
            let byte_level =
                json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
            sequence("pretokenizers", [pattern, byte_level])
        }
    };
    Ok(Parts {
        vocab: numbered(tokens.iter().copied()),
        merges: pairs(metadata, &merges)?,
        model: bpe(split.ignore_merges),
        normalizer: if split.normalizes { json!({ "type": "NFC" }) } else { Value::Null },
        pre_tokenizer,
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        starts_with_bos: split.starts_with_bos,
    })
}

/// How a byte-level vocabulary splits text, under llama.cpp's names for it.
struct Split {
    names: &'static [&'static str],
    words: Words,
    /// Whether text is composed first (NFC).
    normalizes: bool,
    /// Whether a word that is a token is taken whole, however it would merge.
    ignore_merges: bool,
    starts_with_bos: bool,
}

enum Words {
    /// GPT-2's pattern, built into the byte-level pre-tokenizer, with each digit a word or not.
    Gpt2 { digits_apart: bool },
    /// A pattern of its own.
    Pattern(&'static str),
}

const PLAIN: Split = Split {
    names: &["gpt-2", "gpt2", "olmo", "default"],
    words: Words::Gpt2 { digits_apart: false },
    normalizes: false,
    ignore_merges: false,
    starts_with_bos: false,
};

/// As in the `tokenizer.json` of the models for which llama.cpp has these names (`src/llama-vocab.cpp`).
const SPLITS: [Split; 7] = [
    PLAIN,
    Split { names: &["smollm", "starcoder", "refact"], words: Words::Gpt2 { digits_apart: true }, ..PLAIN },
    Split {
        names: &["llama-bpe", "llama3", "llama-v3"],
        words: Words::Pattern(LLAMA3),
        ignore_merges: true,
        starts_with_bos: true,
        ..PLAIN
    },
    // Llama 3's vocabulary in models that do not begin with a token of their own, SmolLM3 among them.
    Split { names: &["smaug-bpe"], words: Words::Pattern(LLAMA3), ignore_merges: true, ..PLAIN },
    Split { names: &["dbrx"], words: Words::Pattern(LLAMA3), ..PLAIN },
    Split { names: &["qwen2"], words: Words::Pattern(QWEN2), normalizes: true, ..PLAIN },
    Split { names: &["tekken"], words: Words::Pattern(TEKKEN), ignore_merges: true, starts_with_bos: true, ..PLAIN },
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A `SentencePiece` vocabulary, as BPE with byte fallback.
fn sentencepiece(metadata: &Metadata, tokens: &[&str], family: Family) -> Result<Parts> {
    // Gemma's runs of spaces are stored as they decode; text is split with the mark that stands for a space.
    let spelled = |token: &&str| {
        let is_spaces = token.contains(' ') && token.trim().is_empty();
        if family.is_gemma() && is_spaces { MARK.repeat(token.chars().count()) } else { (*token).to_owned() }
    };
    let tokens: Vec<String> = tokens.iter().map(spelled).collect();
    let merges = if let Some(merges) = metadata.texts(MERGES)? {
        pairs(metadata, &merges)?
    } else {
        // Gemma's scores do not follow the order of its merges, the order of its tokens does.
        let scores = if family.is_gemma() {
            (0..tokens.len()).map(|id| -(id as f64)).collect()
        } else {
            required(metadata.numbers("tokenizer.ggml.scores")?, metadata, "tokenizer.ggml.scores")?
        };
        implied_merges(metadata, &tokens, &scores)?
    };
    let unknown = metadata.id("tokenizer.ggml.unknown_token_id")?.and_then(|id| tokens.get(id as usize));
    let has_prefix = !family.is_gemma() && metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let mut decoders = vec![replace(MARK, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if has_prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let marked = replace(" ", MARK);
    let normalizer = if has_prefix {
        sequence("normalizers", [json!({ "type": "Prepend", "prepend": MARK }), marked])
    } else {
        marked
    };
    // Published so; it splits nothing, as the text has no spaces left.
    let words = json!({
        "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false,
    });
    let mut model = bpe(false);
    // What is no token is written in bytes; `unknown` stands for what lacks even these.
    model["byte_fallback"] = json!(true);
    model["fuse_unk"] = json!(true);
    model["unk_token"] = json!(unknown);
    Ok(Parts {
        vocab: numbered(tokens.iter().map(String::as_str)),
        merges,
        model,
        normalizer,
        pre_tokenizer: if family.is_gemma() { words } else { Value::Null },
        decoder: sequence("decoders", decoders),
        starts_with_bos: true,
    })
}

/// Stands for a space in `SentencePiece`'s tokens.
const MARK: &str = "\u{2581}";

/// The merges that make each token out of two others, best score first, as transformers' `generate_merges` lists them.
fn implied_merges(metadata: &Metadata, tokens: &[String], scores: &[f64]) -> Result<Vec<(String, String)>> {
    if scores.len() != tokens.len() {
        let shown = format!("[{} values]", scores.len());
        return Err(metadata.refuse("tokenizer.ggml.scores", shown, format!("there are {} tokens", tokens.len())));
    }
    if let Some(id) = tokens.iter().position(|token| token.len() > LONGEST_TOKEN) {
        let supported = format!("at most {LONGEST_TOKEN} bytes long");
        return Err(metadata.refuse(TOKENS, format!("token {id}, {} bytes long", tokens[id].len()), supported));
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, token)| ids[token.as_str()] == *id) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut of_token: Vec<(&str, &str)> =
            cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right)).collect();
        of_token.sort_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(of_token.into_iter().map(|(left, right)| (scores[id], left, right)));
    }
    // Stable: equal ones stay in the order of the vocabulary.
    let lengths = |left: &str, right: &str| Reverse((left.chars().count(), right.chars().count()));
    merges.sort_by(|(score, left, right), (other, other_left, other_right)| {
        other.total_cmp(score).then_with(|| lengths(left, right).cmp(&lengths(other_left, other_right)))
    });
    Ok(merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect())
}

/// Merges as stored: two tokens with a space between.
fn pairs(metadata: &Metadata, merges: &[&str]) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::with_capacity(merges.len());
    for &merge in merges {
        match merge.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => pairs.push((left.to_owned(), right.to_owned())),
            _ => {
                return Err(metadata.refuse(
                    MERGES,
                    format!("{merge:?}"),
                    "a merge is two tokens with a space between",
                ));
            }
        }
    }
    Ok(pairs)
}

/// A BPE model without vocabulary and merges.
fn bpe(ignore_merges: bool) -> Value {
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": ignore_merges,
        "vocab": {},
        "merges": [],
    })
}

fn sequence(name: &str, parts: impl IntoIterator<Item = Value>) -> Value {
    json!({ "type": "Sequence", name: parts.into_iter().collect::<Vec<_>>() })
}
