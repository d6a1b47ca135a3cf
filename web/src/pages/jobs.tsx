// All jobs: searched, filtered, sorted and paged by the service, with the state in the address.
import { useEffect, useState } from "preact/hooks";
import { askBulk, type JobId } from "../actions";
import { inWords } from "../cron";
import { problemOf, useDebounced, useRead } from "../data";
import { count, duration, plural } from "../format";
import { Heading, Lead, ProblemBox, say, Time, Waiting } from "../kit";
import { remembered } from "../memory";
import { readJobs, readStrips, readTotal, type JobsRequest, type Predicate } from "../queries";
import { Link, place, setQuery } from "../router";
import { deploymentState, executionState, isActive, STATUSES, StateWord, Strip, STRIP_RUNS } from "../status";
import { orderOf, pageOf, Pager, Table, type Column } from "../table";
import type { Execution, Job } from "../types";

const SORTS: Record<string, string> = {
    job: "jobName",
    team: "config.team",
    description: "config.description",
    deployment: "deployments.enabled",
    python: "deployments.jobPythonVersion",
    end: "deployments.lastExecutionTime",
    duration: "deployments.lastExecutionDuration",
    last: "deployments.lastExecutionStatus",
    success: "deployments.successfulExecutions",
    failed: "deployments.failedExecutions",
    next: "config.schedule.nextRunEpochSeconds",
};

/** Columns that are hidden until the person shows them. */
const HIDDEN = ["description", "python", "deployed", "by"];
/** Jobs that one action may be for. */
const SELECTED_MAX = 1000;

const chosen = remembered<string[]>("columns", [], (value) => Array.isArray(value));

/** The filters of an address. */
export function predicates(query: URLSearchParams): Predicate[] {
    const list: Predicate[] = [];
    const add = (property: string, pattern: string | null) => {
        if (pattern) list.push({ property, pattern });
    };
    const team = query.get("team");
    add("config.team", team);
    add("config.description", query.get("description"));
    add("deployments.enabled", query.get("deployment"));
    add("deployments.lastExecutionStatus", query.get("last")?.toUpperCase() ?? null);
    add("deployments.jobPythonVersion", query.get("python"));
    add("deployments.status", query.get("rollout")?.toUpperCase() ?? null);
    return list;
}

function successRate(job: Job) {
    const d = job.deployments?.[0];
    if (!d || d.successfulExecutions + d.failedExecutions === 0) return <span class="quiet">–</span>;
    const share = (100 * d.successfulExecutions) / (d.successfulExecutions + d.failedExecutions);
    const text = share === 100 ? "100 %" : `${share.toFixed(1)} %`;
    return d.failedExecutions > 0 ? (
        <>
            {text} <span class="quiet">{count(d.failedExecutions)} failed</span>
        </>
    ) : (
        text
    );
}

export function JobsPage() {
    const query = place.value.query;
    const { page, size } = pageOf(query);
    const order = orderOf(query.get("sort"), "job");
    const [text, setText] = useState(query.get("q") ?? "");
    const typed = useDebounced(text, 180);
    useEffect(() => {
        if (typed !== (query.get("q") ?? "")) setQuery({ q: typed, page: null });
    }, [typed]);
    useEffect(() => setText(query.get("q") ?? ""), [query.get("q")]);

    const search = query.get("q") ?? "";
    const filter = predicates(query);
    const sorted: Predicate[] = [...filter, { property: SORTS[order.by] ?? "jobName", sort: order.isDescending ? "DESC" : "ASC" }];
    const request: JobsRequest = { page, size, filter: sorted, search };
    const key = JSON.stringify(request);
    const jobs = useRead(`jobs ${key}`, (signal) => readJobs(request, signal));
    // After the rows, so that nothing holds them back.
    const total = useRead(jobs.data === undefined ? null : `total ${JSON.stringify([filter, search])}`, (signal) => readTotal(filter, search, signal));
    const strips = useRead(jobs.data && !jobs.isStale ? `strips ${key}` : null, (signal) => readStrips(request, STRIP_RUNS, signal));

    const [selected, setSelected] = useState<ReadonlyMap<string, JobId>>(new Map());
    useEffect(() => setSelected(new Map()), [JSON.stringify([filter, search])]);
    const rows = jobs.data ?? [];
    const toggle = (keys: Job[], on: boolean) => {
        const next = new Map(selected);
        for (const job of keys) {
            if (on) next.set(job.jobName, { name: job.jobName, team: job.config.team });
            else next.delete(job.jobName);
        }
        setSelected(next);
    };
    const selectAll = async () => {
        const all = await readJobs({ page: 1, size: SELECTED_MAX, filter: sorted, search });
        setSelected(new Map(all.map((job) => [job.jobName, { name: job.jobName, team: job.config.team }])));
        if (all.length === SELECTED_MAX) say(`The first ${count(SELECTED_MAX)} jobs are selected, which is the most for one action.`);
    };

    const all: Column<Job>[] = [
        {
            id: "job",
            name: "Job",
            sort: "job",
            cell: (job) => (
                <Link class="row-link" to={`/jobs/${job.jobName}`}>
                    {job.jobName}
                </Link>
            ),
        },
        {
            id: "team",
            name: "Team",
            sort: "team",
            cell: (job) => (
                <button type="button" class="link" title={`Only jobs of ${job.config.team}`} onClick={() => setQuery({ team: job.config.team, page: null }, false)}>
                    {job.config.team}
                </button>
            ),
        },
        { id: "description", name: "Description", sort: "description", cell: (job) => <span class="clip">{job.config.description}</span> },
        { id: "deployment", name: "Deployment", sort: "deployment", cell: (job) => <StateWord state={deploymentState(job)} /> },
        { id: "strip", name: "Last 20 executions", cell: (job) => <StripOf strips={strips.data} job={job} /> },
        { id: "last", name: "Last execution", sort: "last", cell: (job) => <LastOf strips={strips.data} job={job} /> },
        { id: "end", name: "Ended", sort: "end", cell: (job) => <Time at={job.deployments?.[0]?.lastExecutionTime} /> },
        {
            id: "duration",
            name: "Duration",
            sort: "duration",
            isNumber: true,
            cell: (job) => (job.deployments?.[0]?.lastExecutionDuration != null ? duration(job.deployments[0].lastExecutionDuration) : <span class="quiet">–</span>),
        },
        { id: "success", name: "Success", sort: "failed", cell: successRate },
        { id: "schedule", name: "Schedule", cell: (job) => inWords(job.config.schedule.scheduleCron) ?? (job.config.schedule.scheduleCron ? <code>{job.config.schedule.scheduleCron}</code> : <span class="quiet">manual only</span>) },
        { id: "next", name: "Next", sort: "next", cell: (job) => <Time at={nextOf(job)} /> },
        { id: "python", name: "Python", sort: "python", cell: (job) => job.deployments?.[0]?.jobPythonVersion ?? <span class="quiet">–</span> },
        { id: "deployed", name: "Deployed", cell: (job) => <Time at={job.deployments?.[0]?.lastDeployedDate} /> },
        { id: "by", name: "By", cell: (job) => job.deployments?.[0]?.lastDeployedBy ?? <span class="quiet">–</span> },
    ];
    const hidden = new Set(chosen.value.length > 0 ? chosen.value : HIDDEN);
    const given = query.get("columns");
    const columns = all.filter((column) => column.id === "job" || (given ? given.split(",").includes(column.id) : !hidden.has(column.id)));
    const isFiltered = filter.length > 0 || search !== "";

    return (
        <>
            <Heading title="Jobs" />
            <Lead>
                {total.data === undefined ? "…" : isFiltered ? `${plural(total.data, "job matches", "jobs match")}.` : total.data === 0 ? "There is no job yet." : `${plural(total.data, "job")}.`}
            </Lead>
            <div class="filters" role="search" aria-label="Jobs">
                <label class="search">
                    <span class="visually-hidden">Search by name, team or description</span>
                    <input type="search" placeholder="Name, team or description" value={text} onInput={(event) => setText(event.currentTarget.value)} aria-keyshortcuts="/" spellcheck={false} />
                </label>
                <Choice name="deployment" label="Deployment" options={[["enabled", "enabled"], ["disabled", "disabled"], ["not_deployed", "not deployed"]]} />
                <Choice name="last" label="Last execution" options={STATUSES.filter((status) => !isActive(status)).map((status) => [status.toLowerCase(), executionState(status).word])} />
                <Choice name="rollout" label="Rollout" options={[["success", "rolled out"], ["none", "in progress"], ["user_error", "user error"], ["platform_error", "platform error"]]} />
                <details class="menu">
                    <summary>Columns</summary>
                    <div class="menu-body">
                        {all
                            .filter((column) => column.id !== "job")
                            .map((column) => (
                                <label key={column.id}>
                                    <input
                                        type="checkbox"
                                        checked={columns.includes(column)}
                                        onChange={() => {
                                            const next = all.filter((c) => (c === column ? columns.includes(c) : !columns.includes(c))).map((c) => c.id);
                                            chosen.value = next.length > 0 ? next : ["none"];
                                            setQuery({ columns: all.filter((c) => !next.includes(c.id)).map((c) => c.id).join(",") });
                                        }}
                                    />
                                    {column.name}
                                </label>
                            ))}
                    </div>
                </details>
            </div>
            <Chips names={{ team: "team", description: "description", python: "Python" }} />
            {problemOf(jobs) && <ProblemBox problem={problemOf(jobs)!} again={jobs.again} />}
            {!jobs.data && !jobs.problem && <Waiting rows={12} />}
            {jobs.data && rows.length > 0 && (
                <Table
                    label="Jobs"
                    columns={columns}
                    rows={rows}
                    keyOf={(job) => job.jobName}
                    order={order}
                    isStale={jobs.isStale}
                    selection={{
                        selected: new Set(selected.keys()),
                        toggle: (name) => toggle(rows.filter((job) => job.jobName === name), !selected.has(name)),
                        toggleAll: () => toggle(rows, !rows.every((job) => selected.has(job.jobName))),
                    }}
                />
            )}
            {jobs.data && rows.length === 0 && !jobs.isStale && (isFiltered ? <NoMatch /> : <FirstJob />)}
            {(rows.length > 0 || page > 1) && <Pager page={page} size={size} rows={rows.length} total={total.data} />}
            {selected.size > 0 && (
                <div class="selection" role="region" aria-label="Selected jobs">
                    <strong>{count(selected.size)} selected</strong>
                    {total.data !== undefined && total.data > selected.size && (
                        <button type="button" class="link" onClick={selectAll}>
                            select all {count(Math.min(total.data, SELECTED_MAX))}
                        </button>
                    )}
                    <button type="button" onClick={() => askBulk("Run now", [...selected.values()])}>
                        Run now
                    </button>
                    <button type="button" onClick={() => askBulk("Enable", [...selected.values()])}>
                        Enable
                    </button>
                    <button type="button" onClick={() => askBulk("Disable", [...selected.values()])}>
                        Disable
                    </button>
                    <button type="button" class="link" onClick={() => setSelected(new Map())}>
                        Clear selection
                    </button>
                </div>
            )}
        </>
    );
}

function nextOf(job: Job): number | null {
    const next = job.config.schedule.nextRunEpochSeconds;
    return next && next > 0 && job.deployments?.[0]?.enabled ? next * 1000 : null;
}

function StripOf({ strips, job }: { strips: Map<string, Execution[]> | undefined; job: Job }) {
    const runs = strips?.get(job.jobName);
    return runs ? <Strip runs={runs} /> : <span class="strip" />;
}

function LastOf({ strips, job }: { strips: Map<string, Execution[]> | undefined; job: Job }) {
    const latest = strips?.get(job.jobName)?.[0];
    if (latest && isActive(latest.status)) {
        return (
            <Link to={`/jobs/${job.jobName}/executions/${latest.id}`}>
                <StateWord state={executionState(latest.status)} />
            </Link>
        );
    }
    const status = job.deployments?.[0]?.lastExecutionStatus ?? latest?.status;
    if (!status) return <span class="quiet">never ran</span>;
    return <StateWord state={executionState(status)} />;
}

export function Choice({ name, label, options }: { name: string; label: string; options: [string, string][] }) {
    const value = place.value.query.get(name) ?? "";
    return (
        <span class="choice">
            <select aria-label={label} value={value} class={value ? "set" : ""} onChange={(event) => setQuery({ [name]: event.currentTarget.value, page: null }, false)}>
                <option value="">{label}: any</option>
                {options.map(([option, word]) => (
                    <option key={option} value={option}>
                        {label}: {word}
                    </option>
                ))}
            </select>
        </span>
    );
}

/** The filters of the address that have no control of their own. */
export function Chips({ names }: { names: Record<string, string> }) {
    const set = Object.entries(names).filter(([name]) => place.value.query.get(name));
    if (set.length === 0) return null;
    return (
        <p class="chips">
            {set.map(([name, word]) => (
                <button key={name} type="button" class="chip" onClick={() => setQuery({ [name]: null, page: null }, false)} aria-label={`Remove the filter ${word}: ${place.value.query.get(name)}`}>
                    {word}: {place.value.query.get(name)} <span aria-hidden="true">×</span>
                </button>
            ))}
        </p>
    );
}

function NoMatch() {
    return (
        <div class="empty">
            <p>No job matches.</p>
            <Link to="/jobs" class="button">
                Clear all filters
            </Link>
        </div>
    );
}

/** How the first job comes into being: shown where there is none. */
export function FirstJob() {
    const commands = [
        `export VDK_CONTROL_SERVICE_REST_API_URL=${location.origin}`,
        "vdk create -n my-first-job -t my-team -p .",
        "vdk deploy -n my-first-job -t my-team -p ./my-first-job -r 'first version'",
        "vdk execute --start -n my-first-job -t my-team",
    ];
    return (
        <section class="empty" aria-label="Create the first job">
            <p>Create, deploy and run a job with the <code>vdk</code> command. The job appears here automatically.</p>
            <pre tabIndex={0}>{commands.join("\n")}</pre>
        </section>
    );
}
