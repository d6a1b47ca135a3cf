// Choices of the person that this browser remembers. Nothing secret is among them.
import { signal, type Signal } from "@preact/signals";

const PREFIX = "holdfast.";

/** A value that survives a reload, if the browser has storage. */
export function remembered<T>(name: string, otherwise: T, isValid: (value: unknown) => boolean): Signal<T> {
    let initial = otherwise;
    try {
        const stored = localStorage.getItem(PREFIX + name);
        const value: unknown = stored === null ? undefined : JSON.parse(stored);
        if (isValid(value)) initial = value as T;
    } catch {
        // Storage is off: the choice lasts until the page is closed.
    }
    const remembering = signal<T>(initial);
    let first = true;
    remembering.subscribe((value) => {
        if (first) {
            first = false;
            return;
        }
        try {
            localStorage.setItem(PREFIX + name, JSON.stringify(value));
        } catch {
            // As above.
        }
    });
    return remembering;
}
