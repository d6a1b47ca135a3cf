// Real services for the tests of the page: the binary, in folders of its own.
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const START_MAX_MS = 60_000;
const DEPLOY_MAX_MS = 240_000;

export interface Service {
    url: string;
    folder: string;
    stop: () => Promise<void>;
}

export const binary = (): string => {
    const given = process.env["HOLDFAST_BIN"];
    if (!given) throw new Error("HOLDFAST_BIN names no binary; `cargo xtask test` sets it");
    return given;
};

export const temporary = () => mkdtempSync(join(tmpdir(), "holdfast-page-"));

/** Starts the service; it is ready when this returns, unless `isReady` is false. */
export async function start(variables: Record<string, string> = {}, folder = temporary(), isReady = true): Promise<Service> {
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_")));
    const child = spawn(binary(), ["serve"], {
        env: {
            ...(environment as Record<string, string>),
            HOLDFAST_LISTEN: "127.0.0.1:0",
            HOLDFAST_DATA_DIR: folder,
            HOLDFAST_CACHE_DIR: process.env["HOLDFAST_CACHE_DIR"] ?? join(folder, "cache"),
            ...variables,
        },
        stdio: ["ignore", "pipe", "pipe"],
    });
    let printed = "";
    const url = await new Promise<string>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`the service said nothing:\n${printed}`)), START_MAX_MS);
        const listen = variables["HOLDFAST_LISTEN"];
        const onText = (text: Buffer) => {
            printed += text.toString();
            const found = /Holdfast listens on (http:\S+?)\.?\s/.exec(printed);
            // A service that waits for its database has not said where it listens.
            if (found || (!isReady && printed.includes("waits for it"))) {
                clearTimeout(timer);
                resolve(found ? found[1]! : `http://${listen}`);
            }
        };
        child.stdout.on("data", onText);
        child.stderr.on("data", onText);
        child.on("exit", (code) => reject(new Error(`the service ended with ${code}:\n${printed}`)));
    });
    return { url, folder, stop: () => ended(child, folder) };
}

async function ended(child: ChildProcess, folder: string) {
    child.removeAllListeners("exit");
    const done = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await done;
    rmSync(folder, { recursive: true, force: true });
}

export async function call(url: string, method: string, path: string, body?: unknown): Promise<Response> {
    const isBytes = body instanceof Uint8Array;
    const response = await fetch(url + path, {
        method,
        headers: body === undefined ? {} : { "Content-Type": isBytes ? "application/octet-stream" : "application/json" },
        body: body === undefined ? null : isBytes ? (body as BodyInit) : JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response;
}

export const jobPath = (team: string, job: string) => `/data-jobs/for-team/${team}/jobs/${job}`;

export async function createJob(url: string, team: string, job: string, description: string, cron = "") {
    await call(url, "POST", `/data-jobs/for-team/${team}/jobs`, {
        job_name: job,
        team,
        description,
        config: { schedule: { schedule_cron: cron }, contacts: { notified_on_job_failure_user_error: ["ana@example.com"] } },
    });
}

/** Uploads these files as the job's source, deploys them, and waits until they are deployed. */
export async function deploy(url: string, team: string, job: string, files: Record<string, string>, change: object = {}) {
    // Python makes the archive: Node has no library for it.
    const script = "import io,json,sys,zipfile\nb=io.BytesIO()\nz=zipfile.ZipFile(b,'w')\nfor n,c in json.load(sys.stdin).items(): z.writestr(n,c)\nz.close()\nsys.stdout.buffer.write(b.getvalue())";
    const named = Object.fromEntries(Object.entries({ "config.ini": "[owner]\nteam = x\n", ...files }).map(([name, content]) => [`${job}/${name}`, content]));
    const archive = execFileSync("python3", ["-c", script], { input: JSON.stringify(named), maxBuffer: 64 * 1024 * 1024 });
    const uploaded = await call(url, "POST", `${jobPath(team, job)}/sources`, new Uint8Array(archive));
    const { version_sha } = (await uploaded.json()) as { version_sha: string };
    await call(url, "POST", `${jobPath(team, job)}/deployments`, { job_version: version_sha, ...change });
    const begun = Date.now();
    for (;;) {
        const rollout = (await (await call(url, "GET", `${jobPath(team, job)}/deployments/production/rollout`)).json()) as { phase: string; problem: unknown };
        if (rollout.phase === "rolled_out") return;
        if (rollout.problem || Date.now() - begun > DEPLOY_MAX_MS) throw new Error(`${job} was not deployed: ${JSON.stringify(rollout)}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** Starts an execution and gives its id; waits for its end if asked. */
export async function run(url: string, team: string, job: string, untilEnd = true): Promise<string> {
    const started = await call(url, "POST", `${jobPath(team, job)}/deployments/production/executions`, { started_by: "manual/test" });
    const id = started.headers.get("location")!.split("/").pop()!;
    const wanted = untilEnd ? (status: string) => status !== "submitted" && status !== "running" : (status: string) => status === "running";
    for (;;) {
        const execution = (await (await call(url, "GET", `${jobPath(team, job)}/executions/${id}`)).json()) as { status: string };
        if (wanted(execution.status)) return id;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** Cancels an execution, and waits until none of its processes is left. */
export async function cancel(url: string, team: string, job: string, id: string) {
    await fetch(`${url}${jobPath(team, job)}/executions/${id}`, { method: "DELETE" });
    for (;;) {
        const execution = (await (await call(url, "GET", `${jobPath(team, job)}/executions/${id}`)).json()) as { status: string };
        if (execution.status !== "submitted" && execution.status !== "running") return;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** Fills an empty data folder with jobs that have executions. */
export function fill(folder: string, jobs: number, runs: number) {
    const program = join(dirname(binary()), "examples/fill");
    execFileSync(program, [`sqlite://${folder}/holdfast.db`, String(jobs), String(runs)], { stdio: "pipe" });
}
