"""The first step of the sample job: counts its own executions in the job's properties."""


def run(job_input):
    executions = int(job_input.get_property("executions", 0)) + 1
    job_input.set_all_properties({"executions": executions})
    print(f"Hello from Holdfast. This is execution {executions} of this job.")
