"""Python jobs: code of the operator's own between a query and a job's results, in a process of its own.

`manifest.py` says what an artifact is, `shelf.py` keeps them, `worker.py` is the server's end of a process and
`child.py` what runs in it, `run.py` is one run of such a job, `trying.py` tries an artifact by its own examples.
"""
