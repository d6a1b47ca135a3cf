// Requests to the public API, and what the page knows of the connection.
import { signal } from "@preact/signals";

/** A rejected request, in the four texts and the code of the API's error body. */
export class Problem extends Error {
    constructor(
        readonly status: number,
        readonly code: string,
        readonly what: string,
        readonly why: string,
        readonly consequences: string,
        readonly countermeasures: string,
        readonly opId: string,
    ) {
        super(`${what} ${why}`);
    }
}

/** Whether the service can be used from here. */
export type Connection =
    | { state: "ok" }
    | { state: "lost"; since: number }
    | { state: "starting" }
    | { state: "unauthenticated" };

export const connection = signal<Connection>({ state: "ok" });

const REQUEST_TIMEOUT_MS = 20_000;

function lost(): Problem {
    if (connection.value.state !== "lost") connection.value = { state: "lost", since: Date.now() };
    return new Problem(
        0,
        "no_connection",
        "The service did not answer.",
        "The connection failed or took longer than 20 seconds.",
        "The page shows the last known state.",
        "No action needed: the page tries again.",
        "",
    );
}

async function request(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
    const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    let response: Response;
    try {
        response = await fetch(path, {
            method,
            headers: body === undefined ? {} : { "Content-Type": "application/json" },
            body: body === undefined ? null : JSON.stringify(body),
            signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
            cache: "no-cache",
        });
    } catch (error) {
        if (signal?.aborted) throw error;
        throw lost();
    }
    if (response.ok) {
        connection.value = { state: "ok" };
        return response;
    }
    const problem = await problemOf(response);
    if (response.status === 401) connection.value = { state: "unauthenticated" };
    else if (problem.code === "service_starting") connection.value = { state: "starting" };
    else if (response.status === 502 || response.status === 504) throw lost();
    else connection.value = { state: "ok" };
    throw problem;
}

async function problemOf(response: Response): Promise<Problem> {
    const body: Record<string, unknown> = await response.json().catch(() => ({}));
    const text = (name: string, otherwise: string) => (typeof body[name] === "string" ? (body[name] as string) : otherwise);
    return new Problem(
        response.status,
        text("code", "unspecified"),
        text("what", "The request was rejected."),
        text("why", `The service answered with status ${response.status}.`),
        text("consequences", ""),
        text("countermeasures", ""),
        response.headers.get("x-opid") ?? "",
    );
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return (await request("GET", path, undefined, signal)).json();
}

export async function send(method: string, path: string, body?: unknown): Promise<Response> {
    return request(method, path, body);
}

interface GraphqlBody<T> {
    data?: T | null;
    errors?: { message: string; extensions?: Record<string, string> }[];
}

/** Carries out a GraphQL query; its first error becomes a `Problem`. */
export async function graphql<T>(query: string, variables: object, signal?: AbortSignal): Promise<T> {
    const response = await request("POST", "/data-jobs/graphql", { query, variables }, signal);
    const body: GraphqlBody<T> = await response.json();
    const error = body.errors?.[0];
    if (error || !body.data) {
        const e = error?.extensions ?? {};
        throw new Problem(
            200,
            e["code"] ?? "unspecified",
            e["what"] ?? "The list was not read.",
            e["why"] ?? error?.message ?? "The service returned no data.",
            e["consequences"] ?? "",
            e["countermeasures"] ?? "",
            response.headers.get("x-opid") ?? "",
        );
    }
    return body.data;
}

/** The path of a job in the API. */
export function jobPath(team: string, job: string): string {
    return `/data-jobs/for-team/${encodeURIComponent(team)}/jobs/${encodeURIComponent(job)}`;
}
