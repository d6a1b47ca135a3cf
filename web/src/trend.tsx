// The durations of the last executions, with the revisions between them.
import { useEffect, useRef, useState } from "preact/hooks";
import { duration, fullTime, seconds, time } from "./format";
import { navigate } from "./router";
import { executionState, isActive } from "./status";
import type { Execution } from "./types";

const HEIGHT = 120;
const LEFT = 56;
const BOTTOM = 18;

/** One bar per execution, the newest at the right. The height is the duration; a click opens the execution. */
export function Trend({ runs }: { runs: readonly Execution[] }) {
    const box = useRef<HTMLDivElement>(null);
    const [width, setWidth] = useState(800);
    const [at, setAt] = useState<number | null>(null);
    useEffect(() => {
        const observer = new ResizeObserver(() => box.current && setWidth(box.current.clientWidth));
        if (box.current) observer.observe(box.current);
        return () => observer.disconnect();
    }, []);
    const step = Math.max(6, Math.min(18, (width - LEFT) / Math.max(1, runs.length)));
    const shown = runs.slice(0, Math.max(1, Math.floor((width - LEFT) / step))).reverse();
    const took = shown.map((run) => Math.max(0.5, seconds(run)));
    const most = Math.max(...took);
    const sorted = [...took].sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)]!;
    const y = (value: number) => HEIGHT - BOTTOM - Math.max(3, (value / most) * (HEIGHT - BOTTOM - 14));
    const paths = new Map<string, string>();
    const revisions: { x: number; run: Execution }[] = [];
    shown.forEach((run, index) => {
        const tone = executionState(run.status).tone;
        const x = LEFT + index * step;
        const top = y(took[index]!);
        let path = `M${x + 1} ${top}h${step - 2}V${HEIGHT - BOTTOM}h-${step - 2}z`;
        if (tone === "user") path += `M${x + step / 2} ${top - 9}l4 7h-8z`;
        if (tone === "platform") path += `M${x + step / 2} ${top - 10}l4 4l-4 4l-4-4z`;
        paths.set(tone, (paths.get(tone) ?? "") + path);
        const before = shown[index - 1];
        if (before?.deployment?.deployedDate && run.deployment?.deployedDate && before.deployment.deployedDate !== run.deployment.deployedDate) revisions.push({ x, run });
    });
    const indexOf = (event: { clientX: number }) => {
        const left = box.current!.getBoundingClientRect().left;
        return Math.max(0, Math.min(shown.length - 1, Math.floor((event.clientX - left - LEFT) / step)));
    };
    const hovered = at === null ? undefined : shown[at];
    const failed = shown.filter((run) => run.status === "USER_ERROR" || run.status === "PLATFORM_ERROR").length;
    return (
        <figure class="trend" ref={box}>
            <figcaption>
                {hovered ? (
                    <>
                        {fullTime(hovered.startTime)}: {executionState(hovered.status).word}, {isActive(hovered.status) ? "so far " : ""}
                        {duration(seconds(hovered))}
                    </>
                ) : (
                    <>
                        Duration of the last {shown.length} executions; median {duration(median)}
                        {revisions.length > 0 && "; a line marks a new deployment"}
                    </>
                )}
            </figcaption>
            <svg
                width={width}
                height={HEIGHT}
                role="img"
                aria-label={`Durations of the last ${shown.length} executions: median ${duration(median)}, longest ${duration(most)}, ${failed} failed, ${revisions.length} new deployments between them`}
                onMouseMove={(event) => setAt(indexOf(event))}
                onMouseLeave={() => setAt(null)}
                onClick={(event) => {
                    const run = shown[indexOf(event)];
                    if (run) navigate(`/jobs/${run.jobName}/executions/${run.id}`);
                }}
            >
                <path class="grid-line" d={`M${LEFT} ${y(most) + 0.5}H${width}M${LEFT} ${Math.round(y(median)) + 0.5}H${width}M${LEFT} ${HEIGHT - BOTTOM + 0.5}H${width}`} />
                <text x={LEFT - 6} y={y(most) + 4} text-anchor="end">
                    {duration(most)}
                </text>
                {y(median) - y(most) > 14 && (
                    <text x={LEFT - 6} y={y(median) + 4} text-anchor="end">
                        {duration(median)}
                    </text>
                )}
                {hovered && <rect class="hover" x={LEFT + at! * step} y={0} width={step} height={HEIGHT - BOTTOM} />}
                {[...paths].map(([tone, d]) => (
                    <path key={tone} class={`tone-${tone}`} d={d} />
                ))}
                {revisions.map(({ x, run }) => (
                    <path key={run.id} class="revision" d={`M${x} 4V${HEIGHT - BOTTOM}M${x - 4} 4h8l-4 6z`} />
                ))}
                {shown.length > 1 && (
                    <>
                        <text x={LEFT} y={HEIGHT - 4}>
                            {time(shown[0]!.startTime)}
                        </text>
                        {shown.length * step > 200 && (
                            <text x={LEFT + shown.length * step} y={HEIGHT - 4} text-anchor="end">
                                {time(shown[shown.length - 1]!.startTime)}
                            </text>
                        )}
                    </>
                )}
            </svg>
        </figure>
    );
}
