"""A pretrained model that is not there is refused at once, by the option that names it."""

import time
from pathlib import Path

import pytest

from proponent.errors import InputError
from proponent.hub import KINDS, require_model, without_network
from proponent.models.factorization import FACTS


def test_folders_and_models_from_scratch_are_taken(tmp_path: Path) -> None:
    require_model(str(tmp_path))
    for name in KINDS:
        require_model(name)
    assert set(FACTS) < set(KINDS)


@pytest.mark.parametrize(
    ("name", "why"),
    [("nope", "HF_HUB_OFFLINE forbids"), ("someone/nope", "HF_HUB_OFFLINE forbids"), ("./nope", "no such folder"),
     ("/no/such/model", "no such folder"), ("a name with spaces", "no name of a model on the hub")],
)  # fmt: skip
def test_what_is_not_there_is_named_at_once(name: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    with pytest.raises(InputError, match=f"--model {name}") as caught:
        require_model(name)
    assert why in str(caught.value)
    assert "--tokenizer" not in str(caught.value)
    assert time.monotonic() - began < 20


def test_without_the_network_the_users_token_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import build_hf_headers

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "authorization" in build_hf_headers()
    with without_network(True):
        assert "authorization" not in build_hf_headers()
    with without_network(False):
        assert "authorization" in build_hf_headers()
