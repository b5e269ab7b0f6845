"""The Python blocks of the README run, one after the other."""

import re

from helpers import ROOT

README = ROOT / "README.md"


def test_readme_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 5
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["retrieval"].energy.shape == (11, 1, 32)
    assert (namespace["retrieval"].energy.diff(dim=0) <= 0).all()
    assert namespace["draws"].patterns.shape == (40, 1, 32, 1, 28, 28)
    assert namespace["sparse"].write(namespace["patterns"]).read(namespace["patterns"]).isfinite().all()


def test_readme_has_two_commands():
    assert len(re.findall(r"```bash\n.*?```", README.read_text(), re.DOTALL)) == 2
