//! Completes prompts greedily, to be compared with transformers by `tests/peers/speed.py`.
//!
//! `generate CHECKPOINT PROMPTS.jsonl OUT.jsonl N_TOKENS`: each line of PROMPTS.jsonl is `{"text": "..."}`. Exactly `N_TOKENS` tokens are
//! added to each, end tokens among them; OUT.jsonl gets their ids, line by line; standard output the seconds for loading and for
//! generating.

use lm::generation::{Choice, Prompt};
use lm::{LoadedModel, random};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    text: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_pages();
    kernels::set_threads(std::thread::available_parallelism().map_or(1, usize::from))?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, prompts, out, n_tokens] = arguments.as_slice() else {
        return Err("usage: generate CHECKPOINT PROMPTS.jsonl OUT.jsonl N_TOKENS".into());
    };
    let max_new_tokens = n_tokens.parse()?;
    let start = Instant::now();
    let model = LoadedModel::load(Path::new(folder))?;
    let load_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut asked = Vec::new();
    for line in std::fs::read_to_string(prompts)?.lines() {
        let Line { text } = serde_json::from_str(line)?;
        asked.push(Prompt { ids: model.tokenizer().encode(&text)?, max_new_tokens });
    }
    let mut stream = random::stream(0, "greedy", 0);
    let completions = model.continue_ids(&asked, Choice::Greedy, &[], &mut stream)?;
    let lines: Vec<String> =
        completions.iter().map(|completion| json!({ "ids": completion.ids }).to_string() + "\n").collect();
    std::fs::write(out, lines.concat())?;
    println!("{}", json!({ "load_s": load_s, "work_s": start.elapsed().as_secs_f64() }));
    Ok(())
}
