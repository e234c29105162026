//! Who says which of two answers is better under a principle.

mod endpoint;
mod model;

use crate::constitution::Principle;
use crate::error::Result;
use crate::folder::RunFolder;
use crate::rollout::SamplingRecipe;
use endpoint::EndpointJudge;
pub use endpoint::EndpointRecipe;
use lm::chat::Message;
use lm::checkpoint::Checkpoint;
use model::ModelJudge;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Who says which of two answers is better (`[rl_cai.judge]`). Default the model that is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum JudgeRecipe {
    /// The model that is trained (`[rl_cai.judge.itself]`).
    Itself {},
    /// The checkpoint in this folder (`checkpoint = "FOLDER"`).
    Checkpoint(PathBuf),
    /// A model behind a server (`[rl_cai.judge.endpoint]`).
    Endpoint(EndpointRecipe),
}

impl Default for JudgeRecipe {
    fn default() -> Self {
        Self::Itself {}
    }
}

/// A judge that can be asked.
#[derive(Debug)]
pub enum Judge {
    /// The model that is trained.
    Itself,
    /// Another one.
    Checkpoint(Box<Checkpoint>),
    /// One behind a server.
    Endpoint(Box<EndpointJudge>),
}

impl Judge {
    /// Loads what the recipe names; a server is not asked before there is a question. `read_key` has the value of an environment
    /// variable.
    ///
    /// # Errors
    /// Where there is no such checkpoint.
    pub fn open(recipe: &JudgeRecipe, read_key: impl FnOnce(&str) -> Option<String>) -> Result<Self> {
        Ok(match recipe {
            JudgeRecipe::Itself {} => Self::Itself,
            JudgeRecipe::Checkpoint(folder) => Self::Checkpoint(Box::new(Checkpoint::load(folder)?)),
            JudgeRecipe::Endpoint(recipe) => {
                let key = recipe.api_key_env.as_deref().and_then(read_key);
                Self::Endpoint(Box::new(EndpointJudge::new(recipe.clone(), key)))
            }
        })
    }

    /// The content of another checkpoint, as lineages keep it; the other judges are what the recipe says.
    ///
    /// # Errors
    /// Where its weights cannot be read.
    pub fn hash(&self) -> Result<Option<String>> {
        match self {
            Self::Checkpoint(checkpoint) => Ok(Some(checkpoint.content_hash()?)),
            Self::Itself | Self::Endpoint(_) => Ok(None),
        }
    }

    /// Asks each question in both orders of its answers; `None` where it is too long, or where what comes back says nothing.
    pub(crate) fn ask(&self, at: &Bench<'_>, questions: &[Question<'_>]) -> Result<Vec<Option<Opinion>>> {
        match self {
            Self::Itself => ModelJudge { model: at.trained, at }.ask(questions),
            Self::Checkpoint(model) => ModelJudge { model, at }.ask(questions),
            Self::Endpoint(judge) => judge.ask(at, questions),
        }
    }
}

/// Where and how a judge is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bench<'a> {
    /// The model that is trained.
    pub(crate) trained: &'a Checkpoint,
    /// Whether reasons come first.
    pub(crate) with_reasons: bool,
    /// How a model's reasons are sampled.
    pub(crate) sampling: SamplingRecipe,
    /// Their seed.
    pub(crate) seed: u64,
    /// Where the answers of a server are kept.
    pub(crate) notebook: &'a Path,
    /// The run, whose device a model is asked on.
    pub(crate) folder: &'a RunFolder,
}

/// Which of two answers to a prompt is better under a principle?
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) prompt: &'a [Message],
    pub(crate) principle: &'a Principle,
    pub(crate) a: &'a str,
    pub(crate) b: &'a str,
}

/// What a judge says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Opinion {
    /// Probability that the first answer is better, mean over both orders of the answers.
    pub(crate) p_a: f64,
    /// What it wrote down before, where it was asked for reasons.
    pub(crate) reasons: Vec<String>,
}
