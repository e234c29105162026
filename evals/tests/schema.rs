//! The files in `docs/schemas` are what the types of the records say.

use std::fs;
use std::path::Path;

use evals::schema::{Record, schema};

#[test]
fn the_schemas_in_the_repository_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    for record in Record::ALL {
        let (path, made) = (folder.join(record.file_name()), schema(record));
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &made).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == made,
            "{} is not what the types say; docs/schemas/README.md says when the version rises, and \
             `UPDATE_SCHEMAS=1 cargo test -p evals --test schema` writes it anew",
            path.display()
        );
    }
}
