//! Decides the next step for an execution that is followed: a pure state machine, which [`super::follow`] drives.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::{
    Problem,
    execution::{Execution, Status, outcome},
    problem::Fault,
    runtime::{Seen, Stage, Started},
};

/// The longest pause between two attempts of one operation: to start, observe or cancel an execution, or to read its log.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The state of an execution that is followed.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub(super) struct Follower {
    submitted_at: Timestamp,
    started_at: Option<Timestamp>,
    /// How long after its acceptance attempts to start it end.
    start_deadline: SignedDuration,
    /// It was dispatched just now, so that every attempt to start it is this follower's.
    is_fresh: bool,
    /// The runtime started it at a scheduled time.
    is_scheduled: bool,
    /// The runtime need not be asked about it, because no start was sent.
    is_untried: bool,
    /// A start was sent, so that it may run whatever the runtime answered.
    is_start_sent: bool,
    /// The runtime acknowledged the start.
    is_start_acknowledged: bool,
    is_running: bool,
    is_cancelling: bool,
    /// The final status if it never ran, after its start was given up.
    given_up: Option<(Status, String)>,
    seen: Seen,
    /// From 0 to 1, different for each execution, so that simultaneous failures are not retried together.
    spread: f64,
    starts_failed: u32,
    looks_failed: u32,
    cancels_failed: u32,
    logs_failed: u32,
}

/// The next step for an execution.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Start it, and pass the result to [`Follower::start_ended`].
    Start,
    /// It could not be started: reconcile its deployment, and ask the runtime about it after this pause.
    Restart(Duration),
    /// Record that its process runs.
    Running {
        /// The instant since which it runs.
        at: Timestamp,
        /// Whether this follower sees it running for the first time.
        is_first: bool,
    },
    /// Record the reason why it does not start.
    Held(Problem),
    /// Its start is given up: cancel it, because it may run without an acknowledgement, and ask the runtime about it.
    Cancel,
    /// Ask the runtime about it after this pause.
    Look(Duration),
    /// Record its end.
    End(End),
}

/// The end of an execution.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    /// A final status.
    pub(super) status: Status,
    /// The message of the execution.
    pub(super) message: String,
    /// The start of its process.
    pub(super) started_at: Option<Timestamp>,
    /// The instant from which no process of it was left.
    pub(super) ended_at: Timestamp,
    /// Whether the runtime knows it, or did: then its log is stored with the end, and the rest of it is removed afterwards.
    pub(super) is_known: bool,
    /// Whether its start was not counted yet.
    pub(super) is_first: bool,
}

impl Follower {
    /// Returns a follower of a dispatched execution; `is_fresh` if that was just now. `fires_ticks` is the runtime's, see
    /// [`model::runtime::Runtime::fires_ticks`].
    pub(super) fn new(
        execution: &Execution,
        is_fresh: bool,
        fires_ticks: bool,
        start_deadline: SignedDuration,
    ) -> Self {
        let is_running = execution.status == Status::Running;
        Self {
            submitted_at: execution.submitted_at,
            started_at: execution.started_at,
            start_deadline,
            is_fresh,
            is_scheduled: execution.scheduled_tick.is_some() && fires_ticks,
            is_untried: is_fresh,
            is_start_sent: false,
            is_start_acknowledged: false,
            is_running,
            is_cancelling: false,
            given_up: None,
            seen: if is_running { Seen::Running } else { Seen::Submitted },
            spread: spread(execution.id.as_str()),
            starts_failed: 0,
            looks_failed: 0,
            cancels_failed: 0,
            logs_failed: 0,
        }
    }

    /// The stage, if it is known without asking the runtime: an execution without a sent start is unknown there.
    pub(super) fn known_stage(&mut self) -> Option<Stage> {
        std::mem::take(&mut self.is_untried).then_some(Stage::Unknown)
    }

    /// The recorded stage: the runtime reports later ones.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Notes that a reported stage was recorded.
    pub(super) fn recorded(&mut self, seen: Seen) {
        self.seen = seen;
    }

    /// Whether the runtime accepted the cancellation.
    pub(super) fn is_cancelling(&self) -> bool {
        self.is_cancelling
    }

    /// Notes that the runtime accepted the cancellation.
    pub(super) fn cancelled(&mut self) {
        self.is_cancelling = true;
    }

    /// Notes that a start is sent now.
    pub(super) fn start_sent(&mut self) {
        self.is_start_sent = true;
    }

    /// Notes that the cancellation failed. Returns the pause before the next attempt.
    pub(super) fn cancel_failed(&mut self) -> Duration {
        self.cancels_failed += 1;
        self.delay(self.cancels_failed)
    }

    /// Decides the next step by the stage that the runtime reported.
    pub(super) fn decide(&mut self, stage: Result<Stage, Problem>, now: Timestamp) -> Step {
        if stage.is_ok() {
            self.looks_failed = 0;
        }
        match stage {
            Ok(Stage::Held(problem)) => Step::Held(problem),
            Ok(Stage::Running(at)) => {
                if !self.is_cancelling {
                    self.given_up = None;
                }
                Step::Running { at, is_first: !std::mem::replace(&mut self.is_running, true) }
            }
            Ok(Stage::Ended(end)) => {
                let (status, message) = match (outcome(&end), self.given_up.take()) {
                    // This follower itself asked for the cancellation.
                    ((Status::Cancelled, _), Some(given_up)) => given_up,
                    (ended, _) => ended,
                };
                Step::End(End {
                    status,
                    message,
                    started_at: end.started_at,
                    ended_at: end.ended_at,
                    is_known: true,
                    is_first: !self.is_running,
                })
            }
            Ok(Stage::Unknown) if self.is_running => Step::End(End {
                started_at: self.started_at,
                // The log that was followed until then may exist.
                is_known: true,
                ..unstarted(
                    Status::PlatformError,
                    "Platform error. The execution vanished from its host without a result: its folder or its \
                     objects were removed. It is not repeated, because it may have done part of its work; start it again \
                     when that is safe.",
                    now,
                )
            }),
            Ok(Stage::Unknown) if self.given_up.is_some() && !self.is_cancelling => Step::Cancel,
            Ok(Stage::Unknown) if self.is_cancelling => {
                let cancelled = || (Status::Cancelled, "Cancelled before it started.".to_owned());
                let (status, message) = self.given_up.take().unwrap_or_else(cancelled);
                Step::End(unstarted(status, message, now))
            }
            // The runtime started it, and it is gone before its end was observed.
            Ok(Stage::Unknown) if self.is_scheduled => Step::End(unstarted(
                Status::PlatformError,
                "Platform error. The scheduled execution vanished from the cluster before its result was recorded: its \
                 Job was deleted. Whether it did its work is not known; start the job again when that is safe.",
                now,
            )),
            Ok(Stage::Unknown) => Step::Start,
            Err(problem) => {
                self.looks_failed += 1;
                let look = Step::Look(self.delay(self.looks_failed - 1));
                // An execution that may run, or that another instance may have started, is observed until the runtime answers.
                let gives_up = !self.is_running
                    && !self.is_cancelling
                    && self.is_fresh
                    && !self.is_start_acknowledged
                    && self.is_past_deadline(now);
                if gives_up {
                    self.give_up(Status::PlatformError, format!("Platform error. {problem:#}"), now)
                } else {
                    look
                }
            }
        }
    }

    /// Ends an execution whose start was not acknowledged. If a start was sent, only its answer may be lost, so that the
    /// execution is cancelled first.
    fn give_up(&mut self, status: Status, message: String, now: Timestamp) -> Step {
        if !self.is_start_sent {
            return Step::End(unstarted(status, message, now));
        }
        self.given_up = Some((status, message));
        Step::Cancel
    }

    /// Decides the next step by the result of a start.
    pub(super) fn start_ended(&mut self, started: Result<Started, Problem>, now: Timestamp) -> Step {
        let problem = match started {
            Ok(Started::Running) => {
                self.is_start_acknowledged = true;
                return Step::Look(Duration::ZERO);
            }
            Ok(Started::Skipped { for_run }) => {
                let message = format!(
                    "Skipping job execution due to another parallel running execution: {for_run}, which a tick started."
                );
                return Step::End(unstarted(Status::Skipped, message, now));
            }
            Err(problem) => problem,
        };
        self.starts_failed += 1;
        let (status, whose) = match problem.fault {
            // If the first attempt was rejected, nothing of it exists. Later, an earlier answer may have been lost.
            Fault::User if self.starts_failed == 1 => {
                return Step::End(unstarted(Status::UserError, format!("User error. {problem:#}"), now));
            }
            Fault::User => (Status::UserError, "User error."),
            Fault::Platform if self.is_past_deadline(now) => (Status::PlatformError, "Platform error."),
            Fault::Platform => return Step::Restart(self.delay(self.starts_failed)),
        };
        self.give_up(status, format!("{whose} {problem:#}"), now)
    }

    /// Notes that the log of the ended execution could not be read. Returns the pause before the next attempt.
    pub(super) fn log_failed(&mut self) -> Duration {
        self.logs_failed += 1;
        self.delay(self.logs_failed)
    }

    /// The pause after so many failures in a row. It doubles; its upper half is different for each execution.
    fn delay(&self, failures: u32) -> Duration {
        Duration::from_secs(1 << failures.min(5)).min(RETRY_MAX).mul_f64(0.5 + self.spread / 2.0)
    }

    fn is_past_deadline(&self, now: Timestamp) -> bool {
        now - self.start_deadline > self.submitted_at
    }
}

/// A number from 0 to 1 that is derived from the name of an execution.
fn spread(id: &str) -> f64 {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // Names that differ only in their last digit give distant numbers.
    let hash = (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca6b);
    f64::from(hash ^ (hash >> 13)) / f64::from(u32::MAX)
}

/// The end of an execution that is unknown to the runtime.
fn unstarted(status: Status, message: impl Into<String>, now: Timestamp) -> End {
    End { status, message: message.into(), started_at: None, ended_at: now, is_known: false, is_first: false }
}

#[cfg(test)]
mod tests {
    use model::{
        execution::{EndCause, ExecutionEnd, Type},
        name::{ExecutionId, JobId, JobName, TeamName},
    };

    use super::*;

    const DEADLINE: SignedDuration = SignedDuration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn execution(status: Status, scheduled: bool) -> Execution {
        Execution {
            id: ExecutionId::parse("example-job-1").unwrap(),
            job_id: JobId(uuid::Uuid::nil()),
            job_name: JobName::parse("example-job").unwrap(),
            team: TeamName::parse("a team").unwrap(),
            kind: if scheduled { Type::Scheduled } else { Type::Manual },
            status,
            submitted_at: at(0),
            started_at: (status == Status::Running).then(|| at(1)),
            ended_at: None,
            started_by: "someone".into(),
            op_id: "op".into(),
            message: None,
            arguments: None,
            scheduled_tick: scheduled.then(|| at(0)),
            cancel_requested_at: None,
            revision: None,
        }
    }

    /// A run in each situation that makes a difference.
    #[derive(Debug, Clone, Copy)]
    enum Run {
        Fresh,
        TakenUp,
        Running,
        Scheduled,
        Cancelling,
        CancellingRunning,
    }

    fn follower(run: Run) -> Follower {
        let status =
            if matches!(run, Run::Running | Run::CancellingRunning) { Status::Running } else { Status::Submitted };
        let execution = execution(status, matches!(run, Run::Scheduled));
        let mut follower = Follower::new(&execution, matches!(run, Run::Fresh), true, DEADLINE);
        follower.spread = 1.0;
        if matches!(run, Run::Cancelling | Run::CancellingRunning) {
            follower.cancelled();
        }
        follower
    }

    fn outage() -> Problem {
        Problem::new(model::problem::Code::PackageInstallerFailed, "It can't be seen.", "It does not answer.")
            .nothing_changed()
            .fix("Retry.")
    }

    /// A step in a word, for tables.
    fn word(step: &Step) -> String {
        match step {
            Step::Start => "start".into(),
            Step::Restart(after) => format!("restart after {}", after.as_secs()),
            Step::Running { is_first: true, .. } => "first running".into(),
            Step::Running { is_first: false, .. } => "running".into(),
            Step::Held(_) => "held".into(),
            Step::Cancel => "cancel".into(),
            Step::Look(after) => format!("look after {}", after.as_secs()),
            Step::End(end) => format!(
                "{}{}{}{}",
                end.status.as_str(),
                if end.started_at.is_some() { " begun" } else { "" },
                if end.is_known { " known" } else { "" },
                if end.is_first { " first" } else { "" }
            ),
        }
    }

    #[test]
    fn each_stage_of_each_run_has_its_step() {
        let end = |cause| {
            Stage::Ended(ExecutionEnd { started_at: Some(at(2)), ended_at: at(3), cause, termination_message: None })
        };
        let running = || Ok(Stage::Running(at(2)));
        for (run, stage, second, expected) in [
            (Run::Fresh, Ok(Stage::Unknown), 1, "start"),
            (Run::TakenUp, Ok(Stage::Unknown), 1, "start"),
            (Run::TakenUp, Ok(Stage::Unknown), 61, "start"),
            (Run::Running, Ok(Stage::Unknown), 1, "PLATFORM_ERROR begun known"),
            (Run::CancellingRunning, Ok(Stage::Unknown), 1, "PLATFORM_ERROR begun known"),
            (Run::Scheduled, Ok(Stage::Unknown), 1, "PLATFORM_ERROR"),
            (Run::Cancelling, Ok(Stage::Unknown), 1, "CANCELLED"),
            (Run::Fresh, running(), 2, "first running"),
            (Run::TakenUp, running(), 2, "first running"),
            (Run::Scheduled, running(), 2, "first running"),
            (Run::Cancelling, running(), 2, "first running"),
            (Run::Running, running(), 2, "running"),
            (Run::Fresh, Ok(Stage::Held(outage())), 2, "held"),
            (Run::Cancelling, Ok(Stage::Held(outage())), 2, "held"),
            (Run::TakenUp, Ok(end(EndCause::Exited(0))), 3, "SUCCEEDED begun known first"),
            (Run::Running, Ok(end(EndCause::Exited(0))), 3, "SUCCEEDED begun known"),
            (Run::CancellingRunning, Ok(end(EndCause::Exited(0))), 3, "SUCCEEDED begun known"),
            (Run::CancellingRunning, Ok(end(EndCause::Cancelled)), 3, "CANCELLED begun known"),
            (Run::Fresh, Err(outage()), 1, "look after 1"),
            (Run::Fresh, Err(outage()), 60, "look after 1"),
            (Run::Fresh, Err(outage()), 61, "PLATFORM_ERROR"),
            // Another instance may have started it, and it may run.
            (Run::TakenUp, Err(outage()), 61, "look after 1"),
            (Run::Running, Err(outage()), 61, "look after 1"),
            (Run::Scheduled, Err(outage()), 61, "look after 1"),
        ] {
            let case = format!("{run:?}, {stage:?}, second {second}");
            assert_eq!(word(&follower(run).decide(stage, at(second))), expected, "{case}");
        }
    }

    #[test]
    fn each_start_has_its_step() {
        let other = ExecutionId::parse("example-job-2").unwrap();
        for (started, second, expected) in [
            (Ok(Started::Running), 61, "look after 0"),
            (Ok(Started::Skipped { for_run: other }), 1, "SKIPPED"),
            (
                Err(Problem::new(
                    model::problem::Code::PackagesUnresolvable,
                    "It does not start.",
                    "It names no step.",
                )
                .nothing_changed()
                .fix("Retry.")),
                1,
                "USER_ERROR",
            ),
            (Err(outage()), 60, "restart after 2"),
            (Err(outage()), 61, "cancel"),
        ] {
            let case = format!("{started:?}, second {second}");
            for run in [Run::Fresh, Run::TakenUp] {
                let mut follower = follower(run);
                follower.start_sent();
                assert_eq!(word(&follower.start_ended(started.clone(), at(second))), expected, "{case}");
            }
        }
    }

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let mut follower = follower(Run::Fresh);
        let starts: Vec<_> = (0..7).map(|_| word(&follower.start_ended(Err(outage()), at(1)))).collect();
        assert_eq!(starts, [2, 4, 8, 16, 30, 30, 30].map(|seconds| format!("restart after {seconds}")));
        let logs: Vec<_> = (0..7).map(|_| follower.log_failed().as_secs()).collect();
        assert_eq!(logs, [2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn what_was_sent_is_cancelled_before_it_is_called_not_started() {
        let sent = |answer: Result<Started, Problem>| {
            let mut follower = follower(Run::Fresh);
            follower.start_sent();
            let _ = follower.start_ended(answer, at(1));
            follower
        };
        // It was acknowledged, so it counts as running, however long it can't be seen.
        let mut acknowledged = sent(Ok(Started::Running));
        assert_eq!(word(&acknowledged.decide(Err(outage()), at(61))), "look after 1");
        assert_eq!(word(&acknowledged.decide(Err(outage()), at(9999))), "look after 2");
        assert_eq!(word(&acknowledged.decide(Ok(Stage::Running(at(2))), at(9999))), "first running");

        let mut lost = sent(Err(outage()));
        assert_eq!(word(&lost.decide(Err(outage()), at(61))), "cancel");
        // The cancellation was not accepted, and then it is seen running: it is followed on.
        assert_eq!(lost.cancel_failed().as_secs(), 2);
        assert_eq!(word(&lost.decide(Ok(Stage::Running(at(2))), at(62))), "first running");

        for (stage, expected) in [
            (Ok(Stage::Unknown), "PLATFORM_ERROR"),
            (Err(outage()), "look after 2"),
            (Ok(ended(EndCause::Cancelled)), "PLATFORM_ERROR begun known first"),
            (Ok(ended(EndCause::Exited(0))), "SUCCEEDED begun known first"),
        ] {
            let mut lost = sent(Err(outage()));
            assert_eq!(word(&lost.decide(Err(outage()), at(61))), "cancel");
            lost.cancelled();
            assert_eq!(word(&lost.decide(stage, at(62))), expected);
        }
        // It is started no more once it was given up.
        let mut lost = sent(Err(outage()));
        assert_eq!(word(&lost.start_ended(Err(outage()), at(61))), "cancel");
        assert_eq!(word(&lost.decide(Ok(Stage::Unknown), at(62))), "cancel");
    }

    fn ended(cause: EndCause) -> Stage {
        Stage::Ended(ExecutionEnd { started_at: Some(at(2)), ended_at: at(3), cause, termination_message: None })
    }

    #[test]
    fn pauses_differ_between_runs_and_start_again_after_an_answer() {
        let mut one = follower(Run::Running);
        let mut looks = |stage| word(&one.decide(stage, at(1)));
        let pauses: Vec<_> = (0..7).map(|_| looks(Err(outage()))).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30].map(|seconds| format!("look after {seconds}")));
        looks(Ok(Stage::Running(at(1))));
        assert_eq!(looks(Err(outage())), "look after 1");
        let spreads: Vec<_> = (0..100).map(|n| spread(&format!("example-job-{n}"))).collect();
        for part in 0..4 {
            let lower = f64::from(part) / 4.0;
            assert!(spreads.iter().any(|s| (lower..lower + 0.25).contains(s)), "none from {lower}");
        }
    }

    #[test]
    fn a_run_that_was_never_tried_is_started_without_a_question_and_once() {
        let mut fresh = follower(Run::Fresh);
        assert_eq!((fresh.known_stage(), fresh.known_stage()), (Some(Stage::Unknown), None));
        assert_eq!(follower(Run::TakenUp).known_stage(), None);
    }

    #[test]
    fn what_was_not_recorded_is_asked_for_again() {
        let mut follower = follower(Run::Fresh);
        assert_eq!(*follower.seen(), Seen::Submitted);
        assert_eq!(word(&follower.decide(Ok(Stage::Running(at(2))), at(2))), "first running");
        // The database failed: the runtime says it once more, and its start is counted once.
        assert_eq!(*follower.seen(), Seen::Submitted);
        assert_eq!(word(&follower.decide(Ok(Stage::Running(at(2))), at(3))), "running");
        follower.recorded(Seen::Running);
        assert_eq!(*follower.seen(), Seen::Running);
        let _ = follower.decide(Err(outage()), at(4));
        assert_eq!(*follower.seen(), Seen::Running);
    }

    #[test]
    fn an_end_tells_why() {
        let Step::End(end) = follower(Run::Fresh).start_ended(Err(outage()), at(61)) else { panic!() };
        assert!(end.message.starts_with("Platform error. It can't be seen. It does not answer."), "{}", end.message);
        let Step::End(end) = follower(Run::Running).decide(Ok(Stage::Unknown), at(9)) else { panic!() };
        assert!(end.message.contains("vanished from its host"), "{}", end.message);
        assert_eq!((end.started_at, end.ended_at), (Some(at(1)), at(9)));
    }
}
