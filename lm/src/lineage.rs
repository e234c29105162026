//! Where a checkpoint comes from, kept beside it.

use crate::device::{Device, describe, training_dtype};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
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
    /// What it was computed on, stretch after stretch; empty where that was the CPU, in f32, all along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub computed: Vec<Stretch>,
}

/// Steps of a phase that were computed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// Steps done before the first of them.
    pub after_step: u64,
    /// The device: `cpu`, or a GPU with its name.
    pub device: String,
    /// What activations were in: `f32` or `bf16`. Weights, their gradients and the optimizer's state are f32 everywhere.
    pub precision: String,
}

impl Stretch {
    /// What a phase computes on and in that begins, or goes on, on a device.
    pub fn on(device: &Device, after_step: u64) -> Self {
        Self { after_step, device: describe(device), precision: training_dtype(device).as_str().to_owned() }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.device, &self.precision) == (&other.device, &other.precision)
    }

    /// The stretches of a phase that `so_far` was computed like that and goes on like `next`, as a lineage keeps them.
    pub fn go_on(mut so_far: Vec<Self>, next: Self) -> Vec<Self> {
        let cpu = Self::on(&Device::Cpu, 0);
        if so_far.is_empty() && next.after_step > 0 {
            so_far.push(cpu.clone());
        }
        if so_far.last().is_none_or(|last| !last.is_like(&next)) {
            so_far.push(next);
        }
        if so_far == [cpu] { Vec::new() } else { so_far }
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} in {}", self.device, self.precision)
    }
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

#[cfg(test)]
mod tests {
    use super::Stretch;
    use crate::device::Device;

    #[test]
    fn a_lineage_tells_each_change_of_device_and_nothing_of_the_cpu_alone() {
        let cpu = |after_step| Stretch::on(&Device::Cpu, after_step);
        let gpu = |after_step| Stretch { after_step, device: "cuda:0, a GPU".to_owned(), precision: "bf16".to_owned() };
        assert_eq!(Stretch::go_on(Vec::new(), cpu(0)), []);
        assert_eq!(Stretch::go_on(Vec::new(), cpu(50)), []);
        assert_eq!(Stretch::go_on(Vec::new(), gpu(0)), [gpu(0)]);
        assert_eq!(Stretch::go_on(vec![gpu(0)], gpu(50)), [gpu(0)]);
        let moved = Stretch::go_on(Vec::new(), gpu(50));
        assert_eq!(moved, [cpu(0), gpu(50)]);
        assert_eq!(Stretch::go_on(moved, cpu(70)), [cpu(0), gpu(50), cpu(70)]);
        assert_eq!(gpu(0).to_string(), "cuda:0, a GPU in bf16");
    }
}
