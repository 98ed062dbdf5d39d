"""What changes the weights: PyTorch's optimisers and schedules under the recipes' names, and a moving average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fer_deploy.recipes import Optimiser, Schedule, Stage
from fer_deploy.training.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser


def parameter_groups(network: nn.Module, optimiser: Optimiser) -> list[dict[str, Any]]:
    """The parameters in one group, or in two: with weight decay, and without it (one-dimensional ones and biases)."""
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if optimiser.decay == "all":
        return [{"params": [parameter for _, parameter in named], "weight_decay": optimiser.weight_decay}]
    undecayed = {name for name, parameter in named if parameter.ndim <= 1 or name.endswith(".bias")}
    return [
        {
            "params": [parameter for name, parameter in named if name not in undecayed],
            "weight_decay": optimiser.weight_decay,
        },
        {"params": [parameter for name, parameter in named if name in undecayed], "weight_decay": 0.0},
    ]


def make_optimiser(network: nn.Module, optimiser: Optimiser, *, device: torch.device) -> torch.optim.Optimizer:
    """PyTorch's optimiser for a stage, fused where the device has a fused kernel."""
    groups = parameter_groups(network, optimiser)
    fused = device.type in ("cpu", "cuda")
    if optimiser.name == "sgd":
        return torch.optim.SGD(groups, lr=optimiser.lr, momentum=optimiser.betas[0], nesterov=True, fused=fused)
    kind = torch.optim.AdamW if optimiser.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=optimiser.lr, betas=optimiser.betas, fused=fused)


class Scheduler:
    """A stage's schedule over PyTorch's own schedulers, with a state of plain numbers for the checkpoint."""

    def __init__(self, optimiser: torch.optim.Optimizer, stage: Stage, *, total_steps: int) -> None:
        schedule: Schedule = stage.schedule
        self._one_cycle: torch.optim.lr_scheduler.OneCycleLR | None = None
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._optimiser = optimiser
        self._left = total_steps - 1
        if schedule.name == "one-cycle":
            steps = max(total_steps, 2)
            # A warm-up of exactly one step has no length for PyTorch, which divides by it.
            warm_up = schedule.warm_up - 1e-9 if schedule.warm_up * steps == 1 else schedule.warm_up
            self._one_cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimiser,
                max_lr=stage.optimiser.lr,
                total_steps=steps,
                pct_start=warm_up,
                anneal_strategy="cos",
                div_factor=schedule.start_divisor,
                final_div_factor=schedule.final_divisor,
                cycle_momentum=schedule.cycle_momentum,
            )
        elif schedule.name == "plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser, mode="max", factor=schedule.factor, patience=schedule.patience, min_lr=schedule.floor
            )

    def after_step(self) -> None:
        """Must be called after each step of the optimiser."""
        if self._one_cycle is not None and self._left > 0:
            self._one_cycle.step()
            self._left -= 1

    def after_epoch(self, validation_accuracy: float) -> None:
        """Must be called after each epoch with the validation accuracy, 0 to 1."""
        if self._plateau is not None:
            self._plateau.step(validation_accuracy)

    @property
    def lr(self) -> float:
        """The learning rate in effect."""
        return float(self._optimiser.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """All that resuming needs, in JSON's types."""
        inner = self._one_cycle or self._plateau
        keys = ("last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter")
        groups = [
            {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in group.items()
                if key in ("lr", "betas", "momentum")
            }
            for group in self._optimiser.param_groups
        ]
        kept = {key: value for key, value in (inner.state_dict() if inner else {}).items() if key in keys}
        return {"left": self._left, "groups": groups, "inner": kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self._left = int(state["left"])
        for group, saved in zip(self._optimiser.param_groups, state["groups"], strict=True):
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
        inner = self._one_cycle or self._plateau
        if inner is not None:
            inner.load_state_dict({**inner.state_dict(), **state["inner"]})


class MovingAverage:
    """Exponential moving average of a network's weights and buffers, with the usual warm-up of its decay.

    At step t the decay is `min(decay, (1 + t) / (10 + t))`, so that the first weights soon lose their influence.
    Integer buffers are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._network = network
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the network's present weights."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = self._network.state_dict()
        names = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[name] for name in names], [now[name].detach() for name in names], share)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])


def make_scaler(stage: Stage, device: torch.device) -> torch.amp.GradScaler:
    """The gradient scaler of a stage: PyTorch's for float16 on CUDA, elsewhere one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=stage.precision == "float16" and device.type == "cuda")


@dataclass(frozen=True, eq=False)
class Updater:
    """All that changes a network's weights in one stage."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    """None where the stage keeps the weights themselves."""
    clip: float
    """Largest norm of the gradient; 0 does not limit it."""

    @classmethod
    def of(cls, network: nn.Module, stage: Stage, *, batches: int, device: torch.device) -> Updater:
        """A fresh updater for a stage whose epochs have `batches` steps."""
        optimiser = make_optimiser(network, stage.optimiser, device=device)
        return cls(
            network=network,
            optimiser=optimiser,
            scheduler=Scheduler(optimiser, stage, total_steps=stage.epochs * batches),
            scaler=make_scaler(stage, device),
            average=MovingAverage(network, stage.ema) if stage.ema else None,
            clip=stage.clip,
        )

    def step(self, loss: torch.Tensor) -> None:
        """Update the weights by a loss's gradient.

        A loss that is not finite changes nothing: the gradient scaler skips its step, and without one no step is taken
        on the CPU. (On other devices the check would wait for the device.)
        """
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        if loss.device.type == "cpu" and not self.scaler.is_enabled() and not bool(torch.isfinite(loss.detach())):
            return
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.scheduler.after_step()
        if self.average is not None:
            self.average.update()

    def weights(self) -> dict[str, torch.Tensor]:
        """The state that is validated and kept: the moving average if there is one, else the network's."""
        return self.network.state_dict() if self.average is None else self.average.tensors

    def to_checkpoint(self) -> Checkpoint:
        """The updater's part of a checkpoint."""
        tensors = {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(self.optimiser).items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        state = {
            "scheduler": self.scheduler.state(),
            "average_steps": 0 if self.average is None else self.average.steps,
            "scaler": self.scaler.state_dict(),
        }
        return Checkpoint(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from what `to_checkpoint` returned."""
        restore_optimiser(self.optimiser, checkpoint.part("optimiser"))
        self.scheduler.restore(checkpoint.state["scheduler"])
        if self.average is not None:
            saved = checkpoint.part("average")
            for name, tensor in self.average.tensors.items():
                if saved[name].shape != tensor.shape:
                    raise ValueError(f"average.{name} has shape {tuple(saved[name].shape)}, not {tuple(tensor.shape)}")
                tensor.copy_(saved[name])
            self.average.steps = int(checkpoint.state["average_steps"])
        if self.scaler.is_enabled() and checkpoint.state["scaler"]:  # empty if written on a device without a scaler
            self.scaler.load_state_dict(checkpoint.state["scaler"])
