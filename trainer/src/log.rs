//! What a phase writes about each step: a JSON line, and the same as TensorBoard events.
//!
//! Logs tell how a run went and carry clock times, so they are no artifacts: nothing is computed from them but the log itself.
//! When a phase resumes, its log is cut back to the step it resumes from.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The open logs of one phase.
#[derive(Debug)]
pub(crate) struct StepLog {
    lines: (PathBuf, File),
    events: (PathBuf, File),
}

/// One step's numbers by name, in the order they are written; holds `step` and `unix_s`.
pub(crate) type Record = Map<String, Value>;

impl StepLog {
    /// Opens `DIR/PHASE.jsonl` and `DIR/tb/PHASE/events.out.tfevents.*`, keeping what was logged up to `last_step`.
    ///
    /// # Errors
    /// Where the files cannot be read or written.
    pub(crate) fn open(dir: &Path, phase: &str, last_step: u64) -> Result<Self> {
        let lines_path = dir.join(format!("{phase}.jsonl"));
        let events_dir = dir.join("tb").join(phase);
        let events_path = events_dir.join("events.out.tfevents.0.phasetrace");
        fs::create_dir_all(&events_dir).map_err(Error::file("create", &events_dir))?;
        let mut lines = String::new();
        let mut events = frame(&encode_version());
        for record in read_records(&lines_path)? {
            if step_of(&record).is_some_and(|step| step <= last_step) {
                push_line(&mut lines, &record);
                events.extend(frame(&encode_event(&record)));
            }
        }
        replace(&lines_path, lines.as_bytes())?;
        replace(&events_path, &events)?;
        let lines = (lines_path.clone(), open_end(&lines_path)?);
        Ok(Self { lines, events: (events_path.clone(), open_end(&events_path)?) })
    }

    /// Appends one step.
    ///
    /// # Errors
    /// Where the files cannot be written.
    pub(crate) fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = String::new();
        push_line(&mut line, record);
        let (path, file) = &mut self.lines;
        file.write_all(line.as_bytes()).map_err(Error::file("write", path))?;
        let (path, file) = &mut self.events;
        file.write_all(&frame(&encode_event(record))).map_err(Error::file("write", path))
    }
}

/// The records of a log, if there is one. A torn last line, as a killed process leaves it, is passed over.
fn read_records(path: &Path) -> Result<Vec<Record>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn step_of(record: &Record) -> Option<u64> {
    record.get("step").and_then(Value::as_u64)
}

fn push_line(text: &mut String, record: &Record) {
    text.push_str(&serde_json::to_string(record).expect("numbers print"));
    text.push('\n');
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes).map_err(Error::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::file("rename", path))
}

fn open_end(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(Error::file("write", path))
}

/// A `TFRecord`: length, its checksum, data, its checksum; all little-endian.
///
/// # Reference
/// TensorFlow, `tensorflow/core/lib/io/record_writer.h`; the mask is `lib/hash/crc32c.h`.
fn frame(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    let mut record = len.to_vec();
    record.extend(masked_checksum(&len).to_le_bytes());
    record.extend(data);
    record.extend(masked_checksum(data).to_le_bytes());
    record
}

fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The event that begins a file: `Event { wall_time: 0, file_version: "brain.Event:2" }`.
fn encode_version() -> Vec<u8> {
    let mut event = encode_double(1, 0.0);
    event.extend(encode_bytes(3, b"brain.Event:2"));
    event
}

/// `Event { wall_time = 1, step = 2, summary = 5 }` with `Summary { value = 1 }` and `Value { tag = 1, simple_value = 2 }`.
///
/// # Reference
/// TensorFlow, `tensorflow/core/util/event.proto` and `tensorflow/core/framework/summary.proto`.
fn encode_event(record: &Record) -> Vec<u8> {
    let mut event = encode_double(1, record.get("unix_s").and_then(Value::as_f64).unwrap_or(0.0));
    event.push(2 << 3);
    event.extend(encode_varint(step_of(record).unwrap_or(0)));
    let mut summary = Vec::new();
    for (name, value) in record {
        if let (false, Some(number)) = (name == "step" || name == "unix_s", value.as_f64()) {
            let mut scalar = encode_bytes(1, name.as_bytes());
            scalar.push((2 << 3) | 5);
            scalar.extend((number as f32).to_le_bytes());
            summary.extend(encode_bytes(1, &scalar));
        }
    }
    event.extend(encode_bytes(5, &summary));
    event
}

fn encode_double(field: u8, value: f64) -> Vec<u8> {
    let mut bytes = vec![(field << 3) | 1];
    bytes.extend(value.to_le_bytes());
    bytes
}

fn encode_bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(field << 3) | 2];
    bytes.extend(encode_varint(value.len() as u64));
    bytes.extend(value);
    bytes
}

fn encode_varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Record, StepLog, masked_checksum};
    use serde_json::{Value, json};
    use std::fs;
    use std::path::Path;

    fn record(step: u64, loss: f64) -> Record {
        let Value::Object(record) = json!({ "step": step, "loss_nats": loss, "unix_s": 1.5 }) else { unreachable!() };
        record
    }

    /// Steps and scalars of an event file, each checksum verified.
    fn decode(path: &Path) -> Vec<(u64, Vec<(String, f32)>)> {
        let bytes = fs::read(path).unwrap();
        let mut at = 0;
        let mut events = Vec::new();
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        while at < bytes.len() {
            let len = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            assert_eq!(u32_at(at + 8), masked_checksum(&bytes[at..at + 8]));
            let data = &bytes[at + 12..at + 12 + len];
            assert_eq!(u32_at(at + 12 + len), masked_checksum(data));
            events.push(decode_event(data));
            at += len + 16;
        }
        events
    }

    fn decode_event(data: &[u8]) -> (u64, Vec<(String, f32)>) {
        let (mut step, mut scalars) = (0, Vec::new());
        for (field, number, payload) in fields(data) {
            match field {
                2 => step = number,
                5 => {
                    for (_, _, value) in fields(payload) {
                        let mut scalar = (String::new(), f32::NAN);
                        for (field, _, payload) in fields(value) {
                            match field {
                                1 => scalar.0 = String::from_utf8(payload.to_vec()).unwrap(),
                                _ => scalar.1 = f32::from_le_bytes(payload.try_into().unwrap()),
                            }
                        }
                        scalars.push(scalar);
                    }
                }
                _ => {}
            }
        }
        (step, scalars)
    }

    /// Fields of a protocol buffer: number, varint, payload.
    fn fields(mut data: &[u8]) -> Vec<(u8, u64, &[u8])> {
        let varint = |data: &mut &[u8]| {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = data[0];
                *data = &data[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        };
        let mut found = Vec::new();
        while !data.is_empty() {
            let (field, kind) = (data[0] >> 3, data[0] & 7);
            data = &data[1..];
            let len = match kind {
                0 => {
                    let number = varint(&mut data);
                    found.push((field, number, &data[..0]));
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => varint(&mut data) as usize,
            };
            found.push((field, 0, &data[..len]));
            data = &data[len..];
        }
        found
    }

    #[test]
    fn events_decode_to_what_was_logged() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = StepLog::open(folder.path(), "sft", 0).unwrap();
        log.write(&record(1, 2.5)).unwrap();
        log.write(&record(300, 1.25)).unwrap();
        let events = decode(&folder.path().join("tb/sft/events.out.tfevents.0.phasetrace"));
        let scalar = |loss| vec![("loss_nats".to_owned(), loss)];
        assert_eq!(events, [(0, vec![]), (1, scalar(2.5)), (300, scalar(1.25))]);
    }

    #[test]
    fn the_checksum_is_that_of_tensorflow() {
        // Event files begin with the length 24 and these four bytes, as any hex dump of one shows.
        assert_eq!(masked_checksum(&24_u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_resumed_log_is_cut_back_and_forgets_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = StepLog::open(folder.path(), "sft", 0).unwrap();
        for step in 1..=5 {
            log.write(&record(step, 1.0)).unwrap();
        }
        let path = folder.path().join("sft.jsonl");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\":6,\"lo");
        fs::write(&path, text).unwrap();
        let mut log = StepLog::open(folder.path(), "sft", 3).unwrap();
        log.write(&record(4, 9.0)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(text.ends_with("{\"step\":4,\"loss_nats\":9.0,\"unix_s\":1.5}\n"), "{text}");
        assert_eq!(decode(&folder.path().join("tb/sft/events.out.tfevents.0.phasetrace")).len(), 5);
    }
}
