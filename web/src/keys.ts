// Keys of a single letter: inert in inputs, and off if the person switched them off.
import { useEffect, useRef } from "preact/hooks";
import { remembered } from "./memory";

export const keysAreOn = remembered("keys", true, (value) => typeof value === "boolean");

/** Keys and what they do, for the help page. */
export const shortcuts: [string, string][] = [
    ["Ctrl K", "Find a job or a page"],
    ["/", "Filter or find on this page"],
    ["g o, g j, g e, g d", "Open Overview, Jobs, Executions, Deployments"],
    ["j / k", "Next or previous row of a table"],
    ["Enter", "Open the row"],
    ["[ / ]", "Older or newer execution of the job"],
    ["r", "Run the job"],
    ["?", "Keys and words"],
];

type Keys = Record<string, () => void>;
const stack: Keys[] = [];
let prefix = "";

function isTyping(target: EventTarget | null): boolean {
    const element = target as HTMLElement | null;
    return !!element?.closest?.("input, textarea, select, [contenteditable]") || !!document.querySelector("dialog[open]");
}

export function startKeys() {
    document.addEventListener("keydown", (event) => {
        const isPalette = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k";
        if (!isPalette && (event.ctrlKey || event.metaKey || event.altKey || !keysAreOn.value || isTyping(event.target))) return;
        const name = isPalette ? "palette" : prefix + event.key;
        prefix = "";
        for (const keys of [...stack].reverse()) {
            const act = keys[name];
            if (act) {
                event.preventDefault();
                act();
                return;
            }
        }
        if (name === "g") {
            prefix = "g ";
            setTimeout(() => (prefix = ""), 1000);
        }
    });
}

/** Keys that act while this component is shown. */
export function useKeys(keys: Keys) {
    const latest = useRef<Keys>({});
    Object.assign(latest.current, keys);
    useEffect(() => {
        const mine = new Proxy({} as Keys, { get: (_, name: string) => (name in latest.current ? () => latest.current[name]!() : undefined) });
        stack.push(mine);
        return () => void stack.splice(stack.indexOf(mine), 1);
    }, []);
}
