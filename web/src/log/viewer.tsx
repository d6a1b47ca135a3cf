// The log of an execution: rows of a fixed height, of which only the visible ones exist.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useDebounced } from "../data";
import { bytes, count, plural } from "../format";
import { copy } from "../kit";
import { place, setQuery } from "../router";
import { cells, isError, pieces, plain } from "./text";
import { remembered } from "../memory";
import { shortcuts, useKeys } from "../keys";

const ROW_PX = 20;
/** Rows beyond the visible ones, above and below. */
const EXTRA_ROWS = 12;
/** Browsers limit the height of an element; a longer log scrolls in larger steps. */
const HEIGHT_MAX_PX = 8_000_000;
const HITS_MAX = 10_000;

const wraps = remembered("wrap", false, (value) => typeof value === "boolean");

export interface LogProps {
    lines: readonly string[];
    /** Whether these are all lines, so that their numbers are known. */
    isWhole: boolean;
    size: number;
    isGrowing: boolean;
    loadAll: () => void;
    download: () => void;
}

interface Range {
    from: number;
    to: number;
}

function rangeOf(hash: string): Range | null {
    const found = /^#L(\d+)(?:-L?(\d+))?$/.exec(hash);
    if (!found) return null;
    const [a, b] = [Number(found[1]), Number(found[2] ?? found[1])];
    return { from: Math.min(a, b), to: Math.max(a, b) };
}

export function LogViewer({ lines, isWhole, size, isGrowing, loadAll, download }: LogProps) {
    const box = useRef<HTMLDivElement>(null);
    const [top, setTop] = useState(0);
    const [height, setHeight] = useState(480);
    const [isFollowing, setFollowing] = useState(rangeOf(place.value.hash) === null);
    const [seen, setSeen] = useState(lines.length);
    const [hit, setHit] = useState(0);
    const search = useRef<HTMLInputElement>(null);
    const find = place.value.query.get("find") ?? "";
    const range = rangeOf(place.value.hash);
    const [columns, setColumns] = useState(120);
    const ruler = useRef<HTMLSpanElement>(null);
    const digits = String(lines.length).length;
    const isWrapped = wraps.value;
    const plains = useMemo(() => lines.map(plain), [lines]);
    /** The first row of each line, and the number of rows; null if each line has one row. Heights are computed, never measured. */
    const starts = useMemo(() => {
        if (!isWrapped) return null;
        const firsts = new Float64Array(plains.length + 1);
        for (let index = 0; index < plains.length; index++) firsts[index + 1] = firsts[index]! + Math.max(1, Math.ceil(cells(plains[index]!) / columns));
        return firsts;
    }, [plains, isWrapped, columns]);
    const rowOf = (line: number) => (starts ? starts[line]! : line);
    const lineAt = (row: number) => {
        if (!starts) return Math.floor(row);
        let [low, high] = [0, plains.length];
        while (low < high) {
            const middle = (low + high + 1) >> 1;
            if (starts[middle]! <= row) low = middle;
            else high = middle - 1;
        }
        return low;
    };
    const total = rowOf(lines.length) * ROW_PX;
    const scale = Math.max(1, total / HEIGHT_MAX_PX);

    const late = useDebounced(find, 120);
    const hits = useMemo(() => {
        const found: number[] = [];
        const wanted = late.toLowerCase();
        if (wanted === "") return found;
        for (let index = 0; index < plains.length && found.length < HITS_MAX; index++) {
            if (plains[index]!.toLowerCase().includes(wanted)) found.push(index);
        }
        return found;
    }, [plains, late]);
    const errors = useMemo(() => {
        const found: number[] = [];
        for (let index = 0; index < plains.length && found.length < HITS_MAX; index++) if (isError(plains[index]!)) found.push(index);
        return found;
    }, [plains]);

    const scrollTo = (pixels: number) => {
        const element = box.current;
        if (element) element.scrollTop = pixels / scale;
    };
    const show = (line: number) => {
        setFollowing(false);
        scrollTo(Math.max(0, rowOf(line) * ROW_PX - height / 2 + ROW_PX));
    };
    const toEnd = () => {
        setFollowing(true);
        setSeen(lines.length);
        scrollTo(total);
    };

    useLayoutEffect(() => {
        const element = box.current;
        if (!element) return;
        const measure = () => {
            setHeight(element.clientHeight);
            const cell = (ruler.current?.getBoundingClientRect().width ?? 700) / 100;
            // The number and the paddings beside the text.
            setColumns(Math.max(20, Math.floor((element.clientWidth - (digits + 2) * cell - 20) / cell)));
        };
        measure();
        void document.fonts.ready.then(measure);
        const observer = new ResizeObserver(measure);
        observer.observe(element);
        return () => observer.disconnect();
    }, [digits]);
    useLayoutEffect(() => {
        if (isFollowing) {
            scrollTo(total);
            setSeen(lines.length);
        }
    }, [lines.length, isFollowing, height, total]);
    useEffect(() => {
        if (range) show(range.from - 1);
    }, [place.value.hash, lines.length > 0]);
    useEffect(() => {
        setHit(0);
        if (hits.length > 0 && !range) show(hits[0]!);
    }, [late]);

    const onScroll = () => {
        const element = box.current!;
        setTop(element.scrollTop * scale);
        const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - ROW_PX;
        if (atEnd) setSeen(lines.length);
        if (atEnd !== isFollowing) setFollowing(atEnd);
    };
    const step = (list: readonly number[], by: 1 | -1) => {
        if (list.length === 0) return;
        if (list === hits) {
            const next = (hit + by + hits.length) % hits.length;
            setHit(next);
            show(hits[next]!);
            return;
        }
        const middle = lineAt((top + height / 2) / ROW_PX);
        const next = by > 0 ? (list.find((line) => line > middle + 1) ?? list[0]!) : ([...list].reverse().find((line) => line < middle - 1) ?? list[list.length - 1]!);
        show(next);
    };
    const select = (line: number, extend: boolean) => {
        const start = extend && range ? range.from : line;
        const [from, to] = [Math.min(start, line), Math.max(start, line)];
        const hash = from === to ? `#L${from}` : `#L${from}-L${to}`;
        history.replaceState(history.state, "", location.pathname + location.search + hash);
        place.value = { ...place.value, hash };
    };
    const copyLink = () => void copy(location.href, range ? "The link to these lines was copied." : "The link was copied.");
    useKeys({
        "/": () => search.current?.focus(),
        n: () => step(hits, 1),
        N: () => step(hits, -1),
        e: () => step(errors, 1),
        E: () => step(errors, -1),
        f: toEnd,
        w: () => (wraps.value = !wraps.value),
        y: copyLink,
    });

    const first = Math.max(0, lineAt(top / ROW_PX) - EXTRA_ROWS);
    const last = Math.min(lines.length, lineAt((top + height) / ROW_PX) + 1 + EXTRA_ROWS);
    const hitLine = hits[hit];
    const rows = [];
    const wanted = late.toLowerCase();
    for (let index = first; index < last; index++) {
        const number = index + 1;
        const isSelected = isWhole && range !== null && number >= range.from && number <= range.to;
        const text = plains[index]!;
        const classes = ["row", isError(text) && "error", isSelected && "selected", index === hitLine && "hit"].filter(Boolean).join(" ");
        rows.push(
            <div class={classes} key={index} style={{ transform: `translateY(${rowOf(index) * ROW_PX - (scale > 1 ? top - top / scale : 0)}px)`, height: `${(rowOf(index + 1) - rowOf(index)) * ROW_PX}px` }}>
                {isWhole ? (
                    <a
                        class="number"
                        href={`#L${number}`}
                        aria-label={`Line ${number}`}
                        tabIndex={-1}
                        style={{ width: `${digits + 2}ch` }}
                        onClick={(event) => {
                            event.preventDefault();
                            select(number, event.shiftKey);
                        }}
                    >
                        {number}
                    </a>
                ) : (
                    <span class="number" style={{ width: `${digits + 2}ch` }}>
                        …{number}
                    </span>
                )}
                <span class="text">{wanted && text.toLowerCase().includes(wanted) ? marked(text, wanted) : shown(lines[index]!)}</span>
            </div>,
        );
    }
    const fresh = lines.length - seen;
    return (
        <section class="log" aria-label="Log">
            <div class="log-bar">
                <label class="search">
                    <span class="visually-hidden">Find in the log</span>
                    <input
                        ref={search}
                        type="search"
                        placeholder="Find in the log"
                        value={find}
                        onInput={(event) => setQuery({ find: event.currentTarget.value })}
                        onKeyDown={(event) => {
                            if (event.key === "Enter") {
                                event.preventDefault();
                                step(hits, event.shiftKey ? -1 : 1);
                            }
                        }}
                        aria-keyshortcuts="/"
                        spellcheck={false}
                    />
                </label>
                {find !== "" && (
                    <span class="hits" role="status">
                        {hits.length === 0 ? "not found" : `${count(hit + 1)} of ${hits.length === HITS_MAX ? "more than " : ""}${count(hits.length)}`}
                    </span>
                )}
                {hits.length > 0 && (
                    <span class="pair">
                        <button type="button" class="small" title="Previous hit (N)" aria-label="Previous hit" onClick={() => step(hits, -1)}>
                            ↑
                        </button>
                        <button type="button" class="small" title="Next hit (n)" aria-label="Next hit" onClick={() => step(hits, 1)}>
                            ↓
                        </button>
                    </span>
                )}
                <button type="button" class="small" disabled={errors.length === 0} onClick={() => step(errors, 1)} title="Next error line (e)">
                    {plural(errors.length, "error line")}
                </button>
                <span class="quiet grow">
                    {isWhole ? plural(lines.length, "line") : `the last ${plural(lines.length, "line")}`}, {bytes(size)}
                    {!isWhole && (
                        <button type="button" class="link" onClick={loadAll}>
                            load the whole log
                        </button>
                    )}
                </span>
                <button type="button" class="small" aria-pressed={isFollowing} onClick={toEnd} title="To the end, and follow (f)">
                    {isGrowing ? "Follow" : "End"}
                </button>
                <button type="button" class="small" aria-pressed={isWrapped} onClick={() => (wraps.value = !wraps.value)} title="Wrap long lines (w)">
                    Wrap
                </button>
                <button type="button" class="small" onClick={copyLink} title="Copy the link to this view (y)">
                    Copy link
                </button>
                <button type="button" class="small" onClick={download}>
                    Download
                </button>
            </div>
            <div class="log-frame">
                <div class="log-box" ref={box} onScroll={onScroll} tabIndex={0} role="region" aria-label={`Log, ${plural(lines.length, "line")}`}>
                    <span class="ruler" ref={ruler} aria-hidden="true">
                        {"m".repeat(100)}
                    </span>
                    <div class={isWrapped ? "log-rows wrapped" : "log-rows"} style={{ height: `${Math.min(total, HEIGHT_MAX_PX)}px` }}>
                        {rows}
                    </div>
                    {lines.length === 0 && <p class="quiet log-empty">{isGrowing ? "The log is empty so far." : "The log is empty."}</p>}
                </div>
                <MiniMap total={lines.length} hits={hits} errors={errors} />
            </div>
            {!isFollowing && fresh > 0 && (
                <button type="button" class="fresh primary" onClick={toEnd}>
                    {plural(fresh, "new line")} ↓
                </button>
            )}
        </section>
    );
}

shortcuts.push(["n / N", "Next or previous hit in the log"], ["e / E", "Next or previous error line"], ["f", "To the end of the log, and follow it"],
    ["w", "Wrap the long lines of the log"], ["y", "Copy the link to this view"]);

function shown(line: string) {
    return pieces(line).map((piece, index) => {
        const classes = [piece.color && `ansi-${piece.color}`, piece.isBold && "ansi-bold", piece.isMarked && "acting"].filter(Boolean).join(" ");
        return classes ? (
            <span key={index} class={classes}>
                {piece.text}
            </span>
        ) : (
            piece.text
        );
    });
}

function marked(line: string, wanted: string) {
    const parts = [];
    const lower = line.toLowerCase();
    // Lower case of another length would put the marks elsewhere.
    if (lower.length !== line.length) return shown(line);
    let from = 0;
    for (let at = lower.indexOf(wanted); at >= 0 && parts.length < 200; at = lower.indexOf(wanted, at + wanted.length)) {
        if (at > from) parts.push(<span key={from}>{shown(line.slice(from, at))}</span>);
        parts.push(<mark key={`m${at}`}>{shown(line.slice(at, at + wanted.length))}</mark>);
        from = at + wanted.length;
    }
    if (from < line.length) parts.push(<span key={from}>{shown(line.slice(from))}</span>);
    return parts;
}

/** Where in the log the hits and the errors are. */
function MiniMap({ total, hits, errors }: { total: number; hits: readonly number[]; errors: readonly number[] }) {
    const path = (list: readonly number[], x: number, width: number) => {
        const places = new Set(list.map((line) => Math.floor((line / Math.max(1, total)) * 300)));
        return [...places].map((y) => `M${x} ${y}h${width}v1.5h-${width}z`).join("");
    };
    return (
        <svg class="mini-map" viewBox="0 0 10 300" preserveAspectRatio="none" aria-hidden="true">
            <path class="tone-user" d={path(errors, 0, 5)} />
            <path class="accent" d={path(hits, 5, 5)} />
        </svg>
    );
}
