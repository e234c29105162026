//! Which rank of how many a process is, as its launcher says in environment variables.

use crate::error::{Error, Result};

/// What a launcher says of a process that it has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Who started it.
    pub launcher: Launcher,
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number of this process among those of its machine, where the launcher says so.
    pub local_rank: Option<usize>,
    /// Number of processes on its machine, where the launcher says so.
    pub local_size: Option<usize>,
    /// Host and port where the ranks meet that do not find each other through MPI.
    pub meeting: Option<(String, u16)>,
}

/// Who starts processes that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `mpirun` of Open MPI, MPICH or Intel MPI.
    Mpirun,
    /// `torchrun`, or whoever sets the same variables.
    Torchrun,
    /// Slurm's `srun`.
    Srun,
}

impl Launcher {
    /// The command that people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mpirun => "mpirun",
            Self::Torchrun => "torchrun",
            Self::Srun => "srun",
        }
    }
}

/// Names of the variables of a launcher: rank, size, and both on one machine.
type Names = (Launcher, [&'static str; 4]);

const OPEN_MPI: Names = (
    Launcher::Mpirun,
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
);
const HYDRA: Names = (Launcher::Mpirun, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]);
const TORCHRUN: Names = (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]);
// Of the step, not of the job: in a batch script the job's are set as well, and what runs there was not started by `srun`.
const SRUN: Names = (Launcher::Srun, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""]);

impl Launch {
    /// What the variables say, of which `get` returns the value; `None` where no launcher has set any.
    ///
    /// Those of `mpirun` and `torchrun` have to agree where both are set. Slurm's are read where neither is: it also starts the daemons of the
    /// other two, whose variables then tell of these.
    ///
    /// # Errors
    /// [`Error::Launch`] for variables that are no numbers, are missing beside others, or contradict each other.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let get = |name: &str| get(name).filter(|value| !name.is_empty() && !value.is_empty());
        let mut found: Option<(Self, Names)> = None;
        for names in [OPEN_MPI, HYDRA, TORCHRUN] {
            let Some(launch) = Self::of(&names, &get)? else { continue };
            let Some((known, of_known)) = &mut found else {
                found = Some((launch, names));
                continue;
            };
            if (known.rank, known.size) != (launch.rank, launch.size) {
                let say =
                    |(_, [rank, size, ..]): &Names, of: &Self| format!("{rank}={} of {size}={}", of.rank, of.size);
                return fail(format!("{} contradicts {}", say(of_known, known), say(&names, &launch)));
            }
            known.local_rank = known.local_rank.or(launch.local_rank);
            known.local_size = known.local_size.or(launch.local_size);
            known.meeting = known.meeting.take().or(launch.meeting);
        }
        match found {
            Some((launch, _)) => Ok(Some(launch)),
            None if get("SLURM_STEP_NUM_TASKS").is_some() => Self::of(&SRUN, &get),
            None => Ok(None),
        }
    }

    fn of((launcher, names): &Names, get: &impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| match get(name) {
            Some(text) => match text.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => fail(format!("{name}={text} is not a whole number")),
            },
            None => Ok(None),
        };
        let [rank, size, local_rank, local_size] = *names;
        let (rank, size) = match (number(rank)?, number(size)?) {
            (None, None) => return Ok(None),
            (Some(_), None) => return fail(format!("{rank} is set, but {size} is not")),
            (None, Some(_)) => return fail(format!("{size} is set, but {rank} is not")),
            (Some(n), Some(of)) if n >= of => return fail(format!("{rank}={n} is not below {size}={of}")),
            (Some(rank), Some(size)) => (rank, size),
        };
        let (local_rank, local_size) = (number(local_rank)?, number(local_size)?);
        let meeting = match launcher {
            // It needs none. Where both are set, somebody has passed them on.
            Launcher::Mpirun if get("MASTER_ADDR").is_none() || get("MASTER_PORT").is_none() => None,
            _ => meeting(get)?,
        };
        Ok(Some(Self { launcher: *launcher, rank, size, local_rank, local_size, meeting }))
    }
}

/// Where ranks meet: `MASTER_ADDR`, or the first host of Slurm's step, and `MASTER_PORT`, or the port after it where `torchrun` listens there.
fn meeting(get: &impl Fn(&str) -> Option<String>) -> Result<Option<(String, u16)>> {
    let host = get("MASTER_ADDR").or_else(|| first_host(&get("SLURM_STEP_NODELIST")?));
    let Some(port) = get("MASTER_PORT") else {
        return match get("MASTER_ADDR") {
            Some(_) => fail("MASTER_ADDR is set, but MASTER_PORT is not".to_owned()),
            None => Ok(None),
        };
    };
    let Some(host) = host else { return fail("MASTER_PORT is set, but MASTER_ADDR is not".to_owned()) };
    let is_taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let free = |number: u16| number.checked_add(u16::from(is_taken));
    match port.parse().ok().filter(|&number| number > 0).and_then(free) {
        Some(number) => Ok(Some((host, number))),
        None => fail(format!("MASTER_PORT={port} is not a port (1 to {})", u16::MAX - u16::from(is_taken))),
    }
}

/// The first host of a list as Slurm writes it: `node[03-05,9],gpu1` begins with `node03`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let first = match rest.strip_prefix('[') {
        Some(numbers) => {
            let (numbers, after) = numbers.split_once(']')?;
            let after = after.split(',').next().unwrap_or_default();
            format!("{name}{}{after}", numbers.split([',', '-']).next()?)
        }
        None => name.to_owned(),
    };
    (!first.is_empty()).then_some(first)
}

fn fail<T>(message: String) -> Result<T> {
    Err(Error::Launch { message })
}

#[cfg(test)]
mod tests {
    use super::{Launch, Launcher, first_host};

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Launch::read(get).map_err(|error| error.to_string().split(';').next().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_process_that_nobody_launched_is_alone() {
        assert_eq!(read(&[]), Ok(None));
        // A batch script of Slurm, outside of any step.
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), Ok(None));
        assert_eq!(read(&[("RANK", ""), ("WORLD_SIZE", "")]), Ok(None));
    }

    #[test]
    fn each_launcher_is_understood() {
        let launch = Launch {
            launcher: Launcher::Mpirun,
            rank: 1,
            size: 4,
            local_rank: Some(1),
            local_size: Some(2),
            meeting: None,
        };
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        assert_eq!(read(&open_mpi), Ok(Some(launch.clone())));
        let hydra = [("PMI_RANK", "1"), ("PMI_SIZE", "4"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "2")];
        assert_eq!(read(&hydra), Ok(Some(launch.clone())));
        let torchrun = [
            ("RANK", "1"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "29500"),
        ];
        let meeting = |host: &str| Some((host.to_owned(), 29500));
        let by_torchrun = Launch { launcher: Launcher::Torchrun, meeting: meeting("10.0.0.1"), ..launch.clone() };
        assert_eq!(read(&torchrun), Ok(Some(by_torchrun)));
        let srun = [
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "node[03-04]"),
            ("MASTER_PORT", "29500"),
        ];
        let by_srun = Launch { launcher: Launcher::Srun, local_size: None, meeting: meeting("node03"), ..launch };
        assert_eq!(read(&srun), Ok(Some(by_srun)));
    }

    #[test]
    fn ranks_meet_where_nobody_else_listens() {
        let meeting = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().meeting;
        let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "29500")];
        let agent = |is_there: &'static str| [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", is_there)]].concat();
        assert_eq!(meeting(&agent("False")), Some(("a".to_owned(), 29500)));
        assert_eq!(meeting(&agent("True")), Some(("a".to_owned(), 29501)));
        // mpirun needs no such place, but it can be said.
        let mpirun = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "29500")];
        assert_eq!(meeting(&mpirun[..3]), None);
        assert_eq!(meeting(&mpirun), Some(("a".to_owned(), 29500)));
    }

    #[test]
    fn slurm_tells_of_the_daemons_of_other_launchers() {
        let nested = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2"), ("RANK", "9"), ("WORLD_SIZE", "16")];
        let launch = read(&nested).unwrap().unwrap();
        assert_eq!((launch.launcher, launch.rank, launch.size), (Launcher::Torchrun, 9, 16));
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let fault = |variables: &[(&str, &str)]| read(variables).unwrap_err();
        assert_eq!(fault(&[("RANK", "2"), ("WORLD_SIZE", "2")]), "RANK=2 is not below WORLD_SIZE=2");
        assert_eq!(fault(&[("RANK", "0")]), "RANK is set, but WORLD_SIZE is not");
        assert_eq!(
            fault(&[("OMPI_COMM_WORLD_SIZE", "2")]),
            "OMPI_COMM_WORLD_SIZE is set, but OMPI_COMM_WORLD_RANK is not"
        );
        assert_eq!(fault(&[("RANK", "one"), ("WORLD_SIZE", "2")]), "RANK=one is not a whole number");
        assert_eq!(fault(&[("SLURM_STEP_NUM_TASKS", "2")]), "SLURM_STEP_NUM_TASKS is set, but SLURM_PROCID is not");
        let both = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("RANK", "1"), ("WORLD_SIZE", "4")];
        assert_eq!(fault(&both), "OMPI_COMM_WORLD_RANK=1 of OMPI_COMM_WORLD_SIZE=2 contradicts RANK=1 of WORLD_SIZE=4");
        let base = [("RANK", "0"), ("WORLD_SIZE", "2")];
        let with = |more: &[(&'static str, &'static str)]| fault(&[&base[..], more].concat());
        assert_eq!(with(&[("MASTER_ADDR", "a")]), "MASTER_ADDR is set, but MASTER_PORT is not");
        assert_eq!(with(&[("MASTER_PORT", "1")]), "MASTER_PORT is set, but MASTER_ADDR is not");
        assert_eq!(
            with(&[("MASTER_ADDR", "a"), ("MASTER_PORT", "99999")]),
            "MASTER_PORT=99999 is not a port (1 to 65535)"
        );
    }

    #[test]
    fn the_first_host_of_a_list_is_found() {
        let hosts = ["node[03-05,9],gpu1", "a,b", "solo", "rack[2,7]-x,b", "n[12]"].map(first_host);
        assert_eq!(hosts.map(Option::unwrap), ["node03", "a", "solo", "rack2-x", "n12"]);
        assert_eq!([first_host(""), first_host("n[1")], [None, None]);
    }
}
