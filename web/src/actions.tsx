// Actions on jobs, each with its confirmation and the command that does the same.
import { jobPath, Problem, send } from "./api";
import { ask } from "./kit";
import { navigate } from "./router";
import type { Execution } from "./types";

const option = (name: string, team: string) => `-n ${quoted(name)} -t ${quoted(team)}`;
const quoted = (text: string) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
const deployments = (team: string, job: string) => `${jobPath(team, job)}/deployments`;

/** Jobs of an action: names with their teams. */
export interface JobId {
    name: string;
    team: string;
}

export function askRun({ name, team }: JobId, open: boolean) {
    ask({
        title: `Run ${name} now?`,
        body: <p>A manual execution of the deployed revision starts. If an execution of the job is in progress, the request is rejected.</p>,
        verb: "Run now",
        command: `vdk execute --start ${option(name, team)}`,
        act: async () => {
            const response = await send("POST", `${deployments(team, name)}/production/executions`, { started_by: "manual/web-page" });
            const id = response.headers.get("location")?.split("/").pop();
            if (open && id) navigate(`/jobs/${name}/executions/${id}`);
            return `${name} was started.`;
        },
    });
}

export function askCancel({ name, team }: JobId, run: Pick<Execution, "id">) {
    ask({
        title: `Cancel the execution ${run.id}?`,
        body: <p>All processes of the execution end. What its steps have written stays as it is.</p>,
        verb: "Cancel execution",
        isDestructive: true,
        command: `vdk execute --cancel ${option(name, team)} -i ${run.id}`,
        act: async () => {
            await send("DELETE", `${jobPath(team, name)}/executions/${run.id}`);
            return `${run.id} is being cancelled.`;
        },
    });
}

export function askEnable({ name, team }: JobId, enabled: boolean) {
    ask({
        title: `${enabled ? "Enable" : "Disable"} ${name}?`,
        body: enabled ? (
            <p>The schedule starts executions again from its next scheduled time on. Missed times are not made up for.</p>
        ) : (
            <p>The schedule starts no executions any more. An execution in progress continues, and manual executions are possible.</p>
        ),
        verb: enabled ? "Enable" : "Disable",
        command: `vdk deploy --${enabled ? "enable" : "disable"} ${option(name, team)}`,
        act: async () => {
            await send("PATCH", `${deployments(team, name)}/production`, { enabled });
            return `${name} is being ${enabled ? "enabled" : "disabled"}.`;
        },
    });
}

export function askUndeploy({ name, team }: JobId) {
    ask({
        title: `Remove the deployment of ${name}?`,
        body: <p>No execution starts any more. The job, its source, its executions and its revisions stay; a rollback to a revision deploys it again.</p>,
        verb: "Remove deployment",
        isDestructive: true,
        command: `vdk deploy --remove ${option(name, team)}`,
        act: async () => {
            await send("DELETE", `${deployments(team, name)}/production`);
            return `The deployment of ${name} is being removed.`;
        },
    });
}

export function askDelete({ name, team }: JobId) {
    ask({
        title: `Delete ${name}?`,
        body: <p>The job is deleted with its deployment, source, properties and secrets, and executions in progress are cancelled. It can be undeleted for some days.</p>,
        verb: "Delete job",
        isDestructive: true,
        typed: name,
        command: `vdk delete ${option(name, team)}`,
        act: async () => {
            await send("DELETE", jobPath(team, name));
            navigate(`/deleted?team=${encodeURIComponent(team)}`);
            return `${name} was deleted.`;
        },
    });
}

export function askRollback({ name, team }: JobId, revision: number, preview: preact.ComponentChildren) {
    ask({
        title: `Roll back ${name} to revision ${revision}?`,
        body: (
            <>
                <p>A new revision is created from revision {revision}, and the job gets its configuration. It changes:</p>
                {preview}
            </>
        ),
        verb: `Roll back to ${revision}`,
        command: `curl -X POST "$VDK_CONTROL_SERVICE_REST_API_URL${deployments(team, name)}/production/revisions/${revision}/rollback"`,
        act: async () => {
            await send("POST", `${deployments(team, name)}/production/revisions/${revision}/rollback`);
            return `${name} is being rolled back to revision ${revision}.`;
        },
    });
}

/** Carries an action out for many jobs, four at a time, and lists those that were rejected. */
export function askBulk(verb: "Run now" | "Enable" | "Disable", jobs: JobId[]) {
    const names = jobs.slice(0, 5).map((job) => job.name);
    const more = jobs.length > names.length ? ` and ${jobs.length - names.length} more` : "";
    const command = { "Run now": "vdk execute --start", Enable: "vdk deploy --enable", Disable: "vdk deploy --disable" }[verb];
    const one = (job: JobId) =>
        verb === "Run now"
            ? send("POST", `${deployments(job.team, job.name)}/production/executions`, { started_by: "manual/web-page" })
            : send("PATCH", `${deployments(job.team, job.name)}/production`, { enabled: verb === "Enable" });
    ask({
        title: jobs.length === 1 ? `${verb}: ${jobs[0]!.name}?` : `${verb}: ${jobs.length} jobs?`,
        body: (
            <p>
                {names.join(", ")}
                {more}.
            </p>
        ),
        verb: jobs.length === 1 ? verb : `${verb} (${jobs.length})`,
        isDestructive: verb === "Disable",
        command: jobs.length === 1 ? `${command} ${option(jobs[0]!.name, jobs[0]!.team)}` : `${command} -n NAME -t TEAM   # for each of them`,
        act: async () => {
            const rejected: string[] = [];
            const queue = [...jobs];
            const worker = async () => {
                for (let job = queue.shift(); job; job = queue.shift()) {
                    const name = job.name;
                    await one(job).catch((error: unknown) => rejected.push(`${name}: ${error instanceof Error ? error.message : String(error)}`));
                }
            };
            await Promise.all(Array.from({ length: 4 }, worker));
            if (rejected.length === jobs.length) throw new Problem(409, "all_rejected", "Every request was rejected.", rejected.slice(0, 5).join(" "), "Nothing was changed.", "", "");
            const done = jobs.length - rejected.length;
            return rejected.length === 0 ? `${verb}: accepted for ${done} of ${jobs.length}.` : `${verb}: accepted for ${done} of ${jobs.length}. Rejected: ${rejected.slice(0, 3).join(" ")}`;
        },
    });
}
