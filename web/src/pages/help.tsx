// Keys, words and states.
import { keysAreOn, shortcuts } from "../keys";
import { Heading } from "../kit";
import { Link } from "../router";
import { executionState, STATUSES, StateWord } from "../status";

const WORDS: [string, string][] = [
    ["deployment", "The source, versions and settings with which a job runs."],
    ["revision", "A numbered state of a deployment. Each accepted change makes a new one; a rollback too."],
    ["rollout", "The work that makes the desired revision the deployed one."],
    ["execution", "One run of a job, started by its schedule or manually."],
    ["user error", "The job or its deployment must be changed by its owners. Action: you."],
    ["platform error", "The platform failed. Holdfast retries where that helps. Action: platform."],
];

const MEANINGS: Record<string, string> = {
    SUBMITTED: "accepted, and not started yet",
    RUNNING: "the job's steps run",
    SUCCEEDED: "every step ended without an error",
    CANCELLED: "ended on request",
    SKIPPED: "not run, because another execution was in progress",
    USER_ERROR: "a step, the requirements or the configuration failed",
    PLATFORM_ERROR: "the machine, the cluster or the service failed",
};

export function HelpPage() {
    return (
        <>
            <Heading title="Help" />
            <div class="columns">
                <section aria-labelledby="keys">
                    <h2 id="keys">Keys</h2>
                    <label class="switch">
                        <input type="checkbox" checked={keysAreOn.value} onChange={(event) => (keysAreOn.value = event.currentTarget.checked)} /> Use keys of a single letter
                    </label>
                    <dl class="pairs">
                        {shortcuts.map(([keys, does]) => (
                            <div key={keys}>
                                <dt>
                                    <kbd>{keys}</kbd>
                                </dt>
                                <dd>{does}</dd>
                            </div>
                        ))}
                    </dl>
                </section>
                <section aria-labelledby="states">
                    <h2 id="states">States of an execution</h2>
                    <dl class="pairs">
                        {STATUSES.map((status) => (
                            <div key={status}>
                                <dt>
                                    <StateWord state={executionState(status)} />
                                </dt>
                                <dd>{MEANINGS[status]}</dd>
                            </div>
                        ))}
                    </dl>
                    <h2>Words</h2>
                    <dl class="pairs">
                        {WORDS.map(([word, meaning]) => (
                            <div key={word}>
                                <dt>{word}</dt>
                                <dd>{meaning}</dd>
                            </div>
                        ))}
                    </dl>
                </section>
            </div>
            <p>
                <Link to="/deleted">Deleted jobs</Link> can be restored for some days.
            </p>
            <p class="quiet">
                The page uses Preact and the typefaces Atkinson Hyperlegible: <a href="/ui/assets/licenses.txt">their licences</a>.
            </p>
        </>
    );
}
