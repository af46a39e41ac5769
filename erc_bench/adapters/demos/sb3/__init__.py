"""`erc-bench sb3 demo`: PPO beside ERC-PPO on classic control, paired seeds.

``training`` trains one arm with one seed and keeps what it logged, ``figure`` draws the comparison,
``demo`` does all of it, resumes, and writes the table.
"""
