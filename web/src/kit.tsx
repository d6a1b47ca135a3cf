// Parts that pages share.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Problem } from "./api";
import { changed } from "./data";
import { fullTime, now, relative, time } from "./format";
import { navigations } from "./router";

/** A time, with its full form and its distance on hover and for screen readers. */
export function Time({ at, distance = false }: { at: string | number | null | undefined; distance?: boolean }) {
    if (at === null || at === undefined) return <span class="quiet">–</span>;
    const iso = new Date(at).toISOString();
    now.value;
    return (
        <time dateTime={iso} title={`${fullTime(at)}, ${relative(at)}`}>
            {distance ? relative(at) : time(at)}
        </time>
    );
}

/** An error where its part of the page would be. */
export function ProblemBox({ problem, again }: { problem: Problem; again?: () => void }) {
    return (
        <section class="problem" role="alert">
            <p class="problem-what">{problem.what}</p>
            <p>
                {problem.why} {problem.consequences}
            </p>
            {problem.countermeasures && <p>{problem.countermeasures}</p>}
            <p class="quiet">
                <code>{problem.code}</code>
                {problem.opId && (
                    <>
                        {" "}
                        · operation <code>{problem.opId}</code>
                    </>
                )}
            </p>
            {again && (
                <button type="button" onClick={again}>
                    Try again
                </button>
            )}
        </section>
    );
}

/** The place of a list while it is read the first time; shown after 150 ms only. */
export function Waiting({ rows = 6 }: { rows?: number }) {
    const [isLate, setLate] = useState(false);
    useEffect(() => {
        const timer = setTimeout(() => setLate(true), 150);
        return () => clearTimeout(timer);
    }, []);
    if (!isLate) return <div class="waiting" />;
    return (
        <div class="waiting" role="status">
            <span class="visually-hidden">Loading</span>
            {Array.from({ length: rows }, (_, index) => (
                <div class="waiting-row" key={index} />
            ))}
        </div>
    );
}

/** The navigation after which a heading got the focus: it may come later than the navigation, with its data. */
let focusedAfter = 0;

/** The heading of a page; it gets the focus after a navigation. */
export function Heading({ title, children, tab }: { title: string; children?: ComponentChildren; tab?: string }) {
    const heading = useRef<HTMLHeadingElement>(null);
    useEffect(() => {
        if (navigations.value === focusedAfter) return;
        focusedAfter = navigations.value;
        heading.current?.focus({ preventScroll: true });
    }, [navigations.value]);
    useEffect(() => {
        document.title = `${tab ? `${tab} · ` : ""}${title} · Holdfast`;
    }, [title, tab]);
    return (
        <div class="heading">
            <h1 tabIndex={-1} ref={heading}>
                {title}
            </h1>
            {children}
        </div>
    );
}

/** The first sentence of a page: the answer to its question. */
export function Lead({ children }: { children: ComponentChildren }) {
    return <p class="lead">{children}</p>;
}

export interface Ask {
    title: string;
    /** The consequences of the action. */
    body: ComponentChildren;
    /** The word on the button. */
    verb: string;
    /** The command that does the same. */
    command?: string | undefined;
    isDestructive?: boolean;
    /** A text that must be typed first. */
    typed?: string;
    /** Carries it out; the returned sentence is shown, and an error stays in the dialog. */
    act: () => Promise<string>;
}

const asked = signal<Ask | null>(null);

/** Asks before something changes. */
export function ask(question: Ask) {
    asked.value = question;
}

const notice = signal<{ text: string; id: number } | null>(null);

/** One sentence about what just happened. */
export function say(text: string) {
    const id = (notice.value?.id ?? 0) + 1;
    notice.value = { text, id };
    setTimeout(() => {
        if (notice.value?.id === id) notice.value = null;
    }, 6000);
}

export function Notices() {
    return (
        <div class="notices" role="status" aria-live="polite">
            {notice.value && <p class="notice">{notice.value.text}</p>}
        </div>
    );
}

export function Dialogs() {
    const question = asked.value;
    return question ? <AskDialog key={question.title} question={question} /> : null;
}

function AskDialog({ question }: { question: Ask }) {
    const dialog = useRef<HTMLDialogElement>(null);
    const [isBusy, setBusy] = useState(false);
    const [problem, setProblem] = useState<Problem | null>(null);
    const [typed, setTyped] = useState("");
    const id = useId();
    useEffect(() => {
        const before = document.activeElement as HTMLElement | null;
        dialog.current?.showModal();
        return () => before?.focus();
    }, []);
    const close = () => (asked.value = null);
    const act = async (event: Event) => {
        event.preventDefault();
        setBusy(true);
        setProblem(null);
        try {
            const done = await question.act();
            close();
            say(done);
            changed();
        } catch (error) {
            setBusy(false);
            setProblem(error instanceof Problem ? error : new Problem(0, "page_error", "The page failed.", String(error), "", "", ""));
        }
    };
    const isReady = question.typed === undefined || typed === question.typed;
    return (
        <dialog ref={dialog} aria-labelledby={`${id}-title`} onClose={close} onCancel={close}>
            <form onSubmit={act}>
                <h2 id={`${id}-title`}>{question.title}</h2>
                <div class="dialog-body">{question.body}</div>
                {question.typed !== undefined && (
                    <label class="field">
                        <span>
                            Type <code>{question.typed}</code> to confirm
                        </span>
                        <input value={typed} onInput={(event) => setTyped(event.currentTarget.value)} autocomplete="off" spellcheck={false} />
                    </label>
                )}
                {question.command && <Command text={question.command} />}
                {problem && <ProblemBox problem={problem} />}
                <div class="dialog-buttons">
                    <button type="button" onClick={close} autofocus={question.isDestructive === true && question.typed === undefined}>
                        Close
                    </button>
                    <button type="submit" class={question.isDestructive ? "danger" : "primary"} disabled={isBusy || !isReady} autofocus={!question.isDestructive}>
                        {isBusy ? "Sending…" : question.verb}
                    </button>
                </div>
            </form>
        </dialog>
    );
}

/** The command that does the same, to be copied. */
export function Command({ text, label = "The same in a terminal" }: { text: string; label?: string }) {
    return (
        <div class="command">
            <span class="quiet">{label}</span>
            <code>{text}</code>
            <button type="button" class="small" onClick={() => copy(text, "The command was copied.")}>
                Copy
            </button>
        </div>
    );
}

/** Copies a text; pages without a secure origin have no clipboard, so a selection does it there. */
export async function copy(text: string, done: string) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const area = document.createElement("textarea");
        area.value = text;
        area.className = "visually-hidden";
        (document.querySelector("dialog[open]") ?? document.body).append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
    }
    say(done);
}

/** A link to a part of the page, in a row of them. */
export function Facts({ children }: { children: ComponentChildren }) {
    return <dl class="facts">{children}</dl>;
}

export function Fact({ name, children, isWide = false }: { name: string; children: ComponentChildren; isWide?: boolean }) {
    return (
        <div class={isWide ? "wide" : ""}>
            <dt>{name}</dt>
            <dd>{children}</dd>
        </div>
    );
}

export const shortVersion = (version: string | null | undefined) => (version ? version.slice(0, 8) : "–");

/** The party that has to act on a problem. */
export function action(fault: "user" | "platform", retriesAt?: string | null): string {
    if (fault === "user") return "Action: you";
    return retriesAt ? `Action: none (retrying ${relative(retriesAt)})` : "Action: platform";
}
