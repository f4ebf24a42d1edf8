"""mlx_lm's model files load without transformers, and the whole package is there when asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.toy_model import write_model


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_generating_imports_none_of_the_heavy_packages(tmp_path: Path) -> None:
    """From load to the last token: mlx, tokenizers, jinja2 and mlx_lm's model file are enough."""
    path = write_model(tmp_path / "toy")
    out = run(
        "import sys\n"
        "from mlxrag.model.load import load\n"
        "from mlxrag.model.generate import stream\n"
        "from mlxrag.settings import Sampling\n"
        f"model = load({str(path)!r})\n"
        "ids = model.tokenizer.prompt([{'role': 'user', 'content': 'hello'}])\n"
        "print(len(list(stream(model, ids, Sampling(max_tokens=3)))))\n"
        "heavy = ('transformers', 'numpy', 'rich', 'pydantic', 'mlx_lm.utils', 'huggingface_hub', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    assert out.splitlines()[1] == "[]"


def test_the_real_package_appears_when_a_name_of_it_is_asked_for() -> None:
    """`from mlx_lm import load` works after us, and is mlx_lm's own."""
    out = run(
        "import warnings; warnings.simplefilter('ignore')\n"
        "import mlxrag.model, mlx_lm.models.llama, sys\n"
        "print('transformers' in sys.modules)\n"
        "from mlx_lm import load\n"
        "import mlx_lm, mlx_lm.utils\n"
        "print(load is mlx_lm.utils.load, mlx_lm.__version__[0], type(mlx_lm).__name__)\n"
    )
    assert out.splitlines() == ["False", "True 0 module"]


def test_a_package_that_was_imported_first_is_left_alone() -> None:
    """Who imports mlx_lm before us has the real one."""
    out = run(
        "import warnings; warnings.simplefilter('ignore')\n"
        "import mlx_lm\nbefore = mlx_lm.load\nimport mlxrag.model\nimport sys\n"
        "print(sys.modules['mlx_lm'] is mlx_lm, mlx_lm.load is before)\n"
    )
    assert out.strip() == "True True"
