"""Which layers a method scores: groups and patterns over module names, and what they exclude."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from proponent.errors import InputError, RunError
from proponent.gradients.dry_run import Order, dry_run
from proponent.gradients.layer_rules import Block, Rule, is_vector, rule_of
from proponent.gradients.model_parts import lookups, second_tables, vocabulary_head
from proponent.models.trained_parts import trained_of
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
    "after-blocks": "every linear layer after the blocks: pooler and head",
    "lora": "every layer that an adapter trained",
}
"""Groups of layers that a method may name."""

PLACES = ("head", "last-two", "after-blocks")
"""Groups that mean the last layers of the computation, as `tracin-last` does. Of a table that the word embedding shares
they score the use as head alone; every other group, and every pattern, names weights, with all of their uses. `fastif`
solves with the Hessian of weights, and so counts all uses in any case."""


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
    partly: bool = False  # whether any parameters were frozen
    # which calls of an encoder-decoder's layers concern its target; empty for other models
    order: Order = field(default_factory=dict[str, tuple[bool | None, ...]])
    placed: bool = False  # whether a table that the word embedding shares is scored as the head only, not as the lookup
    spared: tuple[str, ...] = ()  # vocabulary tables left out because only a random projection of them could be stored
    spared_size: int = 0  # number of their parameters

    def description(self) -> str:
        """Describe in one line what is scored and what is not."""
        other = self.total - self.covered - self.vectors - self.unruled_size - self.spared_size
        parts: list[str] = []
        if self.spared:
            parts.append(f"tables over the vocabulary: {', '.join(self.spared)} ({self.spared_size:,})")
        if other:
            parts.append(f"other layers ({other:,}, not selected)")
        if self.vectors:
            parts.append(f"biases and gains ({self.vectors:,}, not selected)")
        if self.unruled:
            some = ", ".join(self.unruled[:4]) + (f" and {len(self.unruled) - 4} more" if len(self.unruled) > 4 else "")
            parts.append(f"unsupported: {some} ({self.unruled_size:,})")
        who = (
            "the adapter's parameters"
            if self.adapter
            else "trained parameters"
            if self.partly
            else "trainable parameters"
        )
        return f"{self.covered / max(self.total, 1):.1%} of {who}; skipped: {'; '.join(parts) or 'none'}"


@dataclass(frozen=True)
class StorageRule:
    """How layers are stored that a random projection would harm; by default all of them are ordinary layers."""

    # A random projection of a table that has no exact form in factors reorders scores, and one of a small layer with
    # large gradients nearly so (docs/decisions/0030-no-projected-tables.md).

    widest: int | None = None  # longest side that is not projected at random; None for any
    apart: bool = False  # whether layers outside the blocks are marked, so that small ones are stored in full
    by_place: bool = False  # whether groups of last layers mean their use there: of a shared table that of the head
    curved: bool = False  # whether a preconditioner applies; then the group "linear" contains no such table

    def random(self, block: Block) -> bool:
        """Whether a table would be projected at random."""
        return self.widest is not None and max(block.o, block.i) > self.widest


ORDINARY = StorageRule()
"""Tables and small layers are layers like any other, as in earlier versions."""


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
    tables: StorageRule = ORDINARY,
    decoding: bool = False,
) -> Choice:
    """Select the layers that a method names; `rows` and `closed` allow the word embedding and the head in factors."""
    chooser = _Chooser(model, head, word, biases=biases, decoding=decoding)
    return chooser.choice(tuple(wanted), rows=rows, closed=closed, tables=tables)


class _Chooser:
    def __init__(
        self, model: nn.Module, head: nn.Module | None, word: nn.Module, *, biases: bool, decoding: bool
    ) -> None:
        self.model, self.head, self.biases = model, head, biases
        self.vocabulary, self.second = vocabulary_head(model), second_tables(model)
        self.lookups = [one.module for one in lookups(model, decoding=True)] if decoding else [word]
        self.tables = {id(one.weight): one.weight for one in cast("list[Any]", self.lookups)}
        adapted = trained_of(model)
        self.adapter, self.partly = adapted is not None and adapted.adapter, adapted is not None
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

    def choice(self, wanted: tuple[str, ...], *, rows: bool, closed: bool, tables: StorageRule) -> Choice:
        """Resolve groups and patterns."""
        chosen = {name for one in wanted for name in self._matched(one)}
        layers = [layer for layer in self.layers if layer.name in chosen]
        placed = tables.by_place and self._placed(wanted, layers)
        by_rows, by_head = self._in_factors(layers, rows=rows, closed=closed, placed=placed)
        exact = dict(self.tables) if by_rows else {}
        if by_head and self.vocabulary is not None:
            exact[id(self.vocabulary.weight)] = self.vocabulary.weight
        blocks = self._blocks(layers, exact)
        if placed:
            blocks = tuple(replace(one, modules=(one.name,)) if self._is_vocabulary(one) else one for one in blocks)
        blocks = tuple(
            replace(one, apart=True) if tables.apart and not set(one.modules) & set(self.stacks) else one
            for one in blocks
        )
        spared = self._spared(wanted, blocks, tables)
        blocks = tuple(block for block in blocks if block not in spared)
        if not blocks and not exact:
            if spared:
                raise InputError(_reordered(spared[0]))
            raise InputError(f"layers {', '.join(wanted)} contain only biases and gains: include them with biases=True")
        found = self._counted(blocks, layers, exact, (by_rows, by_head))
        names, size = tuple(block.name for block in spared), sum(block.size for block in spared)
        return replace(found, placed=placed and (by_head or bool(found.tables)), spared=names, spared_size=size)

    def _placed(self, wanted: tuple[str, ...], layers: Sequence[_Layer]) -> bool:
        """Whether the only chosen user of the word embedding's table is the head, chosen as one of the last layers."""
        users = [one for one in layers if self._looks_up(one)]
        last = {name for one in wanted if one in PLACES for name in self._matched(one)}
        others = {name for one in wanted if one not in PLACES for name in self._matched(one)}
        return (
            [one.module for one in users] == [self.vocabulary]
            and users[0].name in last - others
            and f"{users[0].name}.weight" in self.parameters
        )

    def _spared(self, wanted: tuple[str, ...], blocks: Sequence[Block], rule: StorageRule) -> tuple[Block, ...]:
        """The tables that are left out; one that a pattern names is refused instead."""
        groups = self._groups()
        linear = {name for one in wanted if one == "linear" for name in self.linear}
        others = {name for one in wanted if one in groups and one != "linear" for name in self._matched(one)}
        named = {name for one in wanted if one not in groups for name in self._matched(one)}
        spared: list[Block] = []
        for block in filter(self._is_vocabulary, blocks):
            users = set(block.modules)
            if rule.random(block):
                if users & named:
                    raise InputError(_reordered(block))
                spared.append(block)
            elif rule.curved and users & linear and not users & (others | named):
                spared.append(block)
        return tuple(spared)

    def _is_vocabulary(self, block: Block) -> bool:
        """Whether a block is the weight of a table over the vocabulary."""
        known = {*self.tables, *([] if self.vocabulary is None else [id(self.vocabulary.weight)])}
        used = {_weight(layer) for layer in self.layers if layer.name in block.modules}
        return block.part == "weight" and (bool(used & known) or block.name in self.second)

    def _looks_up(self, layer: _Layer) -> bool:
        """Whether a layer uses a table of the word embedding."""
        return _weight(layer) in self.tables

    def _in_factors(self, layers: Sequence[_Layer], *, rows: bool, closed: bool, placed: bool) -> tuple[bool, bool]:
        """Whether the word embedding is covered by rows, and the vocabulary head in closed form."""
        whole = [one for one in self.layers if f"{one.name}.weight" in self.parameters]
        head = next((one for one in whole if one.module is self.vocabulary), None)
        head = head if closed and self.trial.closed else None
        if placed:
            return False, head is not None
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
        named = {layer.name: _weight(layer) for layer in self.layers}
        tables = tuple(one.name for one in blocks if self._is_vocabulary(one))
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
            self.partly, self.trial.order,
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

    def _after_blocks(self, inside: Sequence[str]) -> list[str]:
        """Linear layers that come after every block."""
        last = max((self.names.index(name) for name in inside), default=-1)
        later = self.names[last + 1 :]
        head = [one.name for one in self.layers if one.module is self.head]  # some models define it before the blocks
        return [name for name in self.linear if name in later or name in head]

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
            "after-blocks": lambda: self._after_blocks(inside),
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


def _reordered(block: Block) -> str:
    return (
        f"layer {block.name} is a table over the vocabulary ({block.o:,} x {block.i:,}), and a random projection of "
        "it would reorder the scores: choose other layers, a method that keeps tables exactly (tracin-all, grad-cos, "
        "tracin-last), or --project none for a small one"
    )


def _weight(layer: _Layer) -> int:
    """Identity of the weight that a layer uses."""
    return id(getattr(layer.module, "weight", None))


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)
