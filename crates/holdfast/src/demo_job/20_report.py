"""The second step: reads what the first step stored."""


def run(job_input):
    name = job_input.get_arguments().get("name", "data engineer")
    print(f"Done, {name}: the properties are {job_input.get_all_properties()}.")
