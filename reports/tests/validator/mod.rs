//! Python's `jsonschema`, which judges JSON by a schema of any draft.
//!
//! No library of Rust does so without other features of what the whole program is built on, which would then be built twice.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const MISSING: &str = "no python3 with jsonschema (Debian: apt-get install python3-jsonschema)";

const PROGRAM: &str = "
import json, sys
try:
    import jsonschema
except ImportError:
    sys.exit(9)
asked = json.load(sys.stdin)
validator = jsonschema.validators.validator_for(asked['schema'])
validator.check_schema(asked['schema'])
errors = lambda value: ['/'.join(map(str, error.path)) + ': ' + error.message for error in validator(asked['schema']).iter_errors(value)]
json.dump([errors(value) for value in asked['values']], sys.stdout)
";

/// What a schema has against each value, nothing where it fits; `None`, said on standard error, where there is no Python with `jsonschema`.
/// All references of the schema must lie within it: nothing is fetched.
pub(crate) fn errors(schema: &Value, values: &[Value]) -> Option<Vec<Vec<String>>> {
    let mut python = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|_| skip(MISSING))
        .ok()?;
    // Where it ends at once it does not read.
    let _ =
        python.stdin.take().unwrap().write_all(json!({ "schema": schema, "values": values }).to_string().as_bytes());
    let output = python.wait_with_output().unwrap();
    if output.status.code() == Some(9) {
        skip(MISSING);
        return None;
    }
    assert!(output.status.success(), "python3 failed; see above");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Says on standard error, past the capture of the test harness, what is not tested here.
pub(crate) fn skip(what: &str) {
    // Nobody reading is no failure of the test.
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}
