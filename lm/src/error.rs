//! What can go wrong with a model, each named so that the reader can act on it.

use std::path::{Path, PathBuf};

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model could not be read, asked or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A subject was asked for what it cannot do.
    #[error("not measurable here: {reason}")]
    Lacking {
        /// Why it cannot.
        reason: String,
    },
    /// The operating system refused.
    #[error("could not {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server gave no answer to a request, or none that can be used.
    #[error("{url}: {message}{}", if *n_attempts > 1 { format!(" ({n_attempts} attempts)") } else { String::new() })]
    Server {
        /// What was asked, without credentials.
        url: String,
        /// HTTP status of the last attempt; `None` where there was no answer.
        status: Option<u16>,
        /// The status or the reason, and what the server said.
        message: String,
        /// Attempts made.
        n_attempts: usize,
    },
    /// A server answers no request any more: it refuses the key, or is gone.
    #[error("{url}: {message}")]
    ServerOver {
        /// Base of the interface, without credentials.
        url: String,
        /// The status or the reason, and what the server said.
        message: String,
    },
    /// A model named on the Hub could not be had.
    #[error("{name} on the Hub: {message}")]
    Hub {
        /// The model and its revision.
        name: String,
        /// The status or the reason.
        message: String,
    },
    /// A server does not have the model that is asked for.
    #[error("{url} has no model `{model}`; it lists {}", list_names(known))]
    UnknownModel {
        /// Base of the interface, without credentials.
        url: String,
        /// As asked for; empty where none was named and there are several.
        model: String,
        /// The models that are there.
        known: Vec<String>,
    },
    /// A file is no journal of a server's answers, is damaged, or belongs to another process now.
    #[error("{path}{}: {reason}", if *line > 0 { format!(":{line}") } else { String::new() })]
    BadJournal {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where it is about the whole file.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A checkpoint folder lacks a file that it needs.
    #[error("{folder} has no {name}")]
    MissingFile {
        /// The checkpoint folder.
        folder: PathBuf,
        /// The file, or the alternatives.
        name: &'static str,
    },
    /// A folder that would be written exists already.
    #[error("{path} exists already: a finished checkpoint is never overwritten")]
    AlreadyExists {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not the JSON it should be.
    #[error("{path} is not valid JSON of its kind")]
    BadJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A key that is needed is absent.
    #[error("{path}: key `{key}` is missing")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key has a value that this crate cannot honour.
    #[error("{path}: `{key} = {value}` is not supported, {supported}")]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as written.
        value: String,
        /// What would be.
        supported: String,
    },
    /// A sharded checkpoint names a file that is not there.
    #[error("{index} names the shard {shard}, which is not there")]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The file it names.
        shard: String,
    },
    /// A tensor file ends before its header says.
    #[error("{path} is truncated: its header and its {found_bytes} bytes do not agree")]
    TruncatedFile {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
    },
    /// A tensor file's header is wrong.
    #[error("{path} is not a valid safetensors file: {reason}")]
    BadTensorFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A GGUF file is malformed.
    #[error("{path} is not a usable GGUF file: {reason}")]
    BadGguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is stored in a number format that is not read here.
    #[error("{path}: tensor `{name}` has dtype {dtype}, supported are F32, F16 and BF16")]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: String,
    },
    /// A tensor that the config asks for is absent.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor is there that the config has no place for.
    #[error("tensor `{name}` has no place in a model of this config")]
    UnexpectedTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the config asks for.
    #[error("{what} has shape {found:?}, expected {expected:?}")]
    ShapeMismatch {
        /// The tensor.
        what: String,
        /// Shape by the config.
        expected: Vec<usize>,
        /// Shape found.
        found: Vec<usize>,
    },
    /// The tokenizer knows ids that the model has no embedding for.
    #[error(
        "the tokenizer has {n_tokens} tokens but the model embeds only {n_embeddings}: they do not belong together"
    )]
    TokenizerMismatch {
        /// Size of the vocabulary, counted to its highest id.
        n_tokens: usize,
        /// Rows of the embedding table.
        n_embeddings: usize,
    },
    /// A tokenizer file cannot be used.
    #[error("{path} is not a usable tokenizer: {reason}")]
    BadTokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer could not be trained.
    #[error("cannot train a tokenizer of {vocab_size} tokens: {reason}")]
    CannotTrainTokenizer {
        /// The size asked for.
        vocab_size: usize,
        /// Why not.
        reason: String,
    },
    /// Text could not be turned into tokens or back.
    #[error("the tokenizer failed: {reason}")]
    Tokenize {
        /// What it said.
        reason: String,
    },
    /// A conversation was given to a model without a chat template.
    #[error("this tokenizer has no chat template")]
    NoChatTemplate,
    /// A chat template does not compile or refuses the messages.
    #[error("chat template: {reason}")]
    BadChatTemplate {
        /// What it said, with the line.
        reason: String,
    },
    /// A sequence is longer than the model's context window.
    #[error("{what} has {n_tokens} tokens, the context window holds {limit}")]
    TooLong {
        /// Which sequence.
        what: String,
        /// Its length.
        n_tokens: usize,
        /// The context window.
        limit: usize,
    },
    /// A sequence that needs at least one token has none.
    #[error("{what} is empty")]
    Empty {
        /// Which sequence.
        what: String,
    },
    /// A token id lies outside the embedding table.
    #[error("token id {id} lies outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// A model that can only be asked was given where weights are trained or mixed.
    #[error("this {model_type} model can be asked, but not trained or mixed: that takes a plain Llama decoder")]
    NotTrainable {
        /// Hugging Face's name of its family.
        model_type: &'static str,
    },
    /// Two models between which others should lie are not of one kind.
    #[error("the reference and the aligned model cannot be mixed: {difference}")]
    NotAlike {
        /// What they differ in.
        difference: String,
    },
    /// A place between two models that is none.
    #[error("lambda = {lambda} is not supported, it must be a number from 0 on")]
    BadLambda {
        /// The place: 0 at the reference, 1 at the aligned model.
        lambda: f64,
    },
    /// A device was asked for that is not there.
    #[error("device `{name}` is not available: {reason}")]
    UnknownDevice {
        /// As asked for.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// A fused operation refused its arguments.
    #[error("model operation failed")]
    Kernel(#[from] kernels::Error),
}

impl Error {
    /// The operating system's refusal of `action` on `path`, as a function for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether another request of the same subject might fare better.
    pub fn is_about_a_request(&self) -> bool {
        matches!(
            self,
            Self::TooLong { .. }
                | Self::Empty { .. }
                | Self::Tokenize { .. }
                | Self::TokenOutOfRange { .. }
                | Self::NoChatTemplate
                | Self::BadChatTemplate { .. }
                | Self::Server { .. }
        )
    }
}

fn list_names(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    if quoted.is_empty() { "none".to_owned() } else { quoted.join(", ") }
}
