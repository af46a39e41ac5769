"""TRL: its stock GRPOTrainer on a tiny Llama, one seed at a time.

The model reads the prompt as one token and then its own tokens; it cannot be the MLP, so it is a
decoder of the same number of parameters and the same vocabulary. Completions have a fixed length:
the end-of-sequence id is one that the model cannot emit. The reward replays the completion's tokens
through the environment's dynamics.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Outcome, Workload, corpus

#: A letter for every token of the vocabulary.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """Warm start one model; build every seed's trainer from it."""
    os.environ.update(
        HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRL_EXPERIMENTAL_SILENCE="1"
    )
    with clock("import"):
        import datasets  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # noqa: PLC0415
        from trl import GRPOConfig, GRPOTrainer  # noqa: PLC0415
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    dynamics = work.dynamics
    vocabulary = max(dynamics.num_actions, dynamics.num_prompts)

    words = {letter: i for i, letter in enumerate(LETTERS[:vocabulary])} | {"<never>": vocabulary}
    raw = Tokenizer(models.WordLevel(words, unk_token="<never>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<never>", eos_token="<never>", padding_side="left"
    )

    def build() -> Any:
        config = transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=48,
            intermediate_size=60,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        return transformers.LlamaForCausalLM(config)

    def warm_started() -> dict[str, Any]:
        torch.manual_seed(0)
        model = build()
        data = corpus(dynamics, 2048)
        inputs = torch.from_numpy(np.concatenate([data.prompt[:, None], data.action[:, :-1]], 1))
        target = torch.from_numpy(data.target)
        optimizer = torch.optim.Adam(model.parameters(), lr=work.warm_start_learning_rate)
        for step in range(work.warm_start_steps):
            rows = torch.randint(len(inputs), (work.warm_start_episodes,))
            optimizer.param_groups[0]["lr"] = work.warm_start_learning_rate * (
                1 - step / work.warm_start_steps
            )
            logits = model(input_ids=inputs[rows]).logits[..., : dynamics.num_actions]
            loss = -(target[rows] * logits.log_softmax(-1)).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return model.state_dict()

    with clock("warm_start"):
        start = warm_started()

    class Reward:
        """The environment's return of each completion; counts tokens as it goes."""

        __name__ = "episode_return"

        def __init__(self, seed: int) -> None:
            self.rng = np.random.default_rng(seed)
            self.tokens = 0
            self.means: list[float] = []

        def __call__(
            self, prompts: list[str], completion_ids: list[list[int]], **_: Any
        ) -> list[float]:
            action = np.array(completion_ids)
            self.tokens += action.size
            state = dynamics.initial_state(np.array([words[p] for p in prompts]))
            total = np.zeros(len(action))
            allowed = np.ones(len(action), dtype=bool)
            for t in range(work.horizon):
                allowed &= action[:, t] < dynamics.num_actions
                chosen = np.minimum(action[:, t], dynamics.num_actions - 1)
                state, reward, _ = dynamics.step(state, chosen, self.rng.random(len(action)))
                total += reward
            total *= allowed
            self.means.append(float(total.mean()))
            return total.tolist()

    prompts = datasets.Dataset.from_dict({"prompt": list(LETTERS[: dynamics.num_prompts]) * 8})
    folder = tempfile.TemporaryDirectory()

    def trainer_of(seed: int) -> tuple[Any, Reward]:
        model = build()
        model.load_state_dict(start)
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        config = GRPOConfig(
            output_dir=folder.name,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            seed=seed,
            per_device_train_batch_size=work.responses // work.minibatches,
            gradient_accumulation_steps=1,
            steps_per_generation=work.minibatches,
            num_generations=work.group,
            max_completion_length=work.horizon,
            max_steps=work.rollouts * work.minibatches,
            learning_rate=work.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=work.max_grad_norm,
            loss_type="dapo",
            epsilon=work.clip_low,
            epsilon_high=work.clip_high,
            beta=0.0,
        )
        reward = Reward(seed)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=prompts,
            processing_class=tokenizer,
        )
        return trainer, reward

    with clock("build"):
        trainers = [trainer_of(seed) for seed in seeds]

    def train() -> Outcome:
        outcomes = []
        for trainer, reward in trainers:
            trainer.train()
            parameters = sum(p.numel() for p in trainer.model.parameters())
            taken = {int(s["step"]) for s in trainer.optimizer.state.values()}
            assert taken == {trainer.state.global_step}
            outcomes.append(Outcome(reward.tokens, taken.pop(), parameters, tuple(reward.means)))
        folder.cleanup()
        return Outcome.of_seeds(outcomes)

    return train


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
