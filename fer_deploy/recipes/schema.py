"""What a recipe may say: one frozen dataclass a table of the TOML, each field documented by the string under it.

A recipe is a network, where its weights start, and a list of stages; a later stage starts from the best weights of
the stage before. Every value is checked when it is made, so a `Recipe` that exists can be trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OptionValue = int | float | bool | str | tuple[Any, ...]


def _require(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise ValueError(f"{key}: {message}")


@dataclass(frozen=True)
class Network:
    """The network, by its name in `fer_deploy.models`."""

    name: str
    """Name in the registry, such as `efficientnet-b0` or `plain`."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """What the network's builder takes, such as `widths` and `depths` of `plain`."""
    input_size: int = 48
    """Side in pixels of the square that the network sees; faces are resized to it inside the graph."""

    def __post_init__(self) -> None:
        _require(16 <= self.input_size <= 512, "input_size", f"must lie in 16 to 512, got {self.input_size}")


@dataclass(frozen=True)
class Optimiser:
    """The optimiser of a stage."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """`adam`, `adamw` (decoupled weight decay) or `sgd` (Nesterov momentum)."""
    lr: float = 1e-3
    """Learning rate; a one-cycle schedule takes it as its peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments; `sgd` takes the first as its momentum."""
    weight_decay: float = 0.0
    """Weight decay."""
    decay: Literal["all", "matrices"] = "matrices"
    """`matrices`: none on one-dimensional parameters and biases (the study's "weight-decay split"); `all`: on all."""

    def __post_init__(self) -> None:
        _require(0 < self.lr <= 10, "lr", f"must lie in (0, 10], got {self.lr}")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", f"must lie in [0, 1), got {self.betas}")
        _require(0 <= self.weight_decay <= 1, "weight_decay", f"must lie in [0, 1], got {self.weight_decay}")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes within a stage."""

    name: Literal["constant", "one-cycle", "plateau"] = "constant"
    """`one-cycle` is OneCycleLR with cosine annealing, stepped each batch; `plateau` is ReduceLROnPlateau on validation
    accuracy."""
    warm_up: float = 0.1
    """one-cycle: share of the steps in which the rate rises to its peak."""
    start_divisor: float = 25.0
    """one-cycle: the first rate is the peak divided by this."""
    final_divisor: float = 1e4
    """one-cycle: the last rate is the first divided by this."""
    cycle_momentum: bool = False
    """one-cycle: run the first beta from .95 down to .85 and back, PyTorch's default and so what the study ran."""
    factor: float = 0.5
    """plateau: what the rate is multiplied by."""
    patience: int = 5
    """plateau: epochs without a better accuracy before it is."""
    floor: float = 0.0
    """plateau: the rate goes no lower."""

    def __post_init__(self) -> None:
        _require(0 < self.warm_up < 1, "warm_up", f"must lie in (0, 1), got {self.warm_up}")
        _require(self.start_divisor >= 1, "start_divisor", f"must be at least 1, got {self.start_divisor}")
        _require(self.final_divisor >= 1, "final_divisor", f"must be at least 1, got {self.final_divisor}")
        _require(0 < self.factor < 1, "factor", f"must lie in (0, 1), got {self.factor}")
        _require(self.patience >= 0, "patience", f"must not be negative, got {self.patience}")
        _require(self.floor >= 0, "floor", f"must not be negative, got {self.floor}")


@dataclass(frozen=True)
class Loss:
    """The loss of a stage."""

    name: Literal["cross-entropy", "focal"] = "cross-entropy"
    """`focal`: the mean of (1 - exp(-l))^gamma * l, l being each face's weighted, smoothed cross-entropy."""
    smoothing: float = 0.0
    """Label smoothing: this much of each label is spread over all seven classes."""
    gamma: float = 2.5
    """focal: the exponent."""
    class_weights: tuple[float, ...] = (1.0,) * 7
    """Weight of each class, in the order of the labels."""

    def __post_init__(self) -> None:
        _require(0 <= self.smoothing < 1, "smoothing", f"must lie in [0, 1), got {self.smoothing}")
        _require(self.gamma >= 0, "gamma", f"must not be negative, got {self.gamma}")
        _require(len(self.class_weights) == 7, "class_weights", f"needs seven numbers, got {len(self.class_weights)}")
        _require(all(weight > 0 for weight in self.class_weights), "class_weights", "must all be positive")


@dataclass(frozen=True)
class Mixing:
    """Mixing of two faces and their labels; one draw a batch."""

    mixup_alpha: float = 0.0
    """MixUp: the share comes from Beta(alpha, alpha); 0 leaves MixUp out."""
    cutmix_alpha: float = 0.0
    """CutMix: the box's area comes from Beta(alpha, alpha); 0 leaves CutMix out."""
    cutmix_probability: float = 0.5
    """Where both are in: the share of batches that get CutMix rather than MixUp."""
    probability: float = 1.0
    """Share of batches that are mixed at all."""

    def __post_init__(self) -> None:
        _require(self.mixup_alpha >= 0, "mixup_alpha", f"must not be negative, got {self.mixup_alpha}")
        _require(self.cutmix_alpha >= 0, "cutmix_alpha", f"must not be negative, got {self.cutmix_alpha}")
        for key in ("cutmix_probability", "probability"):
            _require(0 <= getattr(self, key) <= 1, key, f"must lie in [0, 1], got {getattr(self, key)}")

    @property
    def active(self) -> bool:
        """Whether any batch is mixed."""
        return self.probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to each training face, in the order of these fields. Everything is off unless it is named."""

    flip: float = 0.0
    """Probability of a horizontal mirror image."""
    crop: int = 0
    """Zero padding in pixels before a random crop back to size (`RandomCrop`): a whole-pixel shift by up to this."""
    rotation: float = 0.0
    """Largest turn in degrees, either way."""
    scale: float = 0.0
    """Largest change of size: the factor lies in [1 - scale, 1 + scale]."""
    shift: float = 0.0
    """Largest shift as a share of the side, each way, not of whole pixels."""
    shear: float = 0.0
    """Largest shear in degrees, either way."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """How turned, scaled or shifted faces are sampled. The study's rotation is `nearest`."""
    fill: Literal["zero", "edge"] = "zero"
    """What lies outside the picture: black (the study's), or its edge pixels repeated."""
    brightness: float = 0.0
    """Grey levels are multiplied by a factor in [1 - brightness, 1 + brightness]."""
    contrast: float = 0.0
    """The distance from the face's mean grey is multiplied by a factor in [1 - contrast, 1 + contrast]."""
    cutout: float = 0.0
    """Probability that one square is set to mid grey, after normalising."""
    cutout_area: tuple[float, float] = (0.01, 0.11)
    """Smallest and largest area of that square, as shares of the face."""
    cutout_aspect: float = 1.0
    """Largest aspect ratio of the erased box; 1 is a square."""
    trivial: bool = False
    """TrivialAugment's policy: one operation of a fixed list, drawn with its strength, for each face."""

    def __post_init__(self) -> None:
        for key in ("flip", "cutout"):
            _require(0 <= getattr(self, key) <= 1, key, f"must lie in [0, 1], got {getattr(self, key)}")
        _require(0 <= self.crop <= 24, "crop", f"must lie in 0 to 24, got {self.crop}")
        _require(0 <= self.rotation <= 180, "rotation", f"must lie in 0 to 180, got {self.rotation}")
        _require(0 <= self.shear <= 45, "shear", f"must lie in 0 to 45, got {self.shear}")
        for key in ("scale", "shift", "brightness", "contrast"):
            _require(0 <= getattr(self, key) < 1, key, f"must lie in [0, 1), got {getattr(self, key)}")
        low, high = self.cutout_area
        _require(0 < low <= high < 1, "cutout_area", f"must be two rising shares below 1, got {self.cutout_area}")
        _require(self.cutout_aspect >= 1, "cutout_aspect", f"must be at least 1, got {self.cutout_aspect}")


@dataclass(frozen=True)
class Distillation:
    """Soft targets from teachers, on training faces alone."""

    teachers: tuple[str, ...]
    """Names of complete runs in the workspace, `B~mirror` for run B shown the mirrored face; their probabilities are
    averaged."""
    weight: float = 0.7
    """Share of the loss that comes from the teachers; the labels give the rest."""
    temperature: float = 2.0
    """Both sides' logits are divided by this, and the loss multiplied by its square (Hinton et al., 2015)."""
    view: Literal["same", "cached", "plain"] = "cached"
    """What the teachers see. `same`: the very view that the student sees (Beyer et al., 2022); `cached`: the same, of
    `views` views a face that come round again, each answered once and kept (every second time, where the augmentation
    mirrors faces at all, the pupil sees them mirrored: the answer stands, and the pupil has twice as many to learn by
    heart; other teachers get other views, since they know by heart the ones that they learned from); `plain`: the face
    as it is, answered once and kept."""
    views: int = 20
    """cached: views a face."""
    mixup_alpha: float = 0.0
    """cached: each view of a face is mixed with another face's, and the teachers are asked about the mixture. The
    shown face's share is the larger of two that come from Beta(alpha, alpha); 0 mixes nothing. The teachers know the
    faces by heart, and the mixtures far less. (A stage's own `mixing` mixes the answers to unmixed faces, except under
    `same`.)"""
    unlabelled: str = ""
    """Folder, relative to the workspace, of pictures of one face each that are learned from too, as the teachers name
    them: nobody's labels, and nothing that the teachers know by heart. Not under `same`."""

    def __post_init__(self) -> None:
        _require(len(self.teachers) > 0, "teachers", "needs at least one run")
        _require(not (self.unlabelled and self.view == "same"), "unlabelled", 'goes with view = "cached" or "plain"')
        _require(0 < self.weight <= 1, "weight", f"must lie in (0, 1], got {self.weight}")
        _require(0 < self.temperature <= 50, "temperature", f"must lie in (0, 50], got {self.temperature}")
        _require(1 <= self.views <= 1000, "views", f"must lie in 1 to 1000, got {self.views}")
        _require(0 <= self.mixup_alpha <= 100, "mixup_alpha", f"must lie in [0, 100], got {self.mixup_alpha}")
        _require(
            self.mixup_alpha == 0 or self.view == "cached",
            "mixup_alpha",
            f'goes with view = "cached"; under {self.view!r} use the stage\'s mixing',
        )


@dataclass(frozen=True)
class Stage:
    """One stretch of training, with an optimiser and a schedule of its own."""

    epochs: int
    """Epochs that the schedule spans, and the most that the stage trains."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """The optimiser, fresh in each stage."""
    schedule: Schedule = field(default_factory=Schedule)
    """The learning rate's schedule."""
    loss: Loss = field(default_factory=Loss)
    """The loss."""
    mixing: Mixing = field(default_factory=Mixing)
    """MixUp and CutMix."""
    augmentation: Augmentation | None = None
    """Augmentation of this stage, where it is not the recipe's."""
    ran: int = 0
    """Epochs that this stage ran in the study before it stopped by itself. The stage trains at most as many, on a
    schedule that spans `epochs`, and `--epochs N` is shared in their proportion. 0: `epochs`."""
    patience: int = 0
    """Epochs without a better validation accuracy before the stage ends; 0 never ends it early."""
    batch_size: int = 128
    """Faces a step."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    ema: float = 0.0
    """Decay a step of the exponential moving average of the weights that is validated and kept; 0: the weights
    themselves."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Arithmetic of the forward pass where the device has it: `float16` (with a gradient scaler) on CUDA alone, as the
    study's; `bfloat16` on CUDA and on processors with AMX or AVX-512 BF16; float32 elsewhere."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", f"must be at least 1, got {self.epochs}")
        _require(self.ran >= 0, "ran", f"must not be negative, got {self.ran}")
        _require(self.patience >= 0, "patience", f"must not be negative, got {self.patience}")
        _require(2 <= self.batch_size <= 65536, "batch_size", f"must lie in 2 to 65536, got {self.batch_size}")
        _require(self.clip >= 0, "clip", f"must not be negative, got {self.clip}")
        _require(0 <= self.ema < 1, "ema", f"must lie in [0, 1), got {self.ema}")

    @property
    def length(self) -> int:
        """The most epochs that the stage trains."""
        return min(self.epochs, self.ran or self.epochs)


@dataclass(frozen=True)
class Recipe:
    """A variant: everything that decides its weights but the data and the seed."""

    name: str
    """Name of the variant and, unless `--name` says otherwise, of its run."""
    title: str
    """What it is, in a few words."""
    network: Network
    """The network."""
    stages: tuple[Stage, ...]
    """The stages, in order."""
    initialisation: str = "default"
    """`default` (PyTorch's), `xavier`, `imagenet`, or a weights file."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of all stages that name none."""
    distillation: Distillation | None = None
    """Teachers, if any."""
    best_by: Literal["accuracy", "loss"] = "accuracy"
    """What chooses the best epoch, on PublicTest: accuracy, as in the study, or cross-entropy, which wavers less."""
    precise_bn: float = 0.0
    """Share of batch norm's running mean and variance that is measured anew at the end, on training faces as they are
    (Wu and Johnson, 2021): networks learn from turned, cut and mixed ones, and read others."""
    labels: Literal["fer2013", "ferplus"] = "fer2013"
    """`ferplus` trains on the shares of FER+'s votes, and is never scored as FER2013."""

    def __post_init__(self) -> None:
        _require(len(self.stages) > 0, "stage", "needs at least one stage")
        allowed = all(letter.isalnum() or letter in "-_.~" for letter in self.name)
        _require(
            bool(self.name) and allowed and self.name[0] not in ".-",
            "name",
            f"letters, digits, '-', '_', '.' only, got {self.name!r}",
        )
        _require(0 <= self.precise_bn <= 1, "precise_bn", f"must lie in [0, 1], got {self.precise_bn}")
        mixed = self.distillation is not None and self.distillation.mixup_alpha > 0
        for number, stage in enumerate(self.stages):
            _require(
                not (mixed and stage.mixing.active),
                f"stage.{number}.mixing",
                "the distillation's mixup_alpha mixes already: leave one of them out",
            )

    def augmentation_of(self, stage: Stage) -> Augmentation:
        """The augmentation in effect in a stage."""
        return stage.augmentation if stage.augmentation is not None else self.augmentation
