"""Early exit: the first layers of a model as a model of its own, which guesses what the whole one will say.

The embedding, the layers, the final norm and the output matrix are the target's own, so it costs no memory. What it
costs in time is mostly the output matrix, which has to be multiplied out all the same.

Sources: "Draft & Verify: Lossless Large Language Model Acceleration via Self-Speculative Decoding", arXiv 2309.08168;
"LayerSkip: Enabling Early Exit Inference and Self-Speculative Decoding", 2404.16710, which trains the model for it.
A model that was not trained for it, such as the embedded one, says little of use before its last layers.
"""

from __future__ import annotations

import copy

from torch import nn

from engines.errors import BadParameter
from engines.models.causal import CausalModel


def early_exit(target: CausalModel, layers: int) -> CausalModel:
    """The first `layers` layers of `target`. Raises `BadParameter` if it has no more than that, or no list of them."""
    body = target.network.base_model
    stack = getattr(body, "layers", None)
    if not isinstance(stack, nn.ModuleList) or not hasattr(target.network.config, "num_hidden_layers"):
        raise BadParameter(f"{target.title} does not show its layers, so it has no early exit. Choose another draft.")
    if not 1 <= layers < len(stack):
        raise BadParameter(
            f"{target.title} has {len(stack)} layers; "
            f"an early exit is after one of the first {len(stack) - 1}, not {layers}."
        )
    network = copy.copy(target.network)
    network._modules = dict(target.network._modules)
    network.config = copy.copy(target.network.config)
    network.config.num_hidden_layers = layers
    short = copy.copy(body)
    short._modules = dict(body._modules)
    short.layers = stack[:layers]
    short.config = network.config
    setattr(network, network.base_model_prefix, short)
    return CausalModel(
        network,
        target.tokenizer,
        name=f"{target.name}, layers 1-{layers}",
        title=f"the first {layers} layers of {target.title}",
        precision=target.precision,
        weights=target.weights,
        steady=target.steady,
    )
