//! JSON Schemas of the records that are written as JSON, made from the types that read them.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::comparison::Comparison;
use crate::diagnosis::Diagnosis;
use crate::index::Index;
use crate::release::baseline::Blessed;
use crate::release::record::Judgement;

/// A record that is written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// `diagnosis.json`.
    Diagnosis,
    /// `comparison.json`.
    Comparison,
    /// What a gate says.
    Judgement,
    /// `baseline.json`.
    Baseline,
    /// What `index` says of many runs.
    Index,
}

impl Record {
    /// All records.
    pub const ALL: [Self; 5] = [Self::Diagnosis, Self::Comparison, Self::Judgement, Self::Baseline, Self::Index];

    /// As on the command line: `diagnosis`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diagnosis => "diagnosis",
            Self::Comparison => "comparison",
            Self::Judgement => "judgement",
            Self::Baseline => "baseline",
            Self::Index => "index",
        }
    }

    /// File of its schema in `docs/schemas`, which is the schema's `$id` too.
    pub fn file_name(self) -> String {
        format!("{}.schema.json", self.name())
    }
}

/// The schema of a record (draft 2020-12) as indented JSON, ending in a line feed.
///
/// It accepts what this program reads: keys that may be left out are not required, unknown keys and other versions are refused.
pub fn schema(record: Record) -> String {
    let generator = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(tidy)).into_generator();
    let mut schema = match record {
        Record::Diagnosis => generator.into_root_schema_for::<Diagnosis>(),
        Record::Comparison => generator.into_root_schema_for::<Comparison>(),
        Record::Judgement => generator.into_root_schema_for::<Judgement>(),
        Record::Baseline => generator.into_root_schema_for::<Blessed>(),
        Record::Index => generator.into_root_schema_for::<Index>(),
    };
    schema.insert("$id".to_owned(), record.file_name().into());
    schema.insert("title".to_owned(), format!("phasetrace {}", record.name()).into());
    serde_json::to_string_pretty(&schema).expect("a schema is plain JSON") + "\n"
}

/// Schema of a map whose keys are the names of an enum: a field's `schema_with`, as schemars takes such keys for any text.
pub(crate) fn keyed<K: JsonSchema, V: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": generator.subschema_for::<K>(),
        "additionalProperties": generator.subschema_for::<V>(),
    })
}

/// Takes out what only Rust's documentation reads: sizes of numbers as formats, links, line breaks within paragraphs.
fn tidy(schema: &mut Schema) {
    // `uint32`, `double`: no formats of JSON Schema, and strict validators refuse unknown ones.
    schema.remove("format");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        let paragraphs: Vec<String> = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
        *text = paragraphs.join("\n\n").replace("[`", "`").replace("`]", "`");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Record, schema};

    fn parse(record: Record) -> Value {
        serde_json::from_str(&schema(record)).unwrap()
    }

    #[test]
    fn a_schema_says_what_it_is_of_and_pins_the_version() {
        for record in Record::ALL {
            let schema = parse(record);
            assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
            assert_eq!(schema["$id"], json!(record.file_name()));
            assert_eq!(schema["title"], json!(format!("phasetrace {}", record.name())));
            assert!(schema["properties"]["version"]["const"].is_u64(), "{record:?}");
            assert_eq!(schema["additionalProperties"], json!(false));
        }
    }

    #[test]
    fn the_keys_of_a_map_are_the_names_of_its_enum() {
        let diagnosis = parse(Record::Diagnosis);
        let counts = &diagnosis["$defs"]["LineageDiagnosis"]["properties"]["n_failures"];
        assert_eq!(counts["propertyNames"], json!({ "$ref": "#/$defs/Behaviour" }));
        let names = diagnosis["$defs"]["Behaviour"]["oneOf"].as_array().unwrap();
        assert!(names.iter().any(|name| name["const"] == "over_refusal"), "{names:?}");
    }

    #[test]
    fn texts_are_those_of_the_records_without_marks_of_rust() {
        let text = schema(Record::Diagnosis);
        assert!(text.contains("Three plain sentences: what fails, which phase produced it, what to do."));
        assert!(text.contains("Format version, `DIAGNOSIS_VERSION`."), "links are written as code");
        assert!(!text.contains("\"uint32\"") && !text.contains("\"double\""));
    }
}
