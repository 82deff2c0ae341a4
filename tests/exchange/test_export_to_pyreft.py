"""`heft export --to pyreft`: pyreft itself loads the directory and has heft's logits."""

import json

import pytest
import torch
from exchanging import IDS, PROMPTS, adapted, apart, in_pyreft, logits_of, made, saved_base

from heft.adapters.attach import activate
from heft.errors import HeftError
from heft.exchange.export import export
from heft.exchange.from_pyreft import read_pyreft
from heft.exchange.to_pyreft import let_old_transformers_read

LORA = {"method": "lora", "rank": 3}
CASES = {
    "loreft": {"intervention": "loreft", "positions": "f2+l3"},
    "untied": {"intervention": "loreft", "positions": "f3+l3", "tied": False},
    "last": {"intervention": "loreft", "positions": "l4", "layers": [2, 0]},
    "attention": {"intervention": "loreft", "positions": "f3", "site": "attention"},
    "mlp": {"intervention": "direft", "positions": "l2", "site": "mlp"},
    "noreft": {"intervention": "noreft", "positions": "f2+l3"},
    "direft": {"intervention": "direft", "positions": "f1+l1", "tied": False},
    "consreft": {"intervention": "consreft", "positions": "l3"},
    "lobireft": {"intervention": "lobireft", "positions": "l3"},
}


@pytest.fixture(scope="module")
def loaded_by_pyreft(tmp_path_factory):
    """By case: heft's logits, those of pyreft's `ReftModel.load` on the model beside the export, and without edits."""
    folder = tmp_path_factory.mktemp("to_pyreft")
    # another rope than the default of old versions of transformers, which read it under another key
    base = str(saved_base(folder / "base", rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"}))
    let_old_transformers_read(folder / "base")
    jobs, ours, without = [], {}, {}
    for name, settings in CASES.items():
        dtype = "bfloat16" if name == "last" else "float32"
        fine = {"method": "reft", "rank": 3, **settings}
        for case, stages in ((name, {"coarse": LORA, "fine": fine}), (f"{name} alone", {"fine": fine})):
            directory = made(folder / case, stages, base=base, dtype=dtype)
            done = export(directory, "pyreft", folder / f"{case} out")
            model = adapted(directory)
            ours[case] = logits_of(model, prompt_lengths=PROMPTS)
            activate(model, [each for each in stages if each != "fine"])
            without[case] = logits_of(model)
            beneath = done.folder / "model" if "coarse" in stages else base
            assert (done.folder / "model").is_dir() == ("coarse" in stages)
            jobs.append(
                {
                    **{"do": "load", "base": str(beneath), "folder": str(done.folder), "dtype": dtype},
                    **{"logits": str(folder / f"{case}.pt"), "ids": IDS.tolist(), "prompt": int(PROMPTS[0])},
                    **{"position": settings["positions"], "share_weights": settings.get("tied", True)},
                }
            )
    in_pyreft(folder, jobs)
    return {case: (ours[case], torch.load(folder / f"{case}.pt"), without[case]) for case in ours}


@pytest.mark.parametrize("case", [c for name in CASES for c in (name, f"{name} alone")])
def test_pyreft_loads_the_directory_and_has_the_same_logits(case, loaded_by_pyreft):
    ours, theirs, without = loaded_by_pyreft[case]
    bound = 1e-5 if not case.startswith("last") else 5e-2  # that of heft verify for bfloat16
    assert apart(theirs, ours) < bound < apart(without, ours)


def test_an_export_comes_back_by_import_with_its_positions(tmp_path):
    fine = {"method": "reft", "rank": 3, "positions": "f2+l3", "tied": False}
    directory = made(tmp_path / "d", {"fine": fine})
    done = export(directory, "pyreft", tmp_path / "out")
    found = read_pyreft(done.folder)
    assert found.settings["positions"] == "f2+l3"
    assert found.settings["tied"] is False
    assert found.settings["intervention"] == "loreft"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"positions": "all"}, "edits all tokens, those of the answer too, and pyreft's positions are of the prompt"),
        ({"positions": "l2+"}, "and all later tokens"),
        ({"positions": "l2", "activation": "gelu"}, "activation gelu, which pyreft's files do not keep"),
    ],
)
def test_what_pyreft_has_no_word_for_is_refused_and_nothing_written(settings, reason, tmp_path):
    directory = made(tmp_path / "d", {"fine": {"method": "reft", "rank": 2, **settings}})
    with pytest.raises(HeftError, match="nothing was written") as error:
        export(directory, "pyreft", tmp_path / "out")
    assert reason in str(error.value)
    assert not list(tmp_path.glob("out*"))


def test_all_reasons_are_given_at_once(tmp_path):
    stages = {
        "coarse": {"method": "lora", "positions": "l2+"},
        "one": {"method": "reft", "positions": "all", "activation": "relu"},
        "two": {"method": "reft", "positions": "l1"},
    }
    with pytest.raises(HeftError) as error:
        export(made(tmp_path / "d", stages), "pyreft", tmp_path / "out")
    for reason in ("LoRA of some tokens", "one, two are 2 ReFT adapters", "one edits all tokens", "activation relu"):
        assert reason in str(error.value)


def test_a_model_that_pyvene_does_not_know_is_refused(tmp_path):
    base = str(saved_base(tmp_path / "base", "phi"))
    directory = made(tmp_path / "d", {"fine": {"method": "reft", "positions": "l1"}}, base=base)
    with pytest.raises(HeftError, match=r"pyvene 0\.1\.8 knows no phi models"):
        export(directory, "pyreft", tmp_path / "out")


def test_the_config_has_what_pyvene_reads_and_the_positions_beside(tmp_path):
    directory = made(tmp_path / "d", {"fine": {"method": "reft", "rank": 2, "layers": [1], "positions": "f3+l2"}})
    values = json.loads((export(directory, "pyreft", tmp_path / "out").folder / "config.json").read_text())
    assert values["representations"][0][:5] == [1, "block_output", "pos", 1, 2]
    assert values["sorted_keys"] == ["layer_1_comp_block_output_unit_pos_nunit_1#0"]
    assert (values["position"], values["share_weights"]) == ("f3+l2", True)
