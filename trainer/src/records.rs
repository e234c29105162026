//! Records of a data file, one at a time: JSON lines, the elements of a JSON array, or documents of plain text.
//!
//! A record is never held in memory beyond [`MAX_BYTES`], however long the file makes it.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest record that is read, in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// The line that ends a document in a file of plain text.
pub const DOCUMENT_END: &str = "<|endoftext|>";

/// The columns of a record by name.
pub type Row = Map<String, Value>;

/// One record of a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Line on which it begins, from 1; in a Parquet file its row.
    pub line: usize,
    /// Its columns, or why it has none.
    pub row: Result<Row, String>,
}

/// The records of a file, in order.
pub struct Records {
    path: PathBuf,
    source: Box<dyn BufRead>,
    layout: Layout,
    /// Line that is read next, from 1.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One JSON object per line; blank lines are passed over.
    Lines,
    /// One JSON array of objects, of which so many were read.
    Array(usize),
    /// Documents that end with the line [`DOCUMENT_END`] or the file.
    Text,
    /// Nothing more to read.
    Ended,
}

impl Records {
    /// Opens a file. `.txt` and `.md` are plain text; otherwise a file that begins with `[` is a JSON array, any other JSON lines.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, [`Error::Format`] where it is compressed or not UTF-8 by its first bytes.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::file("read", path)(error);
        let mut source = BufReader::new(File::open(path).map_err(failed)?);
        let mut start = Vec::new();
        source.by_ref().take(4).read_to_end(&mut start).map_err(failed)?;
        if let Some(reason) = refuse_format(&start) {
            return Err(Error::Format { path: path.to_path_buf(), reason });
        }
        let skipped = if start.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        // Reopened rather than sought back, which a pipe could not do either.
        let mut source = BufReader::new(File::open(path).map_err(failed)?);
        source.by_ref().take(skipped).read_to_end(&mut Vec::new()).map_err(failed)?;
        let is_text = path.extension().is_some_and(|name| name == "txt" || name == "md");
        let layout = if is_text { Layout::Text } else { Layout::Lines };
        let mut records = Self { path: path.to_path_buf(), source: Box::new(source), layout, line: 1 };
        if !is_text && records.skip_space().map_err(failed)? == Some(b'[') {
            records.source.consume(1);
            records.layout = Layout::Array(0);
        }
        Ok(records)
    }

    /// The records of JSON lines that a reader gives; errors name `path`.
    pub fn of_lines(path: &Path, source: impl BufRead + 'static) -> Self {
        Self { path: path.to_path_buf(), source: Box::new(source), layout: Layout::Lines, line: 1 }
    }

    /// Passes over white space; the byte after it, which is not consumed.
    fn skip_space(&mut self) -> std::io::Result<Option<u8>> {
        while let Some(&byte) = self.source.fill_buf()?.first() {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.line += usize::from(byte == b'\n');
            self.source.consume(1);
        }
        Ok(None)
    }

    /// The rest of a line without its end; `None` at the end of the file. What exceeds the limit is passed over.
    fn read_line(&mut self) -> std::io::Result<Option<Bounded>> {
        let mut line = Bounded::default();
        let limit = MAX_BYTES as u64 + 1;
        if self.source.by_ref().take(limit).read_until(b'\n', &mut line.bytes)? == 0 {
            return Ok(None);
        }
        if line.bytes.len() > MAX_BYTES && line.bytes.last() != Some(&b'\n') {
            line.is_cut = true;
            line.bytes.clear();
            let mut rest = Vec::new();
            while self.source.by_ref().take(limit).read_until(b'\n', &mut rest)? > 0 && rest.last() != Some(&b'\n') {
                rest.clear();
            }
        }
        self.line += 1;
        while line.bytes.last().is_some_and(|&byte| byte == b'\n' || byte == b'\r') {
            line.bytes.pop();
        }
        Ok(Some(line))
    }

    fn next_line(&mut self) -> std::io::Result<Option<Record>> {
        loop {
            let line = self.line;
            let Some(content) = self.read_line()? else { return Ok(None) };
            if content.is_cut || !content.bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Record { line, row: content.text().and_then(parse) }));
            }
        }
    }

    fn next_document(&mut self) -> std::io::Result<Option<Record>> {
        loop {
            let (line, mut document) = (self.line, Bounded::default());
            let mut is_last = true;
            while let Some(content) = self.read_line()? {
                if content.bytes == DOCUMENT_END.as_bytes() {
                    is_last = false;
                    break;
                }
                document.push(&content);
            }
            let is_blank = !document.is_cut && document.bytes.iter().all(u8::is_ascii_whitespace);
            if is_blank && is_last {
                return Ok(None);
            }
            if !is_blank {
                let text = document.text();
                let row = text.map(|text| Row::from_iter([("text".to_owned(), Value::from(text.trim_end()))]));
                return Ok(Some(Record { line, row }));
            }
        }
    }

    fn next_element(&mut self, n_read: usize) -> std::io::Result<Option<Record>> {
        let separator = self.skip_space()?;
        let mut line = self.line;
        let unended = |line| Ok(Some(Record { line, row: Err("the array does not end".to_owned()) }));
        match separator {
            Some(b']') => {
                self.source.consume(1);
                self.layout = Layout::Ended;
                let rest = self.skip_space()?;
                let line = self.line;
                return Ok(rest.map(|_| Record { line, row: Err("something follows the array".to_owned()) }));
            }
            Some(b',') if n_read > 0 => {
                self.source.consume(1);
                self.skip_space()?;
                line = self.line;
            }
            Some(_) => {}
            None => {
                self.layout = Layout::Ended;
                return unended(line);
            }
        }
        self.layout = Layout::Array(n_read + 1);
        let mut element = Bounded::default();
        let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
        loop {
            let Some(&byte) = self.source.fill_buf()?.first() else {
                self.layout = Layout::Ended;
                return unended(line);
            };
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if in_string => is_escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b',' | b']' if depth == 0 => break,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.line += usize::from(byte == b'\n');
            element.push_byte(byte);
            self.source.consume(1);
        }
        let row = element.text().and_then(parse).map_err(|reason| format!("element {}: {reason}", n_read + 1));
        Ok(Some(Record { line, row }))
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = match self.layout {
            Layout::Lines => self.next_line(),
            Layout::Array(n_read) => self.next_element(n_read),
            Layout::Text => self.next_document(),
            Layout::Ended => Ok(None),
        };
        if read.is_err() {
            self.layout = Layout::Ended;
        }
        read.map_err(Error::file("read", &self.path)).transpose()
    }
}

/// Bytes up to the limit.
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Bounded {
    fn push_byte(&mut self, byte: u8) {
        if self.bytes.len() < MAX_BYTES {
            self.bytes.push(byte);
        } else {
            self.is_cut = true;
        }
    }

    fn push(&mut self, line: &Self) {
        self.is_cut |= line.is_cut || self.bytes.len() + line.bytes.len() >= MAX_BYTES;
        if !self.is_cut {
            self.bytes.extend(&line.bytes);
            self.bytes.push(b'\n');
        }
    }

    fn text(self) -> Result<String, String> {
        if self.is_cut {
            return Err(format!("is longer than {} MiB", MAX_BYTES >> 20));
        }
        String::from_utf8(self.bytes)
            .map_err(|error| format!("is not UTF-8 from byte {} on", error.utf8_error().valid_up_to() + 1))
    }
}

/// Why a file that begins so is not read, where that can be told.
fn refuse_format(start: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 7] = [
        (b"\x1F\x8B", "is compressed (gzip); decompress it first"),
        (b"\x28\xB5\x2F\xFD", "is compressed (zstd); decompress it first"),
        (b"BZh", "is compressed (bzip2); decompress it first"),
        (b"\xFD7zX", "is compressed (xz); decompress it first"),
        (b"PK\x03\x04", "is a zip archive; unpack it first"),
        (b"\xFF\xFE", "is UTF-16; save it as UTF-8"),
        (b"\xFE\xFF", "is UTF-16; save it as UTF-8"),
    ];
    known.into_iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, reason)| reason)
}

fn parse(text: String) -> Result<Row, String> {
    match serde_json::from_str(&text).map_err(|error| crate::data::describe(&error))? {
        Value::Object(row) => Ok(row),
        other => Err(format!("expected a JSON object, found {}", name_type(&other))),
    }
}

/// What a value is, as messages call it.
pub(crate) fn name_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, Records};

    /// Line and row of each record, or its fault.
    fn read(name: &str, bytes: &[u8]) -> Vec<(usize, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let show = |row: Result<super::Row, String>| row.map_or_else(|reason| reason, |row| format!("{row:?}"));
        match Records::open(&path) {
            Ok(records) => records.map(Result::unwrap).map(|record| (record.line, show(record.row))).collect(),
            Err(error) => vec![(0, error.to_string().replace(&path.display().to_string(), "FILE"))],
        }
    }

    fn rows(name: &str, bytes: &[u8]) -> Vec<(usize, &'static str)> {
        let known = |text: String| match text.as_str() {
            "{\"a\": Number(1)}" => "1",
            "{\"a\": Number(2)}" => "2",
            _ => text.leak(),
        };
        read(name, bytes).into_iter().map(|(line, text)| (line, known(text))).collect()
    }

    #[test]
    fn lines_are_read_with_mark_carriage_returns_and_blanks() {
        assert_eq!(rows("a.jsonl", b"\xEF\xBB\xBF\r\n{\"a\":1}\r\n \n{\"a\":2}"), [(2, "1"), (4, "2")]);
        assert_eq!(rows("a.jsonl", b""), []);
    }

    #[test]
    fn an_array_is_read_element_by_element_at_its_lines() {
        let text = "\n[\n {\"a\":1},\n\n {\"a\":\n2} ]\n";
        assert_eq!(rows("a.json", text.as_bytes()), [(3, "1"), (5, "2")]);
        assert_eq!(rows("a.json", b"[]"), []);
        assert_eq!(read("a.json", b"[{\"a\":\"],\\\"[\"}]")[0].1, "{\"a\": String(\"],\\\"[\")}");
        assert_eq!(rows("a.json", b"[{\"a\":1}"), [(1, "the array does not end")]);
        assert_eq!(rows("a.json", b"[{\"a\":1},"), [(1, "1"), (1, "the array does not end")]);
        assert_eq!(rows("a.json", b"[{\"a\":1}]\nx"), [(1, "1"), (2, "something follows the array")]);
        let fault = rows("a.json", b"[{\"a\":1} {\"a\":2}]")[0].1;
        assert!(fault.starts_with("element 1: trailing characters"), "{fault}");
        assert!(rows("a.json", b"[,]")[0].1.starts_with("element 1: EOF"));
    }

    #[test]
    fn text_is_cut_into_documents() {
        let text = b"<|endoftext|>\none\n\ntwo\n<|endoftext|>\nthree\n";
        let expected = ["{\"text\": String(\"one\\n\\ntwo\")}", "{\"text\": String(\"three\")}"];
        assert_eq!(rows("a.txt", text), [(2, expected[0]), (6, expected[1])]);
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_reason() {
        assert_eq!(rows("a.jsonl", b"3\n"), [(1, "expected a JSON object, found a number")]);
        assert_eq!(rows("a.jsonl", b"{\"a\":1}\n{\"\xFF\":1}\n"), [(1, "1"), (2, "is not UTF-8 from byte 3 on")]);
        assert!(rows("a.jsonl", b"{\"a\":\"\0\"}")[0].1.starts_with("control character"));
        let deep = "{\"a\":".repeat(100_000);
        assert!(rows("a.jsonl", deep.as_bytes())[0].1.starts_with("recursion limit exceeded"));
        assert!(rows("a.json", format!("[{deep}").as_bytes())[0].1.contains("does not end"));
        for (mark, reason) in
            [(&b"\x1F\x8B\x08\x00"[..], "gzip"), (b"\xFF\xFE{\0", "UTF-16"), (b"\x28\xB5\x2F\xFD", "zstd")]
        {
            let found = read("a.jsonl", mark);
            assert!(found[0].1.starts_with("FILE: is ") && found[0].1.contains(reason), "{found:?}");
        }
    }

    #[test]
    fn a_record_beyond_the_limit_is_passed_over() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BYTES));
        let expected = "is longer than 16 MiB";
        assert_eq!(rows("a.jsonl", format!("{long}\n{{\"a\":1}}\n").as_bytes()), [(1, expected), (2, "1")]);
        assert_eq!(rows("a.txt", format!("{long}\n").as_bytes()), [(1, expected)]);
        let found = rows("a.json", format!("[{long},{{\"a\":1}}]").as_bytes());
        assert_eq!(found, [(1, "element 1: is longer than 16 MiB"), (1, "1")]);
    }
}
