// The parts of the API's answers that the page reads.

export type ExecutionStatus =
    | "SUBMITTED"
    | "RUNNING"
    | "SUCCEEDED"
    | "CANCELLED"
    | "SKIPPED"
    | "USER_ERROR"
    | "PLATFORM_ERROR";

export type RolloutStatus = "NONE" | "SUCCESS" | "USER_ERROR" | "PLATFORM_ERROR";

export interface Execution {
    id: string;
    jobName: string;
    type: "MANUAL" | "SCHEDULED";
    status: ExecutionStatus;
    startTime: string;
    endTime: string | null;
    startedBy: string | null;
    message: string | null;
    opId: string | null;
    logsUrl: string | null;
    deployment: {
        jobVersion: string | null;
        jobPythonVersion: string | null;
        vdkVersion: string | null;
        deployedDate: string | null;
        deployedBy: string | null;
        schedule: { scheduleCron: string | null } | null;
        resources: GraphqlResources | null;
    } | null;
}

export interface GraphqlResources {
    cpuLimit: number | null;
    cpuRequest: number | null;
    memoryLimit: number | null;
    memoryRequest: number | null;
}

export interface Contacts {
    notifiedOnJobFailureUserError: string[] | null;
    notifiedOnJobFailurePlatformError: string[] | null;
    notifiedOnJobSuccess: string[] | null;
    notifiedOnJobDeploy: string[] | null;
}

export interface Deployment {
    enabled: boolean;
    status: RolloutStatus;
    jobVersion: string;
    jobPythonVersion: string;
    vdkVersion: string;
    lastDeployedDate: string;
    lastDeployedBy: string;
    resources: GraphqlResources | null;
    lastExecutionStatus: ExecutionStatus | null;
    lastExecutionTime: string | null;
    lastExecutionDuration: number | null;
    successfulExecutions: number;
    failedExecutions: number;
    executions?: Execution[];
}

export interface Job {
    jobName: string;
    config: {
        team: string;
        description: string;
        sourceUrl: string | null;
        schedule: { scheduleCron: string | null; nextRunEpochSeconds: number | null };
        contacts: Contacts;
        generateKeytab: boolean;
    };
    deployments: Deployment[] | null;
}

export interface RolloutProblem {
    what: string;
    why: string;
    consequences: string;
    countermeasures: string;
    code: string;
    fault: "user" | "platform";
}

export interface Rollout {
    phase: "pending" | "rolled_out" | "retrying" | "failed";
    desired_revision: number;
    deployed_revision: number | null;
    rolled_out_date: string | null;
    status: RolloutStatus;
    attempts: number;
    next_attempt_date: string | null;
    problem: RolloutProblem | null;
    build: { phase: string; bytes: number; elapsed_seconds: number } | null;
    desired: {
        job_version: string;
        vdk_version: string;
        python_version: string;
        enabled: boolean;
        deployed_by: string;
        deployed_date: string;
    };
}

export interface Revision {
    revision: number;
    job_version: string;
    python_version: string;
    vdk_version: string;
    enabled: boolean;
    schedule: { schedule_cron: string | null };
    resources: Record<string, number>;
    deployed_by: string;
    deployed_date: string;
}

export interface FieldChange {
    field: string;
    from: unknown;
    to: unknown;
}

export interface AuditEvent {
    id: number;
    date: string;
    by: string;
    op_id: string;
    action: string;
    revision: number | null;
    detail: string | null;
}
