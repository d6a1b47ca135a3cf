"""Every operation of the public API, called by the client that is generated from the reference's interface.

The client checks each answer against that interface and raises where one member has another type than it says.
"""

import io
import json
import sys
import time
import zipfile

import taurus_datajob_api as api

url, team, job = sys.argv[1:]
client = api.ApiClient(api.Configuration(host=url))
called = set()


def operations(group):
    """Calls operations of one group by keyword, and remembers which."""

    class Operations:
        def __getattr__(self, name):
            called.add(name)
            return getattr(group(client), name)

    return Operations()


jobs, deployments = operations(api.DataJobsApi), operations(api.DataJobsDeploymentApi)
executions, properties = operations(api.DataJobsExecutionApi), operations(api.DataJobsPropertiesApi)
secrets, service, sources = operations(api.DataJobsSecretsApi), operations(api.DataJobsServiceApi), operations(api.DataJobsSourcesApi)
here = {"team_name": team, "job_name": job}
deployed = {**here, "deployment_id": "production"}


def until(what, ask):
    """Asks until the answer is true."""
    for _ in range(1200):
        answer = ask()
        if answer:
            return answer
        time.sleep(0.25)
    raise AssertionError(f"not within five minutes: {what}")


assert service.info(team_name=team).supported_python_versions

# A job, as upstream's page changes it: the object that was read goes back.
new = api.DataJob(job_name=job, team=team, description="made by the generated client", config=api.DataJobConfig())
jobs.data_job_create(team_name=team, name=job, data_job=new)
read = jobs.data_job_read(**here)
assert read.job_name == job and read.team == team and read.config.schedule is not None, read
read.config.schedule.schedule_cron = "0 0 1 1 *"
read.config.contacts.notified_on_job_deploy = ["someone@example.com"]
jobs.data_job_update(**here, data_job=read)
again = jobs.data_job_read(**here)
assert again == read, (again, read)
assert jobs.data_job_keytab_download(**here) is not None

# Sources go up and come down.
packed = io.BytesIO()
with zipfile.ZipFile(packed, "w") as archive:
    archive.writestr("any-top-folder/config.ini", f"[owner]\nteam = {team}\n")
    archive.writestr("any-top-folder/10_step.py", "def run(job_input):\n    print('hello', job_input.get_arguments())\n")
version = sources.sources_upload(**here, body=packed.getvalue(), reason="a reason").version_sha
assert len(version) == 40, version
# The client takes an archive for text in the answer's headers; its bytes come through the call without their reading.
assert bytes(sources.data_job_sources_download(**here)).startswith(b"PK")

# Deployments.
assert deployments.deployment_list(**here) == []
deployments.deployment_update(**here, data_job_deployment=api.DataJobDeployment(job_version=version))
(one,) = until("the deployment is reached", lambda: deployments.deployment_list(**here))
assert one.enabled is True and one.mode == "release" and one.job_version == version, one
assert deployments.deployment_read(**deployed) == one
assert deployments.deployment_list(**here, deployment_id="production", mode="release")
deployments.deployment_patch(**deployed, data_job_deployment=api.DataJobDeployment(enabled=False))
until("it is disabled", lambda: deployments.deployment_read(**deployed).enabled is False)

# Executions, also of a disabled deployment.
request = api.DataJobExecutionRequest(started_by="generated", args={"n": 1})
info = executions.data_job_execution_start_with_http_info(**deployed, data_job_execution_request=request)
called.add("data_job_execution_start")
run = {**here, "execution_id": info.headers["Location"].rsplit("/", 1)[1]}
first = executions.data_job_execution_read(**run)
assert first.status in ("submitted", "running", "succeeded") and first.deployment is not None, first
ended = until("the run is over", lambda: (e := executions.data_job_execution_read(**run)).end_time and e)
assert ended.status == "succeeded" and ended.type == "manual" and ended.deployment.job_version == version, ended
assert ended.start_time <= ended.end_time, ended
assert "hello {'n': 1}" in executions.data_job_logs_download(**run).logs
assert [e.id for e in executions.data_job_execution_list(**here, execution_status=["succeeded"])] == [ended.id]
assert [e.id for e in executions.data_job_deployment_execution_list(**deployed)] == [ended.id]
try:
    executions.data_job_execution_cancel(**run)
    raise AssertionError("a run that is over was cancelled")
except api.ApiException as refused:
    assert refused.status == 400, refused

# The list, in the client's own types.
query = (
    '{ jobs(pageNumber: 1, pageSize: 10, filter: [{ property: "jobName", pattern: "%s" }]) { totalItems totalPages content {'
    " jobName config { team description schedule { scheduleCron nextRunEpochSeconds } contacts { notifiedOnJobDeploy } }"
    " deployments { id enabled jobVersion status mode lastDeployedDate lastDeployedBy lastExecutionStatus"
    " executions(pageNumber: 1, pageSize: 5) { id type status startTime endTime startedBy message opId } } } } }" % job
)
page = jobs.jobs_query(team_name=team, query=query)
(listed,) = page.data.content
assert page.errors == [] and page.data.total_items == 1 and listed["jobName"] == job, page
assert listed["deployments"][0]["executions"][0]["id"] == ended.id, page

# Properties and secrets.
for group, noun in ((properties, "properties"), (secrets, "secrets")):
    at = {**here, "deployment_id": "TODO"}
    content = {"text": "zwölf", "number": 1.5, "list": [1, None], "flag": True}
    getattr(group, f"data_job_{noun}_update")(**at, request_body=content)
    assert getattr(group, f"data_job_{noun}_read")(**at) == content

# The OAuth application of a team.
credentials = api.OauthCredentials(client_id="generated-client-id", client_secret="generated-client-secret")
secrets.oauth_credentials_put(team_name=team, oauth_credentials=credentials)
stored = secrets.oauth_credentials_get(team_name=team)
assert stored.team_name == team and stored.client_id == "generated-client-id" and stored.client_secret == "generated-client-secret", stored
assert secrets.client_id_get(team_name=team).client_id == "generated-client-id"
(found,) = secrets.get_team_ids_for_client_ids(request_body=["generated-client-id", "unknown"])
assert found.team_name == team, found

# The end.
jobs.data_job_team_update(**here, new_team=team + " two")
here = {"team_name": team + " two", "job_name": job}
sources.sources_delete(**here, reason="a reason")
deployments.deployment_delete(**here, deployment_id=job)
until("the deployment is gone", lambda: deployments.deployment_list(**here) == [])
jobs.data_job_delete(**here)
try:
    jobs.data_job_read(**here)
    raise AssertionError("the job is still there")
except api.ApiException as refused:
    assert refused.status == 404, refused

print(json.dumps(sorted({name.removesuffix("_with_http_info") for name in called})))
