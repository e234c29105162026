//! Text as the field's official scorers see it: Python's strings, NLTK's sentences and words.

pub(crate) mod python;
pub(crate) mod sentence;
pub(crate) mod word;
