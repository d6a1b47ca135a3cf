// The text of a log as what may be shown of it: an attacker may have written each line.

export type Color = "red" | "green" | "yellow" | "blue" | "magenta" | "cyan" | "gray" | null;

export interface Piece {
    text: string;
    color: Color;
    isBold: boolean;
    /** A character that would act instead of being shown. */
    isMarked: boolean;
}

const COLORS: Color[] = ["gray", "red", "green", "yellow", "blue", "magenta", "cyan", null];

/** CSI sequences, OSC strings up to their end, and single escapes. */
const ESCAPE = /\u001b(?:\[([0-9;:<=>?]*)[ -/]*([@-~])|[\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[ -/]*[0-~]?)/g;
/** Directional and invisible characters with which a line could pretend to be another one. */
const ACTING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

const ACTING_ONE = new RegExp(ACTING.source);

/** The longest part of a line that is shown. */
export const LINE_MAX_CHARS = 4000;

/** The lines of a log. A carriage return starts its line again, as on a terminal. */
export function lines(log: string): string[] {
    const all = log.split("\n");
    if (all[all.length - 1] === "") all.pop();
    for (let index = 0; index < all.length; index++) {
        const line = all[index]!;
        if (!line.includes("\r")) continue;
        const trimmed = line.replace(/\r+$/, "");
        all[index] = trimmed.slice(trimmed.lastIndexOf("\r") + 1);
    }
    return all;
}

/** A line without the sequences that color it: what search compares. */
export function plain(line: string): string {
    return line.includes("\u001b") ? line.replace(ESCAPE, "") : line;
}

function visible(character: string): string {
    const code = character.codePointAt(0)!;
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    if (code === 0x7f) return "\u2421";
    return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

/** The pieces of a line, in the colors that its sequences set. */
export function pieces(line: string): Piece[] {
    const made: Piece[] = [];
    let color: Color = null;
    let isBold = false;
    const add = (text: string) => {
        let from = 0;
        for (const found of text.matchAll(ACTING)) {
            if (found.index > from) made.push({ text: text.slice(from, found.index), color, isBold, isMarked: false });
            made.push({ text: visible(found[0]), color: null, isBold: false, isMarked: true });
            from = found.index + found[0].length;
        }
        if (from < text.length) made.push({ text: text.slice(from), color, isBold, isMarked: false });
    };
    let from = 0;
    const shown = line.length > LINE_MAX_CHARS ? line.slice(0, LINE_MAX_CHARS) : line;
    for (const found of shown.matchAll(ESCAPE)) {
        add(shown.slice(from, found.index));
        from = found.index + found[0].length;
        if (found[2] !== "m") continue;
        for (const code of (found[1] || "0").split(/[;:]/).map(Number)) {
            if (code === 0) [color, isBold] = [null, false];
            else if (code === 1) isBold = true;
            else if (code === 22) isBold = false;
            else if (code === 39) color = null;
            else if (code >= 30 && code <= 37) color = COLORS[code - 30]!;
            else if (code >= 90 && code <= 97) color = COLORS[code - 90]!;
        }
    }
    add(shown.slice(from));
    if (line.length > shown.length) made.push({ text: ` … ${line.length - shown.length} more characters`, color: "gray", isBold: false, isMarked: false });
    return made;
}

/**
 * How many cells of a fixed width a line takes at most. Characters of East Asian scripts and pictures take two, a tab four, and a
 * mark for an invisible character is longer than the character.
 */
export function cells(text: string): number {
    const shown = text.length > LINE_MAX_CHARS ? LINE_MAX_CHARS + 32 : text.length;
    // Most lines have none of these.
    if (!/[^\u0020-\u007e]/.test(text)) return shown;
    let count = 0;
    for (const character of text.slice(0, shown)) {
        const code = character.codePointAt(0)!;
        if (code === 9) count += 4;
        else if (code >= 0x1100) count += 2;
        else count += 1;
        if (code > 0x7e && ACTING_ONE.test(character)) count += 8;
    }
    return count + (text.length > LINE_MAX_CHARS ? 32 : 0);
}

const ERROR = /\[(?:ERROR|CRITI|CRITICAL|FATAL)\s*\]|\b(?:ERROR|CRITICAL|FATAL)\b|^Traceback \(|^(?:\w+\.)*\w*(?:Error|Exception)\b:?/;

export const isError = (line: string) => ERROR.test(line.length > 600 ? line.slice(0, 600) : line);

const LAST_WORD = /^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b(?::|$)/;

/** The line that says most about a failure: the last one that names an exception, else the first error. */
export function causeOf(all: readonly string[]): number | null {
    for (let index = all.length - 1; index >= 0 && index > all.length - 5000; index--) {
        if (LAST_WORD.test(plain(all[index]!))) return index;
    }
    const first = all.findIndex((line) => isError(plain(line)));
    return first < 0 ? null : first;
}
