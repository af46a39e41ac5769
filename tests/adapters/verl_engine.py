"""One update by verl's own worker on the CPU, without Ray: ``python verl_engine.py REQUEST.json``.

Run as a process of its own, since verl fixes its platform when it is imported. Writes the gradient
that reached the parameters, the logged metrics, and loss and gradient of our Objective computed
directly from the model's logits.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROWS, PROMPT, RESPONSE = 8, 6, 10


def batch(model: Any) -> dict[str, Any]:
    """Fixed prompts and responses, with old values that lie a little beside the model's own."""
    import torch

    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 90, (ROWS, PROMPT + RESPONSE), generator=g)
    lengths = torch.tensor([RESPONSE - i for i in range(ROWS)])
    mask = (torch.arange(RESPONSE) < lengths[:, None]).long()
    attention = torch.cat([torch.ones(ROWS, PROMPT, dtype=torch.long), mask], 1)
    with torch.no_grad():
        logp, entropy, _ = evaluate(model, tokens, attention)
    noise = torch.randn(2, ROWS, RESPONSE, generator=g)
    advantage = torch.randn(ROWS, 1, generator=g).expand(ROWS, RESPONSE)
    reward = (torch.arange(ROWS) % 3 == 0).float()
    scores = torch.zeros(ROWS, RESPONSE)
    scores[torch.arange(ROWS), lengths - 1] = reward
    return {
        "tokens": tokens,
        "attention": attention,
        "mask": mask,
        "advantage": advantage.contiguous(),
        "old_logp": logp + 0.2 * noise[0],
        "old_entropy": entropy * (1 + 0.04 * noise[1]),
        "reward": reward,
        "rm_scores": scores,
    }


def evaluate(model: Any, tokens: Any, attention: Any) -> tuple[Any, Any, Any]:
    """Log-probabilities and entropies of the responses' tokens, and the logits."""
    import torch

    logits = model(input_ids=tokens, attention_mask=attention).logits[:, PROMPT - 1 : -1]
    log_probs = logits.float().log_softmax(-1)
    chosen = log_probs.gather(-1, tokens[:, PROMPT:, None])[..., 0]
    return chosen, -(log_probs.exp() * log_probs).sum(-1), torch.as_tensor(logits)


def direct(model: Any, given: dict[str, Any], settings: Any) -> tuple[float, dict[str, Any]]:
    """Our Objective on the whole batch, and its gradient with respect to the parameters."""
    from erc_bench.core.batch import TokenBatch

    logp, entropy, _ = evaluate(model, given["tokens"], given["attention"])
    loss, _ = settings.built(
        TokenBatch(
            logp=logp,
            old_logp=given["old_logp"],
            advantage=given["advantage"],
            mask=given["mask"],
            entropy=entropy,
            old_entropy=given["old_entropy"],
            reward=given["reward"],
        )
    )
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def worker(model: str, strategy: str, micro_tokens: int, settings: Any) -> Any:
    """verl's training worker as our trainer makes it, without Ray around it."""
    from verl.workers.config import (
        FSDPActorConfig,
        FSDPEngineConfig,
        FSDPOptimizerConfig,
        HFModelConfig,
        PolicyLossConfig,
        TrainingWorkerConfig,
    )

    from erc_bench.adapters.verl.loss import Loss
    from erc_bench.adapters.verl.trainer import role_worker

    fp32 = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
    made = role_worker(settings).actor_worker_cls(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=HFModelConfig(
                path=model,
                use_remove_padding=False,
                enable_gradient_checkpointing=False,
                override_config={"attn_implementation": "sdpa"},
            ),
            engine_config=FSDPEngineConfig(
                forward_only=False,
                strategy=strategy,
                use_dynamic_bsz=True,
                use_remove_padding=False,
                max_token_len_per_gpu=micro_tokens,
                infer_max_token_len_per_gpu=600,
                use_torch_compile=False,
                model_dtype="fp32",
                mixed_precision=fp32,
            ),
            optimizer_config=FSDPOptimizerConfig(
                lr=1e-3, clip_grad=1e9, total_training_steps=10, lr_scheduler_type="constant"
            ),
            checkpoint_config=None,
        )
    )
    made.reset()
    actor = FSDPActorConfig(
        strategy=strategy,
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        calculate_entropy=True,
        policy_loss=PolicyLossConfig(loss_mode="erc_bench"),
    )
    made.set_loss_fn(Loss(actor, settings))
    return made


def update(made: Any, given: dict[str, Any], rows: slice) -> dict[str, Any]:
    """One optimizer step on this rank's rows; the metrics that the trainer would log."""
    import torch
    from verl import DataProto
    from verl.utils import tensordict_utils as tu
    from verl.utils.metric import reduce_metrics
    from verl.workers.utils.padding import left_right_2_no_padding

    tensors = {
        "input_ids": given["tokens"],
        "prompts": given["tokens"][:, :PROMPT],
        "responses": given["tokens"][:, PROMPT:],
        "attention_mask": given["attention"],
        "position_ids": given["attention"].cumsum(-1) - 1,
        "response_mask": given["mask"],
        "old_log_probs": given["old_logp"],
        "entropy": given["old_entropy"],
        "advantages": given["advantage"],
        "rm_scores": given["rm_scores"],
    }
    data = DataProto.from_single_dict({name: x[rows] for name, x in tensors.items()})
    packed = left_right_2_no_padding(data.to_tensordict())
    tu.assign_non_tensor(
        packed,
        global_batch_size=ROWS,
        mini_batch_size=ROWS,
        epochs=1,
        seed=1,
        dataloader_kwargs={"shuffle": False},
        calculate_entropy=True,
        compute_loss=True,
        temperature=1.0,
    )
    output = made.train_mini_batch(packed)
    metrics = reduce_metrics(dict(tu.get(output, "metrics")))
    return {name: float(value) for name, value in metrics.items() if not torch.is_tensor(value)}


def gradients_at_the_step(engine: Any) -> dict[str, Any]:
    """Filled with the parameters' gradients when the engine clips them and steps."""
    found: dict[str, Any] = {}
    step = engine.optimizer_step

    def noted() -> Any:
        for name, p in engine.module.named_parameters():
            found[name] = (
                p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
            ).clone()
        return step()

    engine.optimizer_step = noted
    return found


def main(request: dict[str, Any]) -> None:
    import torch
    import verl_cpu  # noqa: F401
    from transformers import AutoModelForCausalLM

    from erc_bench.adapters.verl import Settings

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    settings = Settings(**request["settings"])
    model = AutoModelForCausalLM.from_pretrained(
        request["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    given = batch(model)
    loss, expected = direct(model, given, settings)
    made = worker(request["model"], request["strategy"], request["micro_tokens"], settings)
    share = ROWS // ranks
    found = gradients_at_the_step(made.engine)
    metrics = update(made, given, slice(rank * share, (rank + 1) * share))
    if rank == 0:
        torch.save(
            {"loss": loss, "expected": expected, "found": found, "metrics": metrics},
            request["out"],
        )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ["VERL_PLATFORM"] = "cpu"
    main(json.loads(Path(sys.argv[1]).read_text()))
