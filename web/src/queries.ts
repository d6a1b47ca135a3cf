// The GraphQL documents of the page.
import { get, graphql, jobPath } from "./api";
import type { AuditEvent, Execution, ExecutionStatus, FieldChange, Job, Revision, Rollout } from "./types";

export interface Predicate {
    property: string;
    pattern?: string;
    sort?: "ASC" | "DESC";
}

const EXECUTION = "id jobName type status startTime endTime startedBy message opId logsUrl";
const WHOLE_EXECUTION = `${EXECUTION} deployment { jobVersion jobPythonVersion vdkVersion deployedDate deployedBy schedule { scheduleCron } resources { cpuLimit cpuRequest memoryLimit memoryRequest } }`;

/** The fields that a search compares are those that the query selects. */
const JOBS = `query Jobs($page: Int, $size: Int, $filter: [Predicate], $search: String) {
  jobs(pageNumber: $page, pageSize: $size, filter: $filter, search: $search) {
    content {
      jobName
      config { team description schedule { scheduleCron nextRunEpochSeconds } }
      deployments {
        enabled status jobPythonVersion lastDeployedDate lastDeployedBy
        lastExecutionStatus lastExecutionTime lastExecutionDuration successfulExecutions failedExecutions
      }
    }
  }
}`;

const TOTAL = `query Total($filter: [Predicate], $search: String) {
  jobs(pageNumber: 1, pageSize: 1, filter: $filter, search: $search) { totalItems SEARCHED }
}`;

const STRIPS = `query Strips($page: Int, $size: Int, $filter: [Predicate], $search: String, $runs: Int) {
  jobs(pageNumber: $page, pageSize: $size, filter: $filter, search: $search) {
    content {
      jobName
      config { team description schedule { scheduleCron nextRunEpochSeconds } }
      deployments { enabled jobPythonVersion lastExecutionStatus executions(pageNumber: 1, pageSize: $runs) { id status startTime endTime message } }
    }
  }
}`;

const JOB = `query Job($filter: [Predicate]) {
  jobs(pageNumber: 1, pageSize: 1, filter: $filter) {
    content {
      jobName
      config {
        team description sourceUrl generateKeytab
        schedule { scheduleCron nextRunEpochSeconds }
        contacts { notifiedOnJobFailureUserError notifiedOnJobFailurePlatformError notifiedOnJobSuccess notifiedOnJobDeploy }
      }
      deployments {
        enabled status jobVersion jobPythonVersion vdkVersion lastDeployedDate lastDeployedBy
        resources { cpuLimit cpuRequest memoryLimit memoryRequest }
        lastExecutionStatus lastExecutionTime lastExecutionDuration successfulExecutions failedExecutions
      }
    }
  }
}`;

const EXECUTIONS = `query Executions($page: Int, $size: Int, $filter: DataJobExecutionFilter, $order: DataJobExecutionOrder) {
  executions(pageNumber: $page, pageSize: $size, filter: $filter, order: $order) { content { FIELDS } }
}`;

const EXECUTIONS_TOTAL = `query ExecutionsTotal($filter: DataJobExecutionFilter) {
  executions(pageNumber: 1, pageSize: 1, filter: $filter) { totalItems }
}`;

interface Page<T> {
    content: T[];
    totalItems: number;
}

export interface JobsRequest {
    page: number;
    size: number;
    filter: Predicate[];
    search: string;
}

export async function readJobs(request: JobsRequest, signal?: AbortSignal): Promise<Job[]> {
    const data = await graphql<{ jobs: Page<Job> }>(JOBS, { ...request, search: request.search || null }, signal);
    return data.jobs.content;
}

/** How many jobs fulfil a filter and a search. */
export async function readTotal(filter: Predicate[], search: string, signal?: AbortSignal): Promise<number> {
    // The search compares the fields that are selected, so the list's own are selected here too.
    const selected = search
        ? "content { jobName config { team description schedule { scheduleCron nextRunEpochSeconds } } deployments { enabled jobPythonVersion lastExecutionStatus } }"
        : "";
    const data = await graphql<{ jobs: Page<Job> }>(TOTAL.replace("SEARCHED", selected), { filter, search: search || null }, signal);
    return data.jobs.totalItems;
}

/** Several totals of jobs in few requests: three lists are the most that one query may have. */
export async function readTotals(filters: Predicate[][], signal?: AbortSignal): Promise<number[]> {
    const totals: number[] = [];
    for (let from = 0; from < filters.length; from += 3) {
        const part = filters.slice(from, from + 3);
        const parameters = part.map((_, index) => `$f${index}: [Predicate]`).join(", ");
        const fields = part.map((_, index) => `t${index}: jobs(pageNumber: 1, pageSize: 1, filter: $f${index}) { totalItems }`).join(" ");
        const variables = Object.fromEntries(part.map((filter, index) => [`f${index}`, filter]));
        const data = await graphql<Record<string, { totalItems: number }>>(`query Totals(${parameters}) { ${fields} }`, variables, signal);
        totals.push(...part.map((_, index) => data[`t${index}`]!.totalItems));
    }
    return totals;
}

/** The last executions of each job on a page of jobs. */
export async function readStrips(request: JobsRequest, runs: number, signal?: AbortSignal): Promise<Map<string, Execution[]>> {
    const data = await graphql<{ jobs: Page<Job> }>(STRIPS, { ...request, search: request.search || null, runs }, signal);
    return new Map(data.jobs.content.map((job) => [job.jobName, job.deployments?.[0]?.executions ?? []]));
}

/** A job by its name, which is unique across teams; null if there is none. */
export async function readJob(name: string, signal?: AbortSignal): Promise<Job | null> {
    const data = await graphql<{ jobs: Page<Job> }>(JOB, { filter: [{ property: "jobName", pattern: name }] }, signal);
    return data.jobs.content[0] ?? null;
}

export interface ExecutionFilter {
    jobNameIn?: string[];
    teamNameIn?: string[];
    statusIn?: ExecutionStatus[];
    startTimeGte?: string;
    startTimeLte?: string;
    endTimeGte?: string;
    endTimeLte?: string;
}

export interface ExecutionsRequest {
    page: number;
    size: number;
    filter: ExecutionFilter;
    order?: { property: string; direction: "ASC" | "DESC" };
}

export async function readExecutions(request: ExecutionsRequest, whole: boolean, signal?: AbortSignal): Promise<Execution[]> {
    const query = EXECUTIONS.replace("FIELDS", whole ? WHOLE_EXECUTION : EXECUTION);
    const data = await graphql<{ executions: Page<Execution> }>(query, { order: { property: "startTime", direction: "DESC" }, ...request }, signal);
    return data.executions.content;
}

export async function readExecutionsTotal(filter: ExecutionFilter, signal?: AbortSignal): Promise<number> {
    return (await graphql<{ executions: Page<Execution> }>(EXECUTIONS_TOTAL, { filter }, signal)).executions.totalItems;
}

interface RestExecution {
    id: string;
    job_name: string;
    type: string;
    status: string;
    start_time: string;
    end_time?: string;
    started_by: string;
    message?: string;
    op_id: string;
    logs_url?: string;
    deployment: {
        job_version?: string;
        python_version?: string;
        vdk_version?: string;
        deployed_date?: string;
        deployed_by?: string;
        schedule?: { schedule_cron: string | null };
        resources?: { cpu_limit?: number; cpu_request?: number; memory_limit?: number; memory_request?: number };
    };
}

export async function readExecution(team: string, job: string, id: string, signal?: AbortSignal): Promise<Execution> {
    const run = await get<RestExecution>(`${jobPath(team, job)}/executions/${encodeURIComponent(id)}`, signal);
    const d = run.deployment;
    return {
        id: run.id,
        jobName: run.job_name,
        type: run.type.toUpperCase() as Execution["type"],
        status: run.status.toUpperCase() as ExecutionStatus,
        startTime: run.start_time,
        endTime: run.end_time ?? null,
        startedBy: run.started_by,
        message: run.message ?? null,
        opId: run.op_id,
        logsUrl: run.logs_url ?? null,
        deployment: {
            jobVersion: d.job_version ?? null,
            jobPythonVersion: d.python_version ?? null,
            vdkVersion: d.vdk_version ?? null,
            deployedDate: d.deployed_date ?? null,
            deployedBy: d.deployed_by ?? null,
            schedule: { scheduleCron: d.schedule?.schedule_cron ?? null },
            resources: d.resources
                ? {
                      cpuLimit: d.resources.cpu_limit ?? null,
                      cpuRequest: d.resources.cpu_request ?? null,
                      memoryLimit: d.resources.memory_limit ?? null,
                      memoryRequest: d.resources.memory_request ?? null,
                  }
                : null,
        },
    };
}

const production = (team: string, job: string) => `${jobPath(team, job)}/deployments/production`;

export const readRollout = (team: string, job: string, signal?: AbortSignal) => get<Rollout>(`${production(team, job)}/rollout`, signal);

export const readRevisions = async (team: string, job: string, signal?: AbortSignal) =>
    (await get<{ revisions: Revision[] }>(`${production(team, job)}/revisions?limit=100`, signal)).revisions;

export const readDiff = async (team: string, job: string, from: number, to: number, signal?: AbortSignal) =>
    (await get<{ changes: FieldChange[] }>(`${production(team, job)}/revisions/${from}/diff/${to}`, signal)).changes;

export const readAudit = async (team: string, job: string, signal?: AbortSignal) =>
    (await get<{ events: AuditEvent[] }>(`${jobPath(team, job)}/audit-events?limit=200`, signal)).events;

export interface ScheduledTimes {
    schedule_cron: string | null;
    time_zone: string | null;
    times: string[];
}

export const readScheduledTimes = (team: string, job: string, signal?: AbortSignal) => get<ScheduledTimes>(`${jobPath(team, job)}/scheduled-times?limit=20`, signal);

export const readLog = async (team: string, job: string, id: string, lines: number, signal?: AbortSignal) =>
    (await get<{ logs: string }>(`${jobPath(team, job)}/executions/${encodeURIComponent(id)}/logs?tail_lines=${lines}`, signal)).logs;
