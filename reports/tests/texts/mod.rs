//! The texts of a record, to be exchanged for others: every string that may be any string, found by trying.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A record, where its texts stand, and which there are.
pub(crate) struct Texts {
    record: Value,
    places: BTreeSet<String>,
    known: Vec<String>,
}

impl Texts {
    /// Finds the texts of a record: strings, and keys of maps. Names that mean something to the program, such as those of fields and
    /// behaviours, are none: with another name the record is not read, or read as another.
    pub(crate) fn of<R: Serialize + DeserializeOwned>(record: &R) -> Self {
        let record = serde_json::to_value(record).unwrap();
        let mut places = BTreeSet::new();
        exchange(&record, "", &mut |place, old| {
            places.insert(place.to_owned());
            old.to_owned()
        });
        places.retain(|tried| {
            let changed = exchange(&record, "", &mut |place, old| {
                if place == tried { format!("{old}~") } else { old.to_owned() }
            });
            serde_json::from_value::<R>(changed.clone())
                .is_ok_and(|read| serde_json::to_value(&read).unwrap() == changed)
        });
        let mut known = BTreeSet::new();
        exchange(&record, "", &mut |place, old| {
            if places.contains(place) {
                known.insert(old.to_owned());
            }
            old.to_owned()
        });
        Self { record, places, known: known.into_iter().collect() }
    }

    /// The record with other texts. `text` is given the rank of the old one among all; what was the same stays the same, so that
    /// what refers to something by its name still does.
    pub(crate) fn with<R: DeserializeOwned>(&self, text: impl Fn(usize) -> String) -> R {
        let exchanged = exchange(&self.record, "", &mut |place, old| {
            if !self.places.contains(place) {
                return old.to_owned();
            }
            text(self.known.binary_search_by(|text| text.as_str().cmp(old)).unwrap())
        });
        serde_json::from_value(exchanged).unwrap()
    }
}

/// A copy in which `exchange_one(place, string)` stands for every string and every key. The place is the way there, of keys alone; the
/// keys of an object have one place together.
fn exchange(value: &Value, place: &str, exchange_one: &mut dyn FnMut(&str, &str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(exchange_one(place, text)),
        Value::Array(entries) => entries.iter().map(|entry| exchange(entry, place, exchange_one)).collect(),
        Value::Object(entries) => {
            let keys = format!("{place}/*");
            let exchanged = entries.iter().map(|(key, entry)| {
                let below = exchange(entry, &format!("{place}/{key}"), exchange_one);
                (exchange_one(&keys, key), below)
            });
            exchanged.collect()
        }
        other => other.clone(),
    }
}
