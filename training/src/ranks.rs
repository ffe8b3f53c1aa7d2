//! Which of how many processes this one is, from the environment that the usual launchers set.

use std::ops::Range;

use crate::{Error, Result};

/// One of `count` processes that share a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// This process, below `count`.
    pub rank: usize,
    /// Processes in all.
    pub count: usize,
    /// This process among those on its machine: the number of its device.
    pub local: usize,
}

impl Default for Ranks {
    fn default() -> Self {
        Self { rank: 0, count: 1, local: 0 }
    }
}

/// Variables of rank, number of processes and rank on the machine: torchrun, Open MPI, Slurm, MPICH and Intel MPI. A
/// launcher's own come before Slurm's, which are also there where it runs inside of a Slurm job.
const LAUNCHERS: [[&str; 3]; 4] = [
    ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
    ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
];

impl Ranks {
    /// This process's part of `n` things that lie in a row; the parts are about as long.
    pub fn part(&self, n: usize) -> Range<usize> {
        self.rank * n / self.count..(self.rank + 1) * n / self.count
    }

    /// From this process's environment; one process alone where no launcher has set anything.
    ///
    /// # Errors
    /// If a launcher's variables are no numbers, or contradict each other.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        // Inside of a Slurm allocation but not started by srun, a process is alone; srun sets a step.
        let started = |names: &[&str; 3]| names[0] != "SLURM_PROCID" || get("SLURM_STEP_ID").is_some();
        let both = |names: &&[&str; 3]| get(names[0]).is_some() && get(names[1]).is_some() && started(names);
        let Some(names) = LAUNCHERS.iter().find(both) else { return Ok(Self::default()) };
        let number = |name: &str| -> Result<usize> {
            let text = get(name).unwrap_or_default();
            text.trim().parse().map_err(|_| Error::Config(format!("{name}: expected a whole number, got `{text}`")))
        };
        let (rank, count) = (number(names[0])?, number(names[1])?);
        let local = if get(names[2]).is_some() { number(names[2])? } else { 0 };
        if rank >= count {
            return Err(Error::Config(format!("{}: expected a rank below {} = {count}, got {rank}", names[0], names[1])));
        }
        Ok(Self { rank, count, local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Ranks> {
        Ranks::from_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn launchers_are_understood() -> Result<()> {
        assert_eq!(of(&[])?, Ranks { rank: 0, count: 1, local: 0 });
        assert_eq!(of(&[("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")])?, Ranks { rank: 3, count: 8, local: 1 });
        assert_eq!(of(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")])?, Ranks { rank: 0, count: 2, local: 0 });
        let slurm = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "1"), ("SLURM_STEP_ID", "0")];
        assert_eq!(of(&slurm)?, Ranks { rank: 1, count: 4, local: 1 });
        assert_eq!(of(&slurm[..3])?, Ranks::default(), "a batch script is no task of its own");
        let inside = [slurm.as_slice(), &[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "3")]].concat();
        assert_eq!(of(&inside)?, Ranks { rank: 2, count: 3, local: 0 });
        Ok(())
    }

    #[test]
    fn contradictions_are_errors() {
        assert!(of(&[("RANK", "2"), ("WORLD_SIZE", "2")]).is_err());
        assert!(of(&[("RANK", "x"), ("WORLD_SIZE", "2")]).is_err());
    }
}
