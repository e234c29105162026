//! Text that a model, a recipe or a run name brought along, made safe to show.

use std::fmt::Write as _;

/// Longest model text shown, in characters.
pub(crate) const ANSWER_LIMIT: usize = 600;
/// Longest name shown (runs, phases, items, slices), in characters.
pub(crate) const NAME_LIMIT: usize = 64;
/// Longest text of any other kind, in characters.
pub(crate) const TEXT_LIMIT: usize = 2_000;

/// Combining marks kept on one base character; more of them would paint over neighbouring lines.
const MARKS_KEPT: usize = 3;

/// Makes every character of `text` harmless and visible, and cuts what exceeds `limit` with a note.
///
/// Control characters become their control pictures (`␛`). Characters that reorder or hide text (bidirectional overrides,
/// zero-width spaces, tags) become their code point in brackets, so that a reader sees that they were there.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit + 64));
    let mut marks = 0;
    let mut rest = text.chars();
    for (taken, c) in rest.by_ref().enumerate() {
        if taken == limit {
            let left = 1 + rest.count();
            let _ = write!(out, " … [{left} more characters not shown]");
            break;
        }
        marks = if is_combining(c) { marks + 1 } else { 0 };
        if marks > MARKS_KEPT {
            continue;
        }
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if text.contains("\r\n") => {}
            '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\0'..='\u{1f}' => out.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
            '\u{7f}' => out.push('\u{2421}'),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(out, "[U+{:04X}]", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// `clean` on one line, for names and table cells.
pub(crate) fn clean_line(text: &str, limit: usize) -> String {
    clean(text, limit).replace(['\n', '\t'], " ")
}

/// A name of a run, phase, item or slice.
pub(crate) fn clean_name(text: &str) -> String {
    clean_line(text, NAME_LIMIT)
}

/// Escapes cleaned text for HTML and SVG, in content and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text, TEXT_LIMIT).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A part of an address (RFC 3986, 2.3): all but unreserved characters and those of `kept` by their bytes.
pub(crate) fn percent_encoded(part: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn is_combining(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

// Zero-width joiners (U+200C, U+200D) are left alone: several scripts and emoji need them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_pictures_and_line_breaks_stay() {
        assert_eq!(clean("a\0b\u{1b}[31m\nc\td\u{7f}", 99), "a␀b␛[31m\nc\td␡");
        assert_eq!(clean("one\r\ntwo", 99), "one\ntwo");
    }

    #[test]
    fn characters_that_reorder_or_hide_text_are_spelt_out() {
        assert_eq!(
            clean("a\u{202e}b\u{2066}c\u{200b}d\u{feff}\u{85}", 99),
            "a[U+202E]b[U+2066]c[U+200B]d[U+FEFF][U+0085]"
        );
        assert_eq!(clean("x\u{e0041}", 99), "x[U+E0041]");
    }

    #[test]
    fn stacked_marks_are_cut() {
        let stacked = format!("a{}b", "\u{301}".repeat(500));
        assert_eq!(clean(&stacked, 9_999), format!("a{}b", "\u{301}".repeat(3)));
    }

    #[test]
    fn long_text_is_cut_with_a_note_of_what_is_missing() {
        assert_eq!(clean(&"ü".repeat(10), 4), "üüüü … [6 more characters not shown]");
        assert_eq!(clean("four", 4), "four");
    }

    #[test]
    fn what_means_something_in_an_address_is_encoded() {
        assert_eq!(percent_encoded("javascript:alert(1)", b""), "javascript%3Aalert%281%29");
        assert_eq!(percent_encoded("a b#c?d%e\\f\"ü/", b""), "a%20b%23c%3Fd%25e%5Cf%22%C3%BC%2F");
        assert_eq!(percent_encoded("../-_~9", b"/"), "../-_~9");
    }

    #[test]
    fn markup_is_escaped_in_content_and_attributes() {
        assert_eq!(escape("</svg><script>'\"&"), "&lt;/svg&gt;&lt;script&gt;&#39;&quot;&amp;");
    }
}
