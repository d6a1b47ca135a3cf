// The deployments of all jobs: how many are rolled out, in progress or stuck, by cause.
import { useRead } from "../data";
import { count, plural, relative } from "../format";
import { action, Heading, Lead, ProblemBox, Time, Waiting } from "../kit";
import { readJobs, readRollout, readTotals, type Predicate } from "../queries";
import { Link } from "../router";
import { Mark, rolloutStatusState, StateWord } from "../status";
import { Table, type Column } from "../table";
import type { Job, Rollout, RolloutStatus } from "../types";

/** Stuck deployments whose problems are read, of each kind. */
const READ_MAX = 30;

const STATUSES: RolloutStatus[] = ["SUCCESS", "NONE", "PLATFORM_ERROR", "USER_ERROR"];
const of = (status: RolloutStatus): Predicate => ({ property: "deployments.status", pattern: status });

interface Stuck {
    job: Job;
    rollout: Rollout;
}

interface Fleet {
    counts: Record<RolloutStatus, number>;
    stuck: Stuck[];
    moving: Job[];
}

async function readFleet(signal: AbortSignal): Promise<Fleet> {
    const page = (status: RolloutStatus) => readJobs({ page: 1, size: READ_MAX, filter: [of(status), { property: "jobName", sort: "ASC" }], search: "" }, signal);
    const [totals, user, platform, moving] = await Promise.all([readTotals(STATUSES.map((status) => [of(status)]), signal), page("USER_ERROR"), page("PLATFORM_ERROR"), page("NONE")]);
    const read = await Promise.all([...platform, ...user].map(async (job) => ({ job, rollout: await readRollout(job.config.team, job.jobName, signal).catch(() => null) })));
    return {
        counts: Object.fromEntries(STATUSES.map((status, index) => [status, totals[index]!])) as Fleet["counts"],
        stuck: read.filter((one): one is Stuck => one.rollout?.problem != null),
        moving,
    };
}

export function DeploymentsPage() {
    const fleet = useRead("fleet", readFleet, 5000);
    const data = fleet.data;
    return (
        <>
            <Heading title="Deployments" />
            {fleet.problem && !data && <ProblemBox problem={fleet.problem} again={fleet.again} />}
            {!data && !fleet.problem && <Waiting rows={6} />}
            {data && <Known data={data} />}
        </>
    );
}

function Known({ data }: { data: Fleet }) {
    const { SUCCESS: done, NONE: moving, USER_ERROR: user, PLATFORM_ERROR: platform } = data.counts;
    const total = done + moving + user + platform;
    const groups = new Map<string, Stuck[]>();
    for (const stuck of data.stuck) {
        const key = `${stuck.rollout.problem!.code} ${stuck.rollout.problem!.why.replaceAll(stuck.job.jobName, "…")}`;
        groups.set(key, [...(groups.get(key) ?? []), stuck]);
    }
    const sorted = [...groups.entries()].sort((a, b) => b[1].length - a[1].length);
    const columns: Column<Job>[] = [
        {
            id: "job",
            name: "Job",
            cell: (job) => (
                <Link class="row-link" to={`/jobs/${job.jobName}/deployment`}>
                    {job.jobName}
                </Link>
            ),
        },
        { id: "team", name: "Team", cell: (job) => job.config.team },
        { id: "deployed", name: "Deployed before", cell: (job) => <Time at={job.deployments?.[0]?.lastDeployedDate} /> },
    ];
    if (total === 0) return <Lead>No job was ever deployed.</Lead>;
    return (
        <>
            <Lead>
                {done === total ? `All ${count(total)} deployments are rolled out.` : `${count(done)} of ${count(total)} deployments are rolled out.`}
                {moving > 0 && ` ${plural(moving, "is", "are")} in progress.`}
                {user + platform > 0 && ` ${plural(user + platform, "is", "are")} stuck.`}
            </Lead>
            <Proportions counts={data.counts} total={total} />
            <ul class="legend">
                {STATUSES.map((status) => (
                    <li key={status}>
                        <Link to={`/jobs?rollout=${status.toLowerCase()}`}>
                            <StateWord state={rolloutStatusState(status)} note={count(data.counts[status])} />
                        </Link>
                    </li>
                ))}
            </ul>
            {sorted.length > 0 && (
                <section aria-labelledby="stuck">
                    <h2 id="stuck">Stuck, by cause</h2>
                    <ul class="causes">
                        {sorted.map(([key, list]) => {
                            const { problem, next_attempt_date, attempts } = list[0]!.rollout;
                            return (
                                <li key={key}>
                                    <Mark state={rolloutStatusState(problem!.fault === "user" ? "USER_ERROR" : "PLATFORM_ERROR")} label />
                                    <div class="cause-text">
                                        <p>
                                            {problem!.why} {problem!.countermeasures}
                                        </p>
                                        <p class="quiet">
                                            {list.slice(0, 5).map(({ job }, index) => (
                                                <span key={job.jobName}>
                                                    {index > 0 && ", "}
                                                    <Link to={`/jobs/${job.jobName}/deployment`}>{job.jobName}</Link>
                                                </span>
                                            ))}
                                            {list.length > 5 && ` and ${list.length - 5} more`} · {plural(attempts, "attempt")}
                                            {next_attempt_date && <>, the next one {relative(next_attempt_date)}</>} · <code>{problem!.code}</code>
                                        </p>
                                    </div>
                                    <strong class="cause-count">{plural(list.length, "job")}</strong>
                                    <span class="who">{action(problem!.fault, next_attempt_date)}</span>
                                </li>
                            );
                        })}
                    </ul>
                    {user + platform > data.stuck.length && <p class="quiet">The first {data.stuck.length} are grouped.</p>}
                </section>
            )}
            {data.moving.length > 0 && (
                <section aria-labelledby="moving">
                    <h2 id="moving">In progress</h2>
                    <Table label="Deployments in progress" columns={columns} rows={data.moving} keyOf={(job) => job.jobName} />
                </section>
            )}
        </>
    );
}

/** The shares as one bar; each part is at least 3 px wide. */
function Proportions({ counts, total }: { counts: Fleet["counts"]; total: number }) {
    const parts = STATUSES.filter((status) => counts[status] > 0);
    return (
        <div class="proportions" role="img" aria-label={parts.map((status) => `${counts[status]} ${rolloutStatusState(status).word}`).join(", ")}>
            {parts.map((status) => (
                <span key={status} class={`fill-${rolloutStatusState(status).tone}`} style={{ flexGrow: String(counts[status] / total) }} />
            ))}
        </div>
    );
}
