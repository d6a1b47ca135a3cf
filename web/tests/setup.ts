// One service with a few real jobs for all tests, and one with 3,000 jobs.
import { cancel, createJob, deploy, fill, run, start, temporary } from "./service";

const OK = `import logging
log = logging.getLogger(__name__)
def run(job_input):
    for i in range(20):
        log.info("Reading orders, part %d", i)
`;

/** The output of an attacker: markup, a color, another terminal's title, and a line that reads backwards. */
const HOSTILE = `import logging
log = logging.getLogger(__name__)
def run(job_input):
    print("<img src=x onerror=\\"window.hacked = 1\\">")
    print("\\x1b[31mred words\\x1b[0m \\x1b]0;title\\x07after")
    print("safe \\u202e reversed")
    log.warning("The VAT table is from yesterday")
    {}["vat"]
`;

const LONG = `def run(job_input):
    print("\\n".join(f"row {i} of many" for i in range(30000)))
`;

const SLOW = `import time
def run(job_input):
    for i in range(2400):
        print("batch", i, flush=True)
        time.sleep(0.25)
`;

export default async function setup() {
    const service = await start();
    const url = service.url;
    await createJob(url, "payments", "load-orders", "Loads the orders of the shop.", "*/30 * * * *");
    await createJob(url, "web", "load-clicks", "Clicks of the website.", "15 * * * *");
    await createJob(url, "web", "long-log-job", "Prints 30,000 lines.");
    await createJob(url, "payments", "mart-daily", '<img src=x onerror="window.hacked = 2"> Daily figures.', "0 2 * * *");
    await createJob(url, "payments", "roll-back-me", "Is rolled back.");
    await createJob(url, "payments", "switch-me-one", "Is switched.", "0 3 * * *");
    await createJob(url, "payments", "switch-me-two", "Is switched.", "0 3 * * *");
    for (let number = 0; number < 70; number++) await createJob(url, "filler", `filler-job-${String(number).padStart(2, "0")}`, "Fills pages.");
    const orders = async () => {
        await deploy(url, "payments", "load-orders", { "20_load.py": OK }, { enabled: true });
        await run(url, "payments", "load-orders");
        await run(url, "payments", "load-orders");
        await deploy(url, "payments", "load-orders", { "20_load.py": HOSTILE }, { resources: { memory_limit: 512 } });
        process.env["FAILED_RUN"] = await run(url, "payments", "load-orders");
    };
    const others = async () => {
        await deploy(url, "web", "load-clicks", { "10_load.py": SLOW }, { enabled: true });
        process.env["ACTIVE_RUN"] = await run(url, "web", "load-clicks", false);
        await deploy(url, "web", "long-log-job", { "10_print.py": LONG }, { enabled: true });
        process.env["LONG_RUN"] = await run(url, "web", "long-log-job");
        await deploy(url, "payments", "roll-back-me", { "10_load.py": OK }, { enabled: true });
        await deploy(url, "payments", "roll-back-me", { "10_load.py": `${OK}# another\n` }, { resources: { memory_limit: 300 } });
        for (const job of ["switch-me-one", "switch-me-two"]) await deploy(url, "payments", job, { "10_load.py": OK }, { enabled: true });
    };
    await Promise.all([orders(), others()]);
    const folder = temporary();
    fill(folder, 3000, 20);
    const large = await start({}, folder);
    const empty = await start();
    process.env["PAGE_URL"] = url;
    process.env["LARGE_URL"] = large.url;
    process.env["EMPTY_URL"] = empty.url;
    return async () => {
        // An execution survives its service, so it is ended first.
        await cancel(url, "web", "load-clicks", process.env["ACTIVE_RUN"]!);
        await Promise.all([service.stop(), large.stop(), empty.stop()]);
    };
}
