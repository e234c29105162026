//! Scores multiple-choice items, to be compared with lm-evaluation-harness by `tests/peers/speed.py`.
//!
//! `score_choices CHECKPOINT ITEMS.jsonl OUT.jsonl`: each line of ITEMS.jsonl is `{"context": "...", "choices": ["...", ...]}`. OUT.jsonl
//! gets the log-likelihood of each choice in nats and its number of tokens, line by line; standard output the seconds for loading and
//! for scoring.

use lm::subject::{Prompt, ScoreRequest};
use lm::{LoadedModel, Subject};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    context: String,
    choices: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_pages();
    kernels::set_threads(std::thread::available_parallelism().map_or(1, usize::from))?;
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, items, out] = arguments.as_slice() else {
        return Err("usage: score_choices CHECKPOINT ITEMS.jsonl OUT.jsonl".into());
    };
    let start = Instant::now();
    let model = LoadedModel::load(folder)?;
    let load_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let items: Vec<Item> =
        std::fs::read_to_string(items)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let requests: Vec<ScoreRequest> = items
        .iter()
        .flat_map(|Item { context, choices }| {
            let context = Prompt::Text(context.clone());
            choices.iter().map(move |choice| ScoreRequest { context: context.clone(), continuation: choice.clone() })
        })
        .collect();
    let mut scores = model.score(&requests)?.into_iter();
    let mut lines = String::new();
    for item in &items {
        let of_item = scores.by_ref().take(item.choices.len()).collect::<lm::Result<Vec<_>>>()?;
        let log_probs_nats: Vec<f64> = of_item.iter().map(|score| score.log_prob_nats).collect();
        let n_tokens: Vec<usize> = of_item.iter().map(|score| score.n_tokens).collect();
        lines.push_str(&json!({ "log_probs_nats": log_probs_nats, "n_tokens": n_tokens }).to_string());
        lines.push('\n');
    }
    std::fs::write(out, lines)?;
    println!("{}", json!({ "load_s": load_s, "work_s": start.elapsed().as_secs_f64() }));
    Ok(())
}
