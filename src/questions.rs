//! What is asked, as the command line says it: a bank, or benchmarks from their official files.

use std::path::PathBuf;

use anyhow::{Result, bail};
use probes::bank::Bank;

use crate::cli::QuestionArgs;
use crate::exit::Usage;

impl QuestionArgs {
    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        self.bank.is_none() && self.benchmarks.is_empty() && self.judge.is_none()
    }

    /// Reads the questions; `None` where nothing is said.
    pub(crate) fn load(&self) -> Result<Option<Bank>> {
        if !self.benchmarks.is_empty() {
            return Ok(Some(Bank::of_benchmarks(&parse(&self.benchmarks)?)?));
        }
        Ok(self.bank.as_deref().map(Bank::load).transpose()?)
    }
}

/// `NAME=FILE` each; a benchmark that needs no file is a name alone.
fn parse(benchmarks: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut parsed: Vec<(String, PathBuf)> = Vec::new();
    for text in benchmarks {
        let (name, path) = text.split_once('=').unwrap_or((text, ""));
        if parsed.iter().any(|(other, _)| other == name) {
            bail!(Usage(format!("--benchmark {text}: `{name}` is given twice")));
        }
        parsed.push((name.to_owned(), PathBuf::from(path)));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_a_name_and_a_file_each_and_given_once() {
        let given = |texts: &[&str]| parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let parsed = given(&["xstest=a=b.csv", "hierarchy"]).unwrap();
        assert_eq!(parsed, [("xstest".to_owned(), "a=b.csv".into()), ("hierarchy".to_owned(), "".into())]);
        let error = given(&["xstest=a.csv", "xstest=b.csv"]).unwrap_err().to_string();
        assert_eq!(error, "--benchmark xstest=b.csv: `xstest` is given twice");
    }
}
