import { execFileSync } from "node:child_process";
import { call, createJob, jobPath, start } from "./service";
import { expect, largeUrl, open, rows, test, url } from "./page";

test("rows appear while the answer with the total is held back", async ({ page }) => {
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    await page.route("**/data-jobs/graphql", async (route) => {
        if (route.request().postData()?.includes("query Total(")) await held;
        await route.continue();
    });
    await open(page, "/jobs");
    await expect(rows(page, "Jobs")).toHaveCount(50);
    await expect(page.locator(".pager")).toContainText("of …");
    release();
    await expect(page.locator(".pager")).toContainText("1–50 of 77");
});

test("typing filters in the service, with one request per pause", async ({ page }) => {
    await open(page, "/jobs");
    await expect(rows(page, "Jobs")).toHaveCount(50);
    const asked: string[] = [];
    page.on("request", (request) => {
        const body = request.postData() ?? "";
        if (body.includes("query Jobs(")) asked.push((JSON.parse(body) as { variables: { search: string } }).variables.search);
    });
    await page.getByRole("searchbox").evaluate((input: HTMLInputElement) => {
        for (const letter of "load-or") {
            input.value += letter;
            input.dispatchEvent(new InputEvent("input", { bubbles: true }));
        }
    });
    await expect(rows(page, "Jobs")).toHaveCount(1);
    await expect(page).toHaveURL(/q=load-or/);
    expect(asked).toEqual(["load-or"]);
});

test("filter, order and page are in the address, and Reload and Back restore them", async ({ page }) => {
    await open(page, "/jobs?sort=-job&size=25");
    const first = rows(page, "Jobs").first().locator("a").first();
    await expect(first).toHaveText("switch-me-two");
    await page.getByRole("button", { name: "Next page" }).click();
    await expect(page).toHaveURL(/page=2/);
    await expect(first).not.toHaveText("switch-me-two");
    const second = await first.textContent();
    await page.reload();
    await expect(first).toHaveText(second!);
    await first.click();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText(second!);
    await page.goBack();
    await expect(first).toHaveText(second!);
    await page.goBack();
    await expect(first).toHaveText("switch-me-two");
    await page.getByRole("button", { name: "filler" }).first().click();
    await expect(page).toHaveURL(/team=filler/);
    await expect(page.locator(".pager")).toContainText("of 70");
    await page.getByRole("button", { name: "Remove the filter team: filler" }).click();
    await expect(page.locator(".pager")).toContainText("of 77");
});

test("the status, the deployment and the last execution filter as they are named", async ({ page }) => {
    await open(page, "/jobs");
    await page.getByRole("combobox", { name: "Deployment" }).selectOption("not_deployed");
    await expect(page.locator(".lead")).toHaveText("71 jobs match.");
    await page.getByRole("combobox", { name: "Deployment" }).selectOption("");
    await page.getByRole("combobox", { name: "Last execution" }).selectOption("user_error");
    await expect(rows(page, "Jobs")).toHaveCount(1);
    await expect(rows(page, "Jobs")).toContainText("load-orders");
    await page.getByRole("searchbox").fill("nothing like this");
    await expect(page.getByText("No job matches.")).toBeVisible();
    await page.getByRole("link", { name: "Clear all filters" }).click();
    await expect(rows(page, "Jobs")).toHaveCount(50);
});

test("a strip shows the last executions with their states in its name", async ({ page }) => {
    await open(page, "/jobs?q=load-orders");
    await expect(page.getByRole("img", { name: /^last 3 executions: 2 succeeded, 1 user error; the latest: user error$/ })).toBeVisible();
});

test("a running execution is shown as running in the list", async ({ page }) => {
    await open(page, "/jobs?q=load-clicks");
    await expect(rows(page, "Jobs").getByText("running")).toBeVisible();
});

test("the action on selected jobs names them and the command, and changes exactly them", async ({ page }) => {
    await open(page, "/jobs?q=switch-me");
    await expect(rows(page, "Jobs")).toHaveCount(2);
    await page.getByLabel("Select all rows of this page").check();
    await page.getByRole("region", { name: "Selected jobs" }).getByRole("button", { name: "Disable" }).click();
    const dialog = page.getByRole("dialog");
    await expect(dialog).toContainText("Disable: 2 jobs?");
    await expect(dialog).toContainText("switch-me-one, switch-me-two");
    await expect(dialog).toContainText("vdk deploy --disable");
    await dialog.getByRole("button", { name: "Disable (2)" }).click();
    await expect(rows(page, "Jobs").getByText("disabled")).toHaveCount(2);
    for (const job of ["switch-me-one", "switch-me-two"]) {
        const read = (await (await call(url(), "GET", `${jobPath("payments", job)}/deployments/production`)).json()) as { enabled: boolean };
        expect(read.enabled).toBe(false);
    }
    const other = (await (await call(url(), "GET", `${jobPath("payments", "load-orders")}/deployments/production`)).json()) as { enabled: boolean };
    expect(other.enabled).toBe(true);
});

test("the command in a dialog does the same as its button", async ({ page }) => {
    const own = await start();
    await createJob(own.url, "web", "by-command", "Is deleted by the command.");
    await open(page, "/jobs/by-command", own.url);
    await page.locator("summary", { hasText: "More" }).click();
    await page.getByRole("button", { name: "Delete the job…" }).click();
    const command = await page.getByRole("dialog").locator(".command code").textContent();
    expect(command).toBe("vdk delete -n by-command -t web");
    const [, ...words] = command!.split(" ");
    execFileSync(process.env["HOLDFAST_TEST_VDK"]!, words, {
        input: "y\n",
        stdio: ["pipe", "pipe", "pipe"],
        env: { PATH: process.env["PATH"], HOME: own.folder, VDK_BASE_CONFIG_FOLDER: own.folder, PYTHONWARNINGS: "ignore", NO_PROXY: "127.0.0.1", VDK_CONTROL_SERVICE_REST_API_URL: own.url },
    });
    expect((await fetch(own.url + jobPath("web", "by-command"))).status).toBe(404);
    await own.stop();
});

test("a rejected action stays in its dialog with the service's four texts", async ({ page }) => {
    await open(page, "/jobs?q=load-clicks");
    await page.getByLabel("Select load-clicks").check();
    await page.getByRole("region", { name: "Selected jobs" }).getByRole("button", { name: "Run now" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "Run now" }).click();
    await expect(dialog.getByRole("alert")).toContainText("load-clicks");
    await dialog.getByRole("button", { name: "Close" }).click();
    await expect(dialog).toHaveCount(0);
});

test("the palette finds a job by the begin of its name", async ({ page }) => {
    await open(page, "/");
    await page.keyboard.press("Control+K");
    await page.keyboard.type("load-or");
    await expect(page.getByRole("option", { name: /load-orders/ })).toBeVisible();
    await page.keyboard.press("Enter");
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("load-orders");
});

test("at 3,000 jobs the list holds at most 1,500 nodes, and comes in at most 8 requests and 146 KB", async ({ page }) => {
    const cold = { requests: 0, bytes: 0 };
    let isCounting = true;
    page.on("request", (request) => {
        if (isCounting) cold.requests++;
        if (request.postData()?.includes("query Jobs(")) isCounting = false;
    });
    page.on("requestfinished", (request) => {
        void request.sizes().then((sizes) => (cold.bytes += new URL(request.url()).pathname.startsWith("/ui") ? sizes.responseBodySize : 0));
    });
    await open(page, "/jobs", largeUrl());
    await expect(rows(page, "Jobs")).toHaveCount(50);
    await page.waitForLoadState("networkidle");
    expect(cold.requests).toBeLessThanOrEqual(8);
    expect(cold.bytes).toBeGreaterThan(50_000);
    expect(cold.bytes).toBeLessThanOrEqual(146 * 1024);
    await expect(page.locator("svg.strip")).toHaveCount(50);
    await expect(page.locator(".pager")).toContainText("1–50 of 3,000");
    expect(await page.evaluate(() => document.querySelectorAll("*").length)).toBeLessThanOrEqual(1500);
});

test("a lost connection is said, the last data stays, and the page recovers without a reload", async ({ page, context }) => {
    await open(page, "/jobs/load-orders");
    await expect(page.getByRole("table", { name: "Last executions" })).toBeVisible();
    await context.setOffline(true);
    await expect(page.getByText("No connection since")).toBeVisible({ timeout: 20_000 });
    await expect(page.getByRole("table", { name: "Last executions" })).toBeVisible();
    await context.setOffline(false);
    await expect(page.getByText("No connection since")).toHaveCount(0, { timeout: 15_000 });
});
