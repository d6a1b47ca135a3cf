// The frame of the page: navigation, state of the connection, and the page of the present address.
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { connection } from "./api";
import { useRead } from "./data";
import { now, time, zone, zoneName } from "./format";
import { startKeys, useKeys } from "./keys";
import { Dialogs, Heading, Notices } from "./kit";
import { remembered } from "./memory";
import { DeletedPage } from "./pages/deleted";
import { DeploymentsPage } from "./pages/deployments";
import { ExecutionPage } from "./pages/execution";
import { ExecutionsPage } from "./pages/executions";
import { HelpPage } from "./pages/help";
import { JobPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { OverviewPage } from "./pages/overview";
import { openPalette, Palette } from "./palette";
import { Link, match, navigate, place, startRouter } from "./router";

type Theme = "system" | "light" | "dark";
const THEMES: Theme[] = ["system", "light", "dark"];
const theme = remembered<Theme>("theme", "system", (value) => THEMES.includes(value as Theme));
theme.subscribe((value) => {
    if (value === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = value;
});

const NAVIGATION: [string, string][] = [
    ["/", "Overview"],
    ["/jobs", "Jobs"],
    ["/executions", "Executions"],
    ["/deployments", "Deployments"],
];

function page(path: string) {
    if (path === "/") return <OverviewPage />;
    if (path === "/jobs") return <JobsPage />;
    if (path === "/executions") return <ExecutionsPage />;
    if (path === "/deployments") return <DeploymentsPage />;
    if (path === "/deleted") return <DeletedPage />;
    if (path === "/help") return <HelpPage />;
    const run = match("/jobs/:job/executions/:id", path);
    if (run) return <ExecutionPage key={path} job={run["job"]!} id={run["id"]!} />;
    const diff = match("/jobs/:job/deployment/:diff", path);
    if (diff) return <JobPage key={diff["job"]!} name={diff["job"]!} tab="deployment" diff={diff["diff"]!} />;
    const tab = match("/jobs/:job/:tab", path);
    if (tab && ["executions", "schedule", "deployment", "configuration", "history"].includes(tab["tab"]!)) return <JobPage key={tab["job"]!} name={tab["job"]!} tab={tab["tab"]!} />;
    const job = match("/jobs/:job", path);
    if (job) return <JobPage key={job["job"]!} name={job["job"]!} tab="overview" />;
    return (
        <>
            <Heading title="Page not found" />
            <p>
                There is no page at this address. <Link to="/">Open the overview</Link> or <Link to="/jobs">the jobs</Link>.
            </p>
        </>
    );
}

/** The content of every page while the service can't be used. */
function Unusable() {
    const state = connection.value.state;
    useEffect(() => {
        if (state !== "starting") return;
        const timer = setInterval(async () => {
            const ready = await fetch("/readyz", { cache: "no-store" }).catch(() => null);
            if (ready?.ok) connection.value = { state: "ok" };
        }, 1000);
        return () => clearInterval(timer);
    }, [state]);
    if (state === "starting") {
        return (
            <>
                <Heading title="The service is starting" />
                <p class="lead">The service waits for its database. This page continues automatically once the database answers.</p>
                <p>
                    If this takes longer than a minute: <a href="/readyz">/readyz</a> names the missing component, and the log of the service has the reason.
                </p>
            </>
        );
    }
    return (
        <>
            <Heading title="Sign-in is not available" />
            <p class="lead">This service demands an access token for each request, and the web page can't sign in yet.</p>
            <p>The page never asks for a token, because scripts of a page must not see one. Until it has a sign-in of its own, use the service with:</p>
            <ul>
                <li>
                    the <code>vdk</code> command, after <code>vdk login</code>
                </li>
                <li>
                    the <a href="/data-jobs/swagger-ui.html">API</a>, with the header <code>Authorization: Bearer</code>
                </li>
            </ul>
        </>
    );
}

function Banner() {
    const state = connection.value;
    now.value;
    if (state.state !== "lost") return null;
    return (
        <p class="banner" role="status">
            No connection since {time(state.since, true)}. The page shows the last known state and tries again.
        </p>
    );
}

function Head() {
    const path = place.value.path;
    const isHere = (to: string) => (to === "/" ? path === "/" : path === to || path.startsWith(`${to}/`));
    return (
        <header class="head">
            <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.querySelector<HTMLElement>("h1")?.focus())}>
                Skip to the content
            </a>
            <Link to="/" class="brand" aria-label="Holdfast, overview">
                <img src="/ui/assets/icon.svg" alt="" width={20} height={20} />
                <span>Holdfast</span>
            </Link>
            <nav aria-label="Pages">
                {NAVIGATION.map(([to, name]) => (
                    <Link key={to} to={to} {...(isHere(to) ? { "aria-current": "page" as const } : {})}>
                        {name}
                    </Link>
                ))}
            </nav>
            <div class="head-tools">
                <button type="button" class="find" onClick={openPalette} aria-keyshortcuts="Control+K">
                    Find <kbd>Ctrl K</kbd>
                </button>
                <span class="choice">
                    <select aria-label="Time zone" value={zone.value} onChange={(event) => (zone.value = event.currentTarget.value as typeof zone.value)}>
                        <option value="UTC">UTC</option>
                        <option value="local">{Intl.DateTimeFormat().resolvedOptions().timeZone === "UTC" ? "Local time (UTC)" : Intl.DateTimeFormat().resolvedOptions().timeZone}</option>
                    </select>
                </span>
                <span class="choice">
                    <select aria-label="Theme" value={theme.value} onChange={(event) => (theme.value = event.currentTarget.value as Theme)}>
                        <option value="system">System</option>
                        <option value="light">Light</option>
                        <option value="dark">Dark</option>
                    </select>
                </span>
                <Link to="/help">Help</Link>
            </div>
        </header>
    );
}

function Foot() {
    const info = useRead("info", (signal) => fetch("/data-jobs/for-team/default/info", { signal }).then((r) => (r.ok ? (r.json() as Promise<{ api_version: string }>) : { api_version: "" })), null);
    return (
        <footer class="foot">
            <span>
                Holdfast {info.data?.api_version} · times in {zoneName()}
            </span>
            <span>
                <a href="/data-jobs/swagger-ui.html">API</a> <a href="/data-jobs/graphql">GraphQL</a> <a href="/readyz">Readiness</a>
            </span>
            <span class="quiet">Authentication is off: everyone who reaches this address may do everything.</span>
        </footer>
    );
}

function App() {
    const isUsable = connection.value.state === "ok" || connection.value.state === "lost";
    const path = place.value.path;
    useKeys({
        palette: openPalette,
        "?": () => navigate("/help"),
        "g o": () => navigate("/"),
        "g j": () => navigate("/jobs"),
        "g e": () => navigate("/executions"),
        "g d": () => navigate("/deployments"),
        "/": () => document.querySelector<HTMLInputElement>("input[type=search]")?.focus(),
        j: () => step(1),
        k: () => step(-1),
    });
    return (
        <>
            <Head />
            <Banner />
            <main id="main">{isUsable ? page(path) : <Unusable />}</main>
            {isUsable && <Foot />}
            <Palette />
            <Dialogs />
            <Notices />
        </>
    );
}

/** Moves the focus to the link of the next or previous row. */
function step(by: 1 | -1) {
    const links = [...document.querySelectorAll<HTMLElement>("main tbody tr a.row-link")];
    const at = links.findIndex((link) => link === document.activeElement);
    (links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by] ?? links[at])?.focus();
}

/** Closes open menus after a choice, a click elsewhere, or Escape. */
function closeMenus(event: Event) {
    const target = event.target as Element | null;
    for (const menu of document.querySelectorAll<HTMLDetailsElement>("details.menu[open]")) {
        if (event instanceof KeyboardEvent) {
            if (event.key !== "Escape") return;
            menu.querySelector("summary")?.focus();
        } else if (menu.contains(target) && !target?.closest(".item")) continue;
        menu.open = false;
    }
}
document.addEventListener("click", closeMenus);
document.addEventListener("keydown", closeMenus);

setInterval(() => {
    if (document.visibilityState === "visible") now.value = Date.now();
}, 1000);
startRouter();
startKeys();
render(<App />, document.getElementById("app")!);
