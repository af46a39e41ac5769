"""The paper's runs: configurations for verl and TRL, data, reward, evaluation, targets, comparison."""
