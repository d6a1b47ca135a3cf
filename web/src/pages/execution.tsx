// One execution: why it ended as it did, what changed since the last success, and its log.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { askCancel, askRun } from "../actions";
import { POLL_FAST_MS, useRead } from "../data";
import { duration, fullTime, relative, seconds, time } from "../format";
import { useKeys } from "../keys";
import { action, Command, Fact, Facts, Heading, ProblemBox, shortVersion, Time, Waiting } from "../kit";
import { causeOf, lines, plain } from "../log/text";
import { LogViewer } from "../log/viewer";
import { readDiff, readExecution, readExecutions, readJob, readLog, readRevisions } from "../queries";
import { Link, navigate } from "../router";
import { executionState, isActive, isFailed, Mark, StateWord } from "../status";
import type { Execution, FieldChange, Revision } from "../types";

/** The lines that are loaded first; a longer log is loaded on request. */
const FIRST_LINES = 50_000;

export function ExecutionPage({ job, id }: { job: string; id: string }) {
    const found = useRead(`job ${job}`, (signal) => readJob(job, signal));
    if (found.problem && !found.data) return <ProblemBox problem={found.problem} again={found.again} />;
    if (found.data === undefined) return <Waiting />;
    if (found.data === null) return <UnknownJob name={job} />;
    return <Known job={job} team={found.data.config.team} id={id} />;
}

export function UnknownJob({ name }: { name: string }) {
    return (
        <>
            <Heading title="Job not found" />
            <p class="lead">There is no job {name}. It may have been deleted, or it belongs to a team that you can't see.</p>
            <p>
                <Link to="/deleted">Deleted jobs</Link> can be restored for some days.
            </p>
            <Command text="vdk list --all" label="All jobs in a terminal" />
        </>
    );
}

function Known({ job, team, id }: { job: string; team: string; id: string }) {
    const [isActiveNow, setActive] = useState(true);
    const read = useRead(`execution ${id}`, (signal) => readExecution(team, job, id, signal), isActiveNow ? POLL_FAST_MS : null);
    const run = read.data;
    useEffect(() => {
        if (run) setActive(isActive(run.status));
    }, [run?.status]);
    const neighbors = useRead(run ? `neighbors ${id}` : null, (signal) => readNeighbors(run!, signal), 15_000);
    useKeys({
        "[": () => neighbors.data?.older && open(neighbors.data.older),
        "]": () => neighbors.data?.newer && open(neighbors.data.newer),
        r: () => askRun({ name: job, team }, true),
    });
    const open = (to: Execution) => navigate(`/jobs/${job}/executions/${to.id}${location.search}`);
    if (!run) {
        if (!read.problem) return <Waiting />;
        return (
            <>
                <Heading title="Execution not found" />
                <ProblemBox problem={read.problem} again={read.again} />
                <p>
                    <Link to={`/jobs/${job}/executions`}>All executions of {job}</Link>
                </p>
            </>
        );
    }
    const state = executionState(run.status);
    const title = `${job}, ${time(run.startTime)}`;
    return (
        <>
            <p class="trail">
                <Link to="/jobs">Jobs</Link> › <Link to={`/jobs/${job}`}>{job}</Link> › <Link to={`/jobs/${job}/executions`}>Executions</Link>
            </p>
            <Heading title={title}>
                <StateWord state={state} />
                <span class="quiet">{isActive(run.status) ? `for ${duration(seconds(run))}` : duration(seconds(run))}</span>
                <span class="grow" />
                <span class="pair">
                    <button type="button" disabled={!neighbors.data?.older} onClick={() => open(neighbors.data!.older!)} title="Older execution ([)">
                        ‹ Older
                    </button>
                    <button type="button" disabled={!neighbors.data?.newer} onClick={() => open(neighbors.data!.newer!)} title="Newer execution (])">
                        Newer ›
                    </button>
                </span>
                {isActive(run.status) ? (
                    <button type="button" class="danger" onClick={() => askCancel({ name: job, team }, run)}>
                        Cancel
                    </button>
                ) : (
                    <button type="button" class="primary" onClick={() => askRun({ name: job, team }, true)}>
                        Run again
                    </button>
                )}
            </Heading>
            <p class="quiet brief">
                {run.type === "MANUAL" ? `started by ${run.startedBy ?? "a client"}` : "started by the schedule"} · source <code>{shortVersion(run.deployment?.jobVersion)}</code>
                {run.deployment?.deployedBy && <> of {run.deployment.deployedBy}</>} · Python {run.deployment?.jobPythonVersion ?? "–"}
            </p>
            {isActive(run.status) && <Usually job={job} run={run} />}
            <Outcome run={run} team={team} />
            <ExecutionFacts run={run} />
        </>
    );
}

/** How long an execution in progress may take, by the last successes. */
function Usually({ job, run }: { job: string; run: Execution }) {
    const read = useRead(`usually ${job}`, (signal) => readExecutions({ page: 1, size: 50, filter: { jobNameIn: [job], statusIn: ["SUCCEEDED"] } }, false, signal), null);
    const took = (read.data ?? []).map(seconds).sort((a, b) => a - b);
    if (run.status === "SUBMITTED") return <p class="lead">The execution was accepted and waits for its start.</p>;
    if (took.length < 3) return null;
    const most = took[Math.min(took.length - 1, Math.floor(took.length * 0.95))]!;
    return (
        <p class="lead">
            Successes take {duration(took[Math.floor(took.length / 2)]!)} usually, and {duration(most)} at most in 95 % of cases.
            {seconds(run) > most && " This execution takes longer."}
        </p>
    );
}

async function readNeighbors(run: Execution, signal: AbortSignal): Promise<{ older: Execution | undefined; newer: Execution | undefined }> {
    const [before, after] = await Promise.all([
        readExecutions({ page: 1, size: 3, filter: { jobNameIn: [run.jobName], startTimeLte: run.startTime } }, false, signal),
        readExecutions({ page: 1, size: 3, filter: { jobNameIn: [run.jobName], startTimeGte: run.startTime }, order: { property: "startTime", direction: "ASC" } }, false, signal),
    ]);
    return { older: before.find((other) => other.id !== run.id), newer: after.find((other) => other.id !== run.id) };
}

/** The message with its cause in the log, what changed since the last success, and the log. */
function Outcome({ run, team }: { run: Execution; team: string }) {
    const active = isActive(run.status);
    const [limit, setLimit] = useState(FIRST_LINES);
    const wasActive = useRef(active);
    const size = useRef(0);
    const log = useRead(
        // Read once more after the end, which adds the last lines.
        `log ${run.id} ${limit} ${active}`,
        async (signal) => {
            const text = await readLog(team, run.jobName, run.id, limit, signal);
            size.current = text.length;
            return text;
        },
        // A large log is read less often.
        active ? (size.current > 1_000_000 ? 15_000 : POLL_FAST_MS) : null,
    );
    if (active) wasActive.current = true;
    const all = useMemo(() => (log.data === undefined ? [] : lines(log.data)), [log.data]);
    const isWhole = limit === 0 || all.length < limit;
    const cause = useMemo(() => (isFailed(run.status) ? causeOf(all) : null), [all, run.status]);
    return (
        <>
            {isFailed(run.status) && (
                <section class={`why tone-edge-${executionState(run.status).tone}`} aria-label="Why it failed">
                    <p class="why-what">
                        <Mark state={executionState(run.status)} /> {firstSentence(run.message) ?? "The execution failed."}
                        <span class="who">{action(run.status === "USER_ERROR" ? "user" : "platform")}</span>
                    </p>
                    <p>{otherSentences(run.message)}</p>
                    {cause !== null && isWhole && (
                        <p class="cause">
                            <a href={`#L${cause + 1}`}>Line {cause + 1}</a>: <code>{plain(all[cause]!).slice(0, 300)}</code>
                        </p>
                    )}
                    <SinceLastSuccess run={run} team={team} />
                </section>
            )}
            {!isFailed(run.status) && run.message && run.message !== "Success" && <p class="lead">{run.message}</p>}
            {log.problem && log.data === undefined && (run.logsUrl ? <ElsewhereLog url={run.logsUrl} /> : <ProblemBox problem={log.problem} again={log.again} />)}
            {log.data === undefined && !log.problem && <Waiting rows={10} />}
            {log.data !== undefined && (
                <LogViewer
                    lines={all}
                    isWhole={isWhole}
                    size={new Blob([log.data]).size}
                    isGrowing={active}
                    loadAll={() => setLimit(0)}
                    download={() => void download(team, run, isWhole ? log.data! : null)}
                />
            )}
        </>
    );
}

async function download(team: string, run: Execution, known: string | null) {
    const text = known ?? (await readLog(team, run.jobName, run.id, 0));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = `${run.id}.log`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function ElsewhereLog({ url }: { url: string }) {
    const isWeb = /^https?:\/\//.test(url);
    return (
        <p class="lead">
            The log is stored elsewhere: {isWeb ? <a href={url} target="_blank" rel="noreferrer noopener">{url}</a> : <code>{url}</code>}
        </p>
    );
}

function firstSentence(message: string | null): string | null {
    if (!message) return null;
    const rest = message.replace(/^(User|Platform) error\.\s*/, "");
    return /^[^.]*\.?/.exec(rest)?.[0] || null;
}

function otherSentences(message: string | null): string {
    const rest = (message ?? "").replace(/^(User|Platform) error\.\s*/, "");
    return rest.slice((firstSentence(message) ?? "").length).trim();
}

interface Since {
    last: Execution | undefined;
    from: Revision | undefined;
    to: Revision | undefined;
    changes: FieldChange[];
}

/** The last success before an execution, and the differences of the two revisions. */
async function readSince(team: string, run: Execution, signal: AbortSignal): Promise<Since> {
    const [last] = await readExecutions({ page: 1, size: 1, filter: { jobNameIn: [run.jobName], statusIn: ["SUCCEEDED"], startTimeLte: run.startTime } }, true, signal);
    if (!last) return { last: undefined, from: undefined, to: undefined, changes: [] };
    const revisions = await readRevisions(team, run.jobName, signal);
    const of = (execution: Execution) => revisions.find((revision) => same(revision.deployed_date, execution.deployment?.deployedDate));
    const [from, to] = [of(last), of(run)];
    const changes = from && to && from.revision !== to.revision ? await readDiff(team, run.jobName, from.revision, to.revision, signal) : [];
    return { last, from, to, changes };
}

const same = (a: string, b: string | null | undefined) => !!b && Math.abs(Date.parse(a) - Date.parse(b)) < 1000;

function SinceLastSuccess({ run, team }: { run: Execution; team: string }) {
    const since = useRead(`since ${run.id}`, (signal) => readSince(team, run, signal), null);
    if (!since.data) return since.problem ? null : <p class="quiet">Looking for the last success…</p>;
    const { last, from, to, changes } = since.data;
    if (!last) return <p>No execution before it succeeded.</p>;
    const link = (
        <Link to={`/jobs/${run.jobName}/executions/${last.id}`}>
            <Time at={last.startTime} />
        </Link>
    );
    if (!from || !to || from.revision === to.revision) {
        return (
            <p>
                Last success: {link}, {relative(last.startTime)}
                {from ? `, at the same revision ${from.revision}` : ""}. The deployment has not changed since then.
            </p>
        );
    }
    return (
        <p>
            Last success: {link}, {relative(last.startTime)}, at revision {from.revision}. Since then: revision {to.revision} by {to.deployed_by} (<Changes changes={changes} />),{" "}
            <Link to={`/jobs/${run.jobName}/deployment/${from.revision}...${to.revision}`}>what changed</Link>.
        </p>
    );
}

const FIELDS: Record<string, string> = {
    job_version: "source",
    "resources.memory_limit": "memory limit",
    "resources.memory_request": "memory request",
    "resources.cpu_limit": "CPU limit",
    "resources.cpu_request": "CPU request",
    vdk_version: "VDK",
    python_version: "Python",
    enabled: "enabled",
    "schedule.schedule_cron": "schedule",
    schedule_cron: "schedule",
};

export const fieldName = (field: string) => FIELDS[field] ?? field.replaceAll("_", " ").replaceAll(".", ": ");

export function fieldValue(field: string, value: unknown): string {
    if (value === null || value === undefined) return "default";
    if (field === "job_version") return shortVersion(String(value));
    if (field.includes("memory")) return `${String(value)} Mi`;
    return typeof value === "string" ? value : JSON.stringify(value);
}

function Changes({ changes }: { changes: FieldChange[] }) {
    const shown = changes.slice(0, 4).map((change) => `${fieldName(change.field)} ${fieldValue(change.field, change.from)} → ${fieldValue(change.field, change.to)}`);
    const more = changes.length > 4 ? ` and ${changes.length - 4} more` : "";
    return <>{shown.length === 0 ? "the same fields" : shown.join(", ") + more}</>;
}

function ExecutionFacts({ run }: { run: Execution }) {
    const d = run.deployment;
    const r = d?.resources;
    const limits = [r?.cpuLimit && `${r.cpuLimit} CPU`, r?.memoryLimit && `${r.memoryLimit} Mi`].filter(Boolean).join(", ");
    return (
        <Facts>
            <Fact name="Start">{fullTime(run.startTime)}</Fact>
            <Fact name="End">{run.endTime ? fullTime(run.endTime) : "–"}</Fact>
            <Fact name="Started by" isWide>{run.type === "MANUAL" ? (run.startedBy ?? "manual") : "schedule"}</Fact>
            <Fact name="Source version" isWide>
                <code>{d?.jobVersion ?? "–"}</code>
            </Fact>
            <Fact name="Deployed">
                <Time at={d?.deployedDate} /> {d?.deployedBy && `by ${d.deployedBy}`}
            </Fact>
            <Fact name="Python, VDK">
                {d?.jobPythonVersion ?? "–"}, {d?.vdkVersion ?? "–"}
            </Fact>
            <Fact name="Schedule">{d?.schedule?.scheduleCron ? <code>{d.schedule.scheduleCron}</code> : "manual only"}</Fact>
            <Fact name="Limits">{limits || "default"}</Fact>
            <Fact name="Execution">
                <code>{run.id}</code>
            </Fact>
            <Fact name="Operation" isWide>
                <code>{run.opId}</code>
            </Fact>
        </Facts>
    );
}

