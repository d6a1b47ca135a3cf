// One job: its state, its executions, its deployment with revisions, its configuration, its history.
import { useState } from "preact/hooks";
import { askCancel, askDelete, askEnable, askRollback, askRun, askUndeploy, type JobId } from "../actions";
import { jobPath, Problem, send } from "../api";
import { inWords } from "../cron";
import { changed, POLL_FAST_MS, problemOf, useRead } from "../data";
import { bytes, count, duration, plural, relative, rough, seconds } from "../format";
import { useKeys } from "../keys";
import { action, ask, Command, Fact, Facts, Heading, Lead, ProblemBox, say, shortVersion, Time, Waiting } from "../kit";
import { readAudit, readDiff, readExecutions, readJob, readRevisions, readRollout, readScheduledTimes } from "../queries";
import { Link } from "../router";
import { deploymentState, executionState, isActive, isFailed, Mark, rolloutState, StateWord } from "../status";
import { Table, type Column } from "../table";
import { Trend } from "../trend";
import type { AuditEvent, Execution, FieldChange, Job, Revision, Rollout } from "../types";
import { fieldName, fieldValue, UnknownJob } from "./execution";
import { ExecutionList } from "./executions";

const TABS: [string, string][] = [
    ["overview", "Overview"],
    ["executions", "Executions"],
    ["schedule", "Schedule"],
    ["deployment", "Deployment"],
    ["configuration", "Configuration"],
    ["history", "History"],
];

export function JobPage({ name, tab, diff }: { name: string; tab: string; diff?: string }) {
    const read = useRead(`job ${name}`, (signal) => readJob(name, signal));
    if (read.problem && !read.data) return <ProblemBox problem={read.problem} again={read.again} />;
    if (read.data === undefined) return <Waiting />;
    if (read.data === null) return <UnknownJob name={name} />;
    return <Known job={read.data} tab={tab} diff={diff} />;
}

function Known({ job, tab, diff }: { job: Job; tab: string; diff: string | undefined }) {
    const id: JobId = { name: job.jobName, team: job.config.team };
    const [isBusy, setBusy] = useState(false);
    const latest = useRead(
        `latest ${job.jobName}`,
        async (signal) => {
            const runs = await readExecutions({ page: 1, size: 100, filter: { jobNameIn: [job.jobName] } }, true, signal);
            setBusy(runs.some((run) => isActive(run.status)));
            return runs;
        },
        isBusy ? POLL_FAST_MS : 15_000,
    );
    const runs = latest.data ?? [];
    const running = runs.find((run) => isActive(run.status));
    const deployment = job.deployments?.[0];
    useKeys({ r: () => deployment && askRun(id, true) });
    return (
        <>
            <p class="trail">
                <Link to="/jobs">Jobs</Link> › <Link to={`/jobs?team=${encodeURIComponent(id.team)}`}>{id.team}</Link>
            </p>
            <Heading title={job.jobName} {...(tab === "overview" ? {} : { tab: TABS.find(([key]) => key === tab)?.[1] ?? "" })}>
                <StateWord state={deploymentState(job)} />
                {running && (
                    <Link to={`/jobs/${job.jobName}/executions/${running.id}`}>
                        <StateWord state={executionState(running.status)} note={duration(seconds(running))} />
                    </Link>
                )}
                <span class="grow" />
                {running && (
                    <button type="button" class="danger" onClick={() => askCancel(id, running)}>
                        Cancel execution
                    </button>
                )}
                <button
                    type="button"
                    class="primary"
                    disabled={!deployment || !!running}
                    title={!deployment ? "The job is not deployed." : running ? "An execution is in progress." : "Run now (r)"}
                    onClick={() => askRun(id, true)}
                >
                    Run now
                </button>
                {deployment && (
                    <button type="button" onClick={() => askEnable(id, !deployment.enabled)}>
                        {deployment.enabled ? "Disable" : "Enable"}
                    </button>
                )}
                <details class="menu right">
                    <summary>More</summary>
                    <div class="menu-body">
                        <a class="item" href={`${jobPath(id.team, id.name)}/sources`} download={`${id.name}.zip`}>
                            Download the source
                        </a>
                        {job.config.generateKeytab && (
                            <a class="item" href={`${jobPath(id.team, id.name)}/keytab`} download={`${id.name}.keytab`}>
                                Download the keytab
                            </a>
                        )}
                        <button type="button" class="item" disabled={!deployment} onClick={() => askUndeploy(id)}>
                            Remove the deployment…
                        </button>
                        <button type="button" class="item" onClick={() => askDelete(id)}>
                            Delete the job…
                        </button>
                    </div>
                </details>
            </Heading>
            <nav class="tabs" aria-label="Parts of the job">
                {TABS.map(([key, label]) => (
                    <Link key={key} to={`/jobs/${job.jobName}${key === "overview" ? "" : `/${key}`}`} {...(key === tab ? { "aria-current": "page" as const } : {})}>
                        {label}
                    </Link>
                ))}
            </nav>
            {tab === "overview" && <Overview job={job} runs={runs} isRead={latest.data !== undefined} problem={problemOf(latest)} />}
            {tab === "executions" && (
                <>
                    {runs.length > 1 && <Trend runs={runs} />}
                    <ExecutionList job={job.jobName} />
                </>
            )}
            {tab === "schedule" && <ScheduleTab job={job} id={id} runs={runs} />}
            {tab === "deployment" && <DeploymentTab job={job} id={id} diff={diff} />}
            {tab === "configuration" && <Configuration job={job} id={id} />}
            {tab === "history" && <History id={id} />}
        </>
    );
}

function Overview({ job, runs, isRead, problem }: { job: Job; runs: Execution[]; isRead: boolean; problem: Problem | undefined }) {
    const id: JobId = { name: job.jobName, team: job.config.team };
    const deployment = job.deployments?.[0];
    const ended = runs.filter((run) => run.endTime);
    const last = ended[0];
    let failures = 0;
    for (const run of ended) {
        if (!isFailed(run.status)) break;
        failures++;
    }
    const lastSuccess = ended.find((run) => run.status === "SUCCEEDED");
    const took = ended.filter((run) => run.status === "SUCCEEDED").map(seconds).sort((a, b) => a - b);
    const at = (share: number) => took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0;
    const total = (deployment?.successfulExecutions ?? 0) + (deployment?.failedExecutions ?? 0);
    return (
        <>
            {!deployment && <NotDeployed id={id} />}
            {last && isFailed(last.status) && (
                <section class={`why tone-edge-${executionState(last.status).tone}`} aria-label="Last failure">
                    <p class="why-what">
                        <Mark state={executionState(last.status)} />
                        {failures > 1 ? `The last ${failures} executions failed.` : "The last execution failed."}
                        <span class="who">{action(last.status === "USER_ERROR" ? "user" : "platform")}</span>
                    </p>
                    <p>{last.message}</p>
                    <p>
                        {lastSuccess ? <>Last success {relative(lastSuccess.startTime)}. </> : "No execution before succeeded. "}
                        <Link to={`/jobs/${job.jobName}/executions/${last.id}`}>Why it failed, and what changed</Link>
                    </p>
                </section>
            )}
            {deployment && last && !isFailed(last.status) && (
                <Lead>
                    The last execution {last.status === "SUCCEEDED" ? "succeeded" : `ended: ${executionState(last.status).word}`} {relative(last.endTime!)}.
                    {nextOf(job) && <> The next one starts {relative(nextOf(job)!)}.</>}
                </Lead>
            )}
            {deployment && isRead && runs.length === 0 && <Lead>The job never ran.{nextOf(job) && <> The first execution starts {relative(nextOf(job)!)}.</>}</Lead>}
            {job.config.description && <p class="description">{job.config.description}</p>}
            {problem && <ProblemBox problem={problem} />}
            <Facts>
                <Fact name="Schedule">{job.config.schedule.scheduleCron ? <>{inWords(job.config.schedule.scheduleCron)} <code>{job.config.schedule.scheduleCron}</code></> : "manual executions only"}</Fact>
                <Fact name="Next execution">{nextOf(job) ? <><Time at={nextOf(job)} /> <span class="quiet">{relative(nextOf(job)!)}</span></> : <span class="quiet">none</span>}</Fact>
                <Fact name="Usually takes">{took.length > 2 ? `${duration(at(0.5))}, 95 % within ${duration(at(0.95))}` : <span class="quiet">not known yet</span>}</Fact>
                <Fact name="Success">{total > 0 ? `${((100 * (deployment?.successfulExecutions ?? 0)) / total).toFixed(1)} % (${count(deployment?.failedExecutions ?? 0)} of ${count(total)} failed)` : <span class="quiet">–</span>}</Fact>
                <Fact name="Deployed">{deployment ? <><Time at={deployment.lastDeployedDate} /> by {deployment.lastDeployedBy}</> : <span class="quiet">not deployed</span>}</Fact>
                <Fact name="Python, VDK">{deployment ? `${deployment.jobPythonVersion}, ${deployment.vdkVersion}` : <span class="quiet">–</span>}</Fact>
            </Facts>
            {runs.length > 1 && <Trend runs={runs} />}
            {runs.length > 0 && (
                <>
                    <div class="section-head">
                        <h2>Last executions</h2>
                        <Link to={`/jobs/${job.jobName}/executions`}>all executions</Link>
                    </div>
                    <Table label="Last executions" columns={RUNS} rows={runs.slice(0, 10)} keyOf={(run) => run.id} />
                </>
            )}
            {!isRead && !problem && <Waiting />}
        </>
    );
}

const RUNS: Column<Execution>[] = [
    { id: "status", name: "Status", cell: (run) => <StateWord state={executionState(run.status)} /> },
    {
        id: "start",
        name: "Start",
        cell: (run) => (
            <Link class="row-link" to={`/jobs/${run.jobName}/executions/${run.id}`}>
                <Time at={run.startTime} />
            </Link>
        ),
    },
    { id: "ago", name: "When", cell: (run) => <span class="quiet">{relative(run.startTime)}</span> },
    { id: "duration", name: "Duration", isNumber: true, cell: (run) => duration(seconds(run)) },
    { id: "type", name: "Started by", cell: (run) => (run.type === "MANUAL" ? "manual" : "schedule") },
    { id: "message", name: "Message", cell: (run) => <span class="clip long quiet">{run.status === "SUCCEEDED" ? "" : run.message}</span> },
];

function nextOf(job: Job): number | null {
    const next = job.config.schedule.nextRunEpochSeconds;
    return next && next > 0 && job.deployments?.[0]?.enabled ? next * 1000 : null;
}

function NotDeployed({ id }: { id: JobId }) {
    const rollout = useRollout(id);
    if (rollout.data && rollout.data.phase !== "rolled_out") return <RolloutBox rollout={rollout.data} name={id.name} />;
    return (
        <div class="empty">
            <p>The job is not deployed, so nothing runs.</p>
            <Command text={`vdk deploy -n ${id.name} -t ${id.team} -p ./${id.name} -r 'first version'`} label="Deploy it" />
        </div>
    );
}

/** The scheduled times to come, and the executions that the schedule started. */
function ScheduleTab({ job, id, runs }: { job: Job; id: JobId; runs: Execution[] }) {
    const read = useRead(`scheduled ${id.name}`, (signal) => readScheduledTimes(id.team, id.name, signal));
    const isEnabled = job.deployments?.[0]?.enabled === true;
    const schedule = read.data;
    const past = runs.filter((run) => run.type === "SCHEDULED").slice(0, 20);
    const took = runs.filter((run) => run.status === "SUCCEEDED").map(seconds).sort((a, b) => a - b);
    const usual = took.length > 2 ? took[Math.floor(took.length * 0.95)]! : null;
    const gap = schedule && schedule.times.length > 1 ? (Date.parse(schedule.times[1]!) - Date.parse(schedule.times[0]!)) / 1000 : null;
    return (
        <>
            {problemOf(read) && <ProblemBox problem={problemOf(read)!} again={read.again} />}
            {!schedule && !read.problem && <Waiting />}
            {schedule && (
                <Lead>
                    {schedule.schedule_cron === null
                        ? "The job has no schedule: it runs on request only."
                        : schedule.times.length === 0
                          ? "The schedule names no date of the next five years."
                          : isEnabled
                            ? `The next execution starts ${relative(schedule.times[0]!)}.`
                            : "The schedule starts no execution, because the deployment is not enabled."}
                </Lead>
            )}
            {schedule?.schedule_cron && (
                <Facts>
                    <Fact name="Schedule">
                        {inWords(schedule.schedule_cron)} <code>{schedule.schedule_cron}</code>
                    </Fact>
                    <Fact name="Time zone of the schedule">{schedule.time_zone}</Fact>
                    <Fact name="95 % of successes took">{usual === null ? <span class="quiet">not known yet</span> : `up to ${duration(usual)}`}</Fact>
                </Facts>
            )}
            {usual !== null && gap !== null && usual > gap && (
                <p class="banner">An execution takes longer than the time between two scheduled times, so a scheduled time waits for the execution before it.</p>
            )}
            <div class="columns">
                {schedule && schedule.times.length > 0 && (
                    <section aria-labelledby="coming">
                        <h2 id="coming">Scheduled times to come</h2>
                        <ol class="plain-list">
                            {schedule.times.map((at) => (
                                <li key={at}>
                                    <Time at={at} />
                                    <span class="grow" />
                                    <span class="quiet">{relative(at)}</span>
                                </li>
                            ))}
                        </ol>
                    </section>
                )}
                <section aria-labelledby="past">
                    <h2 id="past">Executions of the schedule</h2>
                    {past.length === 0 && <p class="quiet">The schedule has started no execution yet.</p>}
                    <ul class="plain-list">
                        {past.map((run) => (
                            <li key={run.id}>
                                <Mark state={executionState(run.status)} label />
                                <Link to={`/jobs/${run.jobName}/executions/${run.id}`}>
                                    <Time at={run.startTime} />
                                </Link>
                                <span class="grow" />
                                <span class="quiet">{duration(seconds(run))}</span>
                            </li>
                        ))}
                    </ul>
                </section>
            </div>
        </>
    );
}

function useRollout(id: JobId) {
    const [isMoving, setMoving] = useState(false);
    return useRead(
        `rollout ${id.name}`,
        async (signal) => {
            try {
                const rollout = await readRollout(id.team, id.name, signal);
                setMoving(rollout.phase === "pending");
                return rollout;
            } catch (error) {
                if (error instanceof Problem && error.status === 404) return null;
                throw error;
            }
        },
        isMoving ? POLL_FAST_MS : 15_000,
    );
}

function RolloutBox({ rollout, name }: { rollout: Rollout; name: string }) {
    const state = rolloutState(rollout);
    const problem = rollout.problem;
    return (
        <section class={`why tone-edge-${state.tone}`} aria-label="Rollout">
            <p class="why-what">
                <Mark state={state} />
                {rollout.phase === "rolled_out"
                    ? `Revision ${rollout.deployed_revision} is deployed.`
                    : `Revision ${rollout.desired_revision} is not deployed${rollout.deployed_revision ? `; executions use revision ${rollout.deployed_revision}` : ""}.`}
                {problem && <span class="who">{action(problem.fault, rollout.next_attempt_date)}</span>}
                {!problem && rollout.phase === "pending" && <span class="who">Action: none (in progress)</span>}
            </p>
            {problem && (
                <>
                    <p>
                        {problem.what} {problem.why}
                    </p>
                    <p>
                        {problem.consequences} {problem.countermeasures} <code class="quiet">{problem.code}</code>
                    </p>
                </>
            )}
            {rollout.build && (
                <p>
                    Build: {rollout.build.phase.replaceAll("_", " ")} for {rough(rollout.build.elapsed_seconds)}
                    {rollout.build.bytes > 0 && `, ${bytes(rollout.build.bytes)}`}.
                </p>
            )}
            {rollout.attempts > 0 && rollout.phase !== "rolled_out" && (
                <p class="quiet">
                    {plural(rollout.attempts, "attempt")} of {name}
                    {rollout.next_attempt_date && <>; the next one {relative(rollout.next_attempt_date)}</>}.
                </p>
            )}
        </section>
    );
}

function DeploymentTab({ job, id, diff }: { job: Job; id: JobId; diff: string | undefined }) {
    const rollout = useRollout(id);
    const revisions = useRead(`revisions ${id.name}`, async (signal) => {
        try {
            return await readRevisions(id.team, id.name, signal);
        } catch (error) {
            if (error instanceof Problem && error.status === 404) return [];
            throw error;
        }
    });
    const list = revisions.data ?? [];
    const newest = list[0]?.revision;
    const deployed = rollout.data?.deployed_revision;
    const pair = diff?.split("...").map(Number);
    const columns: Column<Revision>[] = [
        {
            id: "revision",
            name: "Revision",
            cell: (revision) => (
                <>
                    <strong>{revision.revision}</strong>
                    {revision.revision === deployed && <span class="tag">deployed</span>}
                    {revision.revision === newest && newest !== deployed && <span class="tag">desired</span>}
                </>
            ),
        },
        { id: "date", name: "Requested", cell: (revision) => <Time at={revision.deployed_date} /> },
        { id: "by", name: "By", cell: (revision) => revision.deployed_by },
        { id: "source", name: "Source", cell: (revision) => <code title={revision.job_version}>{shortVersion(revision.job_version)}</code> },
        { id: "python", name: "Python", cell: (revision) => revision.python_version },
        { id: "enabled", name: "Schedule", cell: (revision) => (revision.enabled ? (inWords(revision.schedule.schedule_cron) ?? revision.schedule.schedule_cron ?? "manual only") : "disabled") },
        {
            id: "changes",
            name: "Actions",
            cell: (revision) => {
                const before = list.find((other) => other.revision < revision.revision);
                return (
                    <span class="pair">
                        {before && <Link to={`/jobs/${id.name}/deployment/${before.revision}...${revision.revision}`}>what changed</Link>}
                        {revision.revision !== newest && (
                            <button
                                type="button"
                                class="small"
                                onClick={() => askRollback(id, revision.revision, <DiffOf id={id} from={newest!} to={revision.revision} />)}
                            >
                                Roll back…
                            </button>
                        )}
                    </span>
                );
            },
        },
    ];
    const deployment = job.deployments?.[0];
    const r = deployment?.resources;
    return (
        <>
            {problemOf(rollout) && <ProblemBox problem={problemOf(rollout)!} again={rollout.again} />}
            {rollout.data && <RolloutBox rollout={rollout.data} name={id.name} />}
            {rollout.data === null && !deployment && <NotDeployed id={id} />}
            {deployment && (
                <Facts>
                    <Fact name="Source version" isWide>
                        <code>{deployment.jobVersion}</code>
                    </Fact>
                    <Fact name="Python, VDK">
                        {deployment.jobPythonVersion}, {deployment.vdkVersion}
                    </Fact>
                    <Fact name="CPU request, limit">
                        {r?.cpuRequest ?? "default"}, {r?.cpuLimit ?? "default"}
                    </Fact>
                    <Fact name="Memory request, limit">
                        {r?.memoryRequest ? `${r.memoryRequest} Mi` : "default"}, {r?.memoryLimit ? `${r.memoryLimit} Mi` : "default"}
                    </Fact>
                </Facts>
            )}
            {pair?.length === 2 && pair.every(Number.isInteger) && (
                <section class="diff" aria-label="Changes">
                    <div class="section-head">
                        <h2>
                            Revision {pair[0]} → {pair[1]}
                        </h2>
                        <Link to={`/jobs/${id.name}/deployment`}>close</Link>
                    </div>
                    <DiffOf id={id} from={pair[0]!} to={pair[1]!} />
                </section>
            )}
            <h2>Revisions</h2>
            {problemOf(revisions) && <ProblemBox problem={problemOf(revisions)!} again={revisions.again} />}
            {!revisions.data && !revisions.problem && <Waiting />}
            {revisions.data?.length === 0 && <p class="quiet">There is no revision: the job was never deployed.</p>}
            {list.length > 0 && <Table label="Revisions" columns={columns} rows={list} keyOf={(revision) => String(revision.revision)} />}
        </>
    );
}

function DiffOf({ id, from, to }: { id: JobId; from: number; to: number }) {
    const read = useRead(`diff ${id.name} ${from} ${to}`, (signal) => readDiff(id.team, id.name, from, to, signal), null);
    if (read.problem) return <ProblemBox problem={read.problem} />;
    if (!read.data) return <p class="quiet">…</p>;
    if (read.data.length === 0) return <p>No field differs.</p>;
    return <FieldTable changes={read.data} from={from} to={to} />;
}

function FieldTable({ changes, from, to }: { changes: FieldChange[]; from: number; to: number }) {
    return (
        <div class="table-box">
            <table class="fields" aria-label={`Fields that differ between revision ${from} and ${to}`}>
                <thead>
                    <tr>
                        <th scope="col">Field</th>
                        <th scope="col">Revision {from}</th>
                        <th scope="col">Revision {to}</th>
                    </tr>
                </thead>
                <tbody>
                    {changes.map((change) => (
                        <tr key={change.field}>
                            <th scope="row">{fieldName(change.field)}</th>
                            <td data-name={`Revision ${from}`}>
                                <del>{fieldValue(change.field, change.from)}</del>
                            </td>
                            <td data-name={`Revision ${to}`}>
                                <ins>{fieldValue(change.field, change.to)}</ins>
                            </td>
                        </tr>
                    ))}
                </tbody>
            </table>
        </div>
    );
}

const CONTACTS: [keyof Job["config"]["contacts"], string][] = [
    ["notifiedOnJobDeploy", "Deployments"],
    ["notifiedOnJobFailureUserError", "User errors"],
    ["notifiedOnJobFailurePlatformError", "Platform errors"],
    ["notifiedOnJobSuccess", "Successes"],
];

function Configuration({ job, id }: { job: Job; id: JobId }) {
    return (
        <>
            <Facts>
                <Fact name="Team">{id.team}</Fact>
                <Fact name="Description">
                    {job.config.description || <span class="quiet">none</span>}{" "}
                    <button type="button" class="link" onClick={() => editDescription(id, job.config.description)}>
                        Edit
                    </button>
                </Fact>
                <Fact name="Schedule">{job.config.schedule.scheduleCron ? <code>{job.config.schedule.scheduleCron}</code> : "manual executions only"}</Fact>
                <Fact name="Source">{job.config.sourceUrl && /^https?:\/\//.test(job.config.sourceUrl) ? <a href={job.config.sourceUrl} target="_blank" rel="noreferrer noopener">{job.config.sourceUrl}</a> : <span class="quiet">no link is configured</span>}</Fact>
                {CONTACTS.map(([field, name]) => (
                    <Fact key={field} name={`Mail about ${name.toLowerCase()}`}>
                        {job.config.contacts[field]?.length ? job.config.contacts[field]!.join(", ") : <span class="quiet">no address</span>}
                    </Fact>
                ))}
            </Facts>
            <h2>Change it</h2>
            <p>
                Schedule, contacts and requirements are in the job's <code>config.ini</code> and change with the next deployment. Properties and secrets are set in a terminal; the page does not show their values.
            </p>
            <Command text={`vdk deploy -n ${id.name} -t ${id.team} -p ./${id.name} -r 'why'`} label="Deploy a change" />
            <Command text={`vdk properties --list -n ${id.name} -t ${id.team}`} label="Properties" />
        </>
    );
}

interface JobBody {
    description: string;
    [name: string]: unknown;
}

function editDescription(id: JobId, before: string) {
    let text = before;
    ask({
        title: `Description of ${id.name}`,
        body: (
            <label class="field">
                <span>Description</span>
                <textarea rows={5} maxLength={10_000} defaultValue={before} onInput={(event) => (text = event.currentTarget.value)} autofocus />
            </label>
        ),
        verb: "Save",
        act: async () => {
            const path = jobPath(id.team, id.name);
            const response = await fetch(path);
            const job = (await response.json()) as JobBody;
            // Another person's change in between is reported instead of overwritten.
            if (job.description !== before) throw new Problem(412, "changed_meanwhile", "The description was not saved.", "Another change came in between.", "The other change stays.", "Close this dialog, read the new text and edit it again.", "");
            await send("PUT", path, { ...job, description: text });
            changed();
            say("The description was saved.");
            return "The description was saved.";
        },
    });
}

const ACTIONS: Record<string, string> = {
    "job.create": "created the job",
    "job.update": "changed the job",
    "job.move": "moved the job to another team",
    "job.delete": "deleted the job",
    "job.undelete": "undeleted the job",
    "deployment.change": "changed the deployment",
    "deployment.rollback": "rolled back",
    "deployment.remove": "removed the deployment",
    "sources.upload": "uploaded a source",
    "sources.delete": "removed the sources",
    "execution.start": "started an execution",
    "execution.cancel": "cancelled an execution",
};

function History({ id }: { id: JobId }) {
    const read = useRead(`audit ${id.name}`, (signal) => readAudit(id.team, id.name, signal));
    const columns: Column<AuditEvent>[] = [
        { id: "date", name: "Time", cell: (event) => <Time at={event.date} /> },
        { id: "by", name: "By", cell: (event) => event.by },
        { id: "action", name: "Change", cell: (event) => ACTIONS[event.action] ?? event.action },
        {
            id: "detail",
            name: "Of",
            cell: (event) => {
                if (event.revision !== null) return <Link to={`/jobs/${id.name}/deployment`}>revision {event.revision}</Link>;
                if (event.detail && event.action.startsWith("execution.")) return <Link to={`/jobs/${id.name}/executions/${event.detail}`}>{event.detail}</Link>;
                return <code class="clip">{event.detail ?? ""}</code>;
            },
        },
        { id: "op", name: "Operation", cell: (event) => <code class="quiet">{event.op_id}</code> },
    ];
    return (
        <>
            {problemOf(read) && <ProblemBox problem={problemOf(read)!} again={read.again} />}
            {!read.data && !read.problem && <Waiting />}
            {read.data && <Lead>{plural(read.data.length, "recorded change")}, the newest first.</Lead>}
            {read.data && read.data.length > 0 && <Table label="History" columns={columns} rows={read.data} keyOf={(event) => String(event.id)} />}
        </>
    );
}
