// Reads of the API by components: the last data stays while newer data is read, and a read repeats while the page is visible.
import { effect, signal, type Signal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { connection, Problem } from "./api";

export interface Read<T> {
    data: T | undefined;
    problem: Problem | undefined;
    /** Whether the data is of an earlier key, or older because a later read failed. */
    isStale: boolean;
    /** When the data was read. */
    at: number;
    again: () => void;
}

/** The problem to show in place of a read: a lost connection is said once, in the head of the page, while there is older data. */
export function problemOf(read: Read<unknown>): Problem | undefined {
    return read.problem?.code === "no_connection" && read.data !== undefined ? undefined : read.problem;
}

/** How often lists are read again. */
export const POLL_MS = 15_000;
/** How often something that changes right now is read again. */
export const POLL_FAST_MS = 2_000;

/** Actions count here: everything that is shown is read again after one. */
export const changes: Signal<number> = signal(0);

/** Reads again at once, and a few times more: the service carries most changes out a moment after it accepted them. */
export function changed() {
    for (const wait of [0, 600, 1500, 4000]) setTimeout(() => changes.value++, wait);
}

/**
 * Reads `read(signal)` when `key` changes, and every `everyMs` while the page is visible. A null key reads nothing.
 */
export function useRead<T>(key: string | null, read: (signal: AbortSignal) => Promise<T>, everyMs: number | null = POLL_MS): Read<T> {
    const [state, setState] = useState<{ key: string | null; data?: T; problem?: Problem; at: number }>({ key: null, at: 0 });
    const latest = useRef(read);
    latest.current = read;
    const every = useRef(everyMs);
    every.current = everyMs;
    const trigger = useMemo(() => signal(0), []);
    useEffect(() => {
        if (key === null) return;
        let ended = false;
        let timer: ReturnType<typeof setTimeout> | undefined;
        let running: AbortController | undefined;
        const go = async () => {
            clearTimeout(timer);
            running?.abort();
            const mine = new AbortController();
            running = mine;
            let next: { data?: T; problem?: Problem } | undefined;
            try {
                next = { data: await latest.current(mine.signal) };
            } catch (error) {
                if (mine.signal.aborted) return;
                next = { problem: error instanceof Problem ? error : new Problem(0, "page_error", "The page failed to show this.", String(error), "", "", "") };
            }
            if (ended || mine.signal.aborted) return;
            setState((before) =>
                next.problem
                    ? { ...(before.key === key ? before : { at: 0 }), key, problem: next.problem }
                    : { key, data: next.data!, at: Date.now() },
            );
            const wait = next.problem ? 3000 : every.current;
            if (wait !== null) timer = setTimeout(tick, wait);
        };
        const tick = () => {
            if (document.visibilityState === "hidden" || connection.value.state === "unauthenticated") timer = setTimeout(tick, 1000);
            else void go();
        };
        void go();
        let first = true;
        const dispose = effect(() => {
            trigger.value;
            changes.value;
            if (first) first = false;
            else void go();
        });
        return () => {
            ended = true;
            clearTimeout(timer);
            running?.abort();
            dispose();
        };
    }, [key, everyMs === POLL_FAST_MS]);
    const isOther = state.key !== key;
    return {
        data: state.data,
        problem: isOther ? undefined : state.problem,
        isStale: isOther || state.problem !== undefined,
        at: state.at,
        again: () => trigger.value++,
    };
}

/** A value that follows another one after a pause of typing. */
export function useDebounced<T>(value: T, ms: number): T {
    const [late, setLate] = useState(value);
    useEffect(() => {
        const timer = setTimeout(() => setLate(value), ms);
        return () => clearTimeout(timer);
    }, [value, ms]);
    return late;
}
