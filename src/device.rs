//! The device that this process computes on, chosen once and before any work, as the number of threads is.

use std::sync::OnceLock;

use anyhow::Result;
use lm::LoadedModel;
use lm::device::{self, Device};
use trainer::folder::RunFolder;
use trainer::ranks::launch::Launch;

use crate::cli::Cli;
use crate::output;
use crate::progress::Bars;

/// What was chosen.
static CHOSEN: OnceLock<Chosen> = OnceLock::new();

#[derive(Debug)]
struct Chosen {
    device: Device,
    recomputes: bool,
}

/// Opens the device that the command line asks for.
///
/// # Errors
/// Where it is not there.
pub(crate) fn choose(cli: &Cli, launch: Option<&Launch>, bars: &Bars) -> Result<()> {
    let device = device::open(&name_of(&cli.device, launch))?;
    if !device.is_cpu() {
        let dtype = device::training_dtype(&device).as_str();
        bars.say(&format!(
            "{:>10}  {}: phases compute in {dtype}, questions in f32",
            "device",
            device::describe(&device)
        ));
    }
    // Nothing was chosen before: this is called once.
    CHOSEN.get_or_init(|| Chosen { device, recomputes: cli.recompute });
    Ok(())
}

/// The device of this process: where several are launched that are all to have a GPU, each has the one of its number on its machine.
fn name_of(asked: &str, launch: Option<&Launch>) -> String {
    match launch.and_then(|launch| launch.local_rank) {
        Some(local_rank) if asked == "cuda" => format!("cuda:{local_rank}"),
        _ => asked.to_owned(),
    }
}

/// The device; the CPU where none was chosen.
pub(crate) fn chosen() -> &'static Device {
    CHOSEN.get().map_or(&Device::Cpu, |chosen| &chosen.device)
}

/// A run folder whose phases compute as the command line asks for.
pub(crate) fn compute_in(folder: RunFolder) -> RunFolder {
    folder.on(chosen().clone()).recomputing(CHOSEN.get().is_some_and(|chosen| chosen.recomputes))
}

/// A model to be asked there; one of another architecture than ours stays on the CPU and is told of.
///
/// # Errors
/// Where memory for it lacks there.
pub(crate) fn ask_there(model: LoadedModel) -> Result<LoadedModel> {
    let model = model.on(chosen())?;
    if model.device().is_cpu() && !chosen().is_cpu() {
        output::tell("note: a model of this architecture is asked on the CPU: on a GPU plain Llama shapes are\n");
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::name_of;
    use trainer::ranks::launch::Launch;

    #[test]
    fn each_rank_has_a_gpu_of_its_own_unless_one_is_named() {
        let variables = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let launch = Launch::read(get).unwrap();
        let names = ["cpu", "cuda", "cuda:0"].map(|asked| name_of(asked, launch.as_ref()));
        assert_eq!(names, ["cpu", "cuda:1", "cuda:0"]);
        assert_eq!(name_of("cuda", None), "cuda");
    }
}
