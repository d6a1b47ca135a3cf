//! A filter of system calls (seccomp): other processes of the same user keep their limits, priorities and places.
//!
//! A filter sees numbers, not what they mean. So calls that take a process id are allowed for 0 (the caller) and for the id
//! of the process that becomes the confined program, and refused with EPERM for every other id, also for a child's own.
//! Signals need other ids and are left to Landlock; so is the memory of other processes, which namespaces hide as well.
//!
//! Refused for all: tracing, mounting and entering namespaces (making one is allowed), and interfaces of the kernel with a
//! history of escapes that data jobs do without: `bpf`, `perf_event_open`, `userfaultfd` and `io_uring`. The keyring
//! calls stay, because Kerberos keeps tickets there.

use std::collections::BTreeMap;

use libc::c_long;
use rustix::process::getpid;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter, sock_filter,
};

use crate::Error;

const LAYER: &str = "system calls";

/// Refused whatever the arguments.
const REFUSED: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
];

/// Their first argument is a process id.
const OF_A_PROCESS: &[c_long] = &[
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// A first argument that selects the meaning of the second: a process, or a process group.
const WITH_A_KIND: &[(c_long, u64, u64)] =
    &[(libc::SYS_setpriority, PRIO_PROCESS, PRIO_PGRP), (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP)];
const PRIO_PROCESS: u64 = 0;
const PRIO_PGRP: u64 = 1;
const IOPRIO_WHO_PROCESS: u64 = 1;
const IOPRIO_WHO_PGRP: u64 = 2;

/// Filters the calls of this thread and of whatever it becomes or starts.
pub(crate) fn filter() -> Result<(), Error> {
    let failed = |e: &dyn std::fmt::Display| Error::new(LAYER, e);
    let own = u64::from(getpid().as_raw_nonzero().get().unsigned_abs());
    apply_filter(&program(own).map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
    if cfg!(target_arch = "x86_64") {
        apply_filter(&WITHOUT_X32).map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// The same calls have second numbers for programs with 32-bit pointers (x32), which no machine needs. All are refused.
const WITHOUT_X32: [sock_filter; 4] = {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JGE | BPF_K, BPF_RET | BPF_K
    const LOAD: u16 = 0x20;
    const AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const FIRST: u32 = 0x4000_0000;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    [
        sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: AT_LEAST, jt: 0, jf: 1, k: FIRST },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: REFUSE },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]
};

/// The filter of a process with the id `own`.
fn program(own: u64) -> Result<BpfProgram, BackendError> {
    use SeccompCmpOp::{Eq, Ne};
    let is = |argument, op, value| SeccompCondition::new(argument, Dword, op, value);
    // All conditions of a rule must hold for it to refuse; one rule of a call is enough.
    let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    for call in OF_A_PROCESS {
        rules.insert(*call, vec![rule(vec![is(0, Ne, 0)?, is(0, Ne, own)?])?]);
    }
    // Without new limits it only reads.
    let changes = SeccompCondition::new(2, Qword, Ne, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![is(0, Ne, 0)?, is(0, Ne, own)?, changes])?]);
    for (call, process, group) in WITH_A_KIND {
        let another_kind = rule(vec![is(0, Ne, *process)?, is(0, Ne, *group)?])?;
        let another_process = rule(vec![is(0, Eq, *process)?, is(1, Ne, 0)?, is(1, Ne, own)?])?;
        let another_group = rule(vec![is(0, Eq, *group)?, is(1, Ne, 0)?])?;
        rules.insert(*call, vec![another_kind, another_process, another_group]);
    }
    // To every process of the user at once.
    rules.insert(libc::SYS_kill, vec![rule(vec![is(0, Eq, u64::from(u32::MAX))?])?]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?.try_into()
}
