//! GGUF files against the models that they were made from: `tests/peers/make_gguf.py` wrote both.

use candle_core::Tensor;
use lm::{Error, Message, Opening, Role, gguf};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const MODELS: [&str; 8] = ["gemma2", "gemma3", "llama", "olmo2", "qwen2", "qwen3", "sentencepiece", "smollm3"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

fn expected(model: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file(&format!("{model}.json"))).unwrap()).unwrap()
}

fn read(model: &str) -> lm::ModelParts {
    gguf::read(&file(&format!("{model}.gguf"))).unwrap_or_else(|error| panic!("{model}: {error}"))
}

fn hash(tensor: &Tensor) -> String {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_tensor_has_the_name_the_shape_and_each_value_that_it_had() {
    for model in MODELS {
        let (expected, found) = (expected(model), read(model));
        let expected = expected["tensors"].as_object().unwrap();
        let names: Vec<&str> = found.tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected.keys().map(String::as_str).collect::<Vec<_>>(), "{model}");
        for (name, tensor) in &found.tensors {
            assert_eq!(serde_json::json!(tensor.dims()), expected[name][0], "{model} {name}");
            assert_eq!(hash(tensor), expected[name][1].as_str().unwrap(), "{model} {name}");
        }
    }
}

#[test]
fn the_config_is_the_one_that_the_model_had() {
    for model in MODELS {
        let config: Value = serde_json::from_str(&read(model).config).unwrap();
        for (key, value) in expected(model)["config"].as_object().unwrap() {
            // A key that says nothing may as well be absent.
            let found = config.get(key).unwrap_or(&Value::Null);
            assert_eq!(found, value, "{model} {key}");
        }
    }
}

#[test]
fn texts_get_the_ids_of_the_tokenizer_that_the_model_had() {
    for model in MODELS {
        let (expected, tokenizer) = (expected(model), read(model).tokenizer);
        for pair in expected["ids"].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            assert_eq!(serde_json::json!(tokenizer.encode(text).unwrap()), pair[1], "{model} {text:?}");
        }
        let first = tokenizer.encode_start("the").unwrap()[0];
        let begins = expected["starts_with"].as_u64();
        assert_eq!(begins.map_or(tokenizer.encode("the").unwrap()[0], |id| id as u32), first, "{model}");
        let question = [Message { role: Role::User, content: "Hej".to_owned() }];
        let chat = tokenizer.template().map(|template| template.render(&question, Opening::Assistant).unwrap());
        assert_eq!(chat.as_deref(), expected["chat"].as_str(), "{model}");
    }
}

/// What is said of a file with these bytes.
fn told(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = gguf::read(&path).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("model.gguf"), "{message}");
    message.replace(&path.display().to_string(), "FILE")
}

/// Offset behind a key of the header, where the type of its value stands.
fn behind(bytes: &[u8], key: &str) -> usize {
    bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len()
}

fn replaced(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn a_file_cut_anywhere_is_refused_and_named() {
    let bytes = std::fs::read(file("qwen2.gguf")).unwrap();
    for n in (0..bytes.len()).step_by(389).chain([3, 4, 8, 23, 24]) {
        let message = told(&bytes[..n]);
        assert!(message.starts_with("FILE is not a usable GGUF file: "), "{n}: {message}");
    }
    let message = told(&bytes[..bytes.len() - 64]);
    assert!(message.contains("it is truncated: tensor `"), "{message}");
}

#[test]
fn no_changed_byte_of_the_header_brings_the_reader_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut n_refused = 0;
    for model in ["qwen3.gguf", "gemma2.gguf"] {
        let bytes = std::fs::read(file(model)).unwrap();
        let header = behind(&bytes, "blk.1.");
        for (at, with) in (0..header).step_by(11).zip([0x00, 0xff, 0x80, 0x01, 0x7f, 0x20].into_iter().cycle()) {
            std::fs::write(&path, replaced(&bytes, at, &[with])).unwrap();
            if let Err(error) = gguf::read(&path) {
                n_refused += 1;
                // A template is compiled without its file, a tensor that is missing is the decoder's affair.
                let names_file = error.to_string().contains("model.gguf");
                assert!(names_file || matches!(error, Error::BadChatTemplate { .. }), "{model} {at}: {error}");
            }
        }
    }
    assert!(n_refused > 80, "{n_refused}");
}

#[test]
fn absurd_counts_and_offsets_are_refused_before_memory_is_asked_for() {
    let bytes = std::fs::read(file("qwen3.gguf")).unwrap();
    let huge = u64::MAX.to_le_bytes();
    for (what, at, with, named) in [
        ("tensors", 8, &huge[..], "its header: gguf: tensor_count"),
        ("keys", 16, &huge[..], "its header: gguf: metadata_kv_count"),
        (
            "layers",
            behind(&bytes, "qwen3.block_count") + 4,
            &huge[..4],
            "`qwen3.block_count = 4294967295` is not supported",
        ),
        ("heads", behind(&bytes, "qwen3.attention.head_count_kv") + 4, &[0; 4], "`qwen3.attention.head_count_kv = 0`"),
        ("tokens", behind(&bytes, "tokenizer.ggml.tokens") + 8, &huge[..], "its header: gguf: array length"),
        (
            "eos",
            behind(&bytes, "tokenizer.ggml.eos_token_id") + 4,
            &huge[..4],
            "`tokenizer.ggml.eos_token_id = 4294967295` is not supported, the vocabulary has 74 tokens",
        ),
        ("rows", behind(&bytes, "token_embd.weight") + 4, &huge[..], "tensor `token_embd.weight`"),
        // 2^32 x 2^32 values: their number does not fit a word.
        (
            "product",
            behind(&bytes, "token_embd.weight") + 4,
            &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            "token_embd",
        ),
        (
            "dimensions",
            behind(&bytes, "token_embd.weight"),
            &huge[..4],
            "its header: gguf: tensor 'token_embd.weight' has",
        ),
        ("type", behind(&bytes, "token_embd.weight") + 20, &[20], "its header: unknown dtype for tensor 20"),
        ("offset", behind(&bytes, "token_embd.weight") + 24, &huge[..], "tensor `token_embd.weight`"),
        ("version", 4, &[9], "its header: gguf: unsupported magic/version"),
        ("magic", 0, b"GGML", "it does not begin with `GGUF`"),
    ] {
        let message = told(&replaced(&bytes, at, with));
        assert!(message.contains(named), "{what}: {message}");
    }
}

#[test]
fn an_alignment_of_zero_is_refused() {
    let bytes = std::fs::read(file("qwen3.gguf")).unwrap();
    // A key of the same length stands for it.
    let at = bytes.windows(17).position(|window| window == b"qwen3.block_count").unwrap();
    let zero = [b"general.alignment".as_slice(), &[4, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(
        told(&replaced(&bytes, at, &zero)),
        "FILE is not a usable GGUF file: `general.alignment = 0`, it must be positive"
    );
}

#[test]
fn what_is_not_known_is_refused_by_its_name() {
    let bytes = std::fs::read(file("qwen3.gguf")).unwrap();
    let architecture = replaced(&bytes, behind(&bytes, "general.architecture") + 12, b"mamba");
    assert!(told(&architecture).contains("`general.architecture = mamba` is not supported, known are llama, qwen2"));
    let pre = replaced(&bytes, behind(&bytes, "tokenizer.ggml.pre") + 12, b"qwens");
    assert!(told(&pre).contains("`tokenizer.ggml.pre = qwens` is not supported, known are gpt-2"));
    let model = replaced(&bytes, behind(&bytes, "tokenizer.ggml.model") + 12, b"bert");
    assert!(told(&model).contains("`tokenizer.ggml.model = bert` is not supported, only `gpt2` and `llama`"));
    let tensor = replaced(&bytes, behind(&bytes, "blk.0.attn_"), b"x");
    assert!(told(&tensor).contains("has no place in a model of `qwen3`"));
    let key = replaced(&bytes, behind(&bytes, "qwen3.context_lengt"), b"x");
    assert_eq!(told(&key), "FILE: key `qwen3.context_length` is missing");
}

#[test]
fn other_divisors_of_the_rotary_frequencies_than_llamas_are_refused() {
    let bytes = std::fs::read(file("llama.gguf")).unwrap();
    let at = behind(&bytes, "llama.rope.freq_base") + 4;
    let message = told(&replaced(&bytes, at, &1e4_f32.to_le_bytes()));
    assert!(message.contains("only the factors of Llama 3.1's scaling"), "{message}");
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_the_system() {
    let missing = Path::new("no/such/model.gguf");
    assert!(!gguf::is_gguf(missing) && gguf::is_gguf(&file("llama.gguf")));
    assert!(matches!(gguf::read(missing), Err(Error::Io { .. })));
}
