//! Where a checkpoint comes from, kept beside it.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// File name in a checkpoint folder.
pub const FILE: &str = "lineage.json";
/// Version of the format that this crate writes, and the newest it reads.
pub const VERSION: u32 = 1;

/// Where a checkpoint comes from: what ran, on what, from which parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// The phase that produced the checkpoint.
    pub phase: String,
    /// Content hash of the weights it started from, none where these were drawn.
    pub parent: Option<String>,
    /// The part of the recipe that ran, as text.
    pub recipe: String,
    /// SHA-256 of each data file that was read.
    pub data_hashes: BTreeMap<String, String>,
    /// Seed of all its random draws.
    pub seed: u64,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Version of the program that ran.
    pub phasetrace_version: String,
    /// Final figures of the phase.
    pub metrics: BTreeMap<String, f64>,
}

impl Lineage {
    /// Reads the lineage of a checkpoint folder; a folder made elsewhere has none.
    ///
    /// # Errors
    /// Where the file is there but is not a lineage of a version that this program reads.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let lineage: Self =
            serde_json::from_str(&text).map_err(|source| Error::BadJson { path: path.clone(), source })?;
        if lineage.version != VERSION {
            return Err(Error::BadConfig {
                path,
                key: "version".to_owned(),
                value: lineage.version.to_string(),
                supported: format!("this program reads version {VERSION}"),
            });
        }
        Ok(Some(lineage))
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a lineage prints");
        text.push('\n');
        text
    }
}
