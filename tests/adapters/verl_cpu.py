"""verl on a machine without a GPU: a platform, an engine and a rollout by transformers, for tests.

verl loads this as an external module; it has no CPU path of its own. All of it goes through verl's
registries but two functions: the process group is named ``gloo`` where verl would say
``cpu:gloo,cpu:gloo``, which torch refuses; and verl does not see TRL, of which it would import a class
that TRL 1.16 no longer has (it patches that class for value models, which are not used here).
"""

from __future__ import annotations

import contextlib
import types

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

ROLLOUT = "transformers-cpu"


class Device(types.ModuleType):
    """``torch.cpu``, and zeros for what only accelerators can be asked."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if hasattr(torch.cpu, name):
            return getattr(torch.cpu, name)
        return lambda *_, **__: {"mem_get_info": (1, 1), "get_device_name": "CPU"}.get(name, 0)


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    device_name = vendor_name = "cpu"
    device_module = Device("cpu_device")

    def is_available(self):
        return True

    def current_device(self):
        return torch.device("cpu")

    def device_count(self):
        return 1

    def _nothing(self, *_, **__):
        return None

    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_id=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg):
        return contextlib.nullcontext()

    def ray_resource_name(self):
        return "GPU"  # what verl asks Ray for; ray.init is told that there is one

    def ray_noset_envvars(self):
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self):
        return False


# verl asks for the platform while these are imported
import verl.models.transformers.monkey_patch
import verl.utils.distributed
import verl.workers.engine_workers
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplicaRegistry


def actor_name(rank):
    return f"erc_bench_sampler_{rank}"


def load_replica():
    import ray
    from verl.workers.rollout.replica import RolloutReplica
    from verl_sampler import Sampler

    class Replica(RolloutReplica):
        async def launch_servers(self):
            name = actor_name(self.replica_rank)
            actor = ray.remote(num_cpus=0)(Sampler).options(name=name)
            handle = actor.remote(
                self.model_config.path, self.config.response_length, 7 + self.replica_rank
            )
            self.servers, self._server_handle, self._server_address = [handle], handle, name

    return Replica


class Weights(BaseRollout):
    """Sends the actor's weights to the sampler after each step."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, **extra):
        import ray

        plain = {name: x.detach().float().cpu().numpy() for name, x in weights}
        sampler = ray.get_actor(actor_name(torch.distributed.get_rank()))
        await sampler.load.remote(plain, extra.get("global_steps"))


RolloutReplicaRegistry.register(ROLLOUT, load_replica)
_ROLLOUT_REGISTRY[(ROLLOUT, "async")] = f"{__name__}.Weights"
EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")(
    FSDPEngineWithLMHead
)

_initialize = verl.utils.distributed.initialize_global_process_group_ray


def _gloo(timeout_second=None, backend=None):
    return _initialize(timeout_second, backend or "gloo")


verl.utils.distributed.initialize_global_process_group_ray = _gloo
verl.workers.engine_workers.initialize_global_process_group_ray = _gloo
verl.models.transformers.monkey_patch.is_trl_available = lambda: False
