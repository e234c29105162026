//! The small world's model with fresh weights: what the benches of this workspace measure.

use lm::{ModelConfig, Weights};

/// What the program does at its start. `RAYON_NUM_THREADS` says how many threads work; without it one per core.
pub(crate) fn prepare() {
    kernels::keep_freed_pages();
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    let n_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    kernels::set_threads(asked.unwrap_or_else(n_cores)).unwrap();
}

/// Three layers of width 128 over 768 tokens and a context of 128.
pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 768,
        hidden_size: 128,
        intermediate_size: 320,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        initializer_range: 0.02,
        bos_token_id: Some(0),
        eos_token_ids: vec![5],
        pad_token_id: Some(1),
    }
}

pub(crate) fn weights() -> Weights {
    Weights::random(&config(), 1).unwrap()
}

/// `n` token ids without any regularity that matters.
pub(crate) fn ids(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| (6 + (i * 7919 + i / 3 + seed * 101) % 762) as u32).collect()
}
