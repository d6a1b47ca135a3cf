import { resolve } from "node:path";
import AxeBuilder from "@axe-core/playwright";
import type { Page } from "@playwright/test";
import { emptyUrl, expect, failedRun, largeUrl, open, test, url } from "./page";

const PAGES: [string, string, () => string][] = [
    ["overview", "/", url],
    ["overview of nothing", "/", emptyUrl],
    ["overview of many", "/", largeUrl],
    ["jobs", "/jobs", url],
    ["jobs without one", "/jobs", emptyUrl],
    ["jobs that don't match", "/jobs?q=zzz", url],
    ["executions", "/executions", url],
    ["deployments", "/deployments", url],
    ["help", "/help", url],
    ["deleted jobs", "/deleted?team=web", url],
    ["a job", "/jobs/load-orders", url],
    ["a job that is not deployed", "/jobs/mart-daily", url],
    ["a deployment", "/jobs/load-orders/deployment/1...2", url],
    ["a schedule", "/jobs/load-orders/schedule", url],
    ["a configuration", "/jobs/load-orders/configuration", url],
    ["a history", "/jobs/load-orders/history", url],
    ["an unknown execution", "/jobs/load-orders/executions/none-1", url],
];

for (const theme of ["light", "dark"] as const) {
    test(`axe finds no violation on any page in the ${theme} theme`, async ({ page }) => {
        test.setTimeout(120_000);
        await page.emulateMedia({ colorScheme: theme });
        const all: [string, string, () => string][] = [...PAGES, ["an execution", `/jobs/load-orders/executions/${failedRun()}`, url]];
        for (const [name, path, base] of all) {
            await open(page, path, base());
            await page.waitForLoadState("networkidle");
            const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
            expect(found.violations.map((violation) => `${name}: ${violation.id} at ${violation.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ")}`)).toEqual([]);
        }
        await open(page, "/jobs/load-orders");
        await page.getByRole("button", { name: "Run now" }).click();
        const dialog = await new AxeBuilder({ page }).include("dialog").analyze();
        expect(dialog.violations.map((violation) => violation.id)).toEqual([]);
    });
}

test("nothing is cut off at 320 pixels, and targets are at least 24 pixels high", async ({ page }) => {
    await page.setViewportSize({ width: 320, height: 800 });
    for (const [name, path, base] of PAGES) {
        await open(page, path, base());
        await page.waitForLoadState("networkidle");
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        expect(wide, `${name} is wider than the window`).toBeLessThanOrEqual(0);
        const small = await page.evaluate(() =>
            [...document.querySelectorAll("button, select, summary, .head a, .tabs a, input")]
                .filter((element) => element.checkVisibility() && element.closest(".visually-hidden, .skip") === null)
                .map((element) => [element.getBoundingClientRect(), element.outerHTML.slice(0, 80)] as const)
                .filter(([box]) => box.width > 0 && box.height < 23.5)
                .map(([, html]) => html),
        );
        expect(small, name).toEqual([]);
    }
});

test("a failing job is found and rolled back by keyboard only", async ({ page }) => {
    await open(page, "/");
    await page.keyboard.press("g");
    await page.keyboard.press("j");
    await expect(page.getByRole("heading", { level: 1 })).toBeFocused();
    await page.keyboard.press("/");
    await page.keyboard.type("load-orders");
    await expect(page.getByRole("table", { name: "Jobs" }).locator("tbody tr")).toHaveCount(1);
    await page.getByRole("searchbox").blur();
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("load-orders");
    await expect(page.getByRole("heading", { level: 1 })).toBeFocused();
    await expect(page.getByRole("link", { name: "Why it failed, and what changed" })).toBeVisible();
    await page.getByRole("link", { name: "Why it failed, and what changed" }).focus();
    await page.keyboard.press("Enter");
    await expect(page.getByRole("button", { name: /error lines/ })).toBeEnabled();
    await page.keyboard.press("e");
    await page.getByRole("link", { name: "what changed" }).focus();
    await page.keyboard.press("Enter");
    const back = page.getByRole("button", { name: "Roll back…" });
    await expect(back).toBeVisible();
    await back.focus();
    await page.keyboard.press("Enter");
    await expect(page.getByRole("dialog").getByRole("row", { name: /memory limit/ })).toBeVisible();
    await page.keyboard.press("Escape");
    await expect(page.getByRole("dialog")).toHaveCount(0);
});

/** Presses Tab until the focus is on a button of this name. */
async function tabTo(page: Page, name: string) {
    for (let presses = 0; presses < 60; presses++) {
        await page.keyboard.press("Tab");
        if ((await page.evaluate(() => document.activeElement?.textContent)) === name) return;
    }
    throw new Error(`Tab reaches no ${name}`);
}

test("a schedule is disabled and enabled by keyboard only", async ({ page }) => {
    await open(page, "/");
    await page.keyboard.press("Control+K");
    await page.keyboard.type("long-log");
    await expect(page.getByRole("option", { name: /long-log-job/ })).toBeVisible();
    await page.keyboard.press("Enter");
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("long-log-job");
    for (const [action, state] of [["Disable", "disabled"], ["Enable", "enabled"]] as const) {
        await tabTo(page, action);
        await page.keyboard.press("Enter");
        await expect(page.getByRole("dialog")).toContainText(`${action} long-log-job?`);
        await page.keyboard.press("Enter");
        await expect(page.locator(".heading .state").first()).toHaveText(state);
    }
});

test("single keys do nothing in inputs, and nothing once they are switched off", async ({ page }) => {
    await open(page, "/jobs");
    await page.getByRole("searchbox").focus();
    await page.keyboard.type("?gj");
    await expect(page.getByRole("searchbox")).toHaveValue("?gj");
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Jobs");
    await open(page, "/help");
    await page.getByLabel("Use keys of a single letter").uncheck();
    await page.getByRole("heading", { level: 1 }).click();
    await page.keyboard.press("g");
    await page.keyboard.press("j");
    await page.waitForTimeout(200);
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Help");
});

test("without motion nothing moves, and every state has a shape of its own", async ({ page }) => {
    await page.emulateMedia({ reducedMotion: "reduce" });
    await open(page, "/help");
    expect(await page.evaluate(() => [...document.querySelectorAll("*")].filter((element) => getComputedStyle(element).transitionDuration !== "0s").length)).toBe(0);
    const shapes = await page.locator(".pairs .state path").evaluateAll((paths) => paths.map((path) => path.getAttribute("d")));
    expect(shapes.length).toBe(7);
    expect(new Set(shapes).size).toBe(7);
});

const folder = process.env["HOLDFAST_TEST_SCREENSHOTS"];
test("pictures of the pages for the documents", async ({ page }) => {
    test.skip(!folder, "only with HOLDFAST_TEST_SCREENSHOTS, which names their folder");
    await page.setViewportSize({ width: 1280, height: 800 });
    const pictures: [string, string, () => string][] = [
        ["overview", "/", url],
        ["jobs", "/jobs", largeUrl],
        ["job", "/jobs/load-orders", url],
        ["execution", `/jobs/load-orders/executions/${failedRun()}`, url],
        ["deployment", "/jobs/load-orders/deployment/1...2", url],
        ["deployments", "/deployments", largeUrl],
    ];
    for (const [name, path, base] of pictures) {
        await open(page, path, base());
        await page.waitForLoadState("networkidle");
        // The tests run in the folder of the page.
        await page.screenshot({ path: resolve("..", folder!, `page-${name}.png`) });
    }
});
