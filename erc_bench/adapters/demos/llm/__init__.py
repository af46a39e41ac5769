"""`erc-bench llm demo`: a language model learns addition on this machine, under two objectives.

``task`` makes prompts and judges answers, ``models`` gives the model, ``training`` trains one arm with
one seed, ``noise`` measures rounding without any update, ``demo`` does all of it and draws figures.
"""
