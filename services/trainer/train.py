"""`python -m services.trainer.train`: train a policy with GRPO or RLOO on rewards from the reward service.

The paper uses PPO, which TRL does not ship. GRPO and RLOO compare the completions of a group instead of training a
critic.
"""

import importlib.util
import logging
import os
import sys
from typing import Any

from peft import LoraConfig
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from regrade import BlockingRewardClient
from regrade.adapters.trl import RegradeReward
from regrade.tasks import TaskPack, load_pack
from services.kit.private_files import keep_files_private
from services.kit.settings import read_settings
from services.trainer.callbacks import Console, Prometheus, StopWhenDiverged, TrainingLog
from services.trainer.data.corpora import examples, training_prompts
from services.trainer.records import LOG_NAME
from services.trainer.rewards import AnswerCheck, MixedReward
from services.trainer.settings import TrainerSettings, with_files

log = logging.getLogger(__name__)

DIVERGED = 3
"""Exit status of a run that the stop rule ended."""
_TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


class BatchError(ValueError):
    """A step's completions cannot be split evenly over the processes."""


def per_device_batch(settings: TrainerSettings, world: int) -> int:
    """Completions in one forward pass of one of `world` processes. Raises `BatchError`."""
    completions, passes = settings.groups_per_step * settings.group_size, world * settings.accumulation
    if completions % passes:
        raise BatchError(
            f"{settings.groups_per_step} groups of {settings.group_size} do not split over {world} processes "
            f"with accumulation {settings.accumulation}"
        )
    return completions // passes


def trl_config(settings: TrainerSettings, world: int = 1) -> GRPOConfig | RLOOConfig:
    """TRL's configuration of a run: one generation batch per step, so that a step is one pin."""
    on_gpu = not settings.use_cpu
    checkpointing = settings.gradient_checkpointing
    _, config = _TRAINERS[settings.algorithm]
    return config(
        output_dir=str(settings.output_dir),
        run_name=settings.run,
        max_steps=settings.steps,
        per_device_train_batch_size=per_device_batch(settings, world),
        gradient_accumulation_steps=settings.accumulation,
        steps_per_generation=settings.accumulation,
        num_generations=settings.group_size,
        num_iterations=settings.iterations,
        max_completion_length=settings.max_completion_tokens,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.clip_grad_norm,
        temperature=settings.generation.temperature,
        top_p=settings.generation.top_p,
        beta=settings.beta,
        seed=settings.seed,
        use_cpu=settings.use_cpu,
        bf16=None if on_gpu else False,
        gradient_checkpointing=on_gpu if checkpointing is None else checkpointing,
        deepspeed=settings.deepspeed or None,
        dataloader_pin_memory=on_gpu,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=settings.keep_checkpoints,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=_reporters(settings),
        **_vllm(settings),
    )


def _reporters(settings: TrainerSettings) -> list[str] | str:
    missing = [name for name in settings.log_to if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"log_to names {', '.join(missing)}: pip install it first")
    return [name for name in settings.log_to if name != "tensorboard"] or "none"


def _optional_callbacks(settings: TrainerSettings) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = []
    if settings.metrics_port:
        callbacks.append(Prometheus(settings.metrics_port))
    if "tensorboard" in settings.log_to and int(os.environ.get("RANK", "0")) == 0:
        callbacks.append(TensorBoardCallback(SummaryWriter(str(settings.output_dir / "tensorboard"))))
    return callbacks


def _vllm(settings: TrainerSettings) -> dict[str, Any]:
    generation = settings.generation
    if generation.vllm == "off":
        return {}
    if generation.vllm == "server":
        return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": generation.vllm_url}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": generation.vllm_memory,
        "vllm_tensor_parallel_size": generation.vllm_tensor_parallel,
        "vllm_enable_sleep_mode": generation.vllm_sleep,
    }


def _reward(settings: TrainerSettings, pack: TaskPack, client: BlockingRewardClient) -> MixedReward:
    judge = RegradeReward(
        settings.task,
        run=settings.run,
        rank=int(os.environ.get("RANK", "0")),
        max_tokens=settings.max_completion_tokens,
        client=client,
        lineage=settings.lineage,
        mode=settings.mode,
        on_outage=settings.on_outage,
    )
    answer = AnswerCheck(pack) if settings.rewards.answer else None
    return MixedReward(settings.rewards, judge, answer, settings.seed)


def _trainer(settings: TrainerSettings, pack: TaskPack, reward: MixedReward, stop: StopWhenDiverged) -> Any:
    lora = settings.lora
    trainer, _ = _TRAINERS[settings.algorithm]
    return trainer(
        model=AutoModelForCausalLM.from_pretrained(settings.model),
        processing_class=AutoTokenizer.from_pretrained(settings.model, padding_side="left"),
        reward_funcs=reward,
        args=trl_config(settings, int(os.environ.get("WORLD_SIZE", "1"))),
        train_dataset=training_prompts(examples(settings.data, pack, settings.seed), scopes=settings.scopes),
        peft_config=LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ) if lora.rank else None,
        callbacks=[TrainingLog(settings.output_dir / LOG_NAME), Console(), stop, *_optional_callbacks(settings)],
    )  # fmt: skip


def train(settings: TrainerSettings) -> str | None:
    """Train, resuming from the newest checkpoint in `output_dir`, if any; save the policy in `output_dir/final`.

    Returns why the stop rule ended the run, or None.
    """
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = get_last_checkpoint(str(settings.output_dir))
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    stop = StopWhenDiverged(settings.stop)
    with BlockingRewardClient(settings.reward_url, key=settings.reward_key.get_secret_value()) as client:
        pack = load_pack(settings.task)
        reward = _reward(settings, pack, client)
        try:
            trainer = _trainer(settings, pack, reward, stop)
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            reward.close()
    if stop.reason is None:
        trainer.save_model(str(settings.output_dir / "final"))
    return stop.reason


def main() -> None:
    """Read files, environment and options, then train. Exit status 3 means that the run diverged."""
    logging.basicConfig(level=logging.INFO)
    keep_files_private()
    kind, arguments = with_files(TrainerSettings, sys.argv[1:])
    reason = train(read_settings(kind, arguments))
    if reason is not None:
        log.error("the run has diverged: %s", reason)
        sys.exit(DIVERGED)


if __name__ == "__main__":
    main()
