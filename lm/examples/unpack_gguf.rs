//! Writes a GGUF file down as the Hugging Face folder that it was made from, and what its tokenizer makes of given texts, to be
//! compared with another implementation by `tests/peers/gguf_parity.py`.
//!
//! `unpack_gguf FILE OUT [TEXTS.jsonl]`: each line of `TEXTS.jsonl` is a JSON string; the token ids of each go to `OUT/ids.jsonl`.

use lm::{gguf, tensors};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (file, out, texts) = match arguments.as_slice() {
        [file, out] => (file, out, None),
        [file, out, texts] => (file, out, Some(texts)),
        _ => return Err("usage: unpack_gguf FILE OUT [TEXTS.jsonl]".into()),
    };
    let unpacked = gguf::read(file)?;
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("config.json"), &unpacked.config)?;
    unpacked.tokenizer.save(out)?;
    let named = unpacked.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    tensors::write_file(&out.join("model.safetensors"), named)?;
    let mut lines = String::new();
    for line in texts.map(std::fs::read_to_string).transpose()?.unwrap_or_default().lines() {
        let text: String = serde_json::from_str(line)?;
        let ids = unpacked.tokenizer.encode(&text)?;
        assert!(unpacked.tokenizer.decode_all(&ids).is_ok(), "ids of {text:?} do not decode");
        lines.push_str(&serde_json::to_string(&ids)?);
        lines.push('\n');
    }
    std::fs::write(out.join("ids.jsonl"), lines)?;
    Ok(())
}
