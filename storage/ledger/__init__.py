"""The ledger: every change of a job's status, as guarded SQL.

SQL is the truth; messages are hints. Each statement says in its WHERE clause which states it
leaves. Transactions lock claim rows before job rows, then counters, then notes of orphans; job rows
in the order of their ids, those that need others after these (`needs`), or with SKIP LOCKED, which
waits for nobody: so no two can deadlock.
"""
