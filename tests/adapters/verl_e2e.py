"""verl's ``main_ppo`` with Ray on the CPU, as a command: ``python verl_e2e.py FOLDER OBJECTIVE STEPS``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


def overrides(folder: Path, objective: str, steps: int) -> list[str]:
    """verl's configuration of a run of ``steps`` rollouts with 4 updates each."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    fp32 = f"+{actor}.fsdp_config.mixed_precision"
    ray = "ray_kwargs.ray_init"
    return [
        "trainer.v1.trainer_mode=erc_bench",
        f"+trainer.v1.erc_bench.objective={objective}",
        f"{actor}.policy_loss.loss_mode=erc_bench",
        f"{actor}.calculate_entropy=True",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=100",
        "trainer.resume_mode=disable",
        "trainer.project_name=erc_bench",
        f"trainer.experiment_name={objective}",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"{ray}.num_cpus=16",
        f"+{ray}.num_gpus=1",
        f"+{ray}.include_dashboard=False",
        f"+{ray}.object_store_memory=300000000",
        f"+{ray}._temp_dir={folder}/ray",
        f"data.train_files={folder}/sums.parquet",
        f"data.val_files={folder}/sums.parquet",
        "data.train_batch_size=16",
        "data.max_prompt_length=16",
        "data.max_response_length=12",
        "data.dataloader_num_workers=0",
        "data.filter_overlong_prompts=False",
        "data.seed=1",
        "algorithm.adv_estimator=grpo",
        "algorithm.use_kl_in_reward=False",
        f"actor_rollout_ref.model.path={folder}/model",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        f"{actor}.strategy=fsdp2",
        f"{actor}.use_torch_compile=False",
        f"{actor}.fsdp_config.use_torch_compile=False",
        f"{actor}.fsdp_config.dtype=float32",
        f"{actor}.fsdp_config.model_dtype=fp32",
        f"{fp32}.param_dtype=fp32",
        f"{fp32}.reduce_dtype=fp32",
        f"{fp32}.buffer_dtype=fp32",
        f"{actor}.use_kl_loss=False",
        f"{actor}.entropy_coeff=0",
        f"{actor}.optim.lr=3e-3",
        f"{actor}.ppo_mini_batch_size=4",
        f"{actor}.use_dynamic_bsz=True",
        f"{actor}.ppo_max_token_len_per_gpu=256",
        f"{rollout}.log_prob_use_dynamic_bsz=True",
        f"{rollout}.log_prob_max_token_len_per_gpu=1024",
        f"{rollout}.name=transformers-cpu",
        f"{rollout}.n=4",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.agent.num_workers=1",
        f"{rollout}.load_format=dummy",
        f"{rollout}.calculate_log_probs=False",
        "reward.num_workers=1",
        f"reward.custom_reward_function.path={HERE}/verl_tiny.py",
    ]


def environment(folder: Path) -> dict[str, str]:
    """Of the driver; Ray hands it to its workers."""
    inherited = os.environ.get("PYTHONPATH", "")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(
            p for p in (str(REPOSITORY), str(REPOSITORY / "envs"), str(HERE), inherited) if p
        ),
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_cpu,erc_bench.adapters.verl",
        "VERL_FILE_LOGGER_ROOT": str(folder),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "HYDRA_FULL_ERROR": "1",
    }


def run(folder: Path, objective: str, steps: int, *further: str) -> Path:
    """Train, and return verl's JSONL of the run; its console log lies beside it.

    Raises:
        subprocess.CalledProcessError: verl failed.
    """
    import verl_tiny

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        verl_tiny.write_model(folder / "model")
        verl_tiny.write_data(folder / "sums.parquet")
    command = [sys.executable, "-m", "verl.trainer.main_ppo"]
    with (folder / f"{objective}.log").open("w") as log:
        subprocess.run(
            [*command, *overrides(folder, objective, steps), *further],
            env=environment(folder),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return folder / "erc_bench" / f"{objective}.jsonl"


if __name__ == "__main__":
    where, name, count, *more = sys.argv[1:]
    print(run(Path(where).resolve(), name, int(count), *more))
