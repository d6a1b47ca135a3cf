// A page that is watched: whatever a test does, no request leaves the service, and the browser reports no violation.
import { test as base, expect, type Page } from "@playwright/test";

export const url = () => process.env["PAGE_URL"]!;
export const largeUrl = () => process.env["LARGE_URL"]!;
export const emptyUrl = () => process.env["EMPTY_URL"]!;
export const failedRun = () => process.env["FAILED_RUN"]!;
export const activeRun = () => process.env["ACTIVE_RUN"]!;
export const longRun = () => process.env["LONG_RUN"]!;

export const test = base.extend<{ watched: void }>({
    watched: [
        async ({ context }, use) => {
            const wrong: string[] = [];
            context.on("request", (request) => {
                const host = new URL(request.url()).hostname;
                if (/^https?:/.test(request.url()) && host !== "127.0.0.1" && host !== "localhost") wrong.push(`a request to ${request.url()}`);
            });
            context.on("console", (message) => {
                // A frame of another site is refused in a test of its own.
                if (/Content Security Policy|Trusted ?Type/i.test(message.text()) && !message.text().includes("frame-ancestors")) wrong.push(message.text());
            });
            context.on("weberror", (error) => wrong.push(String(error.error().stack)));
            context.on("dialog", (dialog) => wrong.push(`a dialog of the browser: ${dialog.message()}`));
            await use();
            expect(wrong).toEqual([]);
        },
        { auto: true },
    ],
});

export { expect };

export async function open(page: Page, path: string, base = url()) {
    await page.goto(`${base}/ui${path}`);
    await expect(page.locator("h1")).toBeVisible();
}

/** The rows of a table by its name. */
export const rows = (page: Page, table: string) => page.getByRole("table", { name: table, exact: true }).locator("tbody tr");
