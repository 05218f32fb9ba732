"""The torture command: the two promises held against real processes, kill -9 and damaged files. See __main__.

    python -m tests.torture --kills=200

| module | what it does |
|---|---|
| `__main__` | flags, the order of the parts, the exit code |
| `kills` | killed again and again at chosen moments, alone and beside an evaluator |
| `operations` | killed at every file operation of a save (strace) |
| `elastic` | stopped on 4 replicas, finished on 1 and on 2 |
| `damage` | damaged checkpoints |
| `disk` | full and read-only disks |
| `workers` | a gang whose workers are killed and stopped |
| `settings` | the runs: configurations, flags, undisturbed references |
| `processes` | starts and ends processes |
| `folder` | what can be seen in a --model_dir: how far a process is, what is whole |
| `moments` | when to kill |
| `compare` | what two runs left, bit for bit |
| `tally` | what was done and found, and the table of it |
"""
