"""`make soak`: minutes of mixed load at saturation while processes of the system are killed and restarted.

Two reward replicas, a Valkey with an append-only file and a stub engine run as processes. Clients send the requests of
trainers, evaluations, candidates and faulty callers, retry with the same ids, and record the answers (`answer_log`),
while `faults` kills the engine, Redis and a replica. At the end the answers are compared with Redis (`assessment`).
"""
