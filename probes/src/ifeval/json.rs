//! Whether Python's `json.loads` would take a text: JSON, and a few things beside it.

/// Values within values that Python takes before it gives up.
const MAX_DEPTH: usize = 990;

/// Whether the text is one value of JSON as Python reads it: `NaN`, `Infinity`, numbers beyond a double and lone surrogates are taken.
pub(super) fn is_json(text: &str) -> bool {
    let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
    reader.value(0).is_some() && reader.at == reader.bytes.len()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// `None` is where the text is no JSON.
impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, text: &str) -> Option<()> {
        let is_there = self.bytes[self.at..].starts_with(text.as_bytes());
        self.at += if is_there { text.len() } else { 0 };
        is_there.then_some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        match self.peek()? {
            b'{' => self.list("}", |reader| {
                reader.string()?;
                reader.skip_space();
                reader.take(":")?;
                reader.value(depth + 1)
            })?,
            b'[' => self.list("]", |reader| reader.value(depth + 1))?,
            b'"' => self.string()?,
            b'n' => self.take("null")?,
            b't' => self.take("true")?,
            b'f' => self.take("false")?,
            b'N' => self.take("NaN")?,
            b'I' => self.take("Infinity")?,
            _ => self.number()?,
        }
        self.skip_space();
        Some(())
    }

    /// What stands between a bracket and its partner `end`, with commas between the members.
    fn list(&mut self, end: &str, mut member: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.skip_space();
        if self.take(end).is_some() {
            return Some(());
        }
        loop {
            self.skip_space();
            member(self)?;
            self.skip_space();
            if self.take(end).is_some() {
                return Some(());
            }
            self.take(",")?;
        }
    }

    fn string(&mut self) -> Option<()> {
        self.take("\"")?;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => {
                    self.at += 1;
                    let n_digits = match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 0,
                        b'u' => 4,
                        _ => return None,
                    };
                    let digits = self.bytes.get(self.at + 1..=self.at + n_digits)?;
                    self.at += digits.iter().all(u8::is_ascii_hexdigit).then_some(1 + n_digits)?;
                }
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
            if self.take("Infinity").is_some() {
                return Some(());
            }
        }
        if self.take("0").is_none() {
            self.digits()?;
        }
        // What does not go on as a number ends it: Python then finds more text than one value.
        let end = self.at;
        if self.take(".").is_some() && self.digits().is_none() {
            self.at = end;
            return Some(());
        }
        let end = self.at;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits().is_none() {
                self.at = end;
            }
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn takes_what_pythons_json_takes() {
        for text in [
            "{}",
            "[]",
            " [ 1 , -0.5e+3 ] ",
            "\"a\\u00e9\\n\"",
            "NaN",
            "[-Infinity]",
            "1e999",
            "\"\\ud800\"",
            "{\"a\":{\"b\":[null,true]}}",
            "\"\u{7f}ü\"",
        ] {
            assert!(is_json(text), "{text}");
        }
    }

    #[test]
    fn refuses_what_pythons_json_refuses() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "01",
            "1.",
            "1.e3",
            "-",
            "+1",
            "\"a",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "1 2",
            "nul",
            "[1}",
            "{\"a\"}",
            "\u{feff}1",
            "\u{a0}1",
            "{\"a\" 1}",
            "```\n{}",
        ] {
            assert!(!is_json(text), "{text}");
        }
        assert!(!is_json(&"[".repeat(100_000)));
    }
}
