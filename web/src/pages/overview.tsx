// The overview: failures by cause with the party that has to act, and executions in progress and to come.
import { useEffect, useState } from "preact/hooks";
import { FirstJob } from "./jobs";
import { useDebounced, useRead } from "../data";
import { count, duration, plural, relative, seconds } from "../format";
import { action, Heading, Lead, ProblemBox, Time, Waiting } from "../kit";
import { readExecutions, readExecutionsTotal, readJobs, readRollout, readStrips, readTotals, type JobsRequest, type Predicate } from "../queries";
import { Link, place, setQuery } from "../router";
import { executionState, Mark, rolloutStatusState, type State } from "../status";
import type { Execution, Job } from "../types";
import { timeOf } from "./executions";

/** Failing jobs whose causes are read; the numbers count all of them. */
const READ_MAX = 100;
/** Failed rollouts whose problems are read. */
const ROLLOUTS_MAX = 20;

/** The figures of a day change slowly, and counting them is the most expensive read of the page. */
const FIGURES_POLL_MS = 60_000;

const ENABLED: Predicate = { property: "deployments.enabled", pattern: "enabled" };

interface Cause {
    key: string;
    state: State;
    title: string;
    who: string;
    jobs: { name: string; at: string | null; run: string | null }[];
    to: string;
}

interface Overview {
    total: number;
    enabled: number;
    disabled: number;
    notDeployed: number;
    userErrors: number;
    platformErrors: number;
    rolloutUserErrors: number;
    rolloutPlatformErrors: number;
    causes: Cause[];
    isCut: boolean;
}

async function readOverview(team: string | null, signal: AbortSignal): Promise<Overview> {
    const of: Predicate[] = team ? [{ property: "config.team", pattern: team }] : [];
    const last = (status: string): Predicate[] => [...of, ENABLED, { property: "deployments.lastExecutionStatus", pattern: status }];
    const rollout = (status: string): Predicate[] => [...of, { property: "deployments.status", pattern: status }];
    const deployment = (state: string): Predicate[] => [...of, { property: "deployments.enabled", pattern: state }];
    const latest: Predicate = { property: "deployments.lastExecutionTime", sort: "DESC" };
    const request = (filter: Predicate[]): JobsRequest => ({ page: 1, size: READ_MAX, filter: [...filter, latest], search: "" });
    const stuck = (status: string): JobsRequest => ({ page: 1, size: ROLLOUTS_MAX, filter: [...rollout(status), { property: "jobName", sort: "ASC" }], search: "" });
    const [totals, userRuns, platformRuns, userRollouts, platformRollouts] = await Promise.all([
        readTotals(
            [of, deployment("enabled"), deployment("disabled"), deployment("not_deployed"), last("USER_ERROR"), last("PLATFORM_ERROR"), rollout("USER_ERROR"), rollout("PLATFORM_ERROR")],
            signal,
        ),
        readStrips(request(last("USER_ERROR")), 1, signal),
        readStrips(request(last("PLATFORM_ERROR")), 1, signal),
        readJobs(stuck("USER_ERROR"), signal),
        readJobs(stuck("PLATFORM_ERROR"), signal),
    ]);
    const [total = 0, enabled = 0, disabled = 0, notDeployed = 0, userErrors = 0, platformErrors = 0, rolloutUserErrors = 0, rolloutPlatformErrors = 0] = totals;
    const causes = new Map<string, Cause>();
    const add = (key: string, cause: Omit<Cause, "key" | "jobs">, job: Cause["jobs"][number]) => {
        const known = causes.get(key);
        if (known) known.jobs.push(job);
        else causes.set(key, { key, ...cause, jobs: [job] });
    };
    for (const [status, runs] of [
        ["USER_ERROR", userRuns],
        ["PLATFORM_ERROR", platformRuns],
    ] as const) {
        const fault = status === "USER_ERROR" ? "user" : "platform";
        for (const [name, [run]] of runs) {
            const message = (run?.message ?? "").replace(/^(User|Platform) error\.\s*/, "");
            const title = message || "The last execution failed.";
            add(
                `${status} ${general(title, name, run)}`,
                { state: executionState(status), title, who: action(fault), to: `/jobs?deployment=enabled&last=${status.toLowerCase()}${team ? `&team=${encodeURIComponent(team)}` : ""}` },
                { name, at: run?.endTime ?? null, run: run?.id ?? null },
            );
        }
    }
    const rollouts = await Promise.all(
        [...userRollouts, ...platformRollouts].map(async (job: Job) => ({ job, rollout: await readRollout(job.config.team, job.jobName, signal).catch(() => null) })),
    );
    for (const { job, rollout } of rollouts) {
        if (!rollout?.problem) continue;
        const { problem } = rollout;
        add(
            `rollout ${problem.code} ${problem.why}`,
            {
                state: rolloutStatusState(problem.fault === "user" ? "USER_ERROR" : "PLATFORM_ERROR"),
                title: `${problem.what} ${problem.why}`,
                who: action(problem.fault, rollout.next_attempt_date),
                to: `/jobs?rollout=${problem.fault}_error`,
            },
            { name: job.jobName, at: rollout.desired.deployed_date, run: null },
        );
    }
    const sorted = [...causes.values()].sort((a, b) => b.jobs.length - a.jobs.length);
    const isCut = Math.max(userErrors, platformErrors) > READ_MAX || Math.max(rolloutUserErrors, rolloutPlatformErrors) > ROLLOUTS_MAX;
    return { total, enabled, disabled, notDeployed, userErrors, platformErrors, rolloutUserErrors, rolloutPlatformErrors, causes: sorted, isCut };
}

/** A message without the names in it, so that the same cause in two jobs is one. */
function general(message: string, job: string, run: Execution | undefined): string {
    return message.replaceAll(run?.id ?? job, "…").replaceAll(job, "…").replace(/\d+/g, "#");
}

export function OverviewPage() {
    const team = place.value.query.get("team");
    const overview = useRead(`overview ${team}`, (signal) => readOverview(team, signal));
    const data = overview.data;
    return (
        <>
            <Heading title="Overview">
                <span class="grow" />
                <TeamFilter />
            </Heading>
            {overview.problem && !data && <ProblemBox problem={overview.problem} again={overview.again} />}
            {!data && !overview.problem && <Waiting rows={8} />}
            {data && data.total === 0 && (
                <>
                    <Lead>{team ? `The team ${team} has no job.` : "There is no job yet."}</Lead>
                    {!team && <FirstJob />}
                </>
            )}
            {data && data.total > 0 && (
                <>
                    <Sentence data={data} team={team} />
                    <Causes data={data} />
                    <div class="columns">
                        <RunningNow team={team} />
                        <NextHour team={team} />
                    </div>
                    <LastDay team={team} data={data} />
                </>
            )}
        </>
    );
}

/** Limits the page to one team. */
function TeamFilter() {
    const given = place.value.query.get("team") ?? "";
    const [text, setText] = useState(given);
    const late = useDebounced(text.trim(), 400);
    useEffect(() => {
        if (late !== given) setQuery({ team: late });
    }, [late]);
    return <input type="search" aria-label="Team" placeholder="All teams" value={text} onInput={(event) => setText(event.currentTarget.value)} spellcheck={false} />;
}

function Sentence({ data, team }: { data: Overview; team: string | null }) {
    const failing = data.userErrors + data.platformErrors;
    const stuck = data.rolloutUserErrors + data.rolloutPlatformErrors;
    const whose = team ? `jobs of ${team}` : "jobs";
    if (failing + stuck === 0) {
        return (
            <Lead>
                {data.enabled === 0 ? "No job is enabled." : data.enabled === 1 ? "The one enabled job is fine." : `All ${count(data.enabled)} enabled ${whose} are fine.`}
            </Lead>
        );
    }
    return (
        <Lead>
            {failing > 0 && `${count(Math.max(0, data.enabled - failing))} of ${count(data.enabled)} enabled ${whose} are fine; the last execution of ${count(failing)} failed.`}
            {stuck > 0 && ` ${plural(stuck, "deployment is", "deployments are")} stuck.`}
        </Lead>
    );
}

function Causes({ data }: { data: Overview }) {
    if (data.causes.length === 0) return null;
    return (
        <section aria-labelledby="needs-action">
            <h2 id="needs-action">Needs action, by cause</h2>
            <ul class="causes">
                {data.causes.slice(0, 12).map((cause) => (
                    <li key={cause.key}>
                        <Mark state={cause.state} label />
                        <div class="cause-text">
                            <p>{cause.title}</p>
                            <p class="quiet">
                                {cause.jobs.slice(0, 3).map((job, index) => (
                                    <span key={job.name}>
                                        {index > 0 && ", "}
                                        <Link to={job.run ? `/jobs/${job.name}/executions/${job.run}` : `/jobs/${job.name}/deployment`}>{job.name}</Link>
                                    </span>
                                ))}
                                {cause.jobs.length > 3 && (
                                    <>
                                        {" "}
                                        and <Link to={cause.to}>{count(cause.jobs.length - 3)} more</Link>
                                    </>
                                )}
                                {cause.jobs[0]?.at && <> · {relative(cause.jobs[0].at)}</>}
                            </p>
                        </div>
                        <strong class="cause-count">{plural(cause.jobs.length, "job")}</strong>
                        <span class="who">{cause.who}</span>
                    </li>
                ))}
            </ul>
            {data.isCut && <p class="quiet">The newest {READ_MAX} failures are grouped; the numbers above count all.</p>}
        </section>
    );
}

function RunningNow({ team }: { team: string | null }) {
    const filter = { statusIn: ["RUNNING", "SUBMITTED"] as Execution["status"][], ...(team ? { teamNameIn: [team] } : {}) };
    const runs = useRead(`running ${team}`, (signal) => readExecutions({ page: 1, size: 20, filter, order: { property: "startTime", direction: "ASC" } }, false, signal), 5000);
    return (
        <section aria-labelledby="running">
            <div class="section-head">
                <h2 id="running">In progress</h2>
                <Link to="/executions?status=submitted,running">all</Link>
            </div>
            {runs.data?.length === 0 && <p class="quiet">No execution is in progress.</p>}
            <ul class="plain-list">
                {runs.data?.slice(0, 10).map((run) => (
                    <li key={run.id}>
                        <Mark state={executionState(run.status)} label />
                        <Link to={`/jobs/${run.jobName}/executions/${run.id}`}>{run.jobName}</Link>
                        <span class="grow" />
                        <span class="number">{duration(seconds(run))}</span>
                    </li>
                ))}
            </ul>
        </section>
    );
}

function NextHour({ team }: { team: string | null }) {
    const next = useRead(`next ${team}`, (signal) => {
        const from = Math.floor(Date.now() / 1000);
        const filter: Predicate[] = [
            ENABLED,
            ...(team ? [{ property: "config.team", pattern: team }] : []),
            { property: "config.schedule.nextRunEpochSeconds", pattern: `${from}-${from + 86_400}`, sort: "ASC" },
        ];
        return readJobs({ page: 1, size: 10, filter, search: "" }, signal);
    });
    return (
        <section aria-labelledby="next">
            <div class="section-head">
                <h2 id="next">Next</h2>
                <Link to="/jobs?deployment=enabled&sort=next">all</Link>
            </div>
            {next.data?.length === 0 && <p class="quiet">Nothing is scheduled within 24 hours.</p>}
            <ul class="plain-list">
                {next.data?.map((job) => (
                    <li key={job.jobName}>
                        <Time at={(job.config.schedule.nextRunEpochSeconds ?? 0) * 1000} />
                        <Link to={`/jobs/${job.jobName}`}>{job.jobName}</Link>
                        <span class="grow" />
                        <span class="quiet">{relative((job.config.schedule.nextRunEpochSeconds ?? 0) * 1000)}</span>
                    </li>
                ))}
            </ul>
        </section>
    );
}

function LastDay({ team, data }: { team: string | null; data: Overview }) {
    const day = useRead(`day ${team}`, async (signal) => {
        const since = timeOf("-24h")!;
        const base = { endTimeGte: since, ...(team ? { teamNameIn: [team] } : {}) };
        const [succeeded, user, platform, cancelled] = await Promise.all(
            (["SUCCEEDED", "USER_ERROR", "PLATFORM_ERROR", "CANCELLED"] as const).map((status) => readExecutionsTotal({ ...base, statusIn: [status] }, signal)),
        );
        return { succeeded: succeeded!, user: user!, platform: platform!, cancelled: cancelled! };
    }, FIGURES_POLL_MS);
    const ended = day.data ? day.data.succeeded + day.data.user + day.data.platform : 0;
    return (
        <section aria-labelledby="day">
            <h2 id="day">Figures</h2>
            <dl class="facts">
                <div class="wide">
                    <dt>Ended in the last 24 h</dt>
                    <dd>
                        {day.data ? (
                            <>
                                <Link to="/executions?status=succeeded&from=-24h">{count(day.data.succeeded)} succeeded</Link>, <Link to="/executions?status=user_error&from=-24h">{plural(day.data.user, "user error")}</Link>,{" "}
                                <Link to="/executions?status=platform_error&from=-24h">{plural(day.data.platform, "platform error")}</Link>, <Link to="/executions?status=cancelled&from=-24h">{count(day.data.cancelled)} cancelled</Link>
                            </>
                        ) : (
                            "…"
                        )}
                    </dd>
                </div>
                <div>
                    <dt>Success rate</dt>
                    <dd>{day.data && ended > 0 ? `${((100 * day.data.succeeded) / ended).toFixed(2)} %` : "–"}</dd>
                </div>
                <div class="wide">
                    <dt>Jobs</dt>
                    <dd>
                        <Link to="/jobs?deployment=enabled">{count(data.enabled)} enabled</Link>, <Link to="/jobs?deployment=disabled">{count(data.disabled)} disabled</Link>, <Link to="/jobs?deployment=not_deployed">{count(data.notDeployed)} not deployed</Link>
                    </dd>
                </div>
            </dl>
        </section>
    );
}
