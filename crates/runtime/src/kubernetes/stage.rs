//! The stage of an execution by its Job and pods. Pure.
//!
//! An execution is over when its *Job* is, never by one pod alone, because another attempt may follow. The exit code and the
//! termination message of the last pod give the outcome.

use jiff::{SignedDuration, Timestamp};
use model::{
    Problem,
    execution::{EndCause, ExecutionEnd},
    problem::{Code, Consequence},
};

use super::view::{ContainerEnd, JobView, PodView};

/// The longest termination message that is kept; the limit is that of the kubelet.
const MESSAGE_MAX_BYTES: usize = 4096;

/// How long the controller may act on the state before a cancellation.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// The stage of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunState {
    /// No process was started, and no obstacle is known.
    Waiting,
    /// No process was started: the volumes or the network of this pod, created at this instant, are not ready on its node. Events
    /// give the reason.
    Unprepared(String, Timestamp),
    /// No process was started, for this reason.
    Held(Problem),
    /// Its first process was started at this instant.
    Running(Timestamp),
    /// It is over, and no process of it is left.
    Ended(ExecutionEnd),
}

/// Returns the stage of the execution of this Job.
pub(crate) fn run_state(job: &JobView, pods: &[PodView], now: Timestamp) -> RunState {
    let mut pods: Vec<&PodView> = pods.iter().collect();
    pods.sort_by_key(|pod| (pod.created_at, pod.name.clone()));
    let started_at = pods.iter().filter_map(|pod| pod.main.started_at).min();
    if let Some(terminal) = &job.terminal {
        let last = pods.iter().rev().find_map(|pod| pod.main.ended.as_ref());
        return RunState::Ended(ExecutionEnd {
            started_at: started_at.or(if terminal.complete { job.started_at } else { None }),
            ended_at: terminal.at,
            cause: cause(job, &pods, last),
            termination_message: last.and_then(|end| end.message.as_deref()).map(cut),
        });
    }
    if job.suspended && job.active == 0 && pods.iter().all(|pod| pod.is_over()) && is_cancellation_seen(job, now) {
        let ended_at = pods.iter().filter_map(|pod| pod.main.ended.as_ref()?.at).max().unwrap_or(now);
        return RunState::Ended(ExecutionEnd {
            started_at,
            ended_at,
            cause: EndCause::Cancelled,
            termination_message: None,
        });
    }
    if let Some(at) = started_at {
        return RunState::Running(at);
    }
    let Some(pod) = pods.into_iter().rev().find(|pod| !pod.is_over()) else { return RunState::Waiting };
    match waiting_reason(pod) {
        Some(problem) => RunState::Held(problem),
        None if pod.node.is_some() && pod.unprepared => RunState::Unprepared(pod.name.clone(), pod.created_at),
        None => RunState::Waiting,
    }
}

/// Whether the controller has acted on a cancellation. Until then it may have created a pod that its status does not show.
fn is_cancellation_seen(job: &JobView, now: Timestamp) -> bool {
    let Some(cancelled_at) = job.cancelled_at else { return false };
    // The Job of a manual execution was suspended before its start too, and its status may be that old. Its instants are whole
    // seconds.
    let is_seen = job.suspension_seen_at.is_some_and(|at| !job.manual || at.as_second() > cancelled_at.as_second());
    is_seen || now.duration_since(cancelled_at) >= SETTLED_AFTER
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn cause(job: &JobView, pods: &[&PodView], last: Option<&ContainerEnd>) -> EndCause {
    let Some(terminal) = &job.terminal else { return EndCause::Lost };
    if terminal.complete {
        return EndCause::Exited(0);
    }
    if terminal.reason == "DeadlineExceeded" {
        let seconds = u64::try_from(job.deadline_seconds.unwrap_or_default()).unwrap_or_default();
        return EndCause::DeadlineExceeded(seconds);
    }
    let pod = pods.last();
    let taken = pod.and_then(|pod| taken_away(pod));
    if let Some(cause) = taken {
        return cause;
    }
    if let Some(pod) = pod
        && let Some((name, init)) = &pod.init
        && let Some(end) = &init.ended
        && pod.main.started_at.is_none()
    {
        return EndCause::NotStarted(format!(
            "the container {name} that prepares it ended with exit code {} ({})",
            end.exit_code, end.reason
        ));
    }
    match last {
        Some(end) if end.reason == "OOMKilled" => EndCause::OutOfMemory,
        // Reasons of the kubelet for containers that were lost with their node or its container engine.
        Some(end) if end.reason == "Unknown" || end.reason == "ContainerStatusUnknown" => {
            EndCause::TakenAway("the container was lost with its node, or with the container engine there".into())
        }
        Some(end) if matches!(end.reason.as_str(), "StartError" | "ContainerCannotRun") => EndCause::NotStarted(
            format!("its container could not be started: {}", end.message.as_deref().unwrap_or("no reason is given")),
        ),
        Some(end) if pod.is_some_and(|pod| pod.main.ended.is_some()) => EndCause::Exited(end.exit_code),
        _ => EndCause::TakenAway("its pod was removed from the cluster before it ended".into()),
    }
}

/// The external cause of the end of a pod, if there is one.
fn taken_away(pod: &PodView) -> Option<EndCause> {
    let on = pod.node.as_deref().unwrap_or("unknown");
    if let Some(reason) = &pod.reason
        && matches!(reason.as_str(), "Evicted" | "NodeLost" | "NodeShutdown" | "Shutdown" | "Terminated")
    {
        let told = pod.message.as_deref().unwrap_or_default().trim().trim_end_matches('.');
        // The kubelet's message for a limit of the pod; for a shortage of the node it names the node.
        if reason == "Evicted" && told.contains("exceed") && told.contains("limit") {
            return Some(EndCause::OutOfDisk(told.to_owned()));
        }
        return Some(EndCause::TakenAway(format!("the node {on} gave its pod up ({reason}: {told})")));
    }
    let (reason, told) = pod.disruption.as_ref()?;
    // A process that exited on its own, with a message, was not ended by an external cause in the same moment.
    if pod.main.ended.as_ref().is_some_and(|end| !matches!(end.exit_code, 137 | 143)) {
        return None;
    }
    let what = match reason.as_str() {
        "DeletionByPodGC" => format!("its node {on} was lost"),
        "DeletionByTaintManager" => format!("its node {on} was lost, or may not be used any more"),
        "EvictionByEvictionAPI" => format!("its pod was evicted from the node {on}"),
        "PreemptionByScheduler" => format!("its pod had to make room on the node {on} for one that is more important"),
        _ => format!("the node {on} gave its pod up"),
    };
    Some(EndCause::TakenAway(format!("{what} ({reason}: {})", told.trim().trim_end_matches('.'))))
}

/// The reason why a pod does not start, with the action. `None` while it is starting.
fn waiting_reason(pod: &PodView) -> Option<Problem> {
    if let Some(message) = &pod.unschedulable {
        return Some(
            waits(
                Code::PodUnschedulable,
                "The execution can't be placed on a node.",
                format!("The scheduler says: {}", sentence(message)),
            )
            .fix("Lower cpu_request and memory_request of the deployment, or ask the operator for larger nodes."),
        );
    }
    // While an init container waits, the job's container waits for it and reports nothing else.
    [Some(("the job's container", &pod.main)), pod.init.as_ref().map(|(name, view)| (name.as_str(), view))]
        .into_iter()
        .flatten()
        .filter_map(|(name, view)| Some((name, view.waiting.as_ref()?)))
        .find_map(|(name, (reason, message))| waiting_container(name, reason, message))
}

fn waiting_container(container: &str, reason: &str, message: &str) -> Option<Problem> {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => Some(
            waits(
                Code::ImageUnavailable,
                "The image of the execution can't be pulled.",
                format!("The node says of {container}: {reason}: {}", sentence(message)),
            )
            .fix(
                "Push the image under this name, or ask the operator to check the pull secret \
                            (`image.pull_credentials_file`, `kubernetes.pull_secrets`).",
            ),
        ),
        "CreateContainerConfigError" => Some(missing(
            Code::ContainerConfigInvalid,
            "The container of the execution can't be configured.",
            &format!("of {container}: {message}"),
        )),
        "CreateContainerError" | "RunContainerError" => Some(
            waits(
                Code::ContainerNotCreated,
                "The container of the execution can't be created.",
                format!("The node says of {container}: {}", sentence(message)),
            )
            .fix("Check that the image has the command that it is started with, or ask the operator."),
        ),
        _ => None,
    }
}

/// A message of the cluster, with one full stop at its end, because more sentences follow.
fn sentence(message: &str) -> String {
    format!("{}.", message.trim_end_matches(['.', ' ']))
}

fn waits(code: Code, what: &str, why: String) -> Consequence {
    Problem::new(code, what, why).follows("The execution waits, and starts when the cause is gone.")
}

/// A pod refers to a missing object; `otherwise` is the text if the message of the node does not name it.
fn missing(code: Code, otherwise: &str, told: &str) -> Problem {
    // "couldn't find key KEY in Secret NAMESPACE/NAME"
    let incomplete_secret = told.split_once(" in Secret ").and_then(|(_, rest)| {
        let (_, name) = rest.split([' ', ',', ';']).next()?.split_once('/')?;
        Some(name.trim_end_matches('.'))
    });
    if let Some(name) = incomplete_secret {
        return waits(Code::SecretIncomplete, &incomplete(name), format!("The node says {told}."))
            .no_action("Holdfast writes its own Secrets again. The operator completes others.");
    }
    let named = ["secret", "configmap"].into_iter().find_map(|kind| {
        let (_, rest) = told.split_once(&format!("{kind} \""))?;
        let (name, rest) = rest.split_once('"')?;
        rest.starts_with(" not found").then(|| format!("{kind} {name}"))
    });
    let (code, what, fix) = match named {
        Some(named) => {
            (Code::PodDependencyMissing, without(&named), format!("Create the {named} in the namespace of the jobs."))
        }
        None => (code, otherwise.to_owned(), "The operator checks what the CronJob template refers to.".to_owned()),
    };
    waits(code, &what, format!("The node says {told}.")).fix(fix)
}

/// Whether a run waits because this secret is missing, or lacks a value.
pub(crate) fn lacks(problem: &Problem, secret: &str) -> bool {
    problem.what == without(&format!("secret {secret}")) || problem.what == incomplete(secret)
}

fn incomplete(secret: &str) -> String {
    format!("The secret {secret} lacks a value that the execution needs.")
}

fn without(named: &str) -> String {
    format!("The {named}, which the execution needs, does not exist.")
}

/// The reason why a pod does not get its volumes, by the message of the event.
pub(crate) fn unmounted(message: &str) -> Problem {
    missing(Code::VolumeNotMounted, "A volume of the execution can't be mounted.", &format!("of the pod: {message}"))
}

/// The reason why a Job gets no pod, by the message of the event.
pub(crate) fn refused(message: &str) -> Problem {
    let lower = message.to_lowercase();
    let (code, what, fix) = if lower.contains("exceeded quota")
        || lower.contains("limitrange")
        || lower.contains("maximum")
    {
        (
            Code::PodQuotaExceeded,
            "The execution would exceed a limit of the namespace.",
            "Wait for other executions, lower the resources of the deployment, or ask the operator to raise the quota.",
        )
    } else {
        (Code::PodRejected, "The cluster rejects the execution.", "The operator finds the rule that rejects it.")
    };
    Problem::new(code, what, format!("The API server says: {}", sentence(message)))
        .follows("The execution waits, and starts when the cause is gone.")
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use model::name::JobId;

    use super::*;
    use crate::kubernetes::view::{ContainerView, Terminal};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn job() -> JobView {
        JobView {
            name: "daily-sales-1".into(),
            uid: "u".into(),
            job_id: JobId(uuid::Uuid::nil()),
            generation: Some(1),
            tick: None,
            created_at: at(0),
            manual: true,
            cancelled_at: None,
            suspended: false,
            terminating: false,
            deadline_seconds: Some(60),
            suspension_seen_at: None,
            active: 0,
            started_at: Some(at(1)),
            terminal: None,
        }
    }

    fn failed(reason: &str) -> JobView {
        let terminal = Terminal { complete: false, reason: reason.into(), message: String::new(), at: at(9) };
        JobView { terminal: Some(terminal), ..job() }
    }

    fn pod(created: i64, main: ContainerView) -> PodView {
        PodView {
            name: format!("daily-sales-1-{created}"),
            uid: String::new(),
            job: "daily-sales-1".into(),
            created_at: at(created),
            terminating: false,
            phase: if main.ended.is_some() { "Failed" } else { "Pending" }.into(),
            reason: None,
            message: None,
            node: Some("node1".into()),
            main_name: "daily-sales".into(),
            main,
            init: None,
            unschedulable: None,
            unprepared: false,
            disruption: None,
            gone: false,
        }
    }

    fn ended(exit_code: i32, reason: &str) -> ContainerView {
        let end = ContainerEnd { exit_code, reason: reason.into(), message: Some("{}".into()), at: Some(at(8)) };
        ContainerView { waiting: None, started_at: Some(at(2)), ended: Some(end) }
    }

    fn cause_of(job: &JobView, pods: &[PodView]) -> EndCause {
        match run_state(job, pods, at(10)) {
            RunState::Ended(end) => end.cause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_is_over_when_its_job_says_so_and_not_by_a_pod() {
        let first = pod(1, ended(1, "Error"));
        assert_eq!(run_state(&job(), std::slice::from_ref(&first), at(10)), RunState::Running(at(2)));
        let complete = JobView {
            terminal: Some(Terminal { complete: true, reason: String::new(), message: String::new(), at: at(9) }),
            ..job()
        };
        let second = pod(5, ended(0, "Completed"));
        let RunState::Ended(end) = run_state(&complete, &[second, first], at(10)) else { panic!() };
        assert_eq!((end.cause, end.started_at, end.ended_at), (EndCause::Exited(0), Some(at(2)), at(9)));
    }

    #[test]
    fn each_way_to_fail_is_distinguished() {
        let lost = PodView { reason: Some("Evicted".into()), ..pod(1, ContainerView::default()) };
        let cases = [
            (failed("BackoffLimitExceeded"), vec![pod(1, ended(3, "Error"))], EndCause::Exited(3)),
            (failed("BackoffLimitExceeded"), vec![pod(1, ended(137, "OOMKilled"))], EndCause::OutOfMemory),
            (failed("DeadlineExceeded"), vec![], EndCause::DeadlineExceeded(60)),
        ];
        for (job, pods, expected) in cases {
            assert_eq!(cause_of(&job, &pods), expected);
        }
        assert!(matches!(cause_of(&failed("BackoffLimitExceeded"), &[lost]), EndCause::TakenAway(_)));
        assert!(matches!(cause_of(&failed("BackoffLimitExceeded"), &[]), EndCause::TakenAway(_)));
        let unknown = pod(1, ended(255, "Unknown"));
        assert!(matches!(cause_of(&failed("BackoffLimitExceeded"), &[unknown]), EndCause::TakenAway(_)));
        let init = ContainerView { started_at: None, ..ended(1, "Error") };
        let unprepared = PodView { init: Some(("vdk".into(), init)), ..pod(1, ContainerView::default()) };
        assert!(matches!(cause_of(&failed("BackoffLimitExceeded"), &[unprepared]), EndCause::NotStarted(_)));
    }

    #[test]
    fn what_ended_a_run_from_outside_is_reported() {
        let running = || ContainerView { started_at: Some(at(2)), ..ContainerView::default() };
        let said = |pod: PodView| match cause_of(&failed("BackoffLimitExceeded"), &[pod]) {
            EndCause::TakenAway(why) => why,
            other => panic!("{other:?}"),
        };
        let disrupted = |reason: &str, main: ContainerView| PodView {
            disruption: Some((reason.into(), "told by the cluster".into())),
            gone: true,
            ..pod(1, main)
        };
        assert!(said(disrupted("DeletionByPodGC", running())).contains("node1 was lost"));
        assert!(said(disrupted("EvictionByEvictionAPI", ended(137, "Error"))).contains("evicted"));
        assert!(said(PodView { gone: true, ..pod(1, running()) }).contains("removed"));
        // The end of an earlier attempt is not that of the last one.
        let attempts = [pod(1, ended(1, "Error")), PodView { gone: true, ..pod(5, running()) }];
        assert!(matches!(cause_of(&failed("BackoffLimitExceeded"), &attempts), EndCause::TakenAway(_)));
        // A process that fails while its node is drained has failed on its own.
        let own = disrupted("EvictionByEvictionAPI", ended(1, "Error"));
        assert_eq!(cause_of(&failed("BackoffLimitExceeded"), &[own]), EndCause::Exited(1));
        // A limit of the pod is no shortage of the node.
        let evicted = |message: &str| PodView {
            reason: Some("Evicted".into()),
            message: Some(message.into()),
            ..pod(1, ended(137, "Error"))
        };
        let full = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ";
        assert!(matches!(cause_of(&failed("BackoffLimitExceeded"), &[evicted(full)]), EndCause::OutOfDisk(_)));
        assert!(said(evicted("The node was low on resource: memory.")).contains("low on resource"));
    }

    #[test]
    fn a_cancelled_run_is_over_when_its_last_pod_is() {
        let seen = Some(at(9));
        let cancelled =
            JobView { cancelled_at: Some(at(8)), suspended: true, suspension_seen_at: seen, active: 1, ..job() };
        let running = || ContainerView { started_at: Some(at(2)), ..ContainerView::default() };
        assert_eq!(run_state(&cancelled, &[pod(1, running())], at(10)), RunState::Running(at(2)));
        let cancelled = JobView { active: 0, ..cancelled };
        assert_eq!(run_state(&cancelled, &[pod(1, running())], at(10)), RunState::Running(at(2)));
        assert_eq!(cause_of(&cancelled, &[]), EndCause::Cancelled);
        let done = JobView { cancelled_at: Some(at(8)), ..failed("BackoffLimitExceeded") };
        assert_eq!(cause_of(&done, &[pod(1, ended(1, "Error"))]), EndCause::Exited(1));
    }

    #[test]
    fn a_cancelled_run_may_have_an_unreported_pod_until_its_controller_saw_the_cancellation() {
        let cancelled = JobView { cancelled_at: Some(at(8)), suspended: true, ..job() };
        let is_over = |job: &JobView, now| matches!(run_state(job, &[], at(now)), RunState::Ended(_));
        assert!(!is_over(&cancelled, 9), "its first pod may have been made just now");
        assert!(is_over(&cancelled, 13), "the controller would have told of it");
        // Its suspension before the start does not count.
        for (manual, seen, expected) in [(true, 7, false), (true, 8, false), (true, 9, true), (false, 8, true)] {
            let job = JobView { manual, suspension_seen_at: Some(at(seen)), ..cancelled.clone() };
            assert_eq!(is_over(&job, 9), expected, "{manual} {seen}");
        }
        let resumed = JobView { suspended: false, suspension_seen_at: Some(at(9)), ..cancelled };
        assert!(!is_over(&resumed, 99), "it was resumed by others");
    }

    #[test]
    fn causes_that_keep_an_execution_from_starting_are_reported_with_what_to_do() {
        let waiting = |reason: &str| ContainerView {
            waiting: Some((reason.into(), "told by the node".into())),
            ..ContainerView::default()
        };
        let held = |pod: PodView| match run_state(&job(), &[pod], at(10)) {
            RunState::Held(problem) => problem.what,
            other => panic!("{other:?}"),
        };
        assert!(held(pod(1, waiting("ImagePullBackOff"))).contains("image"));
        assert!(held(pod(1, waiting("CreateContainerConfigError"))).contains("configured"));
        let unschedulable = PodView { unschedulable: Some("0/1 nodes".into()), ..pod(1, ContainerView::default()) };
        assert!(held(unschedulable).contains("node"));
        assert_eq!(run_state(&job(), &[pod(1, waiting("ContainerCreating"))], at(10)), RunState::Waiting);
        let before = PodView {
            init: Some(("mine".into(), waiting("CreateContainerConfigError"))),
            ..pod(1, waiting("PodInitializing"))
        };
        assert!(held(before).contains("configured"));
        let unprepared = PodView { unprepared: true, ..pod(1, waiting("ContainerCreating")) };
        assert_eq!(
            run_state(&job(), std::slice::from_ref(&unprepared), at(10)),
            RunState::Unprepared(unprepared.name.clone(), at(1))
        );
        let problem = unmounted("MountVolume.SetUp failed for volume \"mine\" : secret \"mine-1\" not found");
        assert!(problem.countermeasures.contains("Create the secret mine-1"), "{problem:?}");
        assert!(lacks(&problem, "mine-1") && !lacks(&problem, "mine"), "{problem:?}");
        let told = "couldn't find key PASSWORD in Secret jobs/holdfast-options-mine";
        let problem = waiting_container("mine", "CreateContainerConfigError", told).unwrap();
        assert!(lacks(&problem, "holdfast-options-mine") && !lacks(&problem, "holdfast-options-min"), "{problem:?}");
        // More sentences follow in the message of the execution.
        for message in ["exceeded quota: compute", "exceeded quota: compute."] {
            let problem = refused(message);
            assert!(problem.what.contains("limit") && problem.why.ends_with("quota: compute."), "{problem:?}");
        }
        let unpulled = waiting_container("mine", "ErrImagePull", "not found").unwrap();
        assert!(unpulled.why.ends_with("ErrImagePull: not found."), "{unpulled:?}");
    }
}
