"""The rollout of tests, as a Ray actor; imports verl when used, as Ray imports this before verl."""

from __future__ import annotations

import threading

import torch


class Sampler:
    """Answers verl's requests with ``generate``, one at a time, from a seed of its own."""

    def __init__(self, path, length, seed):
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.length, self.step, self.lock = length, None, threading.Lock()

    def load(self, weights, step):
        self.model.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
        self.step = step

    def generate(self, request_id, prompt_ids, sampling_params, **_):
        from verl.workers.rollout.replica import TokenOutput

        prompt = torch.tensor([list(prompt_ids)])
        with self.lock, torch.no_grad():
            out = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=self.length,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
            )
            tokens = out[0, prompt.shape[1] :]
            logits = self.model(out).logits[0, prompt.shape[1] - 1 : -1]
        log_probs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        return TokenOutput(
            token_ids=tokens.tolist(),
            log_probs=log_probs.tolist(),
            stop_reason="completed",
            extra_fields={"global_steps": self.step},
        )

    def _nothing(self, *_, **__):
        return None

    wake_up = sleep = abort_all_requests = resume_generation = clear_kv_cache = _nothing
    release_kv_cache = resume_kv_cache = start_profile = stop_profile = _nothing
