//! From the log-probabilities that a server reports of a text's tokens to the likelihood of its end.
//!
//! A server tokenizes context and continuation as one text and says for each token a string and a log-probability. Where the continuation begins
//! is found by laying the strings along the text. Strings may be missing: a token that holds part of a character has none that could be read, special
//! tokens are often shown as nothing. A boundary counts only where a token that can be read ends or begins exactly there; else there is no score.

use super::wire::{LogProbs, PromptLogProbs, Reply};
use crate::subject::Score;

/// A token as a server tells of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    /// Its text; `None` where the server did not say.
    text: Option<String>,
    /// `ln p`, nats; `None` where the server gives none, as for the first token of a text.
    log_prob: Option<f64>,
    /// Whether it was the most likely one.
    is_top: Option<bool>,
}

/// The tokens of the prompt that an answer to `echo` tells of, without those that were generated behind it.
pub(super) fn echoed(reply: &Reply, prompt: &str) -> Result<Vec<Told>, String> {
    let told = reply.choice.logprobs.as_ref().ok_or("the answer holds no log-probabilities")?;
    let mut tokens = list(told)?;
    let text = reply.choice.text.as_deref().unwrap_or_default();
    if !text.starts_with(prompt) {
        return Err("the answer holds log-probabilities of generated text alone, or the prompt was altered".to_owned());
    }
    // One token was asked for, since servers take 0 for "no limit".
    let n_generated = match reply.usage.completion_tokens {
        Some(n) => n,
        None if text.len() > prompt.len() => 1,
        None => return Err("the server does not say how many tokens it generated behind the text".to_owned()),
    };
    // `llama-cpp-python` goes on until a character is whole.
    if n_generated > 4 || n_generated > tokens.len() {
        return Err(format!("one token was asked for and the server generated {n_generated}"));
    }
    tokens.truncate(tokens.len() - n_generated);
    Ok(tokens)
}

/// The first generated token and its log-probability, of an answer without `echo`.
pub(super) fn first_generated(reply: &Reply) -> Option<(String, f64)> {
    let told = reply.choice.logprobs.as_ref()?;
    if let Some(place) = told.content.as_ref().and_then(|places| places.first()) {
        return Some((place.token.clone(), place.logprob));
    }
    Some((told.tokens.as_ref()?.first()?.clone(), (*told.token_logprobs.as_ref()?.first()?)?))
}

fn list(told: &LogProbs) -> Result<Vec<Told>, String> {
    let (Some(tokens), Some(log_probs)) = (&told.tokens, &told.token_logprobs) else {
        return Err("the answer holds no log-probabilities of the prompt's tokens".to_owned());
    };
    let n = tokens.len();
    let lengths =
        [Some(log_probs.len()), told.top_logprobs.as_ref().map(Vec::len), told.text_offset.as_ref().map(Vec::len)];
    if let Some(other) = lengths.into_iter().flatten().find(|&other| other != n) {
        return Err(format!("the lists of the answer do not belong together: {n} tokens, but {other} other entries"));
    }
    let one = |(i, (text, &log_prob)): (usize, (&String, &Option<f64>))| {
        let likeliest = told.top_logprobs.as_ref().and_then(|tops| tops[i].as_ref());
        let best = likeliest.and_then(|tops| tops.values().copied().reduce(f64::max));
        // Tokens without a readable text share one entry among the likeliest.
        let is_top = best.zip(log_prob).filter(|_| is_readable(text)).map(|(best, own)| own >= best);
        Told { text: Some(text.clone()), log_prob, is_top }
    };
    Ok(tokens.iter().zip(log_probs).enumerate().map(one).collect())
}

/// The tokens that vLLM's `prompt_logprobs: 0` tells of: one entry for each but the first.
pub(super) fn of_prompt(places: &PromptLogProbs) -> Result<Vec<Told>, String> {
    let one = |place: &Option<_>| match place {
        None => Ok(Told { text: None, log_prob: None, is_top: None }),
        Some(entries) => {
            let entries: &std::collections::BTreeMap<_, super::wire::PromptEntry> = entries;
            let (Some(entry), 1) = (entries.values().next(), entries.len()) else {
                return Err(format!("the server tells of {} tokens at one place of the prompt", entries.len()));
            };
            let is_top = entry.rank.map(|rank| rank == 1);
            Ok(Told { text: entry.decoded_token.clone(), log_prob: Some(entry.logprob), is_top })
        }
    };
    places.iter().map(one).collect()
}

/// The likelihood of `text[boundary..]`, or why it cannot be told.
pub(super) fn score(tokens: &[Told], text: &str, boundary: usize) -> Result<Score, String> {
    let first = first_after(tokens, text, boundary)?;
    let mut score = Score { log_prob_nats: 0.0, n_tokens: tokens.len() - first, is_greedy: Some(true) };
    if score.n_tokens == 0 {
        return Err("the continuation has no tokens".to_owned());
    }
    for token in &tokens[first..] {
        let Some(log_prob) = token.log_prob else {
            let whose = if first == 0 { "the first token of a text" } else { "a token of the continuation" };
            return Err(format!("the server gives no likelihood of {whose}"));
        };
        // vLLM writes minus infinity as -9999.
        if !log_prob.is_finite() || log_prob > MAX_LOG_PROB || log_prob <= -9999.0 {
            return Err(format!("the server reports the log-probability {log_prob}"));
        }
        score.log_prob_nats += log_prob.min(0.0);
        // One token that was not the likeliest settles it; one that is not known leaves it open.
        score.is_greedy = match (score.is_greedy, token.is_top) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
    }
    Ok(score)
}

/// What rounding may add to a probability of one.
const MAX_LOG_PROB: f64 = 1e-3;
/// Longest text of a special token, and of a first token that the server does not name.
const MAX_HIDDEN_BYTES: usize = 64;

/// How many tokens stand before the text: a beginning-of-sequence token that the server put there; `None` where tokens and text do not agree.
pub(super) fn n_before(tokens: &[Told], text: &str) -> Option<usize> {
    first_after(tokens, text, 0).ok()
}

/// Index of the first token at or behind `boundary`.
fn first_after(tokens: &[Told], text: &str, boundary: usize) -> Result<usize, String> {
    let add_up =
        |at: usize| format!("the tokens that the server reports do not add up to the text (from byte {at} on)");
    if tokens.first().is_none_or(|token| token.text.is_some()) {
        return part(&lay(tokens, 0, text, boundary).map_err(add_up)?, text, boundary);
    }
    // The first token has no name: it may be one that the server put before the text, or any beginning of the text.
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]).take_while(|&at| at <= MAX_HIDDEN_BYTES);
    let mut laid = ends.filter_map(|end| Some((end, lay(&tokens[1..], end, text, boundary).ok()?)));
    let (end, rest) = laid.next().ok_or_else(|| add_up(0))?;
    part(&[vec![Some((0, end))], rest].concat(), text, boundary)
}

/// Where in the text a token lies; `None` for one whose text cannot be read. One that stands before the text has no length.
type Span = Option<(usize, usize)>;

/// Lays tokens along the text from byte `at` on, or says up to where they could be laid.
fn lay(tokens: &[Told], mut at: usize, text: &str, boundary: usize) -> Result<Vec<Span>, usize> {
    let mut spans: Vec<Span> = Vec::with_capacity(tokens.len());
    let mut n_hidden = 0;
    for (idx, token) in tokens.iter().enumerate() {
        let told = token.text.as_deref().unwrap_or_default();
        // Of a token such as ` \u{FFFD}` the beginning can be read.
        let piece = told.split(['\u{FFFD}']).next().unwrap_or_default();
        if piece.is_empty() || !is_readable(piece) {
            spans.push(None);
            n_hidden += 1;
        } else if let Some(span) = place(Some(piece), text, at, n_hidden, boundary) {
            spans.push(Some(span));
            (at, n_hidden) = (span.1, usize::from(piece != told));
        } else if idx == 0 && at == 0 && leading_marker(piece) == Some(piece) {
            // A token that the server put before the text and that can be read, such as `<s>`.
            spans.push(Some((0, 0)));
        } else {
            return Err(at);
        }
    }
    place(None, text, at, n_hidden, boundary).map(|_| spans).ok_or(at)
}

/// The first token at or behind the boundary, if it is certain that tokens meet there.
///
/// A token that is shown as ` ` may hold the first bytes of a character besides, and one that is shown as `!` the last ones of another. So beside characters
/// that could not be read nothing is certain, but that no token goes from such a character over a space: tokenizers part texts there first. Special tokens
/// are whole.
fn part(spans: &[Span], text: &str, boundary: usize) -> Result<usize, String> {
    if spans.iter().flatten().any(|&(start, end)| start < boundary && boundary < end) {
        return Err("a token straddles the boundary between context and continuation".to_owned());
    }
    let last = spans.iter().rposition(|span| span.is_some_and(|(_, end)| end <= boundary));
    let next = spans.iter().position(|span| span.is_some_and(|(start, end)| start >= boundary && end > start));
    let gap_start = last.and_then(|idx| spans[idx]).map_or(0, |(_, end)| end);
    let gap_end = next.and_then(|idx| spans[idx]).map_or(text.len(), |(start, _)| start);
    let (first_hidden, next) = (last.map_or(0, |idx| idx + 1), next.unwrap_or(spans.len()));
    let gap = &text[gap_start..gap_end];
    let is_special = !gap.is_empty() && is_all_markers(gap);
    let is_certain = match (gap_end == boundary, gap_start == boundary) {
        // Nothing is hidden here, or it stands before the text.
        (true, true) => first_hidden == next || last.is_none(),
        (true, false) => is_special || text[boundary..].starts_with(char::is_whitespace),
        (false, true) => is_special && last.is_some(),
        (false, false) => false,
    };
    if !is_certain {
        return Err("tokens without readable text stand at the boundary between context and continuation".to_owned());
    }
    Ok(if gap_end == boundary { next } else { first_hidden })
}

/// Where the next readable token lies, from its start to its end; for `None`, whether the text ends here.
///
/// Between `at` and there lies what the `n_hidden` unreadable tokens stand for: characters beyond ASCII, of which a token holds a part or a few, and
/// special tokens. A special token of the context may be left out of the list of tokens altogether.
fn place(piece: Option<&str>, text: &str, at: usize, n_hidden: usize, boundary: usize) -> Option<(usize, usize)> {
    let (mut start, mut n_left) = (at, n_hidden);
    while start - at <= MAX_HIDDEN_BYTES * (n_hidden + 4) {
        let rest = &text[start..];
        let length = match piece {
            Some(piece) => piece_len(piece, rest, start == 0),
            // Hidden tokens at the end stand for something.
            None => (rest.is_empty() && (n_hidden == 0 || start > at)).then_some(0),
        };
        if let Some(length) = length {
            return Some((start, start + length));
        }
        let marker = leading_marker(rest).filter(|marker| n_left > 0 || start + marker.len() <= boundary);
        start += match marker {
            Some(marker) => {
                n_left = n_left.saturating_sub(1);
                marker.len()
            }
            None => rest.chars().next().filter(|c| n_hidden > 0 && !c.is_ascii())?.len_utf8(),
        };
    }
    None
}

/// Length of `piece` at the beginning of `rest`, in the spellings that servers use.
fn piece_len(piece: &str, rest: &str, is_first: bool) -> Option<usize> {
    if rest.starts_with(piece) {
        return Some(piece.len());
    }
    // SentencePiece writes a space as `▁` and puts one before the text.
    let spaced = piece.replace('▁', " ");
    let spaced = if is_first && !rest.starts_with(' ') { spaced.strip_prefix(' ').unwrap_or(&spaced) } else { &spaced };
    (!spaced.is_empty() && rest.starts_with(spaced)).then_some(spaced.len())
}

fn is_readable(piece: &str) -> bool {
    !piece.is_empty() && !piece.contains('\u{FFFD}') && !piece.starts_with("bytes:\\x")
}

/// A special token at the beginning of a text: `<|user|>`, `</s>`, `<start_of_turn>`.
fn leading_marker(text: &str) -> Option<&str> {
    let end = text.strip_prefix('<')?.find('>')? + 2;
    let marker = &text[..end];
    let is_plain = marker[1..end - 1].chars().all(|c| !c.is_whitespace() && c != '<');
    (is_plain && end > 2 && end <= MAX_HIDDEN_BYTES).then_some(marker)
}

fn is_all_markers(mut text: &str) -> bool {
    while let Some(marker) = leading_marker(text) {
        text = &text[marker.len()..];
    }
    text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::{Told, echoed, of_prompt, score};
    use crate::server::wire::read_reply;
    use crate::subject::Score;

    /// Tokens with log-probabilities -1, -2, -4, ...: each sum says which tokens are in it. The first has none.
    fn tell(pieces: &[&str]) -> Vec<Told> {
        let one = |(i, piece): (usize, &&str)| Told {
            text: Some((*piece).to_owned()),
            log_prob: (i > 0).then(|| -f64::powi(2.0, i as i32 - 1)),
            is_top: Some(true),
        };
        pieces.iter().enumerate().map(one).collect()
    }

    fn sum(pieces: &[&str], context: &str, continuation: &str) -> Result<f64, String> {
        score(&tell(pieces), &format!("{context}{continuation}"), context.len()).map(|score| -score.log_prob_nats)
    }

    #[test]
    fn tokens_from_the_boundary_on_are_summed() {
        assert_eq!(sum(&["The", " boat", " li", "es"], "The boat", " lies"), Ok(2.0 + 4.0));
        assert_eq!(sum(&["The", " boat"], "The", " boat"), Ok(1.0));
        // A beginning-of-sequence token, shown or not, with and without a context.
        for start in ["<s>", "", "<|begin_of_text|>"] {
            assert_eq!(sum(&[start, "The", " boat"], "The", " boat"), Ok(2.0), "{start}");
            assert_eq!(sum(&[start, " boat", "!"], "", " boat!"), Ok(1.0 + 2.0), "{start}");
        }
        let first = "the server gives no likelihood of the first token of a text";
        assert_eq!(sum(&["The", " boat"], "", "The boat"), Err(first.to_owned()));
        // SentencePiece's spelling, with the space that it puts first.
        assert_eq!(sum(&["<s>", "▁The", "▁boat"], "The", " boat"), Ok(2.0));
    }

    #[test]
    fn special_tokens_that_are_shown_as_nothing_or_left_out_do_not_hide_the_boundary() {
        let chat = "<|user|> Who?<|end|><|assistant|>";
        assert_eq!(sum(&["", " Who", "?", "", "", " Ada", "."], chat, " Ada."), Ok(16.0 + 32.0));
        assert_eq!(sum(&[" Who", "?", "", " Ada"], chat, " Ada"), Ok(4.0));
        assert_eq!(sum(&[" Who", "?", " Ada"], chat, " Ada"), Ok(2.0));
        assert_eq!(sum(&["<|user|>", " Who", "?", "<|end|>", "<|assistant|>", " Ada"], chat, " Ada"), Ok(16.0));
        assert_eq!(sum(&["", " Who", "?", "", "", " Ada", ""], chat, " Ada<|end|>"), Ok(16.0 + 32.0));
        // In the continuation each token counts, so none may be left out.
        assert!(sum(&["", " Who", "?", "", "", " Ada"], chat, " Ada<|end|>").is_err());
        assert!(sum(&["", " Who", "?", "", "", " Ada", ""], chat, " Ada<|end|><|user|>").is_err());
    }

    #[test]
    fn tokens_that_hold_parts_of_characters_are_laid_between_their_neighbours() {
        let unclear =
            Err("tokens without readable text stand at the boundary between context and continuation".to_owned());
        let pieces = ["I", " see", " \u{FFFD}", "\u{FFFD}", "!", " Yes"];
        assert_eq!(sum(&pieces, "I see 🌊!", " Yes"), Ok(16.0));
        assert_eq!(sum(&pieces, "I see", " 🌊! Yes"), Ok(2.0 + 4.0 + 8.0 + 16.0));
        assert_eq!(sum(&pieces, "I see ", "🌊! Yes"), unclear);
        assert_eq!(sum(&pieces, "I see 🌊", "! Yes"), unclear);
        // Shown as nothing, and the whole character with its last part.
        assert_eq!(sum(&["I", " see", " ", "", "🌊", " Yes"], "I see 🌊", " Yes"), Ok(16.0));
        assert_eq!(sum(&["I", " see", " ", "", " Yes"], "I see 🌊", " Yes"), Ok(8.0));
        assert_eq!(sum(&["I", " see", " ", "", ""], "I see", " 🌊"), Ok(2.0 + 4.0 + 8.0));
        assert_eq!(sum(&["I", " see", " ", "", "🌊", "!"], "I see ", "🌊!"), unclear);
        assert_eq!(sum(&["I", "", "", "!"], "I🌊", "🌊!"), unclear);
        assert_eq!(sum(&["I", "bytes:\\xf0\\x9f", "bytes:\\x8c\\x8a", " Yes"], "I🌊", " Yes"), Ok(4.0));
    }

    fn mismatch(at: usize) -> String {
        format!("the tokens that the server reports do not add up to the text (from byte {at} on)")
    }

    #[test]
    fn what_does_not_add_up_is_not_scored() {
        let straddles = "a token straddles the boundary between context and continuation";
        assert_eq!(sum(&["The", " boats"], "The boat", "s"), Err(straddles.to_owned()));
        assert_eq!(sum(&["The", " boat"], "The boat", " lies"), Err(mismatch(8)));
        assert_eq!(sum(&["The", " boat", " lies", " here"], "The boat", " lies"), Err(mismatch(13)));
        assert_eq!(sum(&["The", " boat", " lies", ""], "The boat", " lies"), Err(mismatch(13)));
        assert_eq!(sum(&["The", "boat", " lies"], "The boat", " lies"), Err(mismatch(3)));
        // The beginning of the context was cut off, behind a token that shows nothing.
        assert_eq!(sum(&["", " boat", " lies"], "See the boat", " lies"), Err(mismatch(0)));
        // A second beginning-of-sequence token.
        assert_eq!(sum(&["<s>", "<s>", "The", " boat"], "<s>The", " boat"), Err(mismatch(3)));
        assert_eq!(sum(&["token_id:5", "token_id:9"], "The", " boat"), Err(mismatch(0)));
        assert_eq!(sum(&[], "The", " boat"), Err(mismatch(0)));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5, -9999.0] {
            let mut tokens = tell(&["The", " boat"]);
            tokens[1].log_prob = Some(bad);
            assert!(score(&tokens, "The boat", 3).unwrap_err().contains("reports the log-probability"), "{bad}");
        }
    }

    #[test]
    fn where_there_is_a_score_tokens_meet_at_the_boundary_in_any_way_to_cut_a_text() {
        // Brute force: a text of characters of one to four bytes, cut between bytes in all ways in which no token goes from a part of a character over a
        // space, and told in the ways that servers decode what is no text.
        let text = "aé🌊 🌊b c";
        let n = text.len();
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ignoring = |bytes: &[u8]| lossy(bytes).replace('\u{FFFD}', "");
        let silent = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap_or_default();
        let (mut n_scored, mut n_unscored) = (0, 0);
        for cuts in 0..1_u32 << (n - 1) {
            let is_cut = |at: usize| at == 0 || at == n || cuts >> (at - 1) & 1 == 1;
            let starts: Vec<usize> = (0..n).filter(|&at| is_cut(at)).collect();
            let bytes = |i: usize| &text.as_bytes()[starts[i]..starts.get(i + 1).copied().unwrap_or(n)];
            if (0..starts.len()).any(|i| !text.is_char_boundary(starts[i]) && bytes(i).contains(&b' ')) {
                continue;
            }
            for decode in [&lossy as &dyn Fn(&[u8]) -> String, &ignoring, &silent] {
                let pieces: Vec<String> = (0..starts.len()).map(|i| decode(bytes(i))).collect();
                let mut told = tell(&pieces.iter().map(String::as_str).collect::<Vec<_>>());
                told[0].log_prob = Some(-0.5);
                for (boundary, _) in text.char_indices().skip(1) {
                    if let Ok(score) = score(&told, text, boundary) {
                        let first = starts.iter().position(|&start| start == boundary);
                        assert_eq!(Some(starts.len() - score.n_tokens), first, "{pieces:?} {boundary}");
                        n_scored += 1;
                    } else {
                        n_unscored += 1;
                    }
                }
            }
        }
        assert!(n_scored > 10_000, "{n_scored} {n_unscored}");
    }

    #[test]
    fn an_echo_is_read_without_what_was_generated_behind_it() {
        let reply = |text: &str, usage: &str| {
            let logprobs = r#"{"tokens":["The"," boat"," lies"],"token_logprobs":[null,-1.5,-0.5],"top_logprobs":[null,{" ship":-0.4," boat":-1.5},{" lies":-0.5}],"text_offset":[0,3,8]}"#;
            read_reply(&format!(r#"{{"choices":[{{"text":"{text}","logprobs":{logprobs}}}]{usage}}}"#)).unwrap()
        };
        let scored = |text: &str, usage: &str, prompt: &str| {
            echoed(&reply(text, usage), prompt).and_then(|tokens| score(&tokens, prompt, 3))
        };
        let expected = Score { log_prob_nats: -1.5, n_tokens: 1, is_greedy: Some(false) };
        assert_eq!(scored("The boat lies", "", "The boat"), Ok(expected));
        assert_eq!(scored("The boat lies", r#","usage":{"completion_tokens":1}"#, "The boat"), Ok(expected));
        let whole = Score { log_prob_nats: -2.0, n_tokens: 2, is_greedy: Some(false) };
        assert_eq!(scored("The boat lies", r#","usage":{"completion_tokens":0}"#, "The boat lies"), Ok(whole));
        assert!(scored(" lies", "", "The boat").unwrap_err().contains("generated text alone"));
        assert!(scored("The boat lies", "", "The boat lies").unwrap_err().contains("how many tokens it generated"));
        assert!(scored("The boat lies", r#","usage":{"completion_tokens":7}"#, "The boat").is_err());
    }

    #[test]
    fn prompt_log_probabilities_are_read_though_the_first_token_has_no_name() {
        let text = r#"{"choices":[{"text":"x","prompt_logprobs":[null,{"5":{"logprob":-1.5,"rank":1,"decoded_token":" boat"}},{"9":{"logprob":-0.5,"rank":7,"decoded_token":" lies"}}]}]}"#;
        let tokens = of_prompt(read_reply(text).unwrap().choice.prompt_logprobs.as_ref().unwrap()).unwrap();
        let scored = |text: &str, boundary: usize| score(&tokens, text, boundary);
        let told = |log_prob_nats, n_tokens| Ok(Score { log_prob_nats, n_tokens, is_greedy: Some(false) });
        assert_eq!(scored("The boat lies", 8), told(-0.5, 1));
        assert_eq!(scored("The boat lies", 3), told(-2.0, 2));
        assert!(scored("The boat lies", 2).unwrap_err().contains("straddles"));
        assert!(scored("The boat lies", 0).unwrap_err().contains("first token of a text"));
        // The first one was put before the text.
        assert_eq!(scored(" boat lies", 0), told(-2.0, 2));
        let several = r#"{"choices":[{"prompt_logprobs":[{"5":{"logprob":-1.5},"6":{"logprob":-1}}]}]}"#;
        assert!(of_prompt(read_reply(several).unwrap().choice.prompt_logprobs.as_ref().unwrap()).is_err());
    }
}
