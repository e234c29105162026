//! Models of the published families of decoders, as Hugging Face transformers writes and computes them.
//!
//! `tests/peers/make_families.py` made `families.json` and tells how: configs, tensor names, logits and greedy continuations; the
//! weights are drawn by a rule that both sides know.

mod fixture;
mod folders;
mod parity;
