// Texts of times, durations and numbers.
import { signal } from "@preact/signals";
import { remembered } from "./memory";

export type Zone = "UTC" | "local";
export const zone = remembered<Zone>("zone", "UTC", (value) => value === "UTC" || value === "local");

/** The time that relative texts are about; it moves every second while the page is visible. */
export const now = signal(Date.now());

export function zoneName(): string {
    return zone.value === "UTC" ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone;
}

const formats = new Map<string, Intl.DateTimeFormat>();

function parts(at: Date, seconds: boolean): Record<string, string> {
    const key = `${zone.value}${seconds}`;
    let format = formats.get(key);
    if (!format) {
        format = new Intl.DateTimeFormat("en-GB", {
            year: "numeric",
            month: "short",
            day: "numeric",
            weekday: "short",
            hour: "2-digit",
            minute: "2-digit",
            ...(seconds ? { second: "2-digit" } : {}),
            hourCycle: "h23",
            ...(zone.value === "UTC" ? { timeZone: "UTC" } : {}),
        });
        formats.set(key, format);
    }
    return Object.fromEntries(format.formatToParts(at).map((part) => [part.type, part.value]));
}

/** A time as short as it is clear: without the day if it is today, without the year if it is this one. */
export function time(iso: string | number | Date, seconds = false): string {
    const at = new Date(iso);
    if (Number.isNaN(at.getTime())) return "–";
    const [then, today] = [parts(at, seconds), parts(new Date(now.value), false)];
    const clock = `${then["hour"]}:${then["minute"]}${seconds ? `:${then["second"]}` : ""}`;
    const sameDay = then["day"] === today["day"] && then["month"] === today["month"] && then["year"] === today["year"];
    if (sameDay) return clock;
    const day = `${then["day"]} ${then["month"]}`;
    return then["year"] === today["year"] ? `${day} ${clock}` : `${day} ${then["year"]} ${clock}`;
}

/** A time with all its parts and its zone. */
export function fullTime(iso: string | number | Date): string {
    const at = new Date(iso);
    if (Number.isNaN(at.getTime())) return "–";
    const p = parts(at, true);
    return `${p["weekday"]} ${p["day"]} ${p["month"]} ${p["year"]} ${p["hour"]}:${p["minute"]}:${p["second"]} ${zoneName()}`;
}

/** `2 m 01 s`, never `121.3 s`. */
export function duration(seconds: number): string {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    const two = (n: number) => String(n).padStart(2, "0");
    if (s < 3600) return `${Math.floor(s / 60)} m ${two(s % 60)} s`;
    if (s < 86_400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} m`;
    return `${Math.floor(s / 86_400)} d ${two(Math.floor((s % 86_400) / 3600))} h`;
}

/** The largest unit alone: `21 h`. */
export function rough(seconds: number): string {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.round(s / 60)} min`;
    if (s < 129_600) return `${Math.round(s / 3600)} h`;
    return `${Math.round(s / 86_400)} d`;
}

/** `21 h ago`, `in 12 min`. */
export function relative(iso: string | number): string {
    const seconds = (new Date(iso).getTime() - now.value) / 1000;
    if (Math.abs(seconds) < 2) return "now";
    return seconds < 0 ? `${rough(-seconds)} ago` : `in ${rough(seconds)}`;
}

const integer = new Intl.NumberFormat("en-US");
export const count = (n: number) => integer.format(n);
export const plural = (n: number, one: string, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** The seconds of an execution: until now if it has not ended. */
export function seconds(run: { startTime: string; endTime: string | null }): number {
    const end = run.endTime ? new Date(run.endTime).getTime() : now.value;
    return (end - new Date(run.startTime).getTime()) / 1000;
}

export function bytes(n: number): string {
    if (n < 1024) return `${n} B`;
    if (n < 1024 * 1024) return `${Math.round(n / 1024)} KiB`;
    return `${(n / 1024 / 1024).toFixed(1)} MiB`;
}
