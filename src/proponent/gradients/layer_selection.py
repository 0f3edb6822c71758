"""Which layers a method scores: groups and patterns over module names, and what they exclude."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from proponent.errors import InputError, RunError
from proponent.gradients.dry_run import Order, dry_run
from proponent.gradients.layer_rules import Block, Rule, is_vector, rule_of
from proponent.gradients.model_parts import lookups, vocabulary_head
from proponent.models.adapter_modules import trained_of
from proponent.suggest import nearest

GROUPS = {
    "all": "every supported layer",
    "embeddings": "every embedding table",
    "linear": "every linear and convolutional layer",
    "blocks": "every layer of the transformer blocks",
    "quarter-1": "first quarter of the blocks",
    "quarter-2": "second quarter",
    "quarter-3": "third quarter",
    "quarter-4": "last quarter",
    "last-block": "the last block",
    "attention": "attention in the blocks",
    "mlp": "everything else in the blocks",
    "last-two": "the last two linear layers",
    "head": "the last linear layer",
    "lora": "every layer that an adapter trained",
}
"""Groups of layers that a method may name."""


@dataclass(frozen=True)
class Choice:
    """The parameters that a method scores."""

    blocks: tuple[Block, ...]  # layers whose gradients are computed from factors
    rows: bool  # whether the word embedding's gradient is stored by rows
    head: bool  # whether the vocabulary head's gradient is computed in closed form
    exact: tuple[str, ...]  # layers covered in one of these two ways, with exact products
    tables: tuple[str, ...]  # vocabulary tables among the blocks
    covered: int  # number of scored parameters
    total: int  # number of trainable parameters of the model
    unruled: tuple[str, ...]  # names of trainable parameters without a rule
    vectors: int  # biases and gains of these layers, excluded by choice
    unruled_size: int  # number of parameters without a rule
    adapter: bool  # whether only an adapter's parameters are trainable
    # which calls of an encoder-decoder's layers concern its target; empty for other models
    order: Order = field(default_factory=dict[str, tuple[bool | None, ...]])

    def description(self) -> str:
        """Describe in one line what is scored and what is not."""
        other = self.total - self.covered - self.vectors - self.unruled_size
        parts: list[str] = []
        if other:
            parts.append(f"other layers ({other:,}, not selected)")
        if self.vectors:
            parts.append(f"biases and gains ({self.vectors:,}, not selected)")
        if self.unruled:
            some = ", ".join(self.unruled[:4]) + (f" and {len(self.unruled) - 4} more" if len(self.unruled) > 4 else "")
            parts.append(f"unsupported: {some} ({self.unruled_size:,})")
        who = "the adapter's parameters" if self.adapter else "trainable parameters"
        return f"{self.covered / max(self.total, 1):.1%} of {who}; skipped: {'; '.join(parts) or 'none'}"


@dataclass(frozen=True)
class _Layer:
    """A module with a rule."""

    name: str
    module: nn.Module
    rule: Rule


def choose(
    model: nn.Module,
    wanted: Sequence[str],
    *,
    head: nn.Module | None,
    word: nn.Module,
    biases: bool = False,
    rows: bool = True,
    closed: bool = False,
    decoding: bool = False,
) -> Choice:
    """Select the layers that a method names; `rows` and `closed` allow the word embedding and the head in factors."""
    chooser = _Chooser(model, head, word, biases=biases, decoding=decoding)
    return chooser.choice(tuple(wanted), rows=rows, closed=closed)


class _Chooser:
    def __init__(
        self, model: nn.Module, head: nn.Module | None, word: nn.Module, *, biases: bool, decoding: bool
    ) -> None:
        self.model, self.head, self.biases = model, head, biases
        self.vocabulary = vocabulary_head(model)
        self.lookups = [one.module for one in lookups(model, decoding=True)] if decoding else [word]
        self.tables = {id(one.weight): one.weight for one in cast("list[Any]", self.lookups)}
        adapted = trained_of(model)
        self.adapter = adapted is not None
        self.parameters = {
            name: parameter
            for name, parameter in cast("Iterable[tuple[str, Any]]", model.named_parameters(remove_duplicate=False))
            if adapted is None or name in adapted.names
        }
        self.trial = dry_run(model, min(len(one) for one in self.tables.values()), decoding=decoding)
        hidden = self.trial.bypassed | self.trial.common
        self.layers = [layer for layer in self._layers() if self._trained(layer) and layer.name not in hidden]
        self.names = [layer.name for layer in self.layers]
        self.stacks = _stacks(self.names, model, decoding=decoding)
        self.linear = [one.name for one in self.layers if not is_vector(one.rule) and not _is_table(one.module)]
        if not self.layers:
            raise RunError(f"{type(model).__name__} has no layer whose gradient proponent can compute")

    def choice(self, wanted: tuple[str, ...], *, rows: bool, closed: bool) -> Choice:
        """Resolve groups and patterns."""
        chosen = {name for one in wanted for name in self._matched(one)}
        layers = [layer for layer in self.layers if layer.name in chosen]
        by_rows, by_head = self._in_factors(layers, rows=rows, closed=closed)
        exact = dict(self.tables) if by_rows else {}
        if by_head and self.vocabulary is not None:
            exact[id(self.vocabulary.weight)] = self.vocabulary.weight
        blocks = self._blocks(layers, exact)
        if not blocks and not exact:
            raise InputError(f"layers {', '.join(wanted)}contain only biases and gains: include them with biases=True")
        return self._counted(blocks, layers, exact, (by_rows, by_head))

    def _looks_up(self, layer: _Layer) -> bool:
        """Whether a layer uses a table of the word embedding."""
        return _weight(layer) in self.tables

    def _in_factors(self, layers: Sequence[_Layer], *, rows: bool, closed: bool) -> tuple[bool, bool]:
        """Whether the word embedding is covered by rows, and the vocabulary head in closed form."""
        whole = [one for one in self.layers if f"{one.name}.weight" in self.parameters]
        head = next((one for one in whole if one.module is self.vocabulary), None)
        head = head if closed and self.trial.closed else None
        if head is None or not self._looks_up(head):
            alone = head is not None and [one for one in self.layers if _weight(one) == _weight(head)] == [head]
            return rows and self._rows_suffice(layers, None), alone and head in layers
        both = rows and len(self.tables) == 1 and self._rows_suffice(layers, head)
        return both, both

    def _rows_suffice(self, layers: Sequence[_Layer], head: _Layer | None) -> bool:
        """Whether the word embedding is chosen whole and used only by lookups and by a head that shares it."""
        users = [one for one in self.layers if self._looks_up(one)]
        idle = [one.name for one in users if self.trial.order and one.name not in self.trial.order]  # T5's `shared`
        alone = all(one is head or one.module in self.lookups or one.name in idle for one in users)
        chosen = [one.module for one in layers]
        if head is not None:  # a shared parameter: choosing one user chooses all of them
            return alone and any(self._looks_up(one) for one in layers)
        return alone and all(one in chosen for one in self.lookups)

    def _counted(
        self, blocks: tuple[Block, ...], layers: Sequence[_Layer], exact: Mapping[int, Any], ways: tuple[bool, bool]
    ) -> Choice:
        sizes = {parameter.data_ptr(): int(parameter.numel()) for parameter in self.parameters.values()}
        covered = sum(block.size for block in blocks) + sum(one.numel() for one in exact.values())
        known = {*self.tables, *([] if self.vocabulary is None else [id(self.vocabulary.weight)])}
        named = {layer.name: _weight(layer) for layer in self.layers}
        tables = tuple(one.name for one in blocks if one.part == "weight" and named[one.modules[0]] in known)
        whole = tuple(name for name, at in named.items() if at in exact)
        ruled = {id(one) for layer in self.layers for one in layer.module.parameters(recurse=False)}
        unruled = {name: one for name, one in self.parameters.items() if id(one) not in ruled}
        missed = {one.data_ptr(): int(one.numel()) for one in unruled.values()}
        inside = {
            one.data_ptr(): int(one.numel())
            for layer in layers
            for part, one in layer.module.named_parameters(recurse=False)
            if (part != "weight" or is_vector(layer.rule)) and f"{layer.name}.{part}" in self.parameters
        }
        vectors = 0 if self.biases else sum(inside.values())
        total = sum(sizes.values())
        unseen = sum(missed.values())
        return Choice(
            blocks, *ways, whole, tables, covered, total, tuple(unruled), vectors, unseen, self.adapter,
            self.trial.order,
        )  # fmt: skip

    def _layers(self) -> Iterable[_Layer]:
        for name, module in cast("Iterable[tuple[str, nn.Module]]", self.model.named_modules()):
            rule = rule_of(module)
            if rule is not None:
                yield _Layer(name, module, rule)

    def _trained(self, layer: _Layer) -> bool:
        return any(f"{layer.name}.{part}" in self.parameters for part in ("weight", "bias"))

    def _blocks(self, layers: Sequence[_Layer], exact: Mapping[int, Any]) -> tuple[Block, ...]:
        """One block per parameter without an exact form; modules that share a parameter are scored together."""
        found: dict[tuple[int, str], Block] = {}
        for layer in layers:
            for part in ("weight", "bias"):
                parameter = getattr(layer.module, part, None)
                vector = part == "bias" or is_vector(layer.rule)
                trained = f"{layer.name}.{part}" in self.parameters
                if parameter is None or not trained or id(parameter) in exact or (vector and not self.biases):
                    continue
                sharing = [
                    one.name for one in self.layers if getattr(one.module, part, None) is parameter
                ]  # including modules outside the choice: they share the parameter
                o, i = (int(parameter.shape[0]), 1) if part == "bias" else layer.rule.shape
                name = layer.name + (".bias" if part == "bias" else ".gain" if vector else "")
                block = Block(name, tuple(sharing), "bias" if part == "bias" else "weight", o, i)
                found.setdefault((id(parameter), part), block)
        return tuple(found.values())

    def _matched(self, one: str) -> list[str]:
        group = self._groups().get(one)
        names = group() if group is not None else [name for name in self.names if _matches(name, one)]
        if not names:
            near = nearest(one, [*GROUPS, *self.names])
            why = "is a group that has no layers in this model" if group is not None else f"matches no layer{near}"
            raise InputError(f"layers {one!r} {why}; groups: {', '.join(GROUPS)}")
        return names

    def _groups(self) -> Mapping[str, Callable[[], list[str]]]:
        stacked = self.stacks
        inside = list(stacked)
        depth = 1 + max(stacked.values(), default=-1)
        quarters = {
            f"quarter-{place + 1}": lambda place=place: [name for name in inside if 4 * stacked[name] // depth == place]
            for place in range(4)
        }
        return quarters | {
            "all": lambda: self.names,
            "lora": lambda: self.names if self.adapter else [],
            "embeddings": lambda: [one.name for one in self.layers if _is_table(one.module)],
            "linear": lambda: self.linear,
            "blocks": lambda: inside,
            "last-block": lambda: [name for name in inside if stacked[name] == depth - 1],
            "attention": lambda: [name for name in inside if _is_attention(name)],
            "mlp": lambda: [name for name in inside if not _is_attention(name)],
            "last-two": lambda: self.linear[-2:],
            "head": lambda: [one.name for one in self.layers if one.module is self.head],
        }


def _stacks(names: Sequence[str], model: nn.Module, *, decoding: bool) -> dict[str, int]:
    """Number of the transformer block of each layer: encoder blocks first, then decoder blocks."""
    if not decoding:
        return _stack(names, model, "")
    found: dict[str, int] = {}
    modules = list(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    for side in (cast("Any", model).get_encoder(), cast("Any", model).get_decoder()):
        home = next(name for name, one in modules if one is side)
        first = 1 + max(found.values(), default=-1)
        found |= {name: first + at for name, at in _stack(names, model, f"{home}.").items()}
    return found


def _stack(names: Sequence[str], model: nn.Module, within: str) -> dict[str, int]:
    """Block number within a stack, whose blocks are the longest list of similar modules."""
    lists = [
        (name, module)
        for name, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.ModuleList) and len({type(one) for one in module}) == 1 and name.startswith(within)
    ]
    if not lists:
        return {}
    home = max(lists, key=lambda one: (len(one[1]), -one[0].count(".")))[0]
    found: dict[str, int] = {}
    for name in names:
        match = re.match(re.escape(f"{home}.") + r"(\d+)(\.|$)", name)
        if match:
            found[name] = int(match[1])
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") or fnmatchcase(name, f"{pattern}.*")


def _is_attention(name: str) -> bool:
    return any(part in name.lower() for part in ("attn", "attention"))


def _weight(layer: _Layer) -> int:
    """Identity of the weight that a layer uses."""
    return id(getattr(layer.module, "weight", None))


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)
