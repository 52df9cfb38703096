"""`make soak`: minutes of mixed load at saturation while parts of the system are killed and started again.

Two reward replicas, a Valkey with an append-only file and a stub engine run as processes of their own. Clients
send what trainers, evaluations, candidates and broken callers send, retry with the same ids, and write down
what they were answered (`book`). Meanwhile `faults` kills the engine, Redis and a replica. At the end the
book is held against Redis (`verdict`).
"""
