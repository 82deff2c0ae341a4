"""Whole reports: adapters that are right, what does not apply to them, and reports that survive what is broken."""

import json

import pytest
import torch
from verify_recipes import RECIPES

from heft.adapters.attach import overview
from heft.errors import HeftError
from heft.verify.finding import DOES_NOT_APPLY, FAILED, OK
from heft.verify.subject import open_subject
from heft.verify.verifier import CHECKS, findings_of, heading, verify

NOT_APPLYING = {
    "last": set(),
    "both ends": {"reuse in training"},
    "all": {"reuse in training"},
    "upper": set(),
    "joint": {"reuse in training"},
    "dora": set(),
    "lora": {"reuse in training"},
    "positions": {"merged against unmerged"},
    "bfloat16": set(),
}


@pytest.mark.parametrize(
    "name", [*(each for each in RECIPES if each != "dora"), pytest.param("dora", marks=pytest.mark.long)]
)
def test_a_trained_adapter_equals_itself_in_every_way_that_applies(adapters, name):
    report = verify(adapters(name), rows=3)
    assert [f for f in report.findings if f.state == FAILED] == []
    assert {f.check for f in report.findings if f.state == DOES_NOT_APPLY} == NOT_APPLYING[name]
    assert report.ok
    assert report.subject.effect > 10 * report.subject.rounding.logits  # else the checks above show nothing
    checks = {f.check for f in report.findings}
    assert {"saved against loaded", "batch against single", "left against right padding"} <= checks
    assert {f"{e.name} in plain PEFT" for e in report.subject.manifest.adapters if e.method == "lora"} <= checks


def test_every_finding_says_what_was_compared_by_how_much_and_why_that_is_right(adapters):
    for finding in verify(adapters("last"), rows=2).findings:
        assert finding.state == OK
        assert finding.compared
        assert finding.why
        first, second, third = finding.lines()
        assert first.startswith(f"ok     {finding.check}: ")
        assert f"{finding.difference:.3g}" in first
        assert finding.compared in second
        assert f"{finding.tolerance:.3g}: {finding.why}" in third


def test_the_checks_leave_the_model_as_they_found_it(subject):
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    list(findings_of(subject))
    after = subject.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(subject.logits_now(), subject.logits)
    assert [row.state for row in overview(subject.model)] == ["frozen, active"] * 3
    assert all(p.grad is None for p in subject.model.parameters())


def test_a_check_that_ends_in_an_error_has_failed_and_the_others_go_on(subject, monkeypatch):
    def broken(subject):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(CHECKS, "batch against single", broken)
    findings = list(findings_of(subject))
    failed = [f for f in findings if f.state == FAILED]
    assert [f.check for f in failed] == ["batch against single"]
    assert "RuntimeError: no such kernel" in "\n".join(failed[0].lines())
    assert len(findings) > 10


def test_a_model_that_gives_no_numbers_passes_nothing_and_the_report_is_still_json(subject):
    next(subject.model.get_decoder().parameters()).data.fill_(float("nan"))
    findings = [f for f in findings_of(subject) if f.quantity in ("logits", "log-likelihoods", "losses")]
    assert {f.state for f in findings} == {FAILED}
    assert "NaN" not in json.dumps([f.to_dict() for f in findings], allow_nan=False)


def test_the_heading_warns_where_an_effect_could_hide_in_rounding(subject):
    from dataclasses import replace

    assert not any("misplaced edits might pass" in line for line in heading(subject))
    weak = replace(subject, logits=subject.base_logits + 5 * subject.rounding.logits)
    assert any("misplaced edits might pass" in line for line in heading(weak))


def test_one_row_is_refused(adapters):
    with pytest.raises(HeftError, match="at least 2"):
        open_subject(adapters("last"), rows=1)
