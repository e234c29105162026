//! Everything that can go wrong while teaching, each with the place where it went wrong.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a phase could not be set up, trained or saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe that does not say what a recipe can say.
    #[error("{}:{line}: key `{key}`: {message}", path.display())]
    Recipe {
        /// The recipe file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// Dotted path of the key on that line.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A line of a data file (of a Parquet file a row) that has not the expected shape.
    #[error("{}:{line}: {message}", path.display())]
    DataLine {
        /// The data file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A data file in a format that is not read.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The data file.
        path: PathBuf,
        /// Which format, and what to do.
        reason: &'static str,
    },
    /// A data file without a single usable line.
    #[error("{}: holds no {what}", path.display())]
    NoData {
        /// The data file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// An example that does not fit a training sequence.
    #[error("{}:{line}: {tokens} tokens, but a sequence holds {limit} (key `sequence_tokens`)", path.display())]
    TooLong {
        /// The data file.
        path: PathBuf,
        /// Line of the example, from 1.
        line: usize,
        /// Length of the example.
        tokens: usize,
        /// Longest example that fits.
        limit: usize,
    },
    /// Settings that exclude each other.
    #[error("key `{key}` = {value}: {message}")]
    Setting {
        /// Dotted path of the key.
        key: String,
        /// Its value.
        value: String,
        /// Why that does not work.
        message: String,
    },
    /// A file or folder that could not be read or written.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was attempted: `read`, `create`, `write`, `rename`, `remove`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A folder that holds the outcome of something else than what is asked for.
    #[error("{}: was trained with another {what}; remove the folder or choose another run folder", path.display())]
    OtherOrigin {
        /// The checkpoint folder.
        path: PathBuf,
        /// Which part of the lineage differs.
        what: &'static str,
    },
    /// A resume state that cannot be continued.
    #[error("{}: {message}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A parameter that the loss does not reach.
    #[error("phase {phase}, step {step}: parameter `{parameter}` has no gradient")]
    NoGradient {
        /// Phase that was trained.
        phase: String,
        /// Step, from 1.
        step: u64,
        /// Name of the parameter.
        parameter: String,
    },
    /// A loss or gradient that is not a finite number.
    #[error("phase {phase}, step {step}: {what} is {value}; lower `lr` or raise `schedule.*.warmup_steps`")]
    Diverged {
        /// Phase that was trained.
        phase: String,
        /// Step, from 1.
        step: u64,
        /// Which number.
        what: String,
        /// The number.
        value: f64,
    },
    /// A reward model whose lineage does not say how its rewards are normalised.
    #[error(
        "the reward model's lineage.json has no `reward_mean` and `reward_std`: it was not trained by this program"
    )]
    NoScale,
    /// No usable data came out of the model's own answers.
    #[error("phase {phase}: {message}")]
    NothingGenerated {
        /// Phase that was to be trained.
        phase: String,
        /// What was asked of the model, and what came back.
        message: String,
    },
    /// Variables of a launcher that do not say one thing.
    #[error("{message}; was this started by mpirun, torchrun or srun?")]
    Launch {
        /// The variables, with their values.
        message: String,
    },
    /// A rank that no longer answers.
    #[error("rank {rank} of {n_ranks} no longer answers; what is saved is kept, start again to go on from there")]
    RankLost {
        /// Which one.
        rank: usize,
        /// Number of ranks.
        n_ranks: usize,
    },
    /// On the other ranks: rank 0 could not do what they waited for.
    #[error("rank 0 has failed")]
    FirstRankFailed,
    /// Ranks that do not see the same.
    #[error("the ranks do not have the same {what}; the run must lie on a file system that all of them share")]
    RanksDisagree {
        /// What they were asked for.
        what: &'static str,
    },
    /// Ranks that do not find each other.
    #[error("{message}; ranks meet where MASTER_ADDR and MASTER_PORT say")]
    Meeting {
        /// What happened, with the address.
        message: String,
    },
    /// Several ranks on GPUs, in a build without NCCL.
    #[error(
        "{n_ranks} ranks cannot train on GPUs: this program was built without NCCL; build it with `--features nccl`, start one, or train on \
         the CPU"
    )]
    RanksOnGpu {
        /// Number of ranks.
        n_ranks: usize,
    },
    /// The NCCL library is not there.
    #[error("NCCL cannot be used ({reason}): is libnccl.so.2 where the loader looks for libraries (LD_LIBRARY_PATH)?")]
    NoNccl {
        /// NCCL's name for it.
        reason: String,
    },
    /// NCCL could not do something.
    #[error("NCCL: {what} failed ({reason}); NCCL_DEBUG=WARN has it say more")]
    Nccl {
        /// What was asked of it.
        what: &'static str,
        /// NCCL's name for the error.
        reason: String,
    },
    /// More parameters than MPI can count.
    #[error("MPI counts up to 2147483647 numbers in a message, and this model needs {n}")]
    TooManyForMpi {
        /// Elements of one message.
        n: usize,
    },
    /// A failure of the language model.
    #[error(transparent)]
    Lm(#[from] lm::Error),
    /// A failure of a fused operation.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// A failure of a tensor operation.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An input or output error with its place, for `map_err`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }
}
