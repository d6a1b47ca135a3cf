// The executions of all jobs, or of one.
import { problemOf, useRead } from "../data";
import { duration, plural, seconds } from "../format";
import { Heading, Lead, ProblemBox, shortVersion, Time, Waiting } from "../kit";
import { readExecutions, readExecutionsTotal, type ExecutionFilter, type ExecutionsRequest } from "../queries";
import { Link, place, setQuery } from "../router";
import { executionState, isActive, STATUSES, StateWord } from "../status";
import { orderOf, pageOf, Pager, Table, type Column } from "../table";
import type { Execution, ExecutionStatus } from "../types";
import { Chips, Choice } from "./jobs";

const SORTS: Record<string, string> = { start: "startTime", end: "endTime", status: "status", type: "type", id: "id", job: "jobName", version: "jobVersion", by: "startedBy" };

/** A time of an address: RFC 3339, a local input's form, or a duration back from now such as `-24h`. */
export function timeOf(text: string | null): string | undefined {
    if (!text) return undefined;
    const back = /^-(\d{1,4})([mhd])$/.exec(text);
    if (back) {
        const unit = { m: 60_000, h: 3_600_000, d: 86_400_000 }[back[2] as "m" | "h" | "d"];
        // To the minute, so that the same address is the same request for a while.
        return new Date(Math.floor((Date.now() - Number(back[1]) * unit) / 60_000) * 60_000).toISOString();
    }
    const at = new Date(/[zZ]|[+-]\d\d:\d\d$/.test(text) ? text : `${text}Z`);
    return Number.isNaN(at.getTime()) ? undefined : at.toISOString();
}

export function ExecutionsPage() {
    return (
        <>
            <Heading title="Executions" />
            <ExecutionList />
        </>
    );
}

export function ExecutionList({ job }: { job?: string }) {
    const query = place.value.query;
    const { page, size } = pageOf(query);
    const order = orderOf(query.get("sort"), "-start");
    const filter: ExecutionFilter = {};
    const names = job ?? query.get("job");
    if (names) filter.jobNameIn = [names];
    const team = query.get("team");
    if (team && !job) filter.teamNameIn = [team];
    const statuses = (query.get("status") ?? "").split(",").map((status) => status.toUpperCase()).filter((status) => (STATUSES as string[]).includes(status)) as ExecutionStatus[];
    if (statuses.length > 0) filter.statusIn = statuses;
    const [from, to] = [timeOf(query.get("from")), timeOf(query.get("to"))];
    if (from) filter.startTimeGte = from;
    if (to) filter.startTimeLte = to;
    const request: ExecutionsRequest = { page, size, filter, order: { property: SORTS[order.by] ?? "startTime", direction: order.isDescending ? "DESC" : "ASC" } };
    const key = JSON.stringify(request);
    const runs = useRead(`executions ${key}`, (signal) => readExecutions(request, true, signal));
    const total = useRead(`executions total ${JSON.stringify(filter)}`, (signal) => readExecutionsTotal(filter, signal));
    const rows = runs.data ?? [];
    const columns: Column<Execution>[] = [
        { id: "status", name: "Status", sort: "status", cell: (run) => <StateWord state={executionState(run.status)} /> },
        ...(job
            ? []
            : [
                  {
                      id: "job",
                      name: "Job",
                      sort: "job",
                      cell: (run: Execution) => <Link to={`/jobs/${run.jobName}`}>{run.jobName}</Link>,
                  },
              ]),
        {
            id: "start",
            name: "Start",
            sort: "start",
            cell: (run) => (
                <Link class="row-link" to={`/jobs/${run.jobName}/executions/${run.id}`}>
                    <Time at={run.startTime} />
                </Link>
            ),
        },
        { id: "end", name: "End", sort: "end", cell: (run) => <Time at={run.endTime} /> },
        { id: "duration", name: "Duration", isNumber: true, cell: (run) => (run.endTime || isActive(run.status) ? duration(seconds(run)) : "–") },
        { id: "type", name: "Started by", sort: "type", cell: (run) => (run.type === "MANUAL" ? "manual" : "schedule") },
        { id: "version", name: "Source", sort: "version", cell: (run) => <code title={run.deployment?.jobVersion ?? ""}>{shortVersion(run.deployment?.jobVersion)}</code> },
        { id: "id", name: "ID", sort: "id", cell: (run) => <code class="clip">{run.id}</code> },
        { id: "message", name: "Message", cell: (run) => <span class="clip long quiet">{run.status === "SUCCEEDED" ? "" : run.message}</span> },
    ];
    return (
        <>
            <Lead>{total.data === undefined ? "…" : `${plural(total.data, "execution")}${statuses.length > 0 || from || to ? " in this selection" : ""}.`}</Lead>
            <div class="filters" role="search" aria-label="Executions">
                <Choice name="status" label="Status" options={[...STATUSES.map((status): [string, string] => [status.toLowerCase(), executionState(status).word]), ["user_error,platform_error", "any error"], ["submitted,running", "in progress"]]} />
                <label class="field inline">
                    <span>From (UTC)</span>
                    <input type="datetime-local" value={inputValue(from)} onChange={(event) => setQuery({ from: event.currentTarget.value, page: null }, false)} />
                </label>
                <label class="field inline">
                    <span>To (UTC)</span>
                    <input type="datetime-local" value={inputValue(to)} onChange={(event) => setQuery({ to: event.currentTarget.value, page: null }, false)} />
                </label>
                {["-1h", "-24h", "-7d"].map((back) => (
                    <button key={back} type="button" class="small" aria-pressed={query.get("from") === back} onClick={() => setQuery({ from: query.get("from") === back ? null : back, to: null, page: null }, false)}>
                        last {back.slice(1)}
                    </button>
                ))}
            </div>
            <Chips names={job ? {} : { job: "job", team: "team" }} />
            {problemOf(runs) && <ProblemBox problem={problemOf(runs)!} again={runs.again} />}
            {!runs.data && !runs.problem && <Waiting rows={12} />}
            {rows.length > 0 && <Table label="Executions" columns={columns} rows={rows} keyOf={(run) => run.id} order={order} isStale={runs.isStale} />}
            {runs.data && rows.length === 0 && !runs.isStale && (
                <div class="empty">
                    <p>{statuses.length > 0 || from || to || names ? "No execution matches." : "There is no execution yet."}</p>
                </div>
            )}
            {rows.length > 0 && <Pager page={page} size={size} rows={rows.length} total={total.data} />}
        </>
    );
}

const inputValue = (iso: string | undefined) => (iso ? iso.slice(0, 16) : "");
