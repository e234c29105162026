//! Logits and greedy continuations of every family are those of transformers.

use crate::fixture::{Case, cases};
use lm::generation::{Choice, Prompt, generate};
use lm::next_token::{After, NextToken, Tokens};
use lm::scoring::{TokenRequest, score};
use lm::{Architecture, Batch, Decoder, FrozenDecoder, Weights, random};
use std::collections::BTreeMap;

/// Of the largest difference of a logit, in f32 on both sides.
const TOLERANCE: f32 = 1e-4;

/// Logits after each token of `ids`, read in runs of the given lengths.
fn logits_in_runs(model: &impl NextToken, ids: &[u32], lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(1, ids.len()).unwrap();
    let (mut rest, mut rows) = (ids, Vec::new());
    for length in lengths {
        let (now, later) = rest.split_at(length.min(rest.len()));
        if now.is_empty() {
            break;
        }
        rest = later;
        let mut tokens = Tokens::default();
        tokens.push(0, now);
        model.read(&mut cache, &tokens, After::Each, |_, logits| rows.push(logits.to_vec())).unwrap();
    }
    assert_eq!(rows.len(), ids.len());
    rows
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_of_every_family_are_those_of_transformers_however_they_are_read() {
    for case in cases() {
        let decoder = case.decoder();
        let whole = logits_in_runs(&decoder, &case.ids, [case.ids.len()]);
        let one_by_one = logits_in_runs(&decoder, &case.ids, std::iter::repeat(1));
        let in_pieces = logits_in_runs(&decoder, &case.ids, [3, 17, 1, 9, 2, 8]);
        for (how, found) in [("whole", &whole), ("one by one", &one_by_one), ("in pieces", &in_pieces)] {
            let difference = largest_difference(found, &case.logits);
            assert!(difference <= TOLERANCE, "{}, {how}: logits differ by {difference}", case.name);
        }
        println!("{}: {:.1e}", case.name, largest_difference(&whole, &case.logits));
    }
}

#[test]
fn rows_of_a_batch_equal_rows_alone() {
    for case in cases() {
        let decoder = case.decoder();
        let lengths = [case.ids.len(), 5, 23];
        let mut cache = decoder.new_cache(3, case.ids.len()).unwrap();
        let mut found = vec![Vec::new(); 3];
        // Ragged prompts, then a token at a time for the rows that have any left.
        let first = [30, 5, 9];
        let mut tokens = Tokens::default();
        for (row, n_tokens) in first.into_iter().enumerate() {
            tokens.push(row, &case.ids[..n_tokens]);
        }
        let rows = tokens.rows().to_vec();
        decoder.read(&mut cache, &tokens, After::Each, |i, logits| found[rows[i]].push(logits.to_vec())).unwrap();
        for step in 0.. {
            let left: Vec<usize> = (0..3).filter(|&row| first[row] + step < lengths[row]).collect();
            if left.is_empty() {
                break;
            }
            let mut tokens = Tokens::default();
            for &row in &left {
                tokens.push(row, &case.ids[first[row] + step..][..1]);
            }
            decoder.read(&mut cache, &tokens, After::Each, |i, logits| found[left[i]].push(logits.to_vec())).unwrap();
        }
        for (row, length) in lengths.into_iter().enumerate() {
            let difference = largest_difference(&found[row], &case.logits[..length]);
            assert!(difference <= TOLERANCE, "{}, row {row}: logits differ by {difference}", case.name);
        }
    }
}

#[test]
fn greedy_continuations_are_those_of_transformers_and_score_as_such() {
    for case in cases() {
        let decoder = case.decoder();
        let context = case.ids[..9].to_vec();
        let prompts =
            [&context[..], &case.ids[..20]].map(|ids| Prompt { ids: ids.to_vec(), max_new_tokens: case.greedy.len() });
        let completions = generate(&decoder, &prompts, Choice::Greedy, &[], &mut random::stream(0, "test", 0)).unwrap();
        assert_eq!(completions[0].ids, case.greedy, "{}", case.name);
        let request = TokenRequest { context, continuation: case.greedy.clone() };
        let scored = score(&decoder, &[request]).unwrap()[0];
        let total: f64 = completions[0].log_probs.iter().map(|&x| f64::from(x)).sum();
        assert!(
            scored.is_greedy == Some(true) && (scored.log_prob_nats - total).abs() < 1e-4,
            "{}: {scored:?} {total}",
            case.name
        );
    }
}

#[test]
fn the_plain_decoder_and_the_frozen_one_agree() {
    let case = cases().into_iter().find(|case| case.name == "llama").unwrap();
    let architecture = case.architecture();
    let config = architecture.plain().expect("a plain config");
    let plain = Decoder::new(config, &Weights::from_tensors(config, case.tensors()).unwrap()).unwrap();
    let logits = plain.logits(&Batch::pad(&[&case.ids]).unwrap()).unwrap().squeeze(0).unwrap().to_vec2().unwrap();
    assert!(largest_difference(&logits, &case.logits) <= TOLERANCE);
    assert!(cases().iter().filter(|case| case.architecture().plain().is_some()).count() == 1);
}

#[test]
fn each_difference_of_a_family_matters_in_the_fixture() {
    // A test of the test: whatever of an architecture is changed, its logits are no longer those of transformers.
    let by_name: BTreeMap<String, Case> = cases().into_iter().map(|case| (case.name.clone(), case)).collect();
    type Change = fn(&mut Architecture);
    let changes: [(&str, Change); 14] = [
        ("llama_llama3", |it| it.attention.iter_mut().for_each(|layer| layer.positions = kernels::Positions::Theta)),
        ("llama_linear", |it| it.attention.iter_mut().for_each(|layer| layer.positions = kernels::Positions::Theta)),
        ("llama_yarn", |it| it.attention.iter_mut().for_each(|layer| layer.scale = 0.25)),
        ("mistral", |it| it.attention.iter_mut().for_each(|layer| layer.window = Some(7))),
        ("qwen2_with_windows", |it| it.attention[2].window = None),
        ("qwen3", |it| it.shape.rms_norm_eps = 1e-2),
        ("smollm3", |it| it.attention[3].positions = kernels::Positions::Theta),
        ("smollm3_with_windows", |it| it.attention[0].window = Some(5)),
        ("gemma2", |it| it.attention.iter_mut().for_each(|layer| layer.soft_cap = None)),
        ("gemma2", |it| it.final_soft_cap = None),
        ("gemma3_text", |it| it.norm_offset = 0.0),
        ("gemma3_text", |it| it.embedding_scale = 1.0),
        ("gemma3_text", |it| it.attention[0].shape.rope_theta = 5_000.0),
        ("gemma3_text", |it| it.attention[2].positions = kernels::Positions::Theta),
    ];
    for (idx, (name, change)) in changes.into_iter().enumerate() {
        let case = &by_name[name];
        let mut architecture = case.architecture();
        change(&mut architecture);
        let decoder = FrozenDecoder::new(architecture, case.tensors()).unwrap();
        let difference = largest_difference(&logits_in_runs(&decoder, &case.ids, [case.ids.len()]), &case.logits);
        assert!(difference > 10.0 * TOLERANCE, "{name}, change {idx}: {difference}");
    }
}
