"""What PEFT trained, as layers that hooks can see: embeddings, vocabulary heads, magnitudes and scales.

PEFT's layers for linear targets of LoRA are composed of `nn.Linear` and stay as they are. Others hold bare parameters,
or hide the table that a model looks up in; these are replaced by modules that compute the same.
"""

import copy
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from proponent.errors import MissingExtraError
from proponent.models.trained_parts import Trained, note_trained

ADAPTER = "default"
"""The name that PEFT gives to the adapter that is loaded."""


def peft_library() -> Any:
    """PEFT, which is an optional extra."""
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("this run is a PEFT adapter: pip install 'proponent[peft]'") from error
    return peft


def lora(model: nn.Module, rank: int) -> nn.Module:
    """Add a LoRA adapter to every linear layer of a model, drawn from torch's current random state."""
    settings = peft_library().LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matters between peft and transformers
        return cast("nn.Module", peft_library().get_peft_model(model, settings))


def fixed_layer(model: nn.Module) -> str | None:
    """The first layer whose output would not follow its trained parameters if they moved; None if all would."""
    # magnitudes are divided by norms, and tables are merged, as they were when the model was loaded
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    return next((name for name, one in named if isinstance(one, DoraLinear | _Merged)), None)


def note_adapter(model: nn.Module, kind: str) -> None:
    """Note which parameters an adapter trained, before all are frozen."""
    named = cast("Iterable[tuple[str, nn.Parameter]]", model.named_parameters(remove_duplicate=False))
    found = {name: one for name, one in named if one.requires_grad}
    table = saved_copy(cast("Any", model).get_input_embeddings())
    own = {id(one) for one in table.parameters()}
    embedding = any(id(one) in own for one in found.values())
    said = f"{kind} on {_places(found)}; all other parameters were frozen"
    note_trained(model, Trained(frozenset(found), embedding, said, adapter=True))


def saved_copy(module: nn.Module) -> nn.Module:
    """The trained copy of a module that PEFT saves whole (modules_to_save); other modules as they are."""
    if type(module).__name__ != "ModulesToSaveWrapper":
        return module
    wrapper = cast("Any", module)
    return wrapper.modules_to_save[wrapper.active_adapters[0]]


def show_layers(model: nn.Module) -> None:
    """Replace PEFT's layers whose trained parameters, or whose table, no hook can see."""
    head = cast("Any", model).get_output_embeddings()
    tables: dict[int, nn.Parameter] = {}
    replaced: list[str] = []
    for name, module in list(cast("Iterable[tuple[str, nn.Module]]", model.named_modules())):
        inside = any(name.startswith(f"{one}.") for one in replaced[-1:])  # modules follow the one that holds them
        made = None if inside else _shown(module, tables, is_head=module is head)
        if made is not None:
            home, _, own = name.rpartition(".")
            setattr(model.get_submodule(home), own, made)
            replaced.append(name)
    _tie(cast("Any", model))


class Scale(nn.Module):
    """A trained factor for every column."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().flatten(), requires_grad=weight.requires_grad)

    def forward(self, x: Float[Tensor, "*n o"]) -> Float[Tensor, "*n o"]:
        """Multiply each column by its factor."""
        return x * self.weight


class DoraLinear(nn.Module):
    """A linear layer with LoRA whose output columns have trained magnitudes; their norms count as constants."""

    def __init__(self, tuned: Any) -> None:
        super().__init__()
        self.base_layer, self.lora_A, self.lora_B = tuned.base_layer, tuned.lora_A, tuned.lora_B
        self.lora_magnitude_vector = nn.ModuleDict({ADAPTER: Scale(tuned.lora_magnitude_vector[ADAPTER].weight)})
        self.scaling = float(tuned.scaling[ADAPTER])
        weight = self.base_layer.weight.detach()
        weight = weight.T if tuned.fan_in_fan_out else weight
        low = self.lora_B[ADAPTER].weight.detach() @ self.lora_A[ADAPTER].weight.detach()
        self.norm: Tensor
        self.register_buffer("norm", _norm(weight + self.scaling * low, 1), persistent=False)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Add the low-rank part and give every column its magnitude; the base layer's bias stays as it is."""
        bias = cast("Tensor | None", self.base_layer.bias)
        plain = self.base_layer(x) if bias is None else self.base_layer(x) - bias
        low = self.lora_B[ADAPTER](self.lora_A[ADAPTER](x)) * self.scaling
        made = self.lora_magnitude_vector[ADAPTER]((plain + low) / self.norm.to(plain.dtype))
        return made if bias is None else made + bias


class Ia3Linear(nn.Module):
    """A linear layer whose input or output columns are scaled."""

    def __init__(self, tuned: Any) -> None:
        super().__init__()
        self.base_layer, self.before = tuned.base_layer, bool(tuned.is_feedforward)
        self.ia3_l = nn.ModuleDict({ADAPTER: Scale(tuned.ia3_l[ADAPTER])})

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Scale before or after the layer."""
        scale = self.ia3_l[ADAPTER]
        return self.base_layer(scale(x)) if self.before else scale(self.base_layer(x))


class _Merged(nn.Module):
    """Mixed into the class of a layer whose weight includes what its adapter changed.

    The adapter adds its own output and subtracts the same values as constants: the output stays that of the merged
    weight, and the adapter's parameters get their gradients.
    """

    adapter: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer with its merged weight."""
        change = self.adapter(x.detach())  # the merged weight passes the gradient on
        return super().forward(x) + (change - change.detach())


class _LowRank(nn.Module):
    """Two factors of LoRA on an embedding or on a vocabulary head."""

    def __init__(self, first: nn.Module, second: nn.Module, factor: float) -> None:
        super().__init__()
        self.lora_A, self.lora_B, self.factor = first, second, factor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by both factors."""
        return self.lora_B(self.lora_A(x)) * self.factor


class _Dora(_LowRank):
    """The same with a trained magnitude for every column, which also multiplies the base layer's output."""

    def __init__(self, first: nn.Module, second: nn.Module, factor: float, tuned: Any, norm: Tensor) -> None:
        super().__init__(first, second, factor)
        self.lora_magnitude_vector = Scale(tuned.lora_magnitude_vector[ADAPTER].weight)
        base = tuned.get_base_layer()
        self.plain = functional.embedding if isinstance(base, nn.Embedding) else functional.linear
        self.scale = float(getattr(base, "embed_scale", 1.0))
        self.base: Tensor
        self.norm: Tensor
        self.register_buffer("base", base.weight.detach(), persistent=False)
        self.register_buffer("norm", norm, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the factors to the base layer's output and give every column its magnitude."""
        plain = self.plain(x, self.base) * self.scale
        return self.lora_magnitude_vector((plain + super().forward(x)) / self.norm.to(plain.dtype))


class _Tokens(nn.Module):
    """Trained rows of a word embedding."""

    def __init__(self, rows: nn.Parameter, indices: Int[Tensor, " k"], size: int, factor: float) -> None:
        super().__init__()
        self.trainable_tokens = nn.Embedding(int(rows.shape[0]), int(rows.shape[1]), _weight=rows)
        self.trainable_tokens.weight = rows
        self.factor = factor
        self.indices: Tensor
        self.register_buffer("indices", indices, persistent=False)
        self.places: Tensor
        places = torch.full((size,), -1, device=indices.device)
        places = places.index_copy(0, indices, torch.arange(len(indices), device=indices.device))
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """Look the trained rows up; zero for all other tokens."""
        places = self.places[x]
        rows = self.trainable_tokens(places.clamp(min=0))
        return rows * ((places >= 0) * self.factor).to(rows.dtype)[..., None]


class _TokenLogits(nn.Module):
    """Trained rows of a vocabulary head."""

    def __init__(self, rows: nn.Parameter, indices: Int[Tensor, " k"], size: int) -> None:
        super().__init__()
        self.trainable_tokens = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
        self.trainable_tokens.weight = rows
        self.size = size
        self.indices: Tensor
        self.register_buffer("indices", indices, persistent=False)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Place the logits of the trained rows; zero for all other tokens."""
        return x.new_zeros(*x.shape[:-1], self.size).index_copy(-1, self.indices, self.trainable_tokens(x))


def _shown(module: nn.Module, tables: dict[int, nn.Parameter], *, is_head: bool) -> nn.Module | None:
    """The layer in place of one of PEFT's; None where nothing is hidden."""
    home, name, tuned = type(module).__module__.split("."), type(module).__name__, cast("Any", module)
    if home[0] != "peft":
        return None
    if name in {"TrainableTokensWrapper", "TrainableTokensLayer"}:
        return _with_tokens(getattr(tuned, "token_adapter", tuned), tables)
    if "ia3" in home and name == "Linear":
        return Ia3Linear(tuned)
    if "lora" not in home:
        return None
    if name == "Embedding":
        return _with_factors(tuned, *_embedding_factors(tuned))
    if name == "Linear" and is_head:
        return _with_factors(tuned, tuned.lora_A[ADAPTER], tuned.lora_B[ADAPTER])
    return DoraLinear(tuned) if name == "Linear" and ADAPTER in tuned.lora_variant else None


def _embedding_factors(tuned: Any) -> tuple[nn.Module, nn.Module]:
    """The factors of LoRA on an embedding as a small table and a linear layer."""
    table, out = tuned.lora_embedding_A[ADAPTER], tuned.lora_embedding_B[ADAPTER]
    first = nn.Embedding(table.shape[1], table.shape[0], padding_idx=tuned.get_base_layer().padding_idx)
    second = nn.Linear(out.shape[1], out.shape[0], bias=False)
    first.weight = nn.Parameter(table.detach().T.contiguous(), requires_grad=table.requires_grad)
    second.weight = nn.Parameter(out.detach().clone(), requires_grad=out.requires_grad)
    return first, second


def _with_factors(tuned: Any, first: nn.Module, second: nn.Module) -> nn.Module:
    base = tuned.get_base_layer()
    embeds = isinstance(base, nn.Embedding)
    adapted: Tensor = base.weight.detach() + tuned.get_delta_weight(ADAPTER).detach()
    factor = tuned.scaling[ADAPTER] * float(getattr(base, "embed_scale", 1.0))
    if ADAPTER not in tuned.lora_variant:
        return _merged(base, nn.Parameter(adapted, requires_grad=False), _LowRank(first, second, factor))
    norm = _norm(adapted, 0 if embeds else 1)
    share = tuned.lora_magnitude_vector[ADAPTER].weight.detach() / norm
    adapted *= share if embeds else share[:, None]
    return _merged(base, nn.Parameter(adapted, requires_grad=False), _Dora(first, second, factor, tuned, norm))


def _with_tokens(layer: Any, tables: dict[int, nn.Parameter]) -> nn.Module:
    """A table or a head with trained rows; a head that shares the base's table shares the merged one."""
    base = layer.base_layer
    rows = layer.trainable_tokens_delta[ADAPTER]
    indices = torch.tensor(layer.token_indices[ADAPTER], device=base.weight.device)
    if id(base.weight) not in tables:
        merged = base.weight.detach().index_copy(0, indices, rows.detach().to(base.weight))
        tables[id(base.weight)] = nn.Parameter(merged, requires_grad=False)
    size, scale = base.weight.shape[0], float(getattr(base, "embed_scale", 1.0))
    embeds = isinstance(base, nn.Embedding)
    change = _Tokens(rows, indices, size, scale) if embeds else _TokenLogits(rows, indices, size)
    return _merged(base, tables[id(base.weight)], change)


def _merged(base: nn.Module, weight: nn.Parameter, change: nn.Module) -> nn.Module:
    """A copy of a layer with another weight that adds what an adapter changed."""
    made = copy.copy(base)
    for name, held in vars(base).items():
        if isinstance(held, dict):
            vars(made)[name] = copy.copy(cast("dict[str, object]", held))
    made.__class__ = type(f"Adapted{type(base).__name__}", (_Merged, type(base)), {})
    made.weight = weight
    made.adapter = change
    return made


def _tie(model: Any) -> None:
    """Let a vocabulary head share the table again where both were adapted alike."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, _Merged) or not isinstance(head, _Merged):
        return
    rows, out = cast("Tensor", table.weight), cast("Tensor", head.weight)
    if rows.device == out.device and rows.shape == out.shape and torch.equal(rows, out):
        head.weight = table.weight


def _norm(weight: Tensor, dim: int) -> Tensor:
    return cast("Any", torch).linalg.norm(weight, dim=dim)


def _places(found: dict[str, nn.Parameter]) -> str:
    """Say which modules the parameters belong to, in the user's names, with their number."""
    own = {id(one): one for one in found.values()}
    whole = dict.fromkeys(_module(name) for name in found if ".modules_to_save" in name)
    names = dict.fromkeys(name for name in map(_module, found) if name not in whole)
    some = [_listed(names)] if names else []
    some += [f"{_listed(whole)} saved whole"] if whole else []
    return f"{' and '.join(some)} ({sum(one.numel() for one in own.values()):,} parameters)"


def _listed(names: Mapping[str, None]) -> str:
    return ", ".join([*names][:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _module(name: str) -> str:
    """The module that a trained parameter belongs to, as target_modules or modules_to_save name it."""
    before = re.split(r"\.(?:lora_|ia3_|adapter\.|modules_to_save|trainable_tokens|base_layer)", name)[0]
    return before.rsplit(".", 1)[-1] if before != name else name.rsplit(".", 2)[-2]
