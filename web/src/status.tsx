// The states: each has a shape, a colour and a word, so that none depends on colour alone.
import type { Execution, ExecutionStatus, Job, Rollout, RolloutStatus } from "./types";

export type Shape = "disc" | "half" | "ring" | "triangle" | "diamond" | "barred" | "dash" | "cross";
export type Tone = "ok" | "running" | "waiting" | "user" | "platform" | "cancelled" | "off" | "missed";

export interface State {
    tone: Tone;
    shape: Shape;
    word: string;
}

const STATES: Record<ExecutionStatus, State> = {
    SUBMITTED: { tone: "waiting", shape: "ring", word: "submitted" },
    RUNNING: { tone: "running", shape: "half", word: "running" },
    SUCCEEDED: { tone: "ok", shape: "disc", word: "succeeded" },
    CANCELLED: { tone: "cancelled", shape: "barred", word: "cancelled" },
    SKIPPED: { tone: "off", shape: "dash", word: "skipped" },
    USER_ERROR: { tone: "user", shape: "triangle", word: "user error" },
    PLATFORM_ERROR: { tone: "platform", shape: "diamond", word: "platform error" },
};

export const STATUSES = Object.keys(STATES) as ExecutionStatus[];

export function executionState(status: ExecutionStatus): State {
    return STATES[status];
}

export const isActive = (status: ExecutionStatus) => status === "RUNNING" || status === "SUBMITTED";
export const isFailed = (status: ExecutionStatus | null) => status === "USER_ERROR" || status === "PLATFORM_ERROR";

export function deploymentState(job: Job): State {
    const deployment = job.deployments?.[0];
    if (!deployment) return { tone: "off", shape: "ring", word: "not deployed" };
    if (!deployment.enabled) return { tone: "off", shape: "dash", word: "disabled" };
    return { tone: "ok", shape: "disc", word: "enabled" };
}

export function rolloutState(rollout: Rollout): State {
    switch (rollout.phase) {
        case "rolled_out":
            return { tone: "ok", shape: "disc", word: "rolled out" };
        case "pending":
            return { tone: "running", shape: "half", word: "in progress" };
        case "retrying":
            return { tone: "platform", shape: "diamond", word: "retrying" };
        default:
            return { tone: "user", shape: "triangle", word: "failed" };
    }
}

export function rolloutStatusState(status: RolloutStatus): State {
    switch (status) {
        case "SUCCESS":
            return { tone: "ok", shape: "disc", word: "rolled out" };
        case "NONE":
            return { tone: "running", shape: "half", word: "in progress" };
        case "USER_ERROR":
            return { tone: "user", shape: "triangle", word: "failed: user error" };
        default:
            return { tone: "platform", shape: "diamond", word: "retrying: platform error" };
    }
}

/** Paths in a box of 12 × 12. */
const PATHS: Record<Shape, string> = {
    disc: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",
    half: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM6 2.6v6.8a3.4 3.4 0 1 1 0-6.8z",
    ring: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM6 2.8a3.2 3.2 0 1 1 0 6.4a3.2 3.2 0 1 1 0-6.4z",
    triangle: "M6 .8L11.6 10.8H.4z",
    diamond: "M6 .3L11.7 6L6 11.7L.3 6z",
    barred: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM3.4 2.9a4 4 0 0 1 5.7 5.7zM2.9 3.4l5.7 5.7a4 4 0 0 1-5.7-5.7z",
    dash: "M1 4.8h10v2.4H1z",
    cross: "M2.2 1L6 4.7 9.8 1 11 2.2 7.3 6 11 9.8 9.8 11 6 7.3 2.2 11 1 9.8 4.7 6 1 2.2z",
};

export function Mark({ state, label = false }: { state: State; label?: boolean }) {
    return (
        <svg class={`mark tone-${state.tone}`} viewBox="0 0 12 12" {...(label ? { role: "img", "aria-label": state.word } : { "aria-hidden": "true" })}>
            <path d={PATHS[state.shape]} fill-rule="evenodd" />
        </svg>
    );
}

export function StateWord({ state, note }: { state: State; note?: string | undefined }) {
    return (
        <span class="state">
            <Mark state={state} />
            {state.word}
            {note && <span class="quiet">{note}</span>}
        </span>
    );
}

const BAR = 7;
const STRIP_HEIGHT = 20;
export const STRIP_RUNS = 20;

/**
 * The last executions of a job, the newest at the right. The height of a bar is the duration against the median on a logarithmic
 * scale; a shape is on top of a bar that did not succeed. One path per state keeps a page of jobs small.
 */
export function Strip({ runs }: { runs: readonly Execution[] }) {
    const shown = runs.slice(0, STRIP_RUNS).reverse();
    const took = (run: Execution) => Math.max(1, ((run.endTime ? Date.parse(run.endTime) : Date.now()) - Date.parse(run.startTime)) / 1000);
    const sorted = shown.map(took).sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 1;
    const paths = new Map<Tone, string>();
    const offset = STRIP_RUNS - shown.length;
    shown.forEach((run, index) => {
        const state = executionState(run.status);
        const ratio = Math.min(4, Math.max(0.25, took(run) / median));
        const height = Math.round(3 + ((Math.log2(ratio) + 2) / 4) * 9);
        const x = (offset + index) * BAR;
        const y = STRIP_HEIGHT - height;
        let path = `M${x + 1} ${y}h5v${height}h-5z`;
        if (state.tone === "user") path += `M${x + 3.5} ${y - 7}l3.5 5.5h-7z`;
        if (state.tone === "platform") path += `M${x + 3.5} ${y - 7.5}l3 3l-3 3l-3-3z`;
        if (state.tone === "cancelled") path += `M${x} ${y - 4}h7v2h-7z`;
        if (state.tone === "running" || state.tone === "waiting") path += `M${x + 3.5} ${y - 6.5}a2.2 2.2 0 1 0 .01 0z`;
        paths.set(state.tone, (paths.get(state.tone) ?? "") + path);
    });
    const counts = new Map<string, number>();
    for (const run of shown) {
        const word = executionState(run.status).word;
        counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    const said = [...counts].map(([word, n]) => `${n} ${word}`).join(", ");
    const label = shown.length === 0 ? "no execution" : `last ${shown.length} executions: ${said}; the latest: ${executionState(shown[shown.length - 1]!.status).word}`;
    return (
        <svg class="strip" viewBox={`0 0 ${STRIP_RUNS * BAR} ${STRIP_HEIGHT}`} role="img" aria-label={label}>
            {[...paths].map(([tone, d]) => (
                <path key={tone} class={`tone-${tone}`} d={d} />
            ))}
        </svg>
    );
}
