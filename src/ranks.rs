//! The processes that share a training run: who started them, how they find each other, and how they end together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use trainer::ranks::Ranks;
use trainer::ranks::launch::Launch;

use crate::exit;
#[cfg(feature = "mpi")]
use crate::output;

/// Whether this process is about to say why it ends.
static IS_FAILING: AtomicBool = AtomicBool::new(false);

/// What the launcher says of this process; `None` where it trains alone.
pub(crate) fn launch() -> Result<Option<Launch>> {
    Ok(Launch::read(|name| std::env::var(name).ok())?.filter(|launch| launch.size > 1))
}

/// Refuses commands that several processes would each do on their own.
pub(crate) fn refuse(launch: &Launch) -> Result<u8> {
    let message = format!(
        "{} has started {} processes, but only `train` is shared by several; start one",
        launch.launcher.name(),
        launch.size
    );
    Err(exit::Usage(message).into())
}

/// The other processes of this launch.
pub(crate) struct Company {
    launch: Option<Launch>,
    ranks: Ranks,
    #[cfg(feature = "mpi")]
    mpi: Option<std::rc::Rc<trainer::ranks::Mpi>>,
}

impl Company {
    /// The ranks, for the trainer.
    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Trains; where that fails on one of several ranks, says so and ends all of them.
    pub(crate) fn share(&self, train: impl FnOnce() -> Result<u8>) -> Result<u8> {
        if self.launch.is_none() {
            return train();
        }
        // Neither an error nor a panic may come to where MPI is finalised: that waits for ranks that wait for this one.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(train));
        if let Ok(Ok(code)) = outcome {
            return Ok(code);
        }
        IS_FAILING.store(true, Ordering::Relaxed);
        let code = match outcome {
            Ok(Err(error)) => tell(&error, self.launch.as_ref()),
            _ => exit::ERROR,
        };
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            // Others that fail alike come to know it first, and then leave it to one to say so.
            std::thread::sleep(Duration::from_millis(200));
            mpi.abort(code);
        }
        Ok(code)
    }
}

/// Says what went wrong; not before rank 0 has said it, where it went wrong for all. Returns the exit code.
pub(crate) fn tell(error: &anyhow::Error, launch: Option<&Launch>) -> u8 {
    match launch {
        Some(launch) if launch.rank > 0 => {
            // Long enough for rank 0 to end all, if it fails as well.
            std::thread::sleep(Duration::from_secs(1));
            exit::tell(error, &format!("rank {} of {}: ", launch.rank, launch.size));
        }
        _ => exit::tell(error, ""),
    }
    exit::code(error)
}

#[cfg(not(feature = "mpi"))]
impl Company {
    /// Refuses several processes: this program cannot speak to them.
    pub(crate) fn join(launch: Option<&Launch>, _: Duration) -> Result<Self> {
        if let Some(launch) = launch {
            anyhow::bail!(
                "{} has started {} processes, but this program was built without MPI; build it with `--features mpi`, or start one",
                launch.launcher.name(),
                launch.size
            );
        }
        Ok(Self { launch: None, ranks: Ranks::default() })
    }
}

#[cfg(feature = "mpi")]
impl Company {
    /// Finds the other processes, over MPI. From then on this one ends, with a line that says so, where it is told to, as launchers do when
    /// another rank has ended, and where the others let it wait for longer than `patience`.
    pub(crate) fn join(launch: Option<&Launch>, patience: Duration) -> Result<Self> {
        use anyhow::{Context, bail};
        use trainer::ranks::launch::Launcher;
        use trainer::ranks::{Communicator, Mpi};

        let Some(launch) = launch else { return Ok(Self { launch: None, ranks: Ranks::default(), mpi: None }) };
        let (name, size) = (launch.launcher.name(), launch.size);
        if launch.launcher == Launcher::Torchrun {
            bail!("{name} has started {size} processes, which would meet over NCCL; that is not there yet, use mpirun");
        }
        watch_for_the_end(launch.clone())?;
        let own = launch.clone();
        let give_up = move || {
            let Launch { rank, size, .. } = own;
            let wall_s = patience.as_secs_f64();
            output::tell(&format!(
                "error: rank {rank} of {size} has waited {wall_s} s for another rank, which has ended or hangs; {GO_ON}\n"
            ));
            signal_hook::low_level::exit(i32::from(exit::ERROR));
        };
        let mpi = Mpi::join(patience, give_up).context("MPI was started twice")?;
        if mpi.size() != size {
            let found = mpi.size();
            bail!(
                "{name} has started {size} processes, but MPI knows of {found}; is it the mpirun of another MPI library?"
            );
        }
        let mpi = std::rc::Rc::new(mpi);
        Ok(Self { launch: Some(launch.clone()), ranks: Ranks::new(mpi.clone()), mpi: Some(mpi) })
    }
}

#[cfg(feature = "mpi")]
const GO_ON: &str = "what is saved is kept, and the same command goes on from there";

/// Ends this process with a line when it is told to end.
#[cfg(feature = "mpi")]
fn watch_for_the_end(launch: Launch) -> Result<()> {
    use signal_hook::consts::SIGTERM;

    let mut signals = signal_hook::iterator::Signals::new([SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let Launch { rank, size, .. } = launch;
            if !IS_FAILING.load(Ordering::Relaxed) {
                output::tell(&format!(
                    "error: rank {rank} of {size} was told to end, as happens when another rank has ended; {GO_ON}\n"
                ));
            }
            signal_hook::low_level::exit(128 + SIGTERM);
        }
    });
    Ok(())
}
