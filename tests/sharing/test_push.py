"""`heft push` to a stand-in of the Hub: one commit of everything, or nothing; loading it back pinned to a revision."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from hub_server import Failure
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

import heft
from heft.cli.app import app
from heft.errors import HeftError
from heft.runtime import hub as requests
from heft.sharing.push import push
from heft.verify import verify

IDS = torch.arange(3, 23).reshape(2, 10)


def logits(given):
    model = heft.load(given)[0]
    with torch.no_grad():
        return model(input_ids=IDS, prompt_lengths=torch.tensor([8, 8])).logits


def test_all_files_arrive_in_one_commit(run, hub):
    done = push(run, "org/name")
    files = hub.files("org/name")
    weights = [
        f"{name}/{file}" for name in ("coarse", "fine") for file in ("adapter_config.json", "adapter_model.safetensors")
    ]
    assert sorted(files) == sorted(["README.md", "heft.json", *weights]) == sorted(done.files)
    assert len(hub.repositories["org/name"].commits) == 2  # the empty one that a repository begins with, and this
    assert files["fine/adapter_model.safetensors"] == (run / "adapter/fine/adapter_model.safetensors").read_bytes()
    assert done.url.endswith(done.commit)


def test_it_loads_by_id_with_the_logits_of_the_run(run, hub):
    done = push(run, "org/name")
    expected = logits(run)
    assert torch.equal(logits("org/name@main"), expected)
    assert torch.equal(logits(f"org/name@{done.commit}"), expected)


def test_a_commit_pins_what_is_loaded_although_the_branch_goes_on(run, hub, tmp_path):
    first = push(run, "org/name").commit
    assert torch.equal(logits("org/name@main"), logits(run))
    other = heft.train("debug", output=tmp_path / "other", overrides={"model.dtype": "float32"})
    push(other.directory, "org/name")
    assert torch.equal(logits(f"org/name@{first}"), logits(run))
    assert torch.equal(logits("org/name@main"), logits(other.directory))


def test_a_branch_is_made_and_main_stays_as_it_is(run, hub):
    push(run, "org/name", revision="trial")
    assert "heft.json" in hub.files("org/name", "trial")
    assert hub.files("org/name") == {}
    assert torch.equal(logits("org/name@trial"), logits(run))


def test_what_was_loaded_once_is_there_without_the_hub(run, hub, monkeypatch):
    commit = push(run, "org/name").commit
    logits(f"org/name@{commit}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert torch.equal(logits(f"org/name@{commit}"), logits(run))
    assert len(hub.requests) == asked


@pytest.mark.parametrize("command", [["eval", "--limit", "4"], ["verify", "--rows", "2"]])
def test_commands_take_an_id_with_a_revision(command, run, hub):
    push(run, "org/name")
    name, *rest = command
    done = CliRunner().invoke(app, [name, "org/name@main", *rest])
    assert done.exit_code == 0, done.output


def test_generate_predict_and_export_take_one_too(run, hub, tmp_path):
    push(run, "org/name")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Where is Anna?"}) + "\n")
    for words in (
        ["generate", "org/name@main", "Where is Anna?", "--text", "--max-new-tokens", "2"],
        ["export", "org/name@main", str(tmp_path / "out"), "--to", "transformers"],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output


def test_a_stage_starts_from_one(run, hub, tmp_path):
    from tiny_recipe import write_recipe

    push(run, "org/name")
    fine = "{method: reft, rank: 2, steps: 1, batch_size: 4}"
    stages = f"{{coarse: {{method: lora, from: org/name@main}}, fine: {fine}}}"
    again = heft.train(write_recipe(tmp_path, stages, f"output: {tmp_path / 'again'}"))
    ours, theirs = ((d / "adapter/coarse/adapter_model.safetensors").read_bytes() for d in (run, again.directory))
    assert ours == theirs


def test_pefts_own_loader_takes_a_folder_of_it(run, hub, tmp_path):
    from huggingface_hub import snapshot_download
    from peft import PeftModel

    import heft.reft  # noqa: F401
    from heft.builtin import tiny_llama

    push(run, "org/name")
    folder = snapshot_download("org/name")
    model = PeftModel.from_pretrained(tiny_llama(), f"{folder}/coarse").eval()
    with torch.no_grad():
        assert model(input_ids=IDS).logits.shape == (2, 10, 259)


def test_it_passes_heft_verify_after_the_way_there_and_back(run, hub):
    push(run, "org/name")
    assert verify("org/name@main", rows=2).ok


@pytest.mark.parametrize("revision", ["", "a b", "feature+x", "..", "a..b", "main ", "/", "a//b", "-a", "v1."])
def test_a_branch_that_nobody_could_name_is_refused_before_a_repository_is_made(revision, run, hub):
    with pytest.raises(HeftError, match=f"--revision {re.escape(repr(revision))} is no name of a branch; expected"):
        push(run, "ann/tiny", revision=revision)
    assert not hub.repositories


def test_a_new_repository_is_private_if_asked_and_seen_by_its_owner_alone(run, hub, monkeypatch):
    push(run, "org/name", private=True)
    assert hub.repositories["org/name"].private
    assert torch.equal(logits("org/name@main"), logits(run))
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(HeftError, match="is not on the Hub, or is private and your token may not see it"):
        heft.load("org/name@0123456789012345678901234567890123456789")


def test_private_does_not_go_to_a_public_repository(run, hub):
    push(run, "org/name", message="first")
    before = dict(hub.repositories["org/name"].commits)
    with pytest.raises(HeftError, match="is there already and public"):
        push(run, "org/name", private=True)
    assert hub.repositories["org/name"].commits == before


def test_a_dry_run_asks_the_hub_nothing(run, hub):
    done = push(run, "org/name", dry_run=True)
    assert hub.requests == []
    assert done.commit is None
    assert "README.md" in done.files


@pytest.mark.parametrize(
    ("token", "repository", "words"),
    [
        ("", "org/name", "hf auth login"),
        ("hf_wrong", "org/name", "hf auth login"),
        ("hf_bob", "org/name", "org/name is not yours to write, or your token may only read"),
        ("hf_ann", "org", "expected ORG/NAME"),
        ("hf_ann", "org/name@main", "a branch goes to --revision"),
        ("hf_ann", "org/a--b", "no name of a repository"),
    ],
    ids=["no token", "wrong token", "not yours", "no slash", "branch", "bad name"],
)
def test_what_the_hub_refuses_is_said_and_nothing_is_committed(
    token, repository, words, run, hub, monkeypatch, tmp_path
):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HeftError, match=words):
        push(run, repository)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    "what", ["repos/create", "preupload", "objects/batch", "PUT /lfs", "/commit/", "validate-yaml"]
)
def test_an_answer_of_5xx_is_asked_again(what, run, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.failures.append(Failure(what, times=2))
    push(run, "org/name")
    assert len(hub.repositories["org/name"].commits) == 2
    assert torch.equal(logits("org/name@main"), logits(run))


def test_a_commit_whose_answer_was_lost_is_not_made_twice(run, hub):
    hub.failures.append(Failure("/commit/", times=1, afterwards=True))
    done = push(run, "org/name")
    assert len(hub.repositories["org/name"].commits) == 2
    assert done.commit == hub.repositories["org/name"].branches["main"]


def test_a_commit_that_fails_leaves_nothing_half_written(run, hub):
    hub.failures.append(Failure("/commit/", times=99))
    with pytest.raises(
        HeftError, match=r"answered with status 503, 4 times; whether the commit arrived is not known"
    ) as error:
        push(run, "org/name")
    assert hub.files("org/name") == {}
    assert "--dry-run" in str(error.value)
    hub.failures.clear()
    push(run, "org/name")
    assert len(hub.repositories["org/name"].commits) == 2


def test_a_hub_that_does_not_answer_is_given_up_and_it_is_said(run, hub, monkeypatch):
    monkeypatch.setattr(requests, "TIMEOUT", 0.2)
    hub.failures.append(Failure("repos/create", times=99, silence=0.6))
    heard = []
    with pytest.raises(HeftError, match=r"answered nothing \(ReadTimeout\), 4 times; nothing was committed"):
        push(run, "org/name", notice=heard.append)
    assert len(heard) == 3


def test_a_hub_that_is_not_there_is_given_up_and_it_is_said(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HeftError, match=r"127.0.0.1:9\) answered nothing \(ConnectError\)"):
        push(run, "org/name")


def test_offline_mode_is_said(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HeftError, match="HF_HUB_OFFLINE is set"):
        push(run, "org/name")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("org/absent@main", "adapter org/absent"),
        ("org/name@absent", "no such revision"),
        ("org/empty@main", "is no adapter directory of heft: it has no heft.json"),
    ],
)
def test_an_id_that_leads_nowhere_is_said(given, words, run, hub):
    from huggingface_hub import HfApi

    push(run, "org/name")
    HfApi().create_repo("org/empty")
    with pytest.raises(HeftError, match=words):
        heft.load(given)


def test_a_download_is_asked_for_again_after_5xx(run, hub):
    push(run, "org/name")
    hub.failures.append(Failure("GET /api/models/org/name", times=2))
    assert torch.equal(logits("org/name@main"), logits(run))


def test_a_download_that_cannot_be_made_says_so(run, hub):
    push(run, "org/name")
    hub.failures.append(Failure("GET /api/models/org/name", times=99))
    with pytest.raises(HeftError, match=r"adapter org/name: the Hub \(.*\) answered with status 503, 4 times; connect"):
        heft.load("org/name@main")


def test_a_changed_file_on_the_hub_is_named(run, hub):
    push(run, "org/name")
    files = hub.files("org/name")
    files["fine/adapter_config.json"] += b" "
    with pytest.raises(HeftError, match="is not what was written: its SHA-256 differs"):
        heft.load("org/name@main")


def test_only_files_of_adapters_are_downloaded(run, hub, tmp_path):
    push(run, "org/name")
    hub.files("org/name")["evil.py"] = b"raise SystemExit"
    hub.files("org/name")["fine/model.bin"] = b"pickle"
    heft.load("org/name@main")
    found = {path.name for path in (tmp_path / "heft").rglob("*") if path.is_file()}
    assert found == {"heft.json", "adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.long
def test_the_command_line_in_a_process_of_its_own_pushes_and_loads(run, hub, tmp_path):
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        **{
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": "hf_ann",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
        },
        **{"HEFT_CACHE": str(tmp_path / "heft"), "OMP_NUM_THREADS": "1"},
    }
    command = [sys.executable, "-c", "from heft.cli import main; main()"]
    words = ["push", str(run), "org/name", "--license", "mit", "--json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["commit"] == hub.repositories["org/name"].branches["main"]
    card = ModelCard(hub.files("org/name")["README.md"].decode())
    assert card.data.license == "mit"
    shown = subprocess.run(
        [*command, "eval", f"org/name@{document['commit']}", "--limit", "2"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert shown.returncode == 0, shown.stderr
