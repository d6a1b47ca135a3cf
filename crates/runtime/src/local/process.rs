//! Ending processes by descent.
//!
//! A process group is not enough: a child that calls `setsid` leaves it. The supervisor is a child subreaper, so that
//! whatever its job leaves behind becomes its own child, and the table of processes says by parenthood what is its.
//! A pid is never trusted for longer than a descriptor of it is held.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use model::clock::Clock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, getpgrp, getpid, kill_process_group, pidfd_open, pidfd_send_signal},
};

/// The parent and the group of a process.
fn relations_of(pid: Pid) -> Option<(Pid, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the program's name in parentheses and may hold anything, also a parenthesis.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut numbers = after_name.split_ascii_whitespace().skip(1).map(|n| n.parse().ok().and_then(Pid::from_raw));
    Some((numbers.next()??, numbers.next()??))
}

fn parent_of(pid: Pid) -> Option<Pid> {
    relations_of(pid).map(|(parent, _)| parent)
}

fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)).collect()
}

fn descends_from(pid: Pid, ancestor: Pid, parents: &mut HashMap<Pid, Option<Pid>>) -> bool {
    // Deeper than any chain of parents; a table that changes underneath could form a circle.
    const DEPTH_MAX: usize = 10_000;
    let mut at = pid;
    for _ in 0..DEPTH_MAX {
        match *parents.entry(at).or_insert_with(|| parent_of(at)) {
            Some(parent) if parent == ancestor => return true,
            Some(parent) => at = parent,
            None => return false,
        }
    }
    false
}

/// Sends a signal to every descendant of this process.
pub(super) fn signal_descendants(signal: Signal) {
    let me = getpid();
    let mut parents = HashMap::new();
    for pid in all() {
        if !descends_from(pid, me, &mut parents) {
            continue;
        }
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Looked up again now that the descriptor holds it: the number may have gone to a stranger in between.
        if descends_from(pid, me, &mut HashMap::new()) {
            let group = relations_of(pid).map(|(_, group)| group).filter(|group| *group != getpgrp());
            if signal == Signal::KILL
                && let Some(group) = group
            {
                // A whole group at once: processes that hand over to a child and end are quicker than any list of them.
                let _ = kill_process_group(group, signal);
            }
            let _ = pidfd_send_signal(&process, signal);
        }
    }
}

/// Ends (SIGKILL) every process whose environment names this run folder. Says whether none is left.
///
/// For a run whose supervisor was killed: its children have another parent then. Best effort, since a process may
/// change its environment before it starts another.
pub(super) fn end_leftovers(clock: &dyn Clock, run_folder: &Path, most: Duration) -> bool {
    let marker = format!("{}={}/", super::TERMINATION_FILE_VARIABLE, run_folder.display());
    let until = clock.boot() + most;
    let is_leftover = |pid: Pid| {
        fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()))
            .is_ok_and(|all| all.split(|b| *b == 0).any(|one| one.starts_with(marker.as_bytes())))
    };
    loop {
        let mut found = false;
        for pid in all().into_iter().filter(|p| *p != getpid()) {
            if !is_leftover(pid) {
                continue;
            }
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if is_leftover(pid) {
                found = true;
                let _ = pidfd_send_signal(&process, Signal::KILL);
                let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
                let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience));
            }
        }
        if !found {
            return true;
        }
        if clock.boot() >= until {
            return false;
        }
    }
}
