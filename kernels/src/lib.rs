//! Differentiable fused operations, each beside its slow oracle.
//!
//! candle keeps the graph; this crate owns the operations: each is one node with a forward and a backward pass on the
//! CPU, for `f32` and, through the same code, for `f64` (to check gradients). Results do not depend on the number of
//! threads. With the feature `cuda` the same functions work on tensors on a GPU, in `f32` and `bf16`. This is the only
//! crate with `unsafe`.

mod adamw;
mod allocator;
mod attention;
mod attention_block;
mod block;
mod cache;
#[cfg(test)]
mod check;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
mod decode;
mod decode_layers;
mod element;
mod embedding;
mod error;
mod feed_forward;
mod geglu;
mod layers;
mod linear;
mod logits;
pub mod oracle;
mod parallel;
mod product;
#[cfg(test)]
mod properties;
mod rms_norm;
mod rotation;
mod simd;
mod storage;
mod sum;
mod swiglu;
mod token_log_prob;
mod tree;

pub use adamw::{AdamW, AdamWConfig, BLOCK_LEN, Moments, block_squares, global_norm};
pub use allocator::keep_freed_pages;
pub use attention::{AttentionSpec, PAD_SEGMENT, Segments, rope_attention};
pub use attention_block::{AttentionBlockSpec, attention_block};
pub use cache::KvCache;
pub use cross_entropy::{IGNORE, linear_cross_entropy, linear_log_probs};
#[cfg(feature = "cuda")]
pub use cuda::prepare_gpu;
pub use decode::{DecodeSpec, PREFILL_TOKENS, Positions, decode_attention};
pub use decode_layers::{DecodeLayer, decode_layers};
pub use embedding::{embedding, embedding_as};
pub use error::{Error, Result};
pub use feed_forward::{FeedForwardSpec, feed_forward};
pub use geglu::geglu;
pub use layers::{HandedOver, LayersSpec, layers, layers_of_parts};
pub use linear::{PackedWeight, linear};
pub use logits::{Draw, argmax, choose, log_sum_exp, soft_cap};
pub use parallel::set_threads;
pub use rms_norm::rms_norm;
pub use sum::add_to;
pub use swiglu::swiglu;
pub use token_log_prob::TokenLogProb;
pub use tree::TokenTree;
