//! The log of a phase, read on from where it was read to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use reports::progress::Course;

/// What was read of a log so far.
#[derive(Debug, Default)]
pub(crate) struct FollowedLog {
    course: Course,
    /// Bytes of all whole lines.
    read: u64,
    /// The last of them, by which a log that was written anew is known.
    last: Vec<u8>,
}

impl FollowedLog {
    /// What the log tells so far.
    pub(crate) fn course(&self) -> &Course {
        &self.course
    }

    /// Reads the lines that have come since the last time. A log that was cut back, as a resumed phase does, is read anew; where there is
    /// none, nothing is told.
    pub(crate) fn read_on(&mut self, path: &Path) -> Result<()> {
        match File::open(path) {
            Ok(file) => self.read_lines(file).with_context(|| format!("cannot read {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                *self = Self::default();
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn read_lines(&mut self, file: File) -> io::Result<()> {
        let mut file = BufReader::new(file);
        if !self.goes_on_in(&mut file)? {
            *self = Self::default();
            file.rewind()?;
        }
        loop {
            let mut line = Vec::new();
            file.read_until(b'\n', &mut line)?;
            // A line that its writer has not ended yet is read when it has.
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            self.course.add_line(&line);
            self.read += line.len() as u64;
            self.last = line;
        }
    }

    /// Whether the last line that was read is still in its place; the file then stands behind it.
    fn goes_on_in(&self, file: &mut BufReader<File>) -> io::Result<bool> {
        let mut found = vec![0; self.last.len()];
        file.seek(SeekFrom::Start(self.read - self.last.len() as u64))?;
        match file.read_exact(&mut found) {
            Ok(()) => Ok(found == self.last),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn line(step: u64, loss: f64) -> String {
        format!("{{\"step\":{step},\"loss_nats\":{loss:.3},\"tokens\":10,\"tokens_per_s\":5.0}}\n")
    }

    fn read_anew(path: &Path) -> Course {
        let mut log = FollowedLog::default();
        log.read_on(path).unwrap();
        log.course().clone()
    }

    #[test]
    fn a_log_is_read_on_and_what_was_read_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft.jsonl");
        let mut log = FollowedLog::default();
        log.read_on(&path).unwrap();
        assert_eq!(log.course().step(), 0, "there is no log yet");

        fs::write(&path, line(1, 2.0) + &line(2, 1.5)).unwrap();
        log.read_on(&path).unwrap();
        assert_eq!(log.course(), &read_anew(&path));
        // Were it read again, the other value of the first step would show.
        let before = log.course().clone();
        fs::write(&path, line(1, 9.0) + &line(2, 1.5)).unwrap();
        log.read_on(&path).unwrap();
        assert_eq!(log.course(), &before);
        assert_ne!(log.course(), &read_anew(&path));
    }

    #[test]
    fn a_line_counts_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft.jsonl");
        let whole = line(1, 2.0);
        let (half, rest) = whole.split_at(20);
        let mut log = FollowedLog::default();
        fs::write(&path, half).unwrap();
        log.read_on(&path).unwrap();
        assert_eq!(log.course().step(), 0);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(rest.as_bytes()).unwrap();
        file.write_all(&line(2, 1.0).as_bytes()[..30]).unwrap();
        log.read_on(&path).unwrap();
        assert_eq!(log.course().step(), 1);
        assert_eq!(log.course(), &read_anew(&path));
    }

    #[test]
    fn a_log_that_was_cut_back_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft.jsonl");
        let text = |losses: &[f64]| (1..).zip(losses).map(|(step, &loss)| line(step, loss)).collect::<String>();
        let mut log = FollowedLog::default();
        fs::write(&path, text(&[2.0, 1.9, 1.8, 1.7])).unwrap();
        log.read_on(&path).unwrap();
        // Shorter than what was read; then longer again, with another line where the last one was.
        for losses in [&[2.0, 1.9][..], &[2.0, 1.5, 1.4, 1.3, 1.2]] {
            fs::write(&path, text(losses)).unwrap();
            log.read_on(&path).unwrap();
            assert_eq!(log.course(), &read_anew(&path));
            assert_eq!(log.course().step(), losses.len() as u64);
        }
        fs::remove_file(&path).unwrap();
        log.read_on(&path).unwrap();
        assert_eq!(log.course(), &Course::default());
    }
}
