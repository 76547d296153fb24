"""The child half: what runs inside the process that is measured.

It never imports the parent half (cli, execute, report); the two meet in plain values (spec, record, analysis).
"""
