"""`save` writes pipelines with diffusers, `compare` compares their samples with those from here."""

import random

import diffusers
import reference
import sampling
import torch


def save(seed, folder):
    """Writes two random pipelines: one as safetensors, one as a pickle."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for name, safe in [("safe", True), ("pickle", False)]:
        config = reference.model_config(rng) | {
            "in_channels": 3, "out_channels": 3, "num_class_embeds": None, "time_embedding_type": "positional",
        }
        kind, start, end = rng.choice([("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)])
        scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=rng.choice([100, 500, 1000]), beta_schedule=kind, beta_start=start, beta_end=end,
            prediction_type=rng.choice(["epsilon", "sample", "v_prediction"]), timestep_spacing="trailing",
        )
        pipeline = diffusers.DDIMPipeline(unet=reference.shaken_model(config), scheduler=scheduler)
        pipeline.save_pretrained(folder / name, safe_serialization=safe)


def compare(folder, noise, samples):
    """Runs the pipeline in `folder`, and compares `samples` with DDIM by its network."""
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(batch_size=1, num_inference_steps=2, output_type="np")
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    sampling.compare(folder, scheduler, lambda x, t: pipeline.unet(x, t).sample, noise, samples)


if __name__ == "__main__":
    sampling.main(save, compare)
