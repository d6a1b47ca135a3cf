// The address is the state that a colleague should see: path, query and fragment.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";

export const BASE = "/ui";

export interface Place {
    path: string;
    query: URLSearchParams;
    hash: string;
}

function here(): Place {
    const path = location.pathname.replace(/^\/ui\/?/, "/").replace(/(.)\/$/, "$1");
    return { path, query: new URLSearchParams(location.search), hash: location.hash };
}

export const place = signal<Place>(here());

/** Counts navigations to another path, after which the heading gets the focus. */
export const navigations = signal(0);

const scrolls = new Map<string, number>();
const key = () => (history.state as { key?: string } | null)?.key ?? "first";

function changed(isNew: boolean) {
    const before = place.value.path;
    place.value = here();
    if (before !== place.value.path) {
        navigations.value++;
        if (isNew) window.scrollTo(0, 0);
    }
}

/** Opens an address of the page, such as `/jobs?q=orders`. */
export function navigate(to: string, replace = false) {
    scrolls.set(key(), window.scrollY);
    const url = BASE + (to === "" ? "/" : to);
    const state = { key: replace ? key() : String(Math.random()) };
    if (replace) history.replaceState(state, "", url);
    else history.pushState(state, "", url);
    changed(!replace);
}

/** Changes the query of the present address; `null` and the empty text remove a name. */
export function setQuery(changes: Record<string, string | number | null>, replace = true) {
    const query = new URLSearchParams(place.value.query);
    for (const [name, value] of Object.entries(changes)) {
        if (value === null || value === "") query.delete(name);
        else query.set(name, String(value));
    }
    const text = query.toString();
    navigate(place.value.path + (text ? `?${text}` : "") + place.value.hash, replace);
}

export function startRouter() {
    history.scrollRestoration = "manual";
    window.addEventListener("popstate", () => {
        changed(false);
        const top = scrolls.get(key());
        // The rows come a moment later.
        if (top !== undefined) for (const wait of [0, 80, 250]) setTimeout(() => window.scrollTo(0, top), wait);
    });
    document.addEventListener("click", (event) => {
        if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        const link = (event.target as Element | null)?.closest?.("a");
        if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
        if (link.pathname !== BASE && !link.pathname.startsWith(`${BASE}/`)) return;
        if (link.pathname.startsWith(`${BASE}/assets/`)) return;
        event.preventDefault();
        navigate(link.pathname.slice(BASE.length) + link.search + link.hash);
    });
}

interface LinkProps {
    to: string;
    children: ComponentChildren;
    class?: string;
    "aria-current"?: "page";
    "aria-label"?: string;
}

export function Link({ to, children, ...rest }: LinkProps) {
    return (
        <a href={BASE + to} {...rest}>
            {children}
        </a>
    );
}

/** The parts of the path that a pattern such as `/jobs/:job` names. */
export function match(pattern: string, path: string): Record<string, string> | null {
    const [want, have] = [pattern.split("/"), path.split("/")];
    if (want.length !== have.length) return null;
    const found: Record<string, string> = {};
    for (const [index, part] of want.entries()) {
        const given = have[index]!;
        if (part.startsWith(":")) {
            try {
                found[part.slice(1)] = decodeURIComponent(given);
            } catch {
                return null;
            }
        } else if (part !== given) return null;
    }
    return found;
}
