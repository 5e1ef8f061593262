"""What runtimes take, as tables; the tests ask the runtimes themselves.

Measured with TensorRT for RTX 1.7, ONNX Runtime 1.31 and OpenVINO 2026.4. TensorRT's own parser
is the same as that of TensorRT for RTX, which has no plugins.
"""

from __future__ import annotations

from collections.abc import Mapping

NEWEST = {"onnxruntime": (26, 13)}
"""By backend: the newest opset and the newest IR version that it reads. Others do not look."""

QOPERATORS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""Operators on integers, instead of Q/DQ."""

_TENSORRT = frozenset(
    {
        "AffineGrid",
        "Bernoulli",
        "BitCast",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "CenterCropPad",
        "Col2Im",
        "Compress",
        "ConcatFromSequence",
        "CumProd",
        "DFT",
        "DeformConv",
        "Det",
        "ImageDecoder",
        "MaxRoiPool",
        "MaxUnpool",
        "MelWeightMatrix",
        "Multinomial",
        "NegativeLogLikelihoodLoss",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "RegexFullMatch",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SoftmaxCrossEntropyLoss",
        "SplitToSequence",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "SwiGLU",
        "TfIdfVectorizer",
        "Unique",
    }
)
UNKNOWN = {
    "tensorrt": _TENSORRT,
    # These are plugins, which TensorRT for RTX does not bring.
    "tensorrt-rtx": _TENSORRT | {"CausalConvWithState", "LinearAttention", "NonZero", "RoiAlign"},
    "onnxruntime": frozenset({"ImageDecoder"}),
    "openvino": frozenset(
        {
            "Bernoulli",
            "BitCast",
            "CausalConvWithState",
            "ConcatFromSequence",
            "CumProd",
            "DeformConv",
            "Det",
            "ImageDecoder",
            "LinearAttention",
            "MaxUnpool",
            "MelWeightMatrix",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "RegexFullMatch",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
            "StringConcat",
            "StringNormalizer",
            "StringSplit",
            "SwiGLU",
            "TensorScatter",
            "TfIdfVectorizer",
        }
    ),
}
"""By backend: standard operators that it has no implementation of."""

_MICROSOFT = "com.microsoft"
# ONNX Runtime's optimiser writes it, in the standard domain.
_ANYWHERE = frozenset({"SimplifiedLayerNormalization"})
_PLUGINS = frozenset(
    {
        "DisentangledAttention_TRT",
        "EfficientNMS_TRT",
        "ModulatedDeformConv2d",
        "MultiscaleDeformableAttnPlugin_TRT",
        "ROIAlign_TRT",
    }
)
_TENSORRT_TAKES = frozenset(
    {
        "DequantizeLinear",
        "Gelu",
        "GroupQueryAttention",
        "MatMulNBits",
        "MultiHeadAttention",
        "QuantizeLinear",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
CUSTOM: Mapping[str, Mapping[str, frozenset[str] | None]] = {
    "tensorrt": {"": _ANYWHERE | _PLUGINS, _MICROSOFT: _TENSORRT_TAKES},
    "tensorrt-rtx": {"": _ANYWHERE, _MICROSOFT: _TENSORRT_TAKES},
    "onnxruntime": {"": _ANYWHERE, _MICROSOFT: None, "ai.onnx.ml": None},
    "openvino": {
        "": _ANYWHERE,
        _MICROSOFT: frozenset(
            {
                "BiasAdd",
                "BiasGelu",
                "DequantizeLinear",
                "DynamicQuantizeMatMul",
                "EmbedLayerNormalization",
                "FastGelu",
                "FusedConv",
                "FusedGemm",
                "FusedMatMul",
                "Gelu",
                "GroupNorm",
                "GroupQueryAttention",
                "MatMulIntegerToFloat",
                "MatMulNBits",
                "MultiHeadAttention",
                "QLinearAdd",
                "QLinearAveragePool",
                "QLinearConcat",
                "QLinearLeakyRelu",
                "QLinearMul",
                "QLinearReduceMean",
                "QLinearSigmoid",
                "QLinearSoftmax",
                "QLinearWhere",
                "QuantizeLinear",
                "QuickGelu",
                "RotaryEmbedding",
                "SimplifiedLayerNormalization",
                "SkipLayerNormalization",
                "SkipSimplifiedLayerNormalization",
            }
        ),
    },
}
"""By backend and domain: operators beyond the standard that it has; None for all of them."""

AXES = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Squeeze",
        "Unsqueeze",
    }
)
"""Operators whose second input holds axes, which TensorRT must know when it builds."""

SINCE = {
    **dict.fromkeys(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"), 19),
    **dict.fromkeys(("int4", "uint4", "int16", "uint16"), 21),
    "float4e2m1": 23,
}
"""The first opset whose Q/DQ stores a type."""
CHANNELS_SINCE = 13
"""The first opset whose Q/DQ has an axis."""

STORED = frozenset({"int8", "float8e4m3fn", "int4", "float4e2m1"})
"""What TensorRT's Q/DQ may store."""
FP8 = frozenset({"float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"})
FP8_CAPABILITY = (8, 9)
"""Ada, and what came after it."""
