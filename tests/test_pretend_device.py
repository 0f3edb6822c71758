"""The pretended graphics card: it computes what the CPU does, and refuses what a real card refuses."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import proponent
from cases import CASES, VOCABULARY, model_of
from pretend_device import NAME, Pretend, pretend_device
from proponent.errors import InputError
from proponent.models import Run
from proponent.models.placement import Placement, device_of, devices, host, hosts
from runs import ROWS

ON = torch.device(NAME)
MIXED = "Expected all tensors to be on the same device"
NAMES = (
    "bert-classifier",
    "deberta-v2-classifier",
    "gpt2-lm-tied",
    "gpt2-classifier",
    "llama-lm-untied",
    "mixtral-lm-untied",
)


@pytest.fixture
def card() -> Iterator[None]:
    with pretend_device():
        yield


def results(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Loss, logits, the gradient at the embedding's output, and those of all parameters."""
    kept: list[torch.Tensor] = []
    embedding = (model.encoder if hasattr(model, "encoder") else model).get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    out = model(**inputs)
    handle.remove()
    slopes = torch.autograd.grad(out.loss, kept[-1], retain_graph=True)
    out.loss.backward()
    grads = [one.grad for one in model.parameters() if one.grad is not None]
    assert grads
    return [out.loss.detach(), out.logits.detach(), *slopes, *grads]


def agree(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    model = copy.deepcopy(model).eval().requires_grad_(True)
    moved = copy.deepcopy(model).to(NAME, torch.float32)
    here = results(model, inputs)
    there = results(moved, {name: one.to(NAME) for name, one in inputs.items()})
    assert all(type(one) is Pretend for one in there)
    assert all(torch.equal(one, other.cpu()) for one, other in zip(here, there, strict=True))


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", NAMES)
def test_models_give_the_bits_of_the_cpu(name: str) -> None:
    ids = torch.randint(2, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    labels = torch.tensor([1, 2]) if CASES[name].kind == "classification" else ids
    agree(model_of(name), {"input_ids": ids, "attention_mask": mask, "labels": labels})


@pytest.mark.usefixtures("card")
def test_an_encoder_and_decoder_gives_the_bits_of_the_cpu() -> None:
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    sizes |= {"vocab_size": 40, "decoder_start_token_id": 0}
    made: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    ids = torch.arange(2, 12).reshape(2, 5)
    agree(made, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)})
    moved = made.to(NAME)
    shared = moved.get_input_embeddings().weight
    assert shared is moved.encoder.embed_tokens.weight is moved.decoder.embed_tokens.weight
    assert moved.generate(ids.to(NAME), max_new_tokens=3, do_sample=False).device == ON


@pytest.mark.usefixtures("card")
def test_a_model_moves_whole_and_ties_stay() -> None:
    model = copy.deepcopy(model_of("gpt2-lm-tied"))
    table = model.get_input_embeddings().weight
    moved = model.to(NAME, torch.bfloat16)
    assert moved is model
    assert moved.get_input_embeddings().weight is table is moved.lm_head.weight
    assert isinstance(table, nn.Parameter)
    assert {one.device for one in (*moved.parameters(), *moved.buffers())} == {ON}
    assert {one.dtype for one in moved.parameters()} == {torch.bfloat16}
    assert device_of(moved) == ON
    copied = copy.deepcopy(moved)
    assert copied.lm_head.weight is copied.get_input_embeddings().weight
    assert copied.lm_head.weight is not table
    moved.to("cpu")
    assert type(table) is nn.Parameter
    assert moved.lm_head.weight is table


@pytest.mark.usefixtures("card")
def test_tensors_of_both_devices_do_not_mix() -> None:
    there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
    rows, mask = torch.tensor([0, 1]), here > 0
    layer = nn.Linear(3, 2)
    for mixed in (
        lambda: there + here,
        lambda: here + there,
        lambda: here.add_(there),
        lambda: there @ here.T,
        lambda: torch.cat([there, here]),
        lambda: torch.where(mask, there, there),
        lambda: there.masked_fill(mask, 0.0),
        lambda: there.gather(1, rows[:, None]),
        lambda: there.index_select(0, rows),
        lambda: nn.functional.embedding(rows, there),
        lambda: torch.equal(there, here),
        lambda: layer(there),
        lambda: there.__setitem__(mask, torch.ones(6)),
        lambda: torch.zeros(()).add_(there.sum()),
    ):
        with pytest.raises(RuntimeError, match=MIXED):
            mixed()
    with pytest.raises(RuntimeError, match="indices should be either on cpu"):
        here[rows.to(NAME)]


@pytest.mark.usefixtures("card")
def test_what_a_card_takes_from_the_cpu() -> None:
    there, rows = torch.arange(6.0, device="cuda").reshape(2, 3), torch.tensor([1])
    assert (there * torch.tensor(2.0)).tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert there[rows].tolist() == there[rows.to(NAME)].tolist() == [[3.0, 4.0, 5.0]]
    assert there[torch.tensor([False, True])].device == ON
    there[0] = torch.zeros(3)
    there[rows] = 7.0
    assert there.tolist() == [[0.0] * 3, [7.0] * 3]
    here = torch.empty(2, 3).copy_(there)
    assert type(here) is torch.Tensor
    assert here.tolist() == there.tolist()


@pytest.mark.usefixtures("card")
def test_numbers_leave_the_card_through_the_cpu_only() -> None:
    there = torch.arange(3.0, device="cuda")
    for leave in (there.numpy, lambda: np.asarray(there), lambda: np.array(there), there.detach().numpy):
        with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy\. Use Tensor\.cpu\(\)"):
            leave()
    assert there.cpu().numpy().tolist() == there.tolist() == [0.0, 1.0, 2.0]
    assert host(there).tolist() == [0.0, 1.0, 2.0]
    assert [one.tolist() for one in hosts([there, there.bfloat16()])] == [[0.0, 1.0, 2.0]] * 2
    assert float(there[1]) == there[1].item() == 1.0
    assert there[1]
    assert int(there.long()[2]) == 2
    assert f"{there[2]:.1f}" == "2.0"


@pytest.mark.usefixtures("card")
def test_tensors_are_made_there() -> None:
    array = np.arange(3.0)
    whole = torch.as_tensor(array, device="cuda")
    array[0] = 9.0
    assert whole.tolist() == [0.0, 1.0, 2.0]
    like = torch.zeros(2, dtype=torch.int32, device=whole.device)
    with torch.device("cuda"):
        within = [torch.zeros(2), torch.tensor([1.0]), nn.Linear(2, 2).weight]
    made = (
        torch.tensor([1.0, 2.0], device=NAME),
        torch.tensor(1.0, device=0),
        torch.full((2,), 3.0, device=torch.device("cuda")),
        torch.randperm(4, device="cuda"),
        torch.zeros_like(array_like := torch.ones(2), device="cuda"),
        array_like.new_zeros(2, device="cuda"),
        *within,
        *(like.new_zeros(2), like.new_tensor([1]), like.new_empty(3), like.new_full((2,), 1), torch.empty_like(like)),
        *(like.to(torch.float64), like.float(), array_like.to(like), array_like.cuda(), like.to("cuda"), like.clone()),
    )
    assert {one.device for one in made} == {ON}
    assert all(one.is_cuda and not one.is_cpu for one in made)
    assert like.to("cuda") is like
    away = (like.to("cpu"), like.new_zeros(2, device="cpu"), torch.zeros_like(like, device="cpu"), like.to(array_like))
    assert {type(one) for one in away} == {torch.Tensor}
    assert torch.zeros(1, device="cuda", requires_grad=True).requires_grad
    with torch.device("meta"):
        assert torch.arange(3).device.type == "meta"
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="cuda:1")


@pytest.mark.usefixtures("card")
def test_operations_whose_shapes_depend_on_numbers() -> None:
    there = torch.tensor([3.0, 0.0, 3.0, 1.0], device="cuda")
    assert there.nonzero().tolist() == [[0], [2], [3]]
    assert there[there > 1].tolist() == there.masked_select(there > 1).tolist() == [3.0, 3.0]
    assert torch.unique(there).tolist() == [0.0, 1.0, 3.0]
    assert torch.searchsorted(there.sort().values, there).tolist() == [2, 0, 2, 1]
    assert torch.equal(there, there.clone())
    assert there.new_zeros(4).masked_scatter(there > 1, there.new_tensor([5.0, 6.0])).tolist() == [5.0, 0.0, 6.0, 0.0]


@pytest.mark.usefixtures("card")
def test_changes_in_place_show_in_every_view() -> None:
    there = torch.zeros(4, 2, device="cuda")
    view = there[1:3]
    view.add_(1.0)
    there[3] = 5.0
    there.index_put_((torch.tensor([0], device="cuda"),), torch.tensor(2.0, device="cuda"))
    view.T[0].copy_(torch.tensor([7.0, 8.0]))
    assert there.tolist() == [[2.0, 2.0], [7.0, 1.0], [8.0, 1.0], [5.0, 5.0]]
    assert view.untyped_storage().data_ptr() == there.untyped_storage().data_ptr() != there.clone().data_ptr()
    with pytest.raises(NotImplementedError):
        there.unsqueeze_(0)


@pytest.mark.usefixtures("card")
def test_gradients_go_through_views_copies_and_second_passes() -> None:
    def slopes(device: str) -> list[list[float]]:
        x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        there = x.to(device)
        laid = there.new_zeros(3)
        laid[1:] = there[:2] ** 3
        laid[0].mul_(2.0)
        (first,) = torch.autograd.grad((laid * there).sum(), there, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), x)
        return [first.tolist(), second.tolist()]

    assert slopes("cuda") == slopes("cpu")
    seen: list[torch.Tensor] = []
    w = torch.ones(3, device="cuda", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: seen.append(one) or one, lambda one: one):
        (w * w).exp().sum().backward()
    assert w.grad is not None
    assert w.grad.device == ON
    assert {one.device for one in seen} == {ON}


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_steps_there(fused: bool) -> None:
    def trained(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3, device=device)).sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert all(one["exp_avg"].device == torch.device(device) for one in optimizer.state.values())
        return [one.detach().cpu() for one in model.parameters()]

    pairs = zip(trained(NAME), trained("cpu"), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.usefixtures("card")
def test_random_numbers_are_the_cards_own() -> None:
    torch.manual_seed(3)
    one = torch.rand(4)
    assert torch.rand(4, device="cuda").tolist() == one.tolist()  # both were seeded
    other = torch.ones(100, device="cuda")
    with cast("Any", torch).random.fork_rng(devices=[0]):
        first = nn.functional.dropout(other).tolist()
    state = torch.get_rng_state()
    assert nn.functional.dropout(other).tolist() == first
    assert torch.equal(torch.get_rng_state(), state)
    with cast("Any", torch).random.fork_rng(devices=[]):
        second = nn.functional.dropout(other).tolist()
    assert nn.functional.dropout(other).tolist() != second
    torch.cuda.manual_seed(3)
    assert torch.rand(4, device="cuda").tolist() == one.tolist()
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(4, device="cuda", generator=torch.Generator())


@pytest.mark.usefixtures("card")
def test_inference_mode_leaves_ordinary_tensors_ordinary() -> None:
    there = torch.arange(4.0, device="cuda")
    with torch.inference_mode():
        view, new = there[1:], there + 1
        assert not view.is_inference()
        assert new.is_inference()
    assert (view * there.requires_grad_()[1:]).requires_grad


def test_memory_ends() -> None:
    with pretend_device(room=1000):
        kept = torch.zeros(200, device="cuda")
        view = kept[:100]
        assert torch.cuda.memory_allocated() == 800
        with pytest.raises(torch.OutOfMemoryError):
            kept.clone()
        del kept
        assert torch.cuda.mem_get_info() == (200, 1000)
        del view
        assert torch.cuda.memory_allocated() == 0
        assert torch.cuda.max_memory_allocated() == 800
        with pytest.raises(InputError, match="no room"):
            Placement.of("cuda").put(nn.Linear(100, 100))


def test_the_card_goes_away() -> None:
    with pretend_device():
        assert devices() == ["cpu", NAME]
        assert Placement.of("auto") == Placement.of("cuda") == Placement(NAME)
        there = torch.ones(2, device="cuda")
    assert "cuda" not in "".join(devices())
    assert there.cpu().tolist() == [1.0, 1.0]
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(2, device="cuda")


@pytest.mark.parametrize("kind", ["bert_run", "lm_run"])
def test_an_index_built_there_answers_with_the_bits_of_the_cpu(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    answers: list[tuple[Any, Any]] = []
    text, labels = ROWS[0]["text"], [ROWS[0]["label"]] if kind == "bert_run" else None
    for device in ("cpu", "cuda"):
        with pretend_device():
            run = Run.from_pretrained(folder, device=device)
            index = proponent.build(run, ROWS, tmp_path / device, quiet=True)
            found = [one.score for one in index.explain(text).proponents]
            answers.append((np.asarray(index.scores([text], labels)), found))
    (one, first), (other, second) = answers
    assert np.array_equal(one, other)
    assert first == second
