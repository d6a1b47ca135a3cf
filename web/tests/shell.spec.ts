import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { call, start } from "./service";
import { emptyUrl, expect, failedRun, open, test, url } from "./page";

test("a browser at the root comes to the page, and a client of the API gets what it got before", async ({ page }) => {
    await page.goto(url());
    await expect(page).toHaveURL(`${url()}/ui/`);
    const answer = await fetch(`${url()}/`, { headers: { accept: "application/json" }, redirect: "manual" });
    expect(answer.status).toBe(200);
});

test("every answer below /ui/ carries a policy without exceptions", async ({ page }) => {
    const policies: string[] = [];
    page.on("response", (response) => {
        if (new URL(response.url()).pathname.startsWith("/ui")) policies.push(response.headers()["content-security-policy"] ?? `none at ${response.url()}`);
    });
    await open(page, "/jobs");
    expect(policies.length).toBeGreaterThan(3);
    for (const policy of policies) {
        expect(policy).toContain("default-src 'none'");
        expect(policy).toContain("trusted-types 'none'");
        expect(policy).not.toContain("unsafe");
    }
});

test("markup in a log line and in a description is shown as text and runs nothing", async ({ page }) => {
    await open(page, `/jobs/load-orders/executions/${failedRun()}?find=onerror`);
    await expect(page.locator(".log .row", { hasText: "<img src=x onerror=" })).toBeVisible();
    await open(page, "/jobs/mart-daily");
    await expect(page.locator(".description")).toContainText('<img src=x onerror="window.hacked = 2">');
    expect(await page.evaluate(() => [document.querySelectorAll("img[src=x]").length, (window as { hacked?: number }).hacked ?? 0])).toEqual([0, 0]);
});

test("a second visit transfers less than 10 KB of files", async ({ page }) => {
    await open(page, "/help");
    let transferred = 0;
    page.on("response", (response) => {
        if (new URL(response.url()).pathname.startsWith("/ui")) void response.request().sizes().then((sizes) => (transferred += sizes.responseBodySize + sizes.responseHeadersSize), () => undefined);
    });
    await open(page, "/help");
    expect(transferred).toBeLessThan(10_000);
});

test("without JavaScript the page names five other addresses", async ({ browser }) => {
    const context = await browser.newContext({ javaScriptEnabled: false });
    const page = await context.newPage();
    await page.goto(`${url()}/ui/jobs`);
    await expect(page.locator("noscript a")).toHaveCount(5);
    await context.close();
});

const PLACES: [string, string][] = [
    ["/", "Overview"],
    ["/jobs", "Jobs"],
    ["/executions", "Executions"],
    ["/deployments", "Deployments"],
    ["/help", "Help"],
    ["/deleted?team=web", "Deleted jobs"],
    ["/jobs/load-orders", "load-orders"],
    ["/jobs/load-orders/executions", "load-orders"],
    ["/jobs/load-orders/schedule", "load-orders"],
    ["/jobs/load-orders/deployment", "load-orders"],
    ["/jobs/load-orders/deployment/1...2", "load-orders"],
    ["/jobs/load-orders/configuration", "load-orders"],
    ["/jobs/load-orders/history", "load-orders"],
    ["/jobs/no-such-job", "Job not found"],
    ["/nowhere", "Page not found"],
];

test("a link to each page opens it, with its title", async ({ page }) => {
    for (const [path, heading] of PLACES) {
        await page.goto(`${url()}/ui${path}`);
        await expect(page.getByRole("heading", { level: 1 })).toHaveText(heading);
        await expect(page).toHaveTitle(new RegExp(`${heading} · Holdfast$`));
    }
});

test("an address of upstream's operations UI leads to the same job and the same filter", async ({ page }) => {
    await page.goto(`${url()}/manage/data-jobs?search=load&teamName=web`);
    await expect(page).toHaveURL(`${url()}/ui/jobs?q=load&team=web`);
    await expect(page.getByRole("link", { name: "load-clicks" })).toBeVisible();
    await expect(page.getByRole("link", { name: "load-orders" })).toHaveCount(0);
    await page.goto(`${url()}/explore/data-jobs/payments/load-orders/details`);
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("load-orders");
});

test("a link on a page of another site opens the page, and a frame of another site stays empty", async ({ page }) => {
    const target = url().replace("127.0.0.1", "localhost");
    const other = createServer((_, response) => {
        response.writeHead(200, { "content-type": "text/html" });
        response.end(`<a href="${target}/ui/jobs">jobs</a><iframe src="${target}/ui/jobs"></iframe>`);
    }).listen(0, "127.0.0.1");
    await once(other, "listening");
    await page.goto(`http://127.0.0.1:${(other.address() as AddressInfo).port}/`);
    await page.waitForTimeout(300);
    // The frame has an error in place of the page.
    expect(await page.frames()[1]!.locator("#app").count()).toBe(0);
    await page.getByRole("link", { name: "jobs" }).click();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Jobs");
    other.close();
});

test("the browser keeps choices of the person and nothing of the service", async ({ page }) => {
    await open(page, "/jobs");
    await page.getByRole("combobox", { name: "Theme" }).selectOption("dark");
    expect(await page.evaluate(() => [Object.keys(localStorage), document.cookie])).toEqual([["holdfast.theme"], ""]);
    await page.reload();
    await expect(page.locator("html")).toHaveAttribute("data-theme", "dark");
});

test("two builds of the page give the same bytes", () => {
    const folders = [1, 2].map(() => mkdtempSync(join(tmpdir(), "holdfast-build-")));
    for (const folder of folders) execFileSync(process.execPath, ["build.mjs", folder], { stdio: "pipe" });
    const [one, two] = folders.map((folder) => readdirSync(folder).map((name) => [name, readFileSync(join(folder, name)).toString("base64")]));
    expect(one!.length).toBeGreaterThan(5);
    expect(one).toEqual(two);
    for (const folder of folders) rmSync(folder, { recursive: true });
});

test("a service that waits for its database reports that, and the page continues automatically", async ({ page }) => {
    const free = createServer().listen(0, "127.0.0.1");
    await once(free, "listening");
    const port = (free.address() as AddressInfo).port;
    await new Promise((resolve) => free.close(resolve));
    const listen = `127.0.0.1:${port}`;
    const waiting = await start({ HOLDFAST_LISTEN: listen, HOLDFAST_DATABASE_URL: "postgres://nobody@127.0.0.1:1/none" }, undefined, false);
    await page.goto(`http://${listen}/`);
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("The service is starting");
    await expect(page.locator(".lead")).toContainText("waits for its database");
    await waiting.stop();
    const ready = await start({ HOLDFAST_LISTEN: listen });
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Overview");
    await ready.stop();
});

test("with authentication on the page says that it can't be used, and why", async ({ page }) => {
    const service = await start({ HOLDFAST_AUTH_ISSUERS: "https://id.example.com" });
    await page.goto(`${service.url}/ui/jobs`);
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Sign-in is not available");
    await expect(page.locator(".lead")).toContainText("demands an access token");
    await service.stop();
});

test("where authentication is off, the page says so", async ({ page }) => {
    await open(page, "/");
    await expect(page.getByText("Authentication is off")).toBeVisible();
});

test("an empty service shows how to create the first job, which then appears automatically", async ({ page }) => {
    await open(page, "/jobs", emptyUrl());
    await expect(page.getByText("There is no job yet.")).toBeVisible();
    await expect(page.locator("pre")).toContainText(`VDK_CONTROL_SERVICE_REST_API_URL=${emptyUrl()}`);
    await expect(page.locator("pre")).toContainText("vdk create");
    const own = await start();
    await open(page, "/jobs", own.url);
    await call(own.url, "POST", "/data-jobs/for-team/web/jobs", { job_name: "my-first-job", team: "web" });
    await expect(page.getByRole("link", { name: "my-first-job" })).toBeVisible({ timeout: 20_000 });
    await own.stop();
});
