"""The ledger: every change of a job's status, as guarded SQL.

SQL is the truth; messages are hints. Each function here is one transaction, says in its WHERE
clause which states it leaves, and locks claim rows before job rows, job rows in the order of
their ids, counters last: so that no two of them can deadlock.
"""
