"""The objectives in other people's trainers (stable-baselines3, TRL, verl), and their logs as records.

Nothing is imported here: each module needs the package that it is named after, which an extra installs.
Only ``logs`` needs none, as it reads files.
"""
