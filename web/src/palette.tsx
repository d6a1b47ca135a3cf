// Finds a job or a page by its name, from everywhere.
import { signal } from "@preact/signals";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { useDebounced, useRead } from "./data";
import { readJobs } from "./queries";
import { navigate, place } from "./router";

const isOpen = signal(false);

export function openPalette() {
    isOpen.value = true;
}

const PAGES: [string, string][] = [
    ["Overview", "/"],
    ["Jobs", "/jobs"],
    ["Failing jobs", "/jobs?last=user_error"],
    ["Executions", "/executions"],
    ["Deployments", "/deployments"],
    ["Deleted jobs", "/deleted"],
    ["Help: keys and words", "/help"],
];

export function Palette() {
    return isOpen.value ? <PaletteDialog /> : null;
}

function PaletteDialog() {
    const dialog = useRef<HTMLDialogElement>(null);
    const [text, setText] = useState("");
    const [at, setAt] = useState(0);
    const wanted = useDebounced(text.trim().toLowerCase(), 80);
    const found = useRead(
        wanted.length >= 2 ? `palette ${wanted}` : null,
        (signal) => readJobs({ page: 1, size: 8, filter: [{ property: "jobName", pattern: `${wanted}*`, sort: "ASC" }], search: "" }, signal),
        null,
    );
    // Before the next key, so that no letter is lost.
    useLayoutEffect(() => dialog.current?.showModal(), []);
    const close = () => (isOpen.value = false);
    const jobs = wanted.length >= 2 ? (found.data ?? []).map((job): [string, string, string] => [job.jobName, `/jobs/${job.jobName}`, job.config.team]) : [];
    const pages = PAGES.filter(([name]) => name.toLowerCase().includes(wanted)).map(([name, to]): [string, string, string] => [name, to, "page"]);
    const job = /^\/jobs\/([^/]+)/.exec(place.value.path)?.[1];
    const here: [string, string, string][] = job
        ? ["executions", "schedule", "deployment", "configuration", "history"].filter((tab) => tab.includes(wanted)).map((tab) => [`${tab[0]!.toUpperCase()}${tab.slice(1)} of ${job}`, `/jobs/${job}/${tab}`, "this job"])
        : [];
    const all = [...jobs, ...here, ...pages];
    const index = Math.min(at, Math.max(0, all.length - 1));
    const open = (to: string) => {
        close();
        navigate(to);
    };
    return (
        <dialog class="palette" ref={dialog} onClose={close} aria-label="Find">
            <input
                type="text"
                role="combobox"
                aria-expanded="true"
                aria-controls="palette-list"
                aria-autocomplete="list"
                aria-label="Find a job or a page"
                {...(all[index] ? { "aria-activedescendant": `palette-${index}` } : {})}
                placeholder="Name of a job, or a page"
                value={text}
                onInput={(event) => (setText(event.currentTarget.value), setAt(0))}
                onKeyDown={(event) => {
                    if (event.key === "ArrowDown") setAt(Math.min(index + 1, all.length - 1));
                    else if (event.key === "ArrowUp") setAt(Math.max(index - 1, 0));
                    else if (event.key === "Enter" && all[index]) open(all[index]![1]);
                    else return;
                    event.preventDefault();
                }}
                autofocus
                autocomplete="off"
                spellcheck={false}
            />
            <ul id="palette-list" role="listbox" aria-label="Results">
                {all.map(([name, to, kind], n) => (
                    <li key={to} id={`palette-${n}`} role="option" aria-selected={n === index} onClick={() => open(to)} onMouseMove={() => setAt(n)}>
                        <span>{name}</span>
                        <span class="quiet">{kind}</span>
                    </li>
                ))}
            </ul>
            {all.length === 0 && <p class="quiet">{found.data && wanted.length >= 2 ? "No job begins like this." : "…"}</p>}
        </dialog>
    );
}
