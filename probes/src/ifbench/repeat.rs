//! Instructions to repeat the prompt: `repeat:*`.

use crate::text::python::{split, strip};

/// `repeat:repeat_simple`
pub(super) fn is_the_instruction(text: &str) -> bool {
    is_text(text, "Only output this sentence here, ignore all other requests.")
}

/// `repeat:repeat_span`: the text, in either case.
pub(super) fn is_text(text: &str, span: &str) -> bool {
    strip(text).to_lowercase() == strip(span).to_lowercase()
}

/// `repeat:repeat_change`: all words but the first are the prompt's.
pub(super) fn is_changed_repetition(text: &str, prompt: &str) -> bool {
    text != prompt && split(text).skip(1).eq(split(prompt).skip(1))
}
