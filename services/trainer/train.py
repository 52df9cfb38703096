"""`python -m services.trainer.train`: train a policy with GRPO on rewards from the reward service.

The paper used PPO, which TRL no longer ships; GRPO compares the completions of a group instead of
training a critic.
"""

import logging
import os

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from regrade import BlockingRewardClient
from regrade.adapters.trl import RegradeReward
from regrade.tasks import load_pack
from services.kit.settings import read_settings
from services.trainer.data.corpora import DataSettings, examples, training_prompts
from services.trainer.progress import TrainingLog
from services.trainer.records import LOG_NAME
from services.trainer.settings import TrainerSettings

log = logging.getLogger(__name__)


def grpo_config(settings: TrainerSettings) -> GRPOConfig:
    """TRL's configuration for a run: one generation batch a step, groups never split over steps."""
    return GRPOConfig(
        output_dir=str(settings.output_dir),
        run_name=settings.run,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.groups_per_step * settings.group_size,
        num_generations=settings.group_size,
        max_completion_length=settings.max_completion_tokens,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=2,
        temperature=settings.temperature,
        beta=settings.beta,
        seed=settings.seed,
        use_cpu=settings.use_cpu,
        bf16=False if settings.use_cpu else None,
        gradient_checkpointing=not settings.use_cpu,
        dataloader_pin_memory=not settings.use_cpu,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
    )


def train(settings: TrainerSettings) -> None:
    """Train, resuming from the newest checkpoint where there is one. Leaves the policy in `output_dir/final`."""
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = get_last_checkpoint(str(settings.output_dir)) if settings.resume else None
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    with BlockingRewardClient(settings.reward_url, key=settings.reward_key.get_secret_value()) as client:
        reward = RegradeReward(
            settings.task,
            run=settings.run,
            rank=int(os.environ.get("RANK", "0")),
            max_tokens=settings.max_completion_tokens,
            client=client,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(settings.model),
            processing_class=AutoTokenizer.from_pretrained(settings.model, padding_side="left"),
            reward_funcs=reward,
            args=grpo_config(settings),
            train_dataset=training_prompts(examples(DataSettings(), load_pack(settings.task), settings.seed)),
            callbacks=[TrainingLog(settings.output_dir / LOG_NAME)],
        )
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(settings.output_dir / "final"))
    reward.close()


def main() -> None:
    """Read options and environment, then train."""
    logging.basicConfig(level=logging.INFO)
    train(read_settings(TrainerSettings))


if __name__ == "__main__":
    main()
