//! The language model: config, decoder, tokenizer, chat template, checkpoint, generation, scoring.

pub mod batch;
mod bpe;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod device;
pub mod endpoint;
pub mod error;
pub mod generation;
pub mod interpolation;
pub mod lineage;
mod mixing;
pub mod model;
pub mod next_token;
pub mod random;
pub mod realigned;
pub mod scoring;
pub mod subject;
pub mod tensors;
pub mod tokenizer;
pub mod weights;

pub use batch::Batch;
pub use chat::{ChatTemplate, Message, Opening, Role, encode_conversation};
pub use checkpoint::Checkpoint;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use interpolation::interpolate;
pub use lineage::Lineage;
pub use model::LoadedModel;
pub use realigned::Realigned;
pub use subject::Subject;
pub use tokenizer::Tokenizer;
pub use weights::Weights;
