//! The load generator on one processor, the policy servers on another.
//!
//! Left alone, the scheduler puts a server that is woken by the load onto the
//! load's processor or onto another, as it sees fit at that moment. Both are
//! right, and they differ by a factor of two in CPU per request.

use anyhow::ensure;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::server::Server;

/// This thread keeps to one processor until it drops this.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// The servers stay where they are put. memcached goes where it likes.
    pub fn apart(servers: &[Server]) -> anyhow::Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| before.is_set(*cpu).unwrap_or(false)).collect();
        ensure!(allowed.len() > 1, "there is only one processor to be pinned to");
        sched_setaffinity(Pid::from_raw(0), &only(allowed[0])?)?;
        for server in servers {
            sched_setaffinity(server.process.pid(), &only(allowed[1])?)?;
        }
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

fn only(cpu: usize) -> nix::Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(set)
}
