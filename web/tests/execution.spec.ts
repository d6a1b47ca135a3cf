import { readFileSync } from "node:fs";
import { call, createJob, jobPath, run, start } from "./service";
import { activeRun, expect, failedRun, longRun, open, test, url } from "./page";

const failed = () => `/jobs/load-orders/executions/${failedRun()}`;

test("a failed execution says why, who has to act, the line of the cause, and what changed since the last success", async ({ page }) => {
    await open(page, failed());
    const why = page.getByRole("region", { name: "Why it failed" });
    await expect(why).toContainText("A step of the job failed and the run ended with exit code 1.");
    await expect(why).toContainText("Action: you");
    await expect(why).toContainText("KeyError: 'vat'");
    await expect(why).toContainText("at revision 1. Since then: revision 2");
    await expect(why).toContainText("memory limit default → 512 Mi");
    await why.getByRole("link", { name: /^Line \d+$/ }).click();
    await expect(page.locator(".log .row.selected")).toContainText("KeyError: 'vat'");
    await why.getByRole("link", { name: "what changed" }).click();
    const fields = page.getByRole("table", { name: "Fields that differ between revision 1 and 2" });
    await expect(fields.getByRole("row", { name: /memory limit default 512 Mi/ })).toBeVisible();
});

test("a range of lines is in the address, is shown and marked, and its link can be copied", async ({ page, context }) => {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await open(page, `/jobs/long-log-job/executions/${longRun()}#L15000-L15003`);
    await expect(page.locator(".log .row.selected")).toHaveCount(4);
    await expect(page.locator(".log .row.selected").first()).toContainText("15000");
    await page.getByRole("link", { name: "Line 15005", exact: true }).click({ modifiers: ["Shift"] });
    await expect(page.locator(".log .row.selected")).toHaveCount(6);
    await page.keyboard.press("y");
    await expect(page.getByText("The link to these lines was copied.")).toBeVisible();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toMatch(/#L15000-L15005$/);
});

test("a long log opens at its end, and few rows of it exist at any place", async ({ page }) => {
    await open(page, `/jobs/long-log-job/executions/${longRun()}`);
    await expect(page.locator(".log .row", { hasText: "Job execution result" }).last()).toBeVisible();
    const box = page.locator(".log-box");
    for (const share of [0, 0.5, 1]) {
        await box.evaluate((element, share) => (element.scrollTop = share * element.scrollHeight), share);
        await page.waitForTimeout(100);
        expect(await page.evaluate(() => document.querySelectorAll("*").length)).toBeLessThanOrEqual(800);
    }
});

test("find counts the hits of the whole log, continues by key, and is in the address", async ({ page }) => {
    await open(page, `/jobs/long-log-job/executions/${longRun()}`);
    await page.getByRole("searchbox", { name: "Find in the log" }).fill("row 1234");
    await expect(page.locator(".hits")).toHaveText("1 of 11");
    await expect(page.locator(".log .row.hit mark")).toHaveText("row 1234");
    await page.getByRole("heading", { level: 1 }).click();
    await page.keyboard.press("n");
    await expect(page.locator(".hits")).toHaveText("2 of 11");
    await expect(page.locator(".log .row.hit")).toContainText("row 12340");
    await expect(page).toHaveURL(/find=row\+1234/);
    await page.reload();
    await expect(page.locator(".hits")).toContainText("of 11");
});

test("colors of a terminal are shown, other sequences are not, and a character that reverses a line is marked", async ({ page }) => {
    await open(page, `${failed()}?find=words`);
    await expect(page.locator(".log .row", { hasText: "red words" })).toContainText("red words after");
    await page.goto(`${url()}/ui${failed()}`);
    await expect(page.locator(".log .ansi-red", { hasText: "red words" })).toBeAttached();
    await page.goto(`${url()}/ui${failed()}?find=reversed`);
    await expect(page.locator(".log .row .acting")).toHaveText("[U+202E]");
});

test("a running execution is followed, scrolling up stops that, and f goes back to the end", async ({ page }) => {
    await open(page, `/jobs/load-clicks/executions/${activeRun()}`);
    const box = page.locator(".log-box");
    const atEnd = () => box.evaluate((element) => element.scrollTop + element.clientHeight >= element.scrollHeight - 25);
    const last = async () => Number(/batch (\d+)/.exec((await page.locator(".log .row").last().textContent()) ?? "")?.[1] ?? -1);
    await expect.poll(last).toBeGreaterThan(0);
    const before = await last();
    await expect.poll(last).toBeGreaterThan(before);
    expect(await atEnd()).toBe(true);
    await box.evaluate((element) => (element.scrollTop = 0));
    await expect(page.getByRole("button", { name: /\d+ new lines? ↓/ })).toBeVisible();
    expect(await box.evaluate((element) => element.scrollTop)).toBe(0);
    await page.getByRole("heading", { level: 1 }).click();
    await page.keyboard.press("f");
    await expect.poll(atEnd).toBe(true);
});

test("the download is the log of the API, byte for byte", async ({ page }) => {
    await open(page, failed());
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
    const log = (await (await call(url(), "GET", `${jobPath("payments", "load-orders")}/executions/${failedRun()}/logs`)).json()) as { logs: string };
    expect(log.logs).toContain("onerror");
    expect(readFileSync(await download.path(), "utf8")).toBe(log.logs);
});

test("the keys of the brackets change the execution and keep what is searched", async ({ page }) => {
    await open(page, `${failed()}?find=orders`);
    await expect(page.getByRole("button", { name: "‹ Older" })).toBeEnabled();
    await page.getByRole("heading", { level: 1 }).click();
    await page.keyboard.press("[");
    await expect(page.locator(".heading").getByText("succeeded")).toBeVisible();
    await expect(page).toHaveURL(/find=orders/);
    await expect(page.getByRole("button", { name: "Newer ›" })).toBeEnabled();
    await page.keyboard.press("]");
    await expect(page).toHaveURL(new RegExp(failedRun()));
});

test("an execution is started and cancelled, each after a confirmation that shows the command", async ({ page }) => {
    await open(page, "/jobs/long-log-job");
    await page.getByRole("button", { name: "Run now" }).click();
    const dialog = page.getByRole("dialog");
    await expect(dialog).toContainText("vdk execute --start -n long-log-job -t web");
    await dialog.getByRole("button", { name: "Run now" }).click();
    await expect(page).toHaveURL(/\/jobs\/long-log-job\/executions\/long-log-job-\d+$/);
    await expect(page.locator(".heading").getByText("succeeded")).toBeVisible({ timeout: 25_000 });

    const id = await run(url(), "payments", "roll-back-me", true);
    await open(page, `/jobs/roll-back-me/executions/${id}`);
    await expect(page.getByRole("button", { name: "Run again" })).toBeVisible();
});

test("a running execution is cancelled from its page", async ({ page }) => {
    await open(page, "/jobs/load-clicks");
    const cancel = page.getByRole("button", { name: "Cancel execution" });
    await expect(cancel).toBeVisible();
    await cancel.click();
    const dialog = page.getByRole("dialog");
    await expect(dialog).toContainText(`vdk execute --cancel -n load-clicks -t web -i ${activeRun()}`);
    // Others look at this execution: the dialog is closed without a change.
    await page.keyboard.press("Escape");
    await expect(dialog).toHaveCount(0);
    await expect(cancel).toBeFocused();
});

test("a rollback shows what it changes, makes a new revision, and is in the history", async ({ page }) => {
    await open(page, "/jobs/roll-back-me/deployment");
    await page.getByRole("button", { name: "Roll back…" }).click();
    const dialog = page.getByRole("dialog");
    await expect(dialog.getByRole("row", { name: /memory limit 300 Mi default/ })).toBeVisible();
    await dialog.getByRole("button", { name: "Roll back to 1" }).click();
    await expect(page.getByText("Revision 3 is deployed.")).toBeVisible({ timeout: 20_000 });
    await page.getByRole("link", { name: "History" }).click();
    await expect(page.getByRole("row", { name: /rolled back revision 3/ })).toBeVisible();
});

test("a description is edited, and a change by another person in between is not overwritten", async ({ page }) => {
    await open(page, "/jobs/filler-job-03/configuration");
    await page.getByRole("button", { name: "Edit" }).click();
    await page.getByRole("textbox", { name: "Description" }).fill("Counts orders.");
    await page.getByRole("button", { name: "Save" }).click();
    await expect(page.locator("dd", { hasText: "Counts orders." })).toBeVisible();
    await page.getByRole("button", { name: "Edit" }).click();
    const path = jobPath("filler", "filler-job-03");
    const job = (await (await call(url(), "GET", path)).json()) as { description: string };
    await call(url(), "PUT", path, { ...job, description: "By another person." });
    await page.getByRole("textbox", { name: "Description" }).fill("Mine.");
    await page.getByRole("button", { name: "Save" }).click();
    await expect(page.getByRole("dialog").getByRole("alert")).toContainText("Another change came in between.");
    expect(((await (await call(url(), "GET", path)).json()) as { description: string }).description).toBe("By another person.");
});

test("a job is deleted after its name is typed, and undeleted", async ({ page }) => {
    // Of its own service: others count the jobs of the first one.
    const own = await start();
    const job = "gone-and-back";
    await createJob(own.url, "web", job, "Is deleted.");
    await open(page, `/jobs/${job}`, own.url);
    await page.locator("summary", { hasText: "More" }).click();
    await page.getByRole("button", { name: "Delete the job…" }).click();
    const dialog = page.getByRole("dialog");
    await expect(dialog.getByRole("button", { name: "Delete job" })).toBeDisabled();
    await dialog.getByRole("textbox").fill(job);
    await dialog.getByRole("button", { name: "Delete job" }).click();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("Deleted jobs");
    expect((await fetch(own.url + jobPath("web", job))).status).toBe(404);
    await page.getByRole("row", { name: new RegExp(job) }).getByRole("button", { name: "Undelete…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Undelete" }).click();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText(job);
    expect((await fetch(own.url + jobPath("web", job))).status).toBe(200);
    await own.stop();
});

test("the overview groups failures by cause and says who has to act", async ({ page }) => {
    await open(page, "/");
    await expect(page.locator(".lead")).toContainText("the last execution of 1 failed");
    const cause = page.locator(".causes li").first();
    await expect(cause).toContainText("A step of the job failed");
    await expect(cause).toContainText("Action: you");
    await expect(page.getByRole("region", { name: "In progress" }).getByRole("link", { name: "load-clicks" })).toBeVisible();
    await expect(page.getByRole("region", { name: "Next" }).getByRole("link", { name: "load-orders" })).toBeVisible();
});

test("the schedule lists the times to come as the service computes them", async ({ page }) => {
    await open(page, "/jobs/load-orders/schedule");
    await expect(page.locator(".lead")).toContainText("The next execution starts in");
    const coming = page.getByRole("region", { name: "Scheduled times to come" }).locator("time");
    await expect(coming).toHaveCount(20);
    const read = (await (await call(url(), "GET", `${jobPath("payments", "load-orders")}/scheduled-times`)).json()) as { times: string[] };
    const shown = await coming.evaluateAll((times) => times.map((time) => Date.parse((time as HTMLTimeElement).dateTime)));
    expect(shown).toEqual(read.times.map((time) => Date.parse(time)));
    expect(shown[1]! - shown[0]!).toBe(1_800_000);
    await open(page, "/jobs/long-log-job/schedule");
    await expect(page.locator(".lead")).toHaveText("The job has no schedule: it runs on request only.");
});

test("the counts of the deployments equal those of the API", async ({ page }) => {
    await open(page, "/deployments");
    await expect(page.locator(".lead")).toContainText("deployments are rolled out.");
    await expect(page.getByRole("link", { name: /^rolled out/ })).toHaveText(/rolled out6/);
});

test("wrapped lines are whole: none is cut off, and none covers the next one", async ({ page }) => {
    await page.setViewportSize({ width: 600, height: 900 });
    await open(page, failed());
    await expect(page.locator(".log .row").first()).toBeVisible();
    await page.getByRole("button", { name: "Wrap" }).click();
    await expect(page.locator(".log-rows.wrapped .row").first()).toBeVisible();
    const wrong = await page.locator(".log .row").evaluateAll((rows) => {
        const boxes = rows.map((row) => ({ box: row.getBoundingClientRect(), text: row.querySelector(".text")!.scrollHeight, said: row.textContent! }));
        boxes.sort((a, b) => a.box.top - b.box.top);
        return boxes.filter(({ box, text }, index) => text > box.height + 1 || (boxes[index + 1] && Math.abs(boxes[index + 1]!.box.top - box.bottom) > 1)).map(({ said }) => said.slice(0, 60));
    });
    expect(wrong).toEqual([]);
    const heights = await page.locator(".log .row").evaluateAll((rows) => new Set(rows.map((row) => Math.round(row.getBoundingClientRect().height))).size);
    expect(heights).toBeGreaterThan(1);
});
