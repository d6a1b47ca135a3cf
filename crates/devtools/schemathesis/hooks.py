"""What the generator of requests has to know beside the document."""

import io
import os
import uuid
import zipfile

import schemathesis
from hypothesis import strategies as st

VERSION = os.environ["HOLDFAST_TEST_SOURCE_VERSION"]


def archive(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as folder:
        for name, content in files.items():
            folder.writestr(f"job/{name}", content)
    return packed.getvalue()


# Texts with a grammar of their own.
schemathesis.openapi.format(
    "cron",
    st.sampled_from(["", "0 6 * * *", "0 0 1 1 *", "@daily", "TZ=Europe/Berlin 0 6 * * 1-5", "15,45 8-18 1 JAN ?"]),
)
schemathesis.openapi.format(
    "graphql",
    st.sampled_from(
        [
            "{ jobs(pageNumber: 1, pageSize: 2) { content { jobName config { team schedule { scheduleCron } } } totalItems } }",
            "{ jobs { content { jobName deployments { enabled status executions(pageSize: 2) { id status } } } totalPages } }",
            "query Runs { executions(pageNumber: 1, pageSize: 3) { content { id status startTime } totalItems totalPages } }",
            "{ __typename }",
        ]
    ),
)
schemathesis.openapi.format("json-object", st.sampled_from(["{}", '{"unused": 1}', "null"]))
schemathesis.openapi.media_type(
    "application/octet-stream",
    st.sampled_from([archive({"10_step.py": "def run(job_input):\n    pass\n"}), archive({"10.sql": "select 1", "a/b.txt": "x"})]),
)


# What the other requests are about is not taken away from them.
KEPT = ("my-first-job", "my-second-job")
SPARE = "my-spare-job"
TAKE_AWAY = ("dataJobDelete", "dataJobTeamUpdate", "sourcesDelete")


@schemathesis.hook
def filter_case(context, case):
    """An empty value is an absent one, as in the reference, and so no invalid one."""
    query = case.query or {}
    return all(query.get(name) not in ("", [""]) for name in ("before", "mode", "execution_status"))


@schemathesis.hook
def before_call(context, case, kwargs):
    """Members that have to agree with each other do, in requests that are meant to be right."""
    operation, body = case.operation.definition.raw.get("operationId"), case.body
    if operation in TAKE_AWAY and case.path_parameters.get("job_name") in KEPT:
        case.path_parameters["job_name"] = SPARE
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    terms = case.headers or {}
    for name in list(terms):
        # A tag is what a read has answered, and a key is for one request.
        if name.lower() == "if-match":
            terms[name] = "*"
        if name.lower() == "if-none-match":
            del terms[name]
        if name.lower() == "idempotency-key":
            terms[name] = str(uuid.uuid4())
    if not isinstance(body, dict):
        return
    if operation == "dataJobCreate":
        named = (case.query or {}).pop("name", None)
        body["job_name"] = body.get("job_name") or named or SPARE
        body["team"] = None
    if operation == "dataJobUpdate":
        body["job_name"] = body["team"] = None
    if operation in ("deploymentUpdate", "deploymentPatch"):
        # A version of VDK would be looked for on the package index.
        body.pop("vdk_version", None)
        if body.get("job_version"):
            body["job_version"] = VERSION
        if body.get("python_version"):
            body["python_version"] = os.environ["HOLDFAST_TEST_PYTHON_VERSION"]
        resources = body.get("resources")
        if isinstance(resources, dict):
            for kind in ("cpu", "memory"):
                resources.pop(f"{kind}_limit", None)
