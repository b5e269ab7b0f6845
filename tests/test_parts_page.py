"""The Python blocks of the page on parts run, one after the other, and so do the tests in them."""

import re

import torch
from helpers import ROOT

PAGE = ROOT / "docs" / "parts.md"


def test_blocks_of_the_page_run():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 1
    for test in tests:
        test()
    machine, letters = namespace["machine"], namespace["letters"]
    assert machine.bound(letters).bound.shape == (4,)
    retrieval = machine.write(letters).query(letters, num_steps=2)
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    assert torch.isfinite(retrieval.energy).all()
