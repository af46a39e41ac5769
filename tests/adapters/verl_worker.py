"""One verl TrainingWorker on the CPU, without Ray: a script, run in a process of its own by the test.

Prints JSON: for each objective and micro-batch size, the loss, the gradient's size and how far both are
from the objective computed with a plain forward pass, and verl's metrics.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import closing
from pathlib import Path

with closing(socket.socket()) as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
os.environ |= {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": str(port), "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1",
    "VERL_USE_EXTERNAL_MODULES": "adapters.verl_cpu,erc_bench.adapters.verl",
}  # fmt: skip

import torch

torch.set_num_threads(1)
import verl
from adapters import verl_cpu
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from verl import DataProto
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.padding import left_right_2_no_padding, no_padding_2_padding

from erc_bench.adapters.verl import ObjectiveLoss
from erc_bench.batch import TokenBatch
from erc_bench.objectives import PositiveNLL, make

ROWS, PROMPT, LENGTH, WORDS = 8, 4, 10, 40


def model_folder(folder: Path) -> Path:
    from adapters.tiny_trl import make_model

    _, tokenizer = make_model()
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=1,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def make_worker(folder: Path) -> TrainingWorker:
    whole = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=HFModelConfig(
                path=str(folder), use_remove_padding=False, enable_gradient_checkpointing=False,
                override_config={"attn_implementation": "sdpa"},
            ),
            engine_config=FSDPEngineConfig(
                forward_only=False, fsdp_size=1, strategy="fsdp2", use_dynamic_bsz=False,
                micro_batch_size_per_gpu=ROWS, infer_micro_batch_size_per_gpu=ROWS,
                use_remove_padding=False, use_torch_compile=False, model_dtype="fp32",
                mixed_precision=whole,
            ),
            optimizer_config=FSDPOptimizerConfig(
                lr=0.0, total_training_steps=10, lr_scheduler_type="constant", clip_grad=1e9,
                weight_decay=0.0,
            ),
            checkpoint_config=None,
        )
    )  # fmt: skip
    worker.reset()
    return worker


def make_data() -> DataProto:
    """Ragged responses; old log-probabilities and entropies away from the model's."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, WORDS, (ROWS, PROMPT + LENGTH), generator=g)
    attention = torch.ones_like(ids)
    for row in range(ROWS):
        attention[row, PROMPT + LENGTH - row :] = 0 if row else 1
    position = attention.cumsum(-1) - 1
    return DataProto.from_single_dict(
        {
            "input_ids": ids, "prompts": ids[:, :PROMPT], "attention_mask": attention,
            "position_ids": position, "responses": ids[:, PROMPT:],
            "response_mask": attention[:, PROMPT:],
        },
        meta_info={
            "temperature": 1.0, "global_token_num": attention.sum(-1).tolist(),
            "compute_loss": False, "calculate_entropy": True,
        },
    )  # fmt: skip


def infer(worker: TrainingWorker, data: DataProto) -> tuple[torch.Tensor, torch.Tensor]:
    batch = left_right_2_no_padding(data.to_tensordict())
    out = worker.infer_batch(batch.clone())
    return tuple(no_padding_2_padding(tu.get(out, k), batch) for k in ("log_probs", "entropy"))


def direct(folder: Path, data: DataProto, objective) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of every parameter, of the objective on the whole mini-batch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    fields = data.batch
    logits = model(
        input_ids=fields["input_ids"], attention_mask=fields["attention_mask"],
        position_ids=fields["position_ids"],
    ).logits[:, PROMPT - 1 : -1]  # fmt: skip
    log_probs = logits.log_softmax(-1)
    batch = TokenBatch(
        logp=log_probs.gather(-1, fields["responses"][..., None])[..., 0],
        old_logp=fields["old_log_probs"],
        advantage=fields["advantages"],
        mask=fields["response_mask"],
        entropy=-(log_probs.exp() * log_probs).sum(-1),
        old_entropy=fields["entropy"],
        reward=fields["rm_scores"].sum(-1),
    )
    loss, _ = objective(batch)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), torch.cat([g.flatten() for g in gradient])


def through_verl(worker: TrainingWorker, data: DataProto, loss: ObjectiveLoss, rows: int):
    """Loss, gradient and metrics of one mini-batch in micro-batches of ``rows``."""
    kept = {}
    step = worker.engine.optimizer_step

    def keep() -> float:
        parameters = worker.engine.module.parameters()
        kept["gradient"] = torch.cat([p.grad.full_tensor().flatten().clone() for p in parameters])
        return step()

    worker.engine.optimizer_step = keep
    worker.set_loss_fn(loss)
    batch = left_right_2_no_padding(data.to_tensordict())
    tu.assign_non_tensor(
        batch, global_batch_size=ROWS, mini_batch_size=ROWS, epochs=1, seed=1,
        dataloader_kwargs={"shuffle": False}, calculate_entropy=True, compute_loss=True,
        temperature=1.0, micro_batch_size_per_gpu=rows,
    )  # fmt: skip
    metrics = tu.get(worker.train_mini_batch(batch), "metrics")
    worker.engine.optimizer_step = step
    return kept["gradient"], {k: v[0] if isinstance(v, list) else v for k, v in metrics.items()}


def main() -> None:
    verl_cpu.register_engine()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    folder = model_folder(Path(sys.argv[1]))
    worker, data = make_worker(folder), make_data()
    logp, entropy = infer(worker, data)
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(2, ROWS, LENGTH, generator=g)
    data.batch["old_log_probs"] = logp + 0.2 * noise[0]
    data.batch["entropy"] = entropy * (0.05 * noise[1]).exp()
    advantage = torch.randn(ROWS, 1, generator=g)
    data.batch["advantages"] = advantage.expand(ROWS, LENGTH).contiguous()
    scores = torch.zeros(ROWS, LENGTH)
    scores[::2, 0] = 1.0
    data.batch["rm_scores"] = scores
    found = []
    for name in sys.argv[2].split(","):
        objective = make(name.removesuffix("+nll"))
        if name.endswith("+nll"):
            objective = objective.regularized(PositiveNLL(0.1))
        loss, gradient = direct(folder, data, objective)
        for rows in (8, 2):
            ours, metrics = through_verl(worker, data, ObjectiveLoss(objective), rows)
            found.append(
                {
                    "objective": name, "rows": rows, "loss": loss.item(),
                    "loss_error": abs(metrics["actor/pg_loss"] - loss.item()),
                    "gradient_size": gradient.abs().max().item(),
                    "gradient_error": (ours - gradient).abs().max().item(),
                    "metrics": {k: float(v) for k, v in metrics.items() if k.startswith("actor/")},
                }
            )  # fmt: skip
    print("RESULT", json.dumps({"verl": verl.__version__, "found": found}))


if __name__ == "__main__":
    main()
