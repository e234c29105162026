//! The processes that share a training run: who started them, how they find each other, and how they end together.

#[cfg(any(feature = "mpi", feature = "nccl"))]
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use lm::device::Device;
use trainer::ranks::Ranks;
use trainer::ranks::launch::{Launch, Launcher};

use crate::exit;
#[cfg(any(feature = "mpi", feature = "nccl"))]
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
    mpi: Option<Rc<trainer::ranks::Mpi>>,
    #[cfg(feature = "nccl")]
    patience: Duration,
}

impl Company {
    /// Finds the other processes. From then on this one ends, with a line that says so, where it is told to, as launchers do when another rank
    /// has ended, and where the others let it wait for longer than `patience`.
    pub(crate) fn join(launch: Option<&Launch>, patience: Duration) -> Result<Self> {
        match launch {
            Some(launch) => Self::meet(launch, patience),
            None => Ok(Self::new(None, Ranks::default(), patience)),
        }
    }

    #[cfg_attr(not(feature = "nccl"), expect(unused_variables, reason = "only GPUs are watched from here"))]
    fn new(launch: Option<&Launch>, ranks: Ranks, patience: Duration) -> Self {
        Self {
            launch: launch.cloned(),
            ranks,
            #[cfg(feature = "mpi")]
            mpi: None,
            #[cfg(feature = "nccl")]
            patience,
        }
    }

    #[cfg(not(any(feature = "mpi", feature = "nccl")))]
    fn meet(launch: &Launch, _: Duration) -> Result<Self> {
        Err(lonely(launch))
    }

    /// Meets the others where it is said where, otherwise, and where `mpirun` has started them, over MPI; as far as this program has either.
    #[cfg(any(feature = "mpi", feature = "nccl"))]
    fn meet(launch: &Launch, patience: Duration) -> Result<Self> {
        #[cfg(feature = "nccl")]
        if let Some((host, port)) = &launch.meeting
            && (cfg!(not(feature = "mpi")) || launch.launcher != Launcher::Mpirun)
        {
            watch_for_the_end(launch)?;
            let star = trainer::ranks::Star::join(launch.rank, launch.size, (host.as_str(), *port), patience)?;
            return Ok(Self::new(Some(launch), Ranks::new(Rc::new(star)), patience));
        }
        #[cfg(feature = "mpi")]
        if launch.launcher != Launcher::Torchrun {
            watch_for_the_end(launch)?;
            return Self::meet_over_mpi(launch, patience);
        }
        Err(lonely(launch))
    }

    #[cfg(feature = "mpi")]
    fn meet_over_mpi(launch: &Launch, patience: Duration) -> Result<Self> {
        use anyhow::{Context, bail};
        use trainer::ranks::{Communicator, Mpi};

        let mpi = Rc::new(Mpi::join(patience, give_up(launch, patience)).context("MPI was started twice")?);
        if mpi.size() != launch.size {
            bail!(
                "{} has started {} processes, but MPI knows of {}; is it the mpirun of another MPI library?",
                launch.launcher.name(),
                launch.size,
                mpi.size()
            );
        }
        Ok(Self { mpi: Some(mpi.clone()), ..Self::new(Some(launch), Ranks::new(mpi), patience) })
    }

    /// The ranks, for a trainer that computes on `device`: where that is a GPU, they find each other's over NCCL. To be called by all, once.
    pub(crate) fn ranks(&self, device: &Device) -> Result<Ranks> {
        let Some(launch) = self.launch.as_ref().filter(|_| !device.is_cpu()) else { return Ok(self.ranks.clone()) };
        #[cfg(feature = "nccl")]
        {
            let (ranks, patience) = (self.ranks.clone(), self.patience);
            let nccl = trainer::ranks::Nccl::join(ranks, device, patience, give_up(launch, patience))?;
            Ok(Ranks::new(Rc::new(nccl)))
        }
        #[cfg(not(feature = "nccl"))]
        {
            Err(trainer::Error::RanksOnGpu { n_ranks: launch.size }.into())
        }
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
        #[cfg(feature = "nccl")]
        {
            // Not by returning: the GPU may have work that waits for another rank.
            signal_hook::low_level::exit(i32::from(code))
        }
        #[cfg(not(feature = "nccl"))]
        {
            Ok(code)
        }
    }
}

/// Why the processes of this launch cannot find each other.
fn lonely(launch: &Launch) -> anyhow::Error {
    let why = match launch.launcher {
        _ if cfg!(not(any(feature = "mpi", feature = "nccl"))) => {
            "but this program was built without MPI and NCCL; build it with `--features mpi`, for GPUs with `--features nccl`, or start one"
        }
        Launcher::Torchrun if cfg!(not(feature = "nccl")) => {
            "which would meet over TCP; build this program with `--features nccl`, or start them by mpirun"
        }
        Launcher::Torchrun => "but not said where they meet; set MASTER_ADDR and MASTER_PORT",
        Launcher::Mpirun => {
            "but this program was built without MPI; build it with `--features mpi,nccl`, or say where they meet, at the host of rank 0: \
             `mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500`"
        }
        Launcher::Srun => {
            "but not said where they meet; set MASTER_PORT, or build this program with `--features mpi,nccl`"
        }
    };
    anyhow!("{} has started {} processes, {why}", launch.launcher.name(), launch.size)
}

/// Says what went wrong; not before rank 0 has said it, where it went wrong for all. Returns the exit code.
pub(crate) fn tell(error: &anyhow::Error, launch: Option<&Launch>) -> u8 {
    match launch {
        Some(launch) if launch.rank > 0 => {
            // Long enough for rank 0 to end all, if it fails as well.
            std::thread::sleep(Duration::from_secs(5));
            exit::tell(error, &format!("rank {} of {}: ", launch.rank, launch.size));
        }
        _ => exit::tell(error, ""),
    }
    exit::code(error)
}

#[cfg(any(feature = "mpi", feature = "nccl"))]
const GO_ON: &str = "what is saved is kept, and the same command goes on from there";

/// What a rank does that has waited too long.
#[cfg(any(feature = "mpi", feature = "nccl"))]
fn give_up(launch: &Launch, patience: Duration) -> impl Fn() + Send + use<> {
    let (rank, size, wall_s) = (launch.rank, launch.size, patience.as_secs_f64());
    move || {
        output::tell(&format!(
            "error: rank {rank} of {size} has waited {wall_s} s for another rank, which has ended or hangs; {GO_ON}\n"
        ));
        signal_hook::low_level::exit(i32::from(exit::ERROR));
    }
}

/// Ends this process with a line when it is told to end.
#[cfg(any(feature = "mpi", feature = "nccl"))]
fn watch_for_the_end(launch: &Launch) -> Result<()> {
    use signal_hook::consts::SIGTERM;

    let (rank, size) = (launch.rank, launch.size);
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
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
