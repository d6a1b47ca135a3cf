// The deleted jobs of a team, which can be undeleted for some days.
import { useEffect, useState } from "preact/hooks";
import { get, send } from "../api";
import { problemOf, useDebounced, useRead } from "../data";
import { plural } from "../format";
import { ask, Heading, Lead, ProblemBox, Time, Waiting } from "../kit";
import { navigate, place, setQuery } from "../router";
import { Table, type Column } from "../table";

interface DeletedJob {
    job_name: string;
    team: string;
    description: string;
    deleted_date: string;
    deleted_by: string | null;
    revision: number | null;
}

const readDeleted = async (team: string, signal: AbortSignal) => (await get<{ jobs: DeletedJob[] }>(`/data-jobs/for-team/${encodeURIComponent(team)}/deleted-jobs?limit=100`, signal)).jobs;

function askUndelete(job: DeletedJob) {
    const path = `/data-jobs/for-team/${encodeURIComponent(job.team)}/jobs/${encodeURIComponent(job.job_name)}/undelete`;
    ask({
        title: `Undelete ${job.job_name}?`,
        body: <p>The job is restored with its source, properties, secrets and executions, and its deployment as it was.</p>,
        verb: "Undelete",
        command: `curl -X POST "$VDK_CONTROL_SERVICE_REST_API_URL${path}"`,
        act: async () => {
            await send("POST", path);
            navigate(`/jobs/${job.job_name}`);
            return `${job.job_name} was undeleted.`;
        },
    });
}

const COLUMNS: Column<DeletedJob>[] = [
    { id: "job", name: "Job", cell: (job) => <strong>{job.job_name}</strong> },
    { id: "date", name: "Deleted", cell: (job) => <Time at={job.deleted_date} /> },
    { id: "by", name: "By", cell: (job) => job.deleted_by ?? <span class="quiet">unknown</span> },
    { id: "description", name: "Description", cell: (job) => <span class="clip long quiet">{job.description}</span> },
    {
        id: "actions",
        name: "Actions",
        cell: (job) => (
            <button type="button" class="small" onClick={() => askUndelete(job)}>
                Undelete…
            </button>
        ),
    },
];

export function DeletedPage() {
    const team = place.value.query.get("team") ?? "";
    const [text, setText] = useState(team);
    const late = useDebounced(text.trim(), 300);
    useEffect(() => {
        if (late !== team) setQuery({ team: late });
    }, [late]);
    const read = useRead(team ? `deleted ${team}` : null, (signal) => readDeleted(team, signal));
    return (
        <>
            <Heading title="Deleted jobs">
                <span class="grow" />
                <input type="search" aria-label="Team" placeholder="Name of the team" value={text} onInput={(event) => setText(event.currentTarget.value)} spellcheck={false} />
            </Heading>
            {!team && <Lead>Name a team to see its deleted jobs.</Lead>}
            {team && problemOf(read) && <ProblemBox problem={problemOf(read)!} again={read.again} />}
            {team && !read.data && !read.problem && <Waiting />}
            {team && read.data && <Lead>{read.data.length === 0 ? `The team ${team} has no deleted job that can be restored.` : `${plural(read.data.length, "deleted job")} of ${team} can be restored.`}</Lead>}
            {team && read.data && read.data.length > 0 && <Table label="Deleted jobs" columns={COLUMNS} rows={read.data} keyOf={(job) => `${job.job_name} ${job.deleted_date}`} />}
        </>
    );
}
