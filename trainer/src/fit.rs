//! How many tokens an item of a data file needs, so that one that is too long is found before training.

use crate::data::{Comparison, Conversation, Prompt};
use crate::error::Result;
use crate::reward::encode_answer;
use crate::sequence::encode_prompt;
use lm::chat::encode_conversation;
use lm::tokenizer::Tokenizer;

/// An item that must fit a sequence of tokens.
pub trait Length {
    /// Tokens of its longest sequence, with the marks of the turns.
    ///
    /// # Errors
    /// Where the tokenizer has no chat template or refuses the messages.
    fn n_tokens(&self, tokenizer: &Tokenizer) -> Result<usize>;
}

impl Length for Conversation {
    fn n_tokens(&self, tokenizer: &Tokenizer) -> Result<usize> {
        Ok(encode_conversation(tokenizer, &self.messages)?.0.len())
    }
}

impl Length for Comparison {
    fn n_tokens(&self, tokenizer: &Tokenizer) -> Result<usize> {
        let mut longest = 0;
        for answer in &self.ranked {
            longest = longest.max(encode_answer(tokenizer, &self.prompt, answer)?.len());
        }
        Ok(longest)
    }
}

impl Length for Prompt {
    /// The opening of the answer included.
    fn n_tokens(&self, tokenizer: &Tokenizer) -> Result<usize> {
        Ok(encode_prompt(tokenizer, &self.prompt)?.len())
    }
}
