"""The mobile networks from timm, with a 1-channel stem: EfficientNet B0, B1, V2-S, Lite0 to 2, MobileNet V1 and V3.

The study used torchvision's. timm's have the same layers in the same order and, by fvcore, exactly the same
multiply-adds; the tests compare both libraries. Dropout and stochastic depth are torchvision's defaults, as in the
study; MobileNet V1 was not part of it. Every padding is symmetric and fixed, so that nothing in the exported graph
depends on sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import nn

from fer_deploy.models.entry import NetworkEntry, Pretrained, require_share


@dataclass(frozen=True, kw_only=True)
class MobileOptions:
    """Options of timm's networks."""

    dropout: float = 0.2
    """Share of features dropped before the last layer while training, [0, 1)."""

    drop_path: float = 0.2
    """Stochastic depth: share of samples for which the last block is skipped while training, falling linearly to 0
    at the first, [0, 1)."""

    def __post_init__(self) -> None:
        require_share("dropout", self.dropout)
        require_share("drop_path", self.drop_path)


@dataclass(frozen=True, kw_only=True)
class MobileNetOptions(MobileOptions):
    """Options of MobileNet V1 and V3, which have no stochastic depth by default."""

    drop_path: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LiteOptions(MobileOptions):
    """Options of EfficientNet-Lite0: it can be cut after any stage, thinned, and given a head of another width."""

    blocks: ClassVar[tuple[int, ...]] = (0, 2, 2, 3, 3, 4, 1)
    """Inverted residual blocks in each stage; the first has another kind of block."""

    stages: int = 7
    """How many of the seven stages are kept, 1 to 7."""

    head: int = 1280
    """Width of the 1x1 convolution before the pooling."""

    expanded: tuple[int, ...] = ()
    """Channels between the 1x1 convolutions of each inverted residual block, first to last. Empty: six times the
    block's input channels, as published. A thinner network can start from the full one's weights: see `reduce`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stages <= 7:
            raise ValueError(f"stages must be 1 to 7, got {self.stages}")
        blocks = sum(self.blocks[: self.stages])
        if self.expanded and len(self.expanded) != blocks:
            raise ValueError(f"expanded must be {blocks} widths, one for each block, got {len(self.expanded)}")
        if any(width < 1 for width in self.expanded):
            raise ValueError(f"expanded must be at least 1 everywhere, got {list(self.expanded)}")
        if self.head < 1:
            raise ValueError(f"head must be at least 1, got {self.head}")


@dataclass(frozen=True, kw_only=True)
class DeeperLiteOptions(LiteOptions):
    """Options of EfficientNet-Lite1 and Lite2, which have five more blocks."""

    blocks: ClassVar[tuple[int, ...]] = (0, 3, 3, 4, 4, 5, 1)


def _from_timm(model: str, classes: int, options: MobileOptions, **extra: Any) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(
        model,
        pretrained=False,
        in_chans=1,
        num_classes=classes,
        drop_rate=options.dropout,
        drop_path_rate=options.drop_path,
        **extra,
    )
    return network


def _efficientnet_b0(classes: int, options: MobileOptions) -> nn.Module:
    return _from_timm("efficientnet_b0", classes, options)


def _efficientnet_b1(classes: int, options: MobileOptions) -> nn.Module:
    return _from_timm("efficientnet_b1", classes, options)


def _mobilenet_v1(classes: int, options: MobileNetOptions) -> nn.Module:
    return _from_timm("mobilenetv1_100", classes, options)


def _mobilenetv3_large(classes: int, options: MobileOptions) -> nn.Module:
    # torchvision's batch norm; timm's ordinary one has epsilon 1e-5 and momentum .1
    return _from_timm("mobilenetv3_large_100", classes, options, bn_eps=1e-3, bn_momentum=0.01)


def _efficientnetv2_s(classes: int, options: MobileOptions) -> nn.Module:
    # timm pads this network as TensorFlow does, by sizes known only at run time; torchvision pads it symmetrically.
    return _from_timm("tf_efficientnetv2_s", classes, options, pad_type="")


def _efficientnet_lite(model: str, classes: int, options: LiteOptions) -> nn.Module:
    network: Any = _from_timm(model, classes, options)
    if options.stages < 7:
        network.blocks = network.blocks[: options.stages]
    if options.stages < 7 or options.head != 1280:
        channels = network.blocks[-1][-1].conv_pwl.out_channels if options.stages > 1 else 16
        network.conv_head = nn.Conv2d(channels, options.head, 1, bias=False)
        nn.init.kaiming_normal_(network.conv_head.weight, mode="fan_out")
        network.bn2 = type(network.bn2)(options.head, act_layer=nn.ReLU6)
        network.classifier = nn.Linear(options.head, classes)
        network.num_features = network.head_hidden_size = options.head
    blocks = [block for stage in network.blocks[1:] for block in stage]
    for block, width in zip(blocks, options.expanded, strict=bool(options.expanded)):
        _thin(block, width)
    module: nn.Module = network
    return module


def _thin(block: Any, width: int) -> None:
    """Give an inverted residual block `width` expanded channels, with weights drawn as in timm."""
    expand, depthwise, project = block.conv_pw, block.conv_dw, block.conv_pwl
    block.conv_pw = nn.Conv2d(expand.in_channels, width, 1, bias=False)
    block.bn1 = type(block.bn1)(width, act_layer=nn.ReLU6)
    block.conv_dw = nn.Conv2d(
        width,
        width,
        depthwise.kernel_size,
        stride=depthwise.stride,
        padding=depthwise.padding,
        groups=width,
        bias=False,
    )
    block.bn2 = type(block.bn2)(width, act_layer=nn.ReLU6)
    block.conv_pwl = nn.Conv2d(width, project.out_channels, 1, bias=False)
    for convolution in (block.conv_pw, block.conv_dw, block.conv_pwl):
        fan_out = convolution.kernel_size[0] ** 2 * convolution.out_channels // convolution.groups
        nn.init.normal_(convolution.weight, 0, (2 / fan_out) ** 0.5)


MOBILE_NETWORKS = (
    NetworkEntry(
        name="efficientnet-b0",
        build=_efficientnet_b0,
        options_type=MobileOptions,
        description="EfficientNet-B0, the network of the study's variants A to E",
        source="timm efficientnet_b0 (Tan and Le 2019)",
        gflops=0.023211,
        pretrained=Pretrained(library="timm", model="efficientnet_b0.ra_in1k", lite=0, near=True),
    ),
    NetworkEntry(
        name="efficientnet-b1",
        build=_efficientnet_b1,
        options_type=MobileOptions,
        description="EfficientNet-B1",
        source="timm efficientnet_b1 (Tan and Le 2019)",
        gflops=0.035440,
        pretrained=Pretrained(library="timm", model="efficientnet_b1.ft_in1k"),
    ),
    NetworkEntry(
        name="mobilenet-v1",
        build=_mobilenet_v1,
        options_type=MobileNetOptions,
        description="MobileNet with ReLU6; weights that recognise people exist (VGGFace2)",
        source="timm mobilenetv1_100 (Howard et al. 2017)",
        gflops=0.029,
    ),
    NetworkEntry(
        name="mobilenetv3-large",
        build=_mobilenetv3_large,
        options_type=MobileNetOptions,
        description="MobileNetV3-Large with its head of 1280",
        source="timm mobilenetv3_large_100 (Howard et al. 2019)",
        gflops=0.014446,
        pretrained=Pretrained(library="torchvision", model="mobilenet_v3_large"),
        pooled_convolutions=("conv_head",),
    ),
    NetworkEntry(
        name="efficientnetv2-s",
        build=_efficientnetv2_s,
        options_type=MobileOptions,
        description="EfficientNetV2-S, padded symmetrically as torchvision's",
        source="timm tf_efficientnetv2_s (Tan and Le 2021)",
        gflops=0.156170,
        pretrained=Pretrained(library="torchvision", model="efficientnet_v2_s"),
    ),
    NetworkEntry(
        name="efficientnet-lite0",
        build=partial(_efficientnet_lite, "efficientnet_lite0"),
        options_type=LiteOptions,
        description="EfficientNet-Lite0: no squeeze-and-excitation, ReLU6; quantises well",
        source="timm efficientnet_lite0 (Liu 2020)",
        gflops=0.022468,
        pretrained=Pretrained(library="timm", model="tf_efficientnet_lite0.in1k", lite=0),
    ),
    NetworkEntry(
        name="efficientnet-lite1",
        build=partial(_efficientnet_lite, "efficientnet_lite1"),
        options_type=DeeperLiteOptions,
        description="EfficientNet-Lite1: as Lite0, five blocks deeper",
        source="timm efficientnet_lite1 (Liu 2020)",
        gflops=0.028870,
        pretrained=Pretrained(library="timm", model="tf_efficientnet_lite1.in1k", lite=1),
    ),
    NetworkEntry(
        name="efficientnet-lite2",
        build=partial(_efficientnet_lite, "efficientnet_lite2"),
        options_type=DeeperLiteOptions,
        description="EfficientNet-Lite2: as Lite1, a tenth wider",
        source="timm efficientnet_lite2 (Liu 2020)",
        gflops=0.033170,
        pretrained=Pretrained(library="timm", model="tf_efficientnet_lite2.in1k", lite=2),
    ),
)
"""The entries of this module, for the registry."""
