"""What a recipe may contain: one frozen dataclass per table of the TOML, each field documented by the string under it.

A recipe names a network, its initial weights, and a list of stages. Each stage starts from the best weights of the
stage before. The dataclasses check their values when they are made, so that every `Recipe` can be trained.
`docs/recipes.md` is generated from this file by `python docs/tools/recipes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fer_deploy.emotions import EMOTIONS

if TYPE_CHECKING:
    from fer_deploy.labels import LabelMap  # imports numpy, which `--help` does without

OptionValue = int | float | bool | str | tuple[Any, ...]


LATER = {"later": True}
"""Marks a field that is written only where it differs from its default: records and fingerprints of runs that are older
than the field stay the same."""


def _require(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise ValueError(f"{key}: {message}")


@dataclass(frozen=True)
class Network:
    """The network."""

    name: str
    """Name of the network, such as `efficientnet-b0` or `plain`, or of any network of timm, such as `timm/resnet18`."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Arguments of the network's builder, such as `widths` and `depths` of `plain`."""
    input_size: int = 48
    """Side in pixels of the square that the network sees, 16 to 512. The exported file resizes faces to it."""

    def __post_init__(self) -> None:
        _require(16 <= self.input_size <= 512, "input_size", f"must lie in 16 to 512, got {self.input_size}")


@dataclass(frozen=True)
class Optimiser:
    """The optimiser of a stage."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """`adam`, `adamw` (decoupled weight decay) or `sgd` (Nesterov momentum)."""
    lr: float = 1e-3
    """Learning rate, up to 10. A one-cycle schedule has it as its peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments. `sgd` uses the first as its momentum."""
    weight_decay: float = 0.0
    """Weight decay, 0 to 1."""
    decay: Literal["all", "matrices"] = "matrices"
    """Which parameters decay. `matrices` leaves out biases and one-dimensional parameters (the study's "weight-decay
    split"); `all` leaves out none."""

    def __post_init__(self) -> None:
        _require(0 < self.lr <= 10, "lr", f"must lie in (0, 10], got {self.lr}")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", f"must lie in [0, 1), got {self.betas}")
        _require(0 <= self.weight_decay <= 1, "weight_decay", f"must lie in [0, 1], got {self.weight_decay}")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes within a stage."""

    name: Literal["constant", "one-cycle", "plateau"] = "constant"
    """`one-cycle` is PyTorch's OneCycleLR with cosine annealing, updated after each batch. `plateau` is
    ReduceLROnPlateau on validation accuracy."""
    warm_up: float = 0.1
    """one-cycle: share of the steps before the rate reaches its peak."""
    start_divisor: float = 25.0
    """one-cycle: the first rate is the peak divided by this."""
    final_divisor: float = 1e4
    """one-cycle: the last rate is the first divided by this."""
    cycle_momentum: bool = False
    """one-cycle: move the first beta from 0.95 down to 0.85 and back, PyTorch's default and so the study's."""
    factor: float = 0.5
    """plateau: the rate is multiplied by this when accuracy stops improving."""
    patience: int = 5
    """plateau: epochs without a better accuracy before the rate drops."""
    floor: float = 0.0
    """plateau: the lowest rate."""

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
    """`cross-entropy`, or `focal`: the mean of (1 - exp(-l))^gamma * l, where l is a face's weighted and smoothed
    cross-entropy."""
    smoothing: float = 0.0
    """Label smoothing: the share of each label that is spread over all classes."""
    gamma: float = 2.5
    """focal: the exponent."""
    class_weights: tuple[float, ...] | Literal["balanced"] = (1.0,) * len(EMOTIONS)
    """Weight of each class, in the order of the labels. `balanced`: n / (classes * count), with the n training faces
    and the count of the class among them. Seven equal numbers weigh any number of classes alike."""

    def __post_init__(self) -> None:
        _require(0 <= self.smoothing < 1, "smoothing", f"must lie in [0, 1), got {self.smoothing}")
        _require(self.gamma >= 0, "gamma", f"must not be negative, got {self.gamma}")
        if self.class_weights != "balanced":
            _require(len(self.class_weights) > 1, "class_weights", "needs a number for each class")
            _require(all(weight > 0 for weight in self.class_weights), "class_weights", "must all be positive")


@dataclass(frozen=True)
class Mixing:
    """Mixing of two faces and their labels, drawn once per batch."""

    mixup_alpha: float = 0.0
    """MixUp: the share is drawn from Beta(alpha, alpha). 0 switches MixUp off."""
    cutmix_alpha: float = 0.0
    """CutMix: the box's area is drawn from Beta(alpha, alpha). 0 switches CutMix off."""
    cutmix_probability: float = 0.5
    """With both on: the share of batches that get CutMix instead of MixUp."""
    probability: float = 1.0
    """Share of batches that are mixed."""

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
    """Random changes to each training face, applied in the order of these keys. All are off by default."""

    flip: float = 0.0
    """Probability of mirroring the face."""
    crop: int = 0
    """Black padding in pixels before a random crop to the old size (torchvision's `RandomCrop`): a shift by whole
    pixels. At most 24. Stated for a face of 48 pixels: a face of 96 pixels is shifted by up to twice as many."""
    rotation: float = 0.0
    """Largest rotation in degrees, in both directions."""
    scale: float = 0.0
    """Largest change of size: the factor lies in [1 - scale, 1 + scale]."""
    shift: float = 0.0
    """Largest shift as a share of the side, in each direction, by fractions of pixels."""
    shear: float = 0.0
    """Largest shear in degrees, in both directions."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """How rotated, scaled and shifted faces are sampled. The study rotates with `nearest`."""
    fill: Literal["zero", "edge"] = "zero"
    """What fills the area outside the picture: black, as in the study, or the repeated edge pixels."""
    brightness: float = 0.0
    """Grey levels are multiplied by a factor in [1 - brightness, 1 + brightness]."""
    contrast: float = 0.0
    """Distances from the face's mean grey are multiplied by a factor in [1 - contrast, 1 + contrast]."""
    cutout: float = 0.0
    """Probability that one box is set to mid grey, after normalisation."""
    cutout_area: tuple[float, float] = (0.01, 0.11)
    """Smallest and largest area of that box, as shares of the face."""
    cutout_aspect: float = 1.0
    """Largest aspect ratio of that box. 1 is a square."""
    trivial: bool = False
    """TrivialAugment: one operation of a fixed list for each face, with a random strength."""

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
    """Soft targets from teachers, on training faces only."""

    teachers: tuple[str, ...]
    """Complete runs in the workspace, whose probabilities are averaged. `B~mirror` is run B on the mirrored face."""
    weight: float = 0.7
    """Share of the loss that comes from the teachers. The rest comes from the labels."""
    temperature: float = 2.0
    """The logits of student and teachers are divided by this, and the loss multiplied by its square (Hinton et al.,
    2015)."""
    view: Literal["same", "cached", "plain"] = "cached"
    """What the teachers see.

    - `same`: the view that the student sees (Beyer et al., 2022).
    - `cached`: the view that the student sees, out of `views` fixed views per face, which come round again. The
      teachers label each view once. Where the augmentation mirrors faces, the student sees a view mirrored every second
      time, with the same soft label, which doubles the views. Different teachers get different views, because they
      overfit the views that they were trained on.
    - `plain`: the face without augmentation, labelled once.
    """
    views: int = 20
    """cached: views per face, 1 to 1000."""
    mixup_alpha: float = 0.0
    """cached: each view is mixed with another face, and the teachers label the mixture. The share of the face itself is
    the larger of two that sum to 1, drawn from Beta(alpha, alpha). 0 mixes nothing. The teachers overfit their training
    faces, and overfit mixtures less. A stage's own `mixing` instead mixes the soft labels of unmixed faces, except with
    `same`."""
    unlabelled: str = ""
    """Folder, relative to the workspace, of pictures with one face each and no labels. The student trains on them too,
    with the teachers' labels alone. `ferdeploy crop` makes such a folder. Not with `same`."""

    def __post_init__(self) -> None:
        _require(len(self.teachers) > 0, "teachers", "needs at least one run")
        _require(not (self.unlabelled and self.view == "same"), "unlabelled", 'needs view = "cached" or "plain"')
        _require(0 < self.weight <= 1, "weight", f"must lie in (0, 1], got {self.weight}")
        _require(0 < self.temperature <= 50, "temperature", f"must lie in (0, 50], got {self.temperature}")
        _require(1 <= self.views <= 1000, "views", f"must lie in 1 to 1000, got {self.views}")
        _require(0 <= self.mixup_alpha <= 100, "mixup_alpha", f"must lie in [0, 100], got {self.mixup_alpha}")
        _require(
            self.mixup_alpha == 0 or self.view == "cached",
            "mixup_alpha",
            f'needs view = "cached"; with {self.view!r} use the stage\'s mixing',
        )


@dataclass(frozen=True)
class Stage:
    """A part of the training, with its own optimiser and schedule."""

    epochs: int
    """Epochs that the schedule spans, and the most that the stage trains."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """The optimiser. Each stage starts a new one."""
    schedule: Schedule = field(default_factory=Schedule)
    """The learning rate's schedule."""
    loss: Loss = field(default_factory=Loss)
    """The loss."""
    mixing: Mixing = field(default_factory=Mixing)
    """MixUp and CutMix."""
    augmentation: Augmentation | None = None
    """Augmentation of this stage. By default the recipe's."""
    ran: int = 0
    """Epochs that the stage ran in the study before early stopping. The stage trains at most so many, on a schedule
    that spans `epochs`. `--epochs N` is divided among the stages in this proportion. 0: the same as `epochs`."""
    patience: int = 0
    """Early stopping: epochs without a better result by the recipe's `best_by`. 0: off."""
    goal: float = 0.0
    """The stage ends after the first epoch whose validation accuracy, 0 to 1, is at least this. 0: off."""
    batch_size: int = 128
    """Faces per step, 2 to 65536."""
    sampler: Literal["shuffled", "balanced"] = field(default="shuffled", metadata=LATER)
    """`shuffled`: an epoch shows each training face once. `balanced`: each class is equally likely. An epoch has as
    many faces as before: those of rare classes are repeated with fresh augmentation, and each epoch shows other faces
    of frequent classes. Use this or balanced `class_weights`, not both."""
    clip: float = 0.0
    """Largest norm of the gradient. 0: no clipping."""
    ema: float = 0.0
    """Decay per step of an exponential moving average of the weights, which is validated and saved in their place.
    0: no average."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Arithmetic of the forward pass. `float16` (with a gradient scaler) works on CUDA, as in the study. `bfloat16`
    works on CUDA and on processors with AMX or AVX-512 BF16. Other devices use float32."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", f"must be at least 1, got {self.epochs}")
        _require(self.ran >= 0, "ran", f"must not be negative, got {self.ran}")
        _require(self.patience >= 0, "patience", f"must not be negative, got {self.patience}")
        _require(0 <= self.goal <= 1, "goal", f"must lie in [0, 1], got {self.goal}")
        _require(2 <= self.batch_size <= 65536, "batch_size", f"must lie in 2 to 65536, got {self.batch_size}")
        _require(self.clip >= 0, "clip", f"must not be negative, got {self.clip}")
        _require(0 <= self.ema < 1, "ema", f"must lie in [0, 1), got {self.ema}")

    @property
    def length(self) -> int:
        """The most epochs that the stage trains."""
        return min(self.epochs, self.ran or self.epochs)


@dataclass(frozen=True)
class Recipe:
    """A variant: everything that determines its weights, except the data and the seed."""

    name: str
    """Name of the variant, and of its run unless `--name` gives another: letters, digits, `-`, `_`, `.`."""
    title: str
    """A short description."""
    network: Network
    """The network."""
    stages: tuple[Stage, ...]
    """The stages, in order."""
    initialisation: str = "default"
    """Initial weights: `default` (PyTorch's), `xavier`, `imagenet`, or a `.safetensors` file, relative to the current
    folder."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of all stages that have none of their own."""
    distillation: Distillation | None = None
    """Teachers. By default there are none."""
    best_by: Literal["accuracy", "loss", "macro-f1"] = "accuracy"
    """What chooses the best epoch on the validation faces: `accuracy`, as in the study; `loss` (cross-entropy), which
    varies less by chance; or `macro-f1`, the mean of the classes' F1 scores, which counts rare classes as much as
    frequent ones."""
    precise_bn: float = 0.0
    """Share of batch norm's running mean and variance that is measured again after training, on training faces without
    augmentation (Wu and Johnson, 2021), because the network is used on such faces. 0: off; 1: all."""
    labels: Literal["fer2013", "ferplus"] = "fer2013"
    """`fer2013`: the data's own labels, whatever they are. `ferplus`: the shares of FER+'s votes. A network trained on
    these is never scored as FER2013."""
    classes: tuple[str, ...] | None = field(default=None, metadata=LATER)
    """Names of the classes in their order, such as `["negative", "neutral", "positive"]`. Other labels are an error,
    unless `label_map` gives their class. By default the classes follow from the data."""
    label_map: Mapping[str, str] | str | None = field(default=None, metadata=LATER)
    """Which of the data's labels is which class, such as `{ happy = "positive", sad = "negative", calm = "-" }`. `-`
    leaves the faces of a label out. Or a text as for `--labels`, such as `"raf-db"`, the numbering of a known data
    set."""

    def __post_init__(self) -> None:
        _require(len(self.stages) > 0, "stage", "needs at least one stage")
        allowed = all(letter.isalnum() or letter in "-_.~" for letter in self.name)
        _require(
            bool(self.name) and allowed and self.name[0] not in ".-",
            "name",
            f"letters, digits, '-', '_', '.' only, got {self.name!r}",
        )
        _require(len(self.name) <= 200, "name", f"at most 200 characters, got {len(self.name)}")
        _require(0 <= self.precise_bn <= 1, "precise_bn", f"must lie in [0, 1], got {self.precise_bn}")
        if self.classes is not None:
            from fer_deploy.labels import check_labels

            try:
                object.__setattr__(self, "classes", check_labels(self.classes))  # in their normal form
            except ValueError as error:
                raise ValueError(f"classes: {error}") from error
        self.data_labels()
        mixed = self.distillation is not None and self.distillation.mixup_alpha > 0
        for number, stage in enumerate(self.stages):
            _require(
                not (mixed and stage.mixing.active),
                f"stage.{number}.mixing",
                "the distillation's mixup_alpha mixes already: remove one of them",
            )

    def data_labels(self) -> LabelMap | None:
        """How the recipe wants the data's labels to be read; None where it names neither classes nor a map."""
        if self.classes is None and self.label_map is None:
            return None
        from fer_deploy.labels import LabelMap

        try:
            if isinstance(self.label_map, str):
                parsed = LabelMap.parse(self.label_map)
            else:
                parsed = LabelMap.from_dict({"pairs": dict(self.label_map or {})})
            if self.classes is not None and parsed.classes:
                raise ValueError("names classes too: remove them here or in classes")
            return LabelMap(parsed.numbering, parsed.pairs, self.classes or parsed.classes)
        except ValueError as error:
            raise ValueError(f"label_map: {error}") from error

    def augmentation_of(self, stage: Stage) -> Augmentation:
        """The augmentation that a stage uses."""
        return stage.augmentation if stage.augmentation is not None else self.augmentation
