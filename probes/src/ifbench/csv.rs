//! Rows of fields as Python's `csv.reader` reads them.
//!
//! Quotes are allowed in the middle of a field and after a quoted part of one, an empty line is a row without fields, and a quotation that
//! is not closed ends with the text.
//!
//! # Reference
//! CPython 3.11, `Modules/_csv.c`, `parse_process_char`, dialect "excel".

#[derive(Clone, Copy, PartialEq)]
enum State {
    StartRow,
    StartField,
    InField,
    InQuotes,
    QuoteInQuotes,
    EatLineEnd,
}

#[derive(Default)]
struct Row {
    fields: Vec<String>,
    field: String,
}

impl Row {
    fn save(&mut self) {
        self.fields.push(std::mem::take(&mut self.field));
    }
}

/// The rows of a text; `None` where the reader gives up, at a carriage return within a line.
pub(super) fn rows(text: &str, delimiter: char) -> Option<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let mut row = Row::default();
    let mut state = State::StartRow;
    for line in text.split_inclusive('\n') {
        // `None` is the end of the line.
        for c in line.chars().map(Some).chain([None]) {
            state = step(&mut row, state, c, delimiter)?;
        }
        if state == State::StartRow {
            rows.push(std::mem::take(&mut row).fields);
        }
    }
    if state == State::InQuotes || !row.field.is_empty() {
        row.save();
        rows.push(row.fields);
    }
    Some(rows)
}

fn step(row: &mut Row, state: State, c: Option<char>, delimiter: char) -> Option<State> {
    let at_end = if c.is_none() { State::StartRow } else { State::EatLineEnd };
    match (state, c) {
        (State::InQuotes, None) => Some(state),
        (State::InQuotes, Some('"')) => Some(State::QuoteInQuotes),
        (State::QuoteInQuotes, Some('"')) | (State::InQuotes, _) => {
            row.field.extend(c);
            Some(State::InQuotes)
        }
        (State::StartRow | State::EatLineEnd, None | Some('\n' | '\r')) => Some(at_end),
        (State::EatLineEnd, _) => None,
        (_, None | Some('\n' | '\r')) => {
            row.save();
            Some(at_end)
        }
        (State::StartRow | State::StartField, Some('"')) => Some(State::InQuotes),
        (_, Some(c)) if c == delimiter => {
            row.save();
            Some(State::StartField)
        }
        (_, Some(c)) => {
            row.field.push(c);
            Some(State::InField)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn rows_are_pythons() {
        // list(csv.reader(io.StringIO(text)))
        let cases: [(&str, &[&[&str]]); 7] = [
            ("a,b\n\n1,\n", &[&["a", "b"], &[], &["1", ""]]),
            ("\"a\nb\",\"c\"\"d\"e", &[&["a\nb", "c\"de"]]),
            ("a\"b\",c\r\nd", &[&["a\"b\"", "c"], &["d"]]),
            ("\"open\nx", &[&["open\nx"]]),
            ("", &[]),
            (",", &[&["", ""]]),
            ("\"\"\"a\"\"\",\"\"\"b\"\"\"\n", &[&["\"a\"", "\"b\""]]),
        ];
        for (text, expected) in cases {
            assert_eq!(rows(text, ',').unwrap(), expected, "{text:?}");
        }
        assert_eq!(rows("a\tb", '\t').unwrap(), [["a", "b"]]);
        assert_eq!(rows("a\rb", ','), None);
    }
}
